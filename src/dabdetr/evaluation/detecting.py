"""A model's detections of every image of a data set; torch only where weights are run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from dabdetr.data.dataset import DetectionDataset
from dabdetr.inference.exported import Compile, Runtime, SetPrecision
from dabdetr.inference.stream import Prepared, SourceImage, ahead, groups
from dabdetr.structures import Detections

if TYPE_CHECKING:
    import torch

    from dabdetr.model.detector import Detector


def detect_live(
    detector: Detector,
    data: DetectionDataset,
    batch: int,
    device: torch.device,
    max_det: int | None,
    precision: SetPrecision,
    workers: int,
    progress: bool,
    compile: Compile = False,
) -> list[Detections]:
    """Detections of every image, in the data's order."""
    from dabdetr.data.loader import evaluation_loader
    from dabdetr.inference.acceleration import AcceleratedModel
    from dabdetr.inference.torch_runtime import detect_batch

    forward = AcceleratedModel(detector, precision, compile)
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
    runtime: Runtime, data: DetectionDataset, batch: int, most: int, progress: bool = False
) -> list[Detections]:
    """The ``most`` best detections of every image, in the data's order."""
    found: list[Detections] = []
    prepared = _prepared(runtime, data)
    prepared = ahead(prepared, batch + 1) if runtime.read_ahead else prepared
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("evaluating", total=len(data))
        for group in groups(prepared, batch, "raise"):
            pixels, sources = [g.pixels for g in group], [g.image.name for g in group]
            sizes = [each.image.array.shape[:2] for each in group]
            found += runtime.detect(pixels, sizes, most, sources)
            bar.advance(task, len(group))
    return found


def _prepared(runtime: Runtime, data: DetectionDataset) -> Iterator[Prepared]:
    """Every whole image as the runtime takes it."""
    for index in range(len(data)):
        image = SourceImage(data.image(index), data.record(index).file)
        height, width = image.array.shape[:2]
        yield Prepared(image, [(0, 0, width, height)], 0, runtime.prepare(image.array))
