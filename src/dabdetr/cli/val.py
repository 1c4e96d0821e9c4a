"""`dabdetr val`: COCO's numbers for a model on a data set."""

from __future__ import annotations

from typing import Annotated

import typer

from dabdetr.cli.options import (
    Annotations,
    Coco,
    Device,
    Images,
    ImageSize,
    Json,
    MaxDet,
    Model,
    Queries,
    QueriesInit,
    Quiet,
    open_model,
)
from dabdetr.cli.output import console, print_json, refuse_to_overwrite, say


def val(
    model: Model,
    data: Annotated[str | None, typer.Option(help="A folder in COCO's layout, or scenes.")] = None,
    split: Annotated[str, typer.Option(help="Which part of the data.")] = "val",
    annotations: Annotations = None,
    images: Images = None,
    max_det: MaxDet = None,
    imgsz: ImageSize = None,
    queries: Queries = None,
    queries_init: QueriesInit = "keep",
    batch: Annotated[int, typer.Option(help="Pictures at a time.")] = 4,
    workers: Annotated[int, typer.Option(help="Processes that read pictures.")] = 0,
    device: Device = "auto",
    coco: Coco = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a model: COCO's twelve numbers, and those of every class."""
    from dabdetr.data.readers import open_data
    from dabdetr.evaluation.coco import evaluate

    refuse_to_overwrite(coco)
    truth = open_data(data, split, annotations, images)
    detector = open_model(model, device, imgsz, queries, queries_init)
    found = evaluate(
        detector, truth, batch=batch, max_det=max_det, workers=workers, progress=not quiet
    )
    if coco:
        found.save_results(coco)
        say(f"detections: {coco}", quiet)
    if as_json:
        print_json({"model": model, "data": truth.name, "split": truth.split, **found.to_dict()})
    elif not quiet:
        console().print(found.table())
