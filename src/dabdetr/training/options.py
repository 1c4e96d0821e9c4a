"""The config and the data sources of a run, from the options of ``train``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import yaml
from pydantic import Field

from dabdetr.checkpoints.locate import locate, shipped
from dabdetr.config import Config, Section, load
from dabdetr.config.root import load_section
from dabdetr.files import write_atomically
from dabdetr.presets import PRESETS
from dabdetr.text import counted, meant

if TYPE_CHECKING:
    from dabdetr.data.dataset import DetectionDataset


class ConfigOptions(TypedDict, total=False):
    """Options of a training that change its config; those not given leave it unchanged.

    epochs    passes over the images
    batch     images in a step; steps are gathered to an update
    imgsz     shorter side of images; the longest side and augmentation scale with it
    lr        learning rate of everything but the backbone, whose rate keeps its ratio to it
    start     "imagenet", "none", or weights
    seed      of all random numbers
    workers   processes that read images
    patience  epochs without a higher AP after which training ends
    """

    epochs: int | None
    batch: int | None
    imgsz: int | None
    lr: float | None
    start: str | Path | None
    seed: int | None
    workers: int | None
    patience: int | None


_PATHS = ("epochs", "batch", "start", "seed", "workers", "patience")
"""Options that are fields of ``training`` under the same name."""

SETTLED = {
    "training.epochs": "training.images",
    "image.size": "image.object_size",
    "model.queries.count": "model.queries.per_object",
}
"""Fields that a user may set, with the rule that derives each from the data
(``planning.fit_to_data``): setting the field turns its rule off."""


def choose_config(
    model: str | Path | Config,
    overrides: Iterable[str] = (),
    **options: Unpack[ConfigOptions],
) -> Config:
    """The config that ``model`` names, with ``options`` and then ``overrides`` applied.

    Nothing heavy is imported for presets and config files, so a wrong name is reported at once.
    """
    if unknown := options.keys() - ConfigOptions.__annotations__:
        name = min(unknown)
        raise TypeError(
            f"there is no option {name} of a training{meant(name, ConfigOptions.__annotations__)}; "
            'other fields of the config: overrides=["path=value"]'
        )
    config = model if isinstance(model, Config) else _named(model)
    given = {name: value for name, value in options.items() if value is not None}
    if "start" in given and given["start"] not in ("none", "imagenet"):
        locate(str(given["start"]))
    changes = [f"training.{name}={given[name]}" for name in _PATHS if name in given]
    overrides = list(overrides)
    if (lr := options.get("lr")) is not None:
        ratio = config.training.backbone_lr / config.training.lr
        changes += [f"training.lr={lr}", f"training.backbone_lr={lr * ratio}"]
    if (imgsz := options.get("imgsz")) is not None:
        changes += resized(config, imgsz)
    settled = {change.split("=")[0] for change in (*changes, *overrides)}
    if config.model.queries.kind == "learned":  # no such field in this member
        settled.discard("model.queries.count")
    changes += [f"{field}=null" for given, field in SETTLED.items() if given in settled]
    return config.override([*changes, *overrides])


def epochs_between_validations(epochs: int) -> int:
    """The default: about twenty validations in the whole training."""
    return max(1, epochs // 20)


def _named(model: str | Path) -> Config:
    """A preset, a YAML file, or the config inside weights, which then also are the start."""
    text = str(model)
    if text in PRESETS:
        return PRESETS[text]
    if Path(text).suffix in (".yaml", ".yml"):
        if not Path(text).is_file():
            raise FileNotFoundError(f"there is no config file {text}")
        return load(text)
    if Path(text).exists() or "/" in text or Path(text).suffix or text in shipped():
        locate(text)
        from dabdetr.checkpoints.native import load_model  # needs torch

        # Precision and thresholds in weights were chosen by their own run; this run chooses again.
        config = load_model(text).model.config.override(
            [f"training.start={text}", "training.precision=auto", "inference.calibration=null"]
        )
        inference = config.inference.model_copy(update={"class_conf": {}})
        return config.model_copy(update={"inference": inference})
    near = meant(text, [*PRESETS, *shipped()])
    raise ValueError(f"there is no preset {text!r}{near}; `dabdetr models` lists them")


def resized(config: Config, imgsz: int) -> list[str]:
    """The overrides that make ``imgsz`` the shorter side and scale the other sizes with it."""
    scale = imgsz / config.image.size
    changes = [f"image.size={imgsz}", f"image.max_size={round(config.image.max_size * scale)}"]
    if config.augment is not None and config.augment.sizes:
        sizes = [round(size * scale) for size in config.augment.sizes]
        changes.append(f"augment.sizes={sizes}")
    return changes


class Sources(Section):
    """Where a run's images and first queries come from; kept as run.yaml, for resuming.

    queries          as asked for; ``queries_init`` says how those of weights become so many
    initial_queries  those of the model that is filled before, see ``with_queries``
    log              loggers by name
    transform        the name of the user's own augmentation, which comes from Python
    report           whether the run ends with one; ``against`` is what it is compared with
    """

    data: str | None = None
    annotations: str | None = None
    images: str | None = None
    val_annotations: str | None = None
    val_images: str | None = None
    val_every: int = Field(default=1, ge=1)
    split: float | None = Field(default=None, gt=0, lt=1)
    box_format: str | None = None
    queries: int | None = Field(default=None, ge=1)
    queries_init: str = "keep"
    initial_queries: int | None = Field(default=None, ge=1)
    log: tuple[str, ...] = ()
    transform: str | None = None
    report: bool = True
    against: str | None = None

    def open(
        self, strict: bool = False, progress: bool = False
    ) -> tuple[DetectionDataset, DetectionDataset | None]:
        """The training split, and the validation split where there is one; both checked.

        ``strict`` refuses data in which anything is odd (see ``data.findings``).
        """
        from dabdetr.data.findings import refuse
        from dabdetr.data.layouts import open_training  # not needed to report a wrong model name
        from dabdetr.evaluation.evaluate import class_map

        train, val = open_training(
            self.data,
            self.annotations,
            self.images,
            self.val_annotations,
            self.val_images,
            share=self.split,
            box_format=self.box_format,  # pyright: ignore[reportArgumentType] - checked there
            progress=progress,
        )
        if strict:
            refuse({data.split: data.findings for data in (train, val) if data is not None})
        if not any((~train.record(i).crowd).any() for i in range(len(train))):
            raise ValueError(
                f"{train.name} {train.split} has no annotated object in "
                f"{counted(len(train), 'image')} (crowds do not count); training needs some"
                + "".join(f"; {each}" for each in train.findings.of("skipped"))
            )
        if val is not None:
            class_map(train.names, val.names)  # raises where classes do not match
        return train, val

    @classmethod
    def load(cls, path: Path) -> Sources:
        """Read the file of ``save``."""
        return load_section(cls, path, "'data:'")

    def save(self, path: Path) -> None:
        """Write as YAML, with absolute paths (generated scenes have none)."""
        tree = self.model_dump(mode="json")
        for key in ("data", "annotations", "images", "val_annotations", "val_images"):
            tree[key] = None if tree[key] is None else _anywhere(tree[key])
        kind, colon, place = self.queries_init.partition(":")
        tree["queries_init"] = f"{kind}:{_anywhere(place)}" if colon else kind
        write_atomically(path, yaml.safe_dump(tree, sort_keys=False).encode())


def _anywhere(place: str) -> str:
    """An absolute path; generated scenes stay as they are."""
    return place if place.partition(":")[0] == "scenes" else str(Path(place).resolve())
