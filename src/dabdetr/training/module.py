"""The training step and what surrounds it: optimiser groups, rates, clipping, accumulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from dabdetr.config import Config, Loss, Training
from dabdetr.inference.device import keep_freed_memory
from dabdetr.model.detector import Detector
from dabdetr.structures import Images, Predictions, Targets
from dabdetr.training.losses import Table, count_objects, detection_loss
from dabdetr.training.recompute import recompute

Batch = tuple[Images, Targets]
Counted = tuple[Images, Targets, float]
"""A batch, and the mean number of objects of the batches that make an update with it."""


class NonFiniteLoss(ValueError):
    """A loss or gradient became NaN or infinite; the message names images, layer and term."""


class TrainingModule(LightningModule):
    """A detector, its loss and its optimiser, as pytorch-lightning runs them.

    ``loader(epoch)`` gives the batches of an epoch. All randomness is a function of the seed and
    the epoch, so that a resumed run repeats an uninterrupted one.
    """

    def __init__(self, detector: Detector, loader: Callable[[int], Iterable[Batch]]) -> None:
        super().__init__()
        self.detector = detector
        self.settings: Config = detector.config
        self.loader = loader
        self.meter = Meter()
        self._files: list[str] = []
        freeze(detector, self.settings.training)
        recompute(detector, self.settings.training.recompute)

    def __deepcopy__(self, memo: dict[int, Any]) -> TrainingModule:
        """The average's copy: weights only, neither data nor trainer."""
        from copy import deepcopy

        return TrainingModule(deepcopy(self.detector, memo), _no_batches)

    def train_dataloader(self) -> Any:
        # Of a resumed run, only the count of processed epochs is already right at this point.
        batches = self.loader(self.trainer.fit_loop.epoch_progress.current.processed)  # pyright: ignore
        return Counting(batches, self.trainer.accumulate_grad_batches)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["names"] = list(self.detector.names)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        training = self.settings.training
        fused = self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed"
        groups = parameter_groups(self.detector, training)
        return torch.optim.AdamW(
            groups, lr=training.lr, weight_decay=training.weight_decay, fused=fused
        )

    def transfer_batch_to_device(
        self, batch: Counted, device: torch.device, dataloader_idx: int
    ) -> Counted:
        return batch[0].to(device), batch[1].to(device), batch[2]

    def on_fit_start(self) -> None:
        if self.device.type == "cpu":
            keep_freed_memory()

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(self.settings.training.seed * 100_003 + self.current_epoch)
        self.detector.train()
        if not any(p.requires_grad for p in self.detector.backbone.parameters()):
            self.detector.backbone.eval()  # its batch statistics rest too
        self.meter.reset()
        self._files.clear()

    def on_train_batch_start(self, batch: Counted, batch_idx: int) -> None:
        training = self.settings.training
        factor = rate_factor(training, self._progress(batch_idx), self.global_step)
        for group in self.optimizers().param_groups:  # pyright: ignore
            group["lr"] = group["base_lr"] * factor

    def training_step(self, batch: Counted, batch_idx: int) -> Tensor:
        images, targets, number = batch
        predictions = self.detector(images, targets)
        objects = count_objects(number, predictions.boxes.device)
        total, table = detection_loss(predictions, targets, self.settings.loss, objects=objects)
        if not torch.isfinite(total):
            raise NonFiniteLoss(blame(predictions, targets, self.settings.loss, self._place()))
        self.meter.add(total.detach(), table, len(targets.counts))
        self._files += targets.names
        gathered, batches = self.trainer.accumulate_grad_batches, self.trainer.num_training_batches
        return total * share(batch_idx, gathered, int(batches))

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Step, then free the gradients: the next forward pass needs that memory."""
        super().optimizer_step(*arguments, **named)
        self.optimizers().zero_grad()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Scale gradients to the norm ``training.clip``; one that is not finite never steps."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        most = self.settings.training.clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(parameters, most)
        skipped_by_scaler = self.trainer.precision == "16-mixed"
        if not skipped_by_scaler and not torch.isfinite(norm):
            raise NonFiniteLoss(
                f"the gradient's norm is {norm.item()} in {self._place()}, with "
                f"{_some(self._files)}; lower training.lr or set training.precision=fp32"
            )
        self._files.clear()

    def _progress(self, batch_idx: int) -> float:
        """Share of the whole training that lies behind batch ``batch_idx``."""
        epochs, batches = self.settings.training.epochs, self.trainer.num_training_batches
        return (self.current_epoch + batch_idx / batches) / epochs

    def _place(self) -> str:
        return f"epoch {self.current_epoch + 1}, update {self.global_step + 1}"


class Counting:
    """Batches as ``Counted``: the losses of an update have one divisor, however it is divided into
    steps (as over the processes of the papers)."""

    def __init__(self, batches: Iterable[Batch], gathered: int) -> None:
        self.batches, self.gathered = batches, gathered

    def __len__(self) -> int:
        return len(self.batches)  # pyright: ignore[reportArgumentType]

    def __iter__(self) -> Iterator[Counted]:
        batches = iter(self.batches)
        while update := list(islice(batches, self.gathered)):
            objects = [sum(targets.counts) for _, targets in update]
            for images, targets in update:
                yield images, targets, sum(objects) / len(update)


def _no_batches(_: int) -> Iterable[Batch]:
    return ()


def freeze(detector: Detector, training: Training) -> None:
    """Take the gradient from what is not to be trained."""
    if not training.backbone_lr:
        detector.backbone.requires_grad_(False)
    if not training.train_only:
        return
    for name, parameter in detector.named_parameters():
        if not name.startswith(training.train_only):
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in detector.parameters()):
        raise ValueError(
            f"training.train_only {list(training.train_only)} leaves nothing to train; parts are: "
            f"{', '.join(name for name, _ in detector.named_children())}, and parts of those like "
            "decoder.heads"
        )


def parameter_groups(detector: Detector, training: Training) -> list[dict[str, Any]]:
    """The backbone, sampling offsets and learned points, and everything else, each at its rate.

    Frozen parameters are in no group. Weight decay applies to all others, norms and biases
    included (official recipe).
    """
    rates = {
        "backbone": training.backbone_lr,
        "offsets": training.lr * training.offsets_factor,
        "rest": training.lr,
    }
    groups: dict[str, list[torch.nn.Parameter]] = {name: [] for name in rates}
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            groups[_group(name)].append(parameter)
    return [
        {"name": name, "params": parameters, "lr": rates[name], "base_lr": rates[name]}
        for name, parameters in groups.items()
        if parameters
    ]


def _group(name: str) -> str:
    if name.startswith("backbone."):
        return "backbone"
    return "offsets" if ".offsets." in name or name.startswith("queries.to_point.") else "rest"


def rate_factor(training: Training, progress: float, update: int) -> float:
    """What the base rates are multiplied by: warm-up over updates, then the schedule.

    ``progress`` is the share of the training that is done, 0–1; ``update`` counts from 0.
    """
    warm = min(1.0, (update + 1) / training.warmup) if training.warmup else 1.0
    if training.schedule == "step":
        return warm * (0.1 if progress >= training.drop else 1.0)
    if training.schedule == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * progress))
    return warm


def share(batch_idx: int, gathered: int, batches: int) -> float:
    """What a loss is multiplied by: the engine divides all by ``gathered``, but the last update of
    an epoch of ``batches`` may gather fewer."""
    first = batch_idx - batch_idx % gathered
    return gathered / min(gathered, batches - first)


@torch.no_grad()
def blame(predictions: Predictions, targets: Targets, loss: Loss, place: str) -> str:
    """One sentence that says which images, layer and term made the loss not finite.

    Of other terms than the matching queries' (denoising, proposals, heads) it knows no image.
    """
    guilty, found, start = [], [], 0
    for image, count in enumerate(targets.counts):
        name = targets.names[image] if targets.names else f"number {image} of the batch"
        table = _of_one(predictions, targets, loss, image, slice(start, start + count))
        bad = [key for key, value in table.items() if not torch.isfinite(value)]
        start += count
        if bad:
            guilty.append(name)
            found += [(layer, term, float(table[term, layer])) for term, layer in bad]
    if not found:
        guilty = list(targets.names)
        _, table = detection_loss(predictions, targets, loss, objects=_at_least_one(targets.counts))
        found = [(layer, term, float(v)) for (term, layer), v in table.items() if not v.isfinite()]
    if not found:  # only the sum over the batch overflows
        return f"the loss is not finite in {place}, with {_some(targets.names)}; lower training.lr"
    layer, term, value = min(found, key=lambda f: f[0])
    where = f"of decoder layer {layer}" if layer >= 0 else "of the encoder"
    return (
        f"the loss is not finite in {place}: {term} {where} is {value} for "
        f"{_some(guilty)}; look at those pictures and boxes, lower training.lr or set "
        "training.precision=fp32"
    )


def _of_one(
    predictions: Predictions, targets: Targets, loss: Loss, image: int, rows: slice
) -> Table:
    alone = Predictions(
        predictions.logits[:, image, None],
        predictions.boxes[:, image, None],
        predictions.anchors,
    )
    own = Targets(targets.labels[rows], targets.boxes[rows], (targets.counts[image],))
    return detection_loss(alone, own, loss, objects=_at_least_one(own.counts))[1]


def _at_least_one(counts: Iterable[int]) -> Tensor:
    """Objects without asking other processes, which may not be here."""
    return torch.tensor(float(max(1, sum(counts))))


def _some(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and how many more."""
    names = list(names)
    if not names:
        return "unnamed images"
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ("image " if len(names) == 1 else "images ") + ", ".join(names[:most]) + rest


class Meter:
    """Means over an epoch so far: the loss, and the last layer's terms, weighted by images."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.images = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, total: Tensor, table: Table, images: int) -> None:
        """Take in one batch; nothing leaves the device."""
        last = max(layer for _, layer in table)
        exact = torch.float32 if total.device.type == "mps" else torch.float64  # MPS has no other
        terms = {term: value for (term, layer), value in table.items() if layer in (last, -1)}
        for name, value in ({"loss": total} | terms).items():
            value = value.to(exact) * images
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self.images += images

    def means(self) -> dict[str, float]:
        """``loss`` (weighted, all layers) and unweighted terms: the last layer's, the encoder's.

        A query group that some batch did not have counts as 0 there.
        """
        return {name: float(value) / self.images for name, value in self._sums.items()}
