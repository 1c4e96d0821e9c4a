"""Pictures from wherever they come, one after the other."""

from __future__ import annotations

import glob
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.error import HTTPError

import numpy as np
import torch
from PIL import Image

from dabdetr.data.pictures import PICTURE_SUFFIXES, read_picture

OnError = Literal["raise", "skip"] | Callable[[str, Exception], None]
"""What an unreadable picture does: end the stream, nothing, or call (its name, the error)."""


class Picture(NamedTuple):
    """RGB uint8 [height, width, 3], and its path or address ("" for one given in memory)."""

    array: np.ndarray
    name: str


def read_sources(source: Any, on_error: OnError = "raise") -> Iterator[Picture]:
    """The pictures that ``source`` means, read only as they are asked for.

    A path; a folder (its own pictures by name, not those of subfolders; files that are no pictures
    are passed over); a pattern such as ``"day*/*.jpg"`` or ``"all/**/*.png"``; an http(s) address;
    a PIL image; the bytes of a file; an array as ``read_picture`` takes it (RGB, not BGR); a tensor
    [channels, height, width] of uint8 or floats 0–1; or a list, tuple or generator of these. What
    the paths of a list mean is found out at once, so that a wrong one is told before any work.
    """
    if not (on_error in ("raise", "skip") or callable(on_error)):
        raise ValueError(f"on_error should be 'raise', 'skip' or a function; got {on_error!r}")
    items = _expand(source)
    return _read(items, on_error)


def _read(items: Iterable[tuple[Any, str]], on_error: OnError) -> Iterator[Picture]:
    for number, (item, name) in enumerate(items, start=1):
        try:
            picture = Picture(_array(item), name)
        except (ValueError, OSError) as error:
            label = name or f"picture {number}"
            named = error if name and name in str(error) else _named(error, label)
            if on_error == "raise":
                raise named from None
            if callable(on_error):
                on_error(label, named)
            continue
        yield picture


def _named(error: Exception, name: str) -> Exception:
    kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
    return kind(f"{name}: {error}")


def _expand(source: Any) -> Iterable[tuple[Any, str]]:
    """Single pictures, not yet read, with their names."""
    if isinstance(source, str | Path):
        return [(path, str(path)) for path in _paths(source)]
    if isinstance(source, bytes | bytearray | Image.Image | np.ndarray | torch.Tensor):
        return [(source, "")]
    if isinstance(source, list | tuple):
        items = [item for part in source for item in _expand(part)]
        if not items:
            raise ValueError("an empty list was given; give at least one picture")
        return items
    if isinstance(source, Iterable) and not isinstance(source, dict):
        return (item for part in source for item in _expand(part))
    raise ValueError(
        "a picture is expected as a path, folder, pattern, address, PIL image, array, tensor or "
        f"bytes, or a list of these; got {type(source).__name__}"
    )


def _paths(source: str | Path) -> list[str | Path]:
    text = str(source)
    if text.startswith(("http://", "https://")):
        return [text]
    path = Path(source)
    if path.is_dir():
        found = [child for child in sorted(path.iterdir()) if _is_picture(child)]
        if not found:
            raise ValueError(f"the folder {path} has no pictures ({_endings()}) directly in it")
        return [*found]
    if path.exists():
        return [path]
    if glob.has_magic(text):
        matches = map(Path, sorted(glob.glob(text, recursive=True)))
        found = [match for match in matches if _is_picture(match)]
        if not found:
            raise FileNotFoundError(
                f"no picture matches the pattern {text}; check the folder and the ending"
            )
        return [*found]
    raise FileNotFoundError(f"there is no file or folder {path}; check the path")


def _is_picture(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return path.suffix.lower() in PICTURE_SUFFIXES and not hidden and path.is_file()


def _endings() -> str:
    return ", ".join(sorted(PICTURE_SUFFIXES))


def _array(item: Any) -> np.ndarray:
    if isinstance(item, str) and item.startswith(("http://", "https://")):
        return read_picture(_fetch(item))
    if isinstance(item, torch.Tensor):
        return read_picture(_tensor_array(item))
    return read_picture(item)


def _fetch(address: str, seconds: float = 20.0) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=seconds) as answer:
            return answer.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(error, HTTPError):
            error.close()
        raise ValueError(
            f"{address} could not be fetched ({reason}); check the address and the network, or "
            "download the picture and give its path"
        ) from None


def _tensor_array(tensor: torch.Tensor) -> np.ndarray:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        raise ValueError(
            "a tensor should be [1, 3 or 4 channels, height, width]; got "
            f"{list(tensor.shape)}; give a batch as list(tensor)"
        )
    tensor = tensor.detach().cpu()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.permute(1, 2, 0).numpy()
