"""Where weights lie. Nothing heavy is imported, so that a wrong name is answered at once."""

from __future__ import annotations

import difflib
import re
from importlib import resources
from pathlib import Path

_OURS = (".pth", ".pt", ".ckpt", ".safetensors")


def shipped() -> dict[str, Path]:
    """Name → file of the trained models inside the package."""
    folder = Path(str(resources.files("dabdetr"))) / "weights"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def locate(source: str | Path) -> Path | None:
    """The file or folder that ``source`` means; None: a hub name ``org/repo``, to be downloaded.

    An error says where it is none of them; whether it holds weights is not looked at.
    """
    path, name = Path(source), str(source)
    if path.is_file() and path.suffix == ".ckpt":
        raise ValueError(
            f"{path} is what --resume needs; give the run's folder {path.parent}, or its "
            "best.safetensors"
        )
    if path.is_dir() or path.is_file():
        return path
    if name in shipped():
        return shipped()[name]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and path.suffix not in _OURS:
        return None
    from dabdetr.presets import PRESETS

    if name in PRESETS:
        raise FileNotFoundError(
            f"{name} is a preset, which has no weights of its own; train it, or give trained "
            "weights: a run's folder, or published ones such as IDEA-Research/dab-detr-resnet-50"
        )
    near = difflib.get_close_matches(name, shipped(), 1)
    meant = f"; did you mean {near[0]}?" if near else ""
    raise FileNotFoundError(
        f"there are no weights {name!r}: it is no file or folder, no hub name like "
        f"org/repo, and the package ships only: {', '.join(shipped()) or 'nothing'}{meant}"
    )
