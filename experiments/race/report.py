"""A ladder's report, made of its finished runs alone: report.md, two CSV tables and curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.race.attention import images, look, table
from experiments.race.claims import (
    Verdict,
    best_detr,
    epochs_to,
    order,
    rise,
    speedup,
    verdicts,
)
from experiments.race.members import DETRS, LADDER, RUNGS, TITLES, differing, title, unfair
from experiments.race.plan import load_results
from experiments.race.results import RaceResults, tokens_of

from dabdetr.compare.curves import COLOURS, draw_curves
from dabdetr.compare.results import Spread
from dabdetr.files import write_atomically, write_csv
from dabdetr.structures.drawing import new_figure, save_figure
from dabdetr.text import markdown_table

LEVELS = tuple(level / 10 for level in range(1, 10))
"""AP at which epochs are counted."""

Table = list[list[str]]


def write_report(folder: Path) -> dict[str, Any]:
    """Write the report into ``folder``; what it says, as plain values."""
    results = load_results(folder)
    found = verdicts(results)
    ends, epochs = ends_table(results), epochs_table(results)
    parts = [
        "# The race\n",
        _about(results),
        "## Claims\n",
        markdown_table(claims_table(found)),
        "A difference is taken between runs of the same seed, and counts when zero lies "
        "outside its 95 % interval (Student's t over seeds); else, or with fewer than three "
        "seeds, there are not enough runs to tell.\n",
        "## Where they end\n",
        markdown_table(ends),
        "AP, AP50 and AP of small objects are those after the last epoch, mean ± standard "
        "deviation over seeds; times are of training, validation left out.\n",
        "## Epochs to an AP\n",
        markdown_table(epochs),
        "On straight lines between measured epochs. ÷: DETR's mean at its best rate over this "
        'mean. "2 of 3": so many seeds got there, and the mean is of those.\n',
        *_tokens(results, folder),
        *_rates(results),
        *_images(results, folder),
        *_looks(results, folder),
        "## What differs\n",
        *_fairness(results),
    ]
    write_csv(folder / "table.csv", ends)
    write_csv(folder / "epochs.csv", epochs)
    write_atomically(folder / "report.md", "\n".join(parts).encode())
    return {
        "report": str(folder / "report.md"),
        "claims": [verdict.to_dict() for verdict in found],
        "order": {str(size): order(results, size) for size in results.sizes},
        "unfinished": list(results.unfinished),
    }


def _about(results: RaceResults) -> str:
    runs = results.finished
    seeds = sorted({run.seed for run in runs})
    precisions = sorted({run.config.training.precision for run in runs})
    lines = [
        f"{len(runs)} finished runs; seeds {', '.join(map(str, seeds))}; "
        f"{', '.join(precisions)}; longer sides of "
        f"{', '.join(f'{size} px ({_tokens_at(results, size)} tokens)' for size in results.sizes)}."
    ]
    if results.unfinished:
        lines.append(f"Not finished, and left out: {', '.join(results.unfinished)}.")
    return "\n".join(lines) + "\n"


def _tokens_at(results: RaceResults, size: int) -> int:
    return tokens_of(results.at(size).finished[0])


def claims_table(found: Sequence[Verdict]) -> Table:
    """One line for each claim and size."""
    head = ["claim", "px", "verdict", "numbers"]
    return [head, *([v.claim, str(v.size), f"**{v.verdict}**", v.numbers] for v in found)]


def ends_table(results: RaceResults) -> Table:
    """One line for each rung and size."""
    table = [
        ["px", "rung", "member", "seeds", "epochs", "AP", "AP50", "AP small", "minutes",
         "processor seconds an epoch"]
    ]  # fmt: skip
    for size in results.sizes:
        at_size = results.at(size)
        for rung in at_size.members():
            runs = at_size.of(rung)
            clock = Spread.of([run.curve("seconds", "seconds")[-1][0] / 60 for run in runs])
            work = Spread.of(
                [run.curve("seconds", "cpu_seconds")[-1][0] / run.epochs for run in runs]
            )
            ends = [at_size.ends(rung, column) for column in ("AP", "AP50", "APS")]
            table.append(
                [
                    *(str(size), rung, title(rung), str(len(runs)), str(runs[0].epochs)),
                    *("–" if end is None else end.shown() for end in ends),
                    *(clock.shown(1), work.shown(1)),
                ]
            )
    return table


def epochs_table(results: RaceResults) -> Table:
    """Epochs of each rung to each level of AP that some rung gets to, and DETR's over them."""
    highest = max((end for run in results.finished if (end := run.end()) is not None), default=0.0)
    levels = [level for level in LEVELS if level <= highest] or [LEVELS[0]]
    table = [["px", "rung", *(f"AP {level:.1f}" for level in levels)]]
    for size in results.sizes:
        detr = best_detr(results, size)
        for rung in results.at(size).members():
            cells = [_epochs_cell(results, size, rung, level, detr) for level in levels]
            table.append([str(size), rung, *cells])
    return table


