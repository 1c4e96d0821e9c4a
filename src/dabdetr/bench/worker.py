"""Both ends of a candidate's own process, in which its memory and start-up are measured.

``Process`` is the parent's end. At the other end, ``python -m dabdetr.bench.worker`` reads requests
as JSON lines from stdin and writes answers as JSON lines to stdout. This module does not import
torch, as exported files do not need it.
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
from dabdetr.text import MOST_MESSAGE, reason

PARTS = ("boxes", "scores", "labels", "queries")
"""Arrays of detections that a worker writes, concatenated over images."""


class Worker:
    """The requests as methods; their results must be JSON values."""

    def __init__(self) -> None:
        self._logged = _LoggedMessages()
        log = logging.getLogger("dabdetr")
        log.setLevel(logging.INFO)
        log.addHandler(self._logged)
        self._exported: tuple[Any, dict[Any, Any]] | None = None

    def export(
        self,
        model: str,
        format: str,
        precision: str,
        calibration: str | None,
        output: str,
        shown: str,
    ) -> None:
        """Export the model; ValueError if the certificate, on the images in ``shown``, fails.

        All exports of a process share the model and its graph.
        """
        from dabdetr.export.export import Uncertified, export
        from dabdetr.inference.opening import torch_runtime

        if self._exported is None:
            self._exported = torch_runtime(model, device="cpu").model, {}
        detector, graphs = self._exported
        try:
            export(
                detector,
                output,
                format,
                precision,
                images=shown,
                calibration=calibration,
                graphs=graphs,
            )
        except Uncertified as error:
            shares, _, shift, *_ = str(error.certificate).splitlines()
            why = shares if error.certificate.within < error.certificate.required else shift
            raise ValueError(f"the export failed its certificate: {why}") from None

    def open(self, model: str, batch: int, image: str, options: dict[str, Any]) -> None:
        """Load the model and detect in one image."""
        from dabdetr.predictor import Predictor

        self.predictor = Predictor(model, batch=batch, **options)
        self.predictor.one(image)

    def gather(self, images: Sequence[str]) -> int:
        """Prepare the batches of model input for every turn; return their number."""
        from dabdetr.inference.sources import read_sources
        from dabdetr.inference.stream import groups, readable, views

        self.images = list(images)
        prepared = views(self.predictor.runtime, read_sources(self.images))
        self.batches = [
            ([each.pixels for each in group], [each.image.array.shape[:2] for each in group])
            for group in readable(groups(prepared, self.predictor.batch), "raise")
        ]
        return len(self.batches)

    def turn(self) -> tuple[float, float]:
        """Seconds per image: prepared pixels to boxes, and file to boxes."""
        runtime, most = self.predictor.runtime, self.predictor.config.inference.max_det

        def compute() -> None:
            for pixels, sizes in self.batches:
                runtime.detect(pixels, sizes, most)

        def stream() -> None:
            for _ in self.predictor(self.images):
                pass

        return seconds(compute) / len(self.images), seconds(stream) / len(self.images)

    def remarks(self) -> list[str]:
        """The logged messages without repetitions, such as those about compilation."""
        return list(dict.fromkeys(self._logged.messages))

    def memory_mib(self) -> float | None:
        """Peak memory of this process in MiB; None if the system does not report it."""
        return peak_memory_mib()

    def detect(self, images: Sequence[str], to: str) -> None:
        """Write all detections of the images, of any score, to the file ``to`` (.npz)."""
        found = list(self.predictor(list(images), conf=0.0))
        arrays = {part: np.concatenate([getattr(each, part) for each in found]) for part in PARTS}
        arrays["counts"] = np.array([len(each) for each in found])
        arrays["sizes"] = np.array([each.size for each in found])
        arrays["names"] = np.array(self.predictor.names)
        np.savez(to, allow_pickle=False, **arrays)


class _LoggedMessages(logging.Handler):
    """A log handler that collects messages."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Append the record's message."""
        self.messages.append(record.getMessage())


def serve(worker: Any) -> None:
    """Answer requests, which name a method of ``worker`` and its arguments, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # redirects what libraries print to stderr
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"answer": getattr(worker, request.pop("request"))(**request)}
        except Exception as error:  # any error: the parent reports it, other candidates go on
            reply = {"error": reason(error, MOST_MESSAGE)}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


class Failed(Exception):
    """A candidate has failed; the message is a sentence for users."""


class Process:
    """A process that serves a ``Worker``, and ends with the ``with`` block.

    It runs ``module``, which calls ``serve``, with ``arguments``.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        module: str = "dabdetr.bench.worker",
        arguments: Sequence[str] = (),
    ) -> None:
        self._stderr: Any = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=environment,
        )

    def ask(self, request: str, **details: Any) -> Any:
        """The result of the worker's method ``request``; ``Failed`` if it raises or dies."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"request": request, **details}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Failed(self._exit_reason())
        reply = json.loads(line)
        if "error" in reply:
            raise Failed(reply["error"])
        return reply["answer"]

    def _exit_reason(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        last = (self._stderr.read().strip().splitlines() or ["it printed nothing"])[-1]
        if code < 0:
            why = "; memory may have run out" if code == -9 else ""
            return f"its process was ended by signal {-code}{why}"
        return f"its process ended with code {code}: {last}"

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._stderr.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_found(path: Path, files: Sequence[str]) -> list[Detections]:
    """The detections that a worker wrote, one item for each of the files."""
    with np.load(path) as arrays:
        names = tuple(arrays["names"].tolist())
        ends = np.cumsum(arrays["counts"])[:-1]
        boxes, scores, labels, queries = (np.split(arrays[part], ends) for part in PARTS)
        sizes = [(int(height), int(width)) for height, width in arrays["sizes"]]
    return [
        Detections(*(boxes[n], scores[n], labels[n], queries[n]), names, sizes[n], file)
        for n, file in enumerate(files)
    ]


if __name__ == "__main__":
    serve(Worker())
