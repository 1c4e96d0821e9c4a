"""A model's detections of every picture of a data set; torch only where weights are run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from dabdetr.data.readers import DetectionData
from dabdetr.inference.reading import Picture, Prepared, ahead, groups
from dabdetr.inference.runtimes import Compile, Runtime, SetPrecision
from dabdetr.structures import Detections

if TYPE_CHECKING:
    import torch

    from dabdetr.model.detector import Detector


def detect_live(
    detector: Detector,
    data: DetectionData,
    batch: int,
    device: torch.device,
    max_det: int | None,
    precision: SetPrecision,
    workers: int,
    progress: bool,
    compile: Compile = False,
) -> list[Detections]:
    """Detections of every picture, in the data's order."""
    from dabdetr.data.batching import evaluation_loader
    from dabdetr.inference.fast import Fast
    from dabdetr.inference.live import detect_batch

    forward = Fast(detector, precision, compile)
    config = detector.config
    most = config.inference.max_det if max_det is None else max_det
    found: dict[int, Detections] = {}
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("evaluating", total=len(data))
        for images, indices, sizes in evaluation_loader(data, config.image, batch, workers):
            sources = [data.record(index).file for index in indices]
            each = detect_batch(detector, images.to(device), sizes, most, sources, forward=forward)
            found.update(zip(indices, each, strict=True))
            bar.advance(task, len(indices))
    return [found[index] for index in range(len(data))]


def detect_exported(
    runtime: Runtime, data: DetectionData, batch: int, most: int, progress: bool = False
) -> list[Detections]:
    """The ``most`` best detections of every picture, in the data's order."""
    found: list[Detections] = []
    prepared = _prepared(runtime, data)
    prepared = ahead(prepared, batch + 1) if runtime.read_ahead else prepared
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("evaluating", total=len(data))
        for group in groups(prepared, batch, "raise"):
            pixels, sources = [g.pixels for g in group], [g.picture.name for g in group]
            sizes = [each.picture.array.shape[:2] for each in group]
            found += runtime.detect(pixels, sizes, most, sources)
            bar.advance(task, len(group))
    return found


def _prepared(runtime: Runtime, data: DetectionData) -> Iterator[Prepared]:
    """Every whole picture as the runtime takes it."""
    for index in range(len(data)):
        picture = Picture(data.picture(index), data.record(index).file)
        height, width = picture.array.shape[:2]
        yield Prepared(picture, [(0, 0, width, height)], 0, runtime.prepare(picture.array))
