"""VOC's layout: an XML file for each image, in Annotations/ or next to the images.

Or a JSON of the same content, as converters such as xmltodict write it.

Boxes are xmin, ymin, xmax, ymax of the pixels inside, counted from 1 as in VOC. If any number in
the data is 0, they are read as edges counted from 0, as other tools write them. Objects marked
difficult are not used in training and are ignored in AP, as in VOC's own evaluation.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from dabdetr.data.box_formats import Asked
from dabdetr.data.findings import Findings
from dabdetr.data.listed_splits import rest_is_train, split_lists
from dabdetr.data.locate import ImageFolders, child, folders_in, images_below, paths_of
from dabdetr.data.records import Open, RecordTable, Rows, named_table
from dabdetr.data.shapes import around, size_of, turned, upright
from dabdetr.data.split_names import are_splits, named_as_split
from dabdetr.data.textfiles import (
    guess,
    head_of,
    note_encoding,
    parse_counting,
    read_bytes,
    read_text,
)
from dabdetr.text import as_flag, as_number, as_numbers, counted, shown

EDGES = ("xmin", "ymin", "xmax", "ymax")
ROTATED = ("cx", "cy", "w", "h", "angle")
BARE = re.compile(rb"&(?!(#\d+|#x[0-9a-fA-F]+|\w+);)")
"""An & that does not begin an entity."""
VOC = re.compile(rb"<annotation[\s>]|<object>|^\s*\{\s*\"annotation\"\s*:\s*\{")
"""The beginning of VOC's XML, or of the JSON that converters make of it."""
DECLARED = re.compile(rb"""^(<\?xml[^>]*?)(?<!\s)\s+encoding\s*=\s*["']([\w.-]+)["']""")
"""The declaration of an encoding."""
FOLDERS = ("Annotations", "annotation", "xmls", "xml", "labels")
"""Names of the folder of the XML files."""


def find_voc(root: Path) -> dict[str, Open]:
    """The splits of ``root``; empty without XML files.

    They are the splits that ImageSets lists, else the folders of XML files, else one split of all.
    """
    files = _split_files(root) if root.is_dir() else {}
    return {name: partial(_open, root, files, name) for name in files if files[name]}


