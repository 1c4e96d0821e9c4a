"""Explain pages of chosen errors, one for each image, that open at a query and a layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dabdetr.data.dataset import DetectionDataset
from dabdetr.evaluation.causes import Error
from dabdetr.explain.explanation import explain
from dabdetr.explain.page import write_page
from dabdetr.inference.torch_runtime import TorchRuntime


def write_pages(
    runtime: TorchRuntime,
    data: DetectionDataset,
    errors: Sequence[Error],
    chosen: Sequence[int],
    folder: Path,
    back: str,
) -> dict[int, str]:
    """Write ``folder``/NNNNNN.html for the images of the ``chosen`` errors.

    The result is each error's address, relative to the folder above, with its query and layer.
    Errors without a query have no page, nor have images that cannot be read. ``back`` is the
    address of the page that leads here.
    """
    of_image: dict[int, list[int]] = defaultdict(list)
    for at in chosen:
        if errors[at].query is not None:
            of_image[errors[at].image].append(at)
    if of_image:
        folder.mkdir()
    labels = [runtime.names.index(name) for name in data.names]
    addresses: dict[int, str] = {}
    for index, own in of_image.items():
        record, name = data.record(index), f"{index:06d}.html"
        try:
            (seen,) = explain(runtime, data.image(index))
        except (OSError, ValueError):
            continue
        real = ~record.crowd
        objects = [labels[label] for label in record.labels[real]]
        seen = replace(seen, detections=replace(seen.detections, source=record.file))
        seen = seen.with_truth(record.boxes[real], objects)
        queries = {q for at in own for q in (errors[at].query, errors[at].other) if q is not None}
        write_page(seen, folder / name, [("← report", back)], sorted(queries))
        for at in own:
            place = f"query={errors[at].query}&layer={errors[at].layer}"
            addresses[at] = f"{folder.name}/{name}#{place}"
    return addresses
