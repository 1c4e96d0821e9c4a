"""Explain pages of chosen errors, one for each image, that open at a query and a layer."""

from __future__ import annotations

import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from dabdetr.evaluation.error_report import ErrorReport
from dabdetr.explain.explanation import explain
from dabdetr.explain.page import write_page
from dabdetr.inference.torch_runtime import TorchRuntime
from dabdetr.report.page import PAGE

FOLDER = "errors"
"""The pages' folder beside a report."""


def write_pages(runtime: TorchRuntime, why: ErrorReport, folder: Path) -> dict[int, str]:
    """Write ``errors/NNNNNN.html`` beside the report of ``folder`` for the images of its gallery.

    The result is each error's address, relative to ``folder``, with its query and layer. Errors
    without a query have no page, nor have images that cannot be read. Pages of an earlier report
    go.
    """
    data, errors, own_folder = why.data, why.diagnosed.errors, folder / FOLDER
    of_image: dict[int, list[int]] = defaultdict(list)
    for at in why.chosen:
        if errors[at].query is not None:
            of_image[errors[at].image].append(at)
    if own_folder.is_dir():
        shutil.rmtree(own_folder)
    if of_image:
        own_folder.mkdir()
    labels = [runtime.names.index(name) for name in data.names]
    addresses: dict[int, str] = {}
    for index, own in of_image.items():
        record, name = data.record(index), f"{why.places[index]:06d}.html"
        try:
            (seen,) = explain(runtime, data.image(index))
        except (OSError, ValueError):
            continue
        real = ~record.crowd
        objects = [labels[label] for label in record.labels[real]]
        seen = replace(seen, detections=replace(seen.detections, source=record.file))
        seen = seen.with_truth(record.boxes[real], objects)
        queries = {q for at in own for q in (errors[at].query, errors[at].other) if q is not None}
        back = ("← report", f"../{PAGE}#errors")
        write_page(seen, own_folder / name, [back], sorted(queries))
        for at in own:
            place = f"query={errors[at].query}&layer={errors[at].layer}"
            addresses[at] = f"{FOLDER}/{name}#{place}"
    return addresses
