"""The accuracy of a model after each of its decoder layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

from dabdetr.data.dataset import DetectionDataset, ImageRecord
from dabdetr.data.loader import pad
from dabdetr.evaluation.evaluate import class_map, in_classes, run_on, score
from dabdetr.evaluation.judged import Judged, judge_image
from dabdetr.geometry import to_corners
from dabdetr.inference.opening import torch_runtime
from dabdetr.inference.runtime import Sizes
from dabdetr.inference.torch_runtime import TorchRuntime, to_detections
from dabdetr.model.detector import Detector
from dabdetr.structures import Detections, Predictions
from dabdetr.structures.drawing import new_figure, save_figure
from dabdetr.text import counted

if TYPE_CHECKING:
    from rich.console import Group

LITTLE = 0.005
"""A gain of AP below this is no improvement."""


@dataclass(frozen=True)
class LayerScore:
    """The accuracy of a decoder layer's own predictions; COCO's −1 if there are no objects.

    layer   counted from 1
    AP, AP50, recall  of the layer's detections; recall is COCO's AR with 100 detections an image
    iou     mean IoU over all objects, without crowds, of the object and the query matched to it one
            for one after the last layer: the same queries in every row. NaN: no objects
    shift   mean shift of the edges of these queries' boxes in this layer, in pixels of the image;
            NaN in the first layer of members without anchor boxes, as there is no box before it
    """

    layer: int
    AP: float
    AP50: float
    recall: float
    iou: float
    shift: float


@dataclass(frozen=True)
class LayerScores:
    """A row for each decoder layer."""

    rows: tuple[LayerScore, ...]
    images: int

    @property
    def enough(self) -> int:
        """The first layer after which no later one raises AP by ``LITTLE`` or more."""
        best = [max(row.AP for row in self.rows[at:]) for at in range(len(self.rows))]
        return next(
            r.layer for r, later in zip(self.rows, best, strict=True) if later - r.AP < LITTLE
        )

    @property
    def sentence(self) -> str:
        """Whether all layers are needed."""
        if self.enough == len(self.rows):
            return f"AP improves up to the last of {counted(len(self.rows), 'decoder layer')}"
        return (
            f"from layer {self.enough} on AP improves by less than {LITTLE}: "
            f"--layers {self.enough} is enough"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; null for numbers that are undefined."""
        rows = [
            {k: None if math.isnan(v) or v < 0 else v for k, v in asdict(row).items()}
            for row in self.rows
        ]
        return {"layers": rows, "enough": self.enough, "images": self.images}

    def table(self) -> Group:
        """A rich renderable: a row for each layer, then the sentence."""
        from rich.console import Group
        from rich.table import Table

        table = Table(title=f"{counted(self.images, 'image')}, layer by layer")
        for column in ("after layer", "AP", "AP50", "recall", "IoU", "moved (px)"):
            table.add_column(column, justify="right")
        for row in self.to_dict()["layers"]:
            shift = row.pop("shift")
            layer, *shares = row.values()
            shown = ["–" if value is None else f"{value:.3f}" for value in shares]
            table.add_row(str(layer), *shown, "–" if shift is None else f"{shift:.2f}")
        return Group(table, self.sentence)

    def plot(self, path: str | Path) -> None:
        """Write curves over layers as PNG, SVG or PDF, by the suffix of ``path``."""
        figure = new_figure(8.5, 3.6)
        left, right = figure.subplots(1, 2)
        layers = [row.layer for row in self.rows]
        styles = {"AP": "o-", "AP50": "s--", "recall": "^-.", "iou": "D:"}
        for name, style in styles.items():
            values = [getattr(row, name) for row in self.rows]
            known = [math.nan if value < 0 else value for value in values]
            left.plot(layers, known, style, label="mean IoU" if name == "iou" else name)
        if self.rows[-1].AP >= 0:
            enough = f"enough: AP rises by less than {LITTLE}"
            left.axvline(self.enough, color="grey", linewidth=0.8, label=enough)
        left.legend(fontsize=8)
        left.set(ylabel="AP, AP50, recall and IoU, 0–1", ylim=(0, 1.02))
        right.plot(layers, [row.shift for row in self.rows], "o-", color="#d55e00")
        right.set(ylabel="mean shift of the boxes' edges, pixels", ylim=(0, None))
        for panel in (left, right):
            panel.set(xlabel="decoder layer", xticks=layers)
            panel.grid(alpha=0.3)
        save_figure(figure, path)


