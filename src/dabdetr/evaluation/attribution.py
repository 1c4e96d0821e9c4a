"""The cause of each missed object and false detection, from boxes and scores of every layer.

Without torch: the layers are a decoder's, or one layer made from detections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dabdetr.evaluation.causes import Decoded, Error
from dabdetr.evaluation.curves import OVERLAP
from dabdetr.evaluation.judged import Judged
from dabdetr.evaluation.operating_point import LOWEST
from dabdetr.evaluation.suspicions import Suspicion
from dabdetr.structures.boxes import iou

NEAR = 0.1
"""IoU from which a box is a loose box of an object (TIDE's bound of the background)."""
EXPLAINED = 0.3
"""IoU with a found object from which a second detection of its class is a duplicate."""
DOUBT = 0.5
"""Suspicion from which a label counts as wrong."""
SURE = 0.5
"""Score from which a detection without an object suggests a missing label, if the layer before
the last would have shown it too."""


class Attribution:
    """The causes of one image's errors.

    ``judged`` are the image's detections and objects; ``limits`` [classes] the thresholds of shown
    detections; ``doubts`` the labels that the model contradicts, by the object's row.
    """

    def __init__(
        self,
        index: int,
        judged: Judged,
        decoded: Decoded,
        limits: np.ndarray,
        doubts: Mapping[int, Suspicion] | None = None,
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
        self.overlap = iou(shown.boxes[:, None], judged.boxes[None])  # [detections, objects]

    def errors(self) -> list[Error]:
        """All errors of the image, missed objects first."""
        missed = [self._missed(int(at)) for at in np.flatnonzero(~self.judged.caught)]
        missed_by_object = {error.object: error for error in missed}
        right = np.zeros(len(self.judged.found), bool)
        right[self.judged.of_object[self.judged.caught]] = True
        false = [self._false(int(at), missed_by_object) for at in np.flatnonzero(~right)]
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
        if paired >= 0:  # shown as another class
            near = np.array([self.row_of[int(judged.found.queries[paired])]])
        if len(near):
            return self._right_box(base, near, overlap)
        loose = self._loose_detection(at)
        loose = self._loose_query(at, overlap) if loose is None else loose
        if loose is not None:
            return self._with_cause(base, loose, overlap, "loose", decoded.layers)
        layers_near = np.flatnonzero((overlap[:, free] >= OVERLAP).any(1))
        if not decoded.whole:
            error = replace(base, cause="not_found", why="no detection is near")
        elif len(layers_near):
            layer = int(layers_near[-1])
            rows = free[overlap[layer, free] >= OVERLAP]
            row = int(rows[decoded.scores[layer, rows, label].argmax()])
            error = self._with_cause(base, row, overlap, "left", layer + 2)
        else:
            error = self._no_query(base, overlap)
        return self._label_on_nothing(error)

    def _right_box(self, base: Error, near: np.ndarray, overlap: np.ndarray) -> Error:
        """The error for a right box after the last layer, whose class or score is wrong."""
        scores, label = self.decoded.scores, base.label
        assert label is not None
        best = int(near[np.lexsort((-overlap[-1, near], -scores[-1, near, label]))[0]])
        found = int(scores[-1, best].argmax())
        if found != label:
            # report the class with the highest score there, as the reader of an image would
            strongest = int(near[scores[-1, near].max(1).argmax()])
            best, found = strongest, int(scores[-1, strongest].argmax())
        if found == label:
            return self._with_cause(base, best, overlap, "under_threshold", self.decoded.layers)
        other = np.flatnonzero(scores[:, best].argmax(1) != found)
        layer = int(other[-1]) + 2 if len(other) else 1
        error = self._with_cause(base, best, overlap, "wrong_class", layer, found)
        return self._class_doubt(error, best, found, overlap)

    def _class_doubt(self, error: Error, row: int, found: int, overlap: np.ndarray) -> Error:
        """``error`` as a wrong label, if every layer and the answer about its box contradict it."""
        scores, label = self.decoded.scores, error.label
        labelled, predicted = scores[:, row, label], scores[:, row, found]
        near = overlap[:, row] >= OVERLAP
        suspicion = float(predicted[-1] - labelled[-1])
        if self.doubts is not None:
            doubt = self.doubts.get(error.object or 0)
            suspicion = doubt.suspicion if doubt and doubt.kind == "class" else 0.0
        shown = predicted[-1] >= self.limits[found]
        if not shown or suspicion < DOUBT or (near & (labelled > predicted)).any():
            return error
        why = f"{error.why}; no layer prefers {self.names[label or 0]}: the label looks wrong"
        return replace(error, cause="label", why=why, otherwise=error)

    def _label_on_nothing(self, error: Error) -> Error:
        """``error`` as a wrong label, if the model, asked about the box, finds nothing in it."""
        doubt = (self.doubts or {}).get(error.object or 0)
        if doubt is None or doubt.kind not in ("phantom", "duplicate") or doubt.suspicion < DOUBT:
            return error
        reason = (
            "a better label covers the same object"
            if doubt.kind == "duplicate"
            else "asked about its box, the model finds nothing there"
        )
        why = f"{error.why}; {reason}: the label looks wrong"
        return replace(error, cause="label", why=why, otherwise=error)

    def _loose_detection(self, at: int) -> int | None:
        """The query of the false detection of the object's class that overlaps it most."""
        judged, nearest = self.judged, self.overlap.argmax(1)
        same_class = (judged.of_found < 0) & (judged.found.labels == judged.labels[at])
        rows = np.flatnonzero(same_class & (nearest == at) & (self.overlap[:, at] >= NEAR))
        if not len(rows):
            return None
        best = rows[::-1][self.overlap[rows[::-1], at].argmax()]
        return self.row_of[int(judged.found.queries[best])]

    def _loose_query(self, at: int, overlap: np.ndarray) -> int | None:
        """The query with the object's class that overlaps it most, by at least ``EXPLAINED``."""
        scores, label = self.decoded.scores[-1], self.judged.labels[at]
        same_class = (scores.argmax(1) == label) & (scores[:, label] >= LOWEST)
        rows = self.free[same_class[self.free] & (overlap[-1, self.free] >= EXPLAINED)]
        if not len(rows):
            return None
        best = int(rows[overlap[-1, rows].argmax()])
        shared = iou(self.decoded.boxes[-1, best], self.judged.boxes)
        return best if shared.argmax() == at else None

    def _no_query(self, base: Error, overlap: np.ndarray) -> Error:
        """The error if no query was near after any layer, with the nearest one."""
        best = overlap[:, self.free].max(1, initial=0)
        layer = int(best.argmax())
        if best[layer] > 0:
            row = int(self.free[overlap[layer, self.free].argmax()])
        else:
            centre = np.array(base.box).reshape(2, 2).mean(0)
            middles = self.decoded.boxes[-1].reshape(-1, 2, 2).mean(1)
            layer = self.decoded.layers - 1
            row = int(np.linalg.norm(middles - centre, axis=1).argmin())
        return self._with_cause(base, row, overlap, "no_query", layer + 1)

    def _with_cause(
        self,
        error: Error,
        row: int,
        overlap: np.ndarray,
        cause: str,
        layer: int,
        found: int | None = None,
    ) -> Error:
        """``error`` with its cause, a sentence, and the query and layer that show it."""
        decoded, names = self.decoded, self.names
        label = error.label
        assert label is not None
        slot, shared = int(decoded.slots[row]), overlap[:, row]
        score = float(decoded.scores[-1, row, label if found is None else found])
        limit = float(self.limits[label])
        query = f"query {slot}" if decoded.whole else "a detection"
        if cause == "no_query":
            why = f"the nearest box has IoU {shared[layer - 1]:.2f} "
            why += f"(query {slot} after layer {layer})"
            if decoded.start is not None and len(decoded.start):
                box, start = np.array(error.box), decoded.start
                middles = start if start.shape[1] == 2 else start.reshape(-1, 2, 2).mean(1)
                away = np.linalg.norm(middles - box.reshape(2, 2).mean(0), axis=1).min()
                why += f"; the nearest anchor starts {away:.0f} px from its centre"
                if start.shape[1] == 4:
                    why += f", the best one with IoU {iou(start, box).max():.2f}"
        elif cause == "left":
            why = f"{query} had IoU {shared[layer - 2]:.2f} after layer {layer - 1}; layer {layer}"
            why += f" moved it away (IoU {shared[layer - 1]:.2f})"
        elif cause == "wrong_class":
            assert found is not None
            label_score = float(decoded.scores[-1, row, label])
            why = f"{query} fits (IoU {shared[-1]:.2f}) and predicts {names[found]} {score:.2f}, "
            why += f"{names[label]} {label_score:.2f}"
            if decoded.whole and decoded.layers > 1:
                why += f", since layer {layer}"
        elif cause == "loose":
            why = f"{query} predicts {names[label]} {score:.2f} with IoU {shared[-1]:.2f}"
        else:
            why = f"{query} fits (IoU {shared[-1]:.2f}) and predicts {names[label]} {score:.2f}: "
            if score >= limit:
                why += "left out by suppression or by the limit on detections"
            else:
                why += f"the threshold is {limit:.2f}"
                before = decoded.scores[:, row, label]
                good = np.flatnonzero((before >= limit) & (shared >= OVERLAP))
                if len(good):
                    why += f"; after layer {good[-1] + 1} it was {before[good[-1]]:.2f}"
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

    # False detections

    def _false(self, at: int, missed_by_object: Mapping[int | None, Error]) -> Error:
        judged, decoded = self.judged, self.decoded
        found, box = judged.found, judged.found.boxes[at]
        label, score, slot = int(found.labels[at]), float(found.scores[at]), int(found.queries[at])
        name = self.names[label]
        shared = self.overlap[at]
        base = Error(
            "false",
            "background",
            self.index,
            tuple(map(float, box)),
            f"{name} {score:.2f} where there is no object",
            detection=at,
            query=slot if decoded.whole else None,
            layer=decoded.layers if decoded.whole else None,
            found=label,
            score=score,
        )
        pair = int(judged.of_found[at])
        if pair >= 0:  # an object of another class
            return self._of_pair(base, pair, missed_by_object.get(pair))
        # the object of the same class, and the one of any class, that the box overlaps most
        same = int(np.where(judged.labels == label, shared, -1).argmax()) if len(shared) else -1
        if same >= 0 and judged.labels[same] != label:
            same = -1
        nearest = int(shared.argmax()) if len(shared) else -1
        better = self._better(at, same, shared)
        if better is not None:
            return self._as_duplicate(base, at, better)
        if same >= 0 and shared[same] >= NEAR and not judged.caught[same]:
            return self._with_object(
                base, same, "loose", f"{name} {score:.2f} with IoU {shared[same]:.2f}"
            )
        if nearest >= 0 and shared[nearest] >= OVERLAP:
            other = self.names[int(judged.labels[nearest])]
            why = f"{name} {score:.2f} on an object of class {other}"
            return self._with_object(base, nearest, "wrong_class", why)
        if nearest >= 0 and shared[nearest] >= EXPLAINED:
            other = self.names[int(judged.labels[nearest])]
            why = f"{name} {score:.2f} with IoU {shared[nearest]:.2f} on an object of class {other}"
            return self._with_object(base, nearest, "loose", why)
        if score >= SURE and self._shown_before(base):
            why = f"{name} {score:.2f} where there is no label: one may be missing"
            return replace(base, cause="label", why=why, otherwise=base)
        return base

    def _shown_before(self, error: Error) -> bool:
        """Whether the layer before the last would have shown this detection too."""
        if error.query is None or self.decoded.layers == 1:
            return True
        row, label = self.row_of[error.query], error.found or 0
        shared = iou(self.decoded.boxes[-2, row], np.array(error.box))
        score = self.decoded.scores[-2, row, label]
        return bool(shared >= OVERLAP and score >= self.limits[label])

    def _of_pair(self, base: Error, pair: int, missed: Error | None) -> Error:
        """The error for a detection on an object of another class, with the object's cause."""
        true = self.names[int(self.judged.labels[pair])]
        name = self.names[base.found or 0]
        why = f"{name} {base.score or 0:.2f} on an object of class {true}"
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

    def _better(self, at: int, same: int, shared: np.ndarray) -> int | None:
        """The better detection of the object ``same``, or another of the class on the same box."""
        judged, found = self.judged, self.judged.found
        if same >= 0 and judged.caught[same] and shared[same] >= EXPLAINED:
            return int(judged.of_object[same])
        better = (found.scores > found.scores[at]) & (found.labels == found.labels[at])
        overlap = np.where(better, iou(found.boxes[at], found.boxes), 0)
        best = int(overlap.argmax()) if len(overlap) else -1
        return best if best >= 0 and overlap[best] >= OVERLAP else None

    def _as_duplicate(self, base: Error, at: int, other: int) -> Error:
        judged, decoded, found = self.judged, self.decoded, self.judged.found
        shared = float(iou(found.boxes[at], found.boxes[other]))
        why = f"IoU {shared:.2f} with a detection of {found.scores[other]:.2f}"
        slot, layer = int(found.queries[other]), base.layer
        if decoded.whole:
            both = (self.row_of[int(found.queries[at])], self.row_of[slot])
            by_layer = iou(*(decoded.boxes[:, row] for row in both))
            apart = np.flatnonzero(by_layer < OVERLAP)
            layer = int(apart[-1]) + 2 if len(apart) else 1
            layer = min(layer, decoded.layers)
            why += f": queries {base.query} and {slot}, one box since layer {layer}"
        pair = int(judged.of_found[other])
        error = base if pair < 0 else self._with_object(base, pair, "duplicate", why)
        return replace(
            error,
            cause="duplicate",
            why=why,
            layer=layer,
            other=slot if decoded.whole else None,
            other_box=tuple(map(float, found.boxes[other])),
        )


def settled(errors: Sequence[Error], judged: Sequence[Judged], classes: int) -> list[Error]:
    """The errors of all images; labels are not blamed in classes that the model often gets wrong.

    A label counts as wrong only if at least half of the objects of its class are found, and as
    missing only if at least half of the detections of the class from ``SURE`` on are right.
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

    def label_blamed(error: Error) -> bool:
        if error.object is None:
            return error.found is not None and sure[error.found] >= missing[error.found]
        return error.label is not None and 2 * right[error.label] >= objects[error.label]

    return [
        error if error.otherwise is None or label_blamed(error) else error.otherwise
        for error in errors
    ]
