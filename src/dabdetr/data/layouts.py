"""Finding the data set that a path means, its layout, and its splits.

A new layout needs a reader with a ``find`` function, and a line in ``LAYOUTS``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dabdetr.data.agreement import alike, beside, count_shared, count_unlisted, unite
from dabdetr.data.archive import is_archive, unpacked
from dabdetr.data.box_formats import Asked, BoxFormat, Expected
from dabdetr.data.coco import find_coco, other_jsons, read_coco
from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.datumaro import find_datumaro
from dabdetr.data.foreign import not_known
from dabdetr.data.forms import FORMS, find_forms
from dabdetr.data.images import OTHER_SUFFIXES
from dabdetr.data.labelme import find_labelme
from dabdetr.data.listed_splits import divided
from dabdetr.data.locate import folders_in, paths_of, unreadable_below
from dabdetr.data.parquet import find_parquet
from dabdetr.data.records import Open, RecordTable
from dabdetr.data.scenes import SPLITS, parse_scenes
from dabdetr.data.split_names import USUAL, canonical, names_split, split_in_path, usual_word
from dabdetr.data.splitting import divide
from dabdetr.data.tables import find_table
from dabdetr.data.text_lines import find_text_lines
from dabdetr.data.voc import find_voc
from dabdetr.data.yolo import find_scattered, find_yolo
from dabdetr.text import counted, shortened

Find = Callable[[Path], dict[str, Open]]
"""Returns the splits of a folder or file by their original names; empty for another layout."""

LAYOUTS: dict[str, tuple[Find, str]] = {
    "COCO": (find_coco, "annotations/*.json"),
    "datumaro": (find_datumaro, "annotations/*.json"),
    "DOTA, KITTI, VisDrone, ICDAR": (find_text_lines, "labelTxt/, label_2/, annotations/*.txt"),
    "YOLO": (find_yolo, "data.yaml, obj.data, images/ and labels/"),
    "VOC": (find_voc, "Annotations/*.xml"),
    "labelme": (find_labelme, "a json for each image"),
    "table": (find_table, "*.csv"),
    "Hugging Face": (find_parquet, "*.parquet, *.arrow"),
    "tools": (find_forms, f"files of {len(FORMS)} others"),
}
"""Layout → its reader, and its typical files. The first reader that finds a split is used."""
MAIN = ("COCO", "YOLO", "VOC")
SECOND = (*MAIN, "table")
"""Layouts of which a data set may have a second one beside the one that is read."""

PACKED = (".gz", ".bz2", ".xz", ".zst")
ANNOTATIONS = (".json", ".jsonl", ".csv", ".xml", ".txt")
"""Endings of annotation files, before one of ``PACKED``."""
PARTS = frozenset({"annotations", "jpegimages", "imagesets", "images", "labels", "main"})
"""Names of folders that are only part of a data set."""
MOST_FOLDERS = 300
"""Most folders inspected below one that is no data set; each takes some hundredths of a second."""
MOST_BOXES = 20_000
"""Most boxes for k-means; more are thinned out evenly."""


def open_data(
    data: str | Path | None = None,
    split: str = "train",
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    box_format: BoxFormat | None = None,
) -> DetectionDataset:
    """A split of a data set: a folder, file or zip in any of ``LAYOUTS``, or ``"scenes"``.

    The layout is recognised by the files. A COCO JSON and its image folder can be given separately;
    ``data`` is then ignored. If a data set has only one split, ``train`` means that one.
    ``box_format`` is the meaning of a box's four numbers; None infers it. Oddities are counted in
    the data set's ``findings``; unlisted images only if there is one split, as they could belong to
    other splits, which are not opened. Raises ValueError or OSError for data that cannot be read.
    """
    opened = _open_split(data, split, box_format, annotations, images)
    if not isinstance(opened, RecordTable) or data is None or annotations is not None:
        count_unlisted([opened])
        return opened
    if (box_format is None and opened.doubtful) or opened.classes.doubtful:
        others = _other_splits(data, _opened_keys(data, split))
        opened = alike((opened, *others), partial(_open_split, data), box_format)[0]
    if len(splits(data)) == 1:
        count_unlisted([opened])
    return opened


def _opened_keys(data: str | Path, split: str) -> list[str]:
    """The name of ``split`` among the splits of a data set, as a list."""
    return [_split_key(find_data(Path(data)), data, split)]


def _split_key(found: Found, data: str | Path, split: str) -> str:
    """The key in ``found.splits`` that ``split`` means; ValueError if there is none."""
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
        f"{data} has no split {shortened(split, 80)!r}; choose one of: "
        f"{shortened(', '.join(found.splits), 200)}{shortened(hint, 120)}"
    )


def _open_split(
    data: str | Path | None,
    split: str,
    asked: Asked | None,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
) -> DetectionDataset:
    """``open_data`` without counting unlisted images; ``asked`` may also be an expected format."""
    if annotations is not None or images is not None:
        if annotations is None or images is None:
            raise ValueError(
                "annotations (a COCO json) and images (its image folder) go together; "
                f"only {'images' if annotations is None else 'annotations'} was given"
            )
        name = Path(annotations).stem
        opened = read_coco(Path(annotations), Path(images), name, split, asked)
        return _count_unread(opened, Path(images))
    if data is None:
        raise ValueError("no data: give a folder in COCO's, YOLO's or VOC's layout, or 'scenes'")
    if _is_scenes(data):
        return parse_scenes(str(data), split)
    found = find_data(Path(data))
    key = _split_key(found, data, split)
    name = key if len(found.splits) == 1 and canonical(split) == "train" else split
    opened = found.splits[key](name, asked)
    if found.root != Path(data):
        opened.findings.add("place", f"{data}: {found.root}")
    opened.findings.add("layout-other", _other_layouts(found.root))
    opened.findings.add("annotation-packed", _packed_in(found.root))
    if len(found.splits) == 1:
        opened.findings.add("split-folders", _split_folders_of(opened, found.root))
    return _count_unread(opened, found.root)


def _count_unread(opened: RecordTable, root: Path) -> RecordTable:
    """The split, with findings of unreadable folders and of images that cannot be decoded."""
    opened.findings.add("folder-unreadable", unreadable_below(root))
    undecodable = beside(opened, OTHER_SUFFIXES)
    listed = {*opened.files} if undecodable else ()
    opened.findings.add("image-format", [file for file in undecodable if file not in listed])
    return opened


def splits(data: str | Path) -> list[str]:
    """Names of the splits that ``open_data`` finds, ``train`` first; errors as in ``find_data``."""
    if _is_scenes(data):
        return list(SPLITS)
    return list(find_data(Path(data)).splits)


def is_data(source: str | Path) -> bool:
    """Whether ``source`` itself is a data set for ``open_data``; else it may be images only."""
    if _is_scenes(source):
        return True
    path = Path(source)
    return is_archive(path) or bool(layouts_in(path) or find_scattered(path))


def _is_scenes(data: str | Path) -> bool:
    return isinstance(data, str) and data.partition(":")[0] == "scenes"


@dataclass(frozen=True)
class Found:
    """A data set: its folder or file, and split → opening function; train, val, test first."""

    root: Path
    splits: dict[str, Open]


def find_data(path: Path) -> Found:
    """The data set of a path: at the path, the one that it is a part of, or the only one below it.

    Raises FileNotFoundError if the path does not exist, ValueError for no or several data sets.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no data folder {path}; check the path")
    if is_archive(path):
        return find_data(unpacked(path))
    if path.is_dir():
        os.scandir(path).close()  # raises if it may not be read
    splits_in = layouts_in(path)
    whole = _enclosing_data(path, splits_in) if path.is_dir() else None
    if whole is not None:
        return whole
    if splits_in:
        return Found(path, splits_in)
    below = _data_below(path) if path.is_dir() else []
    if len(below) == 1:
        return below[0]
    if scattered := find_scattered(path):
        return Found(path, _ordered(divided(path, scattered)))
    zips = paths_of(path, ".zip") if path.is_dir() and not below else []
    with suppress(ValueError):  # a zip may have images only, or be damaged
        if len(zips) == 1:
            return find_data(zips[0])
        if zips and all(names_split(each.stem) for each in zips):
            parts = {each.stem: [*find_data(each).splits.values()] for each in zips}
            return Found(path, _ordered({name: only for name, (only,) in parts.items()}))
    if below:
        raise ValueError(
            f"{path} holds {len(below)} data sets; give one of them: "
            + ", ".join(str(each.root) for each in below[:8])
        )
    others = ", ".join(name for name in LAYOUTS if name not in (*MAIN, "tools"))
    sought = "; ".join(f"{LAYOUTS[name][1]} ({name})" for name in MAIN)
    sought += f"; files of {others} and {len(FORMS)} other tools"
    raise ValueError(not_known(path, sought))


