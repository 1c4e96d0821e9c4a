"""Put trained weights into the package: float16, with a card of how they came about.

    python experiments/ship.py RUN_OR_WEIGHTS NAME --data scenes --about "seed 42, 47 minutes, …"

The card holds the AP measured here on the ``test`` split (``val`` where there is none), by the
float16 weights themselves.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from dabdetr.checkpoints.native import load_model, save_model
from dabdetr.data.layouts import splits
from dabdetr.evaluation.evaluate import evaluate

FOLDER = Path(__file__).resolve().parents[1] / "src" / "dabdetr" / "weights"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("weights")
    parser.add_argument("name")
    parser.add_argument("--data", required=True)
    parser.add_argument("--about", required=True, help="command, seed, minutes, commit, licence")
    given = parser.parse_args()
    model = load_model(given.weights).model
    path = FOLDER / f"{given.name}.safetensors"
    save_model(path, model, torch.float16)
    split = "test" if "test" in splits(given.data) else "val"
    found = evaluate(path, given.data, split)
    card = f"AP {found.ap:.3f}, AP50 {found.ap50:.3f} on {given.data} {split}"
    about = {"about": given.about, "measured": card}
    save_model(path, model, torch.float16, about)
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, {card}")


if __name__ == "__main__":
    main()
