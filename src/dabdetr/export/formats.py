"""The formats that models are exported to, in one table; each writes a traced graph as a file.

A new one takes a row and a writer here, and what runs it in ``dabdetr.inference.exported``. Torch
and the packages of formats are imported only to write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from xml.etree import ElementTree

from dabdetr.inference.openvino import import_unreported, precision_hint
from dabdetr.text import in_any_case, meant

if TYPE_CHECKING:
    import numpy as np
    import torch

    from dabdetr.inference.metadata import Metadata
    from dabdetr.model.detector import Detector

    Batch = tuple[np.ndarray, np.ndarray]
    """Pixels [b, 3, h, w] float32 and padding [b, h, w] bool."""
    Calibration = Callable[[], Iterator[Batch]] | None
    """Batches that int8 takes its ranges from; None in other precisions."""

HALVED = ("Conv", "Gemm", "MatMul")
"""What ONNX computes in half precision: the rest, positions and boxes above all, needs more."""
KEPT = ("projection", "encoder", "queries", "decoder")
"""What int8 leaves as it is: all but the backbone. Its convolutions gain, and the rest, many small
products whose inputs and outputs would be converted back and forth, does not."""


class File(Protocol):
    """A graph of one format, ready to be written.

    ``traced`` is torch's graph, whose node names it shares as far as its runtime kept them.
    """

    metadata: Metadata
    traced: torch.export.ExportedProgram

    def write(self, path: Path, metadata: Metadata) -> None:
        """Write the file, or the folder, ``path``."""
        ...


class OnnxFile:
    """A graph of ONNX."""

    def __init__(
        self, detector: Detector, metadata: Metadata, calibration: Calibration = None
    ) -> None:
        import torch

        from dabdetr.export.tracing import program, quiet

        need("onnxruntime")
        onnx = need("onnx")
        need("onnxscript")
        with quiet():
            made = torch.onnx.export(
                program(detector, size=metadata.size),
                dynamo=True,
                input_names=["pixels", "padding"],
                output_names=["logits", "boxes"],
                optimize=False,  # of onnxscript 0.7, its rewrite of expand breaks the graph
                verbose=False,
            )
        assert made is not None
        assert made.exported_program is not None
        self.traced: torch.export.ExportedProgram = made.exported_program
        self.proto: Any = made.model_proto
        if metadata.precision == "fp16":
            self.proto = halved(self.proto)
        opset = next(each.version for each in self.proto.opset_import if not each.domain)
        packages = versions("onnx", "onnxscript", "onnxruntime")
        self.metadata = replace(metadata, versions=packages | {"opset": str(opset)})
        self._check = onnx.checker.check_model

    def write(self, path: Path, metadata: Metadata) -> None:
        """Write the one file, weights inside."""
        del self.proto.metadata_props[:]
        for key, value in metadata.to_strings().items():
            self.proto.metadata_props.add(key=key, value=value)
        self._check(self.proto)
        path.write_bytes(self.proto.SerializeToString())


def halved(proto: Any) -> Any:
    """The graph with matrix products and convolutions, and their weights, in float16."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    from dabdetr.export.tracing import quiet

    kinds = {node.op_type for node in proto.graph.node}
    with quiet():
        half = convert_float_to_float16(
            proto, keep_io_types=True, op_block_list=sorted(kinds - set(HALVED))
        )
    sorted_model = OnnxModel(half)  # the casts were put last, behind those who need them
    sorted_model.topological_sort()
    return sorted_model.model


class OpenVinoFile:
    """A model of OpenVINO, made from ONNX; a folder of ``model.xml`` and ``model.bin``."""

    def __init__(
        self,
        onnx: OnnxFile,
        metadata: Metadata,
        calibration: Calibration = None,
        kept: Sequence[str] = KEPT,
    ) -> None:
        """``onnx`` in float32; ``calibration`` and ``kept`` parts are int8's."""
        openvino = need("openvino")
        self.traced = onnx.traced
        self.half = metadata.precision == "fp16"
        self.model = openvino.convert_model(BytesIO(onnx.proto.SerializeToString()))
        packages = dict(onnx.metadata.versions) | versions("openvino")
        if calibration is not None:
            self.model = quantised(self.model, calibration, inside(onnx.proto, kept))
            packages |= versions("nncf")
        self.metadata = replace(metadata, versions=packages)
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
        if "f32" in hint.values():
            keep_precision(path / "model.xml")