def evaluate_layers(
    model: Detector | TorchRuntime | str | Path,
    data: DetectionDataset,
    batch: int = 4,
    max_det: int | None = None,
    workers: int = 0,
    progress: bool = False,
) -> LayerScores:
    """COCO's numbers, IoU and box shifts for the predictions of every layer, in one pass.

    A layer's predictions are those of a model that ends there. A model in training mode is returned
    to it afterwards.
    """
    runtime = torch_runtime(model)
    depth = runtime.config.model.decoder.layers
    found: dict[int, list[Detections]] = {}
    moved = [np.zeros((0, 2, depth))]
    for index, layers, boxes in run_layers(runtime, data, batch, max_det, workers, progress):
        found[index] = layers
        moved.append(_moved(boxes, data.record(index)))
    iou, shift = _means(np.concatenate(moved))
    scored = [score(data, [found[n][layer] for n in range(len(data))]) for layer in range(depth)]
    rows = (
        LayerScore(
            layer=at + 1,
            AP=each.ap,
            AP50=each.ap50,
            recall=each.numbers["AR100"],
            iou=float(iou[at]),
            shift=float(shift[at]),
        )
        for at, each in enumerate(scored)
    )
    return LayerScores(tuple(rows), len(data))


def run_layers(
    runtime: TorchRuntime,
    data: DetectionDataset,
    batch: int = 4,
    max_det: int | None = None,
    workers: int = 0,
    progress: bool = False,
) -> Iterator[tuple[int, list[Detections], torch.Tensor]]:
    """Each image's index, its detections after every decoder layer, and the boxes of its queries.

    Boxes are corners [1 + layers, queries, 4], 0–1: the first anchors, then every layer. A model
    in training mode is returned to it afterwards.
    """
    detector = runtime.model
    class_map(detector.names, data.names)
    most = runtime.config.inference.max_det if max_det is None else max_det
    depth = runtime.config.model.decoder.layers

    def every_layer(
        pixels: Sequence[torch.Tensor], sizes: Sizes, names: Sequence[str]
    ) -> list[tuple[list[Detections], torch.Tensor]]:
        with torch.no_grad():
            predictions = detector(pad(pixels).to(runtime.device))
        layers = [
            to_detections(detector, predictions, sizes, most, names, layer)
            for layer in range(depth)
        ]
        return [
            ([layer[at] for layer in layers], _boxes(predictions, at)) for at in range(len(sizes))
        ]

    was_training = detector.training
    detector.eval()
    try:
        options = (batch, workers, progress, "evaluating every layer")
        for index, (layers, boxes) in run_on(data, runtime, every_layer, *options):
            yield index, layers, boxes
    finally:
        detector.train(was_training)


def judged_by_layer(
    runtime: TorchRuntime, data: DetectionDataset, limits: np.ndarray, **options: Any
) -> list[list[Judged]]:
    """For each decoder layer, its detections above the thresholds ``limits``, paired with objects.

    ``limits`` [classes of the data]; ``options`` are those of ``run_layers``. A layer's list holds
    all images in the order of their batches.
    """
    labels = class_map(runtime.names, data.names)
    depth = runtime.config.model.decoder.layers
    judged: list[list[Judged]] = [[] for _ in range(depth)]
    for index, layers, _ in run_layers(runtime, data, **options):
        record = data.record(index)
        for of_layer, found in zip(judged, layers, strict=True):
            of_layer.append(judge_image(record, in_classes(found, labels, data.names), limits))
    return judged


def _boxes(predictions: Predictions, at: int) -> torch.Tensor:
    """[1 + layers, queries, 4] corners, 0–1, of image ``at``: its first anchors, then every layer.

    Members without anchor boxes have NaN for the anchors.
    """
    boxes = to_corners(predictions.boxes[:, at].float().cpu())
    anchors = predictions.anchors[0]
    start = boxes[:1] * torch.nan
    if anchors is not None and anchors.shape[-1] == 4:
        start = to_corners(anchors[at].float().cpu())[None]
    return torch.cat((start, boxes))


def _moved(boxes: torch.Tensor, record: ImageRecord) -> np.ndarray:
    """IoU and shift [objects, 2, layers] of the queries matched to objects after the last layer."""
    objects = torch.from_numpy(record.boxes[~record.crowd])
    boxes = boxes * torch.tensor([record.width, record.height] * 2, dtype=torch.float32)
    queries, rows, _ = matched(boxes[-1], objects)
    chosen = boxes[:, queries]
    shift = (chosen[1:] - chosen[:-1]).abs().mean(-1)
    overlaps = [box_iou(layer, objects[rows]).diagonal() for layer in chosen[1:]]
    return torch.stack((torch.stack(overlaps), shift)).permute(2, 0, 1).nan_to_num(nan=-1).numpy()


def matched(
    boxes: torch.Tensor, objects: torch.Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the queries and of the objects matched to them one for one, and their IoU.

    Both are corner boxes [n, 4] of one unit; the matching maximises the sum of IoUs.
    """
    overlaps = box_iou(boxes, objects).nan_to_num().numpy()  # NaN: two boxes without area
    queries, rows = linear_sum_assignment(overlaps, maximize=True)
    return queries, rows, overlaps[queries, rows]


def _means(moved: np.ndarray) -> np.ndarray:
    """Means over objects [2, layers]; NaN where no value is defined."""
    means = np.full(moved.shape[1:], np.nan)
    for place in np.ndindex(*means.shape):
        values = moved[(slice(None), *place)]
        if (values >= 0).any():
            means[place] = values[values >= 0].mean()
    return means
