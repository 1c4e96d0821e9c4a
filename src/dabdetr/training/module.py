"""The training step and what surrounds it: optimiser groups, rates, clipping, accumulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from dabdetr.config import Config, Loss, Training
from dabdetr.inference.device import keep_freed_memory
from dabdetr.model.detector import Detector
from dabdetr.structures import Predictions, Targets
from dabdetr.training.accumulation import Step
from dabdetr.training.activation_checkpointing import recompute
from dabdetr.training.distributed import Processes
from dabdetr.training.losses import Table, count_objects, detection_loss


class NonFiniteLoss(ValueError):
    """A loss or gradient became NaN or infinite; the message names images, layer and term."""


class TrainingModule(LightningModule):
    """A detector, its loss and its optimiser, as pytorch-lightning runs them.

    ``loader(epoch)`` gives an epoch's steps, those of this process. All randomness is a function of
    the seed, the epoch and the process, so that a resumed run repeats an uninterrupted one.
    """

    def __init__(
        self,
        detector: Detector,
        loader: Callable[[int], Iterable[Step]],
        processes: Processes | None = None,
    ) -> None:
        super().__init__()
        self.processes = processes or Processes()
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

        return TrainingModule(deepcopy(self.detector, memo), lambda _: ())

    def train_dataloader(self) -> Any:
        # Of a resumed run, only the count of processed epochs is already right at this point.
        return self.loader(self.trainer.fit_loop.epoch_progress.current.processed)  # pyright: ignore

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
        self, batch: Step, device: torch.device, dataloader_idx: int
    ) -> Step:
        images, targets = batch.images.to(device), batch.targets.to(device)
        return batch._replace(images=images, targets=targets)

    def on_fit_start(self) -> None:
        if self.device.type == "cpu":
            keep_freed_memory()

    def on_train_epoch_start(self) -> None:
        own = 1_000_000_007 * self.processes.rank
        torch.manual_seed(self.settings.training.seed * 100_003 + self.current_epoch + own)
        self.detector.train()
        if not any(p.requires_grad for p in self.detector.backbone.parameters()):
            self.detector.backbone.eval()  # its batch statistics rest too
        self.meter.reset()
        self._files.clear()

    def on_train_batch_start(self, batch: Step, batch_idx: int) -> None:
        training = self.settings.training
        factor = rate_factor(training, self._progress(batch_idx), self.global_step)
        for group in self.optimizers().param_groups:  # pyright: ignore
            group["lr"] = group["base_lr"] * factor

    def training_step(self, batch: Step, batch_idx: int) -> Tensor:
        targets = batch.targets
        predictions = self.detector(batch.images, targets)
        objects = count_objects(batch.objects, predictions.boxes.device)
        total, table = detection_loss(predictions, targets, self.settings.loss, objects=objects)
        if not torch.isfinite(total):
            raise NonFiniteLoss(blame(predictions, targets, self.settings.loss, self._place()))
        if self.processes.count > 1:  # the others wait for every gradient, such as denoising's
            learning = [p.sum() for p in self.detector.parameters() if p.requires_grad]
            total = total + 0.0 * torch.stack(learning).sum()
        if batch.worth:
            self.meter.add(total.detach(), table, len(targets.counts))
        self._files += targets.names
        return total * batch.worth

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
        """Share of the whole training that lies behind the update with batch ``batch_idx``."""
        gathered, batches = self.trainer.accumulate_grad_batches, self.trainer.num_training_batches
        of_epoch = (batch_idx // gathered) / math.ceil(batches / gathered)
        return (self.current_epoch + of_epoch) / self.settings.training.epochs

    def _place(self) -> str:
        return f"epoch {self.current_epoch + 1}, update {self.global_step + 1}"


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
        f"{_some(guilty)}; look at those images and boxes, lower training.lr or set "
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
    own = Targets(
        targets.labels[rows],
        targets.boxes[rows],
        (targets.counts[image],),
        known=None if targets.known is None else targets.known[image, None],
    )
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

    def gather(self, processes: Processes) -> None:
        """Take in what the others of ``processes`` have seen."""
        own = (self.images, {name: float(value) for name, value in self._sums.items()})
        self.reset()
        for images, sums in processes.gather(own):
            self.images += images
            for name, value in sums.items():
                self._sums[name] = (
                    self._sums.get(name, torch.zeros((), dtype=torch.float64)) + value
                )

    def means(self) -> dict[str, float]:
        """``loss`` (weighted, all layers) and unweighted terms: the last layer's, the encoder's.

        A query group that some batch did not have counts as 0 there.
        """
        return {name: float(value) / self.images for name, value in self._sums.items()}
