"""The report of a comparison: a table, curves, and a page of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dabdetr.compare.plan import RUNS, SETTINGS, Settings
from dabdetr.compare.results import Results, Spread
from dabdetr.files import write_atomically, write_csv
from dabdetr.text import markdown, markdown_table

HEAD = ("model", "seeds", "epochs", "AP", "AP50", "AP small", "gain", "minutes", "memory MiB")
NOTES = (
    "AP, AP50 and AP of small objects are those after the last epoch, mean ± standard deviation "
    "over seeds. Gain: AP minus that of the first model with the same seed, mean ± half of its "
    "95 % interval (Student's t) for two seeds or more. Minutes are of training without validation."
)


def write_report(folder: Path) -> dict[str, Any]:
    """Write report.md, table.csv and curves.png into a comparison's folder; return plain values."""
    from dabdetr.compare.curves import draw_curves

    settings = Settings.load(folder)
    results = Results.load(folder / RUNS, settings.members)
    members = [name for name in settings.members if results.of(name)]
    if not members:
        raise ValueError(
            f"no run in {folder / RUNS} is of a member named in {folder / SETTINGS}: the name in "
            "each run's config.yaml should be a member's"
        )
    lines = [list(HEAD), *(line(results, name, members[0]) for name in members)]
    draw_curves(folder / "curves.png", results, members)
    write_csv(folder / "table.csv", lines)
    write_atomically(folder / "report.md", _page(settings, results, lines).encode())
    return {
        "report": str(folder / "report.md"),
        "data": settings.data,
        "table": [dict(zip(lines[0], row, strict=True)) for row in lines[1:]],
        "members": [_values(results, name, members[0]) for name in members],
        "unfinished": list(results.unfinished),
    }


def line(results: Results, member: str, first: str) -> list[str]:
    """A member's row of the table with the columns ``HEAD``."""
    runs = results.of(member)
    ends = [results.ends(member, column) for column in ("AP", "AP50", "APS")]
    gain = None if member == first else results.differences(member, first)
    minutes = Spread.of([run.curve("seconds", "seconds")[-1][0] / 60 for run in runs])
    memory = [run.rows[-1].get("memory_mib") for run in runs]
    known_memory = [value for value in memory if value is not None]
    return [
        member,
        str(len(runs)),
        str(runs[0].epochs),
        *("–" if end is None else end.shown() for end in ends),
        "–" if gain is None else _signed(gain),
        minutes.shown(2),
        f"{max(known_memory):.0f}" if known_memory else "–",
    ]


def _signed(spread: Spread) -> str:
    if spread.deviation is None:
        return f"{spread.mean:+.3f}"
    return f"{spread.mean:+.3f} ± {spread.margin:.3f}"


def _values(results: Results, member: str, first: str) -> dict[str, Any]:
    gain = None if member == first else results.differences(member, first)
    runs = results.of(member)
    return {
        "member": member,
        "seeds": [run.seed for run in runs],
        "epochs": runs[0].epochs,
        "AP": [run.end() for run in runs],
        "AP50": [run.end("AP50") for run in runs],
        "gain": None if gain is None else gain.mean,
        "gain_margin": None if gain is None or gain.deviation is None else gain.margin,
    }


def _page(settings: Settings, results: Results, lines: list[list[str]]) -> str:
    parts = [
        markdown(f"# {', '.join(settings.members)} on {settings.data}") + "\n",
        markdown_table([[markdown(cell) for cell in row] for row in lines]),
        f"{NOTES}\n",
        "![AP against epochs and time](curves.png)\n",
    ]
    if results.unfinished:
        parts.insert(1, markdown(f"Not finished, and left out: {', '.join(results.unfinished)}.\n"))
    return "\n".join(parts)
