"""The first node of an exported graph whose values differ from the traced one's."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.fx import Interpreter

from dabdetr.inference.exported import Exported, runnable
from dabdetr.inference.openvino import import_unreported, precision_hint

LIMITS = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.05, "int8": 0.25}
"""Precision → difference of a node's values, of their largest, from which they differ."""
Values = dict[str, np.ndarray]


def first_difference(
    program: torch.export.ExportedProgram, path: Path, inputs: Values
) -> str | None:
    """The first node of an exported file whose values are not the traced graph's, and its module.

    ``program`` is the graph in float32. Nodes are compared by name, in the order of computing; what
    a runtime has merged or renamed is passed over, and a node that differs while the next values
    that are computed from it agree: a convolution that took in its batch norm gives other values,
    and runtimes hand out some values after their memory was used again. None where all agree, and
    of formats that hand out no values.
    """
    expected = _Recorder(program).record(inputs)
    metadata = Exported(path).metadata
    read = _VALUES.get(metadata.runtime)
    if read is None:
        return None
    found = read(path, metadata.precision, list(expected), inputs)
    off = {
        name: _off(each.value, found[name])
        for name, each in expected.items()
        if name in found and found[name].shape == each.value.shape
    }
    wrong = {name for name, share in off.items() if not share <= LIMITS[metadata.precision]}
    for name in off:
        if name not in wrong:
            continue
        after = _next_values(name, expected, off)
        if not after or wrong.intersection(after):
            place = expected[name].module or "the graph"
            return f"{name} in {place} ({off[name]:.2g} of its largest value)"
    return None


def _next_values(name: str, seen: dict[str, _Seen], known: Container[str]) -> set[str]:
    """The nearest nodes in ``known`` that are computed from a node."""
    found: set[str] = set()
    waiting, passed = [*seen[name].users], set[str]()
    while waiting:
        user = waiting.pop()
        if user in known:
            found.add(user)
        elif user in seen and user not in passed:
            passed.add(user)
            waiting += seen[user].users
    return found


def _off(expected: np.ndarray, found: np.ndarray) -> float:
    """The largest difference as a share of the largest value; NaN where one is no number."""
    scale = float(np.abs(expected).max(initial=0)) or 1.0
    return float(np.abs(found.astype(np.float64) - expected).max(initial=0)) / scale


class _Seen(NamedTuple):
    """What a node of the traced graph gave, the module it is in, and who takes it."""

    value: np.ndarray
    module: str
    users: tuple[str, ...]


class _Recorder(Interpreter):
    """Runs a traced graph and keeps the name, module and value of every float node."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__(runnable(program))
        self.seen: dict[str, _Seen] = {}

    def record(self, inputs: Values) -> dict[str, _Seen]:
        """All values of one run; masks of attention, which hold infinity, are left out."""
        with torch.no_grad():
            self.run(*map(torch.from_numpy, inputs.values()))
        return {name: each for name, each in self.seen.items() if np.isfinite(each.value).all()}

    def run_node(self, n: torch.fx.Node) -> Any:
        """Compute the node as always, and keep what it gave."""
        value = super().run_node(n)
        floats = isinstance(value, torch.Tensor) and value.is_floating_point()
        if n.op == "call_function" and floats:
            stack = list((n.meta.get("nn_module_stack") or {}).values())
            module = (str(stack[-1][0]) if stack else "").removeprefix("detector.")
            users = tuple(user.name for user in n.users)
            self.seen[n.name] = _Seen(value.float().numpy(), module, users)
        return value


def _of_onnx(path: Path, _: str, names: list[str], inputs: Values) -> Values:
    """Values of the nodes of ``names`` that the file still has."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    there = {name for node in model.graph.node for name in node.output}
    own = {each.name for each in model.graph.output}
    wanted = [name for name in names if name in there]
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in wanted if n not in own)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, ["CPUExecutionProvider"]
    )
    values = session.run(wanted, inputs)
    return {name: np.asarray(value) for name, value in zip(wanted, values, strict=True)}


def _of_openvino(path: Path, precision: str, names: list[str], inputs: Values) -> Values:
    """The same of OpenVINO's; it merges less where every value is wanted for."""
    openvino = import_unreported("openvino")
    core = openvino.Core()
    model = core.read_model(path / "model.xml" if path.is_dir() else path)
    there = {name for node in model.get_ops() for out in node.outputs() for name in out.names}
    wanted = [name for name in names if name in there]
    own = {name for out in model.outputs for name in out.names}
    model.add_outputs([name for name in wanted if name not in own])
    run = core.compile_model(model, "CPU", precision_hint(precision))
    answer = run(inputs)
    return {name: np.array(answer[name]) for name in wanted}


def _of_program(path: Path, _: str, names: list[str], inputs: Values) -> Values:
    """The same of a program of torch."""
    seen = _Recorder(torch.export.load(path)).record(inputs)
    return {name: each.value for name, each in seen.items() if name in names}


_VALUES = {"onnx": _of_onnx, "openvino": _of_openvino, "torch": _of_program}
