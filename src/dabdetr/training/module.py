"""The training step: forward pass, loss, clipping and learning rates, as Lightning calls them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from dabdetr.config import Config
from dabdetr.data.loader import pad_to_multiple
from dabdetr.inference.device import keep_freed_memory
from dabdetr.model.detector import Detector
from dabdetr.training.accumulation import Batch
from dabdetr.training.activation_checkpointing import checkpoint_activations
from dabdetr.training.diagnosis import EpochStatistics
from dabdetr.training.distributed import World
from dabdetr.training.losses import Table, count_objects, detection_loss
from dabdetr.training.matching import assign
from dabdetr.training.nonfinite import (
    NonFiniteLoss,
    diagnose_inputs,
    diagnose_nonfinite,
    some_images,
)
from dabdetr.training.optim import freeze, parameter_groups, rate_factor

CUDA_MULTIPLE = 64
"""``training.pad_multiple`` on a CUDA GPU, in pixels."""


class TrainingModule(LightningModule):
    """A detector with its loss and optimizer, as a pytorch-lightning module.

    ``loader(epoch)`` returns this rank's batches of an epoch. All randomness is a function of the
    seed, the epoch and the rank, so a resumed run repeats an uninterrupted one.
    """

    def __init__(
        self,
        detector: Detector,
        loader: Callable[[int], Iterable[Batch]],
        world: World | None = None,
    ) -> None:
        super().__init__()
        self.world = world or World()
        self.detector = detector
        self.settings: Config = detector.config
        self.loader = loader
        self.meter, self.watch = Meter(), EpochStatistics()
        self.lr = self.settings.training.lr
        self._files: list[str] = []
        self._saved: dict[str, Any] = {}
        freeze(detector, self.settings.training)
        checkpoint_activations(detector, self.settings.training.recompute)

    def __deepcopy__(self, memo: dict[int, Any]) -> TrainingModule:
        """The copy for averaging: weights only, neither data nor trainer."""
        from copy import deepcopy

        return TrainingModule(deepcopy(self.detector, memo), lambda _: ())

    def train_dataloader(self) -> Any:
        # Of a resumed run, only the count of processed epochs is already right at this point.
        return self.loader(self.trainer.fit_loop.epoch_progress.current.processed)  # pyright: ignore

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = {
            "random": _random_state(self.device),
            "meter": self.meter.state_dict(),
            "watch": self.watch.state_dict(),
        }
        checkpoint["ranks"] = self.world.gather(own)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._saved = {name: checkpoint.get(name) for name in ("ranks", "lr_schedulers")}

    def on_train_start(self) -> None:
        saved, self._saved = self._saved, {}
        ranks = saved.get("ranks") or []
        if len(ranks) == self.world.size and "watch" in ranks[self.world.rank]:
            self.watch.load_state_dict(ranks[self.world.rank]["watch"])
        if self.trainer.fit_loop.restarted_mid_epoch:
            own = ranks[self.world.rank]
            self._train_mode()
            self.meter.load_state_dict(own["meter"], self.device)
            _set_random_state(own["random"], self.device)
        if saved and not saved["lr_schedulers"]:  # older checkpoints have only the step
            schedule: Any = self.lr_schedulers()
            schedule.last_epoch, schedule._step_count = self.global_step, self.global_step + 1
            for group, rate in zip(schedule.optimizer.param_groups, schedule.base_lrs, strict=True):
                group["lr"] = rate * self._rate_factor(self.global_step)

    def configure_optimizers(self) -> Any:
        training = self.settings.training
        fused = self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed"
        groups = parameter_groups(self.detector, training)
        optimizer = torch.optim.AdamW(
            groups, lr=training.lr, weight_decay=training.weight_decay, fused=fused
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate_factor(self, step: int) -> float:
        """The factor of the learning rates in optimizer step ``step``, counted from 0."""
        epoch, progress = 0, 0.0
        if step:  # before the first epoch the number of batches is unknown
            gathered, batches = (
                self.trainer.accumulate_grad_batches,
                self.trainer.num_training_batches,
            )
            steps = math.ceil(batches / gathered)
            epoch, progress = step // steps, step % steps / steps
        training = self.settings.training
        return rate_factor(training, (epoch + progress) / training.epochs, step)

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        multiple = self.settings.training.pad_multiple
        if multiple is None:
            multiple = CUDA_MULTIPLE if device.type == "cuda" else 1
        images = pad_to_multiple(batch.images.to(device), multiple)
        targets = batch.targets.to(device)
        return batch._replace(images=images, targets=targets)

    def on_fit_start(self) -> None:
        if self.device.type == "cpu":
            keep_freed_memory()

    def on_train_epoch_start(self) -> None:
        own = 1_000_000_007 * self.world.rank
        torch.manual_seed(self.settings.training.seed * 100_003 + self.current_epoch + own)
        self._train_mode()
        self.meter.reset()
        self.watch.reset()
        self._files.clear()

    def _train_mode(self) -> None:
        self.detector.train()
        if not any(p.requires_grad for p in self.detector.backbone.parameters()):
            self.detector.backbone.eval()  # frozen stages keep their batch statistics too

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        targets = batch.targets
        predictions = self.detector(batch.images, targets)
        objects = count_objects(batch.objects, predictions.boxes.device)
        pairs = assign(predictions, targets, self.settings.loss)
        total, table = detection_loss(predictions, targets, self.settings.loss, pairs, objects)
        if not torch.isfinite(total):
            place = self._place()
            inputs = diagnose_inputs(self.detector, batch.images.pixels, targets.names, place)
            raise NonFiniteLoss(
                inputs or diagnose_nonfinite(predictions, targets, self.settings.loss, place)
            )
        if batch.loss_scale:  # not a batch of another rank
            self.meter.add(total.detach(), table, len(targets.counts))
            self.watch.add(predictions, targets, pairs)
        self._files += targets.names
        if self.world.size > 1:  # the other ranks wait for a (zero) gradient of unused weights
            learning = [p.sum() for p in self.detector.parameters() if p.requires_grad]
            total = total + 0.0 * torch.stack(learning).sum()
        return total * batch.loss_scale

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Step, then free the gradients: the next forward pass needs that memory."""
        optimizer: Any = self.optimizers()
        self.lr = optimizer.param_groups[-1]["lr"]
        super().optimizer_step(*arguments, **named)
        optimizer.zero_grad()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Scale gradients to the norm ``training.clip``; raise if the norm is not finite."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        most = self.settings.training.clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(parameters, most)
        skipped_by_scaler = self.trainer.precision == "16-mixed"
        if not skipped_by_scaler and not torch.isfinite(norm):
            raise NonFiniteLoss(
                f"the gradient's norm is {norm.item()} in {self._place()}, with "
                f"{some_images(self._files)}; lower training.lr or set training.precision=fp32"
            )
        self.watch.norms.append(norm.item())
        self._files.clear()

    def _place(self) -> str:
        return f"epoch {self.current_epoch + 1}, update {self.global_step + 1}"


