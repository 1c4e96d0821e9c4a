"""Output of a bench result: tables for the terminal, a page, a figure and a JSON document."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dabdetr.bench.candidates import BenchResult, Row
from dabdetr.files import write_atomically
from dabdetr.measure import machine
from dabdetr.packages import installed_versions
from dabdetr.structures.drawing import new_figure, save_figure
from dabdetr.text import counted, json_text, markdown_table
from dabdetr.text import markdown as as_markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PACKAGES = ("dabdetr", "torch", "timm", "onnxruntime", "openvino", "nncf")
COLOURS = {"torch": "#D55E00", "onnx": "#0072B2", "openvino": "#009E73"}
"""Okabe and Ito's colours, distinct for colour-blind people."""
MARKERS = {"fp32": "o", "bf16": "s", "fp16": "D", "int8": "^"}


def save(bench: BenchResult, folder: Path) -> None:
    """Write bench.json, bench.md and bench.png into a folder."""
    write_atomically(folder / "bench.json", json_text(to_dict(bench), indent=1).encode())
    save_figure(speeds(bench), folder / "bench.png")
    write_atomically(folder / "bench.md", markdown(bench).encode())


def to_dict(bench: BenchResult) -> dict[str, Any]:
    """Plain values, ready for JSON; seconds are per image, medians of all rounds."""
    return {
        "plan": asdict(bench.plan),
        "device": bench.device,
        "machine": machine(),
        "versions": versions(),
        "data": bench.data,
        "timed": bench.timed,
        "judged": bench.judged,
        "measure": bench.measure,
        "drop": bench.plan.drop,
        "candidates": [_row(bench, row) for row in bench.rows],
        "absent": [
            {"name": each.name, "key": each.key, "reason": reason} for each, reason in bench.absent
        ],
        "best": bench.best.candidate.key,
        "advice": sentence(bench),
        "notes": list(bench.notes),
    }


def _row(bench: BenchResult, row: Row) -> dict[str, Any]:
    return {
        "name": row.candidate.name,
        "key": row.candidate.key,
        "model_seconds": row.model,
        "whole_seconds": row.whole,
        "gain": row.gain(bench.reference),
        "quality": row.quality,
        "start_seconds": row.start,
        "memory_mib": row.memory_mib,
        "file_mib": row.file_mib,
        "turns": [list(turn) for turn in row.turns],
        "commands": bench.commands(row.candidate),
    }


def sentence(bench: BenchResult) -> str:
    """Advice on which candidate to use, and why."""
    row, reference = bench.best, bench.reference
    digits = 1 if bench.data else 0
    if row == reference:
        points = f"{100 * bench.plan.drop:g}"
        bound = f"{points} point{'' if points == '1' else 's'} of AP"
        lost = bound if bench.data else f"{bench.plan.drop:.0%} of its boxes"
        name = reference.candidate.name
        return f"Stay with {name}: nothing that loses at most {lost} is faster here."
    quality = f"{bench.measure} {100 * row.quality:.{digits}f}"
    quality += f" instead of {100 * reference.quality:.{digits}f}" if bench.data else " %"
    return (
        f"Use {row.candidate.name}: {1 / row.whole:.{_digits(1 / row.whole)}f} images a second "
        f"from file to boxes, {row.gain(reference):.1f} times as fast as "
        f"{reference.candidate.name}, {quality}."
    )


def terminal(bench: BenchResult) -> RenderableType:
    """The table, missing candidates with reasons, remarks, and the advice with its commands."""
    table, (head, *rows) = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0)), cells(bench)
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left", no_wrap=number == 0)
    for row, of_row in zip(rows, bench.rows, strict=True):
        table.add_row(*map(Text, row), style="bold green" if of_row == bench.best else None)
    parts: list[RenderableType] = [Text(f"\n{title(bench)}", style="italic"), table]
    parts += [Text(line, style="dim") for line in (*_missing(bench), *_remarks(bench))]
    parts.append(Text("\n" + sentence(bench), style="bold"))
    parts += [
        Text(f"  {each}", no_wrap=True, overflow="ignore")
        for each in bench.commands(bench.best.candidate)
    ]
    return Group(*parts)


