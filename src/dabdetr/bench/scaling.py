"""How a model's time grows: with pixels, queries and batch, and in training with objects.

What a worker runs for one place of an axis; ``growth`` asks for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from dabdetr.data.preprocessing import input_size
from dabdetr.inference.opening import torch_runtime
from dabdetr.model.detector import Detector
from dabdetr.model.resize import with_queries
from dabdetr.structures import Images, Targets
from dabdetr.training.losses import detection_loss

IMAGE = (480, 640)
"""Height and width of the image, before it is made as large as the model wants, where pixels do
not vary."""
TRAINED = 2
"""Images of a training step."""


@dataclass(frozen=True)
class Axis:
    """What varies: ``job`` makes a detector, a value and a device to what is timed.

    A value stands for so much as value ** ``power``: a side for a square of pixels.
    """

    title: str
    values: tuple[int, ...]
    job: Callable[[Detector, int, torch.device], Callable[[], object]]
    power: int = 1

    def seconds(self, model: str, value: int, device: str, rounds: int) -> float:
        """The median of some rounds, after one to warm up."""
        runtime = torch_runtime(model, device=device)
        place = runtime.device
        run = self.job(runtime.model.eval(), value, place)
        taken = []
        for _ in range(rounds + 1):
            started = time.perf_counter()
            run()
            if place.type != "cpu":
                torch.accelerator.synchronize()
            taken.append(time.perf_counter() - started)
        return median(taken[1:])


def _forward(detector: Detector, pixels: Tensor) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return detector(Images(pixels))

    return run


def _pixels(detector: Detector, side: int, device: torch.device) -> Callable[[], object]:
    return _forward(detector, torch.randn(1, 3, side, side, device=device))


def _queries(detector: Detector, count: int, device: torch.device) -> Callable[[], object]:
    return _forward(with_queries(detector, count), _images(detector, 1, device))


def _batch(detector: Detector, count: int, device: torch.device) -> Callable[[], object]:
    return _forward(detector, _images(detector, count, device))


def _objects(detector: Detector, count: int, device: torch.device) -> Callable[[], object]:
    """Forward and backward pass, matching and losses, with so many objects in each image."""
    detector.train()
    images, total = Images(_images(detector, TRAINED, device)), TRAINED * count
    labels = torch.randint(0, len(detector.names), (total,), device=device)
    sides = 0.05 + 0.1 * torch.rand(total, 2, device=device)
    centres = sides / 2 + (1 - sides) * torch.rand(total, 2, device=device)
    targets = Targets(labels, torch.cat((centres, sides), 1), (count,) * TRAINED)

    def run() -> object:
        detector.zero_grad()
        loss, _ = detection_loss(detector(images, targets), targets, detector.config.loss)
        loss.backward()
        return loss

    return run


def _images(detector: Detector, count: int, device: torch.device) -> Tensor:
    return torch.randn(count, 3, *input_size(*IMAGE, detector.config.image), device=device)


AXES = {
    "pixels": Axis("side of a square image", (320, 480, 640, 960, 1333), _pixels, power=2),
    "queries": Axis("queries", (100, 200, 300, 600, 1000), _queries),
    "batch": Axis("images at a time", (1, 2, 4, 8, 16), _batch),
    "objects": Axis(
        f"objects an image, training step of {TRAINED} images", (1, 10, 50, 100, 200), _objects
    ),
}
"""What --scaling varies. All but objects is the forward pass of one image in torch fp32."""
