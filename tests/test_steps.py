"""Bars of long work: on a terminal with the time left, nowhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

WORK = """
import sys, time
from dabdetr.steps import progress_steps
with progress_steps(10, shown=sys.argv[1] == "shown") as begin:
    for number in range(10):
        begin(f"step {number}")
        time.sleep(0.15)
"""


@pytest.mark.parametrize("shown", ["shown", "hidden"])
def test_a_terminal_sees_the_time_left(shown: str) -> None:
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", WORK, shown], stderr=theirs, check=True)
    os.set_blocking(ours, False)
    try:
        text = os.read(ours, 1 << 20).decode()
    except BlockingIOError:
        text = ""
    os.close(theirs)
    os.close(ours)
    assert ("step 5" in text, "0:00:0" in text) == (
        (True, True) if shown == "shown" else (False,) * 2
    )


def test_a_pipe_sees_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", WORK, "shown"], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
