"""The label files of YOLO's layout: finding the file of an image, and parsing its lines.

A line is ``class centre-x centre-y width height``, 0–1 of the image after EXIF rotation. It may
end with a confidence. Three or more corners in place of a box become the box around them. The
meaning of the columns is inferred over the whole split.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dabdetr.data.box_formats import SLACK
from dabdetr.data.class_lists import NAMES, find_step, listed_range
from dabdetr.data.findings import Findings
from dabdetr.data.images import IMAGE_SUFFIXES
from dabdetr.data.locate import (
    UPLOADED,
    child,
    files_below,
    files_in,
    folded,
    folders_in,
    images_below,
)
from dabdetr.data.records import Rows
from dabdetr.data.textfiles import read_text
from dabdetr.text import counted, shown

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?nan|[+-]?inf", re.IGNORECASE)
COMMA = re.compile(r"[+-]?\d+(,\d+)?")
"""A number with a decimal comma."""
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages")
IMAGE_WORD = re.compile(r"(^|[\W_])(images?|imgs?|jpegimages)($|[\W_])", re.IGNORECASE)
LABEL_FOLDERS = ("labels", "label", "annotations", "txt")
"""Names of folders of images, and of the label folders next to them; letter case is ignored."""


class LabelFiles:
    """Finds label files: the last folder "images" in the path replaced by "labels", or next to it.

    missing  images without a label file
    """

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self._listings: dict[str, dict[str, str]] = {}
        self._real_folders: dict[str, str] = {}
        self._image_of_label: dict[str, str] = {}
        self._images_of_labels: dict[str, str] = {}
        self.missing: list[str] = []

    def of(self, image: str) -> str | None:
        """The path of the image's label file, or None without one."""
        other_case: str | None = None
        for folder, names in label_places(image):
            folder = self._real(folder)
            listing = self._listing(folder)
            if listing and "label" in folder.casefold():
                self._images_of_labels.setdefault(folder, os.path.dirname(image))
            for name in names:
                spellings = (name, f"{name[:-4]}.TXT")
                exact = next((each for each in spellings if each in listing.values()), None)
                if exact is not None:
                    path = f"{folder}/{exact}"
                    if path in self._image_of_label:
                        self.findings.add(
                            "label-shared", f"{image} and {self._image_of_label[path]}"
                        )
                    self._image_of_label.setdefault(path, image)
                    return path
                if name.casefold() in listing:
                    other_case = other_case or f"{folder}/{listing[name.casefold()]}"
        if other_case is not None:
            self.findings.add("label-case", f"{other_case} of {image}")
        self.missing.append(image)
        return None

    def scattered(self, root: Path, images: list[str]) -> list[str | None]:
        """The label file of each image by its stem, if unique among files and images below.

        Replaces the results of ``of``.
        """
        texts: dict[str, str | None] = {}
        for path in files_below(root, (".txt",)):
            texts[label_stem(path)] = None if label_stem(path) in texts else path
        stems = Counter(map(label_stem, images_below(root)))
        found = [
            texts.get(stem) if stems[stem := label_stem(image)] == 1 else None for image in images
        ]
        pairs = list(zip(images, found, strict=True))
        self.findings.add("name-base", [f"{path} of {image}" for image, path in pairs if path])
        self.missing = [image for image, path in pairs if path is None]
        self._image_of_label |= {path: image for image, path in pairs if path}
        return found

    def _real(self, folder: str) -> str:
        """The existing folder whose name, or whose parent's name, differs only in letter case."""
        if folder not in self._real_folders:
            path = Path(folder)
            above = path.parent
            parent = above if above.is_dir() else child(above.parent, above.name)
            self._real_folders[folder] = str(child(parent, path.name))
        return self._real_folders[folder]

    def _listing(self, folder: str) -> dict[str, str]:
        """Folded name → name of the text files in a folder; exact names where folded ones clash."""
        if folder not in self._listings:
            names = [os.path.basename(path) for path in files_in(folder, (".txt",))]
            table = {name.casefold(): name for name in names}
            self._listings[folder] = (
                table if len(table) == len(names) else table | {name: name for name in names}
            )
        return self._listings[folder]

    def report(self, images: list[str]) -> None:
        """Count images without a label file, and label files without an image.

        Raises ValueError if no image has a label file.
        """
        if len(self.missing) == len(images):
            folder, names = label_places(images[0])[0]
            causes = [f"; {each}" for each in self.findings if each.kind.name == "label-case"]
            raise ValueError(
                f"none of {counted(len(images), 'image')} has a file of boxes; the first's should "
                f"be {folder}/{names[0]}{''.join(causes)}"
            )
        self.findings.add("label-missing", self.missing)
        self.findings.add("layout-other", self._other_folders())
        for labels, folder in self._images_of_labels.items():
            root = _shared_root(labels, folder)
            paths = os.listdir(folder) if root == folder else images_below(root)
            names = (os.path.splitext(os.path.basename(path)) for path in paths)
            pairs = ((stem.casefold(), ending.lower()) for stem, ending in names)
            found = [(stem, ending) for stem, ending in pairs if ending in IMAGE_SUFFIXES]
            stems = {name for stem, ending in found for name in (stem, stem + ending)}
            used = {path.casefold() for path in self._image_of_label}
            unused = {
                name
                for name in self._listing(labels)
                if name[:-4] not in stems and f"{labels}/{name}".casefold() not in used
            }
            self.findings.add(
                "label-unused", [f"{labels}/{name}" for name in sorted(unused - {*NAMES})]
            )

    def _other_folders(self) -> list[str]:
        """Folders of text files for the same images beside those that are read."""
        used = {os.path.dirname(label): image for label, image in self._image_of_label.items()}
        found: dict[str, str] = {}
        for folder, image in used.items():
            above, below = _around_images(image)
            name = label_places(image)[0][1][0].casefold()
            others = ("/".join([str(each), *below]) for each in folders_in(Path("/".join(above))))
            new = (each for each in others if each not in used and name in self._listing(each))
            found |= dict.fromkeys(new, folder)
        return [f"{other}: {folder} is read" for other, folder in found.items()]


