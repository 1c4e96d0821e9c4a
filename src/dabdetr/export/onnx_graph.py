"""Changes of an ONNX graph after its export: names of axes, defaults of inputs, half precision."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dabdetr.inference.metadata import Metadata

HALVED = ("Conv", "Gemm", "MatMul")
"""ONNX operators computed in half precision; those of positions and boxes need full precision."""


def name_axes(proto: Any) -> None:
    """Replace the symbols of the free axes of pixels and questions by names, in the whole graph."""
    inputs = {each.name: each.type.tensor_type.shape.dim for each in proto.graph.input}
    pixels = proto.graph.input[0].type.tensor_type.shape.dim
    axes = list(zip(pixels, ("batch", "channel", "height", "width"), strict=True))
    axes += [(inputs[name][1], "questions") for name in inputs if name == "questions"]
    names = {axis.dim_param: name for axis, name in axes if axis.dim_param}
    symbol = re.compile(r"[A-Za-z_]\w*")
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = symbol.sub(lambda m: names.get(m[0], m[0]), axis.dim_param)


def fold_casts(proto: Any) -> None:
    """Replace ``CastLike`` by ``Cast``, which more runtimes support.

    The browser's runtime does not fold constants through ``CastLike``.
    """
    from onnx.shape_inference import infer_shapes

    graph = infer_shapes(proto).graph
    kinds = {each.name: each.data_type for each in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kinds[value.name] = value.type.tensor_type.elem_type
    for node in proto.graph.node:
        if node.op_type == "CastLike" and kinds.get(node.input[1]):
            kind = kinds[node.input[1]]
            node.op_type = "Cast"
            del node.input[1:]
            node.attribute.add(name="to", i=kind, type=2)  # 2: an integer


def with_defaults(proto: Any, metadata: Metadata) -> Any:
    """A copy in which all inputs except the pixels are optional.

    The defaults are no padding, boxes in pixels of the input, and no questions. They are stored for
    one image and repeated for the batch.
    """
    import numpy as np
    from onnx import ModelProto, helper, numpy_helper

    changed = ModelProto()
    changed.CopyFrom(proto)
    graph = changed.graph
    defaults = {
        "padding": (np.zeros((1, *(metadata.size or (1, 1))), bool), (0, 2, 3), ()),
        "sizes": (np.zeros((1, 2), np.int64), (0,), (2,)),
        # 1 on the axis of questions: Expand keeps as many as there are
        "questions": (np.zeros((1, 0, 4), np.float32), (0,), (1, 4)),
        "question_labels": (np.zeros((1, 0), np.int64), (0,), (1,)),
    }
    nodes = []
    for key, name in metadata.inputs.items():
        if key not in defaults:
            continue
        value, axes, rest = defaults[key]
        for node in graph.node:
            node.input[:] = [f"{each}_full" if each == name else each for each in node.input]
        graph.initializer.append(numpy_helper.from_array(value, name))
        constants = {f"{name}_axes": axes, f"{name}_rest": rest}
        for constant, numbers in constants.items():
            array = np.array(numbers, np.int64)
            graph.initializer.append(numpy_helper.from_array(array, constant))
        shape = [f"{name}_shape", f"{name}_lengths", f"{name}_target"]
        pixels = metadata.inputs["pixels"]
        nodes += [
            helper.make_node("Shape", [pixels], shape[:1], shape[0]),
            helper.make_node("Gather", [shape[0], f"{name}_axes"], shape[1:2], shape[1]),
            helper.make_node("Concat", [shape[1], f"{name}_rest"], shape[2:], shape[2], axis=0),
            helper.make_node("Expand", [name, shape[2]], [f"{name}_full"], f"{name}_full"),
        ]
    for node in reversed(nodes):
        graph.node.insert(0, node)
    return changed


def halved(proto: Any) -> Any:
    """The graph with its products (``HALVED``) and their weights in float16; changes ``proto``.

    Casts surround each product: all other values stay in float32, as positions and the masks of
    attention exceed float16's range.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = proto.graph
    weights = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] in weights:
            axes = helper.get_node_attr_value(node, "perm")
            weights[node.output[0]] = weights[node.input[0]].transpose(axes)
    nodes: list[Any] = []
    halves: dict[str, str] = {}

    def half(name: str) -> str:
        if name and name not in halves:
            halves[name] = f"{name}_half"
            if name in weights:
                with np.errstate(over="ignore"):  # the certificate says what overflows
                    array = np.ascontiguousarray(weights[name], np.float16)
                graph.initializer.append(numpy_helper.from_array(array, halves[name]))
            else:
                nodes.append(
                    helper.make_node("Cast", [name], [halves[name]], to=TensorProto.FLOAT16)
                )
        return halves.get(name, "")

    for node in graph.node:
        if node.op_type in HALVED:
            node.input[:] = [half(name) for name in node.input]
            output = node.output[0]
            node.output[0] = f"{output}_product"
            nodes += [
                node,
                helper.make_node("Cast", [node.output[0]], [output], to=TensorProto.FLOAT),
            ]
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input} | {each.name for each in graph.output}
    nodes = [node for node in nodes if not weights.keys() & set(node.output) - used]
    used = {name for node in nodes for name in node.input} | {each.name for each in graph.output}
    del graph.node[:]
    graph.node.extend(nodes)
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return proto


def inside(proto: Any, parts: Sequence[str]) -> list[str]:
    """Names of the nodes of an ONNX graph that belong to these parts of the detector."""
    names: list[str] = []
    for node in proto.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key.endswith("name_scopes")), "")
        if any(f"'detector.{part}" in scopes for part in parts):
            names += [node.name, *node.output]
    return names
