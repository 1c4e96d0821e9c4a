"""The race's arithmetic, on records that are made up so that every number is known."""

from __future__ import annotations

import csv
import math
import re
import shutil
from pathlib import Path

import pytest
from experiments.race.claims import (
    FAILS,
    FEW,
    HOLDS,
    Verdict,
    best_detr,
    epochs_to,
    in_short_order,
    judge,
    order,
    rise,
    speedup,
    verdicts,
)
from experiments.race.plan import load_results
from experiments.race.report import write_report
from experiments.race.results import RaceResults
from PIL import Image
from tests.race.conftest import ROOT, Fabricate, straight

from dabdetr.compare.results import Spread


def test_epochs_to_a_level() -> None:
    curve = [(2.0, 0.2), (4.0, 0.3), (6.0, 0.25), (8.0, 0.6)]
    assert epochs_to(curve, 0.1) == pytest.approx(1.0)  # half way from (0, 0)
    assert epochs_to(curve, 0.2) == pytest.approx(2.0)
    assert epochs_to(curve, 0.275) == pytest.approx(3.5)  # the first time, not after the dip
    assert epochs_to(curve, 0.425) == pytest.approx(7.0)
    assert epochs_to(curve, 0.61) is None
    assert epochs_to([], 0.1) is None
    assert epochs_to([(1.0, 0.0), (2.0, 0.0)], 0.1) is None


def test_spread() -> None:
    spread = Spread.of([0.1, 0.2, 0.3])
    assert (spread.mean, spread.deviation) == (pytest.approx(0.2), pytest.approx(0.1))
    assert spread.error == pytest.approx(0.1 / math.sqrt(3))
    assert spread.shown() == "0.200 ± 0.100"
    assert Spread.of([0.25]).shown(2) == "0.25"
    assert Spread.of([0.25]).error is None


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.1, 0.1, 0.11], HOLDS),
        ([-0.1, -0.1, -0.11], FAILS),
        ([0.1, -0.1, 0.05], FEW),
        ([0.5], FEW),
        ([], FEW),
        ([0.5, 0.5], FEW),
        ([0.0119, 0.02, 0.0281], FEW),  # .020, and 4.303 standard errors are .0201
        ([0.012, 0.02, 0.028], HOLDS),  # .0199
        ([0.0076, 0.02, 0.02, 0.02, 0.0324], HOLDS),  # 2.776 of five seeds: .0109
        ([-0.0028, 0.02, 0.02, 0.02, 0.0428], FEW),  # .0200
    ],
)
def test_judge(values: list[float], verdict: str) -> None:
    assert judge(values) == verdict


def test_judge_against_a_number() -> None:
    assert judge([11.0, 11.1, 11.2], 10) == HOLDS
    assert judge([9.0, 9.1, 9.2], 10) == FAILS
    assert judge([9.0, 10.0, 11.0], 10) == FEW


def found(results: RaceResults, claim: str, size: int = 96) -> Verdict:
    (verdict,) = [v for v in verdicts(results) if v.claim.startswith(claim) and v.size == size]
    return verdict


def test_a_tenth_of_the_epochs(fabricate: Fabricate) -> None:
    """DETR ends at .4 after 40 epochs. DAB is there within 2, or within 5; or never."""
    for seed in range(3):
        folder = fabricate("detr", [*straight(0.4, 20), *[0.4] * 20], seed)
        fabricate("dab-start", [0.3, 0.5 + 0.01 * seed, *[0.6] * 8], seed)
        fabricate("dab", straight(0.8, 10), seed)
    results = load_results(folder)
    fast, slow = speedup(results, 96, "dab-start"), speedup(results, 96, "dab")
    assert fast is not None
    assert slow is not None
    # From .3 at epoch 1 to .4: half way to .5; 40 / 1.5.
    assert fast.ratios[0] == pytest.approx(40 / 1.5)
    assert fast.ratios[2] == pytest.approx(40 / (1 + 0.1 / 0.22))
    assert slow.ratios == pytest.approx((8.0, 8.0, 8.0))
    assert found(results, "dab-start reaches").verdict == HOLDS
    verdict = found(results, "dab reaches")
    assert verdict.verdict == FAILS
    assert "detr ends at AP 0.400 after 40 epochs (its curve is flat" in verdict.numbers
    assert "3 of 3 seeds of dab get there, in 1/8.0 ± 0.0 of the epochs" in verdict.numbers