def _random_state(device: torch.device) -> list[Tensor]:
    """The states of torch's generators: the CPU's, and the device's if it has its own."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return states


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
    elif device.type == "mps" and len(states) > 1:
        torch.mps.set_rng_state(states[1])


class Meter:
    """Running means of an epoch: the loss, and the last layer's terms, weighted by images."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again from zero."""
        self.images = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, total: Tensor, table: Table, images: int) -> None:
        """Add a batch; nothing leaves the device."""
        last = max(layer for _, layer in table)
        exact = torch.float32 if total.device.type == "mps" else torch.float64  # MPS has no float64
        terms = {term: value for (term, layer), value in table.items() if layer in (last, -1)}
        for name, value in ({"loss": total} | terms).items():
            value = value.to(exact) * images
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self.images += images

    def gather(self, world: World) -> None:
        """Add the sums of the other ranks."""
        own = (self.images, {name: float(value) for name, value in self._sums.items()})
        self.reset()
        for images, sums in world.gather(own):
            self.images += images
            for name, value in sums.items():
                self._sums[name] = (
                    self._sums.get(name, torch.zeros((), dtype=torch.float64)) + value
                )

    def state_dict(self) -> dict[str, Any]:
        """The sums, for ``load_state_dict``."""
        return {"images": self.images, "sums": {n: v.cpu() for n, v in self._sums.items()}}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Continue with the sums of ``state_dict``."""
        self.images = state["images"]
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}

    def means(self) -> dict[str, float]:
        """``loss`` (weighted, all layers), and unweighted terms of the last layer and the encoder.

        A batch without a query group counts as 0 in that group's terms.
        """
        return {name: float(value) / self.images for name, value in self._sums.items()}
