"""Packages that only some verbs need, and the command that installs them."""

from __future__ import annotations

import json
from urllib.parse import unquote, urlsplit

TRAINING = frozenset(
    {
        *("huggingface_hub", "jaxtyping", "matplotlib", "pytorch_lightning", "safetensors"),
        *("scipy", "sklearn", "timm", "torch", "torchvision"),
    }
)
"""Modules that the extra `train` brings."""


def install_command(extra: str) -> str:
    """What to type for an extra, from where this package was installed: an index or a folder."""
    return f"pip install '{_origin()}[{extra}]'"


def _origin() -> str:
    from importlib.metadata import PackageNotFoundError, distribution  # not for every command

    try:
        about = distribution("dabdetr").read_text("direct_url.json")
    except PackageNotFoundError:
        about = None
    place = urlsplit(json.loads(about)["url"]) if about else None
    return "dabdetr" if place is None or place.scheme != "file" else unquote(place.path)


def explained(error: ImportError) -> str:
    """The error's own words, or for a module of the extra `train` what to type."""
    module = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or module not in TRAINING:
        return str(error)
    return f"this needs the package {module}; type: {install_command('train')}"