def test_a_level_never_reached_is_a_bound(fabricate: Fabricate) -> None:
    for seed in range(3):
        folder = fabricate("detr", straight(0.5, 40), seed)
        fabricate("dab-start", straight(0.4, 10), seed)  # 10 of 40 epochs: 1/4 at most
    verdict = found(load_results(folder), "dab-start reaches")
    assert verdict.verdict == FAILS
    assert verdict.numbers.endswith("0 of 3 seeds of dab-start get there")
    assert "still rising, so the ratio is not final: +0.050" in verdict.numbers


def test_where_some_seeds_never_arrive_the_share_is_the_least_it_can_be(
    fabricate: Fabricate,
) -> None:
    for seed, end in enumerate((0.4, 0.6, 0.8)):
        folder = fabricate("detr", straight(0.5, 40), seed)
        fabricate("dab-start", straight(end, 10), seed)  # never, after 8.33, after 6.25
    numbers = found(load_results(folder), "dab-start reaches").numbers
    assert "2 of 3 seeds of dab-start get there, in at least 1/5.1" in numbers


def test_a_bound_above_ten_tells_nothing(fabricate: Fabricate) -> None:
    for seed in range(3):
        folder = fabricate("detr", [0.5] * 40, seed)
        fabricate("dab", straight(0.4, 3), seed, overrides=["training.epochs=3"])
    assert found(load_results(folder), "dab reaches").verdict == FEW


def test_pairs_are_taken_by_seed_at_equal_epochs(fabricate: Fabricate) -> None:
    """Seeds differ more than members do: only the difference within a seed tells."""
    for seed, luck in enumerate((0.0, 0.1, 0.2)):
        folder = fabricate("conditional", straight(0.4 + luck, 10), seed)
        fabricate("dab-start", straight(0.45 + luck + 0.001 * seed, 10), seed)
        fabricate("detr", straight(1.0, 40), seed)  # .25 after ten epochs
        fabricate("dab", straight(0.4 - luck, 10), seed)
    results = load_results(folder)
    verdict = found(results, "DAB beats Conditional")
    assert verdict.verdict == HOLDS
    assert "dab-start − conditional in AP after 10 epochs: +0.051 ± 0.001" in verdict.numbers
    assert "(+0.010 at 25%, +0.025 at 50% of the epochs)" in verdict.numbers
    first = found(results, "Conditional DETR ends above DETR")
    assert first.verdict == HOLDS
    assert "+0.250" in first.numbers
    assert found(results, "DAB as released ends").verdict == FEW  # −.0, −.2, −.4
    assert order(results, 96) == ["detr", "dab", "conditional", "dab-start"]


def test_small_objects_have_their_own_column(fabricate: Fabricate) -> None:
    for seed in range(3):
        folder = fabricate("dab-start", straight(0.6, 10), seed, small=0.5)
        fabricate("dab-deformable", straight(0.5, 10), seed, small=0.9)
    verdict = found(load_results(folder), "deformable beats dense")
    assert verdict.verdict == HOLDS
    assert "in APS after 10 epochs: +0.150" in verdict.numbers


def test_one_seed_or_one_side_is_not_enough(fabricate: Fabricate) -> None:
    folder = fabricate("dab-start", straight(0.6, 10), 0)
    fabricate("no-size", straight(0.1, 10), 0)
    fabricate("dino", straight(0.1, 10), 0)
    results = load_results(folder)
    assert found(results, "size modulation helps").verdict == FEW
    assert found(results, "collaborative").numbers == "no finished run of co-dino"
    claims = {verdict.claim for verdict in verdicts(results)}
    assert "Conditional DETR ends above DETR" not in claims  # nothing ran that bears upon it


def test_a_claim_is_judged_at_the_sizes_where_it_was_tried(fabricate: Fabricate) -> None:
    fabricate("dab-start", straight(0.6, 10), 0, 160)
    fabricate("dab-start", straight(0.6, 10), 0, 96)
    folder = fabricate("no-size", straight(0.5, 10), 0, 96)
    claims = [(v.claim, v.size) for v in verdicts(load_results(folder))]
    assert [size for claim, size in claims if claim == "size modulation helps"] == [96]
    assert [size for claim, size in claims if claim == "position modulation helps"] == [96, 160]


