"""What `dabdetr predict` leaves in its folder: drawings, objects cut out, labels and tables."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dabdetr.cli.output import file_name
from dabdetr.files import UNPORTABLE, plain_name, unwritable
from dabdetr.text import cells

if TYPE_CHECKING:
    from dabdetr.structures import Detections

QUALITY = 95
"""Of JPEGs."""


class Saver:
    """Writes into ``folder`` as detections come; after ``close`` every file in it is whole.

    ``draw``: images and videos with boxes, under the names of their sources. ``crops``: each
    object alone, as ``crops/CLASS/IMAGE-RANK``. ``txt``: YOLO's lines with scores, as
    ``labels/IMAGE.txt``. ``table``: all objects, in ``predictions.csv``. ``fiftyone``: a folder
    that FiftyOne opens as FiftyOneImageDetectionDataset; its images are links to the sources
    where the file system has them, and copies elsewhere.
    """

    def __init__(
        self,
        folder: Path,
        draw: bool = False,
        crops: bool = False,
        txt: bool = False,
        table: bool = False,
        fiftyone: bool = False,
    ) -> None:
        self.folder, self.draw, self.crops = folder, draw, crops
        self.txt, self.fiftyone = txt, fiftyone
        self._found: dict[str, Detections] = {}
        self._stems: set[str] = set()
        self._table: Any = None
        if table:
            from dabdetr.structures.formats import COLUMNS

            self._file = (folder / "predictions.csv").open("w", newline="", encoding="utf-8")
            self._table = csv.writer(self._file)
            self._table.writerow(COLUMNS)
        self._taken: set[str] = set()
        self._name = ""
        self._video: Any = None
        self._shown: tuple[str, int] = ("", -1)

    def add(self, found: Detections) -> None:
        """Write what is wanted of one image or frame.

        Where ``found`` does not hold it, the image was drawn and cut out before: only tables and
        labels are written, again.
        """
        import numpy as np

        if found.frame is None:
            self._end_video()
            self._name = file_name(found.source, self._taken)
        else:
            self._follow(found)
        if self.draw and found.image is not None and found.frame is None:
            _save(found.plot(), self.folder / self._name)
        elif self.draw and found.image is not None:
            self._video.add(np.asarray(found.plot()), found.time)
        if self.crops and found.image is not None:
            self._cut_out(found)
        if self._table:
            from dabdetr.structures.formats import rows

            self._table.writerows(map(cells, rows(found)))
        if found.tracks is not None and found.frame is not None:
            from dabdetr.asking.track import mot_lines

            with (self.folder / Path(self._name).with_suffix(".mot.txt")).open("a") as file:
                file.write(mot_lines(found))
        if self.txt or self.fiftyone:
            self._label(found)

    def _label(self, found: Detections) -> None:
        """Labels under the image's name, numbered where two images differ in their ending only."""
        stem = Path(self._name).stem + ("" if found.frame is None else f"_{found.frame}")
        stem = Path(file_name(f"{stem}.png", self._stems)).stem
        if self.txt:
            folder = self.folder / "labels"
            folder.mkdir(exist_ok=True)
            (folder / f"{stem}.txt").write_text(found.to_yolo(scores=True))
        if self.fiftyone:
            if found.frame is not None:
                raise ValueError(f"--fiftyone takes images; {found.source} is a video")
            self._found[stem] = replace(found, image=None)
            data = self.folder / "fiftyone" / "data"
            data.mkdir(parents=True, exist_ok=True)
            suffix = plain_name(Path(found.source).suffix)
            _link(Path(found.source), data / (stem + suffix))

    def finish(self, names: Sequence[str]) -> None:
        """Write what needs all images."""
        if self.fiftyone:
            from dabdetr.structures.formats import fiftyone_labels

            (self.folder / "fiftyone" / "data").mkdir(parents=True, exist_ok=True)
            labels = fiftyone_labels(names, self._found)
            (self.folder / "fiftyone" / "labels.json").write_text(json.dumps(labels, indent=1))

    def _follow(self, found: Detections) -> None:
        """Begin another video where ``found`` does not go on with the last one."""
        source, before = self._shown
        assert found.frame is not None
        if found.source != source or found.frame <= before:
            self._end_video()
            stem = Path(found.source).stem
            self._name = Path(file_name(f"{stem}.jpg", self._taken)).with_suffix(".mp4").name
            if self.draw and found.image is not None:
                from dabdetr.inference.video import VideoWriter

                self._video = VideoWriter(self.folder / self._name, found.source)
        self._shown = (found.source, found.frame)

    def _cut_out(self, found: Detections) -> None:
        from PIL import Image

        assert found.image is not None
        stem, suffix = Path(self._name).stem, Path(self._name).suffix
        if found.frame is not None:
            stem, suffix = f"{stem}-{found.frame:06d}", ".jpg"
        rows = zip(found.boxes.tolist(), found.labels.tolist(), strict=True)
        for rank, ((x0, y0, x1, y1), label) in enumerate(rows, start=1):
            left, top = math.floor(x0), math.floor(y0)
            crop = found.image[top : math.ceil(y1), left : math.ceil(x1)]
            if crop.size:
                folder = self.folder / "crops" / folder_name(found.names[label])
                folder.mkdir(parents=True, exist_ok=True)
                _save(Image.fromarray(crop), folder / f"{stem}-{rank}{suffix}")

    def close(self) -> None:
        """Finish the video and the table that are being written."""
        self._end_video()
        if self._table:
            self._file.close()

    def _end_video(self) -> None:
        video, self._video, self._shown = self._video, None, ("", -1)
        if video is not None:
            video.close()


def _save(image: Any, path: Path) -> None:
    """Write an image; none that is cut short stays behind."""
    try:
        image.save(path, quality=QUALITY)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, error) from None
        raise


def folder_name(name: str) -> str:
    """A class name without what file systems do not take."""
    return plain_name(name, UNPORTABLE).strip(". ") or "_"


def _link(source: Path, target: Path) -> None:
    """A second name of a file, or a copy where the file system has no such names."""
    if not source.is_file():
        raise ValueError(f"--fiftyone takes image files; {source} is none")
    target.unlink(missing_ok=True)  # of a prediction that was interrupted
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