def _split_files(root: Path) -> dict[str, list[Path]]:
    folder = _annotation_folder(root)
    if folder is None:
        packed = {each.name: _xml_files(each) for each in folders_in(root)}
        found = {name: files for name, files in packed.items() if files}
        if not are_splits(found):  # such as one for each class
            found = {"default": sorted(chain(*found.values()))} if found else {}
        alone = _files_in(root)
        return ({"default": alone} if _is_voc(alone) else {}) if alone else found
    lists = split_lists(root)
    if not lists:
        folders = {each.name: _xml_files(each) for each in folders_in(folder)}
        if folders and not _files_in(folder) and are_splits(folders):
            return folders
        every = _files_in(folder, below=True)
        return {"default": every} if every else {}
    files = _files_in(folder, below=True)
    by_name = {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
    by_stem: dict[str, Path | None] = {}
    for file in by_name.values():
        by_stem[file.stem] = None if file.stem in by_stem else file
    found = {}
    for name, listed in lists.items():
        paths = [by_name.get(each) or by_stem.get(Path(each).name) for each in listed]
        absent = [folder / f"{each}.xml" for each, p in zip(listed, paths, strict=True) if not p]
        # Absent files are reported when the split is opened; VOC itself publishes none of test.
        found[name] = [path for path in paths if path is not None]
        found[name] += absent if found[name] else []
    rest = {*files}.difference(*found.values()) if rest_is_train(lists) else ()
    return found | ({"train": sorted(rest)} if rest else {})


def _annotation_folder(root: Path) -> Path | None:
    """The folder of XML files in ``root``, None without one; "Annotations" whatever it contains."""
    for name in FOLDERS:
        folder = child(root, name)
        if folder.is_dir() and (name == FOLDERS[0] or _is_voc(_files_in(folder, below=True))):
            return folder
    return None


def _xml_files(folder: Path) -> list[Path]:
    nested = named_as_split(folder.name) and _annotation_folder(folder) is None
    files = _files_in(folder, below=nested)
    return files if _is_voc(files) else []


def _files_in(folder: Path, below: bool = False) -> list[Path]:
    """The XML files in a folder; without any, its JSON files if they have the same content."""
    jsons = paths_of(folder, ".json", below=below)
    return paths_of(folder, ".xml", below=below) or (jsons if _is_voc(jsons) else [])


def _is_voc(files: list[Path]) -> bool:
    """Whether one of the first files begins like VOC's."""
    heads = [head_of(file) for file in files[:3]]
    return any(VOC.search(head) for head in heads)


@dataclass
class _Annotation:
    """Content of an XML file: name of its image, (width, height), and its objects.

    objects  class, four numbers, difficult
    """

    file: Path
    image_name: str
    size: tuple[int, int]
    objects: list[tuple[str, tuple[float, ...], bool]] = field(default_factory=list)


def _open(
    root: Path,
    files: dict[str, list[Path]],
    name: str,
    split: str,
    box_format: Asked | None = None,
) -> RecordTable:
    findings, of_others = Findings(), Findings()
    of_split = {
        key: _annotations_in(each, findings if key == name else of_others)
        for key, each in files.items()
    }
    if not of_split[name]:
        raise ValueError(
            f"none of {counted(len(files[name]), 'annotation file')} can be read: "
            f"{next(iter(findings))}"
        )
    every = [row for each in chain(*of_split.values()) for row in each.objects]
    rows, names = Rows(findings, "xyxy"), dict[str, int]()
    outlines = findings.count("box-from-shape") + of_others.count("box-from-shape")
    has_boxes = len(every) > outlines  # polygon points count from 0
    rows.first = float(has_boxes and all(min(numbers[:2]) > 0 for _, numbers, _ in every))
    finder = ImageFolders(_image_folders(root), findings)
    missing: list[str] = []
    for each in of_split[name]:
        path = _image(each, finder, root)
        if path is None:
            missing.append(f"{each.file} has no image {shown(each.image_name or each.file.stem)}")
            continue
        index = rows.add_image(path, each.size)
        for order, (class_, numbers, difficult) in enumerate(each.objects, 1):
            label = names.setdefault(class_, len(names))
            rows.add_box(index, label, numbers, difficult, f"{each.file}: object {order}")
    findings.add("image-missing", missing)
    findings.add("split-missing", [f"ImageSets lists {key}" for key in files if not files[key]])
    lists = split_lists(root)
    if lists and name not in lists:
        findings.add("split-listed", f"{root}: {name}, as no list names it", len(rows.files))
    if len(files) == 1 and not lists:
        all_images = {path for folder in finder.folders for path in images_below(folder)}
        findings.add("image-unlisted", sorted(all_images - {*rows.files}))
    if not rows.files:
        raise FileNotFoundError(
            f"{missing[0] if missing else root} in {_image_folders(root)[0]}; add the images, or "
            "remove the files"
        )
    more = {class_ for class_, _, _ in every}
    table = named_table(rows, names, root, split, box_format, more)
    in_pixels = rows.first and "-" not in table.box_format
    boxes = range(len(rows.image))
    findings.add("pixels-from-one", map(rows.place, boxes), len(boxes) * bool(in_pixels))
    return table


def _annotations_in(files: list[Path], findings: Findings) -> list[_Annotation]:
    """The readable files."""
    annotations: list[_Annotation] = []
    for file in files:
        try:
            annotations.append(_read(file, findings))
        except (ValueError, OSError) as error:
            findings.add("file-unreadable", str(error))
    return annotations


def _read(file: Path, findings: Findings) -> _Annotation:
    if file.suffix.lower() == ".json":
        given = parse_counting(read_text(file, findings), str(file), findings)
        if not isinstance(given, dict) or not isinstance(given.get("annotation"), dict):
            raise ValueError(f"{file} has no annotation; replace or remove it")
        tree = _element("annotation", given["annotation"])
    else:
        tree = parse_xml(file, findings)
    size = size_of(tree.findtext("size/width"), tree.findtext("size/height"))
    image_name = (tree.findtext("filename") or tree.findtext("path") or "").strip()
    annotation = _Annotation(file, image_name, size)
    for number, each in enumerate(tree.iter("object"), 1):
        location = f"{file}: object {number}"
        name = " ".join((each.findtext("name") or "").split())
        edges = _box(each, location, findings)
        if not name:
            findings.add("class-unknown", f"{location} has no name")
        elif edges is not None:
            difficult = as_flag(each.findtext("difficult"))
            annotation.objects.append((name, edges, difficult))
    return annotation


def parse_xml(file: Path, findings: Findings) -> Any:
    """The root element of an XML file in any encoding, with tags in lower case.

    Raises ValueError for a file that is not XML or that defines entities (a security risk).
    """
    content = read_bytes(file)
    if b"<!ENTITY" in content:
        raise ValueError(f"{file} defines XML entities, which no annotation needs; remove them")
    content = content.lstrip(b" \t\r\n")
    try:
        return _lower_case_tags(ElementTree.fromstring(content))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        declared = DECLARED.match(content.lstrip(b"\xef\xbb\xbf"))
        try:
            text, encoding = _decoded(content, declared.group(2).decode() if declared else "")
            plain = DECLARED.sub(rb"\1", text.encode())
            bare = BARE.sub(b"&amp;", plain)
            tree = _lower_case_tags(ElementTree.fromstring(bare))
        except (ElementTree.ParseError, ValueError, LookupError):
            raise ValueError(
                f"{file} is not readable XML ({error}); replace or remove it"
            ) from None
        if encoding != "UTF-8":
            note_encoding(findings, file, text, encoding)
        findings.add("xml-bare", [str(file)] * (bare != plain))
        return tree


def _element(tag: str, given: Any, depth: int = 8) -> ElementTree.Element:
    """The element of XML of the same content as a JSON: a list is an element for each value."""
    element = ElementTree.Element(tag.lower())
    if isinstance(given, dict) and depth:  # VOC's own elements are five levels deep
        for name, value in given.items():
            values = value if isinstance(value, list) else [value]
            element.extend(_element(name, each, depth - 1) for each in values)
    elif isinstance(given, str | int | float):
        element.text = str(int(given) if isinstance(given, bool) else given)
    return element


def _lower_case_tags(tree: Any) -> Any:
    """The tree with tags changed in place to lower case without namespaces."""
    for each in tree.iter():
        if isinstance(each.tag, str):
            each.tag = each.tag.rpartition("}")[2].casefold()
    return tree


def _decoded(content: bytes, encoding: str) -> tuple[str, str]:
    """Text and name of its encoding: the declared one if it can be right, else by the bytes."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16"), "UTF-16"
    if encoding and not (encoding.lower().startswith("utf") and b"\0" not in content):
        try:
            return content.decode(encoding), encoding
        except (UnicodeDecodeError, LookupError):
            pass
    try:
        return content.decode("utf-8"), "UTF-8"
    except UnicodeDecodeError:
        return guess(content)


def _box(each: Any, location: str, findings: Findings) -> tuple[float, ...] | None:
    """xmin, ymin, xmax, ymax of an object, or around its rotated box or polygon; None without."""
    box, rotated = each.find("bndbox"), each.find("robndbox")
    if box is not None:
        if len(each.findall("bndbox")) > 1:
            findings.add("boxes-several", location)
        given = [box.findtext(edge) for edge in EDGES]
        four = as_numbers(given)
        if four and all(map(math.isfinite, four)):
            rows = each.iter("attribute")
            turns = (row.findtext("value") for row in rows if row.findtext("name") == "rotation")
            angle = next(map(as_number, turns), None) or 0.0  # the box is given before rotation
            findings.add("box-rotated", [location] * bool(angle))
            return turned(four, angle)
        kind = "box-infinite" if four else "box-unreadable"
        findings.add(kind, f"{location}: {shown(given)}")
        return None
    if rotated is not None:
        five = as_numbers(rotated.findtext(each) for each in ROTATED)
        if five and all(map(math.isfinite, five)):
            findings.add("box-rotated", location)
            return upright(*five)
    polygon = each.find("polygon")
    points = _points(polygon) if polygon is not None else []
    edges = around(points) if len(points) > 2 else None
    findings.add("box-from-shape" if edges else "box-unreadable", location)
    return edges


def _points(polygon: Any) -> list[list[float]]:
    """Points (x, y) from <pt><x/><y/></pt> …, or from <x1/><y1/> <x2/><y2/> …"""
    given = [(pt.findtext("x"), pt.findtext("y")) for pt in polygon.iter("pt")]
    corner = 1
    while polygon.find(f"x{corner}") is not None:
        given.append((polygon.findtext(f"x{corner}"), polygon.findtext(f"y{corner}")))
        corner += 1
    return [point for pair in given if (point := as_numbers(pair))]


def _image_folders(root: Path) -> list[Path]:
    names = ("JPEGImages", "images", "Images", "JPGImages", "imgs", ".")
    folders = (child(root, name) for name in names)
    return list(dict.fromkeys(folder for folder in folders if folder.is_dir()))


def _image(annotation: _Annotation, finder: ImageFolders, root: Path) -> str | None:
    """The image that the file names, or one with the file's stem; same subfolder first.

    The subfolder is that between Annotations (or else ``root``) and the file.
    """
    names = [annotation.image_name] if annotation.image_name else []
    parts = annotation.file.parent.relative_to(root).parts
    folded = [part.casefold() for part in parts]
    start = int(bool(parts) and folded[0] in map(str.casefold, FOLDERS))
    if not start and "annotations" in folded:
        start = len(parts) - folded[::-1].index("annotations")
    below = "/".join(parts[start:])
    if below and names:
        names.insert(0, f"{below}/{Path(names[0].replace(chr(92), '/')).name}")
    return finder.find_named(names, below, annotation.file.stem)
