"""Detections in the formats of labelling tools and tables."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from dabdetr.files import csv_text
from dabdetr.text import json_text

if TYPE_CHECKING:
    from dabdetr.structures.detections import Detections

_COLUMNS = ("source", "frame", "name", "label", "score", "x0", "y0", "x1", "y1", "query")
_CONTROL = dict.fromkeys(range(32), " ") | dict.fromkeys((0xFFFE, 0xFFFF), " ")


def yolo_lines(found: Detections, scores: bool = False) -> str:
    """A line for each object: label, centre, width and height, 0–1 of the image, then its score.

    Boxes are clipped to the image; six digits, as YOLO's tools write them.
    """
    height, width = found.size
    boxes = found.clipped().boxes.astype(float) / (width, height, width, height)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    lines = []
    for label, score, numbers in zip(
        found.labels, found.scores, np.concatenate((centres, sides), 1), strict=True
    ):
        words = [str(int(label)), *(f"{value:.6f}" for value in numbers)]
        lines.append(" ".join([*words, f"{score:.6f}"] if scores else words) + "\n")
    return "".join(lines)


def columns(tracked: bool) -> tuple[str, ...]:
    """Columns of a table of detections; boxes are in pixels of the original image."""
    return (*_COLUMNS, "track") if tracked else _COLUMNS


def rows(found: Detections) -> list[tuple[Any, ...]]:
    """A tuple for each object, with the ``columns``."""
    tracks = [()] * len(found) if found.tracks is None else [(int(each),) for each in found.tracks]
    return [
        (
            *(found.source, found.frame, found.names[label], int(label), float(score)),
            *(*box, int(query), *track),
        )
        for box, score, label, query, track in zip(
            found.boxes.astype(float).tolist(),
            found.scores,
            found.labels,
            found.queries,
            tracks,
            strict=True,
        )
    ]


def file_content(found: Detections, path: Path, image: Any) -> bytes:
    """The content of the file that ``Detections.save`` writes; ValueError for an unknown suffix."""
    ending = path.suffix.lower()
    if ending == ".json":
        return (json_text(found.to_dict(), indent=1) + "\n").encode()
    if ending == ".txt":
        return yolo_lines(found, scores=True).encode()
    if ending == ".csv":
        return csv_text([columns(found.tracks is not None), *rows(found)]).encode()
    format = Image.registered_extensions().get(ending)
    if format not in Image.SAVE:
        raise ValueError(
            f"{path} should end in .png, .jpg or another image's ending, .json, .txt or .csv"
        )
    drawn = io.BytesIO()
    found.plot(image).save(drawn, format)
    return drawn.getvalue()


def label_studio_task(
    found: Detections, image: str | None, from_name: str, to_name: str, version: str
) -> dict[str, Any]:
    """A task of Label Studio with predictions; boxes are in percent of the image."""
    height, width = found.size
    percent = found.clipped().boxes.astype(float) / (width, height, width, height) * 100
    result = []
    place = found.source if image is None else image
    for number, ((x0, y0, x1, y1), score, label) in enumerate(
        zip(percent.tolist(), found.scores, found.labels, strict=True)
    ):
        key = hashlib.sha1(f"{place}:{number}".encode(errors="replace"), usedforsecurity=False)
        result.append(
            {
                "id": key.hexdigest()[:10],
                "type": "rectanglelabels",
                "from_name": from_name,
                "to_name": to_name,
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "score": float(score),
                "value": {
                    "x": x0,
                    "y": y0,
                    "width": x1 - x0,
                    "height": y1 - y0,
                    "rotation": 0,
                    "rectanglelabels": [found.names[label]],
                },
            }
        )
    best = float(np.mean(found.scores)) if len(found) else 0.0
    prediction = {"model_version": version, "score": best, "result": result}
    return {"data": {"image": place}, "predictions": [prediction]}


def cvat_document(every: Iterable[Detections]) -> str:
    """XML in CVAT's format "CVAT for images 1.1", with the images in order."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    for number, found in enumerate(every):
        height, width = found.size
        image = ElementTree.SubElement(
            root,
            "image",
            id=str(number),
            name=_xml_text(Path(found.source.replace("\\", "/")).name),
            width=str(width),
            height=str(height),
        )
        for box, label in zip(found.clipped().boxes.tolist(), found.labels, strict=True):
            edges = zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True)
            about = {"label": _xml_text(found.names[label]), "source": "auto", "occluded": "0"}
            about |= {edge: f"{value:.3f}" for edge, value in edges}
            ElementTree.SubElement(image, "box", about | {"z_order": "0"})
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def _xml_text(text: str) -> str:
    """The text without characters that XML 1.0 does not allow."""
    return text.translate(_CONTROL).encode("utf-8", "replace").decode()


def fiftyone_labels(names: Sequence[str], every: dict[str, Detections]) -> dict[str, Any]:
    """FiftyOneImageDetectionDataset's labels.json; the keys of ``every`` are the images' names."""
    labels: dict[str, list[dict[str, Any]]] = {}
    for key, found in every.items():
        height, width = found.size
        boxes = found.clipped().boxes.astype(float) / (width, height, width, height)
        labels[key] = [
            {
                "label": found.names[label],
                "bounding_box": [x0, y0, x1 - x0, y1 - y0],
                "confidence": float(score),
            }
            for (x0, y0, x1, y1), score, label in zip(
                boxes.tolist(), found.scores, found.labels, strict=True
            )
        ]
    return {"classes": list(names), "labels": labels}
