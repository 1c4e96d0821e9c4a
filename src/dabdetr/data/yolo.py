"""YOLO's layout: a text file of boxes for each image, and a file that names the classes.

The names and splits are in data.yaml (or another name), in obj.data and obj.names (darknet), or
only the names in classes.txt. ``yolo_lines`` reads the text files.
"""

from __future__ import annotations

import re
from functools import reduce
from pathlib import Path
from typing import Any

from dabdetr.data.box_formats import Asked
from dabdetr.data.findings import Findings
from dabdetr.data.images import IMAGE_SUFFIXES
from dabdetr.data.locate import (
    USUAL,
    ImageFolders,
    canonical,
    child,
    clean,
    folders_in,
    images_below,
    names_split,
    paths_of,
)
from dabdetr.data.records import Open, RecordTable, Rows, class_table
from dabdetr.data.textfiles import head_of, read_text
from dabdetr.data.voc import split_lists
from dabdetr.data.yolo_lines import NAMES, LabelFiles, Lines, label_stem, numbers_of
from dabdetr.text import parse_yaml, shortened, shown

SETTINGS = (".yaml", ".yml")
KEYS = ("names", "nc", "path", "kpt_shape")


def find_yolo(root: Path) -> dict[str, Open]:
    """The splits of a settings file, ``root`` itself or in it; or of folders named images."""
    if root.is_file():
        if root.suffix.lower() in SETTINGS:
            return _of_settings(root, _settings(root, said := Findings()), said)
        return _of_darknet(root) if root.suffix == ".data" else {}
    for file in _candidates(root):
        if file.suffix == ".data":
            return _of_darknet(file)
        said = Findings()
        settings = _settings(file, said, strict=file.stem.casefold() == "data")
        if settings:
            return _of_settings(file, settings, said)
    return _of_folders(root)


def _candidates(root: Path) -> list[Path]:
    """Files that may say where images are, data.yaml first."""
    yamls = paths_of(root, *SETTINGS)
    first = [file for file in yamls if file.stem.casefold() in ("data", "dataset")]
    return [*first, *(file for file in yamls if file not in first), *paths_of(root, ".data")]


def _settings(file: Path, findings: Findings, strict: bool = True) -> dict[str, Any]:
    """The mapping in a data.yaml; not ``strict``, nothing where it is another kind of file."""
    try:
        text = read_text(file, findings)
        settings = parse_yaml(text, str(file))
    except (ValueError, OSError):
        if strict:
            raise
        return {}
    settings = _plain_keys(settings)
    if isinstance(settings, dict) and "names" in settings:
        settings["names"] = _plain_keys(parse_yaml(text, str(file), as_text=True))["names"]
    known = isinstance(settings, dict) and bool(_keys(settings))
    named = isinstance(settings, dict) and ("names" in settings or "nc" in settings)
    if strict and not named:
        raise ValueError(f"{file} has no names: YOLO's data.yaml has names, train and val")
    if strict and not known:
        raise ValueError(f"{file} names no images; it should have train: and val: with a folder")
    return settings if known and named else {}


def _plain_keys(settings: Any) -> Any:
    """With the keys of data.yaml in small letters; those of splits stay as they are."""
    if not isinstance(settings, dict):
        return settings
    return {
        low if isinstance(key, str) and (low := key.casefold().strip()) in KEYS else key: value
        for key, value in settings.items()
    }


