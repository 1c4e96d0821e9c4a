"""What each part of `dab-lite` is worth: trained without it, everything else alike.

    python -m experiments.lite OUT.json --data ../shared/data/bccd --seeds 42 43 44 --jobs 2

Every training starts from the same weights (``--start``) and sees as many images. Reported are AP
and AP50 on the last split the data have (test, else val); duplicates, which are the detections that
suppression at IoU 0.7 would remove, for each 100 objects at the threshold with the best F1; what
suppression would add to AP50; and the milliseconds of training an image on one thread. What
OUT.json holds already is not trained again. ``--keep`` names a folder for the weights.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from experiments.tricks import TRICKS

Row = dict[str, Any]

PARTS: dict[str, tuple[str, ...]] = {
    "dab-lite": (),
    "learned queries, none from the encoder": (
        "model.queries={kind: learned, count: 100, content: learned, start: uniform_small}",
    ),
    "relation of boxes in self-attention": ("model.decoder.relation=true",),
    "no head that removes duplicates": ("model.decoder.duplicate_removal=false",),
    "relation of boxes in place of that head": (
        "model.decoder.relation=true",
        "model.decoder.duplicate_removal=false",
    ),
    "focal loss": ("loss.classification=focal", "loss.gamma=2"),
    "quality loss": ("loss.classification=quality", "loss.gamma=2"),
    "no denoising": ("model.denoising=null",),
    "look forward once": ("model.decoder.look_forward_twice=false",),
    "proposals may start as twins": ("model.queries.distinct=false",),
    "proposals ranked by class": ("model.queries.rank=classes",),
    "class heads start alike": ("training.class_start=random",),
    "a box head for each layer": ("model.box_head_per_layer=true",),
    "encoder layer for all levels": ("model.encoder.skip_levels=0",),
    "no encoder layer": ("model.encoder.layers=0",),
    "two encoder layers": ("model.encoder.layers=2",),
    "levels of strides 16 and 32 alone": (
        "model.backbone.strides=[16, 32]",
        "model.encoder.levels=2",
        "model.encoder.skip_levels=0",
    ),
    "two decoder layers": ("model.decoder.layers=2",),
    "six decoder layers": ("model.decoder.layers=6",),
    "50 queries": ("model.queries.count=50",),
    "200 queries": ("model.queries.count=200",),
    "whole body trained": ("model.backbone.freeze_stride=2",),
    "body trained from stride 8 on": ("model.backbone.freeze_stride=8",),
    "no average of weights": ("training.ema=null",),
    "warm-up of 200 updates": ("training.warmup=200",),
    "100 queries of denoising": ("model.denoising.number=100",),
    "50 groups of denoising": ("model.denoising.number=25",),
    "boxes of denoising twice as far": ("model.denoising.box_noise=2",),
    "no crops": ("augment.crop=0",),
    "no change of colour": ("augment.colour=0",),
    "no clipping of gradients": ("training.clip=0",),
    "half the rate": ("training.lr=8e-4",),
    "twice the rate": ("training.lr=3.2e-3",),
    "the body at 8e-5": ("training.backbone_lr=8e-5",),
    "the body at 4e-4": ("training.backbone_lr=4e-4",),
    "the body at 8e-4": ("training.backbone_lr=8e-4",),
    "classes of denoising at random": ("model.denoising.label_noise=1",),
    "batches of 8": ("training.batch=8", "training.effective_batch=8", "training.lr=1.1e-3"),
    "shorter side 320": ("image.size=320", "image.max_size=448", "augment.sizes=[288, 320, 352]"),
    **dict.fromkeys(TRICKS, ()),
}
"""Changes of the config by what is missing or different."""


def run(
    part: str,
    data: str,
    seed: int,
    images: int,
    start: str,
    device: str,
    precision: str,
    keep: Path | None,
) -> Row:
    """Train and measure; the weights are forgotten unless ``keep`` is a folder for them."""
    import torch

    from dabdetr import evaluate, train
    from dabdetr.data.layouts import open_data
    from dabdetr.evaluation.evaluate import SUPPRESSION, suppression_gain
    from dabdetr.evaluation.judged import default_limits

    torch.set_num_threads(1)
    fixed = f"training.start={start}", f"training.precision={precision}"
    trick = TRICKS.get(part, nullcontext)
    with trick(), tempfile.TemporaryDirectory() as folder:
        of_epoch = len(open_data(data, "train"))
        epochs = max(1, round(images / of_epoch))
        done = train(
            data,
            "dab-lite",
            device=device,
            project=folder,
            name="run",
            overrides=[*fixed, f"training.seed={seed}", *PARTS[part]],
            epochs=epochs,
            val_every=epochs,
            report=False,
            quiet=True,
        )
        if keep is not None:
            name = f"{part} {Path(data).name} {seed}".replace(" ", "-")
            shutil.copy(done.weights, keep / f"{name}.safetensors")
        split = "test" if (Path(data) / "test").is_dir() else "val"
        measured = open_data(data, split)
        found = evaluate(done.weights, measured, device=device)
        limits = default_limits(measured, found)
        shown = [each.best_of_query().above(limits) for each in found.detections]
        twins = sum(len(each) - len(each.without_overlaps(SUPPRESSION)) for each in shown)
        objects = sum(int((~measured.record(at).crowd).sum()) for at in range(len(measured)))
        seconds = sum(each["seconds"] or 0.0 for each in done.rows)
        row = {"part": part, "data": Path(data).name, "seed": seed, "epochs": epochs}
        row |= {"start": start, "device": device, "precision": precision, "split": split}
        row |= {"AP": found.ap, "AP50": found.ap50, "duplicates": 100 * twins / objects}
        row |= {"suppression": suppression_gain(measured, found)}
        return row | {"ms": 1000 * seconds / (epochs * of_epoch)}


COLUMNS = {"AP": 3, "AP50": 3, "duplicates": 1, "suppression": 3, "ms": 0}
"""Names of numbers in a row, and the digits shown after the point."""


def table(rows: Sequence[Row]) -> str:
    """A line for each part and data set: means over the seeds, and their spread."""
    lines = [
        "| data | | seeds | AP | AP50 | duplicates of 100 objects | suppression would add | ms |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for data, part in product(dict.fromkeys(row["data"] for row in rows), PARTS):
        own = [row for row in rows if row["data"] == data and row["part"] == part]
        if not own:
            continue
        cells = []
        for name, digits in COLUMNS.items():
            values = [row[name] for row in own]
            half = (max(values) - min(values)) / 2
            spread = f" ± {half:.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.{digits}f}{spread}")
        lines.append(f"| {data} | {part} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", nargs="+", required=True, help="data folders")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[42])
    parser.add_argument("--images", type=int, default=6000, help="that each training sees")
    parser.add_argument("--start", default="imagenet", help="weights; see training.start")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", help="of training; see training.precision")
    parser.add_argument("--keep", type=Path, help="a folder for the weights")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    given = parser.parse_args()
    rows: list[Row] = json.loads(given.out.read_text()) if given.out.exists() else []
    there = {(row["part"], row["data"], row["seed"]) for row in rows}
    wanted = [
        (part, data, seed)
        for seed, data, part in product(given.seeds, given.data, given.parts)
        if (part, Path(data).name, seed) not in there
    ]
    how = given.images, given.start, given.device, given.precision, given.keep
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.jobs, context) as pool:
        jobs = {pool.submit(run, *each, *how): each for each in wanted}
        for job in as_completed(jobs):
            if (error := job.exception()) is not None:
                print(f"{jobs[job]}: {error}", flush=True)
                continue
            rows.append(job.result())
            given.out.write_text(json.dumps(rows, indent=1))
            print(json.dumps(rows[-1]), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
