"""Text files of lines of boxes in pixels, one for each image: DOTA's, KITTI's, VisDrone's, ICDAR's.

DOTA: ``x1 y1 x2 y2 x3 y3 x4 y4 class difficult``, below a head of imagesource: and gsd:. KITTI:
``class truncated occluded alpha x0 y0 x1 y1`` and seven numbers of the object in space. VisDrone:
``x,y,width,height,counts,class,truncated,occluded``. A DOTA object that is marked difficult is a
crowd, as in VOC. ICDAR: ``x1,y1,x2,y2,x3,y3,x4,y4,words`` or ``x0, y0, x1, y1, "words"``, where
every box is of text, whatever its words are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dabdetr.data.box_formats import Asked
from dabdetr.data.findings import Findings
from dabdetr.data.listings import Entry, table_of
from dabdetr.data.locate import (
    USUAL,
    canonical,
    child,
    folders_in,
    images_below,
    names_split,
    paths_of,
)
from dabdetr.data.records import Open, RecordTable
from dabdetr.data.shapes import around
from dabdetr.data.textfiles import head_of, read_text
from dabdetr.text import shown

NUMBER = r"-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"
# Possessive: a line of a million letters is read once and not from each of them.
DOTA = re.compile(rf"(?:{NUMBER}[\s,]++){{8}}(?=[^\s,]*[^\W\d])([^\s,]++)(?:[\s,]++(\d))?")
KITTI = re.compile(rf"(?=\S*[^\W\d])(\S++)(?:\s++{NUMBER}){{14,15}}")
VISDRONE = re.compile(r"-?\d+(?:,-?\d+){7},?")
VISDRONE_CLASSES = (
    *("ignored regions", "pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle"),
    *("awning-tricycle", "bus", "motor", "others"),
)
WORDS = re.compile(
    rf"({NUMBER}(?:,\s*{NUMBER}){{7}}),(?![-\d.,\s]*$)(?!\S+,\d$)(.*)|"
    rf'({NUMBER}(?:[,\s]\s*{NUMBER}){{3}})[,\s]\s*(".*")'
)
FORMS = (DOTA, KITTI, VISDRONE, WORDS)
HEADS = re.compile(r"(imagesource|gsd|acquisition dates|image ?source)\s*:", re.IGNORECASE)
LABELS = re.compile(r"label_?txt.*|label_2|labels?|annotations?|annfiles|gt|.*_gt", re.IGNORECASE)
"""Folders of such files."""
IMAGES = ("images", "image_2", "data", "image", "imgs", "JPEGImages")
FEW = 20


def find_text_lines(root: Path) -> dict[str, Open]:
    """Splits by folders in that of the labels, or by folders that have one each."""
    root = root.parent if root.suffix in (".yaml", ".yml") else root
    if not root.is_dir():
        return {}
    labels = _labels(root)
    if labels is not None:
        inside = {each.name: each for each in folders_in(labels) if canonical(each.name) in USUAL}
        folders = inside or {"default": labels}
        return {name: partial(_open, root, folder, name) for name, folder in folders.items()}
    found: dict[str, Open] = {}
    for folder in folders_in(root):
        own = _labels(folder) if names_split(folder.name) else None
        if own is not None:
            found[folder.name] = partial(_open, folder, own, folder.name)
    return found


def _labels(root: Path) -> Path | None:
    """The folder of ``root`` whose text files hold such lines."""
    return next((f for f in folders_in(root) if LABELS.fullmatch(f.name) and _is_known(f)), None)


def _is_known(folder: Path) -> bool:
    files = paths_of(folder, ".txt", below=True)[:FEW]
    lines = [_first(head_of(file).decode("utf-8", "replace")) for file in files]
    written = [line for line in lines if line]
    fits = [line for line in written if any(form.fullmatch(line) for form in FORMS)]
    return len(fits) * 2 > len(written)


def _first(text: str) -> str:
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line and not HEADS.match(line)), "")


def _open(
    root: Path, labels: Path, own: str, split: str, box_format: Asked | None = None
) -> RecordTable:
    findings = Findings()
    images = next((f for name in IMAGES if (f := child(root, name)).is_dir()), root)
    images = child(images, own) if child(images, own).is_dir() else images
    files = paths_of(labels, ".txt", below=True)
    stems = {Path(path).stem: path for path in images_below(images)}
    named = {file: file.stem for file in files}
    if not stems.keys() & {*named.values()}:  # as ICDAR's: gt_img_1.txt is of img_1.jpg
        named = {file: file.stem.removeprefix("gt_") for file in files}
    entries = [Entry(os.path.relpath(path, images), path) for path in stems.values()]
    lacking = [path for stem, path in stems.items() if stem not in {*named.values()}]
    for file in files:
        path = stems.get(named[file])
        name = named[file] if path is None else os.path.relpath(path, images)
        entries += _entries(file, name, findings)
    findings.add("label-missing", lacking)
    name = root.resolve().name
    return table_of(entries, [images], name, split, "xyxy", box_format, findings)


def _entries(file: Path, image: str, findings: Findings) -> Iterator[Entry]:
    try:
        lines = read_text(file, findings).splitlines()
    except (ValueError, OSError) as error:
        findings.add("file-unreadable", str(error))
        return
    yield Entry(image, str(file))
    for number, line in enumerate(map(str.strip, lines), 1):
        told = f"{file}, line {number}"
        if words := WORDS.fullmatch(line):
            yield _worded(image, told, words)
        elif dota := DOTA.fullmatch(line):
            numbers = [float(word) for word in re.split(r"[\s,]+", line)[:8]]
            edges = around(list(zip(numbers[::2], numbers[1::2], strict=True)))
            upright = len({*numbers[::2]}) == 2 == len({*numbers[1::2]})
            hard = dota.group(2) not in (None, "0")
            yield Entry(
                image, told, dota.group(1), edges, hard, odd="" if upright else "box-rotated"
            )
        elif kitti := KITTI.fullmatch(line):
            if kitti.group(1).casefold() == "dontcare":
                yield Entry(image, told, odd="region-uncared")
                continue
            yield Entry(image, told, kitti.group(1), [float(n) for n in line.split()[4:8]])
        elif VISDRONE.fullmatch(line):
            yield _visdrone(image, told, [int(word) for word in line.strip(",").split(",")])
        elif line and not HEADS.match(line):
            yield Entry(image, f"{told}: {shown(line)}", odd="line-unreadable")


def _worded(image: str, told: str, line: re.Match[str]) -> Entry:
    """A box of text; words that nobody can read are no box, but are not background either."""
    turned, words, upright, quoted = line.groups()
    numbers = [float(number) for number in re.split(r"[,\s]+", turned or upright)]
    edges = around(list(zip(numbers[::2], numbers[1::2], strict=True)))
    if (words or quoted).strip(' "') in ("###", "*"):
        return Entry(image, told, odd="region-uncared")
    box = len({*numbers[::2]}) == 2 == len({*numbers[1::2]})
    return Entry(image, told, "text", edges, odd="" if box else "box-rotated")


def _visdrone(image: str, told: str, values: list[int]) -> Entry:
    x, y, width, height, counts, class_ = values[:6]
    if not counts or not class_:
        return Entry(image, told, odd="region-uncared")
    named = 0 < class_ < len(VISDRONE_CLASSES)
    label = VISDRONE_CLASSES[class_] if named else str(class_)
    return Entry(image, told, label, (x, y, x + width, y + height))
