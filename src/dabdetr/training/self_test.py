"""Whether a model overfits a few of the user's own images, and which stage fails if not.

A model that cannot learn eight images will not learn all of them. The parts are those of a real
training (loader, loss, matching, optimizer groups, evaluation), without augmentation and schedule.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from dabdetr.checkpoints.transfer import initialise
from dabdetr.config import Config
from dabdetr.data.dataset import DetectionDataset, Subset, evenly
from dabdetr.data.loader import training_loader
from dabdetr.data.outlines import EVIDENCE, outline_fit
from dabdetr.data.preprocessing import input_size
from dabdetr.evaluation.evaluate import evaluate
from dabdetr.inference.device import choose_device
from dabdetr.model.detector import Detector, build
from dabdetr.structures.boxes import iou
from dabdetr.text import counted
from dabdetr.training.losses import detection_loss
from dabdetr.training.optim import freeze, parameter_groups

IMAGES = 8
ENOUGH = 0.8
"""AP50 to reach."""
LEAST = 4.0
"""Square root of an object's area in input pixels below which it cannot be learned."""
FALLEN = 0.7
"""Share of the first loss below which the loss counts as falling."""
LOOKS = 6
"""Evaluations within the time."""
LEAST_STEPS, PATIENCE = 40, 4
"""Least steps before a verdict about the data, and how many times the time may be exceeded."""

BLIND = (
    "Whether the labels are these images' own it cannot tell, as edges do not lie under the boxes "
    "more than in other images: look at a few with dabdetr data view"
)
FITTING = "Edges lie under the boxes more than in other images, so the labels are these images' own"
Stage = Literal["", "data", "matching", "optimisation"]


@dataclass(frozen=True)
class SelfTest:
    """The result; ``stage`` is the stage that fails ("" for none), ``advice`` what to change.

    What is learned may be wrong all over; ``advice`` then says whether labels fit their images.

    losses  of the first and the last steps
    """

    ap50: float
    stage: Stage
    advice: str
    images: int
    steps: int
    seconds: float
    losses: tuple[float, float]

    @property
    def passed(self) -> bool:
        """Whether the images were learned."""
        return not self.stage

    def __str__(self) -> str:
        result = f"self-test: AP50 {self.ap50:.3f} on {counted(self.images, 'image')}"
        result += f" after {counted(self.steps, 'step')} in {self.seconds:.0f} s"
        if self.passed:
            return f"{result}: the model learns these images by heart. {self.advice}"
        return f"{result}; the stage that fails is {self.stage}: {self.advice}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "passed": self.passed,
            "AP50": round(self.ap50, 5),
            "stage": self.stage or None,
            "advice": self.advice,
            "images": self.images,
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "losses": [round(each, 5) for each in self.losses],
        }


def self_test(
    data: DetectionDataset,
    config: Config,
    seconds: float = 60,
    device: str | torch.device = "auto",
    tell: Callable[[str], None] = lambda line: None,
    least_steps: int = LEAST_STEPS,
) -> SelfTest:
    """Train on up to eight images of ``data`` until they are detected, or the time is up.

    On a machine too busy for ``least_steps`` within ``seconds``, the time may be four times as
    long. Deterministic except for the moment at which the time is up. ``tell`` is called with a
    sentence now and then.
    """
    config = config.override(["augment=null", "training.workers=0"])
    labelled = [index for index in range(len(data)) if (~data.record(index).crowd).any()]
    some = Subset(data, [labelled[place] for place in evenly(len(labelled), IMAGES)])
    if fault := _data_fault(some, config):
        return SelfTest(0.0, "data", fault, len(some), 0, 0.0, (0.0, 0.0))
    torch.manual_seed(config.training.seed)
    place = choose_device(device)
    detector = build(config, data.names)
    tell(str(initialise(detector, config.training.start)).splitlines()[0])
    detector.to(place)
    started = time.perf_counter()
    losses, ap50, finite = [], 0.0, True
    steps = _steps(detector, some, config, place)
    for look in range(1, LOOKS + 1):
        while not _is_due(
            look / LOOKS, len(losses) / least_steps, (time.perf_counter() - started) / seconds
        ):
            losses.append(next(steps))
            weights = (bool(each.isfinite().all()) for each in detector.parameters())
            if not (finite := np.isfinite(losses[-1]) and all(weights)):
                break
        if not finite:
            losses[-1] = float("nan")
            break
        try:
            ap50 = evaluate(detector, some, batch=config.training.batch, device=place).ap50
        except ValueError:  # finite weights whose predictions are not finite
            losses[-1], finite = float("nan"), False
            break
        tell(f"self-test: {counted(len(losses), 'step')}, loss {losses[-1]:.2f}, AP50 {ap50:.3f}")
        if ap50 > ENOUGH:
            break
    spent = time.perf_counter() - started
    ends = float(np.mean(losses[:4])), float(np.mean(losses[-4:]))
    stage, advice = "", ""
    if ap50 <= ENOUGH and finite and len(losses) < least_steps:
        stage, advice = (
            "optimisation",
            f"only {counted(len(losses), 'step')} fit; give it more --seconds",
        )
    elif ap50 <= ENOUGH:
        stage, advice = _failing(detector, some, ends, place)
    else:
        advice = FITTING if outline_fit(data) >= EVIDENCE else BLIND
    return SelfTest(ap50, stage, advice, len(some), len(losses), spent, ends)


