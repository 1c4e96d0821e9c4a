"""An audit in which every image is judged by a model that was not trained on it.

The images are divided into folds. For each fold a model is trained briefly on the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dabdetr.asking.audit import audit
from dabdetr.data.dataset import DetectionDataset, Joined, Subset
from dabdetr.data.splitting import fold
from dabdetr.data.writing import write_data
from dabdetr.evaluation.suspicions import Suspicion
from dabdetr.predictor import Predictor
from dabdetr.presets import PRESETS
from dabdetr.text import counted
from dabdetr.training.train import train

EPOCHS, SEEN = 10, 800
"""Epochs of a fold's training, or more until the model has seen so many images."""


def audit_out_of_fold(
    splits: Sequence[DetectionDataset],
    count: int,
    folder: Path,
    model: str | Path = "dab-lite",
    seed: int = 0,
    device: Any = "auto",
    epochs: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Iterator[list[Suspicion]]:
    """The suspicions of every image, fold by fold; ``count`` models are trained.

    A fold's images and run are in a temporary folder within ``folder``. ``options`` are those of
    ``train``. The held-out fold sets thresholds and calibrates scores, but gives no gradients.
    ValueError if ``model`` is not a preset or a config file.
    """
    if str(model) not in PRESETS and Path(model).suffix not in (".yaml", ".yml"):
        raise ValueError(
            "an audit by folds trains new models, from a preset or a config file; the weights "
            f"{model} may have been trained on these labels"
        )
    images = Joined(splits)
    for number, held_out in enumerate(fold(images, count, seed), start=1):
        excluded = set(held_out)
        rest = Subset(images, [index for index in range(len(images)) if index not in excluded])
        judged = Subset(images, held_out)
        rest.split, judged.split = "train", "val"
        passes = epochs or max(EPOCHS, math.ceil(SEEN / len(rest)))
        tell(
            f"fold {number} of {count}: a model is trained on {counted(len(rest), 'image')} for "
            f"{counted(passes, 'epoch')}, and judges the other {len(judged)}"
        )
        with TemporaryDirectory(prefix=f"fold-{number}-", dir=folder) as place:
            data = Path(place) / "data"
            write_data([rest, judged], data, "coco")
            own = {"project": place, "name": "run", "report": False, "device": device}
            run = train(data, model, epochs=passes, val_every=passes, **own, **options)
            predictor = Predictor(run.weights, device=device)
            places = [images.at(index) for index in held_out]  # (split, index within it)
            for at, split in enumerate(splits):
                indices = [index for of_split, index in places if of_split == at]
                for found in audit(Subset(split, indices), predictor):
                    yield [replace(each, image=indices[each.image]) for each in found]
