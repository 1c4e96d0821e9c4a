"""Whether training in bf16 learns as training in fp32 does: loss curves of three seeds each.

    OMP_NUM_THREADS=1 python experiments/precision.py experiments/precision.json

``dab-detr-nano`` at 96 px on generated scenes, from random weights, the same batches in both
precisions. Writes JSON, and prints the table; runs that are in the JSON already stay.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev

from dabdetr.files import write_atomically
from dabdetr.training.train import train

DATA = "scenes:objects=6,size=96,count=1000"
SETTINGS = ("image.size=96", "image.max_size=96", "training.warmup=50", "training.drop=0.8")
EPOCHS, SEEDS = 8, (0, 1, 2)
PRECISIONS = ("fp32", "bf16")


def run(precision: str, seed: int) -> dict[str, list[float | None]]:
    """Loss after every epoch, AP of the last one, and core-seconds of training an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        rows = train(
            *(DATA, "dab-detr-nano"),
            epochs=EPOCHS,
            seed=seed,
            project=folder,
            val_every=EPOCHS,
            quiet=True,
            overrides=[*SETTINGS, f"training.precision={precision}"],
        ).rows
    return {
        "loss": [row["loss"] for row in rows],
        "AP": [rows[-1]["AP"]],
        "cpu_seconds": [row["cpu_seconds"] for row in rows],
    }


def table(found: dict[str, dict]) -> str:
    """Mean and standard deviation over seeds, a row for each precision and epoch's loss and AP."""
    heads = [*(f"loss {epoch + 1}" for epoch in range(EPOCHS)), "AP"]
    lines = ["| precision | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 1) + "|"]
    for precision in PRECISIONS:
        runs = [found[f"{precision}-{s}"] for s in SEEDS if f"{precision}-{s}" in found]
        columns = zip(*([*each["loss"], *each["AP"]] for each in runs), strict=True)
        cells = [f"{mean(c):.3f} ± {stdev(c) if len(c) > 1 else 0:.3f}" for c in columns]
        lines.append(f"| {precision} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, seed by seed, both precisions of a seed one after the other."""
    path = Path(sys.argv[1])
    found = json.loads(path.read_text()) if path.exists() else {}
    for seed in SEEDS:
        for precision in PRECISIONS:
            if f"{precision}-{seed}" not in found:
                found[f"{precision}-{seed}"] = run(precision, seed)
                write_atomically(path, json.dumps(found, indent=1).encode())
    print(table(found))


if __name__ == "__main__":
    main()
