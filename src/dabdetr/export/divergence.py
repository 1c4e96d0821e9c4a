"""Search for the first node of an exported graph whose values differ from the traced graph's."""

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
"""Precision → largest allowed difference of a node's values, as a share of the largest value."""
Values = dict[str, np.ndarray]


def first_difference(
    program: torch.export.ExportedProgram, path: Path, inputs: Values
) -> str | None:
    """The first node of an exported file whose values differ from the traced graph's, its module.

    ``program`` is the graph in float32. Nodes are compared by name, in the order of execution.
    Nodes that a runtime has merged or renamed are skipped. So are nodes that differ while the next
    values computed from them agree: a convolution merged with its batch norm has other values, and
    runtimes return some values after their memory was reused. None where all agree, and for formats
    that do not return values of nodes.
    """
    expected = _Recorder(program).record(inputs)
    metadata = Exported(path).metadata
    read = _VALUES.get(metadata.runtime)
    if read is None:
        return None
    found = read(path, metadata.precision, list(expected), inputs)
    differences: dict[str, float] = {}  # shares of the largest value; NaN where a value is NaN
    for name, (value, *_) in expected.items():
        if name in found and found[name].shape == value.shape:
            scale = float(np.abs(value).max(initial=0)) or 1.0
            gap = np.abs(found[name].astype(np.float64) - value)
            differences[name] = float(gap.max(initial=0)) / scale
    limit = LIMITS[metadata.precision]
    wrong = {name for name, share in differences.items() if not share <= limit}
    for name in differences:
        if name not in wrong:
            continue
        following = _next_values(name, expected, differences)
        if not following or wrong.intersection(following):
            place = expected[name].module or "the graph"
            return f"{name} in {place} ({differences[name]:.2g} of its largest value)"
    return None


def _next_values(name: str, nodes: dict[str, _Node], known: Container[str]) -> set[str]:
    """The nearest nodes in ``known`` that are computed from a node."""
    found: set[str] = set()
    waiting, visited = [*nodes[name].users], set[str]()
    while waiting:
        user = waiting.pop()
        if user in known:
            found.add(user)
        elif user in nodes and user not in visited:
            visited.add(user)
            waiting += nodes[user].users
    return found


class _Node(NamedTuple):
    """The value of a node of the traced graph, its module, and the nodes that use the value."""

    value: np.ndarray
    module: str
    users: tuple[str, ...]


class _Recorder(Interpreter):
    """Runs a traced graph and records the module, value and users of every float node."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__(runnable(program))
        self.nodes: dict[str, _Node] = {}

    def record(self, inputs: Values) -> dict[str, _Node]:
        """The nodes of one run, without attention masks, which contain infinity."""
        with torch.no_grad():
            self.run(*map(torch.from_numpy, inputs.values()))
        return {name: each for name, each in self.nodes.items() if np.isfinite(each.value).all()}

    def run_node(self, n: torch.fx.Node) -> Any:
        """Compute the node and record it."""
        value = super().run_node(n)
        floats = isinstance(value, torch.Tensor) and value.is_floating_point()
        if n.op == "call_function" and floats:
            stack = list((n.meta.get("nn_module_stack") or {}).values())
            module = (str(stack[-1][0]) if stack else "").removeprefix("detector.")
            users = tuple(user.name for user in n.users)
            self.nodes[n.name] = _Node(value.float().numpy(), module, users)
        return value


def _of_onnx(path: Path, _: str, names: list[str], inputs: Values) -> Values:
    """Values of those nodes in ``names`` that the file has."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    present = {name for node in model.graph.node for name in node.output}
    outputs = {each.name for each in model.graph.output}
    wanted = [name for name in names if name in present]
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in wanted if n not in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, ["CPUExecutionProvider"]
    )
    values = session.run(wanted, inputs)
    return {name: np.asarray(value) for name, value in zip(wanted, values, strict=True)}


def _of_openvino(path: Path, precision: str, names: list[str], inputs: Values) -> Values:
    """``_of_onnx`` for OpenVINO, which merges fewer nodes where all are outputs."""
    openvino = import_unreported("openvino")
    core = openvino.Core()
    model = core.read_model(path / "model.xml" if path.is_dir() else path)
    present = {name for node in model.get_ops() for out in node.outputs() for name in out.names}
    wanted = [name for name in names if name in present]
    outputs = {name for out in model.outputs for name in out.names}
    model.add_outputs([name for name in wanted if name not in outputs])
    run = core.compile_model(model, "CPU", precision_hint(precision))
    answer = run(inputs)
    return {name: np.array(answer[name]) for name in wanted}


def _of_program(path: Path, _: str, names: list[str], inputs: Values) -> Values:
    """``_of_onnx`` for a program of torch."""
    nodes = _Recorder(torch.export.load(path)).record(inputs)
    return {name: each.value for name, each in nodes.items() if name in names}


_VALUES = {"onnx": _of_onnx, "openvino": _of_openvino, "torch": _of_program}
