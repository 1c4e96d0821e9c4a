"""What a split holds: counts of images and boxes, and what was odd in its files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.findings import Findings
from dabdetr.text import printable

MOST_CLASSES = 12
"""Classes that a line names."""


@dataclass(frozen=True)
class Summary:
    """Counts of one split.

    unlabelled  images without a label file, where the layout has one for each
    boxes       boxes to learn; crowds are counted apart
    classes     class → its boxes
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
        """For people: one of counts, and one for each kind of finding."""
        odd = [f"{self.empty:,} without boxes"]
        odd += [f"{self.unlabelled:,} without a label file"] if self.unlabelled else []
        crowds = f" and {self.crowds:,} crowds" if self.crowds else ""
        order = sorted(self.classes, key=lambda name: -self.classes[name])
        named = ", ".join(f"{name} {self.classes[name]:,}" for name in order[:MOST_CLASSES])
        more = f" and {len(order) - MOST_CLASSES} more" if len(order) > MOST_CLASSES else ""
        counts = (
            f"{self.split}: {self.images:,} images, {', '.join(odd)}; {self.boxes:,} boxes{crowds}"
            f" of {len(self.classes)} classes: {named}{more}"
        )
        found = [f"{self.split}: {each}" for each in self.findings]
        return [printable(line) for line in (counts, *found)]

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
    """The counts of a split; no image is read."""
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
