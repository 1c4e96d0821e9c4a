"""Advice for a path that is in no supported layout: which format it has, and how to use it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from dabdetr.data.images import IMAGE_SUFFIXES, OTHER_SUFFIXES
from dabdetr.data.textfiles import head_of
from dabdetr.text import shortened

MOST_FILES = 1000
"""Most files inspected below a folder."""
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
UNPACK = " Unpack it and give its folder."
TABLE = "filename, class, xmin, ymin, xmax, ymax"
COCO_OR = "export as COCO, YOLO or VOC instead"
# fmt: off
FOREIGN: tuple[tuple[str, bytes, str, str], ...] = (
    (r".*", rb"^version https://git-lfs",
     "only Git LFS's pointer to the file", "fetch the file with: git lfs pull"),
    (r".*\.tfrecords?(-\d+-of-\d+)?", b"", "TensorFlow's TFRecord", COCO_OR),
    (r".*\.(lmdb|mdb|h5|hdf5|mat|npz)", b"", "a binary store of some program", COCO_OR),
    (r".*\.xml", rb"<annotations[\s/>]",
     "CVAT's form, without images", "export as CVAT for images 1.1 or COCO 1.0"),
    (r"meta\.json", b'"classes".*"shape"',
     "Supervisely's, without the folders ann and img beside it", "export the whole project"),
    (r".*\.json\.(gz|bz2|xz)", b"", "a packed JSON", "unpack it, as with gunzip"),
    (r".*\.jsonl", b"<loc_?\\d+>", "PaliGemma's or Florence-2's form", COCO_OR),
    (r".*\.(csv|tsv)", rb"^[^\n]*\b(PredictionString|annotations)\b",
     "a table with all boxes of an image in one cell",
     f"write a row for each box, with columns such as {TABLE}"),
    (r"(object_ann|sample_data)\.json", rb'"(sample_data|calibrated_sensor)_token"',
     "a table of nuImages or nuScenes, which refers to others",
     "convert to COCO with its own tools"),
    (r".*\.jsonl?", rb'"(box_2d|bbox_2d)"',
     "the answer of a language model, with boxes of 0–1000",
     "write them in pixels, as COCO or as a table"),
    (r".*\.(xlsx?|ods)", b"", "a spreadsheet", f"save it as CSV with columns such as {TABLE}"),
    (r".*\.vott", b"", "VoTT's project", "export it as VoTT JSON, CSV or VOC"),
    (r".*\.json", rb'^\s*\[\s*\{[^}]*"score"',
     "results of a detector, not annotations",
     "give the annotations as --data; val --predictions evaluates results"),
    (r".*\.jsonl", b"", "a list of JSON lines", COCO_OR),
    (r".*\.json", rb"^\s*\[\s*\{.*\"(data|image)\"",
     "Label Studio's own form, without boxes", "export as COCO or YOLO instead"),
)
# fmt: on
"""File name, pattern in its head, format, and advice: formats recognised but not read."""


def not_known(given: Path, sought: str) -> str:
    """The message for an unknown path: the files searched for, its content, and advice."""
    if given.is_file() and given.name.lower().endswith(ARCHIVES):
        return f"{given} is packed in a form that is not read.{UNPACK}"
    if given.is_file():
        return (
            f"{given} is a file that is no data set; give a folder, a data.yaml, a COCO json, or a "
            f"zip of these.{_known_format(given.parent, [given.name])}"
        )
    names = sorted(each.name + "/" * each.is_dir() for each in given.iterdir())
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    there = f"There is: {shown}.{_advice(given, names)}" if names else "The folder is empty."
    return shortened(f"{given} has no annotations that are known. Looked for: {sought}. {there}")


def _advice(folder: Path, names: Sequence[str]) -> str:
    """Advice on how to open the files ``names`` in ``folder``."""
    jsons = [name for name in names if name.endswith(".json")]
    if foreign := _known_format(folder, jsons or names):
        return foreign
    archive = next((name for name in names if name.lower().endswith(ARCHIVES)), None)
    table = next((name for name in names if name.lower().endswith((".csv", ".tsv"))), None)
    if jsons:
        return f" If {jsons[0]} is COCO's: --annotations {folder / jsons[0]} --images {folder}"
    if archive:
        zips = [name for name in names if name.lower().endswith(".zip")]
        if len(zips) > 1:
            return " Unpack the zips there, or give one of them if it holds the whole data set."
        return " The zip holds no data set: unpack it there." if zips else UNPACK
    if table:
        return f" {table} lists no boxes by columns such as {TABLE}: export as COCO, YOLO or VOC."
    every = (file for _, _, files in os.walk(folder) for file in files if file[0] != ".")
    files = list(islice(every, MOST_FILES))
    if files and all(Path(file).suffix.lower() in IMAGE_SUFFIXES for file in files):
        return " They are images without boxes: label them first."
    if any(Path(name).suffix.lower() in OTHER_SUFFIXES for name in names):
        return " Images in a format that is not decoded lie there: convert them to PNG or JPEG."
    return ""


def _known_format(folder: Path, names: Sequence[str]) -> str:
    """Format and advice for a file of ``FOREIGN`` in ``folder`` or the folders in it; or ""."""
    below = [f"{name}{file.name}" for name in names[:20] if name.endswith("/")
             for file in sorted((folder / name).iterdir())[:20]]  # fmt: skip
    for pattern, sign, form, way in FOREIGN:
        for name in (*names, *below):
            if re.fullmatch(pattern, Path(name).name, re.IGNORECASE) and (
                not sign or re.search(sign, head_of(folder / name), re.DOTALL)
            ):
                return f" {name} is {form}: {way}."
    return ""
