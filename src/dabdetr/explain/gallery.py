"""Explain pages of a report's errors, one for each image, with links to a query and a layer."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path

from dabdetr.evaluation.error_report import ErrorReport
from dabdetr.explain.explanation import explain_record
from dabdetr.explain.page import write_page
from dabdetr.inference.torch_runtime import TorchRuntime
from dabdetr.report.page import PAGE

FOLDER = "errors"
"""The subfolder of the pages in a report's folder."""


def write_pages(runtime: TorchRuntime, why: ErrorReport, folder: Path) -> dict[int, str]:
    """Write ``errors/NNNNNN.html`` in ``folder`` for the images of the report's gallery.

    Returns each error's address relative to ``folder``, with its query and layer. Errors without a
    query and images that cannot be read have no page. Pages of an earlier report are deleted.
    """
    data, errors, pages = why.data, why.diagnosed.errors, folder / FOLDER
    of_image: dict[int, list[int]] = defaultdict(list)
    for at in why.chosen:
        if errors[at].query is not None:
            of_image[errors[at].image].append(at)
    if pages.is_dir():
        shutil.rmtree(pages)
    if of_image:
        pages.mkdir()
    addresses: dict[int, str] = {}
    for index, indices in of_image.items():
        name = f"{why.places[index]:06d}.html"
        try:
            explanation = explain_record(runtime, data, index)
        except (OSError, ValueError):
            continue
        queries = {
            q for at in indices for q in (errors[at].query, errors[at].other) if q is not None
        }
        link = ("← report", f"../{PAGE}#errors")
        write_page(explanation, pages / name, [link], sorted(queries))
        for at in indices:
            place = f"query={errors[at].query}&layer={errors[at].layer}"
            addresses[at] = f"{FOLDER}/{name}#{place}"
    return addresses
