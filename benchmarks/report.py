"""What a comparison found: a table on the terminal, a page in Markdown. Nothing typed by hand."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.sides import Workload
from dabdetr.config import write_atomically

BARS = {"forward": 1.15, "training step": 1.1}
PACKAGES = ("dabdetr", "transformers", "torch", "timm")


@dataclass(frozen=True)
class Result:
    """Seconds of each side, round by round."""

    task: str
    images: int
    rounds: list[dict[str, float]]

    @property
    def ratios(self) -> list[float]:
        """Peer ÷ ours, sorted."""
        return sorted(each["peer"] / each["ours"] for each in self.rounds)


@dataclass(frozen=True)
class Memory:
    """MiB of each side: ``peak`` of the process, ``work`` without imported libraries."""

    task: str
    ours: dict[str, float]
    peer: dict[str, float]


def print_results(results: list[Result], memory: list[Memory], work: Workload) -> None:
    """Ratios, and the times of this run beside them."""
    table = Table(title=f"peer ÷ ours, {work.width}x{work.height}, fp32; above 1 we are faster")
    for column in ("", "ratio", "range", "bar", "ours s", "peer s"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for each in results:
        ratios, bar = each.ratios, BARS[each.task]
        seconds = [median(r[side] for r in each.rounds) for side in ("ours", "peer")]
        met = "met" if median(ratios) >= bar else "missed"
        table.add_row(
            f"{each.task}, batch {each.images}",
            f"{median(ratios):.2f}",
            f"{ratios[0]:.2f}–{ratios[-1]:.2f}",
            f"{bar} {met}",
            *(f"{s:.3f}" for s in seconds),
        )
    weights = Table(title="peak MiB (without libraries)")
    for column in ("", "ours", "peer", "ratio"):
        weights.add_column(column, justify="right" if column else "left", no_wrap=True)
    for each in memory:
        weights.add_row(*_memory_row(each))
    console = Console()
    console.print(table)
    console.print(weights)


def write_results(
    path: Path, results: list[Result], memory: list[Memory], work: Workload, threads: int
) -> None:
    """The page beside the benchmark: the machine, the versions, ratios, memory."""
    rounds = len(results[0].rounds)
    lines = [
        "# Beside transformers' DAB-DETR",
        "",
        "Written by `make bench`. Equal weights (outputs and losses are held against each other "
        f"first), {work.width}x{work.height} pixels, fp32, {threads} threads, {work.objects} "
        f"objects an image; {rounds} rounds, each timing one side after the other, who starts "
        "alternating. A training step is forward pass, matching, losses of all layers, backward "
        "pass and AdamW.",
        "",
        f"Machine: {_processor()}, {os.cpu_count()} cores, {platform.system()}. "
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in PACKAGES)
        + ".",
        "",
        "Ratio = peer ÷ ours: above 1 we are faster.",
        "",
        "| task | images | ratio (median) | lowest | highest | bar |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in results:
        numbers = (median(each.ratios), each.ratios[0], each.ratios[-1], BARS[each.task])
        cells = " | ".join(f"{number:.2f}" for number in numbers)
        lines.append(f"| {each.task} | {each.images} | {cells} |")
    lines += [
        "",
        "Peak memory in MiB, each side in processes of its own (median of 3), loading of the "
        "weights included; in brackets without what the imported libraries hold:",
        "",
        "| task | ours | peer | ratio |",
        "| --- | --- | --- | --- |",
        *("| " + " | ".join(_memory_row(each)) + " |" for each in memory),
        "",
    ]
    write_atomically(path, "\n".join(lines).encode())


def _memory_row(memory: Memory) -> list[str]:
    shown = [f"{side['peak']:.0f} ({side['work']:.0f})" for side in (memory.ours, memory.peer)]
    ratios = [memory.peer[key] / memory.ours[key] for key in ("peak", "work")]
    return [memory.task, *shown, f"{ratios[0]:.2f} ({ratios[1]:.2f})"]


def _processor() -> str:
    """The processor's own name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
