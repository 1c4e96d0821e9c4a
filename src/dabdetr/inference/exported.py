"""What computes behind a ``Predictor``: torch, ONNX Runtime or OpenVINO.

Nothing here imports torch, except to run a ``.pt2`` file.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from dabdetr.config import Config
from dabdetr.data.preprocessing import fitted_size, input_size, prepare_array
from dabdetr.files import open_regular
from dabdetr.inference.metadata import Card
from dabdetr.inference.onnx_file import read_whole
from dabdetr.inference.postprocess import detections
from dabdetr.structures import Detections
from dabdetr.text import parse_json

Precision = Literal["fp32", "bf16", "fp16"]
SetPrecision = Precision | Literal["auto"]
"""As asked for; auto: bf16 where it is measured to be clearly faster, else fp32."""
Compile = bool | Literal["auto"]
"""auto: for sizes that come so often that it pays."""
Sizes = Sequence[tuple[int, ...]]
"""(height, width) of original images."""


class Runtime(Protocol):
    """What a ``Predictor`` needs of a model."""

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, in label order."""
        ...

    @property
    def config(self) -> Config:
        """What the model was built and trained with."""
        ...

    @property
    def read_ahead(self) -> bool:
        """Whether a stream is faster with its images read in a thread beside ``detect``."""
        ...

    def prepare(self, image: np.ndarray) -> Any:
        """RGB uint8 [height, width, 3] as ``detect`` takes it; it has a ``shape``."""
        ...

    def detect(
        self, prepared: Sequence[Any], sizes: Sizes, max_det: int, sources: Sequence[str] = ()
    ) -> list[Detections]:
        """The ``max_det`` best detections of each image, neither thresholded nor cut to it."""
        ...


def open_runtime(
    model: Any,
    device: Any = "auto",
    precision: SetPrecision = "fp32",
    queries: int | None = None,
    queries_init: str = "keep",
    compile: Compile = False,
) -> Runtime:
    """The runtime of an exported file, or of weights or a ``Detector``, which needs torch."""
    if isinstance(model, str | Path) and is_exported(model):
        if (precision, queries, queries_init, compile) != ("fp32", None, "keep", False):
            raise ValueError(
                f"{model} is exported: its precision and its queries are settled; export the "
                "weights again as you want them"
            )
        return Exported(model, str(device))
    from dabdetr.inference.torch_runtime import TorchRuntime

    return TorchRuntime(model, device, precision, queries, queries_init, compile)


def is_exported(source: str | Path) -> bool:
    """Whether a path means an exported model: .onnx, .pt2, OpenVINO's .xml or folder."""
    path = Path(source)
    if path.is_dir():
        return (path / "model.xml").is_file()
    return path.suffix in (".onnx", ".pt2", ".xml")


