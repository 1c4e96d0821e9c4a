"""Statistics of a split: counts, findings, sizes and shapes, and the settings they recommend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.findings import Findings
from dabdetr.data.similar import thumbnails
from dabdetr.text import counted, printable, shortened

MOST_CLASSES = 12
"""Most classes that the line of counts names."""


@dataclass(frozen=True)
class Summary:
    """Counts of one split.

    empty       images without boxes
    unlabelled  images without a label file, where the layout has one for each
    boxes       boxes without crowds
    classes     class → number of its boxes
    """

    split: str
    images: int
    empty: int
    unlabelled: int
    boxes: int
    crowds: int
    classes: dict[str, int]
    findings: Findings = field(repr=False)

    def lines(self) -> list[str]:
        """Readable text: a line of counts, and a line for each kind of finding."""
        odd = [f"{self.empty:,} without boxes"]
        odd += [f"{self.unlabelled:,} without a label file"] if self.unlabelled else []
        crowds = f" and {counted(self.crowds, 'crowd')}" if self.crowds else ""
        used = [name for name in self.classes if self.classes[name]]
        order = sorted(used, key=lambda name: -self.classes[name])
        named = ", ".join(
            f"{self.classes[name]:,}× {shortened(name, 60)}" for name in order[:MOST_CLASSES]
        )
        more = f" and {len(order) - MOST_CLASSES} more" if len(order) > MOST_CLASSES else ""
        part = f"{len(used)} of " if 0 < len(used) < len(self.classes) else ""
        counts = (
            f"{self.split}: {counted(self.images, 'image')}, {', '.join(odd)}; "
            f"{counted(self.boxes, 'box', 'boxes')}{crowds} of "
            f"{part}{counted(len(self.classes), 'class', 'classes')}"
            + (f": {named}{more}" if used else "")
        )
        found = [f"{self.split}: {each}" for each in self.findings]
        return [shortened(printable(line)) for line in (counts, *found)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "split": self.split,
            "images": self.images,
            "images_without_boxes": self.empty,
            "images_without_label_file": self.unlabelled,
            "boxes": self.boxes,
            "crowds": self.crowds,
            "classes": self.classes,
            "findings": self.findings.to_dict(),
        }


def summarise(data: DetectionDataset) -> Summary:
    """The counts of a split; no image file is read."""
    counts = np.zeros(len(data.names), np.int64)
    empty = crowds = 0
    for index in range(len(data)):
        record = data.record(index)
        labels = record.labels[~record.crowd]
        counts += np.bincount(labels, minlength=len(counts))
        empty += not len(record.labels)
        crowds += int(record.crowd.sum())
    return Summary(
        split=data.split,
        images=len(data),
        empty=empty,
        unlabelled=data.findings.count("label-missing"),
        boxes=int(counts.sum()),
        crowds=crowds,
        classes=dict(zip(data.names, counts.tolist(), strict=True)),
        findings=data.findings,
    )


QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True)
class Description:
    """Sizes, shapes and brightness in one split; arrays have one entry per image or per box.

    widths, heights  [images] pixels
    objects          [images] boxes of each image, without crowds
    sides            [boxes] square root of the area in pixels
    shares           [boxes] square root of the box's share of the image area, 0–1
    aspects          [boxes] width / height
    shorter          [boxes] shorter side of its image, pixels
    brightness       [images] mean grey level 0–255; NaN for a file that cannot be read
    classes          class → number of its boxes, without crowds
    """

    split: str
    widths: np.ndarray
    heights: np.ndarray
    objects: np.ndarray
    sides: np.ndarray
    shares: np.ndarray
    aspects: np.ndarray
    shorter: np.ndarray
    brightness: np.ndarray
    classes: dict[str, int]

    def columns(self) -> dict[str, np.ndarray]:
        """Readable name → the values that are summarised by quantiles."""
        return {
            "image width (px)": self.widths,
            "image height (px)": self.heights,
            "image width / height": self.widths / self.heights,
            "brightness (0–255)": self.brightness[np.isfinite(self.brightness)],
            "objects per image": self.objects,
            "object size (px)": self.sides,
            "object size / image size": self.shares,
            "object width / height": self.aspects,
        }

    def to_dict(self) -> dict[str, Any]:
        """Quantiles of each column, ready for JSON; null for a column without values."""
        most, least = max(self.classes.values(), default=0), min(self.classes.values(), default=0)
        return {
            "quantiles": list(QUANTILES),
            "columns": {
                name: [round(float(q), 4) for q in np.quantile(values, QUANTILES)]
                if len(values)
                else None
                for name, values in self.columns().items()
            },
            "class_balance": {"most": most, "least": least},
        }


def describe(data: DetectionDataset, progress: bool = False) -> Description:
    """Sizes, shapes and brightness of a split; brightness comes from the images' thumbnails."""
    records = [data.record(index) for index in range(len(data))]
    keep = [~record.crowd for record in records]
    boxes = [record.boxes[rows] for record, rows in zip(records, keep, strict=True)]
    counts = np.array([len(each) for each in boxes], np.int64)
    frames = np.array([(r.width, r.height) for r in records], np.float64).reshape(-1, 2)
    edges = np.concatenate(boxes).astype(np.float64)
    sides = edges[:, 2:] - edges[:, :2]
    frame_of_box = np.repeat(frames, counts, axis=0)
    files = [record.file for record in records]
    grey = thumbnails(files, progress).reshape(len(files), -1).astype(np.float64)
    brightness = np.where(grey.any(1), grey.mean(1), np.nan)
    labels = np.concatenate([r.labels[k] for r, k in zip(records, keep, strict=True)])
    tallied = np.bincount(labels, minlength=len(data.names)).tolist()
    return Description(
        split=data.split,
        widths=frames[:, 0],
        heights=frames[:, 1],
        objects=counts,
        sides=np.sqrt(sides.prod(1)),
        shares=np.sqrt((sides / frame_of_box).prod(1)),
        aspects=sides[:, 0] / sides[:, 1],
        shorter=frame_of_box.min(1),
        brightness=brightness,
        classes=dict(zip(data.names, tallied, strict=True)),
    )


