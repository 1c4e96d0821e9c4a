"""Teach the small body of ``dab-detr-nano`` to name digits, so that the detector can start.

    python -m experiments.digit_body OUT.safetensors --steps 1000

The race teaches its bodies in the same way; this one sees scenes as large as the shipped model's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.race.backbone_pretraining import teach_body

from dabdetr.checkpoints.native import save_backbone
from dabdetr.data.scenes import Scenes
from dabdetr.presets.small import DAB_DETR_NANO


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1000, help="updates of 32 scenes")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    config = DAB_DETR_NANO.override(["training.batch=32", f"training.seed={given.seed}"])
    detector, share = teach_body(config, Scenes("train", seed=given.seed + 1000), given.steps)
    save_backbone(given.out, detector)
    print(f"{given.out}: it names {share:.0%} of the cells of digits right")


if __name__ == "__main__":
    main()
