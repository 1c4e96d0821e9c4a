"""From the short options of ``train`` to one resolved config."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dabdetr.config import Config, load
from dabdetr.model.weights import load_model, shipped
from dabdetr.presets import PRESETS, preset


def choose_config(
    model: str | Path,
    epochs: int | None = None,
    batch: int | None = None,
    imgsz: int | None = None,
    lr: float | None = None,
    start: str | Path | None = None,
    seed: int | None = None,
    workers: int | None = None,
    overrides: Iterable[str] = (),
) -> Config:
    """The config that ``model`` names, with options and then ``overrides`` applied."""
    config = _named(model)
    options = {"epochs": epochs, "batch": batch, "start": start, "seed": seed, "workers": workers}
    changes = [f"training.{key}={value}" for key, value in options.items() if value is not None]
    if lr is not None:
        ratio = config.training.backbone_lr / config.training.lr
        changes += [f"training.lr={lr}", f"training.backbone_lr={lr * ratio}"]
    if imgsz is not None:
        changes += _resized(config, imgsz)
    return config.override([*changes, *overrides])


def _named(model: str | Path) -> Config:
    """A preset, a YAML file, or the config inside weights, which are then also the start."""
    text = str(model)
    if text in PRESETS:
        return PRESETS[text]
    if Path(text).suffix in (".yaml", ".yml"):
        if not Path(text).is_file():
            raise FileNotFoundError(f"there is no config file {text}")
        return load(text)
    if Path(text).exists() or "/" in text or Path(text).suffix or text in shipped():
        return load_model(text).model.config.override([f"training.start={text}"])
    return preset(text)  # raises, and lists those there are


def _resized(config: Config, imgsz: int) -> list[str]:
    scale = imgsz / config.image.size
    changes = [f"image.size={imgsz}", f"image.max_size={round(config.image.max_size * scale)}"]
    if config.augment is not None and config.augment.sizes:
        sizes = [round(size * scale) for size in config.augment.sizes]
        changes.append(f"augment.sizes={sizes}")
    return changes