def layouts_in(root: Path) -> dict[str, Open]:
    """Split → function that opens it; empty if ``root`` itself is in no layout."""
    found = next(filter(None, (find(root) for find, _ in LAYOUTS.values())), {})
    if not found and root.is_dir():
        for each in folders_in(root):
            if names_split(each.name):  # a data set of one split
                inside = next(filter(None, (find(each) for find, _ in LAYOUTS.values())), {})
                if len(inside) == 1:
                    found[each.name] = next(iter(inside.values()))
    return _ordered(divided(root, found))


def _split_folders_of(opened: RecordTable, root: Path) -> list[str]:
    """One image of each split after which folders in ``root`` are called, if there are several."""
    folders = {os.path.dirname(file): file for file in reversed(opened.files)}
    base = os.path.abspath(root)
    first: dict[str, str] = {}
    for file in sorted(folders.values()):
        first.setdefault(split_in_path(os.path.relpath(file, base)), file)
    first.pop("", None)
    return list(first.values()) if len(first) > 1 else []


def _packed_in(root: Path) -> list[str]:
    """Compressed annotation files in ``root`` and its folders that are not unpacked there."""
    files = (file for folder in (root, *folders_in(root)) for file in paths_of(folder, *PACKED))
    named = (file for file in files if Path(file.stem).suffix.lower() in ANNOTATIONS)
    return [str(file) for file in named if not file.with_suffix("").exists()]


