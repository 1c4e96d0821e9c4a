"""KServe's inference protocol, version 2, for the clients of Triton and KServe.

Source: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and
Triton's extension for binary tensors.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response

import dabdetr
from dabdetr.serve.requests import check_count, from_base64
from dabdetr.structures import Detections
from dabdetr.text import shown

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Header with the number of bytes of JSON in a body; binary tensors follow them."""
VERSION = "1"
INPUTS = [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
OUTPUTS = [
    {"name": "boxes", "datatype": "FP32", "shape": [-1, 4]},
    {"name": "scores", "datatype": "FP32", "shape": [-1]},
    {"name": "labels", "datatype": "INT64", "shape": [-1]},
    {"name": "images", "datatype": "INT64", "shape": [-1]},
    {"name": "names", "datatype": "BYTES", "shape": [-1]},
]
_MALFORMED = (
    *(KeyError, TypeError, AttributeError, RecursionError, OverflowError),
    *(json.JSONDecodeError, UnicodeDecodeError),
)
_OPTIONS = ("conf", "max_det", "classes", "nms", "multi_label")


@dataclass(frozen=True)
class Asked:
    """A request for inference.

    images   image files, or arrays [height, width, 3] of uint8
    options  of the call of a ``Predictor``
    outputs  name of each requested output → whether it is requested in binary form
    """

    id: str | None
    images: list[Any]
    options: dict[str, Any]
    outputs: dict[str, bool]


def add_routes(app: FastAPI, name: str, infer: Callable[[Request], Awaitable[Response]]) -> None:
    """Add the protocol's routes for the model ``name``."""

    @app.get("/v2")
    def server() -> dict[str, Any]:
        """Name, version and extensions of the server."""
        extensions = ["binary_tensor_data"]
        return {"name": "dabdetr", "version": dabdetr.__version__, "extensions": extensions}

    @app.get("/v2/health/live")
    def live() -> dict[str, bool]:
        """The server runs."""
        return {"live": True}

    @app.get("/v2/health/ready")
    def ready() -> dict[str, bool]:
        """Its model is loaded."""
        return {"ready": True}

    def check(model: str, version: str = VERSION) -> None:
        if model != name or version != VERSION:
            raise HTTPException(404, f"there is {name}, version {VERSION}, and no other model")

    for place in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):

        @app.get(place)
        def metadata(model: str, version: str = VERSION) -> dict[str, Any]:
            """Inputs and outputs of the model."""
            check(model, version)
            tensors = {"inputs": INPUTS, "outputs": OUTPUTS}
            return {"name": name, "versions": [VERSION], "platform": "dabdetr", **tensors}

        @app.get(place + "/ready")
        def model_ready(model: str, version: str = VERSION) -> dict[str, Any]:
            """The model is loaded."""
            check(model, version)
            return {"name": name, "ready": True}

        @app.post(place + "/infer")
        async def answer(request: Request, model: str, version: str = VERSION) -> Response:
            """Objects in images: image files as BYTES, or one image's pixels as UINT8."""
            check(model, version)
            return await infer(request)


def read_request(content: bytes, header: str | None) -> Asked:
    """The request in a body; ``header`` is the value of HEADER_LENGTH. ValueError if malformed."""
    length = len(content)
    if header is not None:
        if not header.isdecimal() or int(header) > length:
            raise ValueError(f"{HEADER_LENGTH} should be at most {length}; got {header!r}")
        length = int(header)
    try:
        document = json.loads(content[:length])
        inputs, rest = document["inputs"], content[length:]
        images: list[Any] = []
        for tensor in inputs:
            found, rest = _images(tensor, rest)
            images += found
            check_count(len(images))
        settings = document.get("parameters") or {}
        options = {key: settings[key] for key in _OPTIONS if key in settings}
        every_binary = bool(settings.get("binary_data_output"))
        known = [str(each["name"]) for each in OUTPUTS]
        outputs = dict.fromkeys(known, every_binary)
        if document.get("outputs"):
            outputs = {
                str(each["name"]): bool(
                    (each.get("parameters") or {}).get("binary_data", every_binary)
                )
                for each in document["outputs"]
            }
        id_ = document.get("id")
    except _MALFORMED as error:
        raise ValueError(
            "the body should be a JSON object with inputs, each with name, shape, datatype and "
            f"data; {type(error).__name__}: {error}"
        ) from None
    if unknown := [each for each in outputs if each not in known]:
        raise ValueError(f"there is no output {unknown[0]!r}; there are {', '.join(known)}")
    if not isinstance(id_, str | None):
        raise ValueError(f"id should be text; got {shown(id_)}")
    if not images:
        raise ValueError("no image came: the input image is empty")
    return Asked(id_, images, _checked(options), outputs)


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    kinds = {"conf": (int, float), "nms": (int, float), "max_det": int, "multi_label": bool}
    for key, kind in kinds.items():
        if key in options and (
            not isinstance(options[key], kind) or (kind is not bool and options[key] is True)
        ):
            raise ValueError(f"the parameter {key} is {options[key]!r}, of the wrong type")
    if isinstance(options.get("classes"), str):  # parameters of some clients hold no lists
        options["classes"] = [each.strip() for each in options["classes"].split(",")]
    return options


