"""A contender in a process of its own, so that memory and start-up are its own.

``python -m dabdetr.bench.worker`` answers requests, JSON lines on stdin, with JSON lines on stdout.
Nothing here imports torch, as the exported files need none.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Worker:
    """The requests, one method each; what they return must be JSON."""

    def __init__(self) -> None:
        self._said = _Sentences()
        log = logging.getLogger("dabdetr")
        log.setLevel(logging.INFO)
        log.addHandler(self._said)

    def open(self, model: str, batch: int, image: str, options: dict[str, Any]) -> None:
        """Load the model and look at one image."""
        from dabdetr.predictor import Predictor

        self.predictor = Predictor(model, batch=batch, **options)
        self.predictor.one(image)

    def gather(self, images: Sequence[str]) -> int:
        """Prepare what every turn looks at: batches of the model's input; how many they are."""
        from dabdetr.inference.sources import read_sources
        from dabdetr.inference.stream import groups, views

        self.images = list(images)
        prepared = views(self.predictor.runtime, read_sources(self.images))
        self.batches = [
            ([each.pixels for each in group], [each.image.array.shape[:2] for each in group])
            for group in groups(prepared, self.predictor.batch, "raise")
        ]
        return len(self.batches)

    def turn(self) -> tuple[float, float]:
        """Seconds an image: prepared pixels to boxes, and file to boxes."""
        runtime, most = self.predictor.runtime, self.predictor.config.inference.max_det
        started = time.perf_counter()
        for pixels, sizes in self.batches:
            runtime.detect(pixels, sizes, most)
        between = time.perf_counter()
        for _ in self.predictor(self.images):
            pass
        ended, count = time.perf_counter(), len(self.images)
        return (between - started) / count, (ended - between) / count

    def remarks(self) -> list[str]:
        """What was logged, each sentence once: what was compiled, and whether that paid."""
        return list(dict.fromkeys(self._said.sentences))

    def memory(self) -> float | None:
        """MB that this process held at most."""
        return peak_memory()

    def detect(self, images: Sequence[str], to: str) -> None:
        """Write every detection of the images, down to the lowest score, as ``to`` (.npz)."""
        from dabdetr.bench.images import PARTS

        found = list(self.predictor(list(images), conf=0.0))
        arrays = {part: np.concatenate([getattr(each, part) for each in found]) for part in PARTS}
        arrays["counts"] = np.array([len(each) for each in found])
        arrays["sizes"] = np.array([each.size for each in found])
        arrays["names"] = np.array(self.predictor.names)
        np.savez(to, allow_pickle=False, **arrays)

    def roofline(self, model: str, images: Sequence[str], device: str) -> dict[str, Any]:
        """See ``dabdetr.bench.roofline``."""
        from dabdetr.bench.roofline import measure

        return measure(model, images, device)

    def grow(self, model: str, axis: str, value: int, device: str, rounds: int) -> float:
        """Seconds that the model takes at one place of an axis (see ``dabdetr.bench.scaling``)."""
        from dabdetr.bench.scaling import AXES

        return AXES[axis].seconds(model, value, device, rounds)


class _Sentences(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.sentences: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.sentences.append(record.getMessage())


def peak_memory() -> float | None:
    """MB that this process held at most; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the parent held when it forked
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            said = {"answer": getattr(worker, request.pop("request"))(**request)}
        except Exception as error:  # of whatever kind: the parent tells it, others go on
            said = {"error": sentence(error)}
        answers.write(json.dumps(said) + "\n")
        answers.flush()


def sentence(error: BaseException) -> str:
    """The first line that an error says, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


if __name__ == "__main__":
    main()
