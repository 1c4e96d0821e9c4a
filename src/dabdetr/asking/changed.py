"""A data set with edited boxes in some of its images; everything else is unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dabdetr.data.dataset import DetectionDataset, ImageRecord
from dabdetr.structures.boxes import area


@dataclass(frozen=True)
class Edit:
    """The edit of a box.

    row    row of the box in the image's record; None: a new box
    box    x0 y0 x1 y1 in pixels after the edit; None: the box is removed
    label  in the edited data set's names; None: unchanged
    """

    row: int | None
    box: Sequence[float] | None
    label: int | None = None


class Changed(DetectionDataset):
    """``data`` with ``edits`` by image index; ``names`` may add classes after those of ``data``."""

    def __init__(
        self,
        data: DetectionDataset,
        edits: Mapping[int, Sequence[Edit]],
        names: Sequence[str] | None = None,
    ) -> None:
        self.data, self.edits = data, edits
        self.name, self.split = data.name, data.split
        self.names = data.names if names is None else tuple(names)
        assert self.names[: len(data.names)] == tuple(data.names)
        added = len(self.names) - len(data.names)
        first = max(data.category_ids, default=0) + 1
        self.category_ids = (*data.category_ids, *range(first, first + added))
        self.mirrors, self.findings, self.bits = data.mirrors, data.findings, data.bits

    def __len__(self) -> int:
        return len(self.data)

    def image(self, index: int) -> np.ndarray:
        """The unchanged image."""
        return self.data.image(index)

    def shape(self, index: int) -> tuple[int, int]:
        """The unchanged (height, width)."""
        return self.data.shape(index)

    def record(self, index: int) -> ImageRecord:
        """The record with its edits."""
        record = self.data.record(index)
        if not self.edits.get(index):
            return record
        boxes, labels = record.boxes.copy(), record.labels.copy()
        areas, annotated = record.areas.copy(), record.annotated.copy()
        removed: list[int] = []
        added: list[Edit] = []
        for edit in self.edits[index]:
            if edit.row is None:
                added.append(edit)
            elif edit.box is None:
                removed.append(edit.row)
            else:
                if edit.label is not None:
                    labels[edit.row] = edit.label
                if not np.allclose(boxes[edit.row], edit.box):
                    boxes[edit.row] = edit.box
                    areas[edit.row] = area(np.asarray(edit.box, np.float64))
                    annotated[edit.row] = _as_annotated(edit.box)
        keep = np.delete(np.arange(len(boxes)), removed)
        new = np.array([each.box for each in added], np.float32).reshape(-1, 4)
        rows = np.array([_as_annotated(box) for box in new]).reshape(-1, 4)
        return replace(
            record,
            boxes=np.concatenate((boxes[keep], new)),
            labels=np.concatenate(
                (labels[keep], np.array([each.label for each in added], np.int64))
            ),
            crowd=np.concatenate((record.crowd[keep], np.zeros(len(new), bool))),
            areas=np.concatenate((areas[keep], area(new.astype(np.float64)))),
            annotated=np.concatenate((annotated[keep], rows)),
        )


def _as_annotated(box: Sequence[float] | np.ndarray) -> np.ndarray:
    """The box as x, y, width, height."""
    x0, y0, x1, y1 = np.asarray(box, np.float64)
    return np.array((x0, y0, x1 - x0, y1 - y0))
