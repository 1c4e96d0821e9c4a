"""Writing of `dabdetr predict`'s files: drawings, crops of objects, labels and tables."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dabdetr.cli.output import file_name
from dabdetr.files import UNPORTABLE, csv_text, plain_name, unwritable, write_atomically
from dabdetr.text import json_text

if TYPE_CHECKING:
    from dabdetr.structures import Detections

QUALITY = 95
"""Quality of JPEGs, 0–100."""


class Saver:
    """Writes detections into ``folder`` one image at a time; ``close`` completes all files.

    draw      images and videos with boxes, under the names of their sources
    crops     each object cut out, as ``crops/CLASS/IMAGE-RANK``
    txt       YOLO lines with scores, as ``labels/IMAGE.txt``
    table     all objects, in ``predictions.csv``
    fiftyone  a folder that FiftyOne opens as FiftyOneImageDetectionDataset; its images are hard
              links to the sources, or copies where the file system has no hard links
    tracks    the tracks of a video, as MOT's lines in ``VIDEO.mot.txt``, or of the images of a
              folder, in ``FOLDER.mot.txt``
    """

    def __init__(
        self,
        folder: Path,
        draw: bool = False,
        crops: bool = False,
        txt: bool = False,
        table: bool = False,
        fiftyone: bool = False,
        tracks: bool = False,
    ) -> None:
        self.folder, self.draw, self.crops = folder, draw, crops
        self.txt, self.fiftyone, self.tracks = txt, fiftyone, tracks
        self._found: dict[str, Detections] = {}
        self._stems: set[str] = set()
        self._table: Any = None
        if table:
            from dabdetr.structures.formats import columns

            self._table = (folder / "predictions.csv").open("w", newline="", encoding="utf-8")
            self._table.write(csv_text([columns(tracks)]))
        self._taken: set[str] = set()
        self._name = ""
        self._video: Any = None
        self._last: tuple[str, int] = ("", -1)  # source and number of the last frame
        self._mot: tuple[str, Path, int] | None = None  # video, MOT file and number of frames

    def add(self, found: Detections) -> None:
        """Write the files of one image or frame.

        If ``found`` has no image, drawings and crops were written before the run was stopped: only
        tables and labels are written again.
        """
        import numpy as np

        if found.frame is None:
            self._end_video()
            self._name = file_name(found.source, self._taken)
        else:
            self._continue_video(found)
        if self.draw and found.image is not None and found.frame is None:
            _save(found.plot(), self.folder / self._name)
        elif self.draw and found.image is not None:
            self._video.add(np.asarray(found.plot()), found.time)
        if self.crops and found.image is not None:
            self._write_crops(found)
        if self._table:
            from dabdetr.structures.formats import rows

            self._table.write(csv_text(rows(found)))
        if self.tracks:
            self._write_tracks(found)
        if self.txt or self.fiftyone:
            self._write_labels(found)

    def _write_tracks(self, found: Detections) -> None:
        """Append the frame's lines to the MOT file; the images of a folder are frames too."""
        from dabdetr.asking.track import mot_lines, video_of

        video = video_of(found.source)
        if found.frame is not None:
            path, frame = self.folder / Path(self._name).with_suffix(".mot.txt"), found.frame
        elif self._mot and self._mot[0] == video:
            _, path, frame = self._mot
        else:
            folder = os.path.basename(os.path.abspath(video))
            name = Path(file_name(f"{folder or 'images'}.jpg", self._taken))
            path, frame = self.folder / name.with_suffix(".mot.txt"), 0
        with path.open("a") as file:
            file.write(mot_lines(found, frame))
        self._mot = (video, path, frame + 1)

    def _write_labels(self, found: Detections) -> None:
        """Write labels under the image's name, numbered if two images differ only in the ending."""
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
        """Write the files that need all images."""
        if self.fiftyone:
            from dabdetr.structures.formats import fiftyone_labels

            (self.folder / "fiftyone" / "data").mkdir(parents=True, exist_ok=True)
            labels = fiftyone_labels(names, self._found)
            (self.folder / "fiftyone" / "labels.json").write_text(json.dumps(labels, indent=1))

    def _continue_video(self, found: Detections) -> None:
        """Begin another video unless ``found`` is a later frame of the last one."""
        source, before = self._last
        assert found.frame is not None
        if found.source != source or found.frame <= before:
            self._end_video()
            stem = Path(found.source).stem
            self._name = Path(file_name(f"{stem}.jpg", self._taken)).with_suffix(".mp4").name
            if self.draw and found.image is not None:
                from dabdetr.inference.video import VideoWriter

                self._video = VideoWriter(self.folder / self._name, found.source)
        self._last = (found.source, found.frame)

    def _write_crops(self, found: Detections) -> None:
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
        """Finish the current video and the table."""
        self._end_video()
        if self._table:
            self._table.close()

    def _end_video(self) -> None:
        video, self._video, self._last = self._video, None, ("", -1)
        if video is not None:
            video.close()


def _save(image: Any, path: Path) -> None:
    """Write an image; after an error the incomplete file is removed."""
    try:
        image.save(path, quality=QUALITY)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, error) from None
        raise


def folder_name(name: str) -> str:
    """A class name without characters that file systems do not allow."""
    return plain_name(name, UNPORTABLE).strip(". ") or "_"


def _link(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to ``source``, or a copy where hard links are not possible."""
    if not source.is_file():
        raise ValueError(f"--fiftyone takes image files; {source} is not a file")
    target.unlink(missing_ok=True)  # left by an interrupted run
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_coco(path: Path, found: Sequence[Detections]) -> None:
    """Write a COCO results file.

    Image ids are the numbers in the file names if all names are numbers, else 1, 2, 3 …
    """
    stems = [Path(each.source).stem for each in found]
    numbered = all(stem.isdecimal() for stem in stems) and len(set(map(int, stems))) == len(stems)
    ids = [int(stem) for stem in stems] if numbered else range(1, len(found) + 1)
    rows: list[dict[str, Any]] = []
    for image_id, each in zip(ids, found, strict=True):
        origin = {"file_name": each.source}  # matches images whose ids in the data are others
        for row in each.to_coco(image_id):
            rows.append(row | origin | {"category_name": each.names[row["category_id"] - 1]})
    write_atomically(path, json.dumps(rows).encode())


def write_label_studio(path: Path, found: Sequence[Detections], model: str) -> None:
    """Write the detections as pre-annotated tasks for Label Studio."""
    tasks = [each.to_label_studio(version=Path(model).name) for each in found]
    write_atomically(path, json_text(tasks, indent=1).encode())
