"""Annotation files of tools that list images with their boxes: one table of all these forms.

A form is recognised by its file names and a pattern in the heads of the files; its reader yields
the boxes as ``Entry``s. Splits come from the entries, otherwise from file and folder names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dabdetr.data import json_forms, json_keys, line_forms
from dabdetr.data.box_formats import BoxFormat
from dabdetr.data.entries import Read, entry_splits, open_files
from dabdetr.data.locate import usual_word
from dabdetr.data.records import Open
from dabdetr.data.textfiles import head_of
from dabdetr.data.via import via

MOST = 50
"""Most files inspected of a form, and most files read of a form without ``many``."""
JSONS = (".json", ".jsonl", ".ndjson", ".odgt", ".geojson")
DEPTH = 4
"""Levels of folders below the data set's in which files are searched."""


@dataclass(frozen=True)
class Form:
    """One form of annotation files.

    names       pattern of the file's path relative to the data set's folder
    sign        pattern in the head of the file
    read        reader of one file
    box_format  box format of the entries
    many        a data set has many such files, one for each image or sequence
    """

    names: str
    sign: bytes
    read: Read
    box_format: BoxFormat
    many: bool = False

    def knows(self, path: str, file: Path) -> bool:
        """Whether ``file``, at ``path`` in the data set, is of this form."""
        named = re.fullmatch(self.names, path, re.IGNORECASE)
        return bool(named) and re.search(self.sign, head_of(file), re.DOTALL) is not None


def _keyed(names: str, sign: bytes, keys: json_keys.Keys, *, many: bool = False) -> Form:
    """A form whose boxes are under fixed keys (see ``json_keys``)."""
    return Form(names, sign, json_keys.reader(keys), keys.order, many)


LIST = rb"^\s*\[\s*\{"
FORMS: dict[str, Form] = {
    "VIA": Form(
        r"[^/]*\.(json|csv)",
        rb'"_via_|region_shape_attributes|# CSV_HEADER = metadata_id|"metadata".*"fname"'
        rb'|"fname".*"metadata"|"regions".*"filename"|"filename".*"regions"',
        via,
        "xyxy",
    ),
    "CVAT": Form(
        r"[^/]*\.xml", rb"<annotations[\s>].*<(image|track)[\s>]", line_forms.cvat, "xyxy"
    ),
    "CreateML": _keyed(
        r"(.*/)?[^/]*\.json", LIST + rb'.*"coordinates"', json_keys.CREATEML, many=True
    ),
    "Label Studio": Form(
        r"[^/]*\.(json|csv)",
        rb"^\s*(\[\s*\{|[\w,]+[\r\n])"
        rb'.*"(rectangle|polygon|brush|ellipse)labels"',
        json_forms.label_studio,
        "xywh-percent",
    ),
    "BDD100K": Form(r"(.*/)?[^/]*\.json", rb'"(box2d|poly2d)"', json_forms.bdd, "xyxy", many=True),
    "Supervisely": Form(
        r"(.*/)?ann/[^/]*\.json", rb'"(objects|size)"', json_forms.supervisely, "xyxy", many=True
    ),
    "FiftyOne": Form(
        r"[^/]*\.json",
        rb'"labels"\s*:\s*\{.*"bounding_box"\s*:\s*\[',
        json_forms.fiftyone,
        "xywh-relative",
    ),
    "VoTT": _keyed(
        r"[^/]*\.json", rb'"boundingBox".*"regions"|"regions".*"boundingBox"', json_keys.VOTT
    ),
    "Hugging Face": Form(
        r"(.*/)?metadata\.(jsonl|csv)",
        rb"^(?=.*\bfile_name\b).*\b(objects|b?box(es)?)\b.*[\[{]",
        json_forms.hugging_face,
        "xywh",
    ),
    "NDJSON of Ultralytics": Form(
        r"[^/]*\.ndjson",
        rb'"type"\s*:\s*"(dataset|image)"',
        json_forms.ultralytics,
        "cxcywh-relative",
    ),
    "Labelbox": _keyed(r"[^/]*\.(nd)?json", rb'"data_row"|"Labeled Data"', json_keys.LABELBOX),
    "SageMaker": Form(
        r"(.*/)?[^/]*\.(manifest|jsonl?)", rb'"source-ref"', json_forms.sagemaker, "xywh"
    ),
    "MOT": Form(
        r"(.*/)?gt/gt\.txt", rb"^\s*\d+\s*,\s*-?\d+\s*,", line_forms.mot, "xywh", many=True
    ),
    "WIDER FACE": Form(
        r"(.*/)?[^/]*bbx_gt[^/]*\.txt", rb"^\S[^\n]*\.\w+\s*\n\s*\d+\s*\n", line_forms.wider, "xywh"
    ),
    "keras-yolo3": Form(
        r"(.*/)?[^/]*\.txt",
        rb"^\S[^\n]*\.\w{3,4} \d+,\d+,\d+,\d+,\d+\s",
        line_forms.keras_yolo,
        "xyxy",
    ),
    "V7": _keyed(
        r"(.*/)?[^/]*\.json",
        rb'"(slots|original_filename)".*"annotations"|'
        rb'"annotations".*"slots"',
        json_keys.V7,
        many=True,
    ),
    "Scale": _keyed(r"[^/]*\.json", rb'"task_id".*"annotations"', json_keys.SCALE),
    "Encord": _keyed(r"[^/]*\.json", rb'"data_units"', json_keys.ENCORD),
    "Kili": _keyed(r"[^/]*\.json", rb'"normalizedVertices"', json_keys.KILI),
    "Hasty": _keyed(r"[^/]*\.json", rb'"label_classes".*"image_name"', json_keys.HASTY),
    "Dataloop": _keyed(
        r"(.*/)?[^/]*\.json", rb'"datasetId".*"annotations"', json_keys.DATALOOP, many=True
    ),
    "Custom Vision": _keyed(r"[^/]*\.json", rb'"regions".*"tagName"', json_keys.AZURE),
    "Azure ML": _keyed(r"(.*/)?[^/]*\.jsonl", rb'"image_url".*"topX"', json_keys.AZURE_LINES),
    "Vertex AI": _keyed(r"(.*/)?[^/]*\.jsonl", rb'"imageGcsUri".*"boundingBox', json_keys.VERTEX),
    "Prodigy": _keyed(
        r"(.*/)?[^/]*\.jsonl", rb'"image".*"spans".*"(width|points)"', json_keys.PRODIGY
    ),
    "CrowdHuman": _keyed(r"(.*/)?[^/]*\.odgt", rb'"gtboxes"', json_keys.CROWDHUMAN),
    "CityPersons": _keyed(
        r"(.*/)?[^/]*_gtBbox\w*\.json", rb'"objects"', json_keys.CITYPERSONS, many=True
    ),
    "Cityscapes": _keyed(
        r"(.*/)?[^/]*_polygons\.json", rb'"objects"', json_keys.CITYSCAPES, many=True
    ),
    "xView": _keyed(r"(.*/)?[^/]*\.geojson", rb'"bounds_imcoords"', json_keys.XVIEW),
    "Sloth": _keyed(r"[^/]*\.json", LIST + rb'.*"class"\s*:\s*"image"', json_keys.SLOTH),
    "SuperAnnotate": _keyed(
        r"(.*/)?[^/]*(\.\w{3,4}|___objects)\.json",
        rb'"instances"',
        json_keys.SUPERANNOTATE,
        many=True,
    ),
    "Dataturks": _keyed(r"[^/]*\.json", rb'"content".*"annotation"', json_keys.DATATURKS),
    "Mapillary's signs": _keyed(r"(.*/)?[^/]*\.json", rb'"ispano"', json_keys.SIGNS, many=True),
    "FiftyOne's data set": _keyed(r"samples\.json", rb'"samples".*"filepath"', json_keys.FIFTYONE),
    "rows of images": Form(
        r"[^/]*\.(jsonl?|ndjson)",
        rb'^\s*(\[\s*)?\{(?=.*"(file_?name|image|im(age|g)_path|img|path|name)"\s*:\s*")'
        rb'.*"(bbox(es)?|boxes)"\s*:\s*\[',
        json_forms.image_rows,
        "xywh",
    ),
}
"""Name → form. The first form that recognises a file is used."""


