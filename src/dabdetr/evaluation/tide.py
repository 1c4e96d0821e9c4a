"""The cost of each kind of error as in TIDE (Bolya et al. 2020): AP50 gained by fixing it alone.

The 100 best detections of an image count, without a threshold. Numbers equal those of the authors'
``tidecv``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dabdetr.data.dataset import DetectionDataset
from dabdetr.structures import Detections
from dabdetr.structures.boxes import area, iou, shared_area

KINDS = {
    "class": "right box, wrong class",
    "box": "right class, loose box",
    "both": "wrong class and loose box",
    "duplicate": "object found already",
    "background": "nothing there",
    "missed": "object that no detection comes near",
}
"""TIDE's six kinds of errors → description."""
MATCHED, NEAR, MOST = 0.5, 0.1, 100
"""IoU from which a detection is right; IoU up to which it is background; detections an image."""
_RECALLS = np.arange(101) / 100
_RIGHT, _IGNORED = -1, -2


@dataclass(frozen=True)
class Points:
    """Detections and objects of all images, as judged by TIDE.

    image, row  [found] the image's index, and the detection's row in its ``Detections``
    label, score  [found]
    kind        [found] place in ``KINDS``; −1: right
    ignored     [found] bool: on a crowd, counts neither way
    claims      [found] the object that it would match with another class or box; −1: none
    true        [objects] labels
    object_image  [objects] the image's index; objects are in the records' order, without crowds
    taken       [objects] bool: matched by a right detection
    classes     number of classes
    """

    image: np.ndarray
    row: np.ndarray
    label: np.ndarray
    score: np.ndarray
    kind: np.ndarray
    ignored: np.ndarray
    claims: np.ndarray
    true: np.ndarray
    object_image: np.ndarray
    taken: np.ndarray
    classes: int

    @property
    def ap50(self) -> float:
        """AP50 of the unchanged detections; mean over classes that have objects or detections."""
        none = np.zeros(len(self.true), bool)
        return self.fixed(np.zeros(len(self.label), bool), none)

    @property
    def missed(self) -> np.ndarray:
        """[objects] bool: neither ``taken`` nor in ``claims``."""
        claimed = np.zeros(len(self.true), bool)
        claimed[self.claims[self.claims >= 0]] = True
        return ~(self.taken | claimed)

    def counts(self) -> dict[str, int]:
        """The number of errors of each kind."""
        count = np.bincount(self.kind[self.kind >= 0], minlength=len(KINDS))
        count[-1] = self.missed.sum()
        return dict(zip(KINDS, count.tolist(), strict=True))

    def gains(self) -> dict[str, float]:
        """AP50 that fixing each kind would add, 0–1."""
        before, none = self.ap50, np.zeros(len(self.true), bool)
        gained = {}
        for at, name in enumerate(KINDS):
            lost = self.missed if name == "missed" else none
            gained[name] = max(0.0, self.fixed(self.kind == at, lost) - before)
        return gained

    def fixed(self, rows: np.ndarray, objects: np.ndarray) -> float:
        """AP50 with some errors fixed.

        Of the detections in ``rows`` [found] bool, the best one that claims a free object becomes
        right, and the others are removed. Of ``objects`` [objects] bool, those that are still not
        found are not counted.
        """
        keep = ~rows & ~self.ignored
        right, label = keep & (self.kind == _RIGHT), self.label.copy()
        claims = np.where(self.claims >= 0, self.claims, len(self.true))
        taken = np.append(self.taken, True)
        # the best of all detections that claim an object, whether or not it is in ``rows``
        claiming = np.flatnonzero(~taken[claims])
        claiming = claiming[np.lexsort((claiming, -self.score[claiming], claims[claiming]))]
        _, first = np.unique(claims[claiming], return_index=True)
        best = claiming[first]
        best = best[rows[best]]
        found = np.zeros(len(self.true), bool)
        found[self.claims[best]] = True
        right[best] = keep[best] = True
        label[best] = self.true[self.claims[best]]
        totals = np.bincount(self.true[~objects | found], minlength=self.classes)
        return _mean_ap(label[keep], self.score[keep], right[keep], totals)


