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

from dabdetr.data import json_forms, line_forms
from dabdetr.data.box_formats import BoxFormat
from dabdetr.data.entries import Read, by_whole, entry_splits, open_files
from dabdetr.data.json_keys import Keys
from dabdetr.data.locate import folders_in
from dabdetr.data.records import Open
from dabdetr.data.split_names import DEFAULT, usual_word
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


def _keyed(names: str, sign: bytes, keys: Keys, *, many: bool = False) -> Form:
    """A form whose boxes are under fixed keys (see ``json_keys``)."""
    return Form(names, sign, keys.read, keys.order, many)


LIST = rb"^\s*\[\s*\{"
JSON, DEEP_JSON, DEEP_JSONL = r"[^/]*\.json", r"(.*/)?[^/]*\.json", r"(.*/)?[^/]*\.jsonl"
XYWH, LTWH = ("x", "y", "w", "h"), ("left", "top", "width", "height")
LONG = ("x", "y", "width", "height")
# fmt: off
FORMS: dict[str, Form] = {
    "VIA": Form(
        r"[^/]*\.(json|csv)",
        rb'"_via_|region_shape_attributes|# CSV_HEADER = metadata_id|"metadata".*"fname"'
        rb'|"fname".*"metadata"|"regions".*"filename"|"filename".*"regions"',
        via, "xyxy",
    ),
    "CVAT": Form(
        r"[^/]*\.xml", rb"<annotations[\s>].*<(image|track)[\s>]", line_forms.cvat, "xyxy",
    ),
    "CreateML": _keyed(DEEP_JSON, LIST + rb'.*"coordinates"', Keys(
        "cxcywh", ("image", "imagefilename", "filename"), ("annotations.*", "annotation.*"),
        "label", "coordinates", LONG, images="*",
    ), many=True),
    "Label Studio": Form(
        r"[^/]*\.(json|csv)",
        rb'^\s*(\[\s*\{|[\w,]+[\r\n]).*"(rectangle|polygon|brush|ellipse)labels"',
        json_forms.label_studio, "xywh-percent",
    ),
    "BDD100K": Form(DEEP_JSON, rb'"(box2d|poly2d)"', json_forms.bdd, "xyxy", many=True),
    "Supervisely": Form(
        r"(.*/)?ann/[^/]*\.json", rb'"(objects|size)"', json_forms.supervisely, "xyxy", many=True,
    ),
    "FiftyOne": Form(
        JSON, rb'"labels"\s*:\s*\{.*"bounding_box"\s*:\s*\[', json_forms.fiftyone, "xywh-relative",
    ),
    "VoTT": _keyed(JSON, rb'"boundingBox".*"regions"|"regions".*"boundingBox"', Keys(
        "xywh", ("asset.name", "asset.path"), "regions.*", "tags.*", "boundingBox", LTWH,
        images=("assets.*", ""), size=("asset.size.width", "asset.size.height"),
    )),
    "Hugging Face": Form(
        r"(.*/)?metadata\.(jsonl|csv)",
        rb"^(?=.*\bfile_name\b).*\b(objects|b?box(es)?)\b.*[\[{]",
        json_forms.hugging_face, "xywh",
    ),
    "NDJSON of Ultralytics": Form(
        r"[^/]*\.ndjson", rb'"type"\s*:\s*"(dataset|image)"',
        json_forms.ultralytics, "cxcywh-relative",
    ),
    "Labelbox": _keyed(r"[^/]*\.(nd)?json", rb'"data_row"|"Labeled Data"', Keys(
        "xywh", ("data_row.external_id", "External ID", "data_row.row_data", "Labeled Data"),
        ("projects.?.labels.-1.annotations.objects.*", "Label.objects.*"),
        ("name", "title", "value"), ("bounding_box", "bbox"), LTWH, images="*",
        kind="annotation_kind", sets="projects.*.labels.*",
        size=("media_attributes.width", "media_attributes.height"),
    )),
    "SageMaker": Form(
        r"(.*/)?[^/]*\.(manifest|jsonl?)", rb'"source-ref"', json_forms.sagemaker, "xywh",
    ),
    "MOT": Form(
        r"(.*/)?gt/gt\.txt", rb"^\s*\d+\s*,\s*-?\d+\s*,", line_forms.mot, "xywh", many=True,
    ),
    "WIDER FACE": Form(
        r"(.*/)?[^/]*bbx_gt[^/]*\.txt", rb"^\S[^\n]*\.\w+\s*\n\s*\d+\s*\n",
        line_forms.wider, "xywh",
    ),
    "keras-yolo3": Form(
        r"(.*/)?[^/]*\.txt", rb"^\S[^\n]*\.\w{3,4} \d+,\d+,\d+,\d+,\d+\s",
        line_forms.keras_yolo, "xyxy",
    ),
    "V7": _keyed(
        DEEP_JSON, rb'"(slots|original_filename)".*"annotations"|"annotations".*"slots"', Keys(
        "xywh", ("item.name", "image.original_filename", "image.filename"), "annotations.*",
        "name", "bounding_box", XYWH, outline=("polygon.path", "polygon.paths"),
        size=(("item.slots.*.width", "image.width"), ("item.slots.*.height", "image.height")),
    ), many=True),
    "Scale": _keyed(JSON, rb'"task_id".*"annotations"', Keys(
        "xywh", ("params.attachment", "metadata.filename"), "response.annotations.*", "label", "",
        LTWH, images="*",
    )),
    "Encord": _keyed(JSON, rb'"data_units"', Keys(
        "xywh-relative", "data_title", "labels.objects.*", ("name", "value"), "boundingBox", XYWH,
        images=("*.data_units.*", "data_units.*"),
    )),
    "Kili": _keyed(JSON, rb'"normalizedVertices"', Keys(
        "xyxy-relative", ("externalId", "external_id"),
        ("labels.-1.jsonResponse.*.annotations.*", "latestLabel.jsonResponse.*.annotations.*"),
        "categories.*.name", "boundingPoly.*.normalizedVertices", images="*",
    )),
    "Hasty": _keyed(JSON, rb'"label_classes".*"image_name"', Keys(
        "xyxy", "image_name", "labels.*", "class_name", "bbox", images="images.*",
    )),
    "Dataloop": _keyed(DEEP_JSON, rb'"datasetId".*"annotations"', Keys(
        "xyxy", ("filename", "name"), "annotations.*", "label", "coordinates",
        size=("metadata.system.width", "metadata.system.height"),
    ), many=True),
    "Custom Vision": _keyed(JSON, rb'"regions".*"tagName"', Keys(
        "xywh-relative", ("originalImageUri", "id"), "regions.*", "tagName", "", LTWH, images="*",
    )),
    "Azure ML": _keyed(DEEP_JSONL, rb'"image_url".*"topX"', Keys(
        "xyxy-relative", "image_url", "label.*", "label", "",
        ("topX", "topY", "bottomX", "bottomY"), images="*",
    )),
    "Vertex AI": _keyed(DEEP_JSONL, rb'"imageGcsUri".*"boundingBox', Keys(
        "xyxy-relative", "imageGcsUri", "boundingBoxAnnotations.*", "displayName", "",
        ("xMin", "yMin", "xMax", "yMax"), images="*",
        split="dataItemResourceLabels.aiplatform\\.googleapis\\.com/ml_use",
    )),
    "Prodigy": _keyed(DEEP_JSONL, rb'"image".*"spans".*"(width|points)"', Keys(
        "xywh", ("path", "meta.file", "image"), "spans.*", "label", "", LONG, images="*",
    )),
    "CrowdHuman": _keyed(r"(.*/)?[^/]*\.odgt", rb'"gtboxes"', Keys(
        "xywh", "ID", "gtboxes.*", "tag", "fbox", images="*", unlike=("extra.ignore", "1"),
    )),
    "CityPersons": _keyed(r"(.*/)?[^/]*_gtBbox\w*\.json", rb'"objects"', Keys(
        "xywh", "", "objects.*", "label", "bbox", size=("imgWidth", "imgHeight"),
        unlike=("label", "ignore"),
    ), many=True),
    "Cityscapes": _keyed(r"(.*/)?[^/]*_polygons\.json", rb'"objects"', Keys(
        "xyxy", "", "objects.*", "label", "polygon", size=("imgWidth", "imgHeight"),
    ), many=True),
    "xView": _keyed(r"(.*/)?[^/]*\.geojson", rb'"bounds_imcoords"', Keys(
        "xyxy", "properties.image_id", "", "properties.type_id", "properties.bounds_imcoords",
        images="features.*", kind="properties.none",
    )),
    "Sloth": _keyed(JSON, LIST + rb'.*"class"\s*:\s*"image"', Keys(
        "xywh", "filename", "annotations.*", "class", "", LONG, images="*",
    )),
    "SuperAnnotate": _keyed(r"(.*/)?[^/]*(\.\w{3,4}|___objects)\.json", rb'"instances"', Keys(
        "xyxy", "metadata.name", "instances.*", "className", "points", ("x1", "y1", "x2", "y2"),
        size=("metadata.width", "metadata.height"),
    ), many=True),
    "Dataturks": _keyed(JSON, rb'"content".*"annotation"', Keys(
        "xyxy-relative", "content", "annotation.*", "label.*", "points", images="*",
    )),
    "Mapillary's signs": _keyed(DEEP_JSON, rb'"ispano"', Keys(
        "xyxy", "", "objects.*", "label", "bbox", ("xmin", "ymin", "xmax", "ymax"),
    ), many=True),
    "FiftyOne's data set": _keyed(r"samples\.json", rb'"samples".*"filepath"', Keys(
        "xywh-relative", "filepath", ("ground_truth.detections.*", "?.detections.*"), "label",
        "bounding_box", images="samples.*", split="tags.*", kind="none", sets="*.detections",
        size=("metadata.width", "metadata.height"),
    )),
    "rows of images": Form(
        r"[^/]*\.(jsonl?|ndjson)",
        rb'^\s*(\[\s*)?\{(?=.*"(file_?name|image|im(age|g)_path|img|path|name)"\s*:\s*")'
        rb'.*"(bbox(es)?|boxes)"\s*:\s*\[',
        json_forms.image_rows, "xywh",
    ),
    "boxes by image": Form(
        JSON,
        rb'^\s*\{\s*"[^"]+\.(jpe?g|png|bmp|webp|tiff?)"\s*:\s*[\[{].*"(bbox(es)?|boxes)"\s*:\s*\[',
        json_forms.image_mapping, "xywh",
    ),
}
# fmt: on
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
    for each in folders_in(folder) if depth else ():
        yield from _files(each, depth - 1)


def _by_split(form: Form, base: Path, files: list[Path]) -> dict[str, Open]:
    opener = partial(open_files, form.read, form.box_format, base)
    if len(files) == 1 and (named := entry_splits(form.read, base, files[0])):
        return {name: partial(opener, files, name, name) for name in named}
    if form.many:
        splits = [_split_of(file, base) for file in files]
        if DEFAULT in splits:  # split words in some image names are no evidence then
            splits = [_split_of(file.parent / "_", base) for file in files]
        parts: dict[str, list[Path]] = {}
        for file, split in zip(files, splits, strict=True):
            parts.setdefault(split, []).append(file)
        return {name: partial(opener, group, "", "") for name, group in parts.items()}
    found: dict[str, Open] = {}
    for name, group in by_whole(files).items():
        split = _split_of(group[0].with_name(f"{name}.json"), base)
        key = name if split in found else split
        found[key] = partial(opener, group, "", "", joined=len(group) > 1)
    return found


def _split_of(file: Path, base: Path) -> str:
    """The split in the name of the file or of the nearest folder that names one."""
    names = (file.stem, *reversed(file.relative_to(base).parts[:-1]))
    return next(filter(None, map(usual_word, names)), DEFAULT)
