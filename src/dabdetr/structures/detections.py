"""Objects found in an image, as numpy arrays without torch."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dabdetr.packages import lacking
from dabdetr.structures.boxes import iou
from dabdetr.text import counted, in_any_case, meant, printable


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """Objects found in one image, best first.

    boxes    [n, 4] float32, x0 y0 x1 y1 in pixels of the original image
    scores   [n] float32, 0–1
    labels   [n] int64, index into ``names``
    queries  [n] int64, the decoder slot that found the object
    names    class names of the model
    size     (height, width) of the image
    source   path of the image, or "" for an image given in memory
    image    the image as RGB [height, width, 3] uint8, if it was kept
    frame    for a video, the number of the frame, counted from 0
    time     for a video, the time of the frame in seconds
    tracks   [n] int64, the number of each object that is tracked through a video, or None

    Two are equal, and have the same hash, if everything but ``image`` is equal.

    >>> from dabdetr import Predictor
    >>> found = Predictor("scenes").predict("demo/images/000.png", conf=0.5)[0]
    >>> found.names[found.labels[0]], found.boxes[0].round().tolist()
    ('2', [108.0, 71.0, 122.0, 91.0])
    >>> len(found["2", 0.9]) <= len(found["2"]) <= len(found)
    True
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
    tracks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        arrays = [self.boxes, self.scores, self.labels, self.queries]
        arrays += [] if self.tracks is None else [self.tracks]
        digest = hashlib.sha256(b"".join(each.tobytes() for each in arrays))
        about = (self.names, self.size, self.source, self.frame, self.time)
        return (digest.hexdigest(), len(self), *about)

    def __repr__(self) -> str:
        """One line: "7 objects in 000.png: 2× 3, 5× 4"."""
        counts = Counter(self.names[label] for label in self.labels)
        image = Path(self.source).name or "an image"
        image += "" if self.frame is None else f" #{self.frame}"
        classes = ", ".join(f"{count}× {name}" for name, count in counts.most_common())
        objects = counted(len(self), "object")
        return printable(f"{objects} in {image}" + (classes and f": {classes}"))

    def _repr_png_(self) -> bytes | None:
        """The image with its boxes for a notebook; None if the image is not available."""
        from io import BytesIO

        shown = self._image(None)
        if shown is None:
            return None
        buffer = BytesIO()
        self.plot(shown).save(buffer, "PNG")
        return buffer.getvalue()

    def __getitem__(self, index: Any) -> Detections:
        """A subset: by slice, index array or boolean mask; by a class name or a list of names, by a
        threshold (float), or by both as a tuple. ``above`` takes labels as well.
        """
        if _are_names(index):
            return self.above(0, [index] if isinstance(index, str) else index)
        if isinstance(index, float | np.floating):
            return self.above(float(index))
        if isinstance(index, tuple) and len(index) == 2 and _are_names(index[0]):
            return self[index[0]][float(index[1])]
        if isinstance(index, int | np.integer):
            index = [index]
        return replace(
            self,
            boxes=self.boxes[index],
            scores=self.scores[index],
            labels=self.labels[index],
            queries=self.queries[index],
            tracks=None if self.tracks is None else self.tracks[index],
        )

    def __contains__(self, name: object) -> bool:
        """Whether there is an object of the class ``name``."""
        return isinstance(name, str) and len(self[name]) > 0

    def above(
        self, conf: float | np.ndarray, classes: Sequence[str | int] | None = None
    ) -> Detections:
        """The detections with a score of at least ``conf``, and of ``classes`` if given.

        An array of thresholds has one for each class, in label order. Classes are names or labels;
        ValueError for unknown ones.

        >>> from dabdetr import Predictor
        >>> found = Predictor("scenes").one("demo/images/000.png", conf=0.5)
        >>> len(found.above(0.9)), len(found.above(0.5, ["3", 4]))
        (1, 0)
        """
        limits = conf[self.labels] if isinstance(conf, np.ndarray) else conf
        keep = self.scores >= limits
        if classes is not None:
            keep &= np.isin(self.labels, class_labels(classes, self.names))
        return self[keep]

    def best_of_query(self) -> Detections:
        """The detections with the best class of each query.

        >>> from dabdetr import Predictor
        >>> found = Predictor("scenes").one("demo/images/000.png", conf=0.05, multi_label=True)
        >>> len(set(found.queries.tolist())) == len(found.best_of_query())
        True
        """
        _, first = np.unique(self.queries, return_index=True)  # rows are sorted, best first
        return self[np.sort(first)]

    def without_overlaps(self, overlap: float) -> Detections:
        """The detections whose IoU with every better one of their class is at most ``overlap``.

        Non-maximum suppression, in falling order of score.

        >>> from dabdetr import Predictor
        >>> found = Predictor("scenes").one("demo/images/000.png", conf=0.5)
        >>> len(found.without_overlaps(0.7))
        1
        """
        keep = np.zeros(len(self), bool)
        for label in np.unique(self.labels):
            rows = np.flatnonzero(self.labels == label)  # best first
            pairs = iou(self.boxes[rows][:, None], self.boxes[rows])
            suppressed = np.zeros(len(rows), bool)
            for at in range(len(rows)):
                if not suppressed[at]:
                    suppressed[at + 1 :] |= pairs[at, at + 1 :] > overlap
            keep[rows[~suppressed]] = True
        return self[keep]

    def clipped(self) -> Detections:
        """The detections with boxes clipped to the image.

        >>> from dabdetr import Predictor
        >>> found = Predictor("scenes").one("demo/images/000.png", conf=0.5)
        >>> bool((found.clipped().boxes >= 0).all())
        True
        """
        height, width = self.size
        limits = np.array([width, height, width, height], np.float32)
        return replace(self, boxes=self.boxes.clip(0, limits))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: source (and frame), size and a list of detections.

        >>> from dabdetr import Predictor
        >>> found = Predictor("scenes").one("demo/images/000.png", conf=0.5)
        >>> values = found.to_dict()
        >>> values["height"], values["detections"][0]["name"]
        (160, '2')
        """
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
                    **({} if track is None else {"track": int(track)}),
                }
                for box, score, label, query, track in zip(
                    self.boxes,
                    self.scores,
                    self.labels,
                    self.queries,
                    [None] * len(self) if self.tracks is None else self.tracks,
                    strict=True,
                )
            ],
        }

    def to_coco(
        self, image_id: int = 0, category_ids: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """Rows of a COCO results file: boxes as x, y, width, height in pixels.

        ``category_ids[label]`` is the data set's id of a class; by default label + 1.

        >>> from dabdetr import Predictor
        >>> found = Predictor("scenes").one("demo/images/000.png", conf=0.5)
        >>> found.to_coco(image_id=7)[0]["category_id"]
        3
        """
        ids = category_ids if category_ids is not None else range(1, len(self.names) + 1)
        return [
            {
                "image_id": image_id,
                "category_id": int(ids[label]),
                "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
                "score": float(score),
                **({} if track is None else {"track_id": int(track)}),
            }
            for (x0, y0, x1, y1), score, label, track in zip(
                self.boxes.astype(float),
                self.scores,
                self.labels,
                [None] * len(self) if self.tracks is None else self.tracks,
                strict=True,
            )
        ]

    def to_yolo(self, scores: bool = False) -> str:
        """Lines of a YOLO label file: label, centre, width, height, 0–1 of the image.

        ``scores`` adds a sixth column, which label files for training do not have.

        >>> from dabdetr import Predictor
        >>> found = Predictor("scenes").one("demo/images/000.png", conf=0.5)
        >>> len(found.to_yolo().split()), len(found.to_yolo(scores=True).split())
        (5, 6)
        """
        from dabdetr.structures.formats import yolo_lines

        return yolo_lines(self, scores)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with a row for each object: source, name, score, box in pixels.

        >>> from dabdetr import Predictor
        >>> found = Predictor("scenes").one("demo/images/000.png", conf=0.5)
        >>> found.to_pandas()["name"].tolist()
        ['2']
        """
        try:
            import pandas  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise lacking("to_pandas", "pandas") from None
        from dabdetr.structures.formats import columns, rows

        return pandas.DataFrame(rows(self), columns=list(columns(self.tracks is not None)))

    def to_label_studio(
        self,
        image: str | None = None,
        from_name: str = "label",
        to_name: str = "image",
        version: str = "dabdetr",
    ) -> dict[str, Any]:
        """A task for import into Label Studio, with the detections as predictions to correct.

        ``image`` is the image's address for Label Studio, by default its source; ``from_name`` and
        ``to_name`` are the names in the project's labelling config.

        >>> from dabdetr import Predictor
        >>> found = Predictor("scenes").one("demo/images/000.png", conf=0.5)
        >>> found.to_label_studio()["predictions"][0]["result"][0]["value"]["rectanglelabels"]
        ['2']
        """
        from dabdetr.structures.formats import label_studio_task

        return label_studio_task(self, image, from_name, to_name, version)

    def to_cvat(self) -> str:
        """XML of this image for CVAT's upload of annotations ("CVAT for images 1.1").

        >>> from dabdetr import Predictor
        >>> found = Predictor("scenes").one("demo/images/000.png", conf=0.5)
        >>> found.to_cvat().count("<box ")
        1
        """
        from dabdetr.structures.formats import cvat_document

        return cvat_document([self])

    def to_supervision(self) -> Any:
        """``supervision.Detections`` with the class names in ``data["class_name"]``."""
        try:
            import supervision  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise lacking("to_supervision", "supervision") from None
        return supervision.Detections(
            xyxy=self.boxes.astype(np.float32),
            confidence=self.scores.astype(np.float32),
            class_id=self.labels.astype(int),
            tracker_id=None if self.tracks is None else self.tracks.astype(int),
            data={"class_name": np.array([self.names[label] for label in self.labels])},
        )

    def plot(self, image: Any = None) -> Any:
        """The image (PIL) with boxes drawn in.

        ``image`` is an array as in the field ``image``, a PIL image, a path or the bytes of a file;
        by default the field, or the file at ``source``, which is read again (but no video frame).
        ValueError if there is no image.

        >>> from dabdetr import Predictor
        >>> found = Predictor("scenes").one("demo/images/000.png", conf=0.5)
        >>> found.plot().size
        (160, 160)
        """
        from dabdetr.structures.drawing import as_array, draw

        shown = self._image(image)
        if shown is None:
            raise ValueError("plot needs the image: pass it, or predict with keep_images=True")
        labels, names = self.labels, self.names
        if self.tracks is not None:  # a colour for each object, and its number after its class
            pairs = zip(self.tracks.tolist(), labels.tolist(), strict=True)
            labels = self.tracks
            names = {number: f"{self.names[label]} #{number}" for number, label in pairs}
        return draw(as_array(shown), self.boxes, self.scores, labels, names)

    def save(self, path: str | Path, image: Any = None) -> Path:
        """Write the drawn image, .json, .txt (YOLO) or .csv, by the suffix of ``path``.

        Returns the path. ``image`` is that of ``plot``. ValueError for other suffixes.

        >>> from dabdetr import Predictor
        >>> found = Predictor("scenes").one("demo/images/000.png", conf=0.5)
        >>> found.save("found.png").name, found.save("found.csv").name
        ('found.png', 'found.csv')
        """
        from dabdetr.files import write_atomically
        from dabdetr.structures.formats import file_content

        write_atomically(path, file_content(self, Path(path), image))
        return Path(path)

    def show(self, image: Any = None) -> None:
        """Open the drawn image in the system's viewer."""
        self.plot(image).show()

    def _image(self, image: Any) -> Any:
        """The image to draw into: ``image``, the field, or the file at ``source``; else None."""
        if image is not None:
            return image
        if self.image is not None:
            return self.image
        return self.source if self.frame is None and Path(self.source).is_file() else None