def _epochs_cell(results: RaceResults, size: int, rung: str, level: float, detr: str | None) -> str:
    taken = _epochs(results, size, rung, level)
    reached = [epochs for epochs in taken if epochs is not None]
    if not reached:
        return "–"
    spread = Spread.of(reached)
    text = spread.shown(1)
    if len(reached) < len(taken):
        text += f" ({len(reached)} of {len(taken)})"
    detrs = _epochs(results, size, detr, level) if detr else []
    if rung != detr and detrs and None not in detrs and len(reached) == len(taken):
        ratio = Spread.of([n for n in detrs if n is not None]).mean / max(spread.mean, 1e-9)
        text += f", ÷ {ratio:.1f}"
    return text


def _epochs(results: RaceResults, size: int, rung: str, level: float) -> list[float | None]:
    return [epochs_to(run.curve(), level) for run in results.at(size).of(rung)]


def _tokens(results: RaceResults, folder: Path) -> list[str]:
    """The first claim against the number of tokens, where several sizes raced."""
    rows = []
    for size in results.sizes:
        for rung in ("conditional", "dab", "dab-start"):
            found = speedup(results, size, rung)
            if found is None:
                continue
            most = "" if found.reached == len(found.ratios) else "≤ "
            rows.append(
                [
                    *(str(size), str(_tokens_at(results, size)), rung, found.detr),
                    *(f"{found.target:.3f}", str(found.detr_epochs)),
                    *(f"{found.reached} of {len(found.ratios)}",),
                    most + Spread.of(found.ratios).shown(1),
                ]
            )
    if not rows:
        return []
    head = ["px", "tokens", "rung", "against", "its last AP", "its epochs", "seeds there", "ratio"]
    parts = ["## A tenth of DETR's epochs, against tokens\n", markdown_table([head, *rows])]
    if len(results.sizes) > 1:
        draw_ratios(folder / "tokens.png", results, ("conditional", "dab", "dab-start"))
        parts.append("![Ratio of epochs against tokens](tokens.png)\n")
    return parts


def draw_ratios(path: Path, results: RaceResults, rungs: Sequence[str]) -> None:
    """How many times fewer epochs each rung takes to where DETR ends, against tokens."""
    figure = new_figure(6, 4.2)
    panel, bounds = figure.subplots(), []
    for number, rung in enumerate(rungs):
        found = {size: speedup(results, size, rung) for size in results.sizes}
        points = [(size, Spread.of(each.ratios)) for size, each in found.items() if each]
        if points:
            tokens = [tokens_of(results.at(size).of(rung)[0]) for size, _ in points]
            heights = [spread.mean for _, spread in points]
            bars = [spread.deviation or 0.0 for _, spread in points]
            panel.errorbar(
                *(tokens, heights, bars),
                color=COLOURS[number % 8], marker="o", capsize=3, label=title(rung),
            )  # fmt: skip
            most = [
                (tokens_of(results.at(size).of(rung)[0]), Spread.of(each.ratios).mean)
                for size, each in found.items()
                if each and each.reached < len(each.ratios)
            ]
            bounds += panel.plot(
                *([x for x, _ in most], [y for _, y in most]),
                color=COLOURS[number % 8], marker="v", markersize=11, markerfacecolor="white",
                linestyle="none", zorder=3,
            ) if most else []  # fmt: skip
    panel.axhline(10, color="grey", linestyle="--", linewidth=1)
    panel.set_xlabel("tokens of the finest map")
    panel.set_ylabel("DETR's epochs ÷ its own, to where DETR ends")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    if bounds:
        bounds[0].set_label("at most: not every seed got there")
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=8)
    save_figure(figure, path, dpi=100)


