"""Imports of OpenVINO's packages send no report, and leave the reporter to others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dabdetr import Predictor

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


SILENT_WITH = ("CI", "TF_BUILD", "JENKINS_URL")  # the reporter keeps quiet where one is set
OURS = (
    "from dabdetr.inference.openvino import import_unreported\n"
    "import_unreported('openvino').Core()\nimport_unreported('nncf')"
)


def reports(how: str) -> bool:
    environment = {k: v for k, v in os.environ.items() if k not in SILENT_WITH}
    command = [sys.executable, "-c", WATCH.format(how=how)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.split()[-1] == "True"


def test_imports_are_not_reported() -> None:
    pytest.importorskip("nncf")
    if not reports("import openvino"):
        pytest.skip("the reporter is silent on this machine whoever imports OpenVINO")
    assert not reports(OURS)


def test_a_weight_that_is_no_number_is_named(tmp_path: Path) -> None:
    """OpenVINO's own maximum with 0 makes 0 of NaN: its answer would look sound."""
    ov = pytest.importorskip("openvino", reason="needs openvino: pip install 'dabdetr[export]'")
    ops = ov.opset13
    given = ops.parameter([2], np.float32)
    weight = ops.constant(np.array([1, np.nan], np.float32), name="head.weight")
    body = ov.Model([ops.relu(ops.add(given, weight))], [given], "m")
    ov.save_model(body, tmp_path / "m.xml", compress_to_fp16=False)
    with pytest.raises(ValueError, match=r"m\.xml holds weights that are not finite"):
        Predictor(tmp_path / "m.xml")
    (tmp_path / "net.xml").write_text("<net/>")  # OpenVINO would try TensorFlow's, and print that
    with pytest.raises(ValueError, match=r"net\.xml is not a model of OpenVINO"):
        Predictor(tmp_path / "net.xml")
