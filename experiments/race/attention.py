"""Where the race's models look: DETR, Conditional and DAB side by side, and numbers to it.

Weights are not kept with a ladder's record, so that what was measured of them once is: a table of
every run, and the images.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from experiments.race.claims import best_detr
from experiments.race.members import DETRS, title
from experiments.race.plan import RACE, Settings, data_at
from experiments.race.results import RaceResults, size_of

from dabdetr.compare.results import Result, Spread
from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.layouts import open_data, splits
from dabdetr.explain.attention_metrics import finders, measure
from dabdetr.explain.explanation import Explanation, explain
from dabdetr.explain.figures import comparison, save
from dabdetr.files import write_atomically
from dabdetr.predictor import Predictor

COLUMNS = ("DETR", "Conditional DETR", "DAB-DETR")
"""Of the comparison: DETR at its best rate, and the members in ``SHOWN``."""
SHOWN = ("conditional", "dab")
MEASURED = (*DETRS, *SHOWN, "dab-start", "no-size")
PARTS = ("position", "all")
NUMBERS = ("found", "inside", "by_chance", "centres", "width_fit", "height_fit")
IMAGES = 100
"""Of the test split (val where there is none), each model is measured on so many."""
KINDS = {"small": 0, "large": -1}
LEAST_IOU = 0.7
"""With an object, for a query to have found it well enough to be shown."""

Row = dict[str, str]


def look(folder: Path, results: RaceResults, size: int) -> list[Row]:
    """Rows of ``attention-SIZE.csv``: those that were there, and those of models not in it yet."""
    path = folder / f"attention-{size}.csv"
    rows = read_rows(path)
    known = {(row["rung"], row["seed"]) for row in rows}
    runs = [run for run in results.at(size).finished if run.member in MEASURED]
    unseen = [run for run in runs if (run.member, str(run.seed)) not in known]
    new = [run for run in unseen if _weights(folder, run)]
    if new:
        data = _data(folder, size)
        rows += [row for run in new for row in _measured(_weights(folder, run), run, data)]
        rows.sort(key=lambda row: (MEASURED.index(row["rung"]), row["seed"]))
        write_rows(path, rows)
        shown = [rung for rung in (best_detr(results, size), *SHOWN) if rung]
        _draw(folder, runs, shown, data, size)
    return rows


def table(rows: Sequence[Row]) -> list[list[str]]:
    """One line for each rung and part, its numbers as mean ± deviation over seeds."""
    head = ["member", "attention", "seeds", "objects found", "inside the box", "by chance",
            "centres a head", "fit of width", "fit of height"]  # fmt: skip
    lines = [head]
    for rung in dict.fromkeys(row["rung"] for row in rows):
        for part in PARTS:
            some = [row for row in rows if (row["rung"], row["part"]) == (rung, part)]
            found = [float(row["found"]) / max(float(row["objects"]), 1) for row in some]
            spreads = [Spread.of([float(row[name]) for row in some]) for name in NUMBERS[1:]]
            shown = [Spread.of(found).shown(2), *(spread.shown(2) for spread in spreads)]
            lines.append([title(rung), part, str(len(some)), *shown])
    return lines


def images(folder: Path, size: int) -> list[str]:
    """Names of the comparisons that are in ``folder``."""
    names = [image_name(size, kind) for kind in KINDS]
    return [name for name in names if (folder / name).is_file()]


def image_name(size: int, kind: str) -> str:
    """File of a comparison."""
    return f"attention-{kind}-{size}.png"


def read_rows(path: Path) -> list[Row]:
    """What was measured before; nothing where there is no such file."""
    if not path.is_file():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """As CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def _weights(folder: Path, run: Result) -> Path | None:
    path = folder / RACE / f"{run.member}-{size_of(run)}-{run.seed}" / "best.safetensors"
    return path if path.is_file() else None


def _data(folder: Path, size: int) -> DetectionDataset:
    name = data_at(Settings.load(folder).data, size)
    return open_data(name, "test" if "test" in splits(name) else "val")


def _measured(weights: Path | None, run: Result, data: DetectionDataset) -> list[Row]:
    assert weights is not None
    predictor, rows = Predictor(weights), []
    for part in PARTS:
        found = measure(predictor, data, part, most=IMAGES).to_dict()
        about = {"rung": run.member, "seed": str(run.seed), "part": part}
        rows.append(about | {name: f"{found[name]:.4g}" for name in ("objects", *NUMBERS)})
    return rows


def _draw(
    folder: Path, runs: Sequence[Result], shown: Sequence[str], data: DetectionDataset, size: int
) -> None:
    """The members ``shown`` on a small and a large object that all of them find."""
    first = {run.member: _weights(folder, run) for run in reversed(runs)}  # its lowest seed
    paths = [first.get(rung) for rung in shown]
    if None in paths or len(paths) < len(COLUMNS):
        return
    found = _in_common([Predictor(path) for path in paths if path], data)
    found.sort(key=lambda pair: float((pair[1][2:] - pair[1][:2]).prod()))
    kinds = list(KINDS.items())[-len(found) :] if found else []  # a single object is shown once
    for kind, place in kinds:
        explanations, box = found[place]
        save(comparison(explanations, box, COLUMNS), folder / image_name(size, kind), dpi=80)


def _in_common(
    predictors: Sequence[Predictor], data: DetectionDataset, most: int = 40
) -> list[tuple[list[Explanation], np.ndarray]]:
    """Objects of the first images that every model finds: explanations and the box in pixels."""
    found = []
    for index in range(min(most, len(data))):
        record = data.record(index)
        scale = np.array([record.width, record.height] * 2, np.float32)
        each = [next(explain(predictor, data.image(index))) for predictor in predictors]
        boxes = record.boxes[~record.crowd]
        by_model = [
            {tuple(box) for _, box in finders(one.trace.boxes[-1], boxes / scale, LEAST_IOU)}
            for one in each
        ]
        shared = set.intersection(*by_model) if by_model else set()
        found += [(each, np.array(box, np.float32) * scale) for box in sorted(shared)]
    return found