def test_rates_of_detr_are_drawn_apart(
    fabricate: Fabricate, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, list[str]] = {}
    monkeypatch.setattr(
        "experiments.race.report.draw_curves",
        lambda path, results, rungs, titles: drawn.update({path.name: list(rungs)}),
    )
    fabricate("detr", straight(0.4, 40))
    fabricate("detr-slow", straight(0.5, 40))
    folder = fabricate("dab-start", straight(0.6, 10))
    text = Path(write_report(folder)["report"]).read_text()
    assert drawn == {
        "curves-ladder-96.png": ["detr-slow", "dab-start"],  # at its best rate
        "curves-rates-96.png": ["detr", "detr-slow"],
    }
    assert "(curves-rates-96.png)" in text
    assert "(curves-parts-96.png)" not in text  # no part was switched off


def test_a_best_rate_at_the_edge_of_those_tried_is_told(fabricate: Fabricate) -> None:
    def best(folder: Path) -> str:
        text = Path(write_report(folder)["report"]).read_text()
        return next(line for line in text.splitlines() if "| best" in line)

    fabricate("detr", straight(0.3, 40))
    folder = fabricate("detr-slow", straight(0.5, 40))
    assert best(folder).startswith("| 96 | detr-slow | 0.0004 |")
    assert best(folder).endswith("| best; lower was not tried |")
    assert best(fabricate("detr-slower", straight(0.4, 40))).endswith("| +0.050 | best |")
    assert best(fabricate("detr-fast", straight(0.6, 40))).endswith(
        "| best; higher was not tried |"
    )


def test_a_rate_that_was_begun_is_not_called_untried(fabricate: Fabricate) -> None:
    folder = fabricate("detr", straight(0.6, 40))
    fabricate("detr-slow", straight(0.5, 40))
    (folder / "race" / "detr-slower-96-0").mkdir()
    (folder / "race" / "detr-fast-160-0").mkdir()
    assert "| best; higher was not tried |" in Path(write_report(folder)["report"]).read_text()
    (folder / "race" / "detr-fast-96-0").mkdir()
    assert "| best; higher was not finished |" in Path(write_report(folder)["report"]).read_text()


def test_others_are_held_against_detr_at_its_best_rate(fabricate: Fabricate) -> None:
    for seed in range(3):
        folder = fabricate("detr", [0.3] * 40, seed)
        fabricate("detr-fast", [0.2] * 40, seed)
        fabricate("detr-slow", [0.5] * 40, seed)
        fabricate("conditional", [0.4] * 10, seed)
    results = load_results(folder)
    assert best_detr(results, 96) == "detr-slow"
    assert found(results, "Conditional DETR ends above DETR").verdict == FAILS
    assert best_detr(results, 160) is None


def test_rise(fabricate: Fabricate) -> None:
    folder = fabricate("dab", straight(0.5, 10))
    assert rise(load_results(folder).of("dab")) == pytest.approx(0.05)


def test_unfinished_runs_are_left_out_and_told(fabricate: Fabricate) -> None:
    folder = fabricate("dab", straight(0.5, 10))
    fabricate("conditional", straight(0.5, 9))
    results = load_results(folder)
    assert [run.member for run in results.finished] == ["dab"]
    assert results.unfinished == ("conditional-96-0",)
    assert "left out: conditional-96-0" in Path(write_report(folder)["report"]).read_text()


def test_unmeasured_epochs(fabricate: Fabricate) -> None:
    folder = fabricate("dab", [None, 0.2, None, 0.4, None, 0.6, None, 0.7, None, 0.8])
    (run,) = load_results(folder).finished
    assert run.curve()[:2] == [(2.0, 0.2), (4.0, 0.4)]
    assert run.curve(over="seconds")[1] == (240.0, 0.4)
    assert run.curve(over="cpu_seconds")[1] == (120.0, 0.4)
    assert run.at(5) == 0.4
    assert run.at(1) is None


