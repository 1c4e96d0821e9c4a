"""The bench: images, exports, rounds in which every candidate is timed, and quality.

A candidate that fails is left out with its reason; the others go on.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dabdetr.bench.candidates import (
    REFERENCE,
    BenchResult,
    Candidate,
    Plan,
    Row,
    agreement,
    candidates,
)
from dabdetr.bench.worker import Failed, Process, read_found
from dabdetr.checkpoints.locate import shipped
from dabdetr.checkpoints.native import load_model
from dabdetr.data.dataset import DetectionDataset, Subset, evenly
from dabdetr.data.layouts import open_data
from dabdetr.evaluation.evaluate import class_map, score
from dabdetr.export.formats import FORMATS
from dabdetr.inference.acceleration import no_compiler
from dabdetr.inference.device import choose_device
from dabdetr.inference.sources import read_sources
from dabdetr.steps import progress_steps
from dabdetr.structures import Detections
from dabdetr.text import counted

log = logging.getLogger(__name__)

FEW = 50
"""Number of annotated images below which AP is called rough."""
TURN = 1.0
"""Duration of the reference's turn in seconds, from which the number of timed images follows."""
EXPORT, START, DETECT = 10, 4, 6
"""Steps of progress for a candidate's export, start and detections; a turn is one step."""
SHOWN = 8
"""The most images for the certificates of exports."""


def bench(plan: Plan, progress: bool = False) -> BenchResult:
    """Time a model in every runtime and precision of ``plan``.

    ``progress`` shows a bar on a terminal.
    """
    device = choose_device(plan.device)
    data = None if plan.data is None else open_data(plan.data, plan.split)
    detector = load_model(plan.model).model
    if data is not None:
        class_map(detector.names, data.names)
    every = candidates(plan.formats, device.type)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, truth = _images(plan, data, folder)
        log.info(
            "measuring %s on %s: exports, %s of timing, then %s …",
            counted(len(every), "candidate"),
            counted(len(files), "image"),
            counted(plan.rounds, "round"),
            "agreement" if data is None else "AP",
        )
        total = len(every) * (EXPORT + START + plan.rounds + 1 + DETECT)
        with (
            progress_steps(total, progress) as begin,
            Session(plan, str(device), files, folder, begin) as session,
        ):
            session.export(every)
            session.start(every)
            timed = session.run()
            session.collect_remarks()
            rows = _rows(session, truth, detector.config.inference.conf)
    return BenchResult(
        plan,
        device=str(device),
        rows=tuple(rows),
        absent=tuple((each, session.absent[each]) for each in every if each in session.absent),
        timed=len(timed),
        judged=len(files),
        data="" if data is None else f"{data.name} {data.split}",
        notes=(
            *_notes(plan, data, len(files), len(timed) / session.batches),
            *(
                f"{each.name}: {remark}"
                for each, remarks in session.remarks.items()
                if each not in session.absent
                for remark in remarks
            ),
        ),
    )


def _images(
    plan: Plan, data: DetectionDataset | None, folder: Path
) -> tuple[list[str], DetectionDataset | None]:
    """The image files, and their annotations if there are any."""
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


