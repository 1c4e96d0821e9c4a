"""An audit in which no image is judged by a model that was trained on it.

The images are divided into folds. For each of them a model is trained on the others, briefly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from dabdetr.training.train import train


def audit_out_of_fold(
    splits: Sequence[DetectionDataset],
    count: int,
    folder: Path,
    model: str | Path = "dab-lite",
    seed: int = 0,
    device: Any = "auto",
    **options: Any,
) -> Iterator[list[Suspicion]]:
    """The suspicions of every image, fold by fold; ``count`` models are trained for them.

    ``folder`` holds each fold's images and run while it is needed. ``options`` are those of
    ``train``, such as ``epochs``. The held-out fold chooses the epoch and calibrates the scores,
    and is in no gradient.
    """
    if str(model) not in PRESETS and Path(model).suffix not in (".yaml", ".yml"):
        raise ValueError(
            "folds are judged by models that are trained for it, of a preset or a config file; "
            f"{model} may have been trained on these very labels"
        )
    images = Joined(splits)
    for number, held in enumerate(fold(images, count, seed), start=1):
        out = set(held)
        rest = Subset(images, [index for index in range(len(images)) if index not in out])
        judged = Subset(images, held)
        rest.split, judged.split = "train", "val"
        with TemporaryDirectory(prefix=f"fold-{number}-", dir=folder) as place:
            data = Path(place) / "data"
            write_data([rest, judged], data, "coco")
            run = train(
                data, model, project=place, name="run", device=device, report=False, **options
            )
            predictor = Predictor(run.weights, device=device)
            for number_of_split, split in enumerate(splits):
                own = [images.at(index) for index in held]
                indices = [index for number, index in own if number == number_of_split]
                for found in audit(Subset(split, indices), predictor):
                    yield [replace(each, image=indices[each.image]) for each in found]