def _other_layouts(root: Path) -> list[str]:
    """The layouts of ``SECOND`` in which ``root`` is too, if it is read in another of them."""
    found: list[str] = []
    for name in SECOND:
        with suppress(ValueError, OSError):
            found += [name] if LAYOUTS[name][0](root) else []
    others: list[str] = []
    if found[:1] == ["COCO"] and root.is_dir():
        others = [f"{file}: not read beside annotations/" for file in other_jsons(root)]
    if len(found) < 2:
        return others
    read = next(name for name, (find, _) in LAYOUTS.items() if name in found or find(root))
    return others + [f"{root}: {name}, read as {read}" for name in found if name != read]


def _ordered(found: dict[str, Open]) -> dict[str, Open]:
    """The splits under usual names, train, val and test first.

    A split whose usual name is already in use keeps its original name.
    """
    named: dict[str, Open] = {}
    words = [usual_word(name) for name in found]
    for name, split in found.items():
        usual = canonical(name)
        if usual not in USUAL and words.count(word := usual_word(name)) == 1 and word:
            usual = word
        named[name if usual in named else usual] = split
    first = [name for name in USUAL if name in named]
    return {name: named[name] for name in (*first, *sorted(named.keys() - USUAL))}


def _enclosing_data(path: Path, splits_in: dict[str, Open]) -> Found | None:
    """The data set that ``path`` (with its own splits) is a part of, up to three folders above.

    Without this, training on a part such as ``images`` would ignore the splits of the whole.
    """
    best: Found | None = None
    root = path.resolve()
    for _ in range(3):
        name = root.name.casefold()
        part = name in PARTS
        if not (part or canonical(name) in USUAL or name == "data"):
            break
        root = root.parent
        found = layouts_in(root)
        if found and (not splits_in or part or len(found) > 1 >= len(splits_in)):
            best = Found(root, found)
    return best


def _data_below(path: Path, depth: int = 4) -> list[Found]:
    """Data sets in the folders of a folder, down to ``depth`` levels.

    ValueError for more than ``MOST_FOLDERS`` folders.
    """
    found: list[Found] = []
    level, count = [path], 0
    for _ in range(depth):
        inner = (child for folder in level for child in folders_in(folder))
        children = [child for child in inner if child.name != "__MACOSX"]
        level = []
        for child in children:
            count += 1
            if count > MOST_FOLDERS:
                first = f", such as {found[0].root}" if found else ""
                raise ValueError(
                    f"{path} is no data set and has more than {MOST_FOLDERS} folders; give the "
                    f"folder of a data set{first}"
                )
            inside = layouts_in(child)
            if inside:
                found.append(Found(child, inside))
            else:
                level.append(child)
    return sorted(found, key=lambda each: each.root)


