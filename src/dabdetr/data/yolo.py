"""YOLO's layout: a text file of boxes for each image, and a file that names the classes.

The names and splits are in data.yaml (or another name), in obj.data and obj.names (darknet), or
only the names in classes.txt. A line is ``class centre-x centre-y width height``, 0–1 of the image
as EXIF turns it. Behind that a confidence may stand; three or more corners in place of a box become
the box around them. What the columns are is settled over the whole split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dabdetr.data.findings import Findings
from dabdetr.data.locate import USUAL, ImageFolders, canonical, child, clean, images_below
from dabdetr.data.records import SLACK, BoxFormat, Open, RecordTable, Rows, class_table
from dabdetr.data.textfiles import head_of, read_text
from dabdetr.text import parse_yaml, shown

SETTINGS = (".yaml", ".yml")
NAMES = ("classes.txt", "obj.names", "names.txt", "labels.txt", "_darknet.labels")
"""Files with a class name a line."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?nan|[+-]?inf", re.IGNORECASE)


def find_yolo(root: Path) -> dict[str, Open]:
    """The splits of a settings file, ``root`` itself or in it; or of folders named images."""
    if root.is_file():
        if root.suffix in SETTINGS:
            return _of_settings(root, _settings(root, said := Findings()), said)
        return _of_darknet(root) if root.suffix == ".data" else {}
    for file in _candidates(root):
        if file.suffix == ".data":
            return _of_darknet(file)
        said = Findings()
        settings = _settings(file, said, strict=file.stem == "data")
        if settings:
            return _of_settings(file, settings, said)
    return _of_folders(root)


def _candidates(root: Path) -> list[Path]:
    """Files that may say where images are, data.yaml first."""
    if not root.is_dir():
        return []
    yamls = [file for suffix in SETTINGS for file in sorted(root.glob(f"*{suffix}"))]
    first = [file for file in yamls if file.stem in ("data", "dataset")]
    return [*first, *(file for file in yamls if file not in first), *sorted(root.glob("*.data"))]


def _settings(file: Path, findings: Findings, strict: bool = True) -> dict[str, Any]:
    """The mapping in a data.yaml; not ``strict``, nothing where it is another kind of file."""
    try:
        text = read_text(file, findings)
        settings = parse_yaml(text, str(file))
    except (ValueError, OSError):
        if strict:
            raise
        return {}
    if isinstance(settings, dict) and "names" in settings:
        settings["names"] = parse_yaml(text, str(file), as_text=True)["names"]
    known = isinstance(settings, dict) and bool(_keys(settings))
    named = isinstance(settings, dict) and ("names" in settings or "nc" in settings)
    if strict and not named:
        raise ValueError(f"{file} has no names: YOLO's data.yaml has names, train and val")
    if strict and not known:
        raise ValueError(f"{file} names no images; it should have train: and val: with a folder")
    return settings if known and named else {}


def _of_settings(file: Path, settings: dict[str, Any], said: Findings) -> dict[str, Open]:
    """The splits that are named; of one whose images are not there nothing is left.

    ``said`` is what was odd in the file itself.
    """
    found: dict[str, Open] = {}
    keys = _keys(settings)
    for key in keys:

        def read(split: str, box_format: BoxFormat | None = None, key: str = key) -> RecordTable:
            findings = Findings()
            findings.merge(said)
            pairs = _names(settings, file, findings)
            files = _Files(file, settings, findings)
            images = files.images(settings[key])
            absent = [other for other in keys if not files.there(other)]
            findings.add("split-missing", [f"{k}: {shown(settings[k])} in {file}" for k in absent])
            points = settings.get("kpt_shape")
            return _read(images, pairs, file, file.parent, split, findings, box_format, points)

        found[key] = read
    there = {key: read for key, read in found.items() if _Files(file, settings).there(key)}
    return there or found


def _keys(settings: dict[str, Any]) -> list[str]:
    """The names of splits in any spelling, and others that name a list of images."""
    named = [key for key, value in settings.items() if isinstance(key, str) and value]
    lists = [key for key in named if str(settings[key]).endswith(".txt") and key != "path"]
    return [key for key in named if canonical(key) in USUAL or key in lists]


