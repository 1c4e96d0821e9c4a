"""Reading of weights from a file, a folder, a shipped name or a hub name into our key names.

Each format of another implementation has a table from its names to those of the authors' releases;
one further table leads from there to ours. Most of the config is inferred from shapes. Values that
shapes do not show (attention heads, temperature, dilation) come from the settings in the file, if
any.

Only ``.pth`` files of other implementations are unpickled, and of those only tensors, plain values
and an argument namespace.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from dabdetr.checkpoints.detrex import from_detrex, is_detrex
from dabdetr.checkpoints.foreign import Foreign, UnknownMember, member_of
from dabdetr.checkpoints.key_names import State
from dabdetr.checkpoints.locate import locate, repository
from dabdetr.checkpoints.mmdetection import from_mmdetection, is_mmdetection
from dabdetr.checkpoints.official import from_official
from dabdetr.checkpoints.transformers import (
    from_transformers,
    is_transformers,
    transformers_to_official,
)
from dabdetr.files import read_regular
from dabdetr.text import parse_json, shortened, shown

log = logging.getLogger("dabdetr")

MOST_HUB_GIB = 16
_MB = 2**30 / 1e6
HUB_SECONDS = 20


@dataclass
class Checkpoint:
    """A state under our key names, and the metadata or foreign config to build its model from."""

    format: str
    state: State
    foreign: Foreign | None = None
    metadata: dict[str, str] = field(default_factory=dict)


def read(source: str | Path) -> Checkpoint:
    """The checkpoint of any supported weights; ValueError or OSError for any other source."""
    path = locate(source)
    if path is None:
        return _read_folder(download(repository(str(source)), ["config.json", "*.safetensors"]))
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_pickle(path)


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        state = load_file(path)
    except (SafetensorError, OSError, ValueError):
        raise ValueError(_unreadable(path)) from None
    if metadata.get("format", "").startswith("dabdetr 1"):
        return Checkpoint(metadata["format"], state, None, metadata)
    return _foreign(path, state, {})


def _read_folder(path: Path) -> Checkpoint:
    for name in ("best.safetensors", "last.safetensors"):  # a run folder
        if (path / name).is_file():
            return _read_safetensors(path / name)
    state: State = {}
    for file in sorted(path.glob("*.safetensors")):
        try:
            state |= load_file(file)
        except (SafetensorError, OSError):
            raise ValueError(_unreadable(file)) from None
    if not state and (path / "pytorch_model.bin").is_file():
        state = _unpickle(path / "pytorch_model.bin")
    if not state:
        raise FileNotFoundError(
            f"the folder {path} has no weights: expected best.safetensors of a run, or config.json "
            "with model.safetensors"
        )
    return _foreign(path, state, {})


def _foreign(path: Path, state: State, content: Mapping[str, Any]) -> Checkpoint:
    """A state of another implementation; ``content`` has its metadata: ``meta`` or ``args``."""
    try:
        if is_transformers(state):
            member_of(transformers_to_official(state))  # before its settings are looked for
            foreign = from_transformers(state, _settings(path))
        elif is_mmdetection(state):
            foreign = from_mmdetection(state, content.get("meta"))
        elif is_detrex(state):
            foreign = from_detrex(state)
        else:
            args = content.get("args")
            known = vars(args) if isinstance(args, argparse.Namespace) else args
            foreign = from_official(state, known if isinstance(known, dict) else None)
    except UnknownMember:
        raise ValueError(
            f"{path} is of no known format; its keys start with {listing(list(state)[:5])}"
        ) from None
    return Checkpoint(foreign.format, foreign.state, foreign)


def _settings(path: Path) -> dict[str, Any]:
    """The config.json of transformers in a folder, or beside a file."""
    settings = (path if path.is_dir() else path.parent) / "config.json"
    if not settings.is_file():
        raise FileNotFoundError(
            f"{path} has weights of transformers, which need config.json next to them"
        )
    values = parse_json(read_regular(settings), str(settings))
    if not isinstance(values, dict):
        raise ValueError(f"{settings} should be a mapping of settings; got {shown(values)}")
    return values


def _read_pickle(path: Path) -> Checkpoint:
    content = _unpickle(path)
    state = content
    for key in ("model", "state_dict"):  # the authors and detrex, mmdetection
        if isinstance(content.get(key), dict):
            state = content[key]
            break
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(
            f"{path} is of no known format; it holds {listing([str(k) for k in state][:5])}"
        )
    return _foreign(path, state, {} if state is content else content)


def _unreadable(path: Path) -> str:
    return f"{path} cannot be read as weights: it is cut short, or holds something else"


def _unpickle(path: Path) -> dict[str, Any]:
    """Tensors, plain values and an argparse Namespace; no other class of a pickle ever runs."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on the pickle's protocol
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many kinds for a bad file
        raise ValueError(_unreadable(path)) from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, not a dict of weights")
    return content


def download(name: str, files: Sequence[str]) -> Path:
    """The cached folder of a hub repository, downloaded if it is not cached.

    ValueError above ``MOST_HUB_GIB``; FileNotFoundError where it is neither cached nor downloaded.
    """
    from huggingface_hub import HfApi, snapshot_download

    version, failure = None, None
    try:
        about = HfApi().model_info(name, files_metadata=True, timeout=HUB_SECONDS)
        version = about.sha
        wanted = [f for f in about.siblings or () if any(fnmatch(f.rfilename, w) for w in files)]
        size = sum(file.size or 0 for file in wanted) / 2**30
    except Exception as error:  # of many kinds; without the hub, the cache is still tried
        size, failure = 0.0, error
    if size > MOST_HUB_GIB:
        raise ValueError(
            f"{name} has {size:,.0f} GiB of weights, more than {MOST_HUB_GIB}; download them "
            "yourself and give the folder if you trust it"
        )
    if size:
        log.info("%s: %.0f MB, downloaded once and then kept in the cache", name, size * _MB)
    try:
        folder = snapshot_download(
            name,
            revision=version,
            allow_patterns=list(files),
            etag_timeout=HUB_SECONDS,
            local_files_only=failure is not None,
        )
    except Exception as error:
        why = type(failure or error).__name__
        raise FileNotFoundError(
            f"{name} is not in the local cache and could not be downloaded from the hub "
            f"({why}); check the name and the connection. Without a network: on a machine that has "
            f"one, type hf download {name} --local-dir FOLDER, copy the folder, and give its path"
        ) from None
    return Path(folder)


def listing(items: Sequence[str], most: int = 12) -> str:
    """Up to ``most`` items, separated by commas, and the number of further items."""
    text = ", ".join(shortened(str(item), 90) for item in items[:most])
    return text + (f" and {len(items) - most} more" if len(items) > most else "")
