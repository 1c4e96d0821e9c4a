"""The parent's side of a worker, and the making of exported files, each in a clean process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-c", "from dabdetr.cli import main; main()")
"""``dabdetr`` itself, of this interpreter."""


class Failed(Exception):
    """A contender cannot go on; the message is a sentence for users."""


class Process:
    """A ``Worker`` at the other end of two pipes; ends with the ``with`` block."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._said: Any = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dabdetr.bench.worker"],
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