class _Files:
    """Where a data.yaml says that images are."""

    def __init__(
        self, file: Path, settings: dict[str, Any], findings: Findings | None = None
    ) -> None:
        self.file, self.settings = file, settings
        self.findings = Findings() if findings is None else findings

    def there(self, key: str) -> bool:
        """Whether all that a split names exists."""
        return all(self._place(str(each)) for each in _several(self.settings[key]))

    def images(self, where: Any) -> list[str]:
        """What a folder, a list of images in a .txt file, or several of these hold."""
        found: list[str] = []
        for each in _several(where):
            place = self._place(str(each))
            if place is None:
                raise FileNotFoundError(
                    f"{self.file} names {shown(each)}, which does not exist in "
                    f"{self._bases()[0]}; correct its path, train and val"
                )
            if place.is_dir():
                found += images_below(place)
            elif place.suffix == ".txt":
                found += _listed(place, self._bases(), self.findings)
            else:
                found.append(str(place))
            if not found:
                raise ValueError(f"{self.file} names {place}, where there is no image; check it")
        return found

    def _bases(self) -> list[Path]:
        """``path``, from here or from a folder for all data sets, or else the file's own place."""
        own = self.file.parent
        given = str(self.settings.get("path") or ".").replace("\\", "/")
        bases = [own / given, own]
        if given.strip("./"):
            bases += [own / "datasets" / given, own.parent / "datasets" / given]
            bases += [own / Path(given).name, own.parent / given]
        return bases

    def _place(self, where: str) -> Path | None:
        """An existing place; exporters write ../ for the file's own folder."""
        text = where.replace("\\", "/")
        parts = clean(where)
        splits = [number for number, part in enumerate(parts) if canonical(part) in USUAL]
        last = max(splits, default=len(parts) - 1)  # what is left must name the same split
        shorter = ["/".join(parts[start:]) for start in range(last + 1)]
        near = (text, text.removeprefix("../"), text.lstrip("/"))
        for option in dict.fromkeys((*near, *shorter)):
            for base in self._bases():
                try:
                    if option and (base / option).exists():
                        if option not in near:
                            self.findings.add("name-cleaned", f"{where} is {base / option}")
                        return base / option
                except (OSError, ValueError):  # longer than a path can be
                    return None
        return None


def _several(where: Any) -> list[Any]:
    return where if isinstance(where, list) else [where]


def _listed(place: Path, bases: list[Path], findings: Findings) -> list[str]:
    """The images of a list, found as from its own folder or from that of the data set."""
    folders = dict.fromkeys([place.parent, *(base for base in bases if base.is_dir())])
    finder = ImageFolders(folders, findings, anywhere=True)
    names = [line.strip() for line in read_text(place, findings).splitlines() if line.strip()]
    found = {name: finder.find(name) for name in names}
    missing = [f"{place}: {name}" for name, path in found.items() if path is None]
    findings.add("image-missing", missing)
    findings.add("image-twice", [f"{place}: {name}" for name in _repeated(names)])
    return [path for path in found.values() if path is not None]


def _repeated(names: list[str]) -> list[str]:
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]  # pyright: ignore


def _names(settings: dict[str, Any], file: Path, findings: Findings) -> list[tuple[int, str]]:
    """Class number and name, of a list or a mapping."""
    given, count = settings.get("names"), settings.get("nc")
    if isinstance(given, str):
        given = [name.strip() for name in given.split(",")]
    pairs: list[Any] = list(enumerate(given) if isinstance(given, list) else [])
    if isinstance(given, dict):
        pairs = [(_class_number(number), name) for number, name in given.items()]
    if given is None and isinstance(count, int) and 0 < count < 100_000:
        findings.add("class-names-missing", f"nc: {count} in {file}", count)
        return [(number, str(number)) for number in range(count)]
    plain = (str, int, float)
    if not pairs or not all(type(n) is int and isinstance(name, plain) for n, name in pairs):
        raise ValueError(
            f"{file}: names should be a list of different class names, or number: name; it has "
            f"{shown(given)}"
        )
    if count is not None and count != len(pairs):
        findings.add("class-count", f"nc: {shown(count)} and {len(pairs)} names in {file}")
    return sorted((int(number), str(name)) for number, name in pairs)


def _class_number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


def _of_darknet(file: Path) -> dict[str, Open]:
    """obj.data: ``names = data/obj.names``, ``train = data/train.txt``, ``valid = …``."""
    content = {}
    for line in read_text(file, Findings()).splitlines():
        name, sign, value = line.partition("=")
        if sign:
            content[name.strip()] = value.strip()
    found: dict[str, Open] = {}
    for key, where in content.items():
        place = _below(file.parent, where)
        if key in ("classes", "names", "backup") or place is None or place.suffix != ".txt":
            continue

        def read(
            split: str, box_format: BoxFormat | None = None, place: Path = place
        ) -> RecordTable:
            findings = Findings()
            named = _below(file.parent, content.get("names", ""))
            pairs = _name_list(named, findings) if named else []
            images = _listed(place, [file.parent], findings)
            return _read(images, pairs, file, file.parent, split, findings, box_format)

        found[key if canonical(key) in USUAL else place.stem] = read
    return found


