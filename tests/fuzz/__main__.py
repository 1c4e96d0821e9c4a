"""``python -m tests.fuzz --cases 100000 --seed 1``: the table of a fuzzing run."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    """Exit code 1 where there was a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="over all targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="targets, with commas between")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--keep", type=Path, help="folder for inputs that show a fault")
    options = parser.parse_args()
    from tests.fuzz.harness import Harness, run_target
    from tests.fuzz.targets import HEAVY, SHARES, Targets

    logging.getLogger("dabdetr").addHandler(logging.NullHandler())
    logging.getLogger("dabdetr").propagate = False
    faults = total = 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DABDETR_CACHE"] = f"{folder}/cache"
        harness = Harness(Path(folder))
        targets = Targets(Path(folder))
        chosen = [
            name for name in targets.all if not options.only or name in options.only.split(",")
        ]
        whole = sum(SHARES.get(name, 1) for name in chosen)
        with harness.watching():
            for name in chosen:
                started = time.perf_counter()
                cases = round(options.cases * SHARES.get(name, 1) / whole)
                outcome = run_target(
                    harness,
                    name,
                    targets.all[name],
                    cases,
                    options.seed,
                    options.keep,
                    name in HEAVY,
                    options.first,
                )
                total += outcome.cases
                ends = ", ".join(f"{count} {end}" for end, count in outcome.ends.most_common())
                seconds = time.perf_counter() - started
                print(f"{name:12} {outcome.cases:6} cases in {seconds:6.1f} s: {ends}", flush=True)
                for fault, count in outcome.faults.values():
                    faults += count
                    print(f"    {count:5} × {fault}", flush=True)
    print(f"{total} cases, {faults} faults, seed {options.seed}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