def _of_settings(file: Path, settings: dict[str, Any], said: Findings) -> dict[str, Open]:
    """The splits that are named; of one whose images are not there nothing is left.

    ``said`` is what was odd in the file itself.
    """
    found: dict[str, Open] = {}
    keys = _keys(settings)
    for key in keys:

        def read(split: str, box_format: Asked | None = None, key: str = key) -> RecordTable:
            findings = Findings()
            findings.merge(said)
            pairs = _names(settings, file, findings)
            other = _names_file(file.parent)
            listed = dict(name_list(other, Findings())) if other else {}
            unlike = [f"{n}: {name!r}, {listed[n]!r} in {other}" for n, name in pairs
                      if listed.get(n, name) != name]  # fmt: skip
            findings.add("class-order", unlike)
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
    lists += [key for key in named if str(settings[key]).startswith("images/") and key != "path"]
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
        given = map(str, _several(self.settings[key]))
        return all(self._place(each) or self._matching(each) for each in given)

    def images(self, where: Any) -> list[str]:
        """What a folder, a list of images in a .txt file, or several of these hold."""
        found: list[str] = []
        for each in _several(where):
            place = self._place(str(each))
            if place is None and (matching := self._matching(str(each))):
                found += matching
                continue
            if place is None:
                raise FileNotFoundError(
                    f"{self.file} names {shown(each)}, which does not exist in "
                    f"{shortened(str(self._bases()[0]), 120)}; correct its path, train and val"
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

    def _matching(self, where: str) -> list[str]:
        """The images of a pattern: images/train/*.jpg."""
        text = where.replace("\\", "/").lstrip("/")
        if "*" not in text or ".." in text.split("/"):
            return []
        files = next(filter(None, (sorted(base.glob(text)) for base in self._bases())), [])
        return [str(each) for each in files if each.suffix.lower() in IMAGE_SUFFIXES]

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
                    place = base / option
                    if option and not place.exists():  # "images" is "Images"
                        place = reduce(child, Path(option).parts, base)
                    if option and place.exists():
                        if option not in near or place != base / option:
                            self.findings.add("name-cleaned", f"{where} is {place}")
                        return place
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

        def read(split: str, box_format: Asked | None = None, place: Path = place) -> RecordTable:
            findings = Findings()
            named = _below(file.parent, content.get("names", ""))
            pairs = name_list(named, findings) if named else []
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


def name_list(file: Path, findings: Findings) -> list[tuple[int, str]]:
    """A name a line; some write each class's number before it."""
    lines = [line.strip() for line in read_text(file, findings).rstrip().splitlines()]
    numbered = [re.fullmatch(r"(\d{1,9})\s*[:=,.)\s]\s*(\S.*)", line) for line in lines]
    if all(each and int(each.group(1)) == at for at, each in enumerate(numbered)):
        lines = [each.group(2) for each in numbered if each]
    return list(enumerate(lines))


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
        labelled = [place for place in together if _labelled(place, paths_of(place, ".txt"))]
        places = places or dict(zip(("default",), labelled, strict=False))
    listed = _by_lists(root, places["default"]) if "default" in places else {}
    found: dict[str, Open] = {}
    for name in listed or places:

        def read(split: str, box_format: Asked | None = None, name: str = name) -> RecordTable:
            findings = Findings()
            pairs = name_list(names, findings) if names else []
            place = places[name if name in places else "default"]
            files = listed.get(name) or list(images_below(place))
            return _read(files, pairs, names or place, root, split, findings, box_format)

        found[name] = read
    return found


def _by_lists(root: Path, place: Path) -> dict[str, list[str]]:
    """Images of a folder without splits, by split, where train.txt and the like name them."""
    lists = {name: own for name, own in split_lists(root).items() if canonical(name) in USUAL}
    found: dict[str, list[str]] = {}
    for name, own in lists.items():
        stems = {Path(each).name for each in own}
        found[name] = [path for path in images_below(place) if Path(path).stem in stems]
    return {name: own for name, own in found.items() if own}


def _of_another_layout(labels: Path) -> bool:
    """Whether there are files of labels, and none of them is a text file."""
    return bool(paths_of(labels, ".xml", ".json", ".csv", below=True)) and not paths_of(
        labels, ".txt", below=True
    )


def _split_folders(root: Path) -> list[str]:
    """Folders that are called like splits."""
    return [each.name for each in folders_in(root) if canonical(each.name) in USUAL]


def _names_file(root: Path) -> Path | None:
    places = [root, *(child(root, name) for name in ("labels", "images", "train"))]
    for folder in filter(Path.is_dir, places[1:3]):
        places += [folder / name for name in _split_folders(folder)]
    places += folders_in(root)
    places += [root.parent] if canonical(root.name) in USUAL else []
    files = (place / name for place in places for name in NAMES)
    other = paths_of(root, ".names")
    return next((file for file in (*files, *other) if file.is_file()), None)


def find_scattered(root: Path) -> dict[str, Open]:
    """Images and label files anywhere below a folder, as one split; none if folders are splits."""

    def read(split: str, box_format: Asked | None = None) -> RecordTable:
        findings, names = Findings(), _names_file(root)
        pairs = name_list(names, findings) if names else []
        images = list(images_below(root))
        return _read(images, pairs, names or root, root, split, findings, box_format)

    files = paths_of(root, ".txt", below=True) if root.is_dir() else []
    folders = {part for file in files for part in file.relative_to(root).parts[:-1]}
    divided = any(map(names_split, folders))
    return {"default": read} if files and not divided and _labelled(root, files) else {}


def _labelled(root: Path, texts: list[Path]) -> bool:
    """Whether an image below the folder has one of the files, with lines of numbers."""
    stems = {label_stem(file): file for file in texts}
    if not stems:
        return False
    beside = [stems[stem] for path in images_below(root) if (stem := label_stem(path)) in stems]
    heads = (head_of(file).decode("utf-8", "replace").split("\n")[0] for file in beside[:20])
    return any(len(numbers_of(head.split()) or ()) > 4 for head in heads)


def _read(
    images: list[str],
    pairs: list[tuple[int, str]],
    file: Path,
    root: Path,
    split: str,
    findings: Findings,
    box_format: Asked | None,
    points: Any = None,
) -> RecordTable:
    """The split of these images and the label files that belong to them."""
    if not images:
        raise ValueError(f"{file} names no image that is there; check the paths in it")
    rows = Rows(findings, "cxcywh-relative")
    lines = Lines(findings)
    labels = LabelFiles(findings)
    files = [labels.of(image) for image in images]
    if not any(files) and not findings.count("label-case"):
        files = labels.scattered(root, images)
    for image, found in zip(images, files, strict=True):
        index = rows.add_image(image)
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