def _shared_root(labels: str, folder: str) -> str:
    """The folder of all images whose label files may be in ``labels``, from one that has some."""
    above = os.path.dirname(labels)
    while folder.startswith(f"{above}/") and os.path.dirname(folder) != above:
        folder = os.path.dirname(folder)
    return folder


def label_stem(path: str | Path) -> str:
    """The key that an image and its label file share: the folded stem without upload prefix."""
    return folded(UPLOADED.sub("", os.path.splitext(os.path.basename(path))[0]))


def label_places(image: str) -> list[tuple[str, list[str]]]:
    """Folders that may contain the label file of an image, the likeliest first, and its names."""
    *folders, name = image.replace("\\", "/").split("/")
    own_folder = "/".join(folders)
    names = [f"{name.rpartition('.')[0] or name}.txt", f"{name}.txt"]
    above, below = _around_images(image)
    if above == folders:
        worded = bool(folders) and IMAGE_WORD.search(folders[-1])
        twins = [twin_folder(own_folder, labels) for labels in LABEL_FOLDERS] if worded else []
        below_own = [f"{own_folder}/labels"] if folders else []
        return [(place, names) for place in (own_folder or ".", *below_own, *twins)]
    places = ["/".join([*above, labels, *below]) for labels in LABEL_FOLDERS]
    flat = ["/".join([*above, LABEL_FOLDERS[0]])] if below else []
    return [(place, names) for place in (*places, own_folder, *flat)]


def _around_images(image: str) -> tuple[list[str], list[str]]:
    """The folders above the last folder "images" in a path, and those below it.

    Without one, all folders are above.
    """
    *folders, _ = image.replace("\\", "/").split("/")
    named = [n for n, each in enumerate(folders) if each.casefold() in IMAGE_FOLDERS]
    last = max(named, default=len(folders))
    return folders[:last], folders[last + 1 :]


def twin_folder(images: str, labels: str) -> str:
    """The folder of label files of train_images: train_labels."""
    above, slash, name = images.rpartition("/")
    return above + slash + IMAGE_WORD.sub(rf"\g<1>{labels}\g<3>", name)


