"""The formats that models are exported to, in one table, and the writers of their files.

A new format needs a row and a writer here, and an engine in ``dabdetr.inference.exported``. torch
and the packages of the formats are imported only for writing.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dabdetr.export.onnx_graph import fold_casts, halved, inside, name_axes, with_defaults
from dabdetr.inference.openvino import import_unreported, precision_hint
from dabdetr.packages import installed_versions, lacking
from dabdetr.text import in_any_case, meant

if TYPE_CHECKING:
    import numpy as np
    import torch

    from dabdetr.inference.metadata import Metadata
    from dabdetr.model.detector import Detector

    Batch = dict[str, np.ndarray]
    """The graph's inputs, by name."""
    Calibration = Callable[[], Iterator[Batch]] | None
    """Returns the batches that the ranges of int8 are measured on; None in other precisions."""
    Graphs = dict[Any, Any] | None
    """Graphs of unchanged detectors, kept for exports in other formats and precisions."""

KEPT = ("projection", "encoder", "queries", "decoder")
"""Parts of the detector that int8 leaves unchanged: all but the backbone.

The backbone's convolutions gain speed. The other parts do not: their many small products would need
conversions back and forth.
"""
PRECISE = ("queries", "decoder")
"""Parts that in bf16 and int8 compute only products in bf16: the rest are numbers of boxes.

Measured on blood cells: 89 % of the detections above 0.3 differ by less than 4 pixels and 0.05 from
those in float32, 86 % where all is in bf16; the time is the same.
"""
PRODUCTS = ("MatMul", "Convolution", "GroupConvolution")
"""OpenVINO's operations that are products."""

MAX_BATCH = 8
"""Most images in one batch of Triton."""
OPSETS = range(18, 26)
"""Versions of ONNX's operators that torch can export."""


class File(Protocol):
    """A graph of one format, ready to be written.

    ``traced`` is torch's graph; nodes of the file have the same names unless they were merged.
    """

    metadata: Metadata
    traced: torch.export.ExportedProgram

    def write(self, path: Path, metadata: Metadata) -> None:
        """Write the file, or the folder, ``path``."""
        ...


class OnnxFile:
    """A graph of ONNX."""

    def __init__(
        self,
        detector: Detector,
        metadata: Metadata,
        calibration: Calibration = None,
        graphs: Graphs = None,
    ) -> None:
        need("onnxruntime")
        onnx = need("onnx")
        need("onnxscript")
        self.proto: Any
        self.traced, self.proto = _graph(detector, metadata, graphs)
        if metadata.precision == "fp16":
            self.proto = halved(self.proto)
        packages = versions("onnx", "onnxscript", "onnxruntime")
        self.metadata = replace(metadata, versions=packages | {"opset": str(opset_of(self.proto))})
        self._check = onnx.checker.check_model

    def write(self, path: Path, metadata: Metadata) -> None:
        """Write one file that contains the weights."""
        self._write(with_defaults(self.proto, metadata), path, metadata)

    def _write(self, proto: Any, path: Path, metadata: Metadata) -> None:
        del proto.metadata_props[:]
        for key, value in metadata.to_strings().items():
            proto.metadata_props.add(key=key, value=value)
        for node in proto.graph.node:
            del node.metadata_props[:]  # the exporter's: modules and lines of source, a third of it
        self._check(proto)
        path.write_bytes(proto.SerializeToString())


class TransformersJsFile(OnnxFile):
    """A folder that transformers.js opens as an RT-DETR model, whose outputs the graph imitates."""

    def write(self, path: Path, metadata: Metadata) -> None:
        """Write the folder: the graph and two files of settings."""
        assert metadata.size is not None
        image, (height, width) = metadata.config.image, metadata.size
        model = {
            "model_type": "rt_detr",
            "architectures": ["RTDetrForObjectDetection"],
            "id2label": {str(label): name for label, name in enumerate(metadata.names)},
            "label2id": {name: label for label, name in enumerate(metadata.names)},
        }
        preparation = {
            "image_processor_type": "RTDetrImageProcessor",
            **{"do_resize": True, "size": {"height": height, "width": width}, "resample": 2},
            **{"do_rescale": True, "rescale_factor": 1 / 255},
            **{"do_normalize": True, "image_mean": image.mean, "image_std": image.std},
        }
        (path / "onnx").mkdir(parents=True, exist_ok=True)
        super().write(path / "onnx" / "model.onnx", metadata)
        for name, settings in (("config", model), ("preprocessor_config", preparation)):
            text = json.dumps(settings, indent=2, ensure_ascii=False)
            (path / f"{name}.json").write_text(text + "\n", encoding="utf-8")


