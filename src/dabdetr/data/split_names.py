"""Names of splits: any spelling of train, val and test, alone or within other words and paths."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from dabdetr.data.locate import clean, folders_in

YEAR = re.compile(r"20\d\d$")  # COCO's own splits are called train2017, val2017
USUAL = ("train", "val", "test")
SPLIT_AFFIXES = re.compile(r"[ _-]?(data)?(set|split|subset|data|images|imgs|list)$")
"""Suffixes after the name of a split in the names of folders: train_set, val-images."""
SPELLINGS = {
    "train": ("train", "training", "trn", "tr"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing", "tst"),
}
"""Usual split → its spellings; letter case is ignored."""
PART = re.compile(r"([-_. ]?(part|shard|batch|chunk|task|job))?[-_. ]?\d+$", re.IGNORECASE)
"""The end of the name of a file that has a part of a split."""
NO_PART = re.compile(r"fold|(^|[^a-z])v(er|ersion)?[-_. ]?\d+$", re.IGNORECASE)
"""In names that end like those of parts: folds and versions, which are alternatives."""
DEFAULT = "default"
"""Name of a split whose file names give none."""


def canonical(split: str) -> str:
    """``train``, ``val`` or ``test`` for any spelling of them; other names without a year."""
    bare = YEAR.sub("", split)
    folded = bare.casefold().strip()
    names = folded, SPLIT_AFFIXES.sub("", folded)
    return next(
        (usual for name in names for usual, known in SPELLINGS.items() if name in known), bare
    )


def usual_word(name: str) -> str:
    """The only usual split among the words of a name (my_train_v2, Annotations-Val); else ""."""
    words = {canonical(word) for word in re.split(r"[^A-Za-z]+", name) if word}
    usual = [word for word in USUAL if word in words]
    return usual[0] if len(usual) == 1 else ""


def names_split(name: str) -> bool:
    """Whether a name is a usual split or contains one as a word: VisDrone2019-DET-train."""
    return canonical(name) in USUAL or bool(usual_word(name))


def names_of_wholes(names: Iterable[str]) -> dict[str, str]:
    """Name → the name without its end, if several are alike but for that: train_1, train_2."""
    bare = {name: name if NO_PART.search(name) else PART.sub("", name) for name in names}
    count = Counter(bare.values())
    return {name: (whole or DEFAULT) if count[whole] > 1 else name for name, whole in bare.items()}


def split_in_path(name: str) -> str:
    """The only usual split among the folders of a path (images/train/a.png); else ""."""
    named = {canonical(part) for part in clean(name)[:-1]} & {*USUAL}
    return named.pop() if len(named) == 1 else ""


def are_splits(names: Iterable[str]) -> bool:
    """Whether names are of splits: one is a usual split, or several contain different ones."""
    given = list(names)
    named = any(canonical(name) in (*USUAL, "trainval") for name in given)
    return named or len({*map(usual_word, given)} - {""}) > 1


def split_folders(root: Path) -> dict[str, Path]:
    """Name → each folder in ``root``, if their names are of splits (see ``are_splits``)."""
    folders = {each.name: each for each in folders_in(root)}
    return folders if are_splits(folders) else {}


def named_as_split(name: str) -> bool:
    """Whether a name is that of a split, or of all images."""
    return canonical(name) in (*USUAL, "default", "trainval")
