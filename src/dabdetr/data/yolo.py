"""YOLO's layout: a text file of boxes for each image, and a file that names the classes.

Class names and splits are in data.yaml (or a YAML file of another name), or in obj.data and
obj.names (darknet); or only the names are in classes.txt. ``yolo_lines`` reads the text files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import partial, reduce
from itertools import islice
from pathlib import Path
from typing import Any

from dabdetr.data.box_formats import Asked, expected_step
from dabdetr.data.class_lists import (
    NAMES,
    class_table,
    name_list,
    name_pairs,
    names_beside,
    names_in_line,
)
from dabdetr.data.findings import Findings
from dabdetr.data.images import IMAGE_SUFFIXES
from dabdetr.data.locate import (
    ImageFolders,
    child,
    clean,
    files_in,
    folders_in,
    images_below,
    outside,
    paths_of,
)
from dabdetr.data.records import Open, RecordTable, Rows
from dabdetr.data.split_names import USUAL, canonical, names_split, split_folders, usual_word
from dabdetr.data.textfiles import head_of, read_text
from dabdetr.data.yolo_lines import (
    IMAGE_WORD,
    LABEL_FOLDERS,
    LabelFiles,
    Lines,
    label_stem,
    numbers_of,
    twin_folder,
)
from dabdetr.text import parse_yaml, shortened, shown

SETTINGS = (".yaml", ".yml")
KEYS = ("names", "nc", "path", "kpt_shape")
MOST_APART = 20
"""Most settings read in the folders of a folder."""
NAMED = re.compile(rb"\b(names|nc)\b[\"'\s]*:", re.IGNORECASE)
"""A key that every data.yaml has."""


def find_yolo(root: Path) -> dict[str, Open]:
    """The splits by a settings file (``root`` or in ``root``), else by folders of images."""
    if root.is_file():
        if root.suffix.lower() in SETTINGS:
            findings = Findings()
            return _splits_of_settings(root, _settings(root, findings), findings, root.parent)
        return _splits_of_darknet(root) if root.suffix == ".data" else {}
    yamls = paths_of(root, *SETTINGS) or _settings_apart(root)
    yamls.sort(key=lambda file: file.stem.casefold() not in ("data", "dataset"))
    for file in [*yamls, *paths_of(root, ".data")]:
        if file.suffix == ".data":
            return _splits_of_darknet(file)
        findings = Findings()
        settings = _settings(file, findings, strict=file.stem.casefold() == "data")
        if settings:
            return _splits_of_settings(file, settings, findings, root)
    return _splits_of_folders(root)


def _settings_apart(root: Path) -> list[Path]:
    """Settings in a folder of their own, such as config/data.yaml, whose images lie outside it."""
    found: list[Path] = []
    every = (file for folder in folders_in(root) for file in paths_of(folder, *SETTINGS))
    for file in islice(every, MOST_APART):
        settings = _settings(file, Findings(), strict=False)
        paths = _ImagePaths(file, settings)
        given = (str(each) for key in _keys(settings) for each in _as_list(settings[key]))
        places = [place.resolve() for where in given if (place := paths.existing(where))]
        if places and not any(place.is_relative_to(file.parent.resolve()) for place in places):
            found.append(file)
    return found


def _settings(file: Path, findings: Findings, strict: bool = True) -> dict[str, Any]:
    """The mapping in a data.yaml. For another kind of file ValueError, or {} if not ``strict``."""
    if not strict and not NAMED.search(head_of(file)):  # parsing takes long
        return {}
    try:
        text = read_text(file, findings)
        settings = parse_yaml(text, str(file))
    except (ValueError, OSError):
        if strict:
            raise
        return {}
    settings = _lower_case_keys(settings)
    if "names" in settings:
        settings["names"] = _lower_case_keys(parse_yaml(text, str(file), as_text=True))["names"]
    known, named = _keys(settings), "names" in settings or "nc" in settings
    if strict and not named:
        raise ValueError(f"{file} has no names: YOLO's data.yaml has names, train and val")
    if strict and not known:
        raise ValueError(f"{file} names no images; it should have train: and val: with a folder")
    return settings if known and named else {}


def _lower_case_keys(given: Any) -> dict[Any, Any]:
    """The settings with the keys in ``KEYS`` in lower case; keys of splits are not changed."""
    settings = given if isinstance(given, dict) else {}
    return {
        low if isinstance(key, str) and (low := key.casefold().strip()) in KEYS else key: value
        for key, value in settings.items()
    }


def _splits_of_settings(
    file: Path, settings: dict[str, Any], file_findings: Findings, root: Path
) -> dict[str, Open]:
    """The splits that data.yaml names and whose images exist; all named ones if none exist.

    A train split is among them in any case, as the others are no substitute to train on.
    ``file_findings`` are the findings in the file itself; each split includes them.
    """
    keys, paths = _keys(settings), _ImagePaths(file, settings)
    there = [key for key in keys if paths.exist(key)]
    kept = [key for key in keys if key in there or canonical(key) == "train"] if there else keys
    return {key: partial(_open_key, file, settings, file_findings, root, key) for key in kept}


def _open_key(
    file: Path,
    settings: dict[str, Any],
    file_findings: Findings,
    root: Path,
    key: str,
    split: str,
    box_format: Asked | None = None,
) -> RecordTable:
    findings = Findings()
    findings.merge(file_findings)
    pairs = _names(settings, file, findings)
    names_file = names_beside(file.parent)
    listed = dict(name_list(names_file, Findings()))
    differing = [f"{n}: {name!r}, {listed[n]!r} in {names_file}" for n, name in pairs
                 if listed.get(n, name) != name]  # fmt: skip
    for other in paths_of(file.parent, *SETTINGS):
        others = {} if other == file else _settings(other, Findings(), strict=False)
        with suppress(ValueError):
            if "names" in others and _names(others, other, Findings()) != pairs:
                differing.append(f"{other} has other names")
            if others.get(key, settings[key]) != settings[key]:
                findings.add("layout-other", f"{other} has other images as {key}: not read")
    findings.add("class-order", differing)
    paths = _ImagePaths(file, settings, findings)
    images = paths.images(key)
    findings.add("image-outside", outside(images, root))
    others = _ImagePaths(file, settings)
    absent = [each for each in _keys(settings) if canonical(each) != "train"]
    absent = [each for each in absent if not others.exist(each)]
    findings.add("split-missing", [f"{k}: {shown(settings[k])} in {file}" for k in absent])
    points = settings.get("kpt_shape")
    return _read(images, pairs, file, file.parent, split, findings, box_format, points)


def _keys(settings: dict[str, Any]) -> list[str]:
    """Keys that are names of splits in any spelling, or whose value is a list of images."""
    named = [key for key, value in settings.items() if isinstance(key, str) and value]
    named = [key for key in named if key not in KEYS]
    lists = [key for key in named if str(settings[key]).endswith(".txt")]
    lists += [key for key in named if str(settings[key]).startswith("images/")]
    return [key for key in named if canonical(key) in USUAL or key in lists]


class _ImagePaths:
    """Resolves the paths of images in a data.yaml."""

    def __init__(
        self, file: Path, settings: dict[str, Any], findings: Findings | None = None
    ) -> None:
        self.file, self.settings = file, settings
        self.findings = Findings() if findings is None else findings

    def exist(self, key: str) -> bool:
        """Whether one of the paths of a split exists."""
        paths = map(str, _as_list(self.settings[key]))
        return any(self.existing(each) or self._matching(each) for each in paths)

    def images(self, key: str) -> list[str]:
        """The images of a split: of a folder, a .txt list or an image path, or of several of these.

        Raises FileNotFoundError for a path that does not exist, ValueError for one without images.
        """
        found: list[str] = []
        for each in _as_list(self.settings[key]):
            place = self.existing(str(each))
            if place is None and (matching := self._matching(str(each))):
                found += matching
                continue
            if place is None and self.exist(key):
                self.findings.add("split-missing", f"{shown(each)} in {self.file}")
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
        """The images that match a pattern such as images/train/*.jpg."""
        text = where.replace("\\", "/").lstrip("/")
        if "*" not in text or ".." in text.split("/"):
            return []
        files = next(filter(None, (sorted(base.glob(text)) for base in self._bases())), [])
        return [str(each) for each in files if each.suffix.lower() in IMAGE_SUFFIXES]

    def _bases(self) -> list[Path]:
        """Folders that paths may start from: ``path``, the file's folder, and likely others."""
        folder = self.file.parent
        path = str(self.settings.get("path") or ".").replace("\\", "/")
        bases = [folder / path, folder]
        if path.strip("./"):
            bases += [folder / "datasets" / path, folder.parent / "datasets" / path]
            bases += [folder / Path(path).name, folder.parent / path]
        return bases

    def existing(self, where: str) -> Path | None:
        """The existing path that ``where`` means; exporters write ../ for the file's own folder."""
        text = where.replace("\\", "/")
        parts = clean(where)
        splits = [number for number, part in enumerate(parts) if canonical(part) in USUAL]
        last = max(splits, default=len(parts) - 1)  # the shortened path must name the same split
        shortened_paths = ["/".join(parts[start:]) for start in range(last + 1)]
        usual = (text, text.removeprefix("../"), text.lstrip("/"))
        for option in dict.fromkeys((*usual, *shortened_paths)):
            for base in self._bases():
                try:
                    place = base / option
                    if option and not place.exists():  # "images" may mean "Images"
                        place = reduce(child, Path(option).parts, base)
                    if option and place.exists():
                        if option not in usual or place != base / option:
                            self.findings.add("name-cleaned", f"{where} is {place}")
                        return place
                except (OSError, ValueError):  # longer than a path may be
                    return None
        return None


def _as_list(where: Any) -> list[Any]:
    return where if isinstance(where, list) else [where]


def _listed(place: Path, bases: list[Path], findings: Findings) -> list[str]:
    """The images in a list file, relative to its own folder or to one of ``bases``."""
    folders = dict.fromkeys([place.parent, *(base for base in bases if base.is_dir())])
    finder = ImageFolders(folders, findings, anywhere=True)
    names = [line.strip() for line in read_text(place, findings).splitlines() if line.strip()]
    found = {name: finder.find(name) for name in names}
    missing = [f"{place}: {name}" for name, path in found.items() if path is None]
    findings.add("image-missing", missing)
    first = {name: row for row, name in reversed([*enumerate(names)])}
    repeated = [name for row, name in enumerate(names) if first[name] != row]
    findings.add("image-twice", [f"{place}: {name}" for name in repeated])
    return [path for path in found.values() if path is not None]


def _names(settings: dict[str, Any], file: Path, findings: Findings) -> list[tuple[int, str]]:
    """Class numbers and names in a data.yaml, from a list, a mapping or only ``nc``, sorted.

    Raises ValueError for names of another form.
    """
    listed, count = settings.get("names"), settings.get("nc")
    if isinstance(count, str) and count.strip().isdecimal():
        count = int(count)
    pairs = name_pairs(listed)
    if isinstance(listed, str):
        place = _find_below(file.parent, listed)
        pairs = name_pairs(names_in_line(listed))
        pairs = name_list(place, findings) if place else pairs
    if listed is None and isinstance(count, int) and 0 < count < 100_000:
        if len(beside := name_list(names_beside(file.parent), findings)) >= count:
            return beside
        findings.add("class-names-missing", f"nc: {count} in {file}", count)
        return [(number, str(number)) for number in range(count)]
    if not pairs:
        raise ValueError(
            f"{file}: names should be a list of different class names, or number: name; it has "
            f"{shown(listed)}"
        )
    if count is not None and count != len(pairs):
        findings.add("class-count", f"nc: {shown(count)} and {len(pairs)} names in {file}")
    return pairs


def _splits_of_darknet(file: Path) -> dict[str, Open]:
    """The splits in obj.data: ``names = data/obj.names``, ``train = data/train.txt`` and so on."""
    content = {}
    for line in read_text(file, Findings()).splitlines():
        name, sign, value = line.partition("=")
        if sign:
            content[name.strip()] = value.strip()
    found: dict[str, Open] = {}
    for key, where in content.items():
        place = _find_below(file.parent, where)
        if key in ("classes", "names", "backup") or place is None or place.suffix != ".txt":
            continue
        names_file = _find_below(file.parent, content.get("names", ""))
        name = key if canonical(key) in USUAL else place.stem
        found[name] = partial(_open_list, file, place, names_file)
    return found


def _open_list(
    file: Path,
    place: Path,
    names_file: Path | None,
    split: str,
    box_format: Asked | None = None,
) -> RecordTable:
    findings = Findings()
    pairs, images = name_list(names_file, findings), _listed(place, [file.parent], findings)
    findings.add("image-outside", outside(images, file.parent))
    return _read(images, pairs, file, file.parent, split, findings, box_format)


def _find_below(folder: Path, where: str) -> Path | None:
    """The file below ``folder`` that matches the longest end of the path ``where``, or None."""
    parts = [part for part in where.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    paths = (folder / Path(*parts[start:]) for start in range(len(parts)))
    return next(filter(os.path.isfile, paths), None)  # a Path's own raises for too long names


def _splits_of_folders(root: Path) -> dict[str, Open]:
    """Splits without a settings file: images/ and labels/, folders of splits, or one folder."""
    if not root.is_dir():
        return {}
    names = names_beside(root)
    images = child(root, "images")
    places: dict[str, Path] = {}
    labels = child(root, "labels")
    loose: list[str] = []
    of_others = bool(paths_of(labels, ".xml", ".json", ".csv", below=True)) and not paths_of(
        labels, ".txt", below=True
    )
    if images.is_dir() and labels.is_dir() and not of_others:
        folders = split_folders(images)
        places = {name: each for name, each in folders.items() if any(images_below(each))}
        loose = files_in(images, IMAGE_SUFFIXES) if places else []
        places = places or {"default": images}
    elif not images.is_dir():
        splits = split_folders(root).items() if names else ()
        places = {name: each for name, each in splits if child(each, "labels").is_dir()}
        candidates = [root, *(root / "data",) * bool(names)]
        labelled = [place for place in candidates if _has_labels(place, paths_of(place, ".txt"))]
        places = places or dict(zip(("default",), labelled, strict=False)) or _twins(root)
    return {name: partial(_open_folder, root, place, loose) for name, place in places.items()}


def _open_folder(
    root: Path, place: Path, loose: list[str], split: str, box_format: Asked | None = None
) -> RecordTable:
    """The images below ``place``; those in ``loose`` belong to no split."""
    findings, names = Findings(), names_beside(root)
    findings.add("image-unlisted", loose)
    pairs, files = name_list(names, findings), list(images_below(place))
    return _read(files, pairs, names or place, root, split, findings, box_format)


def _twins(root: Path) -> dict[str, Path]:
    """Split → its folder of images, for folders such as train_images beside train_labels."""
    found: dict[str, Path] = {}
    for each in folders_in(root):
        twins = (child(root, twin_folder(each.name, labels)) for labels in LABEL_FOLDERS)
        if IMAGE_WORD.search(each.name) and any(paths_of(twin, ".txt") for twin in twins):
            found[usual_word(each.name) or each.name] = each
    return found


def find_scattered(root: Path) -> dict[str, Open]:
    """One split of all images and label files below a folder; none if folders are splits."""
    files = paths_of(root, ".txt", below=True) if root.is_dir() else []
    folders = {part for file in files for part in file.relative_to(root).parts[:-1]}
    divided = any(map(names_split, folders))
    found = bool(files) and not divided and _has_labels(root, files)
    return {"default": partial(_open_folder, root, root, [])} if found else {}


def _has_labels(root: Path, texts: list[Path]) -> bool:
    """Whether one of the text files has the stem of an image below ``root``, and box lines."""
    stems = {label_stem(file): file for file in texts}
    if not stems:
        return False
    matching = [stems[stem] for path in images_below(root) if (stem := label_stem(path)) in stems]
    lines = (head_of(file).decode("utf-8", "replace").split("\n")[0] for file in matching[:20])
    return any(len(numbers_of(line.split()) or ()) > 4 for line in lines)


def _own_lists(files: Iterable[str]) -> dict[str, list[tuple[int, str]]]:
    """Folder → the class list in it, for the folders of label files that have one."""
    folders = dict.fromkeys(map(os.path.dirname, files))
    found: dict[str, list[tuple[int, str]]] = {}
    for folder in folders:
        lists = (Path(folder, name) for name in NAMES)
        if pairs := name_list(next(filter(Path.is_file, lists), None), Findings()):
            found[folder] = pairs
    return found


def _compared(
    pairs: list[tuple[int, str]],
    own: dict[str, list[tuple[int, str]]],
    file: Path,
    lines: Lines,
    findings: Findings,
) -> list[tuple[int, str]]:
    """The classes of ``pairs`` and of the folders' ``own`` lists, if these differ.

    The names in a settings ``file`` count for all folders; the numbers in a list of its own only
    for the label files beside it.
    """
    listed = dict(pairs)
    if file.suffix.lower() in (*SETTINGS, ".data"):
        differing = [f"{n}: {listed[n]!r}, {name!r} in {folder}" for folder, each in own.items()
                     for n, name in each if listed.get(n, name) != name]  # fmt: skip
        findings.add("class-order", differing)
        return pairs
    other = {folder: each for folder, each in own.items() if not {*each} <= {*pairs}}
    if not pairs and len({*map(tuple, own.values())}) == 1:
        return next(iter(own.values()))
    if not other:
        return pairs
    found = (f"{folder}: {shown([name for _, name in each])}" for folder, each in other.items())
    findings.add("class-lists", found)
    names = [*dict.fromkeys(name for each in (pairs, *other.values()) for _, name in each)]
    lines.number_by({folder: dict(each) for folder, each in other.items()}, listed, names)
    return list(enumerate(names))


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
    """The split of ``images`` and their label files.

    pairs   class numbers and names; empty: the numbers that occur are the names
    file    settings or names file, for messages
    points  ``kpt_shape`` of data.yaml
    """
    if not images:
        raise ValueError(f"{file} names no image that is there; check the paths in it")
    rows = Rows(findings, "cxcywh-relative")
    lines = Lines(findings)
    labels = LabelFiles(findings)
    files = [labels.of(image) for image in images]
    if not any(files) and not findings.count("label-case"):
        files = labels.scattered(root, images)
    for image, found in zip(images, files, strict=True):
        if found is None or lines.read(found, len(rows.files)):
            rows.add_image(image)
        else:
            rows.left_out.append(image)
    labels.report(images)
    pairs = _compared(pairs, _own_lists(filter(None, files)), file, lines, findings)
    if not pairs:
        used = sorted({number for number in lines.classes() if number >= 0})
        findings.add(
            "class-names-missing", f"{root}: there is no {' or '.join(NAMES[:2])}", len(used)
        )
        pairs = [(number, str(number)) for number in used]
    category_ids, names, known = class_table(pairs, findings)
    lines.fill(rows, known, names, points, expected_step(box_format))
    return RecordTable(rows, root.resolve().name, split, names, category_ids, box_format)
