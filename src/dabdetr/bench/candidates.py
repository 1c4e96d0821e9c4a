"""Who competes: every runtime and precision that a model can compute in."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dabdetr.export.formats import FORMATS as EXPORTS

_EXPORTED = {name: each for name, each in EXPORTS.items() if each.timed}
FORMATS = {"torch": "PyTorch"} | {name: each.title for name, each in _EXPORTED.items()}
"""What --formats calls them, and what people do."""
PRECISIONS = {"torch": ("fp32", "bf16")} | {name: each.timed for name, each in _EXPORTED.items()}
"""What is timed on a CPU."""


@dataclass(frozen=True)
class Contender:
    """A runtime in a precision; ``compiled`` by torch.compile."""

    format: str
    precision: str
    compiled: bool = False

    @property
    def name(self) -> str:
        """For tables."""
        ending = ", compiled" if self.compiled else ""
        return f"{FORMATS[self.format]} {self.precision}{ending}"

    @property
    def key(self) -> str:
        """For names of files."""
        return f"{self.format}-{self.precision}" + ("-compiled" if self.compiled else "")

    def export_options(self, model: str, calibration: str) -> list[str]:
        """The words after ``dabdetr`` that make its file; empty where weights are enough."""
        if self.format == "torch":
            return []
        precision = {
            "fp32": [],
            "fp16": ["--half"],
            "bf16": ["--bf16"],
            "int8": ["--int8", calibration],
        }[self.precision]
        return ["export", "--model", model, "--format", self.format, *precision]

    def commands(self, model: str, calibration: str) -> list[str]:
        """What to type to have it: the making of its file, if any, and the use of it."""
        use = ["dabdetr", "predict", "--model"]
        if self.format == "torch":
            options = ["--precision", self.precision] if self.precision != "fp32" else []
            options += ["--compile"] if self.compiled else []
            return [shlex.join([*use, model, *options, "IMAGES"])]
        file = f"{Path(model).stem}-{self.precision}{EXPORTS[self.format].suffix}"
        make = ["dabdetr", *self.export_options(model, calibration), "--output", file]
        return [shlex.join(make), shlex.join([*use, file, "IMAGES"])]


REFERENCE = Contender("torch", "fp32")
"""What the others are compared with; it always competes."""


def contenders(formats: Sequence[str], device: str = "cpu") -> list[Contender]:
    """Those of the ``formats``, the reference first, on a kind of ``device`` (cpu, cuda, mps)."""
    found = [Contender(each, kind) for each in FORMATS for kind in PRECISIONS[each]]
    if device != "cpu":
        found.append(Contender("torch", "fp16"))
    found += [Contender("torch", kind, compiled=True) for kind in PRECISIONS["torch"]]
    chosen = [each for each in found if each.format in formats and each != REFERENCE]
    return [REFERENCE, *sorted(chosen, key=lambda each: list(FORMATS).index(each.format))]
