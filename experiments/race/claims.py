"""The claims of DAB-DETR and its kin, judged by numbers: holds, does not hold, not enough runs.

A difference is taken between runs of the same seed and counts when zero lies outside its 95 %
interval (Student's t over seeds). Else, or with fewer than three seeds, there are not enough runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from experiments.race.members import DETRS
from experiments.race.results import RaceResults

from dabdetr.compare.results import Point, Result, Spread

HOLDS, FAILS, FEW = "holds", "does not hold", "not enough runs"
SEEDS = 3
"""Fewer tell nothing: their spread is not known."""
TENTH = 10.0
FLAT = 0.01
"""AP that a curve may still gain over the last tenth of its epochs and be called flat."""


@dataclass(frozen=True)
class Pair:
    """The claim that ``better`` ends above ``worse``; "detr" stands for DETR at its best rate."""

    serves: str
    claim: str
    better: str
    worse: str
    column: str = "AP"


PAIRS = (
    Pair("order", "Conditional DETR ends above DETR", "conditional", "detr"),
    Pair("order", "DAB as released ends above Conditional", "dab", "conditional"),
    Pair("order", "DAB gains by Conditional's start", "dab-start", "dab"),
    Pair(
        "size", "DAB beats Conditional at equal epochs (both starts alike)",
        "dab-start", "conditional",
    ),
    Pair("denoising", "denoising beats none (dense)", "dn-dab", "dab-start"),
    Pair(
        "denoising", "denoising beats none (deformable)", "dn-dab-deformable", "dab-deformable"
    ),
    Pair(
        "deformable", "deformable beats dense on small objects",
        "dab-deformable", "dab-start", "APS",
    ),
    Pair("dino", "DINO beats DN-DAB-Deformable", "dino", "dn-dab-deformable"),
    Pair("collaborative", "collaborative heads beat none", "co-dino", "dino"),
    Pair("parts", "size modulation helps", "dab-start", "no-size"),
    Pair("parts", "position modulation helps", "dab-start", "no-position"),
    Pair("parts", "layer-by-layer update helps", "dab-start", "no-update"),
    Pair("parts", "temperature 20 beats 10000", "dab-start", "temperature-10000"),
    Pair("parts", "4 numbers beat 2, with all that boxes allow", "dab-start", "points"),
    Pair(
        "parts", "4 numbers beat 2, without size modulation and update",
        "no-size-no-update", "points",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """A claim at one size, what became of it, and the numbers that say so."""

    serves: str
    claim: str
    size: int
    verdict: str
    numbers: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def judge(values: Sequence[float], least: float = 0.0) -> str:
    """Whether the mean lies above ``least``, as far as these values can tell."""
    if len(values) < SEEDS:
        return FEW
    spread = Spread.of(values)
    if spread.mean - spread.margin > least:
        return HOLDS
    return FAILS if spread.mean + spread.margin < least else FEW


def best_detr(results: RaceResults, size: int) -> str | None:
    """DETR at the rate that ends highest on average; None where it did not race."""
    results = results.at(size)
    ends = {name: results.ends(name) for name in DETRS}
    raced = {name: end.mean for name, end in ends.items() if end is not None}
    return max(raced, key=lambda name: raced[name]) if raced else None


def order(results: RaceResults, size: int) -> list[str]:
    """Rungs at ``size`` from low to high, by mean AP after as many epochs as all have had."""
    results = results.at(size)
    epochs = min((r.epochs for r in results.finished), default=0)
    heights: dict[str, float] = {}
    for name in results.members():
        values = [v for r in results.of(name) if (v := r.at(epochs)) is not None]
        if values:
            heights[name] = Spread.of(values).mean
    return sorted(heights, key=lambda name: heights[name])


def verdicts(results: RaceResults) -> list[Verdict]:
    """Every claim that some finished run bears upon, size by size.

    A claim that lacks a side everywhere says so; one tried at some size is left out at others.
    """
    found, tried = [], {}
    for pair in PAIRS:
        tried[pair] = [size for size in results.sizes if all(_sides(results, size, pair))]
    for size in results.sizes:
        for name in ("dab", "dab-start"):
            found.append(_tenth(results, size, name))
        for pair in PAIRS:
            if size in tried[pair] or not tried[pair]:
                found.append(_pair(results, size, pair))
    return [verdict for verdict in found if verdict is not None]


def _sides(results: RaceResults, size: int, pair: Pair) -> tuple[list[Result], list[Result]]:
    worse = best_detr(results, size) if pair.worse == "detr" else pair.worse
    results = results.at(size)
    return results.of(pair.better), results.of(worse or "")


def _pair(results: RaceResults, size: int, pair: Pair) -> Verdict | None:
    worse = best_detr(results, size) if pair.worse == "detr" else pair.worse
    sides = _sides(results, size, pair)
    if not any(sides):
        return None
    by_seed = [{run.seed: run for run in side} for side in sides]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    if not seeds:
        missing = pair.better if not sides[0] else worse
        text = f"no finished run of {missing}" if not all(sides) else "no seed that both have"
        return Verdict(pair.serves, pair.claim, size, FEW, text)
    couples = [(by_seed[0][seed], by_seed[1][seed]) for seed in seeds]
    epochs = min(run.epochs for couple in couples for run in couple)
    gaps = {share: _gaps(couples, epochs * share, pair.column) for share in (0.25, 0.5, 1.0)}
    last = gaps[1.0]
    if not last:
        text = f"{pair.column} was not measured"
        return Verdict(pair.serves, pair.claim, size, FEW, text)
    early = [
        f"{Spread.of(values).mean:+.3f} at {share:.0%}"
        for share, values in gaps.items()
        if values and share < 1
    ]
    of = f"{pair.better} − {worse} in {pair.column} after {epochs} epochs"
    text = f"{of}: {_signed(last)}, {len(last)} {'seed' if len(last) == 1 else 'seeds'}"
    text += f" ({', '.join(early)} of the epochs)" if early else ""
    return Verdict(pair.serves, pair.claim, size, judge(last), text)


def _gaps(couples: Sequence[tuple[Result, Result]], epoch: float, column: str) -> list[float]:
    pairs = [(a.at(epoch, column), b.at(epoch, column)) for a, b in couples]
    return [a - b for a, b in pairs if a is not None and b is not None]


def _signed(values: Sequence[float]) -> str:
    spread = Spread.of(values)
    if spread.error is None:
        return f"{spread.mean:+.3f}"
    return f"{spread.mean:+.3f} ± {spread.error:.3f} (standard error; 95 %: ± {spread.margin:.3f})"


@dataclass(frozen=True)
class Speedup:
    """How many times fewer epochs a rung takes to reach where DETR ends.

    ratios   one for each seed; of a seed that never gets there, the most it can be
    reached  seeds that got there
    """

    target: float
    detr: str
    detr_epochs: int
    ratios: tuple[float, ...]
    reached: int
    rise: float

    @property
    def verdict(self) -> str:
        """Whether a tenth of the epochs is enough."""
        if self.reached == len(self.ratios):
            return judge(self.ratios, TENTH)
        # A seed that never got there has only a bound: it can deny the claim, not grant it.
        verdict = judge(self.ratios, TENTH)
        return FEW if verdict == HOLDS else verdict


def epochs_to(curve: Sequence[Point], level: float) -> float | None:
    """The x at which the curve first reaches ``level``, interpolated from (0, 0); None: never."""
    x0, y0 = 0.0, 0.0
    for x, y in curve:
        if y >= level:
            return x0 + (x - x0) * (level - y0) / (y - y0) if y > y0 else x
        x0, y0 = x, y
    return None


def speedup(results: RaceResults, size: int, rung: str) -> Speedup | None:
    """Against DETR at its best rate; None where one of them did not race."""
    detr = best_detr(results, size)
    results = results.at(size)
    runs = results.of(rung)
    end = results.ends(detr) if detr else None
    if detr is None or end is None or not runs:
        return None
    detrs = results.of(detr)
    epochs = detrs[0].epochs
    taken = [epochs_to(run.curve(), end.mean) for run in runs]
    ratios = tuple(
        epochs / (run.epochs if n is None else max(n, 1e-9))
        for run, n in zip(runs, taken, strict=True)
    )
    return Speedup(end.mean, detr, epochs, ratios, sum(n is not None for n in taken), rise(detrs))


def rise(runs: Sequence[Result]) -> float:
    """AP gained over the last tenth of the epochs, on average: near 0 where a curve is flat."""
    gains = [(run.end() or 0.0) - (run.at(0.9 * run.epochs) or 0.0) for run in runs]
    return Spread.of(gains).mean


def _tenth(results: RaceResults, size: int, rung: str) -> Verdict | None:
    found = speedup(results, size, rung)
    if found is None:
        return None
    claim = f"{rung} reaches DETR's last AP in at most a tenth of DETR's epochs"
    ratio = Spread.of(found.ratios)
    share = "" if found.reached == len(found.ratios) else "at least "
    share = f", in {share}1/{ratio.shown(1)} of the epochs" if found.reached else ""
    flat = "flat" if found.rise < FLAT else "still rising, so the ratio is not final"
    text = (
        f"{found.detr} ends at AP {found.target:.3f} after {found.detr_epochs} epochs (its curve "
        f"is {flat}: {found.rise:+.3f} in the last tenth); {found.reached} of "
        f"{len(found.ratios)} seeds of {rung} get there{share}"
    )
    return Verdict("tenth", claim, size, found.verdict, text)


def in_short_order(names: Sequence[str]) -> bool:
    """Whether a short race came in the order that it should, low to high.

    DETR is last. DAB as released comes before it, but its start keeps it behind Conditional, and
    behind itself with Conditional's start; which of those two leads is left open.
    """
    return list(names[:2]) == ["detr", "dab"] and set(names[2:]) == {"conditional", "dab-start"}