SIZES = (256, 320, 416, 512, 640, 800, 1024, 1280)
"""Shorter sides of the input that can be recommended, pixels."""
QUERY_COUNTS = (100, 200, 300, 600, 900, 1500)
LEARNABLE = 32
"""Pixels that an object should have in the model's input: four cells of stride 8."""
SMALL_SHARE = 0.1
"""Share of the objects that may have less than ``LEARNABLE`` pixels."""


@dataclass(frozen=True)
class Advice:
    """Recommended settings for a data set, and the reasons.

    size     shorter side of the input in pixels
    queries  number of queries
    tiles    side of the tiles in pixels; 0 for no tiling
    """

    size: int
    queries: int
    tiles: int
    reasons: tuple[str, ...]

    def lines(self) -> list[str]:
        """Readable text: the recommended options, and a line for each reason."""
        options = f"--imgsz {self.size} --queries {self.queries}"
        tiles = f"; predict --tile-size {self.tiles}" if self.tiles else ""
        return [f"recommended: {options}{tiles}", *(f"  {reason}" for reason in self.reasons)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "imgsz": self.size,
            "queries": self.queries,
            "tiles": self.tiles or None,
            "reasons": list(self.reasons),
        }


def recommend(described: Sequence[Description]) -> Advice:
    """Input size, queries and tiles for the smallest objects and for the image with most objects.

    The input size is the smallest at which nine of ten objects have ``LEARNABLE`` pixels, and at
    most the size of the images. Where even the largest size is too small, tiling is recommended.
    """
    sides = np.concatenate([each.sides for each in described])
    shorter = np.concatenate([each.shorter for each in described])
    images = np.concatenate([np.minimum(each.widths, each.heights) for each in described])
    most = int(max(each.objects.max(initial=0) for each in described))
    image_side = float(np.median(images))
    wanted = float(np.quantile(LEARNABLE * shorter / sides, 1 - SMALL_SHARE)) if len(sides) else 0
    fitting = [size for size in SIZES if size >= wanted]
    largest = next((size for size in SIZES if size >= image_side), SIZES[-1])
    size = min(fitting[0] if fitting else SIZES[-1], max(largest, SIZES[0]))
    queries = next((count for count in QUERY_COUNTS if count >= 1.5 * most), 2 * most)
    reasons = [f"an image has up to {counted(most, 'object')}"]
    if wanted:
        reasons = [
            f"nine of ten objects have {LEARNABLE} px or more if the image's shorter side is "
            f"{wanted:,.0f} px; it is {image_side:,.0f} px in the data",
            *reasons,
        ]
    tiles = 0
    if wanted > 1.25 * size and image_side > size:
        tiles = int(min(image_side, size * image_side / wanted) // 32 * 32) or 32
        reasons.append(f"at {size} too many objects are smaller: tiles of {tiles} pixels show them")
    elif wanted > 1.25 * size:
        reasons.append("objects are small in the images; larger images would help")
    return Advice(size, queries, tiles, tuple(reasons))