def _rows(session: Session, truth: DetectionDataset | None, conf: float) -> list[Row]:
    """The rows of all candidates that finished, the fastest first."""
    memory, rows = session.memory(), []
    reference: list[Detections] = []
    for candidate, found in session.found():
        reference = reference or found
        quality = agreement(reference, found, conf) if truth is None else score(truth, found).ap
        path, size = session.files.get(candidate, _weights(session.plan.model)), None
        if path is not None:
            files = (
                [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
            )
            size = sum(each.stat().st_size for each in files) / 2**20
        turns, start = tuple(session.turns[candidate]), session.starts[candidate]
        rows.append(Row(candidate, turns, start, memory[candidate], size, quality))
    return sorted(rows, key=lambda row: row.whole)


def _weights(model: str) -> Path | None:
    """The file of the weights; None if it cannot be told from the name."""
    path = Path(model)
    options = (path, path / "best.safetensors", path / "model.safetensors", shipped().get(model))
    return next((each for each in options if each is not None and each.is_file()), None)


def _notes(plan: Plan, data: DetectionDataset | None, judged: int, together: float) -> list[str]:
    """Caveats about the numbers."""
    notes = []
    if data is not None and judged < len(data):
        notes.append(f"AP is of {judged} of the {len(data)} images, spaced evenly")
    if data is not None and judged < FEW:
        notes.append(f"AP on {counted(judged, 'image')} is a rough number")
    if data is None and "openvino" in plan.formats:
        notes.append("int8 was calibrated on the same images that its agreement is measured on")
    if together < plan.batch:
        notes.append(
            f"batches had {together:.1f} images on average: only images of one size share a batch"
        )
    return notes


class Session:
    """The candidates' processes and measurements.

    files     candidate → its exported file, if it needs one
    starts    candidate → seconds from the start of its process to the boxes of its first image
    turns     candidate → see ``Row``
    absent    candidate → the reason why it is left out
    batches   number of batches in a turn
    remarks   candidate → its log messages
    """

    def __init__(
        self,
        plan: Plan,
        device: str,
        images: Sequence[str],
        folder: Path,
        tell: Callable[..., None],
    ) -> None:
        self.plan, self.device, self.images = plan, device, list(images)
        self.folder, self.tell = folder, tell
        self.environment = plan.environment(folder)
        self.files: dict[Candidate, Path] = {}
        self.starts: dict[Candidate, float] = {}
        self.turns: dict[Candidate, list[tuple[float, float]]] = {}
        self.absent: dict[Candidate, str] = {}
        self.batches = 0
        self.remarks: dict[Candidate, list[str]] = {}
        self._processes: dict[Candidate, Process] = {}

    def export(self, candidates: Sequence[Candidate]) -> None:
        """Export the files that the candidates need."""
        shown = self.folder / "shown"
        shown.mkdir()
        for number, image in enumerate(spread(self.images, SHOWN)):
            shutil.copyfile(image, shown / f"{number}{Path(image).suffix}")
        exporter: Process | None = None
        for each in candidates:
            if each.format == "torch":
                continue
            path = self.folder / f"{each.key}{FORMATS[each.format].suffix}"
            self.tell(f"exporting for {each.name}", EXPORT)
            exporter = exporter or Process(self.environment)
            try:
                exporter.ask(
                    "export",
                    model=str(self.plan.model),
                    format=each.format,
                    precision=each.precision,
                    calibration=self.plan.calibration if each.precision == "int8" else None,
                    output=str(path),
                    shown=str(shown),
                )
                self.files[each] = path
            except Failed as error:
                self.absent[each] = str(error)
                exporter.close()
                exporter = None
        if exporter:
            exporter.close()

    def start(self, candidates: Sequence[Candidate]) -> None:
        """Start a process for each candidate that has not failed."""
        for each in candidates:
            if each.compiled and (reason := no_compiler(torch.device(self.device))):
                self.absent[each] = reason
            if each in self.absent:
                continue
            self.tell(f"starting {each.name}", START)
            started = time.perf_counter()
            with self._trying(each):
                self._processes[each] = process = Process(self.environment)
                model = str(self.files.get(each, self.plan.model))
                options: dict[str, Any] = {"device": self.device, "precision": each.precision}
                if each.compiled:
                    options["compile"] = True
                if each in self.files:
                    options = {"device": "cpu" if self.device == "cpu" else "auto"}
                process.ask(
                    "open",
                    model=model,
                    batch=self.plan.batch,
                    image=self.images[0],
                    options=options,
                )
                self.starts[each] = time.perf_counter() - started

    def run(self) -> list[str]:
        """Run rounds with a turn of each candidate, in rotating order; return the timed images."""
        chosen = spread(self.images, self._count())
        for each in list(self._processes):
            with self._trying(each):
                self.batches = self._processes[each].ask("gather", images=chosen)
                self.turns[each] = []
        for number in range(self.plan.rounds + 1):  # round 0 is a warm-up
            self.tell(f"round {number} of {self.plan.rounds}", len(self._processes))
            order = list(self._processes)
            first = number % len(order)
            for each in order[first:] + order[:first]:
                with self._trying(each):
                    taken = self._processes[each].ask("turn")
                    self.turns[each] += [(taken[0], taken[1])] if number else []
        return chosen

    def _count(self) -> int:
        """The number of images, in whole batches, for a reference's turn of ``TURN`` seconds."""
        batch, process = self.plan.batch, self._processes[REFERENCE]
        process.ask("gather", images=spread(self.images, batch))
        process.ask("turn")
        batches = math.ceil(TURN / (sum(process.ask("turn")) * batch))
        return max(min(batches, len(self.images) // batch), 1) * batch

    def collect_remarks(self) -> None:
        """Collect the candidates' log messages; one whose compilation was refused has failed."""
        for each in list(self._processes):
            with self._trying(each):
                self.remarks[each] = self._processes[each].ask("remarks")
                refused = [text for text in self.remarks[each] if text.startswith("not compiled")]
                if refused:
                    raise Failed(refused[0])

    def memory(self) -> dict[Candidate, float | None]:
        """Peak memory of each process so far, in MiB."""
        peaks = {}
        for each in list(self._processes):
            with self._trying(each):
                peaks[each] = self._processes[each].ask("memory_mib")
        return peaks

    def found(self) -> Iterator[tuple[Candidate, list[Detections]]]:
        """Each candidate's detections on all images, the reference first."""
        for each in list(self._processes):
            self.tell(f"detecting in {counted(len(self.images), 'image')} with {each.name}", DETECT)
            path = self.folder / "found.npz"
            with self._trying(each):
                self._processes[each].ask("detect", images=self.images, to=str(path))
                yield each, read_found(path, self.images)

    @contextmanager
    def _trying(self, candidate: Candidate) -> Iterator[None]:
        """A context in which ``Failed`` leaves the candidate out; ValueError for the reference."""
        try:
            yield
        except Failed as error:
            if candidate == REFERENCE:
                raise ValueError(f"the model does not run in {candidate.name}: {error}") from None
            self.absent[candidate] = str(error)
            if process := self._processes.pop(candidate, None):
                process.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.close()


def of_data(data: DetectionDataset, most: int, folder: Path) -> tuple[list[str], Subset]:
    """Files of at most ``most`` images, spaced evenly, and the subset of the data with them.

    Images that are not files, such as generated ones, are written into ``folder``.
    """
    part = Subset(data, spread(range(len(data)), most))
    files = []
    for index in range(len(part)):
        file = part.record(index).file
        files.append(file if Path(file).is_file() else _write(part.image(index), folder, index))
    return files, part


def of_source(source: str | Path, most: int, folder: Path) -> list[str]:
    """Files of the first ``most`` images of a source; video frames are written into ``folder``."""
    files = []
    for number, each in enumerate(islice(read_sources(source), most)):
        is_file = each.frame is None and Path(each.name).is_file()
        files.append(each.name if is_file else _write(each.array, folder, number))
    if not files:
        raise ValueError(f"there is no image in {source}; give some to time and to compare on")
    return files


def spread(items: Sequence, count: int) -> list:
    """At most ``count`` of the items, spaced evenly, in their order."""
    return [items[place] for place in evenly(len(items), count)]


def _write(image: np.ndarray, folder: Path, number: int) -> str:
    path = folder / f"{number:05d}.png"
    Image.fromarray(image).save(path)
    return str(path)
