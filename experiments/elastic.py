"""How a trained model fares with another number of queries, before and after tuning its anchors.

    OMP_NUM_THREADS=1 python experiments/elastic.py docs/elastic.json

The shipped ``scenes`` model (40 queries; taught on at most 10 digits a scene) looks at test scenes
of up to 60 digits, and of up to 10, with 20, 40, 80 and 160 queries, for each way of placing their
anchors; then again after a short training on scenes of up to 60 digits in which only anchors
change. Writes JSON, and the table beside it; rows that are in the JSON already stay.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import torch

from dabdetr.checkpoints.native import load_model
from dabdetr.checkpoints.resize import with_queries
from dabdetr.data.layouts import anchors, open_data
from dabdetr.data.loader import training_loader
from dabdetr.evaluation.evaluate import evaluate
from dabdetr.files import write_atomically
from dabdetr.model.detector import Detector
from dabdetr.training.losses import detection_loss
from dabdetr.training.optim import freeze, parameter_groups

MODEL = "scenes"
DENSE, USUAL = "scenes:objects=60", "scenes:objects=10"
INITS = {"keep": "keep", "grid": "grid", "kmeans": "kmeans:scenes:objects=60,count=500"}
RATE = 0.03


def measure(model: Detector, count: int) -> dict[str, float]:
    """AP and AP50 on ``count`` scenes of many digits, and AP on as many of few."""
    dense = evaluate(model, f"{DENSE},count={count}", "test", batch=8)
    usual = evaluate(model, f"{USUAL},count={count}", "test", batch=8)
    return {"AP": dense.ap, "AP50": dense.ap50, "AR": dense.numbers["AR100"], "AP few": usual.ap}


def tune(model: Detector, steps: int) -> Detector:
    """A copy after ``steps`` updates on new scenes of many digits in which only anchors change."""
    fixed = ["train_only=[queries.anchors]", f"lr={RATE}", "epochs=1", "batch=16"]
    tuned = copy.deepcopy(model)
    tuned.config = config = model.config.override([f"training.{value}" for value in fixed])
    freeze(tuned, config.training)
    tuned.train().backbone.eval()
    optimiser = torch.optim.AdamW(parameter_groups(tuned, config.training), weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    scenes = open_data(f"{DENSE},count={16 * steps},seed=7", "train")
    for images, targets in training_loader(scenes, config, seed=0, epoch=0):
        optimiser.zero_grad()
        detection_loss(tuned(images, targets), targets, config.loss)[0].backward()
        optimiser.step()
        schedule.step()
    return tuned.eval()


def table(rows: list[dict]) -> str:
    """Markdown: one line for each number of queries and way of placing them."""
    names = ("AP", "AP50", "AR", "AP few")
    head = ["queries", "anchors by", *names, *(f"tuned: {name}" for name in names)]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        cells = [f"{row[stage][name]:.3f}" for stage in ("before", "after") for name in names]
        lines.append([str(row["queries"]), row["init"], *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="a .json; the table goes beside it, as .md")
    parser.add_argument("--count", type=int, default=80, help="test scenes of each kind")
    parser.add_argument("--steps", type=int, default=30, help="updates of 16 scenes, in tuning")
    parser.add_argument("--queries", type=int, nargs="+", default=[20, 40, 80, 160])
    given = parser.parse_args()
    rows = json.loads(given.out.read_text()) if given.out.exists() else []
    own, started = load_model(MODEL).model, time.perf_counter()
    for queries in given.queries:
        for init, how in INITS.items():
            if (queries, init) in {(row["queries"], row["init"]) for row in rows}:
                continue
            model = with_queries(own, queries, anchors(how))
            row = {"queries": queries, "init": init, "before": measure(model, given.count)}
            row["after"] = measure(tune(model, given.steps), given.count)
            rows = sorted([*rows, row], key=lambda r: (r["queries"], list(INITS).index(r["init"])))
            print(table([row]).splitlines()[-1], f"{time.perf_counter() - started:.0f} s")
            write_atomically(given.out, json.dumps(rows, indent=1).encode())
            write_atomically(given.out.with_suffix(".md"), table(rows).encode())


if __name__ == "__main__":
    main()
