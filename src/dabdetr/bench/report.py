"""A bench for people: tables for the terminal and the same in Markdown, and the advice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dabdetr.bench.choice import Row
from dabdetr.bench.growth import Growth
from dabdetr.bench.result import Bench, machine, versions
from dabdetr.bench.scaling import AXES


@dataclass(frozen=True)
class Grid:
    """A table as strings; the first column is of words, the others of numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: int | None = None

    def rich(self) -> Table:
        """For a terminal; the marked row stands out."""
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for number, name in enumerate(self.header):
            table.add_column(name, justify="right" if number else "left", no_wrap=number == 0)
        for number, row in enumerate(self.rows):
            style = "bold green" if number == self.marked else None
            table.add_row(*map(Text, row), style=style)
        return table

    def markdown(self) -> str:
        """The marked row is bold."""
        lines = [list(self.header), ["---"] + ["---:"] * (len(self.header) - 1)]
        for number, row in enumerate(self.rows):
            lines.append([f"**{cell}**" for cell in row] if number == self.marked else list(row))
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def sentence(bench: Bench) -> str:
    """Which contender to use, and why."""
    row, reference = bench.best, bench.reference
    what, digits = bench.measure, 1 if bench.data else 0
    if row == reference:
        bound = f"{100 * bench.plan.drop:g} points of AP"
        lost = bound if bench.data else f"{bench.plan.drop:.0%} of its boxes"
        name = reference.contender.name
        return f"Stay with {name}: nothing that loses at most {lost} is faster here."
    quality = f"{what} {100 * row.quality:.{digits}f}"
    quality += f" for {100 * reference.quality:.{digits}f}" if bench.data else " %"
    return (
        f"Use {row.contender.name}: {1 / row.whole:.{_digits(1 / row.whole)}f} images a second "
        f"from file to boxes, {row.gain(reference):.1f} times as fast as "
        f"{reference.contender.name}, {quality}."
    )


def terminal(bench: Bench) -> RenderableType:
    """Tables, what is missing and why, what to know, and the advice with its commands."""
    parts: list[RenderableType] = []
    for grid in grids(bench):
        parts += [Text(f"\n{grid.title}", style="italic"), grid.rich()]
    parts += [Text(line, style="dim") for line in (*_missing(bench), *_remarks(bench))]
    parts.append(Text("\n" + sentence(bench), style="bold"))
    parts += [
        Text(f"  {each}", no_wrap=True, overflow="ignore")
        for each in bench.commands(bench.best.contender)
    ]
    return Group(*parts)


def markdown(bench: Bench) -> str:
    """A page with everything that was measured."""
    found = [f"{name} {number}" for name, number in versions().items()]
    parts = [f"# Which runtime for {bench.plan.model}?", sentence(bench)]
    parts.append("```console\n" + "\n".join(bench.commands(bench.best.contender)) + "\n```")
    for grid in grids(bench):
        parts += [f"## {grid.title}", grid.markdown()]
    if missing := _missing(bench):
        parts.append("\n".join(f"- {each}" for each in missing))
    parts.append("\n".join(f"- {each}" for each in _remarks(bench)))
    parts.append("![speed and quality](bench.png)")
    if bench.growth is not None:
        parts.append("![growth of time and memory](growth.png)")
    parts.append(f"{machine()}. {', '.join(found)}.")
    return "\n\n".join(parts) + "\n"


def grids(bench: Bench) -> Iterator[Grid]:
    """The contenders; with growth, their distance from the peak, and every axis."""
    labels = f"{bench.data}, {bench.judged} images" if bench.data else f"{bench.judged} images"
    of = f"on {bench.device}, {labels}"
    of += f", {bench.plan.batch} at a time" if bench.plan.batch > 1 else ""
    quality = "AP" if bench.data else "same boxes"
    header = ("", "model ms", "file to boxes ms", "per second", "× fp32", quality)
    marked = bench.rows.index(bench.best)
    rows = [_cells(bench, row) for row in bench.rows]
    yield Grid(
        f"{bench.plan.model} {of}", (*header, "start s", "memory MB", "file MB"), rows, marked
    )
    if bench.growth is not None:
        yield _roofline(bench, bench.growth)
        for axis in bench.growth.points:
            yield _axis(bench.growth, axis)


def _cells(bench: Bench, row: Row) -> tuple[str, ...]:
    quality = f"{100 * row.quality:.1f}" + ("" if bench.data else " %")
    return (
        row.contender.name,
        _number(1000 * row.model),
        _number(1000 * row.whole),
        _number(1 / row.whole),
        f"{row.gain(bench.reference):.2f}",
        quality if row.quality >= 0 else "–",
        _number(row.start),
        _number(row.memory),
        _number(row.file),
    )


def _roofline(bench: Bench, growth: Growth) -> Grid:
    giga = growth.operations / 1e9
    title = f"{_number(giga)} GFLOP an image, and how near that comes to the peak of products"
    rows = []
    for row in bench.rows:
        peak = growth.peaks.get(row.contender.precision)
        share = growth.share(row)
        rows.append(
            (
                row.contender.name,
                _number(giga / row.model),
                _number(None if peak is None else peak / 1e9),
                "–" if share is None else f"{share:.0%}",
            )
        )
    return Grid(title, ("", "GFLOP/s", "peak GFLOP/s", "of peak"), rows)


def _axis(growth: Growth, axis: str) -> Grid:
    power, points = growth.exponent(axis), growth.points[axis]
    title = f"Growth with {axis}" + ("" if power is None else f": time ~ {axis}^{power:.2f}")
    rows = [
        (
            str(point.value),
            _number(None if point.seconds is None else 1000 * point.seconds),
            _number(point.memory),
            *([point.problem] if any(each.problem for each in points) else []),
        )
        for point in points
    ]
    extra = ["problem"] if any(each.problem for each in points) else []
    return Grid(title, (AXES[axis].title, "ms", "memory MB", *extra), rows)


def _missing(bench: Bench) -> list[str]:
    return [f"not in the table: {each.name}: {reason}" for each, reason in bench.absent]


def _remarks(bench: Bench) -> list[str]:
    """What the columns mean, and what to know of the numbers."""
    times = (
        f"times are medians of {bench.plan.rounds} rounds over {bench.timed} images, each round "
        "timing everyone in turn; memory is a process's peak; start is a first start, to the first "
        "image's boxes"
    )
    what = (
        "AP is COCO's, times 100"
        if bench.data
        else "same boxes: of all that either side shows, those that both show, at IoU 0.9"
    )
    return [times, what, *bench.notes]


def _digits(value: float) -> int:
    return 0 if value >= 100 else 1 if value >= 10 else 2


def _number(value: float | None) -> str:
    """Three digits or so; a dash for what is not known."""
    return "–" if value is None else f"{value:,.{_digits(value)}f}"
