"""``python -m benchmarks``: what ``make bench`` runs.

Parts can be measured one by one (``--only forward --models dab``); each is kept as a JSON file, and
``results.md`` is made of all of them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.compare import SIZES, compare
from benchmarks.machine import machine
from benchmarks.report import write_results
from benchmarks.sides import KINDS
from dabdetr.files import write_atomically

HERE = Path(__file__).parent
WAYS = ("fp32", "best", "lean")
RACES = {"forward": "forward", "train": "training step"}
ROWS = ("matching", "deformable", "evaluation", "memory")
PARTS = (*RACES, "precision", "exports", *ROWS, "peers", "roofline", "growth")


def main() -> None:
    """Measure the parts that are asked for, keep them, and compose the page."""
    given = _arguments()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    given.results.mkdir(parents=True, exist_ok=True)
    for part in given.only:
        for name, found in _measure(part, given):
            text = json.dumps({"machine": machine(given.threads), "found": found}, indent=1)
            write_atomically(given.results / f"{name}.json", text.encode())
    write_results(given.out, given.results)


def _measure(part: str, given: argparse.Namespace) -> list[tuple[str, Any]]:
    """Name of the file, and what goes into it."""
    if part in RACES:
        sizes = tuple(size for size in SIZES if not given.width or size[1] in given.width)
        chosen = given.way if len(given.way) < len(WAYS) else ()
        rounds = given.rounds or (2 if given.smoke else 7)
        return [
            (
                "-".join([part, kind, *map(str, given.width or ()), *chosen]),
                compare(RACES[part], kind, rounds, given.threads, given.smoke, sizes, given.way),
            )
            for kind in given.models
        ]
    module = importlib.import_module(f"benchmarks.{part}")
    if part in ROWS:
        torch.set_num_threads(given.threads)
        return [(part, [asdict(row) for row in module.measure()])]
    return [(part, module.found(given.threads, given.smoke))]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS, help="these parts")
    parser.add_argument("--models", nargs="*", choices=KINDS, default=tuple(KINDS))
    parser.add_argument("--width", nargs="*", type=int, help="of forward and train: 640, 1066")
    parser.add_argument("--way", nargs="*", choices=WAYS, default=WAYS, help="of them as well")
    parser.add_argument("--smoke", action="store_true", help="tiny models and images, 2 rounds")
    parser.add_argument("--rounds", type=int, help="timed rounds of forward and train (7)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of parts")
    parser.add_argument("--out", type=Path, default=HERE / "results.md", help="the page")
    return parser.parse_args()


if __name__ == "__main__":
    main()