class Exported:
    """An exported file: Pillow and numpy before and after, its own runtime between.

    ``card`` is what the file says of itself.
    """

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        path = Path(path)
        path = path / "model.xml" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"there is no exported model {path}; check the path")
        start = {".onnx": _Onnx, ".xml": _OpenVino, ".pt2": _Program}[path.suffix]
        self._run = start(path, device)
        self.card = Card.of_strings(self._run.told, str(path))
        self._run.start(self.card)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, in label order."""
        return self.card.names

    @property
    def config(self) -> Config:
        """What the model was built and trained with."""
        return self.card.config

    @property
    def read_ahead(self) -> bool:
        """Whether a stream is faster with its images read in a thread beside ``detect``."""
        return self._run.read_ahead

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """[3, height, width] float32; as large as it fits in where the input's size is fixed."""
        return prepare_for(self.card, image)

    def detect(
        self,
        prepared: Sequence[np.ndarray],
        sizes: Sizes,
        max_det: int,
        sources: Sequence[str] = (),
    ) -> list[Detections]:
        """The ``max_det`` best detections of each prepared image."""
        logits, boxes = self.answer(*padded(prepared, self.card.size))
        plain = [(int(size[0]), int(size[1])) for size in sizes]
        return detections(logits, boxes, plain, max_det, self.names, self.card.classifier, sources)

    def answer(self, pixels: np.ndarray, padding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The raw logits and boxes of a batch."""
        return self._run(pixels, padding)


def prepare_for(card: Card, image: np.ndarray) -> np.ndarray:
    """``Exported.prepare`` for the file of a ``card``."""
    height, width = image.shape[:2]
    if card.size is None:
        size = input_size(height, width, card.config.image)
    else:
        size = fitted_size(height, width, card.size)
    return prepare_array(image, size, card.config.image)


def padded(
    prepared: Sequence[np.ndarray], frame: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One array of all images and their padding (True), at the bottom and right.

    As large as ``frame`` (height, width), or as the largest of them needs.
    """
    height, width = frame or (max(each.shape[axis] for each in prepared) for axis in (1, 2))
    pixels = np.zeros((len(prepared), 3, height, width), np.float32)
    padding = np.ones((len(prepared), height, width), bool)
    for row, each in enumerate(prepared):
        _, h, w = each.shape
        pixels[row, :, :h, :w] = each
        padding[row, :h, :w] = False
    return pixels, padding


def threads() -> int:
    """How many to compute in: what OMP_NUM_THREADS says, as for torch; 0: the library decides."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdecimal() else 0


def _missing(package: str, path: Path) -> ImportError:
    return ImportError(
        f"{path} needs the package {package}; type: pip install {package}, or all that exports "
        "need: pip install 'dabdetr[export]'"
    )


class _Onnx:
    """A session of ONNX Runtime; on CUDA where that is asked for, or there and not refused."""

    read_ahead = True

    def __init__(self, path: Path, device: str) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise _missing("onnxruntime", path) from None
        cuda, there = "CUDAExecutionProvider", onnxruntime.get_available_providers()
        if device not in ("auto", "cpu", "cuda") or (device == "cuda" and cuda not in there):
            raise ValueError(f"ONNX Runtime has no device {device!r} here; use auto or cpu")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads()
        options.log_severity_level = 3  # errors only
        providers = [cuda] if cuda in there and device != "cpu" else []
        content = read_whole(path)
        try:
            self.session = onnxruntime.InferenceSession(
                content, options, [*providers, "CPUExecutionProvider"]
            )
        except Exception as error:  # of a class of its own for every kind of failure
            raise ValueError(
                f"{path} cannot be loaded by ONNX Runtime ({_first_line(error)}); export it again"
            ) from None
        self.told = self.session.get_modelmeta().custom_metadata_map

    def start(self, card: Card) -> None:
        """Nothing is left to do."""

    def __call__(self, pixels: np.ndarray, padding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.session.run(["logits", "boxes"], {"pixels": pixels, "padding": padding})  # pyright: ignore[reportReturnType]


class _OpenVino:
    """A compiled model of OpenVINO on the CPU, in the precision that the card says."""

    read_ahead = True

    def __init__(self, path: Path, device: str) -> None:
        try:
            import openvino
        except ImportError:
            raise _missing("openvino", path) from None
        if device not in ("auto", "cpu"):
            raise ValueError(f"exports for OpenVINO run on the CPU; got device {device!r}")
        with open_regular(path) as file:
            if not file.read(64).lstrip().startswith(b"<"):
                raise ValueError(f"{path} is no model of OpenVINO, which is XML; export it again")
        self.core = openvino.Core()
        try:
            self.model = self.core.read_model(path)
        except RuntimeError as error:
            raise ValueError(
                f"{path} cannot be loaded by OpenVINO ({_first_line(error)}); export it again"
            ) from None
        about = ["dabdetr", "card"]
        has = self.model.has_rt_info(about)
        self.told = json.loads(self.model.get_rt_info(about).astype(str)) if has else {}

    def start(self, card: Card) -> None:
        """Note what to compile for; OpenVINO alone would compute in bf16 wherever it can.

        What is not in int8 is in bf16 there: both are for processors that have both.
        """
        kind = "bf16" if card.precision in ("bf16", "int8") else "f32"
        self.options = {"INFERENCE_PRECISION_HINT": kind}
        if threads():
            self.options["INFERENCE_NUM_THREADS"] = str(threads())
        self.size = card.size
        self.compiled: dict[tuple[int, ...] | None, Any] = {}

    def _for(self, shape: tuple[int, ...]) -> Any:
        """The model compiled for one image of the fixed size (5 to 15 % faster), or for any."""
        key = shape if self.size is not None and shape[0] == 1 else None
        if key not in self.compiled:
            model = self.model
            if key is not None:
                model = model.clone()
                model.reshape({"pixels": list(key), "padding": [key[0], *key[2:]]})
            self.compiled[key] = self.core.compile_model(model, "CPU", self.options)
        return self.compiled[key]

    def __call__(self, pixels: np.ndarray, padding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        answer = self._for(pixels.shape)({"pixels": pixels, "padding": padding})
        return answer["logits"], answer["boxes"]


class _Program:
    """A program of torch.export; torch is imported for it, but not to load it."""

    def __init__(self, path: Path, device: str) -> None:
        from dabdetr.inference.program import Program

        if device not in ("auto", "cpu"):
            raise ValueError(f"exported programs of torch run on the CPU; got device {device!r}")
        self.program = Program(path)
        self.told = parse_json(self.program.texts.get("card.json", "{}"), f"metadata of {path}")

    @property
    def read_ahead(self) -> bool:
        """Not where torch takes every core."""
        from dabdetr.inference.device import takes_every_core

        return not takes_every_core("cpu")

    def start(self, card: Card) -> None:
        """Nothing is left to do."""

    def __call__(self, pixels: np.ndarray, padding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch

        logits, boxes = self.program(torch.from_numpy(pixels), torch.from_numpy(padding))
        return logits.float().numpy(), boxes.float().numpy()


def runnable(program: Any) -> Any:
    """The module of an exported program of torch, for any batch and size.

    Without the guards that newer versions of torch take from the example's batch and strides: they
    turn away a single image.
    """
    guarded = "check_guards" in inspect.signature(program.module).parameters
    return program.module(check_guards=False) if guarded else program.module()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
