"""How a model's time and memory grow with pixels, queries, batch and objects.

``python -m benchmarks.growth --model WEIGHTS`` measures a model of your own and draws growth.png.
Each value is measured in a process of its own, in PyTorch fp32.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dabdetr.bench.worker import Failed, Process, serve
from dabdetr.checkpoints.native import save_model
from dabdetr.checkpoints.resize import with_queries
from dabdetr.data.preprocessing import input_size
from dabdetr.inference.opening import torch_runtime
from dabdetr.measure import peak_memory_mib, seconds
from dabdetr.model.detector import Detector, build
from dabdetr.presets import preset
from dabdetr.structures import Images, Targets
from dabdetr.training.losses import detection_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROUNDS = 2
"""Timed runs at every value."""
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
"""What varies. All but objects is the forward pass of one image in torch fp32."""


@dataclass(frozen=True)
class Point:
    """One value of an axis: seconds, the process's peak of memory, or what went wrong."""

    value: int
    seconds: float | None = None
    memory_mib: float | None = None
    problem: str = ""


def exponent(axis: str, points: list[Point]) -> float | None:
    """p of time ~ size^p, fitted to what was measured; None for less than two points."""
    known = [(each.value, each.seconds) for each in points if each.seconds]
    if len(known) < 2:
        return None
    xs = [AXES[axis].power * math.log(value) for value, _ in known]
    ys = [math.log(taken) for _, taken in known]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    rise = sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True))
    return rise / sum((x - mx) ** 2 for x in xs)


class Worker:
    """What a process of its own measures; see ``dabdetr.bench.worker``."""

    def grow(self, model: str, axis: str, value: int, rounds: int) -> float:
        """Seconds at one value of an axis: the median of some rounds, after one to warm up."""
        runtime = torch_runtime(model, device="cpu")
        job = AXES[axis].job(runtime.model.eval(), value, runtime.device)
        return median([seconds(job) for _ in range(rounds + 1)][1:])

    def memory_mib(self) -> float | None:
        """The peak of this process."""
        return peak_memory_mib()


def measure(
    model: str, axis: str, value: int, environment: Mapping[str, str], rounds: int = ROUNDS
) -> Point:
    """One value of an axis, in a process of its own."""
    with Process(environment, "benchmarks.growth", ["worker"]) as process:
        try:
            taken = process.ask("grow", model=model, axis=axis, value=value, rounds=rounds)
            return Point(value, taken, process.ask("memory_mib"))
        except Failed as error:
            return Point(value, problem=str(error))


def grow(model: str, threads: int, most: int | None = None) -> dict[str, list[Point]]:
    """Axis → points, of the first ``most`` values."""
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": paths}
    return {
        name: [measure(model, name, value, environment) for value in axis.values[:most]]
        for name, axis in AXES.items()
    }


def found(threads: int = 2, smoke: bool = False) -> dict[str, Any]:
    """Axis → points of DAB-DETR-R50; images are 640x480 where pixels do not vary."""
    config = preset("dab-detr-nano" if smoke else "dab-detr-r50")
    config = config.override(["image.size=480", "image.max_size=640"])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        save_model(file, build(config, [str(n) for n in range(91)]))
        points = grow(str(file), threads, 1 if smoke else None)
    return {
        "model": config.name,
        "points": {axis: [asdict(each) for each in values] for axis, values in points.items()},
    }


def loaded(found: dict[str, Any]) -> dict[str, list[Point]]:
    """The points in what ``found`` gave."""
    return {axis: [Point(**each) for each in values] for axis, values in found["points"].items()}


def table(points: dict[str, list[Point]]) -> str:
    """Every point in Markdown."""
    lines = ["| what | value | ms | MiB |", "| --- | --- | --- | --- |"]
    for axis, values in points.items():
        for each in values:
            cells = [each.problem, ""]
            if each.seconds is not None:
                cells = [f"{1e3 * each.seconds:.0f}", f"{each.memory_mib or 0:.0f}"]
            lines.append(f"| {' | '.join([AXES[axis].title, str(each.value), *cells])} |")
    return "\n".join(lines) + "\n"


def draw(points: dict[str, list[Point]]) -> Figure:
    """Time and peak memory along every axis."""
    from dabdetr.structures.drawing import new_figure

    figure = new_figure(4 * len(points), 6)
    panels = figure.subplots(2, len(points), squeeze=False)
    for column, (axis, some) in enumerate(points.items()):
        known = [each for each in some if each.seconds]
        values = [each.value for each in known]
        time, memory = panels[:, column]
        time.plot(values, [1000 * (each.seconds or 0) for each in known], marker="o")
        power = exponent(axis, some)
        time.set_title(axis if power is None else f"{axis}: time ~ {axis}^{power:.2f}", fontsize=10)
        memory.plot(
            values, [each.memory_mib or float("nan") for each in known], marker="o", color="C1"
        )
        memory.set_xlabel(AXES[axis].title, fontsize=9)
        for panel in (time, memory):
            panel.update_datalim([(0, 0)])
            panel.autoscale_view()
            panel.set(xlim=(0, None), ylim=(0, None))
            panel.grid(alpha=0.3)
    panels[0, 0].set_ylabel("ms")
    panels[1, 0].set_ylabel("MiB of the process")
    return figure


def main() -> None:
    """Measure one model, print the table and draw it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--model", required=True, help="weights: a file, a run folder or a name")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("growth.png"), help="the figure")
    given = parser.parse_args()
    points = grow(given.model, given.threads)
    print(table(points))
    draw(points).savefig(given.out, dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        serve(Worker())
    else:
        main()