def markdown(bench: BenchResult) -> str:
    """A page with all measurements."""
    packages = [f"{name} {number}" for name, number in versions().items()]
    parts = [as_markdown(f"# Which runtime for {bench.plan.model}?"), sentence(bench)]
    parts.append("```console\n" + "\n".join(bench.commands(bench.best.candidate)) + "\n```")
    rows = [[as_markdown(cell) for cell in row] for row in cells(bench)]
    best = bench.rows.index(bench.best) + 1
    rows[best] = [f"**{cell}**" for cell in rows[best]]
    parts += [as_markdown(f"## {title(bench)}"), markdown_table(rows, len(rows[0]) - 1).rstrip()]
    if missing := _missing(bench):
        parts.append("\n".join(f"- {each}" for each in missing))
    parts.append("\n".join(f"- {each}" for each in _remarks(bench)))
    parts.append("![speed and quality](bench.png)")
    parts.append(f"{machine()}. {', '.join(packages)}.")
    return "\n\n".join(parts) + "\n"


def title(bench: BenchResult) -> str:
    """The title of the table: the model, the device and the images."""
    labels = ", ".join(filter(None, (bench.data, counted(bench.judged, "image"))))
    together = f", {bench.plan.batch} at a time" if bench.plan.batch > 1 else ""
    return f"{bench.plan.model} on {bench.device}, {labels}{together}"


def cells(bench: BenchResult) -> list[tuple[str, ...]]:
    """The table of candidates, the fastest first, with its head: words, then only numbers."""
    head = (
        *("", "model ms", "total ms", "images/s", "× fp32"),
        *("AP" if bench.data else "same boxes", "start s", "memory MiB", "file MiB"),
    )
    return [head, *(_cells(bench, row) for row in bench.rows)]


def _cells(bench: BenchResult, row: Row) -> tuple[str, ...]:
    quality = f"{100 * row.quality:.1f}" + ("" if bench.data else " %")
    return (
        row.candidate.name,
        _number(1000 * row.model),
        _number(1000 * row.whole),
        _number(1 / row.whole),
        f"{row.gain(bench.reference):.2f}",
        quality if row.quality >= 0 else "–",
        _number(row.start),
        _number(row.memory_mib),
        _number(row.file_mib),
    )


def _missing(bench: BenchResult) -> list[str]:
    return [f"not in the table: {each.name}: {reason}" for each, reason in bench.absent]


def _remarks(bench: BenchResult) -> list[str]:
    """The meaning of the columns, and caveats about the numbers."""
    times = (
        "model: prepared pixels to boxes; total: file to boxes; "
        f"times are medians of {counted(bench.plan.rounds, 'round')} over "
        f"{counted(bench.timed, 'image')}, each round timing all candidates in turn; memory is a "
        "process's peak; start is a first start, to the first image's boxes"
    )
    quality = (
        "AP is COCO's, times 100"
        if bench.data
        else "same boxes: share of either side's boxes that the other has too, at IoU 0.9"
    )
    return [times, quality, *bench.notes]


def _digits(value: float) -> int:
    return 0 if value >= 100 else 1 if value >= 10 else 2


def _number(value: float | None) -> str:
    """The value with about three digits; a dash for None."""
    return "–" if value is None else f"{value:,.{_digits(value)}f}"


def speeds(bench: BenchResult) -> Figure:
    """Quality against images per second; candidates below the line lose too much."""
    figure = new_figure(8.4, 4.4)
    panel, best = figure.subplots(), bench.best
    for row in bench.rows:
        candidate = row.candidate
        colour, x = COLOURS[candidate.format], 1 / row.whole
        panel.scatter(
            x, 100 * row.quality, s=80, marker=MARKERS[candidate.precision],
            facecolor="none" if candidate.compiled else colour, edgecolor=colour, linewidth=1.6,
            label=f"{candidate.name}  {x:.3g}/s", zorder=3,
        )  # fmt: skip
        if row == best:
            panel.scatter(x, 100 * row.quality, s=330, facecolor="none", edgecolor="black", lw=1)
    floor = 100 * (bench.reference.quality - bench.plan.drop)
    panel.axhline(floor, color="grey", linestyle="--", linewidth=1)
    values = [100 * row.quality for row in bench.rows]
    room = 0.25 * max(max(values) - floor, floor - min(values), 0.4)
    low, high = min(floor, *values) - room, max(values) + room
    panel.set(xlim=(0, 1.08 / min(row.whole for row in bench.rows)), ylim=(low, high))
    note = "limit of --max-ap-drop" if bench.data else "limit of agreement"
    panel.annotate(note, (0.01, floor), xycoords=("axes fraction", "data"), fontsize=8, va="bottom")
    panel.set_xlabel("images a second, file to boxes")
    panel.set_ylabel("AP × 100" if bench.data else "boxes that are the same as in fp32, %")
    panel.set_title(f"{bench.plan.model}: circled, what to use", fontsize=10, parse_math=False)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def versions() -> dict[str, str]:
    """The versions of Python and of the installed ``PACKAGES``."""
    return {"Python": platform.python_version()} | installed_versions(PACKAGES)
