"""Export of a detector: the file is written, compared with torch, and kept only if they agree."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.layouts import is_data, open_data
from dabdetr.data.preprocessing import padded
from dabdetr.export.ap_loss import compare_ap
from dabdetr.export.batches import BATCHES, batches, questions
from dabdetr.export.certificate import (
    PLAIN,
    ROUNDED,
    Certificate,
    certify,
    certify_plain,
    comparable,
)
from dabdetr.export.checks import check_target, check_top
from dabdetr.export.divergence import first_difference
from dabdetr.export.formats import FORMATS, File, Format, check_format, check_opset
from dabdetr.export.plain import has_bf16, is_exact
from dabdetr.export.tracing import Answer
from dabdetr.inference.exported import Exported, as_inputs, prepare_for
from dabdetr.inference.metadata import Metadata
from dabdetr.inference.opening import torch_runtime
from dabdetr.inference.outputs import POSTS, check_post
from dabdetr.inference.questions import refuse_unable
from dabdetr.inference.sources import read_sources
from dabdetr.model.detector import Detector
from dabdetr.steps import progress_steps
from dabdetr.text import in_any_case

if TYPE_CHECKING:
    from dabdetr.export.formats import Batch, Graphs

log = logging.getLogger("dabdetr")

CERTIFIED = 8
"""Images that the certificate is made with."""
CALIBRATION = 128
"""Most images that the ranges of int8 are measured on."""
CALIBRATED = 20
"""Questions about each of them, where the file takes questions."""


GRAPH = 6
"""Size of the step that makes the graph, in comparisons of a batch with torch."""
COMPARISONS = 2 * len(BATCHES) + PLAIN
"""Most batches that are compared."""


class Uncertified(Exception):
    """The exported file differs too much from torch; it was not kept."""

    def __init__(self, certificate: Certificate) -> None:
        super().__init__(f"the export failed its certificate and was not kept\n{certificate}")
        self.certificate = certificate


@dataclass(frozen=True)
class Export:
    """An exported file and its certificate."""

    path: Path
    certificate: Certificate


SMALLEST = 16
"""Least side of an input in pixels, as for --imgsz: backbones reduce smaller ones to nothing."""


def export(
    model: str | Path | Detector,
    output: str | Path | None = None,
    format: str = "onnx",
    precision: str = "fp32",
    size: tuple[int, int] | None = None,
    images: Any = None,
    data: DetectionDataset | str | Path | None = None,
    calibration: DetectionDataset | str | Path | None = None,
    post: str = "none",
    max_det: int | None = None,
    padding: bool = True,
    opset: int | None = None,
    with_questions: bool = False,
    force: bool = False,
    progress: bool = False,
    graphs: Graphs = None,
) -> Export:
    """Export ``model`` to ``output`` (default: its name with the format's ending).

    ``size`` (height, width) fixes the size of the input; by default any batch and size is possible.
    ``precision`` int8 needs ``calibration``: images, or data whose train split sets the ranges.
    ``post`` "boxes" puts the postprocessing into the graph, which then outputs the ``max_det`` best
    boxes (default: the config's) in pixels; ``padding=False`` removes the mask input.
    ``with_questions`` adds inputs for boxes that are asked about (``Predictor.ask``), and their
    answers. The certificate is made with ``images`` (see ``read_sources``), with ``data``, whose
    annotations also give AP, or with generated scenes. ``progress`` shows a bar on a terminal;
    ``graphs``, an empty dictionary at first, keeps graphs for exports of unchanged detectors.
    Raises ``Uncertified`` where the file differs too much from torch; it is not kept.
    """
    format = in_any_case(format, FORMATS)
    chosen = check_format(format, precision)
    post, version = check_post(post), check_opset(opset)
    if size is not None and min(size) < SMALLEST:
        given = " x ".join(map(str, size))
        raise ValueError(f"height and width should be at least {SMALLEST} pixels; got {given}")
    if isinstance(calibration, str | Path) and is_data(calibration):
        calibration = open_data(calibration, "train")
    if (precision == "int8") != (calibration is not None):
        raise ValueError("precision int8 and calibration data go together; one was given alone")
    check_top(post, max_det)
    name = model.config.name if isinstance(model, Detector) else Path(model).stem
    target = Path(f"{name}{chosen.suffix}") if output is None else Path(output)
    check_target(target, chosen, force)
    detector = torch_runtime(model, device="cpu").model.eval()
    if with_questions:
        _check_questions(detector, chosen, post)
    if chosen.post is not None:
        if post != "none" or not padding:
            raise ValueError(
                f"the format for {chosen.title} has its own postprocessing and no padding; leave "
                "out post and padding (--post, --no-padding)"
            )
        side = detector.config.image.size
        size, padding = size or (side, side), False
    data = open_data(data, "val") if isinstance(data, str | Path) else data
    shown = _certified_images(images, data)
    metadata = Metadata(
        runtime=format,
        names=detector.names,
        config=detector.config,
        precision=precision,
        size=size,
        padding=padding,
        post=chosen.post or post,
        top=_top(detector, post, max_det),
        questions=with_questions,
        versions=version,
    )
    log.info("exporting, and comparing with torch …")
    ranges = None if calibration is None else partial(_calibration, metadata, calibration)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        path = Path(folder) / ("model" if chosen.in_folder else target.name)
        with progress_steps(GRAPH + 1 + COMPARISONS, progress) as begin:
            begin(f"making the graph for {chosen.title}", GRAPH)
            file = chosen.make(detector, metadata, ranges, graphs)
            begin("writing the file")
            file.write(path, file.metadata)
            exported = Exported(path)
            certificate = _certify(detector, metadata, file, exported, shown, begin)
        # the AP of formats with one class per query is lower: they have fewer detections
        if data is not None and not POSTS[metadata.post].single:
            certificate = replace(certificate, ap=compare_ap(detector, path, data, progress))
        if not certificate.passed:
            pixels, filled, asked = next(iter(batches(exported, shown)))
            inputs = as_inputs(file.metadata, pixels, filled, asked=asked)
            node = first_difference(file.traced, path, inputs)
            raise Uncertified(replace(certificate, diverges=node))
        file.write(path, replace(file.metadata, certificate=certificate.to_dict()))
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    return Export(target, certificate)


def _certify(
    detector: Detector,
    metadata: Metadata,
    file: File,
    exported: Exported,
    images: list[np.ndarray],
    begin: Callable[..., None],
) -> Certificate:
    """The certificate without AP; for OpenVINO in float32 with that of a client without options."""
    of_torch = comparable(metadata)
    reference, in_precision = Answer(detector, metadata=of_torch), None
    if metadata.precision in ROUNDED:
        in_precision = Answer(detector, ROUNDED[metadata.precision], of_torch)
    certificate = certify(reference, exported, images, begin, in_precision)
    if not is_exact(metadata):
        return certificate
    begin("comparing a client without options", PLAIN)
    plain = certify_plain(reference, exported, images, file.traced, has_bf16())
    return replace(certificate, plain=plain)


def _calibration(metadata: Metadata, source: Any) -> Iterator[Batch]:
    """Inputs of single images from a dataset or from a source of images."""
    if isinstance(source, DetectionDataset):
        found: Iterator[np.ndarray] = map(source.image, range(len(source)))
    else:
        found = (each.array for each in read_sources(source))
    for image in islice(found, CALIBRATION):
        pixels, padding = padded([prepare_for(metadata, image)], metadata.size)
        yield as_inputs(metadata, pixels, padding, asked=questions(metadata, 1, CALIBRATED))


def _check_questions(detector: Detector, format: Format, post: str) -> None:
    """ValueError where the model or the format cannot have questions."""
    refuse_unable(detector.config)
    if format.post is not None or post != "none":
        raise ValueError(
            "questions need a graph that gives logits and boxes of every query; leave out "
            f"{'post (--post)' if format.post is None else 'the format for ' + format.title}, or "
            "questions (--with-questions)"
        )


def _top(detector: Detector, post: str, max_det: int | None) -> int | None:
    """Number of boxes per image that a graph outputs; None: those of all queries."""
    if post == "none":
        return None
    wanted = detector.config.inference.max_det if max_det is None else max_det
    config = detector.config.model.queries
    queries = config.count * max(getattr(config, "patterns", 0), 1)
    per_query = 1 if detector.config.classifier == "softmax" else len(detector.names)
    return min(wanted, queries * per_query)


def _certified_images(images: Any, data: DetectionDataset | None) -> list[np.ndarray]:
    """The images that the certificate is made with; every second scene is cut to 3:4."""
    if images is not None:
        return [each.array for each in islice(read_sources(images), CERTIFIED)]
    if data is not None:
        return [data.image(index) for index in range(min(CERTIFIED, len(data)))]
    scenes = open_data("scenes", "val")
    drawn = [scenes.image(index) for index in range(CERTIFIED)]
    return [each if n % 2 else each[: len(each) * 3 // 4] for n, each in enumerate(drawn)]
