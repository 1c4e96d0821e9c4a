"""Results of OpenVINO's own client, without options, for a file meant to be computed in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dabdetr.inference.exported import runnable
from dabdetr.inference.metadata import Metadata
from dabdetr.inference.openvino import import_unreported, precision_hint

if TYPE_CHECKING:
    Compute = Callable[..., Sequence[np.ndarray]]
    """The graph's outputs for its inputs, both in the order of the metadata."""


@dataclass(frozen=True)
class Plain:
    """Largest differences between the detections of a client without options and torch's (float32).

    measured  whether OpenVINO computed them on this processor, which has bf16; else torch emulated
              them with every value of the graph rounded to bf16, as if the file's marks were
              ignored
    """

    pixels: float
    score: float
    measured: bool

    def __str__(self) -> str:
        off = f"{self.pixels:.3g} px, score {self.score:.2g}"
        if self.measured:
            return f"without INFERENCE_PRECISION_HINT=f32, on this processor with bf16: {off}"
        return (
            "with a client that computes in bf16 all the same (no INFERENCE_PRECISION_HINT=f32, "
            f"and an OpenVINO that ignores the file's marks): {off}; emulated, this processor has "
            "no bf16"
        )


def is_exact(metadata: Metadata) -> bool:
    """Whether a file is for OpenVINO in float32, whose default precision may be another."""
    return metadata.runtime == "openvino" and "f32" in precision_hint(metadata.precision).values()


def has_bf16() -> bool:
    """Whether OpenVINO computes in bf16 by default on this processor."""
    core = import_unreported("openvino").Core()
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def without_options(path: Path, metadata: Metadata) -> Compute:
    """The function that computes the file ``path`` (.xml) as a client without options does."""
    core = import_unreported("openvino").Core()
    model = core.compile_model(path, "CPU")
    outputs = list(metadata.outputs)

    def compute(*inputs: np.ndarray) -> Sequence[np.ndarray]:
        answer = model(dict(zip(metadata.inputs.values(), inputs, strict=True)))
        return [answer[name] for name in outputs]

    return compute


def rounded(traced: torch.export.ExportedProgram) -> Compute:
    """The function that computes the traced graph with all float32 values rounded to bf16."""
    graph = _Rounding(runnable(traced))

    def compute(*inputs: np.ndarray) -> Sequence[np.ndarray]:
        with torch.no_grad():
            return [each.numpy() for each in graph.run(*map(torch.from_numpy, inputs))]

    return compute


class _Rounding(torch.fx.Interpreter):
    """Runs a graph and rounds the float32 value of every node to bf16."""

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
            return value.bfloat16().float()
        return value