def _is_due(share: float, steps: float, time: float) -> bool:
    """Whether ``share`` of the training is complete, by steps or by time."""
    return time >= share * PATIENCE or min(time, steps) >= share


def _data_fault(some: Subset, config: Config) -> str:
    """A fault of the data that prevents learning these images, or ""."""
    if not len(some):
        return "no image has an object; check that labels were read (data stats)"
    queries, tiny, every = config.model.queries.count, 0, 0
    for index in range(len(some)):
        record = some.record(index)
        own = record.boxes[~record.crowd]
        if len(own) > queries:
            wanted = counted(queries, "query", "queries")
            return f"{record.file} has {len(own)} objects, the model {wanted}; raise --queries"
        try:
            some.image(index)
        except (ValueError, OSError) as error:
            return f"{error}"
        height, _ = input_size(record.height, record.width, config.image)
        sides = np.sqrt((own[:, 2:] - own[:, :2]).prod(1)) * height / record.height
        tiny, every = tiny + int((sides < LEAST).sum()), every + len(own)
    if tiny > (1 - ENOUGH) * every:
        return (
            f"{tiny} of {counted(every, 'object')} with less than {LEAST:g} pixels in the model's "
            "input; raise --imgsz, or cut the images into tiles"
        )
    return ""


def _steps(detector: Detector, some: Subset, config: Config, place: torch.device) -> Any:
    """The losses of an endless sequence of steps."""
    training = config.training
    freeze(detector, training)
    groups = parameter_groups(detector, training)
    optimizer = torch.optim.AdamW(groups, lr=training.lr, weight_decay=training.weight_decay)
    epoch = 0
    while True:
        detector.train()
        for images, targets in training_loader(some, config, training.seed, epoch):
            detector.train()
            targets = targets.to(place)
            predictions = detector(images.to(place), targets)
            loss, _ = detection_loss(predictions, targets, config.loss)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(detector.parameters(), training.clip or float("inf"))
            optimizer.step()
            yield float(loss.detach())
        epoch += 1


def _failing(
    detector: Detector, some: Subset, losses: tuple[float, float], place: torch.device
) -> tuple[Stage, str]:
    """The stage that prevents learning, and what to change."""
    first, last = losses
    if not np.isfinite(last):
        return (
            "optimisation",
            "the loss is not finite; lower --lr, or --set training.precision=fp32",
        )
    if last > FALLEN * first:
        return "optimisation", (
            f"the loss does not fall ({first:.2f} to {last:.2f}); another --lr (a third, three "
            "times), or other weights to start --from"
        )
    found = evaluate(detector, some, device=place).detections
    reached = every = 0
    for index, each in enumerate(found):
        own = some.record(index).boxes[~some.record(index).crowd]
        every += len(own)
        if len(each):
            overlap = iou(own[:, None].astype(float), each.boxes[None].astype(float))
            reached += int((overlap.max(1) >= 0.5).sum())
    if reached < ENOUGH * every:
        return "matching", (
            f"only {reached} of {counted(every, 'object')} with a query near; check the boxes "
            "(data view), raise --queries or --imgsz"
        )
    return "data", (
        "the loss falls, and yet boxes or classes are not learned: check that boxes lie on objects "
        "and that class names are theirs (data view); where they are, give it more --seconds"
    )
