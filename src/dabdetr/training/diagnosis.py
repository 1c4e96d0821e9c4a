"""Live diagnosis: one line for each fault of a training, with what to do about it.

``EpochStatistics`` collects numbers of the steps, ``faults`` judges a run's record, ``Diagnosis``
prints each fault once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from dabdetr.config import Config
from dabdetr.structures import Predictions, Targets
from dabdetr.text import counted
from dabdetr.training.history import Row
from dabdetr.training.matching import Assignment

LEARNED = 0.1
"""AP50 from which a detector works, however slowly it improves."""
SETTLED = 100
"""Updates before the first judgement: warm-up, and heads that learn how rare objects are."""
BORDER = 0.005
"""Share of the image's side; no object has its centre so near to the border."""

COUNTED = ("used", "norms", "outside", "crowded", "objects")
"""Tensors of ``EpochStatistics`` besides the assignments."""


class EpochStatistics:
    """Statistics of an epoch's steps: gradients, assignments and anchors.

    Objects are identified by their image and index in it. An image whose number of objects differs
    from the last epoch, as after a crop, is left out. Queries proposed by the encoder have no
    identity across images, so they have no statistics.
    """

    def __init__(self) -> None:
        self.matched: dict[str, Tensor] = {}
        self.reset()

    def reset(self) -> None:
        """Start a new epoch, keeping the assignments of the one before."""
        self.before, self.matched = self.matched, {}
        self.used = torch.zeros(0, dtype=torch.bool)
        self.norms: list[float] = []
        self.outside: list[float] = []
        self.crowded = self.objects = 0

    def add(self, predictions: Predictions, targets: Targets, assignment: Assignment) -> None:
        """Add a batch."""
        layers, _, queries = predictions.logits.shape[:3]
        self.crowded += sum(count > queries for count in targets.counts)
        anchors = predictions.anchors[-1] if predictions.anchors else None
        if anchors is not None:
            centres = anchors.detach()[..., :2]
            gone = ((centres < BORDER) | (centres > 1 - BORDER)).any(-1)
            self.outside.append(float(gone.float().mean()))
        if predictions.proposals is not None:
            return
        if len(self.used) != queries:
            self.used = torch.zeros(queries, dtype=torch.bool)
        self.objects += sum(targets.counts)
        query = assignment.query.cpu()
        self.used[query] = True
        table = torch.full((layers, sum(targets.counts)), -1, dtype=torch.int16)
        table[assignment.layer.cpu(), assignment.target.cpu()] = query.to(torch.int16)
        parts = table.split(list(targets.counts), 1)
        names = ("/".join(Path(name).parts[-2:]) for name in targets.names)  # data may be moved
        self.matched.update(zip(names, (part.clone() for part in parts), strict=False))

    def changed(self) -> np.ndarray:
        """[layers] share of objects whose query differs from the last epoch; may be empty."""
        pairs = [
            (now, self.before[name])
            for name, now in self.matched.items()
            if name in self.before and self.before[name].shape == now.shape
        ]
        if not sum(now.shape[1] for now, _ in pairs):
            return np.zeros(0)
        return torch.cat([now != old for now, old in pairs], 1).float().mean(1).numpy()

    def row(self) -> Row:
        """Columns of the record."""
        changed = self.changed()
        return {
            "grad_norm": float(np.median(self.norms)) if self.norms else None,
            "matching_changed": float(changed[-1]) if len(changed) else None,
            "dead_queries": float((~self.used).float().mean()) if len(self.used) else None,
            "anchors_outside": float(np.mean(self.outside)) if self.outside else None,
            **{f"matching_changed_{at}": float(part) for at, part in enumerate(changed, start=1)},
        }

    def state_dict(self) -> dict[str, Any]:
        """Plain values and a few tensors, for checkpoints within an epoch."""
        own = {name: getattr(self, name) for name in COUNTED}
        return own | {"matched": _packed(self.matched), "before": _packed(self.before)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of ``state_dict``."""
        for name in COUNTED:
            setattr(self, name, state.get(name, 0))  # objects: not in older checkpoints
        self.matched, self.before = _unpacked(state["matched"]), _unpacked(state["before"])


def _packed(matched: dict[str, Tensor]) -> dict[str, Any]:
    tables = list(matched.values())
    return {
        "names": list(matched),
        "counts": [table.shape[1] for table in tables],
        "queries": torch.cat(tables, 1) if tables else torch.zeros(0, 0, dtype=torch.int16),
    }


def _unpacked(packed: dict[str, Any]) -> dict[str, Tensor]:
    parts = packed["queries"].split(packed["counts"], 1) if packed["names"] else ()
    return dict(zip(packed["names"], parts, strict=True))


def faults(
    rows: Sequence[Row], config: Config, crowded: int = 0, objects: int = 0
) -> Iterator[tuple[str, str]]:
    """Name and sentence of every fault visible after the last of ``rows``.

    ``crowded`` is the number of images with more objects than queries in the last epoch,
    ``objects`` its number of objects.
    """
    last = rows[-1]
    training = config.training
    at = f"after epoch {last['epoch']:.0f}"
    if crowded:
        yield (
            "queries",
            f"images with more objects than queries {at}: {crowded}; model.queries.count is "
            f"{config.model.queries.count}, the rest is never learned: give more --queries",
        )
    if (share := last.get("loading") or 0) > 0.4:
        yield (
            "loading",
            f"{share:.0%} of the time goes into waiting for images {at}; give --workers "
            f"{training.workers + 2} or smaller image files",
        )
    if (outside := last.get("anchors_outside") or 0) > 0.5:
        yield (
            "anchors",
            f"{outside:.0%} of the anchors lie on the border of the image or beyond {at}; lower "
            "--lr or begin from other weights",
        )
    if (last["updates"] or 0) < SETTLED or len(rows) < 3:
        return
    dead = min(row.get("dead_queries") or 0.0 for row in rows[-3:])
    if dead > 0.9 and objects >= 3 * config.model.queries.count:
        yield (
            "dead",
            f"{dead:.0%} of the queries get none of {objects} objects in three epochs {at}: they "
            "take time and give nothing; give fewer --queries, or use `dabdetr prune` afterwards",
        )
    yield from _rising(rows, at)
    ap = max((row["AP50"] or 0.0 for row in rows), default=0.0)
    if any(row["AP50"] is not None for row in rows) and ap >= LEARNED:
        yield from _gap(rows)
        return
    yield from _standing(rows)
    if len(rows) >= 10 and (changed := last.get("matching_changed") or 0) > 0.8:
        yield (
            "matching",
            f"{changed:.0%} of the objects have another query than an epoch before {at}: no query "
            "learns its place; lower --lr, or raise training.effective_batch",
        )
    if training.lr > 2e-3:
        yield (
            "rate",
            f"the learning rate of {training.lr:g} is high for "
            f"{counted(training.effective_batch, 'image')} an update; 1e-4 to 5e-4 is usual: "
            "lower --lr",
        )


def _rising(rows: Sequence[Row], at: str) -> Iterator[tuple[str, str]]:
    losses = [row["loss"] or 0.0 for row in rows]
    undone = min(losses) + 0.3 * (losses[0] - min(losses))  # of the learned queries
    if losses[-1] > 1.3 * min(losses) and min(losses[-2:]) > max(undone, 1.2 * min(losses)):
        yield (
            "loss",
            f"the loss rises: {losses[-1]:.3g} {at}, {min(losses):.3g} before; lower --lr or give "
            "a longer training.warmup",
        )
    norms = [row.get("grad_norm") or 0.0 for row in rows if row.get("grad_norm")]
    if len(norms) > 2 and norms[-1] > 20 * min(norms):
        yield (
            "gradients",
            f"the gradient's norm is {norms[-1]:.3g} {at} and was {min(norms):.3g}: "
            "clipping leaves its direction only; lower --lr",
        )


def _standing(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Loss terms that do not fall although nothing is detected yet."""
    recent = rows[-5:]
    if len(rows) < 5:
        return
    for name, what, remedy in (
        ("loss_ce", "classes are not", "look at the labels with `dabdetr data view`"),
        ("loss_giou", "boxes are not", "look at the boxes with `dabdetr data view`"),
    ):
        values = [row[name] or 0.0 for row in recent]
        if max(values) - min(values) < 0.02 * max(values) and values[-1] > 0.95 * (
            rows[0][name] or 0.0
        ):
            yield (
                name,
                f"{name} stands at {values[-1]:.3g} since epoch {recent[0]['epoch']:.0f}: {what} "
                f"learned; raise --lr, begin with --from imagenet, or {remedy}",
            )


def _gap(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    measured = [row for row in rows if row["AP"] is not None]
    best, last = max(measured, key=lambda row: row["AP"] or 0.0), measured[-1]
    fell = (last["AP"] or 0.0) < 0.8 * (best["AP"] or 0.0)
    later = measured[measured.index(best) + 1 :]
    if fell and len(later) >= 3 and (last["loss"] or 0.0) < (best["loss"] or 0.0):
        yield (
            "gap",
            f"AP fell from {best['AP']:.3f} (epoch {best['epoch']:.0f}) to {last['AP']:.3f} while "
            "the loss falls: the images are learned by heart; best.safetensors has the best, "
            "--patience ends in time, more augmentation or images help",
        )


class Diagnosis(Callback):
    """Prints each fault once, after the epoch that shows it, and times the loading of images."""

    def __init__(self, rows: list[Row], tell: Callable[[str], None]) -> None:
        self.rows, self.tell = rows, tell
        self.told: set[str] = set()
        self.ended = 0.0
        self.waited = self.whole = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ended = self.waited = self.whole = 0.0

    def on_train_batch_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        if self.ended:  # an epoch's first batch also starts workers
            self.waited += time.perf_counter() - self.ended
            self.began = self.ended

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        if self.ended:
            self.whole += now - self.began
        self.ended = now

    @property
    def loading(self) -> float | None:
        """Share of the epoch's time in which a step waited for its images."""
        return self.waited / self.whole if self.whole else None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        watch = pl_module.watch
        found = faults(self.rows, pl_module.settings, watch.crowded, watch.objects)
        for name, sentence in found:
            if name not in self.told:
                self.told.add(name)
                self.tell(f"diagnosis: {sentence}")
