"""What a bench found, as plain values and as files."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dabdetr.bench.candidates import Contender
from dabdetr.bench.choice import Row, best, reference_of
from dabdetr.bench.growth import Growth
from dabdetr.bench.plan import Plan
from dabdetr.files import write_atomically

PACKAGES = ("dabdetr", "torch", "timm", "onnxruntime", "openvino", "nncf")


@dataclass(frozen=True)
class Bench:
    """Rows of those that came to the end, and the reasons of those that did not.

    rows    the fastest first
    absent  each with its reason, a sentence
    timed   images in a turn; ``judged``: images that AP or agreement is of
    data    name and split of annotated data; "" where quality is agreement
    """

    plan: Plan
    device: str
    rows: tuple[Row, ...]
    absent: tuple[tuple[Contender, str], ...]
    timed: int
    judged: int
    data: str = ""
    notes: tuple[str, ...] = ()
    growth: Growth | None = None

    @property
    def best(self) -> Row:
        """The one to use."""
        return best(self.rows, self.plan.drop)

    @property
    def reference(self) -> Row:
        """The row that the others are compared with."""
        return reference_of(self.rows)

    @property
    def measure(self) -> str:
        """What quality is."""
        return "AP" if self.data else "agreement"

    def commands(self, contender: Contender) -> list[str]:
        """What to type to have and use a contender."""
        return contender.commands(self.plan.model, self.plan.calibration)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; seconds are an image's, medians of all rounds."""
        from dabdetr.bench.report import sentence

        return {
            "plan": asdict(self.plan),
            "device": self.device,
            "machine": machine(),
            "versions": versions(),
            "data": self.data,
            "timed": self.timed,
            "judged": self.judged,
            "measure": self.measure,
            "drop": self.plan.drop,
            "contenders": [self._row(row) for row in self.rows],
            "absent": [
                {"name": each.name, "key": each.key, "reason": reason}
                for each, reason in self.absent
            ],
            "best": self.best.contender.key,
            "advice": sentence(self),
            "notes": list(self.notes),
            "growth": None if self.growth is None else self.growth.to_dict(),
        }

    def _row(self, row: Row) -> dict[str, Any]:
        return {
            "name": row.contender.name,
            "key": row.contender.key,
            "model_seconds": row.model,
            "whole_seconds": row.whole,
            "gain": row.gain(self.reference),
            "quality": row.quality,
            "start_seconds": row.start,
            "memory_mb": row.memory,
            "file_mb": row.file,
            "of_peak": None if self.growth is None else self.growth.share(row),
            "turns": [list(turn) for turn in row.turns],
            "commands": self.commands(row.contender),
        }

    def save(self, folder: Path) -> None:
        """Write bench.json, bench.md, bench.png and, with growth, growth.png into a folder."""
        from dabdetr.bench.figures import growth, save, speeds
        from dabdetr.bench.report import markdown

        document = json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)
        write_atomically(folder / "bench.json", document.encode())
        save(speeds(self), folder / "bench.png")
        if self.growth is not None:
            save(growth(self.growth), folder / "growth.png")
        write_atomically(folder / "bench.md", markdown(self).encode())


def machine() -> str:
    """Processor, cores and system."""
    name = platform.processor() or platform.machine()
    about = Path("/proc/cpuinfo")
    if about.is_file():
        lines = about.read_text().splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"


def versions() -> dict[str, str]:
    """Of Python and of the packages that compute, where they are installed."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
