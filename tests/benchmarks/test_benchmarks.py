"""The comparison compares equal things, and writes what it found."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="the extra `bench` is not installed")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.report import Memory, Result, print_results, write_results  # noqa: E402
from benchmarks.sides import SMOKE, load_ours, load_peer, make_weights, require_equal  # noqa: E402


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    make_weights(folder, SMOKE)
    return folder


def test_sides_are_equal_and_differences_are_noticed(weights):
    ours, peer = load_ours(weights), load_peer(weights)
    require_equal(ours, peer, SMOKE)
    first = [side.trainer(SMOKE.pixels(2), SMOKE.targets(2))() for side in (ours, peer)]
    assert first[0] == pytest.approx(first[1], rel=1e-4)
    require_equal(ours, peer, SMOKE)  # still, after a step of each
    with torch.no_grad():
        ours.model.get_parameter("decoder.heads.classes.0.weight").mul_(1.1)
    with pytest.raises(AssertionError, match="logits differ"):
        require_equal(ours, peer, SMOKE)


def test_steps_change_the_weights(weights):
    for side in (load_ours(weights), load_peer(weights)):
        step = side.trainer(SMOKE.pixels(2), SMOKE.targets(2))
        losses = [step() for _ in range(3)]
        assert losses[2] < losses[0]


def test_the_page_tells_ratios_and_memory(tmp_path, capsys):
    rounds = [{"ours": 1.0, "peer": x} for x in (1.5, 1.2, 0.9)]
    results = [Result("forward", 1, rounds), Result("training step", 2, rounds)]
    memory = [Memory("forward", {"peak": 500, "work": 100}, {"peak": 600, "work": 150})]
    write_results(tmp_path / "results.md", results, memory, SMOKE, 1)
    page = (tmp_path / "results.md").read_text()
    assert "| forward | 1 | 1.20 | 0.90 | 1.50 | 1.15 |" in page
    assert "| forward | 500 (100) | 600 (150) | 1.20 (1.50) |" in page
    assert f"torch {torch.__version__.partition('+')[0]}" in page
    print_results(results, memory, SMOKE)
    assert "1.15 met" in capsys.readouterr().out


@pytest.mark.slow
def test_the_whole_comparison_runs(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--out", str(tmp_path / "r.md")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "r.md").read_text()
    assert "| forward | 1 |" in page
    assert "| training step | 2 |" in page
