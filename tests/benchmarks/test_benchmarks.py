"""The comparison compares equal things, and the page tells what was kept."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="the extra `bench` is not installed")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.compare import Case  # noqa: E402
from benchmarks.growth import AXES, Point, exponent, measure  # noqa: E402
from benchmarks.machine import machine  # noqa: E402
from benchmarks.report import verdict, write_results  # noqa: E402
from benchmarks.roofline import found as roofline  # noqa: E402
from benchmarks.roofline import operations  # noqa: E402
from benchmarks.sides import (  # noqa: E402
    KINDS,
    SMOKE,
    load_ours,
    load_peer,
    make_weights,
    require_equal,
)

from dabdetr.config import Config  # noqa: E402
from dabdetr.model.detector import build  # noqa: E402
from dabdetr.structures import Images, Targets  # noqa: E402


@pytest.fixture(scope="module", params=KINDS)
def work(request):
    return replace(SMOKE, kind=request.param)


@pytest.fixture(scope="module")
def weights(tmp_path_factory, work):
    folder = tmp_path_factory.mktemp("weights")
    make_weights(folder, work)
    return folder


def test_sides_are_equal_and_differences_are_noticed(weights, work):
    ours, peer = load_ours(weights), load_peer(weights)
    require_equal(ours, peer, work)
    first = [side.trainer(work.pixels(2), work.targets(2))() for side in (ours, peer)]
    assert first[0] == pytest.approx(first[1], rel=KINDS[work.kind].loss_gap)
    require_equal(ours, peer, work)  # still, after a step of each
    with torch.no_grad():
        ours.model.get_parameter("decoder.heads.classes.0.weight").mul_(1.1)
    with pytest.raises(AssertionError, match="logits differ"):
        require_equal(ours, peer, work)


def test_steps_change_the_weights(weights, work):
    for side in (load_ours(weights), load_peer(weights)):
        step = side.trainer(work.pixels(2), work.targets(2))
        losses = [step() for _ in range(3)]
        assert losses[2] < losses[0]


@pytest.mark.slow
def test_the_page_tells_what_was_kept(tmp_path):
    rounds = [{"ours": 1.0, "peer": x} for x in (1.5, 1.2, 0.9)]
    peak = {"ours": 500.0, "peer": 1000.0, "ours libraries": 100.0, "peer libraries": 200.0}
    cases = [
        asdict(Case("dab", task, 480, 640, way, rounds, peak, ["computing in bf16"]))
        for task, way in (("forward", "fp32"), ("training step", "best"))
    ]
    parts = {
        "forward-dab": cases[:1],
        "train-dab": cases[1:],
        "peers": {"some": {"ms": 12.3, "parameters": 4.56}},
        "precision": [
            {"model": "scenes", "data": "scenes", "images": 3, "fp32": 0.5, "bf16": 0.4975}
        ],
        "roofline": roofline(1, smoke=True),
        "exports": {
            "threads": 2,
            "size": [480, 640],
            "beside the peer": {
                "peer": {"seconds": [0.4, 0.5, 0.3], "ratios": [1.0, 1.0, 1.0]},
                "OpenVINO bf16": {"seconds": [0.1, 0.1, 0.1], "ratios": [4.0, 5.0, 3.0]},
            },
        },
    }
    for name, found in parts.items():
        text = json.dumps({"machine": machine(1), "found": found})
        (tmp_path / f"{name}.json").write_text(text)
    write_results(tmp_path / "page.md", tmp_path)
    page = (tmp_path / "page.md").read_text()
    row = "| dab | 640x480 | forward, fp32 | 1.20 | 0.90 | 1.50 | 1.4 | 1.8 | missed | 1.000 |"
    assert row in page
    assert "| dab | 640x480 | best | 0.50 | 0.6 | 0.4 | bar met | 400 | 800 | 0.50 |" in page
    assert "| some | 12 | 4.6 |" in page
    assert "| 0.5000 | 0.4975 | -0.25 | missed |" in page
    assert "| dab-detr-nano | bf16 |" in page
    assert "| peer | 1.00 | 1.00 | 1.00 |  |  | 400 |" in page
    assert "| OpenVINO bf16 | 4.00 | 3.00 | 5.00 | 6.0 | missed | 100 |" in page
    assert f"torch {torch.__version__.partition('+')[0]}" in page


@pytest.mark.slow
def test_shares_of_the_time_add_up_to_all_of_it():
    (exact, rough) = roofline(1, smoke=True)["rows"]
    for row in (exact, rough):
        assert sum(row["groups"].values()) == pytest.approx(1)
        assert min(row["groups"][name] for name in ("convolutions", "linear", "attention")) > 0.01
    assert exact["operations"] == rough["operations"] > 1e6


@pytest.mark.slow
def test_growth_is_measured_in_processes_of_their_own(tiny_weights):
    paths = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    environment = os.environ | {"PYTHONPATH": paths}
    for axis, value in {"pixels": 64, "queries": 5, "batch": 2, "objects": 3}.items():
        assert axis in AXES
        point = measure(str(tiny_weights), axis, value, environment, rounds=1)
        assert not point.problem
        assert 0 < point.seconds < 60
        assert 100 < point.memory_mib < 4000
    assert measure(str(tiny_weights), "pixels", -1, environment, rounds=1).problem


def test_growth_is_fitted_to_what_was_measured():
    points = [Point(side, 1e-6 * side**4) for side in (100, 200, 400)]
    points.append(Point(800, problem="no memory"))
    assert exponent("pixels", points) == pytest.approx(2.0)  # of pixels, not of the side
    assert exponent("batch", points[:1]) is None


def test_verdicts():
    assert [verdict(x, 1.4, 1.8) for x in (1.3, 1.4, 1.9)] == ["missed", "bar met", "goal met"]
    assert [verdict(x, 0.6, 0.4, most=True) for x in (0.7, 0.5, 0.3)] == [
        *("missed", "bar met", "goal met")
    ]


@pytest.mark.slow
def test_the_whole_comparison_runs(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--out", str(tmp_path / "r.md")]
    command += [
        "--only",
        "forward",
        "train",
        "exports",
        "--models",
        "dab",
        "--results",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "r.md").read_text()
    assert "| dab | 0x0 | forward, fp32 |" in page
    assert "| dab | 0x0 | training step, best |" in page
    assert "| dab | 0x0 | training step, lean |" in page
    assert "| OpenVINO int8 in backbone, bf16 in the rest, fixed size |" in page


def test_operations_are_counted_whoever_multiplies(monkeypatch):
    detector, pixels = build(Config(), ["thing"]), torch.zeros(1, 3, 64, 64)
    counted = operations(detector, pixels)
    monkeypatch.setattr("dabdetr.kernels.onednn_wins", lambda: False)
    monkeypatch.setattr("benchmarks.roofline.onednn_wins", lambda: False)
    assert operations(detector, pixels) == counted > 1e6


def test_a_batch_for_torchvision_by_hand() -> None:
    """Without padding; corners in pixels of what is left, labels from 1, no box without an area."""
    from benchmarks.learning import for_torchvision

    padding = torch.zeros(2, 40, 60, dtype=torch.bool)
    padding[1, 20:] = True
    padding[1, :, 30:] = True
    boxes = torch.tensor([[0.5, 0.5, 0.5, 1.0], [0.5, 0.5, 1.0, 0.5], [0.2, 0.2, 0.0, 0.1]])
    targets = Targets(torch.tensor([3, 0, 1]), boxes, (1, 2))
    pixels, rows = for_torchvision(Images(torch.rand(2, 3, 40, 60), padding), targets)
    assert [tuple(each.shape) for each in pixels] == [(3, 40, 60), (3, 20, 30)]
    assert rows[0]["boxes"].tolist() == [[15, 0, 45, 40]]
    assert rows[1]["boxes"].tolist() == [[0, 5, 30, 15]]
    assert [row["labels"].tolist() for row in rows] == [[4], [1]]


def test_the_peer_is_a_runtime_that_is_evaluated_as_ours() -> None:
    from benchmarks.learning import PeerRuntime

    from dabdetr.inference.opening import open_model
    from dabdetr.presets import preset

    peer = PeerRuntime(torch.nn.Identity(), preset("dab-lite"), ["a"])  # pyright: ignore[reportArgumentType]
    assert open_model(peer) is peer
    for refused in (peer.check_questions, peer.answer):
        with pytest.raises(ValueError, match="no queries to ask"):
            refused()
