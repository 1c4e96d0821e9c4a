"""No damaged file is a fault of the program: a slice of the fuzzing run, and a longer one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("memory is looked up in /proc", allow_module_level=True)
for package in ("onnx", "onnxruntime", "openvino"):
    pytest.importorskip(package)
ROOT = Path(__file__).parents[2]


def fuzz(cases: int, seed: int) -> str:
    """What a run prints; a fault fails. It is a process of its own, as it limits its memory."""
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--cases", str(cases), "--seed", str(seed)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


def test_a_slice() -> None:
    total, faults = fuzz(240, seed=1).split(", ")[:2]
    assert int(total.split()[0]) >= 220
    assert faults == "0 faults"


@pytest.mark.slow
def test_many() -> None:
    assert "0 faults" in fuzz(20_000, seed=2)


FAULTS = {
    "exit 70": "raise KeyError('x')",
    "long message": "raise ValueError('x' * 500)",
    "empty message": "raise ValueError",
    "memory": "b'x' * (9 << 28)",
    "hang": "while True: pass",
    "noise": "os.write(2, b'libtiff')",
    "started": "os.system('true')",
    "code run": "open(harness.flag, 'w').close()",
    "Warning": "warnings.warn('x')",
}


def test_the_harness_sees_each_kind_of_fault(tmp_path: Path) -> None:
    lines = [
        "import os, warnings",
        "from pathlib import Path",
        "from tests.fuzz import harness as h",
        "h.SECONDS, h.LIBRARIES = 4.0, ()",
        f"harness = h.Harness(Path({str(tmp_path)!r}))",
        "with harness.watching():",
        "    assert harness.run(lambda: None) == 'fine'",
    ]
    for code in FAULTS.values():
        lines += [f"    def case():\n        {code}", "    print(harness.run(case))"]
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ends = done.stdout.splitlines()
    assert len(ends) == len(FAULTS)
    for kind, end in zip(FAULTS, ends, strict=True):
        assert kind in end, (kind, end)