def _rates(results: RaceResults) -> list[str]:
    """DETR's rates and whether its curves are flat at the end."""
    rows = []
    for size in results.sizes:
        at_size = results.at(size)
        rates = {rung: runs[0].config.training.lr for rung in DETRS if (runs := at_size.of(rung))}
        for rung, rate in rates.items():
            runs, end = at_size.of(rung), at_size.ends(rung)
            if end is not None:
                begun = _begun(results, size, rate / RUNGS[rung].rate)
                tried = list(rates.values())
                best = _best(rate, tried, begun) if rung == best_detr(results, size) else ""
                gain = f"{rise(runs):+.3f}"
                rows.append([str(size), rung, f"{rate:g}", end.shown(), gain, best])
    if not rows:
        return []
    head = ["px", "rung", "rate", "last AP", "gained in the last tenth", ""]
    return ["## DETR's rate\n", markdown_table([head, *rows])]


def _begun(results: RaceResults, size: int, common: float) -> list[float]:
    """Rates of DETR whose runs are there and not finished."""
    unfinished = results.unfinished
    begun = [d for d in DETRS if any(run.startswith(f"{d}-{size}-") for run in unfinished)]
    return [common * RUNGS[name].rate for name in begun]


def _best(rate: float, tried: Sequence[float], begun: Sequence[float]) -> str:
    """Best of those tried; at their edge, a better one may lie beyond it."""
    if min(tried) < rate < max(tried):
        return "best"
    lower = rate == min(tried)
    beyond = any(each < rate if lower else each > rate for each in begun)
    return f"best; {'lower' if lower else 'higher'} was not {'finished' if beyond else 'tried'}"


def _images(results: RaceResults, folder: Path) -> list[str]:
    """Curves: the ladder with DETR at its best rate, the parts of DAB, and the rates of DETR."""
    parts = ["## Curves\n"]
    for size in results.sizes:
        raced, best = results.at(size).members(), best_detr(results, size)
        others = [rung for rung in raced if rung in LADDER and rung not in DETRS]
        groups = {
            "ladder": [best, *others] if best else others,
            "parts": [r for r in raced if r == "dab-start" or r not in (*LADDER, *DETRS)],
            "rates": [rung for rung in raced if rung in DETRS],
        }
        for name, rungs in groups.items():
            if len(rungs) > 1 or (rungs and name == "ladder"):
                file = f"curves-{name}-{size}.png"
                draw_curves(folder / file, results.at(size), rungs, TITLES)
                parts.append(f"![AP of the {name} at {size} px against epochs and time]({file})\n")
    parts.append(
        "By the clock, runs share the machine with each other and with all else, pauses included; "
        "a processor's minutes are what compares.\n"
    )
    return parts


def _looks(results: RaceResults, folder: Path) -> list[str]:
    """Where the members look, as far as their models are there or were measured before."""
    parts = []
    for size in results.sizes:
        rows = look(folder, results, size)
        if rows:
            parts += [f"### At {size} px\n", markdown_table(table(rows))]
        for file in images(folder, size):
            parts.append(f"![Attention of DETR, Conditional and DAB on one object]({file})\n")
    explained = (
        "Of the queries that found an object (IoU 0.5 or more), in the last decoder layer: share "
        "of the attention inside the object's box, beside the share of the image that the box "
        "covers; peaks at least half as high as the highest, a head; and how the attention's width "
        "and height go with the box's (correlation of logarithms). Position: its part of the "
        "product alone.\n"
    )
    return ["## Where they look\n", explained, *parts] if parts else []


def _fairness(results: RaceResults) -> list[str]:
    """Every rung's own fields, read from the runs' configs, and any that nobody should own."""
    base = next((r for r in results.finished if r.member == "dab-start"), results.finished[0])
    table, wrong = [["rung", f"unlike {base.member}"]], set()
    for rung in dict.fromkeys(run.member for run in results.finished):
        fields: dict[str, Any] = {}
        for run in results.finished:
            if run.member == rung:
                fields |= differing(base.config, run.config, recorded=True)
        # Size and seed tell runs of a rung apart, and the start is the body for that size.
        apart = ("image.size", "image.max_size", "training.seed", "training.start")
        fields = {path: values for path, values in fields.items() if path not in apart}
        allowed = ("training.lr", "training.backbone_lr", "training.epochs")
        free = allowed if rung in DETRS else ()
        wrong |= {f"{rung}: {path}" for path in unfair(p for p in fields if p not in free)}
        shown = [f"`{path}` {_value(values[1])}" for path, values in fields.items()]
        table.append([rung, "; ".join(shown) or "–"])
    fair = (
        "All runs share backbone, width, depth, queries, images and recipe; what is listed is "
        "all in which they differ, besides size and seed.\n"
    )
    unlike = f"**These runs are not alike where they should be: {', '.join(sorted(wrong))}.**\n"
    return [unlike if wrong else fair, markdown_table(table)]


def _value(value: Any) -> str:
    return "none" if value is None else str(value)