class Results(list[Detections]):
    """A list of detections of several images, whose ``repr`` is one line.

    >>> from dabdetr import Predictor
    >>> Predictor("scenes").predict("demo/images/000.png", conf=0.5)
    1 object in 000.png: 1× 2
    """

    def __repr__(self) -> str:
        if len(self) == 1:
            return repr(self[0])
        counts = Counter(each.names[label] for each in self for label in each.labels)
        classes = ", ".join(f"{count}× {name}" for name, count in counts.most_common(9))
        classes += ", …" if len(counts) > 9 else ""
        objects, images = counted(counts.total(), "object"), counted(len(self), "image")
        return printable(f"{objects} in {images}" + (classes and f": {classes}"))

    def _repr_png_(self) -> bytes | None:
        """The image with its boxes for a notebook, if it is a single image."""
        return self[0]._repr_png_() if len(self) == 1 else None


def _are_names(value: Any) -> bool:
    """Whether ``value`` is a class name or a list of them."""
    listed = isinstance(value, list) and bool(value)
    return isinstance(value, str) or (listed and all(isinstance(each, str) for each in value))


def class_labels(classes: Sequence[str | int], names: Sequence[str]) -> list[int]:
    """Labels of ``classes``, which are names in any case or labels; ValueError for unknown ones."""
    spelled = [in_any_case(each, names) if isinstance(each, str) else each for each in classes]
    unknown = [
        each
        for each in spelled
        if (each not in names if isinstance(each, str) else not _is_label(each, len(names)))
    ]
    if unknown:
        words = sorted(map(str, unknown))
        raise ValueError(
            f"the model does not know the class {', '.join(words)}; "
            f"it knows: {', '.join(names)}{meant(words[0], names)}"
        )
    return [names.index(each) if isinstance(each, str) else int(each) for each in spelled]


def _is_label(value: Any, count: int) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and bool(0 <= value < count)


def _rounded(value: Any, digits: int) -> float:
    value = float(value)
    assert math.isfinite(value), value
    return round(value, digits)
