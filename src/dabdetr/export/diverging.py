"""Where an exported graph first says something else than the traced one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.fx import Interpreter

LIMITS = {"fp32": 1e-3, "fp16": 0.05}
"""Precision → difference of a node's values, of their largest, from which they differ."""


def first_difference(
    program: torch.export.ExportedProgram,
    path: Path,
    precision: str,
    pixels: np.ndarray,
    padding: np.ndarray,
) -> str | None:
    """The first node of an ONNX file whose values are not the traced graph's, and its module.

    Nodes are compared by name, in the order of computing. None where all agree.
    """
    expected = _Recorder(program).record(pixels, padding)
    found = _all_outputs(path, [name for name, _, _ in expected], pixels, padding)
    for name, module, value in expected:
        if name not in found or found[name].shape != value.shape:
            continue
        scale = float(np.abs(value).max(initial=0)) or 1.0
        off = np.abs(found[name].astype(np.float64) - value).max(initial=0) / scale
        if not off <= LIMITS.get(precision, LIMITS["fp16"]):  # also where it is no number
            return f"{name} in {module or 'the graph'} ({off:.2g} of its largest value)"
    return None


class _Recorder(Interpreter):
    """Runs a traced graph and keeps the name, module and value of every float node."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__(program.module())
        self.seen: list[tuple[str, str, np.ndarray]] = []

    def record(self, pixels: np.ndarray, padding: np.ndarray) -> list[tuple[str, str, np.ndarray]]:
        """All values of one run."""
        with torch.no_grad():
            self.run(torch.from_numpy(pixels), torch.from_numpy(padding))
        return self.seen

    def run_node(self, n: torch.fx.Node) -> Any:
        """Compute the node as always, and keep what it gave."""
        value = super().run_node(n)
        if n.op == "call_function" and _is_finite(value):
            stack = list((n.meta.get("nn_module_stack") or {}).values())
            module = str(stack[-1][0]) if stack else ""
            self.seen.append((n.name, module.removeprefix("detector."), value.float().numpy()))
        return value


def _is_finite(value: Any) -> bool:
    """Whether a tensor of numbers; masks of attention hold infinity."""
    floats = isinstance(value, torch.Tensor) and value.is_floating_point()
    return floats and bool(value.isfinite().all())


def _all_outputs(
    path: Path, names: list[str], pixels: np.ndarray, padding: np.ndarray
) -> dict[str, np.ndarray]:
    """Values of the nodes of ``names`` that the file still has."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    there = {name for node in model.graph.node for name in node.output}
    own = {each.name for each in model.graph.output}
    asked = [name for name in names if name in there]
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in asked if n not in own)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, ["CPUExecutionProvider"]
    )
    values = session.run(asked, {"pixels": pixels, "padding": padding})
    return {name: np.asarray(value) for name, value in zip(asked, values, strict=True)}
