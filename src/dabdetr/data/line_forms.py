"""Readers of the text and XML files of tools, which yield ``Entry``s (see ``forms``)."""

from __future__ import annotations

import configparser
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dabdetr.data.class_lists import name_list, names_beside
from dabdetr.data.entries import Entry
from dabdetr.data.findings import Findings
from dabdetr.data.locate import child, images_below
from dabdetr.data.shapes import around, size_of, turned
from dabdetr.data.textfiles import read_text
from dabdetr.data.voc import parse_xml
from dabdetr.text import as_number, as_numbers, shown

MOT_CLASSES = (
    *("pedestrian", "person on vehicle", "car", "bicycle", "motorbike", "non motorized vehicle"),
    *("static person", "distractor", "occluder", "occluder on the ground", "occluder full"),
    *("reflection", "crowd"),
)
"""MOTChallenge's classes, from 1."""
POINTLESS = ("polyline", "points", "skeleton", "cuboid")
WIDER_BOX = re.compile(r"\s*-?\d+(\s+-?\d+){3,9}\s*")
KERAS_BOXES = re.compile(r"(\S.*?)((?:\s+\d+(?:,\d+){4})*)\s*")


def cvat(file: Path, findings: Findings) -> Iterator[Entry]:
    """CVAT for images 1.1, and CVAT for video, whose frames are named frame_000000."""
    tree = parse_xml(file, findings)
    for image in tree.iter("image"):
        name, split = image.get("name") or "", image.get("subset") or ""
        size = size_of(image.get("width"), image.get("height"))
        if not name:
            findings.add("image-unnamed", f"{file}: image {shown(image.get('id'))}")
            continue
        yield Entry(name, str(file), size=size, split=split, listing=True)
        for number, each in enumerate(image, 1):
            if each.tag == "tag":
                continue
            place = f"{file}: shape {number} of {shown(name)}"
            yield _shape(each, name, place, each.get("label") or "", split)
    for track in tree.iter("track"):
        for each in track:
            frame = each.get("frame") or ""
            if each.get("outside") != "1" and frame.isdecimal():
                name, place = f"frame_{int(frame):06d}", f"{file}: frame {frame}"
                yield _shape(each, name, place, track.get("label") or "", "")


def _shape(each: Any, name: str, place: str, class_: str, split: str) -> Entry:
    """The entry of a CVAT shape."""
    edges, odd = None, "box-unreadable"
    if each.tag in POINTLESS:
        odd = "shape-without-area"
    elif each.tag == "box" and (box := as_numbers(map(each.get, ("xtl", "ytl", "xbr", "ybr")))):
        angle = as_number(each.get("rotation")) or 0.0
        edges, odd = turned(box, angle), "box-rotated" if angle else ""
    elif each.tag == "ellipse" and (oval := as_numbers(map(each.get, ("cx", "cy", "rx", "ry")))):
        x, y, across, down = oval
        edges, odd = (x - across, y - down, x + across, y + down), "box-from-shape"
    elif each.tag == "mask" and (
        mask := as_numbers(map(each.get, ("left", "top", "width", "height")))
    ):
        x, y, width, height = mask
        edges, odd = (x, y, x + width, y + height), "box-from-shape"
    elif each.tag == "polygon":
        points = [pair.split(",") for pair in (each.get("points") or "").split(";")]
        edges = around(points) if len(points) > 2 else None  # pyright: ignore[reportArgumentType]
        odd = "box-from-shape" if edges else odd
    return Entry(name, place, class_.strip(), edges, split=split, odd=odd)


def mot(file: Path, findings: Findings) -> Iterator[Entry]:
    """gt/gt.txt of a sequence: frame, track, x, y, width, height, counts, class, visible."""
    frames = _frames(file.parent.parent)
    label_file = file.with_name("labels.txt")  # CVAT and Datumaro write custom classes there
    listed = dict(name_list(label_file, findings)) if label_file.is_file() else {}
    names = {n + 1: name for n, name in listed.items()} or dict(enumerate(MOT_CLASSES, 1))
    for path in frames.values():
        yield Entry(path, str(file))
    for number, line in enumerate(read_text(file, findings).splitlines(), 1):
        place = f"{file}, line {number}"
        values = as_numbers(re.split(r"[,\s]+", line.strip().strip(","))) or ()
        if not line.strip():
            continue
        if len(values) < 6 or not all(map(math.isfinite, values)):
            findings.add("line-unreadable", f"{place}: {shown(line)}")
            continue
        path = frames.get(int(values[0]), f"frame {values[0]:g}")
        class_ = int(values[7]) if len(values) > 7 else -1
        if len(values) > 6 and values[6] == 0:
            yield Entry(path, place, odd="region-uncared")
            continue
        label = "object" if class_ < 0 else names.get(class_, str(class_))
        yield Entry(path, place, label, values[2:6])


def _frames(sequence: Path) -> dict[int, str]:
    """Number → path of the frames of a sequence."""
    settings = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        settings.read_string(read_text(sequence / "seqinfo.ini", Findings()))
        folder = settings.get("Sequence", "imDir", fallback="img1")
    except (ValueError, OSError, configparser.Error):
        folder = "img1"
    places = (child(sequence, name) for name in (folder, "img1", "img", "images"))
    place = next((each for each in places if each.is_dir()), sequence)
    stems = ((re.search(r"\d+$", Path(path).stem), path) for path in images_below(place))
    return {int(found.group()): os.path.abspath(path) for found, path in stems if found}


def wider(file: Path, findings: Findings) -> Iterator[Entry]:
    """WIDER FACE: the path of an image, the number of its faces, and a line for each face."""
    image, remaining = "", 0
    for number, line in enumerate(map(str.strip, read_text(file, findings).splitlines()), 1):
        place = f"{file}, line {number}"
        if line.isdecimal() and image:
            remaining = int(line)
        elif WIDER_BOX.fullmatch(line) and image:
            if remaining > 0:  # an image without a face has a line of zeros
                yield Entry(image, place, "face", [float(word) for word in line.split()[:4]])
        elif re.search(r"\.\w+$", line):
            image, remaining = line, 0
            yield Entry(image, place)
        elif line:
            findings.add("line-unreadable", f"{place}: {shown(line)}")


def keras_yolo(file: Path, findings: Findings) -> Iterator[Entry]:
    """keras-yolo3's list: an image's path, then x0,y0,x1,y1,class for each box."""
    names = dict(name_list(names_beside(file.parent), findings))
    for number, line in enumerate(read_text(file, findings).splitlines(), 1):
        place = f"{file}, line {number}"
        found = KERAS_BOXES.fullmatch(line.strip())
        if found is None:
            if line.strip():
                findings.add("line-unreadable", f"{place}: {shown(line)}")
            continue
        yield Entry(found.group(1), place)
        for box in found.group(2).split():
            *numbers, class_ = map(int, box.split(","))
            unnamed = "" if class_ in names else "class-names-missing"
            label = names.get(class_, str(class_))
            yield Entry(found.group(1), place, label, numbers, odd=unnamed)
