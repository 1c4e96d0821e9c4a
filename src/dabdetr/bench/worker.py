"""Candidates in processes of their own, so that memory and start-up are their own: both ends.

``Process`` is the parent's end of two pipes. At the other one ``python -m dabdetr.bench.worker``
answers requests, JSON lines on stdin, with JSON lines on stdout. Nothing here imports torch, as
the exported files need none.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dabdetr.measure import peak_memory_mib, seconds
from dabdetr.structures import Detections

PARTS = ("boxes", "scores", "labels", "queries")
"""Arrays of detections that a worker writes, of all images in one."""
COMMAND = (sys.executable, "-c", "from dabdetr.cli import main; main()")
"""``dabdetr`` itself, of this interpreter."""


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

        def compute() -> None:
            for pixels, sizes in self.batches:
                runtime.detect(pixels, sizes, most)

        def stream() -> None:
            for _ in self.predictor(self.images):
                pass

        return seconds(compute) / len(self.images), seconds(stream) / len(self.images)

    def remarks(self) -> list[str]:
        """What was logged, each sentence once: what was compiled, and whether that paid."""
        return list(dict.fromkeys(self._said.sentences))

    def memory_mib(self) -> float | None:
        """The peak of this process."""
        return peak_memory_mib()

    def detect(self, images: Sequence[str], to: str) -> None:
        """Write every detection of the images, down to the lowest score, as ``to`` (.npz)."""
        found = list(self.predictor(list(images), conf=0.0))
        arrays = {part: np.concatenate([getattr(each, part) for each in found]) for part in PARTS}
        arrays["counts"] = np.array([len(each) for each in found])
        arrays["sizes"] = np.array([each.size for each in found])
        arrays["names"] = np.array(self.predictor.names)
        np.savez(to, allow_pickle=False, **arrays)


class _Sentences(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.sentences: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.sentences.append(record.getMessage())


def serve(worker: Any) -> None:
    """Answer requests, which name a method of ``worker`` and its arguments, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
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


class Failed(Exception):
    """A candidate cannot go on; the message is a sentence for users."""


class Process:
    """A process that serves a ``Worker``; it ends with the ``with`` block.

    ``module`` is run with ``arguments``, and calls ``serve``.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        module: str = "dabdetr.bench.worker",
        arguments: Sequence[str] = (),
    ) -> None:
        self._said: Any = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=environment,
        )

    def ask(self, request: str, **details: Any) -> Any:
        """What the worker's method of that name returns; ``Failed`` where it raises or dies."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"request": request, **details}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Failed(self._end())
        said = json.loads(line)
        if "error" in said:
            raise Failed(said["error"])
        return said["answer"]

    def _end(self) -> str:
        code = self._process.wait()
        self._said.seek(0)
        last = (self._said.read().strip().splitlines() or ["it said nothing"])[-1]
        if code < 0:
            why = "; memory may have run out" if code == -9 else ""
            return f"its process was ended by signal {-code}{why}"
        return f"its process ended with code {code}: {last}"

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_export(
    options: Sequence[str], output: Path, shown: Path, environment: Mapping[str, str]
) -> None:
    """Run ``dabdetr export`` with these options; ``Failed`` says why there is no file.

    Its certificate looks at the images in the folder ``shown``.
    """
    command = [*COMMAND, *options, "--output", str(output), "--images", str(shown), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode == 1:  # not certified, which is a finding and told on stdout
        raise Failed(": ".join(done.stdout.splitlines()[:2]))
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        raise Failed(last.removeprefix("error: "))


def read_found(path: Path, files: Sequence[str]) -> list[Detections]:
    """The detections that a worker wrote, one for each of the files."""
    with np.load(path) as told:
        names = tuple(told["names"].tolist())
        ends = np.cumsum(told["counts"])[:-1]
        boxes, scores, labels, queries = (np.split(told[part], ends) for part in PARTS)
        sizes = [(int(height), int(width)) for height, width in told["sizes"]]
    return [
        Detections(*(boxes[n], scores[n], labels[n], queries[n]), names, sizes[n], file)
        for n, file in enumerate(files)
    ]


if __name__ == "__main__":
    serve(Worker())
