"""Optional packages, the command that installs them, and files of this package."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import unquote, urlsplit

TRAINING = frozenset(
    {
        *("huggingface_hub", "jaxtyping", "matplotlib", "pytorch_lightning", "safetensors"),
        *("scipy", "sklearn", "timm", "torch", "torchvision"),
    }
)
"""Modules that the extra `train` installs."""


def install_command(extra: str) -> str:
    """The command that installs an extra, from the index or folder dabdetr was installed from."""
    from importlib.metadata import PackageNotFoundError, distribution  # slow to import

    try:
        about = distribution("dabdetr").read_text("direct_url.json")
    except PackageNotFoundError:
        about = None
    place = urlsplit(json.loads(about)["url"]) if about else None
    origin = "dabdetr" if place is None or place.scheme != "file" else unquote(place.path)
    return f"pip install '{origin}[{extra}]'"


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those ``packages`` that are installed."""
    from importlib.metadata import PackageNotFoundError, version  # not for every command

    versions = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def static(package: str, name: str) -> str:
    """The text of a file in the folder ``static`` of a package of dabdetr."""
    from importlib.resources import files

    return (files(package) / "static" / name).read_text(encoding="utf-8")


def lacking(what: str, package: str, extra: str | None = None) -> ImportError:
    """The error of something that needs a package, with the command that installs it.

    ``extra`` is the extra of dabdetr that the package belongs to, if any.
    """
    command = f"pip install {package}" if extra is None else install_command(extra)
    return ImportError(f"{what} needs the package {package}; type: {command}")


def explained(error: ImportError) -> str:
    """The error's message; for a missing module of the extra `train`, what to type instead."""
    module = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or module not in TRAINING:
        return str(error)
    return str(lacking("this", module, "train"))
