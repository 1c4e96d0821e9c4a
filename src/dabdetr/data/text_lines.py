"""A text file of boxes in pixels for each image: DOTA, KITTI, VisDrone, ICDAR and Caltech's bbGt.

DOTA: ``x1 y1 x2 y2 x3 y3 x4 y4 class difficult``, below header lines imagesource: and gsd:. A DOTA
object that is marked difficult is a crowd, as in VOC. KITTI: ``class truncated occluded alpha x0 y0
x1 y1`` and seven numbers of the 3D box. VisDrone: ``x,y,width,height,counts,class,truncated,
occluded``. ICDAR: ``x1,y1,x2,y2,x3,y3,x4,y4,words`` or ``x0, y0, x1, y1, "words"``; the class of
every box is "text", whatever the words. DOTA's lines with commas and without ``difficult`` look
alike; the words of all lines decide (see ``_has_words``). bbGt, below a line ``% bbGt version=3``:
``class x y width height occluded``, the visible box, ``ignore angle``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dabdetr.data.box_formats import Asked
from dabdetr.data.entries import Entry, table_of
from dabdetr.data.findings import Findings
from dabdetr.data.locate import child, folders_in, images_below, paths_of
from dabdetr.data.records import Open, RecordTable
from dabdetr.data.shapes import are_upright, around_flat, turned
from dabdetr.data.split_names import names_split, split_folders
from dabdetr.data.textfiles import head_of, read_text
from dabdetr.text import shown

NUMBER = r"-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"
# Possessive quantifiers: a line of a million letters is scanned once, not from each letter.
DOTA = re.compile(rf"(?:{NUMBER}[\s,]++){{8}}(?=[^\s,]*[^\W\d])([^\s,]++)(?:[\s,]++(\d))?")
KITTI = re.compile(rf"(?=\S*[^\W\d])(\S++)(?:\s++{NUMBER}){{14,15}}")
VISDRONE = re.compile(r"-?\d+(?:,-?\d+){7},?")
VISDRONE_CLASSES = (
    *("ignored regions", "pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle"),
    *("awning-tricycle", "bus", "motor", "others"),
)
EIGHT = rf"({NUMBER}(?:,\s*{NUMBER}){{7}})"
QUOTED = rf'({NUMBER}(?:[,\s]\s*{NUMBER}){{3}})[,\s]\s*(".*")'
ICDAR = re.compile(rf"{EIGHT},(?![-\d.,\s]*$)(?!\S+,\s*\d$)(.*)|{QUOTED}")
WORDED = re.compile(rf"{EIGHT},(.+)|{QUOTED}")
"""ICDAR's lines where the words are known to be words: also numbers, and words with commas."""
CLASS = re.compile(r"(.*?)(?:,\s*(\d))?")
"""A class behind eight numbers, and DOTA's ``difficult``."""
BBGT = re.compile(rf"(?=\S*[^\W\d])(\S++)(?:\s++{NUMBER}){{10,11}}")
FORMS = (DOTA, KITTI, VISDRONE, ICDAR, BBGT)
HEADER = re.compile(r"%.*|(imagesource|gsd|acquisition dates|image ?source)\s*:.*", re.IGNORECASE)
LABELS = re.compile(r"label_?txt.*|label_2|labels?|annotations?|annfiles|gt|.*_gt", re.IGNORECASE)
"""Names of folders with label files."""
TEXT_LABELS = re.compile(r"gt|.*_gt", re.IGNORECASE)
"""Names of ICDAR's folders of label files; its files are called gt_img_1.txt."""
ILLEGIBLE = ("###", "*")
"""What ICDAR writes for words that cannot be read."""
IMAGES = ("images", "image_2", "data", "image", "imgs", "JPEGImages")
SAMPLE, WORDS = 20, 200
"""Files by which the layout of a folder is recognised, and what their words are."""


def find_text_lines(root: Path) -> dict[str, Open]:
    """Splits by subfolders of the label folder, or by folders that each have a label folder."""
    root = root.parent if root.suffix in (".yaml", ".yml") else root
    if not root.is_dir():
        return {}
    labels = _labels(root)
    if labels is not None:
        inside = {n: each for n, each in split_folders(labels).items() if _has_known_lines(each)}
        folders = inside or {"default": labels}
        words = _has_words(labels)
        others = [each for each in _label_folders(root) if each != labels]
        return {
            name: partial(_open, root, folder, name, words, others)
            for name, folder in folders.items()
        }
    found: dict[str, Open] = {}
    for folder in folders_in(root):
        labels = _labels(folder) if names_split(folder.name) else None
        if labels is not None:
            found[folder.name] = partial(_open, folder, labels, folder.name, _has_words(labels), [])
    return found


def _labels(root: Path) -> Path | None:
    """The first folder of ``_label_folders``; None without one."""
    return next(_label_folders(root), None)


def _label_folders(root: Path) -> Iterator[Path]:
    """The folders in ``root`` whose text files have lines of a known form."""
    named = (each for each in folders_in(root) if LABELS.fullmatch(each.name))
    yield from filter(_has_known_lines, named)


def _has_known_lines(folder: Path) -> bool:
    files = paths_of(folder, ".txt", below=True)[:SAMPLE]
    written = fits = 0
    for file in files:
        lines = map(str.strip, head_of(file).decode("utf-8", "replace").splitlines())
        if first := next((line for line in lines if line and not HEADER.fullmatch(line)), ""):
            written += 1
            fits += any(form.fullmatch(first) for form in FORMS)
    return fits * 2 > written


