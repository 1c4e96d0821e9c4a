"""Imports of OpenVINO's packages send no report, and leave the reporter to others."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("openvino_telemetry")

WATCH = """
import sys, threading

seen = []
sys.addaudithook(lambda event, _: seen.append(event))
{how}
for thread in threading.enumerate():  # reports are sent by another one
    if thread is not threading.main_thread():
        thread.join(5)
import openvino_telemetry  # anybody else still finds it
print("os.fork" in seen or "socket.connect" in seen)
"""


@pytest.mark.parametrize(
    ("how", "reported"),
    [
        ("import openvino", True),
        (
            "from dabdetr.inference.openvino import import_unreported\n"
            "import_unreported('openvino').Core()\nimport_unreported('nncf')",
            False,
        ),
    ],
)
def test_imports_are_not_reported(how: str, reported: bool) -> None:
    """The first case shows that the watch sees a report."""
    pytest.importorskip("nncf")
    command = [sys.executable, "-c", WATCH.format(how=how)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == str(reported)
