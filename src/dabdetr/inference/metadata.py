"""The metadata of exported files: classes, preprocessing, thresholds, config, certificate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dabdetr.config import Config, parse
from dabdetr.data.preprocessing import SHORTEST
from dabdetr.inference.outputs import ANSWERS, POSTS, QUESTIONS
from dabdetr.text import parse_json, parse_names, shown

FORMAT = "dabdetr export 1"
"""The value of "format" that marks metadata of dabdetr."""
MOST_SIDE = 1 << 16
"""Largest side of a fixed input in pixels."""
INPUTS = {
    "pixels": "[batch, 3, height, width] float32: the images, as preprocessing says",
    "padding": "[batch, height, width] bool, true where a smaller image of the batch is filled up "
    "with 0; in ONNX it can be left out where nothing is filled up",
    "sizes": "[batch, 2] int64: height, width of each original image, in whose pixels boxes come; "
    "where they are 0, and in ONNX where it is left out, boxes come in pixels of the resized image",
    "questions": "[batch, questions, 4] float32: boxes that are asked about, as centre x, "
    "centre y, width, height in shares (0-1) of the resized image without its padding, 0 or more "
    "of each image; in ONNX it can be left out where there are none",
    "question_labels": "[batch, questions] int64: the class each is thought to hold, index into "
    "names; -1: not known; in ONNX it can be left out together with questions",
}
"""Input of a graph, by its name in this package → its description in the file."""


@dataclass(frozen=True)
class Metadata:
    """The metadata of an exported file.

    runtime      name of its format (``dabdetr.export.formats``)
    precision    precision that it computes in
    size         (height, width) of the input where that is fixed; None: any
    padding      whether the graph has an input for the padding mask
    post         kind of outputs (``dabdetr.inference.outputs.POSTS``)
    top          number of detections per image that the graph outputs; None: all queries
    questions    whether the graph has inputs for boxes that are asked about, and their answers
    versions     package → version, of the packages that made it; ``opset`` for ONNX
    certificate  differences of its detections from torch's (see ``dabdetr.export.certificate``)
    """

    runtime: str
    names: tuple[str, ...]
    config: Config
    precision: str = "fp32"
    size: tuple[int, int] | None = None
    padding: bool = True
    post: str = "none"
    top: int | None = None
    questions: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)
    certificate: Mapping[str, Any] | None = None

    @cached_property
    def classifier(self) -> Any:
        """How logits become scores: sigmoid or softmax."""
        return self.config.classifier

    @property
    def inputs(self) -> dict[str, str]:
        """Inputs in the graph's order: name in this package → name in the file."""
        possible = POSTS[self.post].inputs
        inputs = {key: name for key, name in possible.items() if key != "padding" or self.padding}
        return inputs | QUESTIONS if self.questions else inputs

    @property
    def outputs(self) -> dict[str, str]:
        """Outputs in the graph's order: name → description."""
        outputs = POSTS[self.post].outputs
        return outputs | ANSWERS if self.questions else outputs

    def to_strings(self) -> dict[str, str]:
        """One string per key: text, or JSON for other values."""
        values = {
            "names": self.names,
            "preprocessing": preprocessing(self),
            "reading": reading(self),
            "thresholds": self.config.inference.model_dump(mode="json"),
            "size": self.size,
            "padding": self.padding,
            "top": self.top,
            "questions": self.questions,
            "inputs": {name: INPUTS[key] for key, name in self.inputs.items()},
            "outputs": self.outputs,
            "config": self.config.model_dump(mode="json"),
            "versions": dict(self.versions),
            "certificate": self.certificate,
        }
        texts = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
        return {
            "format": FORMAT,
            "runtime": self.runtime,
            "precision": self.precision,
            "post": self.post,
            "classifier": self.classifier,
            **texts,
        }

    @classmethod
    def from_strings(cls, values: Mapping[str, str], origin: str) -> Metadata:
        """The metadata that ``to_strings`` wrote; ``origin`` names the file in errors."""
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            raise ValueError(
                f"{origin} is not an export of dabdetr (its metadata have no format {FORMAT!r}); "
                "make one with dabdetr export"
            )
        texts = _DEFAULTS | dict(values)
        for key in _KEYS:
            if not isinstance(texts.get(key), str):
                raise ValueError(f"the metadata of {origin} have no {key}; export the model again")
        label = {key: f"{key} in the metadata of {origin}" for key in _KEYS}
        parsed = {
            key: parse_json(texts[key], label[key])
            for key in ("config", "size", "padding", "top", "questions", "versions", "certificate")
        }
        for key in ("versions", "certificate"):
            value = parsed[key]
            if not isinstance(value, dict) and not (key == "certificate" and value is None):
                raise ValueError(f"{label[key]} should be a mapping; got {shown(value)}")
        if texts["post"] not in POSTS:
            raise ValueError(
                f"{label['post']} should be one of {', '.join(POSTS)}; got {shown(texts['post'])}"
            )
        for key in ("padding", "questions"):
            if not isinstance(parsed[key], bool):
                raise ValueError(f"{label[key]} should be true or false; got {shown(parsed[key])}")
        top = parsed["top"]
        if top is not None and (type(top) is not int or top < 1):
            raise ValueError(f"{label['top']} should be null or at least 1; got {shown(top)}")
        return cls(
            runtime=texts["runtime"],
            names=parse_names(texts["names"], label["names"]),
            config=parse(parsed["config"], f"{origin} (its config)"),
            precision=texts["precision"],
            size=_size(parsed["size"], label["size"]),
            padding=parsed["padding"],
            post=texts["post"],
            top=top,
            questions=parsed["questions"],
            versions=parsed["versions"],
            certificate=parsed["certificate"],
        )