class TritonFile(OnnxFile):
    """A model folder for Triton's repository: the graph, all inputs required, and its config."""

    def write(self, path: Path, metadata: Metadata) -> None:
        """Write the folder, whose name is the model's name in Triton."""
        (path / "1").mkdir(parents=True, exist_ok=True)
        self._write(self.proto, path / "1" / "model.onnx", metadata)
        sides = {"input": self.proto.graph.input, "output": self.proto.graph.output}
        lines = ['platform: "onnxruntime_onnx"', f"max_batch_size: {MAX_BATCH}"]
        for side, values in sides.items():
            entries = []
            for value in values:
                tensor = value.type.tensor_type
                kind = {1: "TYPE_FP32", 7: "TYPE_INT64", 9: "TYPE_BOOL"}[tensor.elem_type]
                axes = [-1 if d.dim_param else d.dim_value for d in tensor.shape.dim[1:]]
                dims = ", ".join(map(str, axes))  # without the batch's; -1: any length
                entries.append(f'  {{ name: "{value.name}", data_type: {kind}, dims: [ {dims} ] }}')
            lines += [f"{side} [", ",\n".join(entries), "]"]
        lines += ["dynamic_batching { }", ""]
        (path / "config.pbtxt").write_text("\n".join(lines))


def _graph(
    detector: Detector, metadata: Metadata, graphs: Graphs
) -> tuple[torch.export.ExportedProgram, Any]:
    """The traced graph, and the same as ONNX in float32."""
    from dabdetr.export.tracing import program

    options = (metadata.size, metadata.padding, metadata.post, metadata.top, metadata.questions)
    key = (detector, *options, metadata.versions.get("opset"))
    if graphs is not None and key in graphs:
        traced, proto = graphs[key]
    else:
        traced = program(detector, size=metadata.size, metadata=metadata)
        proto = to_onnx(traced, metadata)
    if graphs is None:
        return traced, proto
    graphs[key] = traced, proto
    return traced, deepcopy(proto)  # it is changed in place


def to_onnx(traced: torch.export.ExportedProgram, metadata: Metadata) -> Any:
    """The traced graph as ONNX, in the opset of ``metadata.versions`` if it has one.

    Axes of free length are named batch, height, width, questions.
    """
    import torch

    from dabdetr.export.tracing import quiet

    wanted = metadata.versions.get("opset")
    with quiet():
        made = torch.onnx.export(
            traced,
            dynamo=True,
            input_names=list(metadata.inputs.values()),
            output_names=list(metadata.outputs),
            opset_version=None if wanted is None else int(wanted),
            optimize=False,  # of onnxscript 0.7, its rewrite of expand breaks the graph
            verbose=False,
        )
    assert made is not None
    proto = made.model_proto
    assert wanted is None or opset_of(proto) == int(wanted)
    name_axes(proto)
    fold_casts(proto)
    return proto


def check_opset(opset: int | None) -> dict[str, str]:
    """The entry of ``Metadata.versions`` for an opset; ValueError for one that is not supported."""
    if opset is None:
        return {}
    if opset not in OPSETS:
        raise ValueError(
            f"a graph is written in opset {OPSETS[0]} to {OPSETS[-1]}; got {opset}: choose one"
        )
    return {"opset": str(opset)}


def opset_of(proto: Any) -> int:
    """The version of ONNX's operators in a graph."""
    return next(each.version for each in proto.opset_import if not each.domain)


class OpenVinoFile:
    """A model of OpenVINO, converted from ONNX: a folder with ``model.xml`` and ``model.bin``."""

    def __init__(
        self,
        onnx: OnnxFile,
        metadata: Metadata,
        calibration: Calibration = None,
        kept: Sequence[str] = KEPT,
    ) -> None:
        """``onnx`` is in float32; ``calibration`` and ``kept`` (parts) are used for int8."""
        openvino = need("openvino")
        self.traced = onnx.traced
        self.half = metadata.precision == "fp16"
        self.model = openvino.convert_model(BytesIO(onnx.proto.SerializeToString()))
        packages = dict(onnx.metadata.versions) | versions("openvino")
        if calibration is not None:
            self.model = quantised(self.model, calibration, inside(onnx.proto, kept))
            packages |= versions("nncf")
        self.metadata = replace(metadata, versions=packages)
        self._precise = set(inside(onnx.proto, PRECISE))
        self._save = openvino.save_model

    def write(self, path: Path, metadata: Metadata) -> None:
        """Write both files into the folder ``path``."""
        path.mkdir(exist_ok=True)
        strings = json.dumps(metadata.to_strings(), ensure_ascii=False)
        self.model.set_rt_info(strings, ["dabdetr", "card"])
        hint = precision_hint(metadata.precision)
        for key, value in hint.items():
            self.model.set_rt_info(value, ["runtime_options", key])
        self._save(self.model, path / "model.xml", compress_to_fp16=self.half)
        keep_precision(path / "model.xml", None if "f32" in hint.values() else self._precise)


def keep_precision(xml: Path, names: Set[str] | None) -> None:
    """Mark operations of an OpenVINO file to be computed in their own precision.

    These are all of them, or with the names of nodes of its ONNX graph those that were made from
    these nodes, but no products.

    OpenVINO computes operations without the mark in bf16 on processors that have it, unless its
    client sets an option.
    """
    from xml.etree import ElementTree

    tree = ElementTree.parse(xml)
    for layer in tree.getroot().iter("layer"):
        if layer.get("type") in ("Const", "Parameter", "Result"):
            continue
        node = layer.get("name", "").partition("/")[0]
        if names is not None and (node not in names or layer.get("type") in PRODUCTS):
            continue
        marks = layer.find("rt_info")
        if marks is None:
            marks = ElementTree.Element("rt_info")
            layer.insert(0 if layer.find("data") is None else 1, marks)
        if marks.find("attribute[@name='precise']") is None:
            ElementTree.SubElement(marks, "attribute", name="precise", version="0")
    tree.write(xml, encoding="utf-8", xml_declaration=True)