def keep_precision(xml: Path) -> None:
    """Mark every operation of OpenVINO's file as one that is computed in the precision it has.

    OpenVINO computes the others in bf16 on processors that have it, unless its client says not to.
    """
    tree = ElementTree.parse(xml)
    for layer in tree.getroot().iter("layer"):
        if layer.get("type") in ("Const", "Parameter", "Result"):
            continue
        marks = layer.find("rt_info")
        if marks is None:
            marks = ElementTree.Element("rt_info")
            layer.insert(0 if layer.find("data") is None else 1, marks)
        if marks.find("attribute[@name='precise']") is None:
            ElementTree.SubElement(marks, "attribute", name="precise", version="0")
    tree.write(xml, encoding="utf-8", xml_declaration=True)


def _openvino(detector: Detector, metadata: Metadata, calibration: Calibration) -> OpenVinoFile:
    need("openvino")  # before the graph is made
    onnx = OnnxFile(detector, replace(metadata, precision="fp32"))
    return OpenVinoFile(onnx, metadata, calibration)


def inside(proto: Any, parts: Sequence[str]) -> list[str]:
    """Names of an ONNX graph's nodes that come from these parts of the detector."""
    names: list[str] = []
    for node in proto.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key.endswith("name_scopes")), "")
        if any(f"'detector.{part}" in scopes for part in parts):
            names += [node.name, *node.output]
    return names


def quantised(
    model: Any, calibration: Callable[[], Iterator[Batch]], kept: Sequence[str] = ()
) -> Any:
    """The model of OpenVINO with matrix products and convolutions in int8 (NNCF).

    Ranges come from the ``calibration`` batches; nodes of the names ``kept`` stay as they are.
    """
    from dabdetr.export.tracing import quiet

    nncf = need("nncf")
    there = {op.get_friendly_name() for op in model.get_ops()}
    inputs = [{"pixels": pixels, "padding": padding} for pixels, padding in calibration()]
    with quiet():
        return nncf.quantize(
            model,
            nncf.Dataset(inputs),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(inputs),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=[n for n in kept if n in there]),
        )


class ProgramFile:
    """A program of torch.export; running it needs torch but none of this package."""

    def __init__(
        self, detector: Detector, metadata: Metadata, calibration: Calibration = None
    ) -> None:
        from dabdetr.export.tracing import program

        self.traced = program(detector, metadata.precision, metadata.size)  # pyright: ignore[reportArgumentType]
        self.metadata = replace(metadata, versions=versions())

    def write(self, path: Path, metadata: Metadata) -> None:
        """Write the one file."""
        import torch

        from dabdetr.export.tracing import quiet

        strings = json.dumps(metadata.to_strings(), ensure_ascii=False)
        with quiet():
            torch.export.save(self.traced, path, extra_files={"card.json": strings})


def versions(*packages: str) -> dict[str, str]:
    """Of this package, torch and ``packages``."""
    from importlib.metadata import version

    own = {name: version(name) for name in ("dabdetr", "torch")}
    return own | {name: version(name) for name in packages}


def need(package: str) -> Any:
    """The package, imported; an ImportError gives the command that installs it."""
    try:
        return import_unreported(package)
    except ImportError:
        raise ImportError(
            f"this export needs the package {package}; type: pip install 'dabdetr[export]'"
        ) from None


@dataclass(frozen=True)
class Format:
    """What is known of a format.

    title       the runtime, as people call it
    suffix      ending of its file, or of its folder
    in_folder   whether it is a folder
    precisions  what it computes in, as far as we export it
    timed       those that the bench compares on a CPU
    make        detector, metadata and calibration → the graph, ready to be written
    """

    title: str
    suffix: str
    in_folder: bool
    precisions: tuple[str, ...]
    timed: tuple[str, ...]
    make: Callable[[Detector, Metadata, Calibration], File]


def check_format(format: str, precision: str) -> Format:
    """The format, in any case, where it has the precision; ValueError lists what there is."""
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
        timed=(),  # slower than the detector it is of
        make=ProgramFile,
    ),
}
"""Name → format."""
