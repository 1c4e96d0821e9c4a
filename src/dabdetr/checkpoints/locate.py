"""Finding weights by name. Nothing heavy is imported, so that a wrong name fails at once."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from dabdetr.text import in_any_case, meant

_OURS = (".pth", ".pt", ".ckpt", ".safetensors")


class Published(NamedTuple):
    """Weights on the Hugging Face hub, trained on COCO's 80 classes; ``ap`` as published."""

    repository: str
    megabytes: int
    ap: float


PUBLISHED = {
    "dab-detr-resnet-50": Published("IDEA-Research/dab-detr-resnet-50", 175, 42.2),
    "dab-detr-resnet-50-dc5": Published("IDEA-Research/dab-detr-resnet-50-dc5", 175, 44.5),
    "conditional-detr-resnet-50": Published("microsoft/conditional-detr-resnet-50", 174, 41.0),
    "detr-resnet-50": Published("facebook/detr-resnet-50", 167, 42.0),
    "deformable-detr": Published("SenseTime/deformable-detr", 161, 44.5),
}
"""Short names of published weights; any other repository is given as ``org/repo``."""


def repository(source: str) -> str:
    """The hub repository of a short name; any other name is returned as it is."""
    name = in_any_case(source, PUBLISHED)
    return PUBLISHED[name].repository if name in PUBLISHED else source


def shipped() -> dict[str, Path]:
    """Name → file of the trained models in the package."""
    folder = Path(str(resources.files("dabdetr"))) / "weights"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def locate(source: str | Path) -> Path | None:
    """The file or folder of ``source``; None for a hub name, which has to be downloaded.

    A hub name is ``org/repo`` or a name in ``PUBLISHED``. FileNotFoundError for any other name;
    the content is not checked.
    """
    path, name = Path(source), str(source)
    if not path.exists():
        name = in_any_case(name, [*shipped(), *PUBLISHED])
    if path.is_file() and path.suffix == ".ckpt":
        raise ValueError(
            f"{path} is the checkpoint of a training, for --resume; give the run's folder "
            f"{path.parent}, or its best.safetensors"
        )
    if path.is_file() and not path.stat().st_size:
        raise ValueError(f"{path} is empty (0 bytes): it was cut short; give the whole file")
    if path.is_dir() or path.is_file():
        return path
    if name in shipped():
        return shipped()[name]
    if name in PUBLISHED:
        return None
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and path.suffix not in _OURS:
        return None
    from dabdetr.presets import PRESETS

    if name in PRESETS:
        raise FileNotFoundError(
            f"{name} is a preset, which has no weights of its own; train it, or give trained "
            "weights: a run's folder, or published ones such as dab-detr-resnet-50"
        )
    hint = meant(name, [*shipped(), *PUBLISHED])
    raise FileNotFoundError(
        f"there are no weights {name!r}: it is no file or folder, no hub name like "
        f"org/repo, and the package ships only: {', '.join(shipped()) or 'nothing'}"
        f"{hint or '; `dabdetr models` lists published weights'}"
    )
