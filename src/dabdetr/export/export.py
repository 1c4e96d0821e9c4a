"""Export a detector: write the file, prove it, and keep it only then."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
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
from dabdetr.export.certificate import (
    BATCHES,
    PLAIN,
    Certificate,
    batches,
    certify,
    certify_plain,
    comparable,
    questions,
)
from dabdetr.export.checks import check_target, check_top
from dabdetr.export.divergence import first_difference
from dabdetr.export.formats import (
    FORMATS,
    Format,
    check_format,
    check_opset,
)
from dabdetr.export.plain import has_bf16, is_exact
from dabdetr.export.tracing import Answer
from dabdetr.inference.exported import Exported, as_inputs, prepare_for
from dabdetr.inference.metadata import Metadata
from dabdetr.inference.opening import torch_runtime
from dabdetr.inference.outputs import POSTS, check_post
from dabdetr.inference.questions import refuse_unable
from dabdetr.inference.sources import read_sources
from dabdetr.model.detector import Detector
from dabdetr.steps import Steps
from dabdetr.text import in_any_case

if TYPE_CHECKING:
    from dabdetr.export.formats import Batch

log = logging.getLogger("dabdetr")

SHOWN = 8
"""Images that the certificate looks at."""
CALIBRATION = 128
"""Images that int8 takes its ranges from, at most."""
CALIBRATED = 20
"""Questions that are asked about each of them, where the file takes questions."""


GRAPH = 6
"""Time that the graph takes to make, in comparisons with torch."""
COMPARISONS = 2 * len(BATCHES) + PLAIN
"""Batches that are compared, where a file takes any size."""


class Uncertified(Exception):
    """The exported file differs too much from torch; it was not kept."""

    def __init__(self, certificate: Certificate) -> None:
        super().__init__(f"the export failed its certificate and was not kept\n{certificate}")
        self.certificate = certificate


@dataclass(frozen=True)
class Export:
    """An exported file, and the proof that it agrees."""

    path: Path
    certificate: Certificate


SMALLEST = 16
"""Pixels of an input's side, as of --imgsz: backbones have nothing left of smaller ones."""


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
) -> Export:
    """Write ``model`` as ``output`` (its name with the format's ending, if not given).

    ``size`` (height, width) fixes the input's; else any batch and size goes. ``precision`` int8
    needs ``calibration``, data or images whose training part sets the ranges. ``post`` "boxes" puts
    the postprocessing into the graph, which then gives the ``max_det`` best boxes (the config's if
    not given) in pixels; ``padding=False`` leaves out the mask. ``with_questions`` gives the graph
    inputs for boxes that are asked about (``Predictor.ask``) and their answers. The certificate
    runs on ``images`` (see ``read_sources``), on ``data``, which are annotated and give AP, or on
    generated scenes. ``progress`` shows a bar on a terminal. Raises ``Uncertified`` where the file
    differs too much; it is then not kept.
    """
    format = in_any_case(format, FORMATS)
    chosen = check_format(format, precision)
    post, version = check_post(post), check_opset(opset)
    if size is not None and min(size) < SMALLEST:
        given = " x ".join(map(str, size))
        raise ValueError(f"height and width should be at least {SMALLEST} pixels; got {given}")
    calibration = _training(calibration)
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
        size, padding = _fixed(detector, chosen, size, post, padding)
    data = open_data(data, "val") if isinstance(data, str | Path) else data
    shown = _shown(images, data)
    metadata = Metadata(
        format,
        detector.names,
        detector.config,
        precision,
        size,
        padding,
        chosen.post or post,
        _top(detector, post, max_det),
        with_questions,
        version,
    )
    log.info("exporting, and comparing with torch …")
    ranges = None if calibration is None else partial(_calibration, metadata, calibration)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        path = Path(folder) / ("model" if chosen.in_folder else target.name)
        with Steps(GRAPH + 1 + COMPARISONS, progress) as steps:
            steps.begin(f"making the graph for {chosen.title}", GRAPH)
            file = chosen.make(detector, metadata, ranges)
            steps.begin("writing the file")
            file.write(path, file.metadata)
            answer, exported = Answer(detector, metadata=comparable(metadata)), Exported(path)
            proof = certify(answer, exported, shown, steps.begin)
            if is_exact(metadata):
                steps.begin("comparing a client without options", PLAIN)
                plain = certify_plain(answer, exported, shown, file.traced, has_bf16())
                proof = replace(proof, plain=plain)
        if data is not None and not POSTS[metadata.post].single:  # whose AP is of fewer pairs
            proof = replace(proof, ap=compare_ap(detector, path, data, progress))
        if not proof.passed:
            pixels, padding_mask, asked = next(iter(batches(exported, shown)))
            inputs = as_inputs(file.metadata, pixels, padding_mask, asked=asked)
            proof = replace(proof, diverges=first_difference(file.traced, path, inputs))
            raise Uncertified(proof)
        file.write(path, replace(file.metadata, certificate=proof.to_dict()))
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    return Export(target, proof)


def _training(source: Any) -> Any:
    """The train split where ``source`` is annotated data; else itself."""
    known = isinstance(source, str | Path) and is_data(source)
    return open_data(source, "train") if known else source


def _calibration(metadata: Metadata, source: Any) -> Iterator[Batch]:
    """Single prepared images of data's train split, or of a source of images."""
    if isinstance(source, DetectionDataset):
        found: Iterator[np.ndarray] = map(source.image, range(len(source)))
    else:
        found = (each.array for each in read_sources(source))
    for image in islice(found, CALIBRATION):
        pixels, padding = padded([prepare_for(metadata, image)], metadata.size)
        yield as_inputs(metadata, pixels, padding, asked=questions(metadata, 1, CALIBRATED))


def _fixed(
    detector: Detector, format: Format, size: tuple[int, int] | None, post: str, padding: bool
) -> tuple[tuple[int, int], bool]:
    """Size and padding of a format with an answer of its own: one size, a square if not given."""
    if post != "none" or not padding:
        raise ValueError(
            f"the format for {format.title} has its own postprocessing and no padding; leave out "
            "post and padding (--post, --no-padding)"
        )
    side = detector.config.image.size
    return size or (side, side), False


def _check_questions(detector: Detector, format: Format, post: str) -> None:
    """ValueError where no graph with questions can be made."""
    refuse_unable(detector.config)
    if format.post is not None or post != "none":
        raise ValueError(
            "questions go with a graph that gives logits and boxes of every query; leave out "
            f"{'post (--post)' if format.post is None else 'the format for ' + format.title}, or "
            "questions (--with-questions)"
        )


def _top(detector: Detector, post: str, max_det: int | None) -> int | None:
    """How many boxes of an image a graph gives; None: all queries."""
    if post == "none":
        return None
    wanted = detector.config.inference.max_det if max_det is None else max_det
    part = detector.config.model.queries
    queries = part.count * max(getattr(part, "patterns", 0), 1)
    each = 1 if detector.config.classifier == "softmax" else len(detector.names)
    return min(wanted, queries * each)


def _shown(images: Any, data: DetectionDataset | None) -> list[np.ndarray]:
    """The images of the certificate."""
    if images is not None:
        return [each.array for each in islice(read_sources(images), SHOWN)]
    if data is not None:
        return [data.image(index) for index in range(min(SHOWN, len(data)))]
    scenes = open_data("scenes", "val")
    drawn = [scenes.image(index) for index in range(SHOWN)]
    return [each if n % 2 else each[: len(each) * 3 // 4] for n, each in enumerate(drawn)]