def _openvino(
    detector: Detector, metadata: Metadata, calibration: Calibration, graphs: Graphs
) -> OpenVinoFile:
    need("openvino")  # before the graph is made
    onnx = OnnxFile(detector, replace(metadata, precision="fp32"), graphs=graphs)
    return OpenVinoFile(onnx, metadata, calibration)


def quantised(
    model: Any, calibration: Callable[[], Iterator[Batch]], kept: Sequence[str] = ()
) -> Any:
    """The model of OpenVINO with matrix products and convolutions in int8 (NNCF).

    Ranges are measured on the ``calibration`` batches; the nodes named ``kept`` are not changed.
    """
    from dabdetr.export.tracing import quiet

    nncf = need("nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)  # it lists hundreds of nodes on stdout
    present = {op.get_friendly_name() for op in model.get_ops()}
    inputs = list(calibration())
    with quiet(), redirect_stdout(io.StringIO()):  # progress bars, even without a terminal
        return nncf.quantize(
            model,
            nncf.Dataset(inputs),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(inputs),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=[n for n in kept if n in present]),
        )


class ProgramFile:
    """A program of torch.export, which runs with torch alone."""

    def __init__(self, detector: Detector, metadata: Metadata, *_: Any) -> None:
        from dabdetr.export.tracing import program

        if "opset" in metadata.versions:
            raise ValueError("an opset is of ONNX and OpenVINO; torch.export has none")
        self.traced = program(detector, metadata.precision, metadata.size, metadata)  # pyright: ignore[reportArgumentType]
        self.metadata = replace(metadata, versions=versions())

    def write(self, path: Path, metadata: Metadata) -> None:
        """Write one file."""
        import torch

        from dabdetr.export.tracing import quiet

        strings = json.dumps(metadata.to_strings(), ensure_ascii=False)
        with quiet():
            torch.export.save(self.traced, path, extra_files={"card.json": strings})


def versions(*packages: str) -> dict[str, str]:
    """The versions of dabdetr, torch and ``packages``."""
    return installed_versions(("dabdetr", "torch", *packages))


def need(package: str) -> Any:
    """The imported package; ImportError with the command that installs it."""
    try:
        return import_unreported(package)
    except ImportError:
        raise lacking("this export", package, "export") from None


@dataclass(frozen=True)
class Format:
    """A format of exported models.

    title       usual name of the runtime
    suffix      ending of the file or folder
    in_folder   whether it is a folder
    precisions  precisions that can be exported
    timed       precisions that the bench compares on a CPU
    make        detector, metadata, calibration and kept graphs → the graph, ready to be written
    post        kind of outputs, if readers of the format know only one; they take images of one
                size, without padding
    """

    title: str
    suffix: str
    in_folder: bool
    precisions: tuple[str, ...]
    timed: tuple[str, ...]
    make: Callable[[Detector, Metadata, Calibration, Graphs], File]
    post: str | None = None


def check_format(format: str, precision: str) -> Format:
    """The format of a name (in any case); ValueError lists the formats and their precisions."""
    format = in_any_case(format, FORMATS)
    if format not in FORMATS or precision not in FORMATS[format].precisions:
        known = "; ".join(f"{name}: {', '.join(f.precisions)}" for name, f in FORMATS.items())
        raise ValueError(
            f"there is no export of format {format!r} in {precision!r}; {known}"
            f"{'' if format in FORMATS else meant(format, FORMATS)}"
        )
    return FORMATS[format]


FORMATS = {
    "onnx": Format(
        title="ONNX Runtime",
        suffix=".onnx",
        in_folder=False,
        precisions=("fp32", "fp16"),
        timed=("fp32", "fp16"),
        make=OnnxFile,
    ),
    "openvino": Format(
        title="OpenVINO",
        suffix="_openvino",
        in_folder=True,
        precisions=("fp32", "fp16", "bf16", "int8"),
        timed=("fp32", "bf16", "int8"),  # its fp16 halves the file and computes in fp32
        make=_openvino,
    ),
    "torch": Format(
        title="torch.export",
        suffix=".pt2",
        in_folder=False,
        precisions=("fp32", "bf16", "fp16"),
        timed=(),  # slower than the detector itself
        make=ProgramFile,
    ),
    "transformers-js": Format(
        title="transformers.js",
        suffix="_transformers_js",
        in_folder=True,
        precisions=("fp32", "fp16"),
        timed=(),
        make=TransformersJsFile,
        post="pipeline",
    ),
    "triton": Format(
        title="Triton",
        suffix="_triton",
        in_folder=True,
        precisions=("fp32", "fp16"),
        timed=(),
        make=TritonFile,
    ),
}
"""Name → format."""