def _images(tensor: dict[str, Any], rest: bytes) -> tuple[list[Any], bytes]:
    """The images of one input, and the rest of the binary part after its data."""
    name, kind, shape = tensor["name"], tensor["datatype"], [int(n) for n in tensor["shape"]]
    if name != "image":
        raise ValueError(f"there is no input {name!r}; there is image")
    size = (tensor.get("parameters") or {}).get("binary_data_size")
    own = None
    if size is not None:
        if type(size) is not int or size < 0:
            raise ValueError(f"binary_data_size should be a number of bytes; got {shown(size)}")
        own, rest = rest[:size], rest[size:]
        if len(own) < size:
            raise ValueError(f"{size} bytes of image were announced; {len(own)} came")
    if kind == "BYTES":
        fault = "BYTES in JSON should be an image file in base64"
        files = (
            _split(own) if own is not None else [from_base64(each, fault) for each in _flat(tensor)]
        )
        return [BytesIO(each) for each in files], rest
    if kind != "UINT8" or len(shape) not in (3, 4) or shape[-1] != 3:
        raise ValueError(
            "the input image should be BYTES (image files) or UINT8 of shape [height, width, 3]; "
            f"got {kind} {shape}"
        )
    if own is None:
        values = np.array(tensor["data"], dtype=np.int64).reshape(-1)
        if len(values) and (values.min() < 0 or values.max() > 255):
            raise ValueError("values of a UINT8 tensor should be 0–255")
    else:
        values = np.frombuffer(own, np.uint8)
    if values.size != np.prod(shape):
        raise ValueError(f"shape {shape} has {np.prod(shape)} values; {values.size} came")
    pixels = values.astype(np.uint8).reshape(shape)
    return list(pixels if len(shape) == 4 else [pixels]), rest


def _flat(tensor: dict[str, Any]) -> list[Any]:
    """The elements of ``data``, which may be nested lists."""
    flat, nested = [], [tensor["data"]]
    while nested:
        each = nested.pop()
        if isinstance(each, list):
            nested += reversed(each)
        else:
            flat.append(each)
    check_count(len(flat))
    return flat


def _split(content: bytes) -> list[bytes]:
    """The elements of a binary BYTES tensor: four bytes with the length, then the content."""
    found, place = [], 0
    while place < len(content):
        check_count(len(found) + 1)
        (length,) = struct.unpack_from("<I", content.ljust(place + 4, b"\0"), place)
        found.append(content[place + 4 : place + 4 + length])
        if len(found[-1]) < length:
            raise ValueError(f"{length} bytes of an image were announced; {len(found[-1])} came")
        place += 4 + length
    return found


def write_answer(
    asked: Asked, found: Sequence[Detections], name: str
) -> tuple[bytes, dict[str, str]]:
    """The body of the answer and its headers; the rows of all images are concatenated."""
    counts = [len(each) for each in found]
    columns: dict[str, Any] = {
        "boxes": np.concatenate([each.boxes for each in found]).astype(np.float32),
        "scores": np.concatenate([each.scores for each in found]).astype(np.float32),
        "labels": np.concatenate([each.labels for each in found]).astype(np.int64),
        "images": np.repeat(np.arange(len(found), dtype=np.int64), counts),
        "names": [each.names[label] for each in found for label in each.labels],
    }
    kinds = {str(each["name"]): str(each["datatype"]) for each in OUTPUTS}
    outputs, parts = [], []
    for key, binary in asked.outputs.items():
        values = columns[key]
        shape = [len(values)] if kinds[key] == "BYTES" else list(values.shape)
        tensor: dict[str, Any] = {"name": key, "datatype": kinds[key], "shape": shape}
        if binary:
            content = _joined(values) if kinds[key] == "BYTES" else values.tobytes()
            tensor["parameters"] = {"binary_data_size": len(content)}
            parts.append(content)
        else:
            tensor["data"] = values if kinds[key] == "BYTES" else values.reshape(-1).tolist()
        outputs.append(tensor)
    document = {"model_name": name, "model_version": VERSION, "outputs": outputs}
    document |= {} if asked.id is None else {"id": asked.id}
    head = json.dumps(document).encode()
    if not parts:
        return head, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return head + b"".join(parts), headers


def _joined(words: Sequence[str]) -> bytes:
    encoded = [word.encode() for word in words]
    return b"".join(struct.pack("<I", len(each)) + each for each in encoded)
