"""How much of a training step goes into matching and losses: ``python -m benchmarks.matching``."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from benchmarks.timing import Job, Row, alternate, plain, table, typical
from dabdetr.config import Config
from dabdetr.model.detector import build
from dabdetr.presets import preset
from dabdetr.structures import Images, Predictions, Targets
from dabdetr.training.losses import detection_loss
from dabdetr.training.matching import assign
from dabdetr.training.optim import parameter_groups

CLASSES = tuple(str(number) for number in range(80))


def measure(
    config: Config | None = None,
    height: int = 480,
    width: int = 640,
    objects: int = 20,
    rounds: int = 7,
) -> list[Row]:
    """Share of matcher, losses and their backward pass in the step of two images, in percent.

    ``dab-detr-r50`` by default: 300 queries, 6 layers.
    """
    config = preset("dab-detr-r50") if config is None else config
    torch.manual_seed(0)
    model = build(config, CLASSES).train()
    images = Images(torch.randn(2, 3, height, width))
    labels = torch.randint(0, len(CLASSES), (2 * objects,))
    boxes = 0.2 + 0.3 * torch.rand(2 * objects, 4)
    targets = Targets(labels, boxes, (objects, objects))
    rows = []
    for precision in ("fp32", "bf16"):
        jobs = _jobs(model, images, targets, mixed=precision == "bf16")
        found = alternate(jobs, rounds)
        step, loss, match = (typical(found, name) for name in ("step", "loss", "match"))
        detail = f"{1e3 * loss:.1f} of {1e3 * step:.0f} ms; the matcher alone {1e3 * match:.1f}"
        what = f"matcher + losses, {precision}, {height}×{width}, {objects} objects an image"
        rows.append(Row(what, 100 * loss / step, "%", 8, 4, most=True, detail=detail))
    return rows


def _jobs(model: torch.nn.Module, images: Images, targets: Targets, mixed: bool) -> dict[str, Job]:
    """The whole step; losses of its predictions with their backward pass; and the matcher."""
    config: Config = model.config  # pyright: ignore[reportAssignmentType]
    groups = parameter_groups(model, config.training)  # pyright: ignore[reportArgumentType]
    optimiser = torch.optim.AdamW(groups, fused=True)

    def lower() -> torch.autocast | nullcontext[None]:
        return torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext()

    with torch.no_grad(), lower():
        said: Predictions = model(images)
    own = Predictions(said.logits.requires_grad_(), said.boxes.requires_grad_(), said.anchors)

    def step() -> None:
        with lower():
            total, _ = detection_loss(model(images), targets, config.loss)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()

    def loss() -> None:
        with lower():
            detection_loss(own, targets, config.loss)[0].backward()

    return {"step": step, "loss": loss, "match": lambda: assign(own, targets, config.loss)}


def found(threads: int, smoke: bool) -> list[dict[str, Any]]:
    """``measure`` as plain values."""
    torch.set_num_threads(threads)
    if not smoke:
        return plain(measure())
    return plain(measure(preset("dab-detr-nano"), 64, 96, objects=2, rounds=2))


if __name__ == "__main__":
    torch.set_num_threads(2)
    print(table(measure()))