def find_forms(root: Path) -> dict[str, Open]:
    """Split → its opener, from the files of the first form that is found."""
    if not root.exists():
        return {}
    base = root.parent if root.is_file() else root
    given = [root] if root.is_file() else list(_files(root, DEPTH))
    paths = {file: file.relative_to(base).as_posix() for file in given}
    for form in FORMS.values():
        named = [f for f in given if re.fullmatch(form.names, paths[f], re.IGNORECASE)]
        if not any(form.knows(paths[file], file) for file in named[:MOST]):
            continue
        files = named if form.many else [f for f in named[:MOST] if form.knows(paths[f], f)]
        return _by_split(form, base, files)
    return {}


def _files(folder: Path, depth: int) -> Iterator[Path]:
    """Files that may be of a form, sorted by name, those directly in ``folder`` first."""
    inside = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    endings = (".xml", *JSONS, ".manifest", ".txt", ".csv")
    yield from (file for file in inside if file.suffix.lower() in endings and file.is_file())
    for each in inside:
        if depth and each.is_dir():
            yield from _files(each, depth - 1)


def _by_split(form: Form, base: Path, files: list[Path]) -> dict[str, Open]:
    opener = partial(open_files, form.read, form.box_format, base)
    if len(files) == 1 and (named := entry_splits(form.read, base, files[0])):
        return {name: partial(opener, files, name, name) for name in named}
    parts: dict[str, list[Path]] = {}
    splits = [_split_of(file, base) for file in files]
    if form.many and "default" in splits:  # split words in some image names are no evidence then
        splits = [_split_of(file.parent / "_", base) for file in files]
    for file, split in zip(files, splits, strict=True):
        name = split if form.many or split not in parts else file.stem
        parts.setdefault(name, []).append(file)
    return {name: partial(opener, group, "", "") for name, group in parts.items()}


def _split_of(file: Path, base: Path) -> str:
    """The split in the name of the file or of the nearest folder that names one."""
    names = (file.stem, *reversed(file.relative_to(base).parts[:-1]))
    return next(filter(None, map(usual_word, names)), "default")
