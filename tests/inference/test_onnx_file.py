"""Files that keep weights elsewhere are refused, wherever in the graph the tensor is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dabdetr.inference.exported import Exported
from dabdetr.inference.onnx_file import read_whole

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'dabdetr[export]'")


def outside() -> Any:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=1)
    tensor.external_data.add(key="location", value="../secret.bin")
    return tensor


def within(**parts: Any) -> Any:
    graph = onnx.helper.make_graph([], "g", [], [])
    for name, part in parts.items():
        getattr(graph, name).append(part)
    return graph


def node(**attributes: Any) -> Any:
    return onnx.helper.make_node("If", [], ["y"], **attributes)


def model(graph: Any) -> Any:
    return onnx.helper.make_model(graph)


def function() -> Any:
    made = model(within())
    body = onnx.helper.make_function("x", "f", [], [], [node(value=outside())], [])
    made.functions.append(body)
    return made


def training() -> Any:
    made = model(within())
    made.training_info.add().algorithm.CopyFrom(within(initializer=outside()))
    return made


def sparse() -> Any:
    made = onnx.SparseTensorProto(dims=[4])
    made.values.CopyFrom(outside())
    return made


PLACES = {
    "initializer": lambda: model(within(initializer=outside())),
    "attribute": lambda: model(within(node=node(value=outside()))),
    "branch": lambda: model(within(node=node(then_branch=within(initializer=outside())))),
    "branch of a branch": lambda: model(
        within(node=node(then=within(node=node(other=within(initializer=outside())))))
    ),
    "function": function,
    "training": training,
    "sparse": lambda: model(within(sparse_initializer=sparse())),
}


@pytest.mark.parametrize("place", PLACES)
def test_weights_in_other_files_are_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(PLACES[place]().SerializeToString())
    with pytest.raises(ValueError, match="names other files that hold its weights"):
        read_whole(tmp_path / "x.onnx")


def test_whole_files_are_read(tmp_path: Path) -> None:
    inside = onnx.helper.make_tensor("w", 1, [2], [1.0, 2.0])
    content = model(within(initializer=inside, node=node(value=inside))).SerializeToString()
    (tmp_path / "x.onnx").write_bytes(content)
    assert read_whole(tmp_path / "x.onnx") == content


@pytest.mark.parametrize("content", [b"not protobuf", b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 30])
def test_what_is_no_onnx_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(ValueError, match="is not an ONNX file, or is cut short"):
        read_whole(tmp_path / "x.onnx")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("raw", [True, False])
def test_a_weight_that_is_no_number_is_named(dtype: str, raw: bool, tmp_path: Path) -> None:
    if dtype == "float16" and not raw:
        pytest.skip("onnx keeps float16 as integers there")
    path, kinds = tmp_path / "m.onnx", {"float16": 10, "float32": 1, "float64": 11}
    for value, sound in ((np.nan, False), (-np.inf, True), (1.0, True)):
        numbers = np.array([0, value, 2], dtype)
        tensor = onnx.helper.make_tensor(
            "head.weight", kinds[dtype], [3], numbers.tobytes() if raw else numbers.tolist(), raw
        )
        path.write_bytes(model(within(node=node(value=tensor))).SerializeToString())
        if sound:
            assert read_whole(path)
        else:
            with pytest.raises(ValueError, match=r"weights that are not finite: 'head\.weight'"):
                read_whole(path)


def test_a_file_that_fails_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime would print its retry to stdout, where commands write JSON."""
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'dabdetr[onnx]'")
    damaged = model(within(node=node())).SerializeToString().replace(b"If", b"\xff\xff")
    (tmp_path / "x.onnx").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"x\.onnx cannot be loaded by ONNX Runtime"):
        Exported(tmp_path / "x.onnx", "cpu")
    assert capfd.readouterr() == ("", "")