def tide_points(data: DetectionDataset, detections: Sequence[Detections]) -> Points:
    """Every image's detections (with the data set's labels) and objects, judged."""
    parts: list[tuple[np.ndarray, ...]] = []
    true, object_image, taken, objects_before = [], [], [], 0
    for index, each in enumerate(detections):
        record = data.record(index)
        real = ~record.crowd
        boxes, labels = _edges(record.annotated[real]), record.labels[real]
        rows = np.argsort(-each.scores, kind="stable")[:MOST]
        found = each[rows]
        kind, claims, used = _judged(found, boxes, labels)
        crowds = _edges(record.annotated[record.crowd]), record.labels[record.crowd]
        ignored = (kind != _RIGHT) & _on_crowd(found, *crowds)
        claims = np.where(claims >= 0, claims + objects_before, -1)
        image = np.full(len(rows), index)
        parts.append((image, rows, found.labels, found.scores, kind, ignored, claims))
        true.append(labels)
        object_image.append(np.full(len(labels), index))
        taken.append(used)
        objects_before += len(labels)
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    objects = [np.concatenate(each) for each in (true, object_image, taken)]
    return Points(*columns, *objects, classes=len(data.names))


def _edges(boxes: np.ndarray) -> np.ndarray:
    """x, y, width, height → edges, as float64."""
    boxes = boxes.reshape(-1, 4).astype(float)
    return np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1)


def _judged(
    found: Detections, boxes: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kind and claimed object of each detection (best first), and which objects are taken."""
    count, names = len(found), list(KINDS)
    kind = np.full(count, names.index("background"))
    claims, used = np.full(count, -1), np.zeros(len(boxes), bool)
    if not count or not len(boxes):
        return kind, claims, used
    shared = iou(found.boxes.astype(float)[:, None], boxes)
    same = found.labels[:, None] == labels
    of_same, of_other = shared * same, shared * ~same
    free = of_same.copy()
    for row in np.flatnonzero(of_same.max(1) >= MATCHED):
        best = int(free[row].argmax())
        if free[row, best] >= MATCHED:
            kind[row], used[best] = _RIGHT, True
            free[:, best] = 0
    best_same = of_same.max(1)
    tests = [
        ("box", (best_same >= NEAR) & (best_same <= MATCHED)),
        ("class", of_other.max(1) >= MATCHED),
        ("duplicate", (of_same * used).max(1) >= MATCHED),
        ("background", shared.max(1) <= NEAR),
    ]
    wrong = kind != _RIGHT
    kind[wrong] = np.select(
        [test[wrong] for _, test in tests], [names.index(name) for name, _ in tests], 2
    )
    for name, overlap in (("box", of_same), ("class", of_other)):
        rows = kind == names.index(name)
        at = overlap[rows].argmax(1)
        claims[rows] = np.where(used[at], -1, at)
    return kind, claims, used


def _on_crowd(found: Detections, crowds: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[n] bool: more than ``MATCHED`` of the detection lies on a crowd of its class."""
    boxes = found.boxes.astype(float)
    share = shared_area(boxes[:, None], crowds) / np.maximum(area(boxes), 1e-12)[:, None]
    return ((share > MATCHED) & (found.labels[:, None] == labels)).any(1)


def _mean_ap(label: np.ndarray, score: np.ndarray, right: np.ndarray, objects: np.ndarray) -> float:
    """Mean AP over classes with objects or detections; ``objects`` [classes] are their counts."""
    order = np.lexsort((-score, label))
    label, right = label[order], right[order]
    starts = np.searchsorted(label, np.arange(len(objects) + 1))
    values = []
    for at, total in enumerate(objects.tolist()):
        hits = right[starts[at] : starts[at + 1]]
        if not total and not len(hits):
            continue
        number = hits.cumsum()
        precision = number / np.arange(1, len(hits) + 1)
        highest = np.maximum.accumulate(precision[::-1])[::-1]
        recall = number / max(total, 1)
        reached = np.append(highest, 0.0)[np.searchsorted(recall, _RECALLS)]
        values.append(float(reached.mean()) if total else 0.0)
    return float(np.mean(values)) if values else 0.0