def anchors(init: str) -> str | np.ndarray:
    """Initial anchors of ``queries_init``: "keep", "grid", or for "kmeans:DATA" the boxes of DATA.

    Raises ValueError for another value.
    """
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
    """[n, 4] float32, cxcywh, 0–1: at most ``MOST_BOXES`` boxes of the train split, no crowds."""
    split, parts = open_data(data, "train"), []
    for index in range(len(split)):
        record = split.record(index)
        corners = record.boxes[~record.crowd] / np.tile((record.width, record.height), 2)
        sides = corners[:, 2:] - corners[:, :2]
        parts.append(np.concatenate((corners[:, :2] + sides / 2, sides), axis=1))
    boxes = np.concatenate(parts)
    return boxes[:: len(boxes) // MOST_BOXES + 1].astype(np.float32)


def _other_splits(data: str | Path | None, opened: Container[str]) -> list[RecordTable]:
    """The splits that are not ``opened``, without those that raise an error."""
    found: list[RecordTable] = []
    for name in [] if data is None else splits(data):
        if name not in opened:
            with suppress(ValueError, OSError):
                split = _open_split(data, name, None)
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
    """All splits of a data set, ``train`` first, with checked images and one common class list.

    A split that cannot be opened is left out, and counted in the findings of the first one. If none
    can be opened, the first error (ValueError or OSError) is raised.
    """
    if data is None or annotations is not None or images is not None:
        only = open_data(data, "train", annotations, images, box_format)
        return [only.checked(progress)]
    opened: list[DetectionDataset] = []
    failed: dict[str, Exception] = {}
    for name in splits(data):
        try:
            opened.append(_open_split(data, name, box_format))
        except (ValueError, OSError) as error:
            failed[name] = error
    opened = alike(opened, partial(_open_split, data), box_format)
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
    """The split to train on, and the one to validate on (None without one), with checked images.

    Both have one common class list and one box format. A val split without objects is counted in
    the findings of the train split. Without a val split, ``share`` (0–1) divides the train split
    (see ``splitting.divide``). Raises ValueError for a ``share`` with a val split.
    """
    places = {"train": (annotations, images), "val": (val_annotations, val_images)}
    train = _open_split(data, "train", box_format, annotations, images)
    val = None
    if val_annotations is not None or val_images is not None:
        val = _open_split(None, "val", box_format, val_annotations, val_images)
    elif annotations is None and data is not None:
        names = splits(data)
        if "val" in names and len(names) > 1:
            val = _open_split(data, "val", box_format)
        elif names in (["val"], ["test"]):
            train.findings.add("split-stand-in", f"{data}: {names[0]}")
        elif share is None:
            train.findings.add("split-only", f"{data}: {', '.join(names)}")
        others = [name for name in names if name not in (*USUAL, "trainval")]
        train.findings.add("split-other", others[len(names) == 1 :])
    if val is not None:
        if share is not None:
            raise ValueError(f"{train.name} has a val split already; leave out --split {share:g}")

        def again(split: str, likely: Expected) -> DetectionDataset:
            return _open_split(data, split, likely, *places[split])

        train, val = alike((train, val), again, box_format)
        count_unlisted((train, val), lambda: _other_splits(data, ("train", "val")))
        train, val = train.checked(progress), val.checked(progress)
        train.bits = val.bits = max(train.bits or 0, val.bits or 0) or None
        count_shared((train, val))
        unite((train, val))
    else:
        opened = [] if data is None else _opened_keys(data, "train")
        count_unlisted([train], lambda: _other_splits(data, opened))
        train = train.checked(progress)
    if isinstance(train, RecordTable):
        counts = np.bincount(train.labels[~train.crowd], minlength=len(train.names))
        empty = [name for name, count in zip(train.names, counts, strict=True) if not count]
        train.findings.add("class-empty", empty)
    if share is not None:
        return divide(train, share, progress=progress)
    if val is not None and not any((~val.record(at).crowd).any() for at in range(len(val))):
        train.findings.add("split-empty", f"{val.name} {val.split}: {counted(len(val), 'image')}")
    return train, val
