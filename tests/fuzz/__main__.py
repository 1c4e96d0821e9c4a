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
    parser.add_argument("--attacks", action="store_true", help="model files that try to run code")
    parser.add_argument("--every", type=int, default=1, help="every N-th attack only")
    parser.add_argument("--files", type=Path, help="a folder of files that showed faults once")
    options = parser.parse_args()
    if options.files:
        return files(options.files)
    if options.attacks:
        return attack(options.seed, options.every)
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


def files(given: Path) -> int:
    """Reads the files of a folder, each as its name says; exit code 1 where one is a fault."""
    from tests.fuzz.cases import cases
    from tests.fuzz.harness import Harness, Outcome
    from tests.fuzz.targets import Targets

    outcome = Outcome()
    with tempfile.TemporaryDirectory() as name:
        os.environ["DABDETR_CACHE"] = f"{name}/cache"
        harness = Harness(Path(name))
        with harness.watching():
            for file, case in cases(given, Targets(Path(name))):
                end = harness.run(case)
                outcome.note(file, end)
                print(f"{file}: {end}")
    print(f"{outcome.cases} files, {outcome.ends['fault']} faults")
    return 1 if outcome.faults else 0


def attack(seed: int, every: int) -> int:
    """Opens attacks by two verbs each, all verbs in turn; exit code 1 where one did anything."""
    import shutil

    from PIL import Image
    from tests.fuzz.attacks import ENTRIES, corpus, opened
    from tests.fuzz.harness import Harness, Outcome

    import dabdetr.bench.run
    import dabdetr.compare.run
    import dabdetr.training.train  # noqa: F401  what takes long is there before time is taken

    outcome = Outcome()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["DABDETR_CACHE"] = f"{folder}/cache"
        os.chdir(folder)
        Image.new("RGB", (32, 24)).save("image.png")
        harness = Harness(folder)
        attacks = corpus(harness.flag, seed)
        others = [entry for entry in ENTRIES if entry != "predict"]
        with harness.watching():
            for number in range(0, len(attacks), every):
                chosen = attacks[number]
                for entry in ("predict", others[number // every % len(others)]):
                    place = folder / "attack"
                    end = harness.run(opened(chosen, entry, place, folder / "image.png"), True)
                    shutil.rmtree(place)
                    outcome.note(f"{number} {chosen.kind}, {entry}", end)
        for fault, count in outcome.faults.values():
            print(f"    {count:5} × {fault}")
    ends = ", ".join(f"{count} {end}" for end, count in outcome.ends.most_common())
    print(f"{len(range(0, len(attacks), every))} attacks, {outcome.ends['fault']} faults: {ends}")
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