def test_report(fabricate: Fabricate) -> None:
    for size in (96, 160):
        for seed in range(3):
            folder = fabricate("detr", [*straight(0.4, 30), *[0.4] * 10], seed, size)
            fabricate("dab", straight(0.5 + 0.01 * seed, 10), seed, size)
            fabricate("no-size", straight(0.3, 10), seed, size)
            fabricate("dab-start", straight(0.6, 10), seed, size)
    document = write_report(folder)
    text = (folder / "report.md").read_text()
    for line in text.splitlines():  # no raw floats, no broken tables
        assert not re.search(r"\d\.\d{6}", line)
    assert document["order"]["96"] == ["detr", "no-size", "dab", "dab-start"]
    assert len(document["claims"]) == text.count("| **")
    ends = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    dab = next(row for row in ends if row["rung"] == "dab" and row["px"] == "96")
    assert dab["AP"] == "0.510 ± 0.010"
    assert dab["AP small"] == "0.255 ± 0.005"
    assert (dab["minutes"], dab["processor seconds an epoch"]) == ("10.0 ± 0.0", "30.0 ± 0.0")
    epochs = list(csv.DictReader((folder / "epochs.csv").read_text().splitlines()))
    start = next(row for row in epochs if row["rung"] == "dab-start" and row["px"] == "160")
    # 10 × .3/.6 epochs; DETR takes 30 × .3/.4
    assert start["AP 0.3"] == "5.0 ± 0.0, ÷ 4.5"
    assert start["AP 0.6"].startswith("10.0 ± 0.0")
    assert next(row for row in epochs if row["rung"] == "detr")["AP 0.6"] == "–"
    for file in re.findall(r"\]\((.+\.png)\)", text):
        with Image.open(folder / file) as image:
            assert image.width > 500
    assert {"tokens.png", "curves-ladder-96.png", "curves-parts-160.png"} <= {
        path.name for path in folder.iterdir()
    }
    assert "96 px (144 tokens), 160 px (400 tokens)" in text
    assert "All runs share backbone" in text
    assert "`model.decoder.cross_attention.modulate_size` False" in text


def test_the_report_tells_of_unfair_runs(fabricate: Fabricate) -> None:
    folder = fabricate("dab-start", straight(0.6, 10))
    fabricate("dab", straight(0.6, 10), overrides=["training.batch=8"])
    text = Path(write_report(folder)["report"]).read_text()
    assert "not alike where they should be: dab: training.batch." in text


def test_seeds_that_do_not_get_there_are_told(fabricate: Fabricate) -> None:
    folder = fabricate("dab", straight(0.6, 10), 0)
    fabricate("dab", straight(0.5, 10), 1)
    fabricate("dab", straight(0.5, 10), 2)
    write_report(folder)
    (row,) = csv.DictReader((folder / "epochs.csv").read_text().splitlines())
    assert row["AP 0.6"] == "10.0 (1 of 3)"


def test_nothing_to_report(tmp_path: Path, fabricate: Fabricate) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no comparison in .*expected race/"):
        write_report(tmp_path / "elsewhere")
    folder = fabricate("dab", straight(0.6, 3))
    with pytest.raises(ValueError, match=r"no run in .* is finished"):
        write_report(folder)


@pytest.mark.parametrize(
    ("names", "fine"),
    [
        (["detr", "dab", "conditional", "dab-start"], True),
        (["detr", "dab", "dab-start", "conditional"], True),
        (["dab", "detr", "conditional", "dab-start"], False),
        (["detr", "conditional", "dab", "dab-start"], False),
        (["detr", "dab", "conditional"], False),
    ],
)
def test_order_of_a_short_race(names: list[str], fine: bool) -> None:
    assert in_short_order(names) is fine


KEPT = sorted(path.parent for path in (ROOT / "experiments" / "ladder").glob("*/report.md"))


@pytest.mark.parametrize("folder", KEPT, ids=[folder.name for folder in KEPT])
def test_the_kept_reports_are_what_their_records_say(folder: Path, tmp_path: Path) -> None:
    """Letter for letter; weights are not kept, so where members look is what was measured then."""
    copy = shutil.copytree(folder, tmp_path / folder.name)
    write_report(copy)
    for name in ("report.md", "table.csv", "epochs.csv"):
        assert (copy / name).read_text() == (folder / name).read_text(), name
