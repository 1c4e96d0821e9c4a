"""VOC's layout: an XML file for each image, in Annotations/ or beside the images.

Its boxes are xmin, ymin, xmax, ymax of the pixels within, counted from 1 as VOC does; where some
number in the data is 0, they are taken as edges counted from 0, as other tools write them. Objects
marked difficult are not for training and are ignored in AP, as in VOC's own evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from dabdetr.data.coco import CocoData
from dabdetr.data.dataset import Open
from dabdetr.data.images import IMAGE_SUFFIXES, image_size

EDGES = ("xmin", "ymin", "xmax", "ymax")


def find_voc(root: Path) -> dict[str, Open]:
    """The splits of ``root``: those that ImageSets/Main lists; else folders of XML files, each a
    split; else all as train. None where there is no XML file."""
    files = _split_files(root) if root.is_dir() else {}
    found: dict[str, Open] = {}
    for name in files:

        def read(split: str, name: str = name) -> CocoData:
            every = {key: [_read(file) for file in value] for key, value in files.items()}
            tree = _tree(every[name], [scene for scenes in every.values() for scene in scenes])
            where = files[name][0].parent if files[name] else root
            return CocoData(tree, where, root, root.resolve().name, split)

        found[name] = read
    return found


def _split_files(root: Path) -> dict[str, list[Path]]:
    folder = root / "Annotations"
    if not folder.is_dir():
        packed = {each.name: sorted(each.glob("*.xml")) for each in root.iterdir() if each.is_dir()}
        found = {name: files for name, files in packed.items() if files}
        alone = sorted(root.glob("*.xml"))
        return found or ({"train": alone} if alone else {})
    lists = {file.stem: file for file in sorted((root / "ImageSets" / "Main").glob("*.txt"))}
    usual = {name: lists[name] for name in ("train", "val", "test", "trainval") if name in lists}
    if not usual:
        every = sorted(folder.glob("*.xml"))
        return {"train": every} if every else {}
    found = {}
    for name, file in usual.items():
        found[name] = [folder / f"{line.split()[0]}.xml" for line in _lines(file)]
        missing = next((path for path in found[name] if not path.is_file()), None)
        if missing is not None and name in ("train", "trainval", "val"):
            raise FileNotFoundError(f"{file} lists {missing.stem}, but there is no {missing}")
        if missing is not None:  # VOC keeps its test annotations to itself
            del found[name]
    return found


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line.strip()]


@dataclass(frozen=True)
class _Scene:
    """What an XML file says: rows of name, four numbers, difficult."""

    file: Path
    image: Path
    objects: tuple[tuple[str, tuple[float, ...], bool], ...]


def _read(file: Path) -> _Scene:
    try:
        tree = ElementTree.parse(file).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise ValueError(f"{file} is not readable XML ({error}); replace or remove it") from None
    objects = []
    for number, each in enumerate(tree.iter("object"), 1):
        name, box = (each.findtext("name") or "").strip(), each.find("bndbox")
        given = [None if box is None else box.findtext(edge) for edge in EDGES]
        try:
            numbers = tuple(float(text or "") for text in given)
        except ValueError:
            numbers = ()
        if not name or not numbers:
            raise ValueError(
                f"{file}: object {number} should have a name and a bndbox of {', '.join(EDGES)} in "
                f"numbers; it has {name!r} and {given}"
            )
        objects.append((name, numbers, (each.findtext("difficult") or "0").strip() == "1"))
    return _Scene(file, _image(file, tree.findtext("filename")), tuple(objects))


def _image(file: Path, named: str | None) -> Path:
    """The image that the file names, or one of the file's own name."""
    folder = file.parent
    if folder.name == "Annotations":
        folders = [folder.parent / name for name in ("JPEGImages", "images", ".")]
    else:
        folders = [folder]
    names = [Path(named.strip()).name] if named and named.strip() else []
    for place in folders:
        for name in (*names, *(file.stem + suffix for suffix in sorted(IMAGE_SUFFIXES))):
            if (place / name).is_file():
                return place / name
    raise FileNotFoundError(
        f"{file} has no image {names[0] if names else file.stem} in {folders[0]}; add it, or "
        "remove the file"
    )


def _tree(scenes: list[_Scene], every: list[_Scene]) -> dict[str, Any]:
    """What COCO's json would say; the classes are those of all splits, by name."""
    rows = [row for scene in every for row in scene.objects]
    categories = {name: number for number, name in enumerate(sorted({row[0] for row in rows}))}
    first = 0.0 if any(min(numbers[:2]) <= 0 for _, numbers, _ in rows) else 1.0
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for scene in scenes:
        width, height = image_size(scene.image)
        path, number = str(scene.image.absolute()), len(images)
        images.append({"id": number, "file_name": path, "width": width, "height": height})
        for order, (name, (x0, y0, x1, y1), difficult) in enumerate(scene.objects, 1):
            if not (x1 - x0 + first > 0 and y1 - y0 + first > 0):
                raise ValueError(
                    f"{scene.file}: object {order} has a box without width or height, "
                    f"{[x0, y0, x1, y1]}; correct or remove it"
                )
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": categories[name],
                    "bbox": [x0 - first, y0 - first, x1 - x0 + first, y1 - y0 + first],
                    "iscrowd": int(difficult),
                }
            )
    named = [{"id": number, "name": name} for name, number in categories.items()]
    return {"images": images, "annotations": annotations, "categories": named}