def preprocessing(metadata: Metadata) -> dict[str, Any]:
    """Preprocessing as numbers, and as steps in words for readers who have only the file."""
    image = metadata.config.image
    steps = ["decode to 8-bit RGB, turned upright as its EXIF orientation says"]
    least, most = min(SHORTEST, image.size), image.max_size
    if metadata.size is None:
        steps.append(
            f"resize: with a and b the shorter and the longer side, the new shorter side is "
            f"s = {image.size}, or s = round({most} * a / b) where b / a * {image.size} > {most}; "
            f"the new longer side is min(floor(s * b / a), {most}); where s < {least} the new "
            f"sides are {least} and {most}"
        )
    elif metadata.padding:
        height, width = metadata.size
        steps.append(
            f"resize: with f = min({height} / height, {width} / width) the new sides are "
            "round(f * height) and round(f * width), at least 1 each; put the image at the top "
            f"left of {height} x {width} (height x width)"
        )
    else:
        height, width = metadata.size
        steps.append(f"resize: stretch to height {height} and width {width}")
    steps += [
        "round half to even; the filter is bilinear with antialiasing: where it shrinks, each new "
        "pixel is the triangle-weighted mean of all it covers (Pillow's BILINEAR), rounded to 8 "
        "bits",
        f"normalise each channel: (value / 255 - mean) / std, with mean {list(image.mean)} and "
        f"std {list(image.std)} for R, G, B",
        "order the axes as [batch, channel, height, width], float32",
    ]
    if metadata.padding:
        steps.append(
            "put images of several sizes into one batch at the top left, filled up with 0 at the "
            "right and below, and set padding to true there"
        )
    elif metadata.size is None:
        steps.append("put images of one resized size into a batch; others go one by one")
    numbers = image.model_dump(mode="json")
    return numbers | {"resize": "bilinear, antialiased", "colour": "RGB", "steps": steps}


def reading(metadata: Metadata) -> list[str]:
    """Postprocessing as steps in words, for readers who have only the file."""
    inference = metadata.config.inference
    steps = list(_READING[metadata.post, metadata.classifier])
    if inference.calibration is not None and metadata.post == "none":
        scale, shift = inference.calibration
        steps.append(f"calibrate: score = sigmoid({scale} * ln(score / (1 - score)) + {shift})")
    if metadata.post == "none":
        steps += [
            f"keep the {inference.max_det} best",
            _TO_PIXELS,
        ]
    if metadata.classifier == "sigmoid" and not POSTS[metadata.post].single:
        steps.append("of detections of one query keep the best")
    single = "".join(f"; {name}: {least}" for name, least in inference.class_conf.items())
    steps.append(f"keep scores of at least {inference.conf}{single}")
    if inference.nms is not None:
        steps.append(f"of boxes of one class with an IoU above {inference.nms} keep the best")
    if metadata.questions:
        steps.append("answers are read as logits are, with the last of answer_boxes as boxes")
    return [*steps, "cut boxes to the image"]


_TO_PIXELS = (
    "boxes: x0 = (cx - w / 2) * W, y0 = (cy - h / 2) * H, x1 = (cx + w / 2) * W, "
    "y1 = (cy + h / 2) * H, with W and H the width and height of the original image"
)
_SOFTMAX_LOGITS = (
    "each query's class is that of its largest logit, and its score softmax over the last axis of "
    "logits; a query whose class is none of names found nothing",
    _TO_PIXELS,
)
_RANKED_BOXES = ("boxes, scores and labels are ranked, best first, and calibrated",)
_READING = {
    ("none", "sigmoid"): (
        "score of query q for class c = 1 / (1 + exp(-logits[q, c])); each pair of query and class "
        "is a candidate with boxes[q]",
    ),
    ("none", "softmax"): (
        "softmax over the last axis of logits; its last entry means no object and is left out; "
        "each query is one candidate: its best class with boxes[q]",
    ),
    ("boxes", "sigmoid"): _RANKED_BOXES,
    ("boxes", "softmax"): _RANKED_BOXES,
    ("pipeline", "sigmoid"): _SOFTMAX_LOGITS,
    ("pipeline", "softmax"): _SOFTMAX_LOGITS,
}
_DEFAULTS = {"padding": "true", "post": "none", "top": "null", "questions": "false"}
"""Values for keys that files of earlier versions do not have."""
_KEYS = (
    *("runtime", "names", "config", "precision", "size", "versions", "certificate"),
    *_DEFAULTS,
)


def _size(value: Any, what: str) -> tuple[int, int] | None:
    """(height, width), or None."""
    if value is None:
        return None
    sides = value if isinstance(value, list) else []
    if len(sides) != 2 or any(type(side) is not int or not 0 < side <= MOST_SIDE for side in sides):
        raise ValueError(f"{what} should be null or [height, width]; got {shown(value)}")
    return sides[0], sides[1]
