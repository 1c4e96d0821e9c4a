"""Planted faults found again: how many stand in the top tenth of an audit, and in its first 20.

    OMP_NUM_THREADS=1 python -m experiments.auditing --model blood-cells --data DATA --split test

One kind of fault at a time is planted in 5 % of the boxes; prints the table of ``docs/results.md``.
Boxes of other kinds and faults that the data have of themselves compete for the same places.
With ``--folds 3`` models are trained on the faulty labels, three for each kind, as
``dabdetr audit --folds 3`` does.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from experiments.asking import arguments

from dabdetr.asking.audit import FOUND, ranked
from dabdetr.asking.changed import Changed, Edit
from dabdetr.asking.folds import audit_out_of_fold
from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.layouts import open_data
from dabdetr.evaluation.suspicions import KINDS, Suspicion, habits, of_image
from dabdetr.predictor import Predictor
from dabdetr.structures.boxes import iou, shared_area

SHARE = 0.05
COVERED = 0.1
"""Share of a label on nothing that objects may cover."""
SMALLEST = 16
"""Pixels below which such a label is not made smaller."""
Planted = dict[int, list[np.ndarray]]
"""Image → boxes around which the fault lies."""


def plant(
    data: DetectionDataset, kind: str, rng: np.random.Generator
) -> tuple[DetectionDataset, Planted]:
    """The data with faults of one kind, and where they are."""
    places = [(i, row) for i in range(len(data)) for row in range(len(data.record(i).boxes))]
    chosen = rng.choice(len(places), max(1, round(SHARE * len(places))), replace=False)
    edits: dict[int, list[Edit]] = {}
    where: Planted = {}
    for index, row in (places[each] for each in chosen):
        record = data.record(index)
        box, label = record.boxes[row].astype(float), int(record.labels[row])
        size, limit = box[2:] - box[:2], np.tile((record.width, record.height), 2)
        if kind == "class":
            other = (label + rng.integers(1, len(data.names))) % len(data.names)
            edit = Edit(row, box.tolist(), int(other))
        elif kind == "loose":
            moved = box + np.tile(size * rng.choice([-1, 1], 2) * rng.uniform(0.25, 0.4, 2), 2)
            edit = Edit(row, moved.clip(0, limit).tolist())
            box = np.array(edit.box)
        elif kind == "missing":
            edit = Edit(row, None)
        elif kind == "duplicate":
            near = box + rng.uniform(-0.06, 0.06, 4) * np.tile(size, 2)
            edit = Edit(None, near.clip(0, limit).tolist(), label)
        else:
            box = _background(record.boxes, size, limit, rng)
            edit = Edit(None, box.tolist(), label)
        edits.setdefault(index, []).append(edit)
        where.setdefault(index, []).append(box)
    return Changed(data, edits), where


def _background(
    boxes: np.ndarray, size: np.ndarray, limit: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Where least of any object is, of 200 places; smaller where objects leave too little room."""
    while True:
        low = rng.uniform(0, 1, (200, 2)) * (limit[:2] - size).clip(1)
        places = np.concatenate((low, low + size), axis=1)
        covered = shared_area(places[:, None], boxes).sum(1) / size.prod()
        if covered.min() <= COVERED or size.min() < SMALLEST:
            return places[covered.argmin()]
        size = size * 0.8


def suspicions(
    data: DetectionDataset, predictor: Predictor, faulty: dict[str, DetectionDataset]
) -> dict[str, list[Suspicion]]:
    """The suspicions in each of several versions of the data, asked together image by image."""
    records = [[each.record(index) for each in faulty.values()] for index in range(len(data))]
    boxes = [np.concatenate([each.boxes for each in some]) for some in records]
    images = (data.image(index) for index in range(len(data)))
    asked = list(predictor.ask_all(images, boxes, conf=FOUND))
    found: dict[str, list[Suspicion]] = {}
    starts = [0] * len(data)
    for column, (kind, version) in enumerate(faulty.items()):
        own = [some[column] for some in records]
        ends = [start + len(record.boxes) for start, record in zip(starts, own, strict=True)]
        spans = zip(asked, starts, ends, strict=True)
        answered = [answers[start:end] for answers, start, end in spans]
        rows = zip(own, answered, habits(own, answered), strict=True)
        found[kind] = [
            each for index, row in enumerate(rows) for each in of_image(version, index, *row)
        ]
        starts = ends
    return found


def out_of_fold(data: DetectionDataset, folds: int) -> list[Suspicion]:
    """The suspicions of models that are trained on the other folds, faults included."""
    with TemporaryDirectory() as folder:
        found = audit_out_of_fold([data], folds, Path(folder), quiet=True)
        return [each for some in found for each in some]


def is_at(each: Suspicion, image: int, box: np.ndarray) -> bool:
    """Whether the suspicion is about this box of this image."""
    return each.image == image and bool(iou(np.array(each.box or each.answer), box) > 0.5)


def main() -> None:
    """Plant, audit, print."""
    parser = arguments(__doc__)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--folds", type=int, help="train so many models for each kind")
    args = parser.parse_args()
    data = open_data(args.data, args.split)
    kinds = [kind for kind in args.kinds if kind != "class" or len(data.names) > 1]
    planted = {kind: plant(data, kind, np.random.default_rng(args.seed)) for kind in kinds}
    versions = {kind: each for kind, (each, _) in planted.items()}
    if args.folds:
        found = {kind: out_of_fold(each, args.folds) for kind, each in versions.items()}
    else:
        found = suspicions(data, Predictor(args.model), versions)
    print(
        "| planted | faults | in the top tenth | right in the kind's first 20 | in all first 20 |"
    )
    print("| --- | --- | --- | --- | --- |")
    for kind, (faulty, where) in planted.items():
        every = ranked(found[kind])
        count = sum(len(faulty.record(index).boxes) for index in range(len(faulty)))
        top = every[: count // 10]
        places = [(index, box) for index, boxes in where.items() for box in boxes]
        hits = sum(any(is_at(each, index, box) for each in top) for index, box in places)
        shares = [
            np.mean([any(is_at(each, index, box) for index, box in places) for each in some[:20]])
            for some in ([each for each in every if each.kind == kind], every)
        ]
        print(
            f"| {KINDS[kind]} | {len(places)} | {100 * hits / len(places):.0f} % | "
            f"{shares[0]:.2f} | {shares[1]:.2f} |"
        )


if __name__ == "__main__":
    main()
