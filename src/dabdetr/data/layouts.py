"""Which data set a path means, in which layout it is, and its splits.

A new layout takes a reader with a ``find`` function, and a line in ``LAYOUTS``.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dabdetr.data.agreement import alike, beside, count_shared, count_unlisted, unite
from dabdetr.data.archive import is_archive, unpacked
from dabdetr.data.box_formats import Asked, BoxFormat, Expected
from dabdetr.data.coco import find_coco, read_coco
from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.datumaro import find_datumaro
from dabdetr.data.foreign import not_known
from dabdetr.data.forms import FORMS, find_forms
from dabdetr.data.images import OTHER_SUFFIXES
from dabdetr.data.labelme import find_labelme
from dabdetr.data.listed_splits import divided
from dabdetr.data.listings import find_table
from dabdetr.data.locate import USUAL, canonical, names_split, usual_word
from dabdetr.data.records import Open, RecordTable
from dabdetr.data.scenes import SPLITS, parse_scenes
from dabdetr.data.splitting import divide
from dabdetr.data.text_lines import find_text_lines
from dabdetr.data.via import find_via
from dabdetr.data.voc import find_voc
from dabdetr.data.yolo import find_scattered, find_yolo

Find = Callable[[Path], dict[str, Open]]
"""Splits of a folder or file by their own names; none where it is not in the layout."""

LAYOUTS: dict[str, tuple[Find, str]] = {
    "COCO": (find_coco, "annotations/*.json"),
    "datumaro": (find_datumaro, "annotations/*.json"),
    "DOTA, KITTI, VisDrone, ICDAR": (find_text_lines, "labelTxt/, label_2/, annotations/*.txt"),
    "YOLO": (find_yolo, "data.yaml, obj.data, images/ and labels/"),
    "VOC": (find_voc, "Annotations/*.xml"),
    "labelme": (find_labelme, "a json for each image"),
    "VIA": (find_via, "*.json"),
    "table": (find_table, "*.csv"),
    "tools": (find_forms, f"files of {len(FORMS)} others"),
    "YOLO, scattered": (find_scattered, ""),
}
"""Layout → its reader, and the files it is known by. The first that finds a split is taken."""

PARTS = frozenset({"annotations", "jpegimages", "imagesets", "images", "labels", "main"})
"""Names of folders that are only part of a data set."""
MOST_BOXES = 20_000
"""Boxes that k-means looks at; of more, an even share."""


def open_data(
    data: str | Path | None = None,
    split: str = "train",
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    box_format: BoxFormat | None = None,
) -> DetectionDataset:
    """The split of a data set: a folder, file or zip in any of ``LAYOUTS``, or ``"scenes"``.

    Which layout it is, its files tell. A COCO json and its image folder can be given apart;
    ``data`` is then not looked at. ``train`` of a data set that has one split only is that one.
    ``box_format`` says what the four numbers of a box are, where that is not to be found out.
    What was odd is in the data set's ``findings``; images that no annotation names only where there
    is one split, as they may be of the others, which are not opened for that.
    """
    opened = _open(data, split, annotations, images, box_format)
    if not isinstance(opened, RecordTable) or data is None or annotations is not None:
        count_unlisted([opened])
        return opened
    if box_format is None and opened.doubtful:

        def again(split: str, likely: Expected) -> DetectionDataset:
            return _open(data, split, None, None, likely)

        opened = alike((opened, *_others(data, _own(data, split))), again)[0]
    if len(splits(data)) == 1:
        count_unlisted([opened])
    return opened


def _own(data: str | Path, split: str) -> list[str]:
    """What ``split`` is called among the splits of a data set."""
    return [_key(find_data(Path(data)), data, split)]


def _key(found: Found, data: str | Path, split: str) -> str:
    """The split that is meant; ValueError where there is none."""
    name = canonical(split)
    if name in found.splits:
        return name
    if name == "train" and "trainval" in found.splits:
        return "trainval"
    only = next(iter(found.splits)) if len(found.splits) == 1 else None
    if name == "train" and only:
        return only
    hint = "" if only is None else f" (it has one split; --split {only} takes that)"
    raise ValueError(
        f"{data} has no split {split!r}; choose one of: {', '.join(found.splits)}{hint}"
    )


def _open(
    data: str | Path | None,
    split: str,
    annotations: str | Path | None,
    images: str | Path | None,
    asked: Asked | None,
) -> DetectionDataset:
    """``open_data``, with a format that may only be likely."""
    if annotations is not None or images is not None:
        if annotations is None or images is None:
            raise ValueError(
                "annotations (a COCO json) and images (its image folder) go together; "
                f"only {'images' if annotations is None else 'annotations'} was given"
            )
        name = Path(annotations).stem
        return _with_formats(read_coco(Path(annotations), Path(images), name, split, asked))
    if data is None:
        raise ValueError("no data: give a folder in COCO's, YOLO's or VOC's layout, or 'scenes'")
    if _is_scenes(data):
        return parse_scenes(str(data), split)
    found = find_data(Path(data))
    key = _key(found, data, split)
    own = key if len(found.splits) == 1 and canonical(split) == "train" else split
    opened = found.splits[key](own, asked)
    if found.root != Path(data):
        opened.findings.add("place", f"{data}: {found.root}")
    return _with_formats(opened)


def _with_formats(opened: RecordTable) -> RecordTable:
    """Count images beside those of a split that are in a format that is not decoded."""
    odd = beside(opened, OTHER_SUFFIXES)
    own = {*opened.files} if odd else ()
    opened.findings.add("image-format", [file for file in odd if file not in own])
    return opened


def splits(data: str | Path) -> list[str]:
    """Names of the splits that ``open_data`` finds, ``train`` first."""
    if _is_scenes(data):
        return list(SPLITS)
    return list(find_data(Path(data)).splits)


def is_data(source: str | Path) -> bool:
    """Whether ``open_data`` knows ``source`` as it is; else it may be images without boxes."""
    if _is_scenes(source):
        return True
    return is_archive(Path(source)) or bool(layouts_in(Path(source)))


def _is_scenes(data: str | Path) -> bool:
    return isinstance(data, str) and data.partition(":")[0] == "scenes"


@dataclass(frozen=True)
class Found:
    """A data set: its folder or file, and how its splits are opened; train, val, test first."""

    root: Path
    splits: dict[str, Open]


def find_data(given: Path) -> Found:
    """The data set that a path means: in it, the one whose part it is, or the only one below it."""
    if not given.exists():
        raise FileNotFoundError(f"there is no data folder {given}; check the path")
    if is_archive(given):
        return find_data(unpacked(given))
    own = layouts_in(given)
    above = _above(given, own) if given.is_dir() else None
    if above is not None:
        return above
    if own:
        return Found(given, own)
    below = _below(given) if given.is_dir() else []
    if len(below) == 1:
        return below[0]
    if below:
        raise ValueError(
            f"{given} holds {len(below)} data sets; give one of them: "
            + ", ".join(str(each.root) for each in below[:8])
        )
    sought = "; ".join(f"{files} ({name})" for name, (_, files) in LAYOUTS.items() if files)
    raise ValueError(not_known(given, sought))


def layouts_in(root: Path) -> dict[str, Open]:
    """Split → how it is opened; none where ``root`` itself is in no layout."""
    found = next(filter(None, (find(root) for find, _ in LAYOUTS.values())), {})
    if not found and root.is_dir():
        found = _by_folder(root)
    return _ordered(divided(root, found))


def _ordered(found: dict[str, Open]) -> dict[str, Open]:
    """By usual names, train, val and test first; one that would hide another keeps its own."""
    named: dict[str, Open] = {}
    words = [usual_word(name) for name in found]
    for name, split in found.items():
        usual = canonical(name)
        if usual not in USUAL and words.count(word := usual_word(name)) == 1 and word:
            usual = word
        named[name if usual in named else usual] = split
    first = [name for name in USUAL if name in named]
    return {name: named[name] for name in (*first, *sorted(named.keys() - USUAL))}


def _by_folder(root: Path) -> dict[str, Open]:
    """Folders that are called like splits, each of them a data set of one split."""
    found: dict[str, Open] = {}
    for child in sorted(root.iterdir()):
        if child.is_dir() and names_split(child.name):
            inside = next(filter(None, (find(child) for find, _ in LAYOUTS.values())), {})
            if len(inside) == 1:
                found[child.name] = next(iter(inside.values()))
    return found


def _above(given: Path, own: dict[str, Open]) -> Found | None:
    """The data set of which ``given`` is a part: one must not train on all of a divided set."""
    best: Found | None = None
    root = given.resolve()
    for _ in range(3):
        name = root.name.casefold()
        part = name in PARTS
        if not (part or canonical(name) in USUAL or name == "data"):
            break
        root = root.parent
        found = layouts_in(root)
        if found and (not own or part or len(found) > 1 >= len(own)):
            best = Found(root, found)
    return best


def _below(given: Path, depth: int = 3) -> list[Found]:
    """Data sets in the folders of a folder."""
    found: list[Found] = []
    for child in sorted(given.iterdir()):
        if not child.is_dir() or child.name.startswith((".", "__MACOSX")):
            continue
        inside = layouts_in(child)
        if inside:
            found.append(Found(child, inside))
        elif depth > 1:
            found += _below(child, depth - 1)
    return found


def anchors(init: str) -> str | np.ndarray:
    """Where anchors start, of ``queries_init``: 'keep', 'grid', or boxes for 'kmeans:DATA'."""
    kind, _, data = init.partition(":")
    if init in ("keep", "grid"):
        return init
    if kind == "kmeans" and data:
        return training_boxes(data)
    raise ValueError(
        f"the anchors of queries come by keep, grid or kmeans:DATA; got {init!r}; DATA is a "
        "data folder, or scenes"
    )


def training_boxes(data: str | Path) -> np.ndarray:
    """[n, 4] float32, cxcywh, 0–1: the boxes of a data set's train split, crowds left out."""
    split, parts = open_data(data, "train"), []
    for index in range(len(split)):
        record = split.record(index)
        corners = record.boxes[~record.crowd] / np.tile((record.width, record.height), 2)
        sides = corners[:, 2:] - corners[:, :2]
        parts.append(np.concatenate((corners[:, :2] + sides / 2, sides), axis=1))
    boxes = np.concatenate(parts)
    return boxes[:: len(boxes) // MOST_BOXES + 1].astype(np.float32)


def _others(data: str | Path | None, opened: Container[str]) -> list[RecordTable]:
    """The splits that are not ``opened``; none of those that cannot be."""
    found: list[RecordTable] = []
    for name in [] if data is None else splits(data):
        if name not in opened:
            try:
                split = _open(data, name, None, None, None)
            except (ValueError, OSError):
                continue
            found += [split] if isinstance(split, RecordTable) else []
    return found


def open_every(
    data: str | Path | None = None,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    *,
    box_format: BoxFormat | None = None,
    progress: bool = False,
) -> list[DetectionDataset]:
    """All splits of a data set, ``train`` first; images are checked, all have all classes.

    A split that cannot be opened is left out, and counted with the first one's findings; ValueError
    where none can.
    """
    if data is None or annotations is not None or images is not None:
        only = open_data(data, "train", annotations, images, box_format)
        return [only.checked(progress)]
    opened: list[DetectionDataset] = []
    failed: dict[str, Exception] = {}
    for name in splits(data):
        try:
            opened.append(_open(data, name, None, None, box_format))
        except (ValueError, OSError) as error:
            failed[name] = error
    if box_format is None:
        opened = alike(opened, lambda name, likely: _open(data, name, None, None, likely))
    count_unlisted(opened)
    found: list[DetectionDataset] = []
    for each in opened:
        try:
            found.append(each.checked(progress))
        except (ValueError, OSError) as error:
            failed[each.split] = error
    if not found:
        raise next(iter(failed.values()))
    found[0].findings.add("split-missing", [f"{name}: {error}" for name, error in failed.items()])
    count_shared(found)
    bits = max(each.bits or 0 for each in found) or None
    for each in found:
        each.bits = bits
    unite(found)
    return found


def open_training(
    data: str | Path | None = None,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    val_annotations: str | Path | None = None,
    val_images: str | Path | None = None,
    *,
    share: float | None = None,
    box_format: BoxFormat | None = None,
    progress: bool = False,
) -> tuple[DetectionDataset, DetectionDataset | None]:
    """The split to train on, and the one to validate on where there is one; images are checked.

    Both have the classes of both. ``share`` divides what there is where there is no split to
    validate on (see ``splitting.divide``). Boxes of both are of one format.
    """
    places = {"train": (data, annotations, images), "val": (data, val_annotations, val_images)}
    train = _open(data, "train", annotations, images, box_format)
    val = None
    if val_annotations is not None or val_images is not None:
        val = _open(None, "val", val_annotations, val_images, box_format)
    elif annotations is None and data is not None:
        there = splits(data)
        if "val" in there and len(there) > 1:
            val = _open(data, "val", None, None, box_format)
        elif share is None:
            train.findings.add("split-only", f"{data}: {', '.join(there)}")
    if val is not None:
        if share is not None:
            raise ValueError(f"{train.name} has a val split already; leave out --split {share:g}")
        if box_format is None:

            def again(split: str, likely: Expected) -> DetectionDataset:
                place, annotations, images = places[split]
                return _open(place, split, annotations, images, likely)

            train, val = alike((train, val), again)
        count_unlisted((train, val), lambda: _others(data, ("train", "val")))
        train, val = train.checked(progress), val.checked(progress)
        train.bits = val.bits = max(train.bits or 0, val.bits or 0) or None
        count_shared((train, val))
        unite((train, val))
    else:
        own = [] if data is None else _own(data, "train")
        count_unlisted([train], lambda: _others(data, own))
        train = train.checked(progress)
    if isinstance(train, RecordTable):
        seen = np.bincount(train.labels[~train.crowd], minlength=len(train.names))
        lacking = [name for name, many in zip(train.names, seen, strict=True) if not many]
        train.findings.add("class-empty", lacking)
    if share is not None:
        return divide(train, share, progress=progress)
    return train, val