def _below(folder: Path, where: str) -> Path | None:
    """A file that is named as from elsewhere: by as much of its path as there is."""
    parts = [part for part in where.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        if (folder / Path(*parts[start:])).is_file():
            return folder / Path(*parts[start:])
    return None


def _name_list(file: Path, findings: Findings) -> list[tuple[int, str]]:
    lines = read_text(file, findings).rstrip().splitlines()
    return [(number, line.strip()) for number, line in enumerate(lines)]


def _of_folders(root: Path) -> dict[str, Open]:
    """images/ and labels/ (with folders of splits), folders of splits, or all in one folder."""
    if not root.is_dir():
        return {}
    names = _names_file(root)
    images = child(root, "images")
    places: dict[str, Path] = {}
    labels = child(root, "labels")
    if images.is_dir() and labels.is_dir() and not _of_another_layout(labels):
        places = {name: images / name for name in _split_folders(images)}
        places = places or {"default": images}
    elif not images.is_dir():
        splits = [name for name in _split_folders(root) if child(root / name, "labels").is_dir()]
        places = {name: root / name for name in splits if names}
        together = [root, *(root / "data",) * bool(names)]
        labelled = [place for place in together if _labelled(place)]
        places = places or dict(zip(("default",), labelled, strict=False))
    found: dict[str, Open] = {}
    for name, place in places.items():

        def read(
            split: str, box_format: BoxFormat | None = None, place: Path = place
        ) -> RecordTable:
            findings = Findings()
            pairs = _name_list(names, findings) if names else []
            files = list(images_below(place))
            return _read(files, pairs, names or place, root, split, findings, box_format)

        found[name] = read
    return found


def _of_another_layout(labels: Path) -> bool:
    """Whether there are files of labels, and none of them is a text file."""
    endings = {file.suffix.lower() for file in labels.rglob("*") if file.is_file()}
    return bool(endings) and ".txt" not in endings


def _split_folders(root: Path) -> list[str]:
    """Folders that are called like splits."""
    names = sorted(each.name for each in root.iterdir() if each.is_dir())
    return [name for name in names if canonical(name) in USUAL]


def _names_file(root: Path) -> Path | None:
    places = (root, *(child(root, name) for name in ("labels", "images", "train")))
    files = (place / name for place in places for name in NAMES)
    return next((file for file in files if file.is_file()), None)


def _labelled(root: Path) -> bool:
    """Whether an image of the folder has a label file beside it, with lines of numbers."""
    texts = {file.stem: file for file in root.glob("*.txt")}
    if not texts:
        return False
    beside = [texts[stem] for path in images_below(root) if (stem := Path(path).stem) in texts]
    heads = (head_of(file).decode("utf-8", "replace").split("\n")[0] for file in beside[:20])
    return any(len(_numbers(head.split()) or ()) > 4 for head in heads)


def _read(
    images: list[str],
    pairs: list[tuple[int, str]],
    file: Path,
    root: Path,
    split: str,
    findings: Findings,
    box_format: BoxFormat | None,
    points: Any = None,
) -> RecordTable:
    """The split of these images and the label files that belong to them."""
    if not images:
        raise ValueError(f"{file} names no image that is there; check the paths in it")
    rows = Rows(findings, "cxcywh-relative")
    lines = _Lines(findings)
    labels = _LabelFiles(findings)
    for image in images:
        index = rows.add_image(image)
        found = labels.of(image)
        if found is not None:
            lines.read(found, index)
    labels.report(images)
    if not pairs:
        used = sorted({number for number in lines.classes() if number >= 0})
        findings.add(
            "class-names-missing", f"{root}: there is no {' or '.join(NAMES[:2])}", len(used)
        )
        pairs = [(number, str(number)) for number in used]
    category_ids, names, known = class_table(pairs, findings)
    lines.fill(rows, known, names, points)
    return RecordTable(rows, root.resolve().name, split, names, category_ids, box_format)


class _LabelFiles:
    """Finds the label file of an image: labels in place of the last images, or beside it."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self._folders: dict[str, dict[str, str]] = {}
        self._users: dict[str, str] = {}
        self.missing: list[str] = []

    def of(self, image: str) -> str | None:
        """The path, or None where there is none."""
        other: str | None = None
        for option in label_files(image):
            folder, name = option.rsplit("/", 1)
            listing = self._listing(folder)
            if name in listing.values():
                if option in self._users:
                    self.findings.add("label-shared", f"{image} and {self._users[option]}")
                self._users.setdefault(option, image)
                return option
            if name.casefold() in listing:
                other = f"{folder}/{listing[name.casefold()]}"
        if other is not None:
            self.findings.add("label-case", f"{other} of {image}")
        self.missing.append(image)
        return None

    def _listing(self, folder: str) -> dict[str, str]:
        """Folded name → name of the text files in a folder."""
        if folder not in self._folders:
            try:
                files = Path(folder).iterdir() if Path(folder).is_dir() else ()
                names = [file.name for file in files if file.suffix.lower() == ".txt"]
            except OSError:
                names = []
            table = {name.casefold(): name for name in names}
            self._folders[folder] = (
                table if len(table) == len(names) else table | {name: name for name in names}
            )
        return self._folders[folder]

    def report(self, images: list[str]) -> None:
        """Count the images without a file; ValueError where none has one."""
        if len(self.missing) == len(images):
            raise ValueError(
                f"none of {len(images)} images has a file of boxes; the first's should be "
                f"{label_files(images[0])[0]}"
            )
        self.findings.add("label-missing", self.missing)


def label_files(image: str) -> list[str]:
    """Where the label file of an image may be, the likeliest place first."""
    *folders, name = image.replace("\\", "/").split("/")
    stem = name.rpartition(".")[0] or name
    options: list[str] = []
    last = max((n for n, each in enumerate(folders) if each.casefold() == "images"), default=None)
    beside = "/".join([*folders, f"{stem}.txt"])
    if last is None:
        return [beside, *(["/".join([*folders, "labels", f"{stem}.txt"])] if folders else [])]
    # in the case of the folder of images as well: Images/ and Labels/
    cased = {"Images": "Labels", "IMAGES": "LABELS"}.get(folders[last], "labels")
    for labels in dict.fromkeys(("labels", cased)):
        options.append("/".join([*folders[:last], labels, *folders[last + 1 :], f"{stem}.txt"]))
    return [*options, beside]


class _Lines:
    """The lines of all label files of a split, as numbers until their form is clear."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.files: list[str] = []
        self.image: list[int] = []
        self.file: list[int] = []
        self.line: list[int] = []
        self.category: list[float | str] = []
        self.values: list[tuple[float, ...]] = []

    def read(self, file: str, image: int) -> None:
        """Take the lines of a file; each that occurs twice counts once."""
        try:
            text = read_text(file, self.findings)
        except (ValueError, OSError) as error:
            self.findings.add("file-unreadable", str(error))
            return
        self.files.append(file)
        seen: set[tuple[Any, ...]] = set()
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            numbers: tuple[Any, ...] | None = _numbers(words)
            if numbers is None and words:
                words = re.split(r"[\s,;|]+", line.strip(" \t,;|"))
                numbers = _numbers(words)
                if numbers is not None:
                    self.findings.add("line-separators", f"{file}, line {number}")
            if numbers is None:
                numbers = _named_numbers(line.split())
            if numbers is None:
                if words:
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

    def classes(self) -> Iterator[int]:
        """The class numbers that occur, whole ones."""
        numbers = (value for value in self.category if isinstance(value, float))
        return (int(value) for value in numbers if value.is_integer())

    def place(self, row: int) -> str:
        """Where a line stands."""
        return f"{self.files[self.file[row]]}, line {self.line[row]}"

    def fill(self, rows: Rows, labels: dict[int, int], names: tuple[str, ...], points: Any) -> None:
        """Put the boxes into ``rows``."""
        table: dict[float | str, int] = {**labels, **{n: i for i, n in enumerate(names)}}
        named = [row for row, value in enumerate(self.category) if isinstance(value, str)]
        for kind, rows_ in (
            ("id-text", [row for row in named if self.category[row] in table]),
            ("line-unreadable", [row for row in named if self.category[row] not in table]),
        ):
            told = [f"{self.place(row)}, class {shown(self.category[row])}" for row in rows_[:3]]
            self.findings.add(kind, told, len(rows_))
        kept: list[int] = []
        unknown: list[int] = []
        forms = self._forms(points)
        boxes: list[np.ndarray | tuple[float, ...]] = []
        for row, (category, values) in enumerate(zip(self.category, self.values, strict=True)):
            if category not in table:
                unknown += [row] * isinstance(category, float)
                continue
            form = forms[len(values)]
            if not form:
                continue
            kept.append(row)
            boxes.append(_box(form, values))
        told = [f"{self.place(r)} has class {self.category[r]:g}" for r in unknown[:3]]
        self.findings.add("class-unknown", told, len(unknown))
        rows.image = np.array([self.image[row] for row in kept], np.int64)
        rows.label = np.array([table[self.category[row]] for row in kept], np.int64)
        rows.numbers = np.array(boxes, np.float64).reshape(-1, 4)
        rows.crowd = np.zeros(len(kept), bool)
        rows.areas = np.full(len(kept), np.nan)
        rows.place = lambda row: self.place(kept[row])

    def _forms(self, points: Any) -> dict[int, str]:
        """Count of numbers behind the class → "box", "score first", "outline"; "": left out."""
        groups: dict[int, list[int]] = {}
        for row, values in enumerate(self.values):
            groups.setdefault(len(values), []).append(row)
        declared = _keypoint_columns(points)
        forms: dict[int, str] = {}
        for count, rows in groups.items():
            form, kind = "box", ""
            if count != 4:
                table = np.array([self.values[row] for row in rows])
                form, kind = _form(table, declared)
            forms[count] = form
            if kind:
                self.findings.add(kind, [self.place(row) for row in rows[:3]], len(rows))
        return forms


def _keypoint_columns(points: Any) -> int | None:
    """Numbers that data.yaml's ``kpt_shape`` puts behind a box."""
    try:
        many, each = points
        return int(many) * int(each)
    except (TypeError, ValueError):
        return None


def _form(table: np.ndarray, declared: int | None) -> tuple[str, str]:
    """What lines of so many numbers are, and the kind of finding to count them as."""
    count = table.shape[1]
    last = table[:, -1]
    if declared is not None and count in (4 + declared, 5 + declared):
        return "box", "line-keypoints-declared"
    if count == 5:
        if not ((last >= 0) & (last <= 1)).all():
            return "", "line-angle"
        # Where the numbers from the second on fit the image better, the score stands first.
        first, second = (_fit(table[:, start : start + 4]) for start in (0, 1))
        return "score first" if second > first else "box", "line-confidence"
    if count == 6 and not ((table >= -0.5) & (table <= 1.5)).all():
        return "", "line-columns"
    if count >= 7 and (count - 4) % 3 == 0:
        seen = table[:, 6::3]
        if np.isin(seen, (0, 1, 2)).all() and _inside(table[:, :4], table[:, 4:]):
            return "", "line-keypoints"
    if count >= 6 and count % 2 == 0:
        return "outline", "line-outline" if count != 8 else "box-rotated"
    if count >= 7 and ((last >= 0) & (last <= 1)).all():
        return "outline", "line-confidence"
    return "", "line-columns"


def _inside(boxes: np.ndarray, points: np.ndarray) -> bool:
    """Whether the points (x, y, visible) lie in their boxes, mostly."""
    xy = points.reshape(len(points), -1, 3)
    seen = xy[..., 2] > 0
    near = np.abs(xy[..., :2] - boxes[:, None, :2]) <= boxes[:, None, 2:] / 2 + 0.05
    return bool((near.all(-1) | ~seen).mean() >= 0.5)


def _fit(boxes: np.ndarray) -> float:
    """Share of boxes (centre and size) that lie within 0–1."""
    half = boxes[:, 2:] / 2
    inside = (boxes[:, :2] - half >= -SLACK) & (boxes[:, :2] + half <= 1 + SLACK)
    return float(inside.all(1).mean())


def _box(form: str, values: tuple[float, ...]) -> tuple[float, ...]:
    """Centre and size that the numbers of a line are in ``form``."""
    if form == "outline":
        return _around(values)
    return values[1:5] if form == "score first" else values[:4]


def _around(values: tuple[float, ...]) -> tuple[float, ...]:
    """Centre and size of the box around corners x y x y …; an odd last number is a confidence."""
    corners = values[: len(values) // 2 * 2]
    (x0, x1), (y0, y1) = ((min(v), max(v)) for v in (corners[::2], corners[1::2]))
    return (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0


def _named_numbers(words: list[str]) -> tuple[Any, ...] | None:
    """A class by its name and four or more numbers; None where these are none."""
    first = next((n for n, word in enumerate(words) if NUMBER.fullmatch(word)), len(words))
    numbers = words[first:]
    if not first or len(numbers) < 4 or not all(map(NUMBER.fullmatch, numbers)):
        return None
    return " ".join(words[:first]), *map(float, numbers)


def _numbers(words: list[str]) -> tuple[float, ...] | None:
    """A class and numbers; None where some word is none, or the class is not whole."""
    if len(words) < 2 or not all(map(NUMBER.fullmatch, words)):
        return None
    return tuple(map(float, words))
