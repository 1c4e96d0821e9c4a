"""Why an object was missed or a detection is false, read from boxes and scores of every layer.

Numpy alone: the layers may be a decoder's, or one layer that is made of detections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dabdetr.evaluation.causes import Decoded, Doubt, Error
from dabdetr.evaluation.curves import OVERLAP
from dabdetr.evaluation.judged import Judged
from dabdetr.evaluation.operating_point import LOWEST
from dabdetr.structures.boxes import iou

NEAR = 0.1
"""IoU from which a box is a loose one of an object (TIDE's bound of the background)."""
EXPLAINED = 0.3
"""IoU with a found object from which a second detection of its class is a double of the first."""
DOUBT = 0.5
"""Suspicion from which a label is taken to be wrong."""
SURE = 0.5
"""Score from which a detection without an object says that a label is missing, if the layer before
the last would have shown it too."""


class Attribution:
    """The causes of one image's errors.

    ``judged`` are its detections and objects; ``limits`` [classes] the thresholds that detections
    were shown from; ``doubts`` what the model says against labels, by the object's row.
    """

    def __init__(
        self,
        index: int,
        judged: Judged,
        decoded: Decoded,
        limits: np.ndarray,
        doubts: Mapping[int, Doubt] | None = None,
    ) -> None:
        self.index, self.judged, self.decoded = index, judged, decoded
        self.limits, self.doubts = limits, doubts
        self.names = judged.found.names
        self.row_of = {int(slot): row for row, slot in enumerate(decoded.slots)}
        shown = judged.found
        self.caught_by = {
            int(shown.queries[judged.of_object[at]]): int(at)
            for at in np.flatnonzero(judged.caught)
        }
        taken = np.isin(decoded.slots, list(self.caught_by))
        self.free = np.flatnonzero(~taken)

    def errors(self) -> list[Error]:
        """All of the image: missed objects first."""
        missed = [self._missed(int(at)) for at in np.flatnonzero(~self.judged.caught)]
        blamed = {error.object: error for error in missed}
        right = np.zeros(len(self.judged.found), bool)
        right[self.judged.of_object[self.judged.caught]] = True
        false = [self._false(int(at), blamed) for at in np.flatnonzero(~right)]
        return [*missed, *false]

    # Missed objects

    def _missed(self, at: int) -> Error:
        judged, decoded = self.judged, self.decoded
        label, box = int(judged.labels[at]), judged.boxes[at]
        overlap = iou(decoded.boxes, box)  # [layers, queries]
        base = Error(
            "missed",
            "no_query",
            self.index,
            tuple(map(float, box)),
            "",
            object=at,
            label=label,
        )
        free = self.free
        near = free[overlap[-1, free] >= OVERLAP]
        paired = int(judged.of_object[at])
        if paired >= 0:  # shown, with another class
            near = np.array([self.row_of[int(judged.found.queries[paired])]])
        if len(near):
            return self._near(base, near, overlap)
        loose = self._loose_one(at)
        loose = self._loose_query(at, overlap) if loose is None else loose
        if loose is not None:
            return self._told(base, loose, overlap, "loose", decoded.layers)
        if not decoded.whole:
            return self._phantom(replace(base, cause="not_found", why="no detection is near"))
        came = [layer for layer in range(decoded.layers) if (overlap[layer, free] >= OVERLAP).any()]
        if came:
            return self._phantom(self._left(base, came[-1], overlap))
        return self._phantom(self._no_query(base, overlap))

    def _near(self, base: Error, near: np.ndarray, overlap: np.ndarray) -> Error:
        """A box is right after the last layer: its class or its score is not."""
        scores, label = self.decoded.scores, base.label
        assert label is not None
        best = int(near[np.lexsort((-overlap[-1, near], -scores[-1, near, label]))[0]])
        found = int(scores[-1, best].argmax())
        if found != label:
            # the class as which most is seen there: what a reader sees as the mistake
            strongest = int(near[scores[-1, near].max(1).argmax()])
            best, found = strongest, int(scores[-1, strongest].argmax())
        if found == label:
            return self._told(base, best, overlap, "under_threshold", self.decoded.layers)
        since = self._since(best, found)
        error = self._told(base, best, overlap, "wrong_class", since, found)
        return self._class_doubt(error, best, found, overlap)

    def _since(self, row: int, found: int) -> int:
        """The layer, from 1 on, from which on the query has had this class."""
        classes = self.decoded.scores[:, row].argmax(1)
        other = np.flatnonzero(classes != found)
        return int(other[-1]) + 2 if len(other) else 1

    def _class_doubt(self, error: Error, row: int, found: int, overlap: np.ndarray) -> Error:
        """The label's fault where every layer contradicts it, and the question about it too."""
        scores, label = self.decoded.scores, error.label
        own, other = scores[:, row, label], scores[:, row, found]
        there = overlap[:, row] >= OVERLAP
        suspicion = float(other[-1] - own[-1])
        if self.doubts is not None:
            doubt = self.doubts.get(error.object or 0)
            suspicion = doubt.suspicion if doubt and doubt.kind == "class" else 0.0
        shown = other[-1] >= self.limits[found]
        if not shown or suspicion < DOUBT or (there & (own > other)).any():
            return error
        why = f"{error.why}; no layer sees {self.names[label or 0]} there: the label looks wrong"
        return replace(error, cause="label", why=why, otherwise=error)

    def _phantom(self, error: Error) -> Error:
        """The label's fault where the model, asked about the box, finds nothing in it."""
        doubt = (self.doubts or {}).get(error.object or 0)
        if doubt is None or doubt.kind not in ("phantom", "double") or doubt.suspicion < DOUBT:
            return error
        what = (
            "a better label covers the same object"
            if doubt.kind == "double"
            else "asked about its box, the model finds nothing there"
        )
        why = f"{error.why}; {what}: the label looks wrong"
        return replace(error, cause="label", why=why, otherwise=error)

    def _loose_one(self, at: int) -> int | None:
        """The query of a false detection of the object's class that overlaps it most of all."""
        judged, best, most = self.judged, None, 0.0
        for row in np.flatnonzero(judged.of_found < 0):
            if judged.found.labels[row] != judged.labels[at]:
                continue
            query = self.row_of[int(judged.found.queries[row])]
            shared = iou(judged.found.boxes[row], judged.boxes)
            if shared[at] >= max(NEAR, most) and shared.argmax() == at:
                best, most = query, float(shared[at])
        return best

    def _loose_query(self, at: int, overlap: np.ndarray) -> int | None:
        """The query that sees the object's class and overlaps it most, if it is not far away."""
        scores, label = self.decoded.scores[-1], self.judged.labels[at]
        able = (scores.argmax(1) == label) & (scores[:, label] >= LOWEST)
        rows = self.free[able[self.free] & (overlap[-1, self.free] >= EXPLAINED)]
        if not len(rows):
            return None
        best = int(rows[overlap[-1, rows].argmax()])
        own = iou(self.decoded.boxes[-1, best], self.judged.boxes)
        return best if own.argmax() == at else None

    def _left(self, base: Error, layer: int, overlap: np.ndarray) -> Error:
        """A query had the box after ``layer`` (from 0 on) and none has it after the last."""
        rows = self.free[overlap[layer, self.free] >= OVERLAP]
        label = base.label
        assert label is not None
        row = int(rows[self.decoded.scores[layer, rows, label].argmax()])
        return self._told(base, row, overlap, "left", layer + 2)

    def _no_query(self, base: Error, overlap: np.ndarray) -> Error:
        best = overlap[:, self.free].max(1, initial=0)
        layer = int(best.argmax())
        if best[layer] > 0:
            row = int(self.free[overlap[layer, self.free].argmax()])
        else:
            centre = np.array(base.box).reshape(2, 2).mean(0)
            middles = self.decoded.boxes[-1].reshape(-1, 2, 2).mean(1)
            layer = self.decoded.layers - 1
            row = int(np.linalg.norm(middles - centre, axis=1).argmin())
        return self._told(base, row, overlap, "no_query", layer + 1)

    def _anchor_away(self, box: Sequence[float]) -> str:
        """How far the nearest anchor starts."""
        start = self.decoded.start
        if start is None or not len(start):
            return ""
        centre = np.array(box).reshape(2, 2).mean(0)
        middles = start if start.shape[1] == 2 else start.reshape(-1, 2, 2).mean(1)
        away = np.linalg.norm(middles - centre, axis=1).min()
        text = f"; the nearest anchor starts {away:.0f} px from its centre"
        if start.shape[1] == 4:
            text += f", the best one with IoU {iou(start, np.array(box)).max():.2f}"
        return text

    def _told(
        self,
        error: Error,
        row: int,
        overlap: np.ndarray,
        cause: str,
        layer: int,
        found: int | None = None,
    ) -> Error:
        """The error with its cause, and the query that shows it."""
        decoded, names = self.decoded, self.names
        label = error.label
        assert label is not None
        slot, shared = int(decoded.slots[row]), overlap[:, row]
        score = float(decoded.scores[-1, row, label if found is None else found])
        limit = float(self.limits[label])
        query = f"query {slot}" if decoded.whole else "a detection"
        if cause == "no_query":
            at = f"query {slot} after layer {layer}"
            why = f"the nearest box has IoU {shared[layer - 1]:.2f} ({at})"
            why += self._anchor_away(error.box)
        elif cause == "left":
            why = f"{query} had IoU {shared[layer - 2]:.2f} after layer {layer - 1}; layer {layer}"
            why += f" moved it away (IoU {shared[layer - 1]:.2f})"
        elif cause == "wrong_class":
            assert found is not None
            own = float(decoded.scores[-1, row, label])
            why = f"{query} fits (IoU {shared[-1]:.2f}) and says {names[found]} {score:.2f}, "
            why += f"{names[label]} {own:.2f}"
            if decoded.whole and decoded.layers > 1:
                why += f", since layer {layer}"
        elif cause == "loose":
            why = f"{query} says {names[label]} {score:.2f} with IoU {shared[-1]:.2f}"
        else:
            why = f"{query} fits (IoU {shared[-1]:.2f}) and says {names[label]} {score:.2f}: "
            if score >= limit:
                why += "left out by suppression or the number of detections"
            else:
                why += f"the threshold is {limit:.2f}" + self._faded(row, label, overlap, limit)
        return replace(
            error,
            cause=cause,
            why=why,
            query=slot if decoded.whole else None,
            layer=layer if decoded.whole else None,
            found=found,
            score=score,
            shown=tuple(map(float, decoded.boxes[layer - 1, row])),
            overlap=tuple(map(float, shared)) if decoded.whole else (float(shared[-1]),),
        )

    def _faded(self, row: int, label: int, overlap: np.ndarray, limit: float) -> str:
        """Whether a layer before the last would have shown it."""
        good = (self.decoded.scores[:, row, label] >= limit) & (overlap[:, row] >= OVERLAP)
        if not good.any():
            return ""
        last = int(np.flatnonzero(good)[-1])
        score = self.decoded.scores[last, row, label]
        return f"; after layer {last + 1} it was {score:.2f}"

    # False detections

    def _false(self, at: int, blamed: Mapping[int | None, Error]) -> Error:
        judged, decoded = self.judged, self.decoded
        found, box = judged.found, judged.found.boxes[at]
        label, score, slot = int(found.labels[at]), float(found.scores[at]), int(found.queries[at])
        name = self.names[label]
        shared = iou(box, judged.boxes) if len(judged.boxes) else np.zeros(0)
        base = Error(
            "false",
            "background",
            self.index,
            tuple(map(float, box)),
            f"{name} {score:.2f} where no object is",
            detection=at,
            query=slot if decoded.whole else None,
            layer=decoded.layers if decoded.whole else None,
            found=label,
            score=score,
        )
        pair = int(judged.of_found[at])
        if pair >= 0:  # an object of another class
            return self._of_pair(base, pair, blamed.get(pair))
        over = int(np.where(judged.labels == label, shared, -1).argmax()) if len(shared) else -1
        if over >= 0 and judged.labels[over] != label:
            over = -1
        covered = int(shared.argmax()) if len(shared) else -1
        double = self._double(at, over, shared)
        if double is not None:
            return self._doubling(base, at, double)
        if over >= 0 and shared[over] >= NEAR and not judged.caught[over]:
            return self._with_object(
                base, over, "loose", f"{name} {score:.2f} with IoU {shared[over]:.2f}"
            )
        if covered >= 0 and shared[covered] >= OVERLAP:
            other = self.names[int(judged.labels[covered])]
            why = f"{name} {score:.2f} on an object that is {other}"
            return self._with_object(base, covered, "wrong_class", why)
        if covered >= 0 and shared[covered] >= EXPLAINED:
            other = self.names[int(judged.labels[covered])]
            why = f"{name} {score:.2f} with IoU {shared[covered]:.2f} on an object that is {other}"
            return self._with_object(base, covered, "loose", why)
        if score >= SURE and self._seen_before(base):
            why = f"{name} {score:.2f} where no label is: one may be missing"
            return replace(base, cause="label", why=why, otherwise=base)
        return base

    def _seen_before(self, error: Error) -> bool:
        """Whether the query was at this place before the last layer, with a score that is shown."""
        if error.query is None or self.decoded.layers == 1:
            return True
        row, label = self.row_of[error.query], error.found or 0
        shared = iou(self.decoded.boxes[-2, row], np.array(error.box))
        score = self.decoded.scores[-2, row, label]
        return bool(shared >= OVERLAP and score >= self.limits[label])

    def _of_pair(self, base: Error, pair: int, missed: Error | None) -> Error:
        """A detection that has an object of another class: as its object says."""
        true = self.names[int(self.judged.labels[pair])]
        name = self.names[base.found or 0]
        why = f"{name} {base.score or 0:.2f} on an object that is {true}"
        error = self._with_object(base, pair, "wrong_class", why)
        if missed is None or missed.cause not in ("wrong_class", "label"):
            return error
        error = replace(error, layer=missed.layer)
        if missed.cause == "wrong_class":
            return error
        return replace(error, cause="label", why=missed.why, otherwise=error)

    def _with_object(self, base: Error, at: int, cause: str, why: str) -> Error:
        overlap: tuple[float, ...] = ()
        if base.query is not None:
            boxes = self.decoded.boxes[:, self.row_of[base.query]]
            overlap = tuple(map(float, iou(boxes, self.judged.boxes[at])))
        label = int(self.judged.labels[at])
        return replace(base, cause=cause, why=why, object=at, label=label, overlap=overlap)

    def _double(self, at: int, over: int, shared: np.ndarray) -> int | None:
        """The detection of the same class and object that scores more."""
        judged, found = self.judged, self.judged.found
        if over >= 0 and judged.caught[over] and shared[over] >= EXPLAINED:
            return int(judged.of_object[over])
        better = (found.scores > found.scores[at]) & (found.labels == found.labels[at])
        overlap = np.where(better, iou(found.boxes[at], found.boxes), 0)
        best = int(overlap.argmax()) if len(overlap) else -1
        return best if best >= 0 and overlap[best] >= OVERLAP else None

    def _doubling(self, base: Error, at: int, other: int) -> Error:
        judged, decoded, found = self.judged, self.decoded, self.judged.found
        shared = float(iou(found.boxes[at], found.boxes[other]))
        why = f"IoU {shared:.2f} with a detection of {found.scores[other]:.2f}"
        slot, layer = int(found.queries[other]), base.layer
        if decoded.whole:
            both = (self.row_of[int(found.queries[at])], self.row_of[slot])
            way = iou(*(decoded.boxes[:, row] for row in both))
            apart = np.flatnonzero(way < OVERLAP)
            layer = int(apart[-1]) + 2 if len(apart) else 1
            layer = min(layer, decoded.layers)
            why += f": queries {base.query} and {slot}, one box since layer {layer}"
        pair = int(judged.of_found[other])
        error = base if pair < 0 else self._with_object(base, pair, "double", why)
        return replace(
            error,
            cause="double",
            why=why,
            layer=layer,
            other=slot if decoded.whole else None,
            doubles=tuple(map(float, found.boxes[other])),
        )


def settled(errors: Sequence[Error], judged: Sequence[Judged], classes: int) -> list[Error]:
    """The errors of all images; where the model errs by habit, labels are not to blame.

    A label is suspected only while most objects of its class are found, and a missing one only
    while most detections that are so sure of this class are right.
    """
    right, objects, sure = (np.zeros(classes) for _ in range(3))
    for each in judged:
        np.add.at(right, each.labels[each.caught], 1)
        np.add.at(objects, each.labels, 1)
        scores = each.found.scores[each.of_object[each.caught]]
        np.add.at(sure, each.labels[each.caught][scores >= SURE], 1)
    missing = Counter(
        error.found for error in errors if error.cause == "label" and error.object is None
    )

    def fair(error: Error) -> bool:
        if error.object is None:
            return error.found is not None and sure[error.found] >= missing[error.found]
        return error.label is not None and 2 * right[error.label] >= objects[error.label]

    return [
        error if error.otherwise is None or fair(error) else error.otherwise for error in errors
    ]
