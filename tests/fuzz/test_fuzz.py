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
PATH = os.pathsep.join((str(ROOT / "src"), str(ROOT)))


CASES = Path(os.environ.get("DABDETR_DATA", ROOT / ".." / "shared" / "data")).parent / "cases"


def run(*arguments: object) -> str:
    """The last line of a run, in a process of its own, as it limits its memory; a fault fails."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": PATH, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


def test_a_slice() -> None:
    total, faults = run("--cases", 160, "--seed", 1).split(", ")[:2]
    assert int(total.split()[0]) >= 140
    assert faults == "0 faults"


@pytest.mark.slow
def test_many() -> None:
    assert "0 faults" in run("--cases", 20_000, "--seed", 2)


def test_some_attacks() -> None:
    assert run("--attacks", "--every", 200).startswith("13 attacks, 0 faults")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_attacks() -> None:
    """Two verbs each: none runs code, starts a program or calls anyone."""
    total, faults = run("--attacks").split(" faults")[0].split(" attacks, ")
    assert int(total) >= 2000
    assert faults == "0"


def test_the_attacks_are_ones(tmp_path: Path) -> None:
    """Unpickled as they should never be, most payloads make the file, or start something."""
    code = """
import io, os, pickle, sys, time
from contextlib import suppress
from pathlib import Path
from tests.fuzz.attacks import payloads
flag, ran = Path(sys.argv[1]), []
for name, evil in payloads(flag).items():
    with suppress(Exception):
        pickle.loads(evil)
    until = time.monotonic() + 2 * ("popen" in name)
    while not flag.exists() and time.monotonic() < until:
        time.sleep(0.01)
    if flag.exists():
        ran.append(name)
        flag.rmdir() if flag.is_dir() else flag.unlink()
print(*ran)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "ran")],
        env=os.environ | {"PYTHONPATH": PATH},
        capture_output=True,
        text=True,
        check=True,
    )
    ran = done.stdout.splitlines()[-1].split()
    assert len(ran) > 55
    assert {"system-0", "exec-5", "popen-2", "inst", "object", "getattr", "build"} <= set(ran)


@pytest.mark.skipif(not CASES.is_dir(), reason="needs the cases in ../shared")
def test_files_that_showed_faults_once() -> None:
    total, faults = run("--files", CASES / "broken-files").split(", ")
    assert int(total.split()[0]) >= 80
    assert faults == "0 faults"


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
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env=os.environ | {"PYTHONPATH": PATH},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ends = done.stdout.splitlines()
    assert len(ends) == len(FAULTS)
    for kind, end in zip(FAULTS, ends, strict=True):
        assert kind in end, (kind, end)
