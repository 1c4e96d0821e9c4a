"""The metadata of exported files: classes, preprocessing, thresholds, config, certificate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dabdetr.config import Config, parse
from dabdetr.text import parse_json, parse_names, shown

FORMAT = "dabdetr export 1"
"""Marks our metadata; other files have no such entry."""
MOST_SIDE = 1 << 16
"""Pixels of a side that a file may ask for."""
INPUTS = {
    "pixels": "[batch, 3, height, width] float32, RGB, (value / 255 - mean) / std, padded with 0",
    "padding": "[batch, height, width] bool, true where there is no image",
}
OUTPUTS = {
    "logits": "[batch, queries, classes]; sigmoid gives scores (softmax: the last is no object)",
    "boxes": "[batch, queries, 4] float32, centre x, centre y, width, height, 0-1 of the image",
}


@dataclass(frozen=True)
class Metadata:
    """What an exported file holds beside its graph.

    runtime      the name of its format (``dabdetr.export.formats``)
    precision    what it computes in
    size         (height, width) of the input where that is fixed; None: any
    versions     package → version, of those that made it; ``opset`` for ONNX
    certificate  how far its detections lie from torch's (see ``dabdetr.export.certificate``)
    """

    runtime: str
    names: tuple[str, ...]
    config: Config
    precision: str = "fp32"
    size: tuple[int, int] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    certificate: Mapping[str, Any] | None = None

    @cached_property
    def classifier(self) -> Any:
        """How logits become scores: sigmoid or softmax."""
        return self.config.classifier

    def to_strings(self) -> dict[str, str]:
        """One string a key: text, or JSON where it is more than that."""
        image, inference = self.config.image, self.config.inference
        values = {
            "names": self.names,
            "preprocessing": image.model_dump(mode="json") | {"resize": "bilinear, antialiased"},
            "thresholds": inference.model_dump(mode="json"),
            "size": self.size,
            "inputs": INPUTS,
            "outputs": OUTPUTS,
            "config": self.config.model_dump(mode="json"),
            "versions": dict(self.versions),
            "certificate": self.certificate,
        }
        texts = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
        return {
            "format": FORMAT,
            "runtime": self.runtime,
            "precision": self.precision,
            "classifier": self.classifier,
            **texts,
        }

    @classmethod
    def from_strings(cls, values: Mapping[str, str], origin: str) -> Metadata:
        """What ``to_strings`` wrote; ``origin`` names the file in errors."""
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            raise ValueError(
                f"{origin} is no export of dabdetr (its metadata have no format {FORMAT!r}); make "
                "one with dabdetr export"
            )
        given = {key: _string(values, key, origin) for key in _KEYS}
        what = {key: f"{key} in the metadata of {origin}" for key in _KEYS}
        read = {
            key: parse_json(given[key], what[key])
            for key in ("config", "size", "versions", "certificate")
        }
        for key in ("versions", "certificate"):
            if not isinstance(read[key], dict) and not (key == "certificate" and read[key] is None):
                raise ValueError(f"{what[key]} should be a mapping; got {shown(read[key])}")
        return cls(
            runtime=given["runtime"],
            names=parse_names(given["names"], what["names"]),
            config=parse(read["config"], f"{origin} (its config)"),
            precision=given["precision"],
            size=_size(read["size"], what["size"]),
            versions=read["versions"],
            certificate=read["certificate"],
        )


_KEYS = ("runtime", "names", "config", "precision", "size", "versions", "certificate")


def _string(values: Mapping[str, str], key: str, origin: str) -> str:
    text = values.get(key)
    if not isinstance(text, str):
        raise ValueError(f"the metadata of {origin} have no {key}; export the model again")
    return text


def _size(value: Any, what: str) -> tuple[int, int] | None:
    """(height, width), or None."""
    if value is None:
        return None
    sides = value if isinstance(value, list) else []
    if len(sides) != 2 or any(type(side) is not int or not 0 < side <= MOST_SIDE for side in sides):
        raise ValueError(f"{what} should be null or [height, width]; got {shown(value)}")
    return sides[0], sides[1]