class Lines:
    """The lines of all label files of a split, kept as numbers until their form is inferred.

    files     paths of the label files
    image     index of the image, of each line
    file      index into ``files``, of each line
    line      number in its file, from 1
    category  class number, or its name
    values    numbers after the class
    """

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.files: list[str] = []
        self.image: list[int] = []
        self.file: list[int] = []
        self.line: list[int] = []
        self.category: list[float | str] = []
        self.values: list[tuple[float, ...]] = []

    def read(self, file: str, image: int) -> bool:
        """Add the lines of a file, repeated ones once; whether it can be read."""
        try:
            text = read_text(file, self.findings)
        except (ValueError, OSError) as error:
            self.findings.add("file-unreadable", str(error))
            return False
        self.files.append(file)
        seen: set[tuple[Any, ...]] = set()
        for number, line in enumerate(text.splitlines(), 1):
            line = line.partition("#")[0]
            words = line.split()
            if not words:
                continue
            numbers: tuple[Any, ...] | None = numbers_of(words)
            if numbers is None and (numbers := _numbers_with_separators(line)) is not None:
                self.findings.add("line-separators", f"{file}, line {number}")
            numbers = numbers or _named_numbers(words)
            if numbers is None:
                self.findings.add("line-unreadable", f"{file}, line {number}: {shown(line)}")
                continue
            if numbers in seen:
                self.findings.add("line-twice", f"{file}, line {number}")
                continue
            seen.add(numbers)
            self.image.append(image)
            self.file.append(len(self.files) - 1)
            self.line.append(number)
            self.category.append(numbers[0])
            self.values.append(numbers[1:])
        return True

    def number_by(
        self, own: dict[str, dict[int, str]], others: dict[int, str], names: list[str]
    ) -> None:
        """Number the classes of all lines by ``names``.

        own     folder → number → class name
        others  number → class name in other folders
        """
        for row, number in enumerate(self.category):
            listed = own.get(os.path.dirname(self.files[self.file[row]]), others)
            if isinstance(number, float) and int(number) in listed and number.is_integer():
                self.category[row] = float(names.index(listed[int(number)]))

    def classes(self) -> Iterator[int]:
        """The class number of each line that has a whole one."""
        numbers = (value for value in self.category if isinstance(value, float))
        return (int(value) for value in numbers if value.is_integer())

    def place(self, row: int) -> str:
        """File and number of a line, for messages."""
        return f"{self.files[self.file[row]]}, line {self.line[row]}"

    def fill(
        self,
        rows: Rows,
        labels: dict[int, int],
        names: tuple[str, ...],
        points: Any,
        step: int | None = None,
    ) -> None:
        """Put the boxes into ``rows``.

        labels  class number → label
        names   class names by label
        points  ``kpt_shape`` of data.yaml
        step    what the numbers of the lines are too high by, if other splits show it
        """
        where = f"{self.files[0]} and the like" if self.files else ""
        rows.classes = find_step(self.classes(), labels, step, self.findings, where)
        numbered = {number + rows.classes.step: label for number, label in labels.items()}
        table: dict[float | str, int] = {**numbered, **{n: i for i, n in enumerate(names)}}
        named = [row for row, value in enumerate(self.category) if isinstance(value, str)]
        for kind, rows_ in (
            ("id-text", [row for row in named if self.category[row] in table]),
            ("line-unreadable", [row for row in named if self.category[row] not in table]),
        ):
            examples = (f"{self.place(row)}, class {shown(self.category[row])}" for row in rows_)
            self.findings.add(kind, examples, len(rows_))
        kept: list[int] = []
        unknown: list[int] = []
        forms = self._forms(points)
        boxes: list[np.ndarray | tuple[float, ...]] = []
        for row, (category, values) in enumerate(zip(self.category, self.values, strict=True)):
            if category not in table:
                unknown += [row] * isinstance(category, float)
            elif form := forms[len(values)]:
                kept.append(row)
                boxes.append(_box(form, values))
        if unknown:
            known = listed_range(labels, names)
            examples = (f"{self.place(r)} has class {self.category[r]:g}; {known}" for r in unknown)
            self.findings.add("class-unknown", examples, len(unknown))
        rows.image = np.array([self.image[row] for row in kept], np.int64)
        rows.label = np.array([table[self.category[row]] for row in kept], np.int64)
        rows.numbers = np.array(boxes, np.float64).reshape(-1, 4)
        rows.crowd = np.zeros(len(kept), bool)
        rows.areas = np.full(len(kept), np.nan)
        rows.place = lambda row: self.place(kept[row])

    def _forms(self, points: Any) -> dict[int, str]:
        """Count of numbers after the class → "box", "score first", "outline", or "": skipped."""
        groups: dict[int, list[int]] = {}
        for row, values in enumerate(self.values):
            groups.setdefault(len(values), []).append(row)
        declared = None
        with suppress(TypeError, ValueError):
            many, each = points
            declared = int(many) * int(each)
        forms: dict[int, str] = {}
        for count, rows in groups.items():
            forms[count] = "box"
            if count != 4:
                table = np.array([self.values[row] for row in rows])
                forms[count], kind = _form(table, declared)
                self.findings.add(kind, map(self.place, rows), len(rows))
        return forms


