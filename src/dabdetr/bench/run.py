"""The bench from end to end: images, exports, rounds, AP or agreement, growth."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from dabdetr.bench.candidates import contenders
from dabdetr.bench.choice import Row, agreement
from dabdetr.bench.growth import grow
from dabdetr.bench.images import of_data, of_source
from dabdetr.bench.plan import Plan
from dabdetr.bench.race import Race
from dabdetr.bench.result import Bench
from dabdetr.checkpoints.locate import shipped
from dabdetr.checkpoints.native import load_model
from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.layouts import open_data
from dabdetr.evaluation.evaluate import class_map, score
from dabdetr.inference.device import choose_device
from dabdetr.structures import Detections

FEW = 50
"""Annotated images below which AP is called rough."""


def bench(plan: Plan, tell: Callable[[str], None] = lambda _: None) -> Bench:
    """Time a model in every runtime and precision, as ``plan`` says; ``tell`` hears of progress."""
    place = choose_device(plan.device)
    data = None if plan.data is None else open_data(plan.data, plan.split)
    detector = load_model(plan.model).model
    if data is not None:
        class_map(detector.names, data.names)
    every = contenders(plan.formats, place.type)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, truth = _images(plan, data, folder)
        with Race(plan, str(place), files, folder, tell) as race:
            race.export(every)
            race.start(every)
            timed = race.run()
            race.remember()
            rows = _rows(race, truth, detector.config.inference.conf)
        grown = grow(plan, str(place), timed, race.environment, tell) if plan.scaling else None
    return Bench(
        plan,
        device=str(place),
        rows=tuple(rows),
        absent=tuple((each, race.absent[each]) for each in every if each in race.absent),
        timed=len(timed),
        judged=len(files),
        data="" if data is None else f"{data.name} {data.split}",
        notes=(*_notes(plan, data, len(files), len(timed) / race.batches), *_remarks(race)),
        growth=grown,
    )


def _images(
    plan: Plan, data: DetectionDataset | None, folder: Path
) -> tuple[list[str], DetectionDataset | None]:
    """Files to look at, and what is true of them."""
    folder = folder / "images"
    folder.mkdir()
    if data is None:
        assert plan.source is not None
        files, truth = of_source(plan.source, plan.images, folder), None
    else:
        files, truth = of_data(data, plan.images, folder)
    if len(files) < plan.batch:
        raise ValueError(f"batches of {plan.batch} need as many images; got {len(files)}")
    return files, truth


def _rows(race: Race, truth: DetectionDataset | None, conf: float) -> list[Row]:
    """What is known of all that came to the end, the fastest first."""
    memory, rows = race.memory(), []
    reference: list[Detections] = []
    for contender, found in race.found():
        reference = reference or found
        quality = agreement(reference, found, conf) if truth is None else score(truth, found).ap
        size = _size(race.files.get(contender, _weights(race.plan.model)))
        turns, start = tuple(race.turns[contender]), race.starts[contender]
        rows.append(Row(contender, turns, start, memory[contender], size, quality))
    return sorted(rows, key=lambda row: row.whole)


def _remarks(race: Race) -> list[str]:
    """What contenders in the table said of themselves."""
    there = [each for each in race.remarks if each not in race.absent]
    return [f"{each.name}: {said}" for each in there for said in race.remarks[each]]


def _weights(model: str) -> Path | None:
    """The file of weights, where it is plain which one that is."""
    path = Path(model)
    options = (path, path / "best.safetensors", path / "model.safetensors", shipped().get(model))
    return next((each for each in options if each is not None and each.is_file()), None)


def _size(path: Path | None) -> float | None:
    """MB of a file, or of all files of a folder."""
    if path is None:
        return None
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files) / 1e6


def _notes(plan: Plan, data: DetectionDataset | None, judged: int, together: float) -> list[str]:
    """What a reader of the numbers should know."""
    notes = []
    if data is not None and judged < len(data):
        notes.append(f"AP is of {judged} of the {len(data)} images, from all over the data")
    if data is not None and judged < FEW:
        notes.append(f"AP on {judged} images is a rough number")
    if data is None and "openvino" in plan.formats:
        notes.append("int8 took its ranges from the very images that its agreement is of")
    if together < plan.batch:
        notes.append(
            f"batches held {together:.1f} images on average: only those of one size go together"
        )
    return notes
