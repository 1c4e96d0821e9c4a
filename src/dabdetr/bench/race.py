"""Contenders side by side, each in a process of its own: they start, take turns, and are judged.

One that fails drops out with its reason; the others go on.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dabdetr.bench.candidates import REFERENCE, Contender
from dabdetr.bench.images import read_found, spread
from dabdetr.bench.plan import Plan
from dabdetr.bench.processes import Failed, Process, run_export
from dabdetr.export.formats import FORMATS
from dabdetr.inference.acceleration import no_compiler
from dabdetr.structures import Detections

TURN = 1.0
"""Seconds that the reference's turn should take: so many images are timed, as far as given."""
SHOWN = 8
"""Images that the certificates of exports look at."""


class Race:
    """The contenders that still compete, and what is known of them.

    files     the exported file of each that needs one
    starts    seconds from the start of a process to the boxes of its first image
    turns     see ``Row``
    absent    contender → why it does not compete (any more)
    batches   of model input in a turn
    remarks   contender → what it said of itself
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
        self.files: dict[Contender, Path] = {}
        self.starts: dict[Contender, float] = {}
        self.turns: dict[Contender, list[tuple[float, float]]] = {}
        self.absent: dict[Contender, str] = {}
        self.batches = 0
        self.remarks: dict[Contender, list[str]] = {}
        self._processes: dict[Contender, Process] = {}

    def export(self, contenders: Sequence[Contender]) -> None:
        """Make the files that contenders need."""
        shown = self.folder / "shown"
        shown.mkdir()
        for number, image in enumerate(spread(self.images, SHOWN)):
            shutil.copyfile(image, shown / f"{number}{Path(image).suffix}")
        for each in contenders:
            options = each.export_options(self.plan.model, self.plan.calibration)
            if not options:
                continue
            path = self.folder / f"{each.key}{FORMATS[each.format].suffix}"
            self.tell(f"exporting for {each.name} …")
            with self._trying(each):
                run_export(options, path, shown, self.environment)
                self.files[each] = path

    def start(self, contenders: Sequence[Contender]) -> None:
        """Open a process for each that has not failed."""
        for each in contenders:
            if each.compiled and (reason := no_compiler(torch.device(self.device))):
                self.absent[each] = reason
            if each in self.absent:
                continue
            self.tell(f"starting {each.name} …")
            started = time.perf_counter()
            with self._trying(each):
                self._processes[each] = process = Process(self.environment)
                model = str(self.files.get(each, self.plan.model))
                process.ask(
                    "open",
                    model=model,
                    batch=self.plan.batch,
                    image=self.images[0],
                    options=self._options(each),
                )
                self.starts[each] = time.perf_counter() - started

    def _options(self, contender: Contender) -> dict[str, Any]:
        """Of its ``Predictor``."""
        if contender in self.files:
            return {"device": "cpu" if self.device == "cpu" else "auto"}
        options: dict[str, Any] = {"device": self.device, "precision": contender.precision}
        return options | ({"compile": True} if contender.compiled else {})

    def run(self) -> list[str]:
        """Rounds in which each takes one turn, who is first changing; the images looked at."""
        chosen = spread(self.images, self._count())
        for each in list(self._processes):
            with self._trying(each):
                self.batches = self._processes[each].ask("gather", images=chosen)
                self.turns[each] = []
        for number in range(self.plan.rounds + 1):  # the first is for warming up
            self.tell(f"round {number} of {self.plan.rounds} …")
            order = list(self._processes)
            first = number % len(order)
            for each in order[first:] + order[:first]:
                with self._trying(each):
                    taken = self._processes[each].ask("turn")
                    self.turns[each] += [(taken[0], taken[1])] if number else []
        return chosen

    def _count(self) -> int:
        """How many images fill the reference's turn: whole batches."""
        batch, process = self.plan.batch, self._processes[REFERENCE]
        process.ask("gather", images=spread(self.images, batch))
        process.ask("turn")
        batches = math.ceil(TURN / (sum(process.ask("turn")) * batch))
        return max(min(batches, len(self.images) // batch), 1) * batch

    def remember(self) -> None:
        """Ask all for what they said of themselves; who was to be compiled and is not is out."""
        for each in list(self._processes):
            with self._trying(each):
                self.remarks[each] = self._processes[each].ask("remarks")
                refused = [said for said in self.remarks[each] if said.startswith("not compiled")]
                if refused:
                    raise Failed(refused[0])

    def memory(self) -> dict[Contender, float | None]:
        """MB that each process has held at most until now."""
        found = {}
        for each in list(self._processes):
            with self._trying(each):
                found[each] = self._processes[each].ask("memory")
        return found

    def found(self) -> Iterator[tuple[Contender, list[Detections]]]:
        """What each finds on all images, the reference first."""
        for each in list(self._processes):
            self.tell(f"looking at {len(self.images)} images with {each.name} …")
            path = self.folder / "found.npz"
            with self._trying(each):
                self._processes[each].ask("detect", images=self.images, to=str(path))
                yield each, read_found(path, self.images)

    @contextmanager
    def _trying(self, contender: Contender) -> Iterator[None]:
        """Where ``Failed`` is raised inside, the contender is out."""
        try:
            yield
        except Failed as error:
            if contender == REFERENCE:
                raise ValueError(f"the model does not run in {contender.name}: {error}") from None
            self.absent[contender] = str(error)
            if process := self._processes.pop(contender, None):
                process.close()

    def __enter__(self) -> Race:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.close()
