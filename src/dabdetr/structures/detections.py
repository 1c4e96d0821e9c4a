"""Objects found in an image, as arrays: what users get, with torch or without it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dabdetr.structures.boxes import iou


@dataclass(frozen=True)
class Detections:
    """Objects found in one image, best first.

    boxes    [n, 4] float32, x0 y0 x1 y1 in pixels of the original image
    scores   [n] float32, 0–1
    labels   [n] int64, index into ``names``
    queries  [n] int64, the decoder slot that found it
    names    class names of the model
    size     (height, width) of the image
    source   where the image came from: a path, or "" for an image given in memory
    image    the image itself as RGB [height, width, 3] uint8, where it was kept
    frame    of a video, the number of the frame, from 0 on
    time     of a video, when the frame is shown, in seconds
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    queries: np.ndarray
    names: tuple[str, ...]
    size: tuple[int, int]
    source: str = ""
    image: np.ndarray | None = field(default=None, repr=False, compare=False)
    frame: int | None = None
    time: float | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Any) -> Detections:
        """A subset: by slice, index array or boolean mask."""
        if isinstance(index, int | np.integer):
            index = [index]
        return replace(
            self,
            boxes=self.boxes[index],
            scores=self.scores[index],
            labels=self.labels[index],
            queries=self.queries[index],
        )

    def above(
        self, conf: float | np.ndarray, classes: Sequence[str | int] | None = None
    ) -> Detections:
        """Those that score at least ``conf``; of ``classes`` only, names or labels, where given.

        An array is a threshold for each class, in label order.
        """
        limits = conf[self.labels] if isinstance(conf, np.ndarray) else conf
        keep = self.scores >= limits
        if classes is not None:
            keep &= np.isin(self.labels, class_labels(classes, self.names))
        return self[keep]

    def best_of_query(self) -> Detections:
        """Every query with its best class only."""
        _, first = np.unique(self.queries, return_index=True)  # rows are sorted, best first
        return self[np.sort(first)]

    def without_overlaps(self, overlap: float) -> Detections:
        """Without those whose IoU with a better one of their class is above ``overlap``.

        Non-maximum suppression, from the best detection down.
        """
        keep = np.zeros(len(self), bool)
        for label in np.unique(self.labels):
            rows = np.flatnonzero(self.labels == label)  # best first
            pairs = iou(self.boxes[rows][:, None], self.boxes[rows])
            gone = np.zeros(len(rows), bool)
            for at in range(len(rows)):
                if not gone[at]:
                    gone[at + 1 :] |= pairs[at, at + 1 :] > overlap
            keep[rows[~gone]] = True
        return self[keep]

    def clipped(self) -> Detections:
        """Boxes cut to the image."""
        height, width = self.size
        limits = np.array([width, height, width, height], np.float32)
        return replace(self, boxes=self.boxes.clip(0, limits))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: source (and frame), size and a list of detections."""
        seconds = None if self.time is None else _rounded(self.time, 6)
        moment = {} if self.frame is None else {"frame": self.frame, "time": seconds}
        return {
            "source": self.source,
            **moment,
            "height": self.size[0],
            "width": self.size[1],
            "detections": [
                {
                    "name": self.names[label],
                    "label": int(label),
                    "score": _rounded(score, 5),
                    "box": [_rounded(v, 2) for v in box],
                    "query": int(query),
                }
                for box, score, label, query in zip(
                    self.boxes, self.scores, self.labels, self.queries, strict=True
                )
            ],
        }

    def to_coco(
        self, image_id: int = 0, category_ids: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """Rows of a COCO results file: boxes as x, y, width, height in pixels.

        ``category_ids[label]`` is the data set's own id; without it labels count from 1.
        """
        ids = category_ids if category_ids is not None else range(1, len(self.names) + 1)
        return [
            {
                "image_id": image_id,
                "category_id": int(ids[label]),
                "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
                "score": float(score),
            }
            for (x0, y0, x1, y1), score, label in zip(
                self.boxes.astype(float), self.scores, self.labels, strict=True
            )
        ]

    def to_yolo(self, scores: bool = False) -> str:
        """Lines of a YOLO label file: label, centre, width, height, 0–1 of the image.

        With ``scores`` a sixth column; files of labels to train on have none.
        """
        from dabdetr.structures.formats import yolo_lines

        return yolo_lines(self, scores)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with a row for each object: source, name, score, box in pixels."""
        try:
            import pandas  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ImportError(
                "to_pandas needs the package pandas; type: pip install pandas"
            ) from None
        from dabdetr.structures.formats import COLUMNS, rows

        return pandas.DataFrame(rows(self), columns=list(COLUMNS))

    def to_label_studio(
        self,
        image: str | None = None,
        from_name: str = "label",
        to_name: str = "image",
        version: str = "dabdetr",
    ) -> dict[str, Any]:
        """A task for Label Studio's import, with these as predictions to be corrected.

        ``image`` is where Label Studio finds the image, its source if not given; ``from_name`` and
        ``to_name`` are the names in the project's labelling config.
        """
        from dabdetr.structures.formats import label_studio_task

        return label_studio_task(self, image, from_name, to_name, version)

    def to_cvat(self) -> str:
        """XML for CVAT's upload of annotations, "CVAT for images 1.1", of this image."""
        from dabdetr.structures.formats import cvat_document

        return cvat_document([self])

    def to_supervision(self) -> Any:
        """``supervision.Detections`` with the class names in ``data["class_name"]``."""
        try:
            import supervision  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ImportError(
                "to_supervision needs the package supervision; type: pip install supervision"
            ) from None
        return supervision.Detections(
            xyxy=self.boxes.astype(np.float32),
            confidence=self.scores.astype(np.float32),
            class_id=self.labels.astype(int),
            data={"class_name": np.array([self.names[label] for label in self.labels])},
        )

    def plot(self, image: Any = None) -> Any:
        """The image (PIL) with boxes drawn in; ``image`` where none was kept.

        ``image`` is an array as in ``image`` above, a PIL image, a path or the bytes of a file.
        """
        from dabdetr.structures.drawing import as_array, draw

        shown = image if image is not None else self.image
        if shown is None:
            raise ValueError("plot needs the image: pass it, or predict with keep_images=True")
        return draw(as_array(shown), self.boxes, self.scores, self.labels, self.names)


def class_labels(classes: Sequence[str | int], names: Sequence[str]) -> list[int]:
    """Labels of classes given by name or label; ValueError for those that are not there."""
    unknown = [
        each
        for each in classes
        if (each not in names if isinstance(each, str) else not _is_label(each, len(names)))
    ]
    if unknown:
        raise ValueError(
            f"the model does not know the class {', '.join(sorted(map(str, unknown)))}; "
            f"it knows: {', '.join(names)}"
        )
    return [names.index(each) if isinstance(each, str) else int(each) for each in classes]


def _is_label(value: Any, count: int) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and bool(0 <= value < count)


def _rounded(value: Any, digits: int) -> float:
    value = float(value)
    assert math.isfinite(value), value
    return round(value, digits)