def _form(table: np.ndarray, declared: int | None) -> tuple[str, str]:
    """The form of lines with equally many numbers, and the kind of finding to count them as.

    table     [lines, numbers after the class]
    declared  count of keypoint numbers
    """
    count = table.shape[1]
    last = table[:, -1]
    if declared is not None and count in (4 + declared, 5 + declared):
        return "box", "line-keypoints-declared"
    if count == 5:
        if not ((last >= 0) & (last <= 1)).all():
            return "", "line-angle"
        # If the second to fifth numbers fit the image better, the first one is the confidence.
        first, second = (_share_inside(table[:, start : start + 4]) for start in (0, 1))
        return "score first" if second > first else "box", "line-confidence"
    if count == 6 and not ((table >= -0.5) & (table <= 1.5)).all():
        return "", "line-columns"
    if count >= 7 and (count - 4) % 3 == 0:
        visible = table[:, 6::3]
        if np.isin(visible, (0, 1, 2)).all() and _points_in_boxes(table[:, :4], table[:, 4:]):
            return "", "line-keypoints"
    if count >= 6 and count % 2 == 0:
        return "outline", "line-outline" if count != 8 else "box-rotated"
    if count >= 7 and ((last >= 0) & (last <= 1)).all():
        return "outline", "line-confidence"
    return "", "line-columns"


def _points_in_boxes(boxes: np.ndarray, points: np.ndarray) -> bool:
    """Whether at least half of the visible points (x, y, visible) lie in their boxes."""
    xy = points.reshape(len(points), -1, 3)
    visible = xy[..., 2] > 0
    near = np.abs(xy[..., :2] - boxes[:, None, :2]) <= boxes[:, None, 2:] / 2 + 0.05
    return bool((near.all(-1) | ~visible).mean() >= 0.5)


def _share_inside(boxes: np.ndarray) -> float:
    """Share of the boxes (centre and size) that lie within 0–1."""
    half = boxes[:, 2:] / 2
    inside = (boxes[:, :2] - half >= -SLACK) & (boxes[:, :2] + half <= 1 + SLACK)
    return float(inside.all(1).mean())


def _box(form: str, values: tuple[float, ...]) -> tuple[float, ...]:
    """Centre and size from the numbers of a line in ``form``.

    Of an outline x y x y …, an odd last number is a confidence.
    """
    if form != "outline":
        return values[1:5] if form == "score first" else values[:4]
    corners = values[: len(values) // 2 * 2]
    (x0, x1), (y0, y1) = ((min(v), max(v)) for v in (corners[::2], corners[1::2]))
    return (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0


def _numbers_with_separators(line: str) -> tuple[float, ...] | None:
    """Numbers with other separators than blanks, or with decimal commas; None for other text."""
    words = re.split(r"[\s;|]+", line.strip(" \t;|"))
    if all(map(COMMA.fullmatch, words)):
        return numbers_of([word.replace(",", ".") for word in words])
    return numbers_of(re.split(r"[\s,;|()\[\]]+", line.strip(" \t,;|()[]")))


def _named_numbers(words: list[str]) -> tuple[Any, ...] | None:
    """A class name and four or more numbers; None for a line of another form."""
    first = next((n for n, word in enumerate(words) if NUMBER.fullmatch(word)), len(words))
    numbers = words[first:]
    if not first or len(numbers) < 4 or not all(map(NUMBER.fullmatch, numbers)):
        return None
    return " ".join(words[:first]), *map(float, numbers)


def numbers_of(words: list[str]) -> tuple[float, ...] | None:
    """The words as numbers; None for fewer than two words or if any is not a number."""
    if len(words) < 2 or not all(map(NUMBER.fullmatch, words)):
        return None
    return tuple(map(float, words))
