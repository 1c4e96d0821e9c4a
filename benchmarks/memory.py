"""Peak memory of training and predicting at 800×1333, batch 1, each in a process of its own.

python -m benchmarks.memory
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Row, plain, table
from dabdetr.measure import peak_memory_mib, seconds

CASES = (
    ("dab-detr-r50-dc5", "train", ()),
    ("dab-detr-r50-dc5", "predict", ()),
    ("dino-r50-5scale", "train", ("encoder",)),
    ("dino-r50-5scale", "predict", ()),
)
"""Preset, task, and ``training.recompute``."""
LIMIT = 8.0
SIZE = (800, 1333)


def measure(cases: tuple[tuple[str, str, tuple[str, ...]], ...] = CASES) -> list[Row]:
    """GiB at most of the whole process, libraries and optimiser included, in fp32."""
    rows = []
    for name, task, recompute in cases:
        command = [sys.executable, "-m", "benchmarks.memory", name, task, ",".join(recompute)]
        done = subprocess.run(
            command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        found = json.loads(done.stdout.splitlines()[-1])
        shown = f", recomputing the {' and the '.join(recompute)}" if recompute else ""
        what = f"peak memory, {name}, {task}, {SIZE[0]}×{SIZE[1]}, batch 1{shown}"
        detail = f"last step {found['seconds']:.1f} s"
        rows.append(Row(what, found["gib"], "GiB", LIMIT, most=True, detail=detail))
    return rows


def weigh(name: str, task: str, recompute: tuple[str, ...]) -> dict[str, float]:
    """Peak of this process in GiB after two steps, and seconds of the last."""
    from dabdetr.model.detector import build
    from dabdetr.presets import preset
    from dabdetr.structures import Images, Targets
    from dabdetr.training.losses import detection_loss
    from dabdetr.training.module import TrainingModule
    from dabdetr.training.optim import parameter_groups

    config = preset(name).override([f"training.recompute=[{','.join(recompute)}]"])
    torch.manual_seed(0)
    model = build(config, [str(number) for number in range(80)])
    pixels = Images(torch.randn(1, 3, *SIZE))
    targets = Targets(torch.randint(0, 80, (20,)), 0.2 + 0.3 * torch.rand(20, 4), (20,))
    if task == "train":
        TrainingModule(model, lambda _: ()).detector.train()
        optimiser = torch.optim.AdamW(parameter_groups(model, config.training), fused=True)

        def step() -> None:
            total, _ = detection_loss(model(pixels, targets), targets, config.loss)
            optimiser.zero_grad()
            total.backward()
            optimiser.step()

    else:
        model.eval()

        @torch.inference_mode()
        def step() -> None:
            model(pixels)

    step()
    last = seconds(step)
    return {"gib": (peak_memory_mib() or 0.0) / 1024, "seconds": last}


def found(threads: int, smoke: bool) -> list[dict[str, Any]]:
    """``measure`` as plain values; nothing in a smoke run, as it takes minutes."""
    return [] if smoke else plain(measure())


if __name__ == "__main__":
    torch.set_num_threads(2)
    if len(sys.argv) > 1:
        parts = tuple(part for part in sys.argv[3].split(",") if part)
        print(json.dumps(weigh(sys.argv[1], sys.argv[2], parts)))
    else:
        print(table(measure()))