def _has_words(labels: Path) -> bool:
    """Whether the words of lines that fit DOTA and ICDAR are written in the image, not classes.

    They are if folder or files are named as ICDAR's, if some are illegible, or if most differ.
    """
    files = paths_of(labels, ".txt", below=True)[:WORDS]
    if TEXT_LABELS.fullmatch(labels.name) or all(each.stem.startswith("gt_") for each in files):
        return True
    texts = (head_of(file).decode("utf-8", "replace") for file in files)
    lines = (ICDAR.fullmatch(line.strip()) for text in texts for line in text.splitlines())
    words = [line.group(2).strip(' "') for line in lines if line and line.group(2)]
    return any(word in ILLEGIBLE for word in words) or len({*words}) > max(3, len(words) // 2)


def _open(
    root: Path,
    labels: Path,
    subfolder: str,
    words: bool,
    others: list[Path],
    split: str,
    box_format: Asked | None = None,
) -> RecordTable:
    findings = Findings()
    findings.add("layout-other", [f"{other}: {labels.name} is read" for other in others])
    images = next((f for name in IMAGES if (f := child(root, name)).is_dir()), root)
    images = child(images, subfolder) if child(images, subfolder).is_dir() else images
    listed = _images_by_name(images)
    every = dict.fromkeys(path for paths in listed.values() for path in paths)
    entries = [Entry(os.path.relpath(path, images), path) for path in every]
    for file in paths_of(labels, ".txt", below=True):
        name, short = file.relative_to(labels).with_suffix("").as_posix(), file.stem
        folder = name[: -len(short)]
        keys = (name, folder + short.removeprefix("gt_"), short, short.removeprefix("gt_"))
        key = next((each for each in keys if each in listed), name)
        paths = listed.get(key, [])
        if paths and folder and key not in keys[:2]:
            findings.add("name-base", f"{file} of {paths[0]}")
        findings.add("label-shared", [" and ".join(paths)] * (len(paths) > 1))
        for path in paths:
            every.pop(path, None)
        for image in [os.path.relpath(path, images) for path in paths] or [name]:
            entries += _entries(file, image, words, findings)
    findings.add("label-missing", sorted(every))
    return table_of(entries, [images], root, split, "xyxy", box_format, findings)


def _images_by_name(folder: Path) -> dict[str, list[str]]:
    """Images by path below ``folder`` without ending, and by stem where only one folder has it."""
    names: dict[str, list[str]] = {}
    stems: dict[str, list[str]] = {}
    for path in images_below(folder):
        name = os.path.splitext(Path(path).relative_to(folder).as_posix())[0]
        names.setdefault(name, []).append(path)
        stems.setdefault(Path(path).stem, []).append(path)
    unique = {
        stem: paths for stem, paths in stems.items() if len({*map(os.path.dirname, paths)}) == 1
    }
    return unique | names


def _entries(file: Path, image: str, words: bool, findings: Findings) -> Iterator[Entry]:
    try:
        lines = read_text(file, findings).splitlines()
    except (ValueError, OSError) as error:
        findings.add("file-unreadable", str(error))
        return
    yield Entry(image, str(file))
    for number, line in enumerate(map(str.strip, lines), 1):
        location = f"{file}, line {number}"
        icdar = (WORDED if words else ICDAR).fullmatch(line)
        if icdar and (words or icdar.group(4)):
            yield _icdar_entry(image, location, icdar, findings)
        elif dota := icdar or DOTA.fullmatch(line):
            named = CLASS.fullmatch(icdar.group(2) if icdar else ",".join(dota.groups("0")))
            assert named  # it matches any text
            numbers = [float(word) for word in re.split(r"[\s,]+", line)[:8]]
            class_, hard = named.group(1).strip(' "'), named.group(2) not in (None, "0")
            odd = "" if are_upright(numbers) else "box-rotated"
            yield Entry(image, location, class_, around_flat(numbers), hard, odd=odd)
        elif kitti := KITTI.fullmatch(line):
            if kitti.group(1).casefold() == "dontcare":
                yield Entry(image, location, odd="region-uncared")
                continue
            yield Entry(image, location, kitti.group(1), [float(n) for n in line.split()[4:8]])
        elif BBGT.fullmatch(line):
            class_, *words_ = line.split()
            x, y, width, height, *more = map(float, words_)
            if more[5]:
                yield Entry(image, location, odd="region-uncared")
                continue
            angle = more[6] if len(more) > 6 else 0.0
            edges = turned((x, y, x + width, y + height), angle)
            yield Entry(image, location, class_, edges, odd="box-rotated" if angle else "")
        elif VISDRONE.fullmatch(line):
            x, y, width, height, counts, class_, *_ = map(int, line.strip(",").split(","))
            if not counts or not class_:
                yield Entry(image, location, odd="region-uncared")
                continue
            named = 0 < class_ < len(VISDRONE_CLASSES)
            label = VISDRONE_CLASSES[class_] if named else str(class_)
            yield Entry(image, location, label, (x, y, x + width, y + height))
        elif line and not HEADER.fullmatch(line):
            yield Entry(image, f"{location}: {shown(line)}", odd="line-unreadable")


def _icdar_entry(image: str, location: str, line: re.Match[str], findings: Findings) -> Entry:
    """A box of text; illegible words ("###" or "*") are a region to ignore."""
    corners, words, upright, quoted = line.groups()
    numbers = [float(number) for number in re.split(r"[,\s]+", corners or upright)]
    if (words or quoted).strip(' "') in ILLEGIBLE:
        return Entry(image, location, odd="region-uncared")
    findings.add("words-text", location)
    odd = "" if are_upright(numbers) else "box-rotated"
    return Entry(image, location, "text", around_flat(numbers), odd=odd)
