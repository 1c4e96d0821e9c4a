"""Where an exported graph first says something else than the traced one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.fx import Interpreter

from dabdetr.inference.runtimes import Exported

LIMITS = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.05, "int8": 0.25}
"""Precision → difference of a node's values, of their largest, from which they differ."""
Values = dict[str, np.ndarray]


def first_difference(
    program: torch.export.ExportedProgram, path: Path, pixels: np.ndarray, padding: np.ndarray
) -> str | None:
    """The first node of an exported file whose values are not the traced graph's, and its module.

    ``program`` is the graph in float32. Nodes are compared by name, in the order of computing; what
    a runtime has merged or renamed is passed over. None where all agree.
    """
    expected = _Recorder(program).record(pixels, padding)
    card = Exported(path).card
    names = [name for name, _, _ in expected]
    found = _VALUES[card.runtime](path, card.precision, names, pixels, padding)
    for name, module, value in expected:
        if name not in found or found[name].shape != value.shape:
            continue
        scale = float(np.abs(value).max(initial=0)) or 1.0
        off = np.abs(found[name].astype(np.float64) - value).max(initial=0) / scale
        if not off <= LIMITS[card.precision]:  # also where it is no number
            return f"{name} in {module or 'the graph'} ({off:.2g} of its largest value)"
    return None


class _Recorder(Interpreter):
    """Runs a traced graph and keeps the name, module and value of every float node."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__(program.module())
        self.seen: list[tuple[str, str, np.ndarray]] = []

    def record(self, pixels: np.ndarray, padding: np.ndarray) -> list[tuple[str, str, np.ndarray]]:
        """All values of one run; masks of attention, which hold infinity, are left out."""
        with torch.no_grad():
            self.run(torch.from_numpy(pixels), torch.from_numpy(padding))
        return [each for each in self.seen if np.isfinite(each[2]).all()]

    def run_node(self, n: torch.fx.Node) -> Any:
        """Compute the node as always, and keep what it gave."""
        value = super().run_node(n)
        floats = isinstance(value, torch.Tensor) and value.is_floating_point()
        if n.op == "call_function" and floats:
            stack = list((n.meta.get("nn_module_stack") or {}).values())
            module = str(stack[-1][0]) if stack else ""
            self.seen.append((n.name, module.removeprefix("detector."), value.float().numpy()))
        return value


def _of_onnx(
    path: Path, _: str, names: list[str], pixels: np.ndarray, padding: np.ndarray
) -> Values:
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


def _of_openvino(
    path: Path, precision: str, names: list[str], pixels: np.ndarray, padding: np.ndarray
) -> Values:
    """The same of OpenVINO's; it merges less where every value is asked for."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path / "model.xml" if path.is_dir() else path)
    there = {name for node in model.get_ops() for out in node.outputs() for name in out.names}
    asked = [name for name in names if name in there]
    own = {name for out in model.outputs for name in out.names}
    model.add_outputs([name for name in asked if name not in own])
    kind = "bf16" if precision in ("bf16", "int8") else "f32"
    run = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": kind})
    answer = run({"pixels": pixels, "padding": padding})
    return {name: np.array(answer[name]) for name in asked}


def _of_program(
    path: Path, _: str, names: list[str], pixels: np.ndarray, padding: np.ndarray
) -> Values:
    """The same of a program of torch."""
    seen = _Recorder(torch.export.load(path)).record(pixels, padding)
    return {name: value for name, _, value in seen if name in names}


_VALUES = {"onnx": _of_onnx, "openvino": _of_openvino, "torch": _of_program}
