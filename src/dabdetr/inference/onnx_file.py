"""Check of the tensors in an ONNX file, without the package onnx.

A file may name other files, anywhere on the disk, that contain its tensors. Exports of this package
never do, and whether a runtime reads such files depends on its version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from dabdetr.files import read_regular
from dabdetr.text import shown

# Message → number of a field → message in that field (onnx.proto3, whose numbers never change).
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_TYPE, _FLOATS, _NAME, _RAW, _DOUBLES = 2, 4, 8, 9, 10
_FLOAT_TYPES = {1: "<f4", 10: "<f2", 11: "<f8"}
MOST_DEPTH = 64
"""Most graphs nested in one another."""


def read_whole(path: Path) -> bytes:
    """The content of an ONNX file; ValueError where tensors are in other files, or contain NaN."""
    content = read_regular(path)
    outside, broken = False, None
    try:
        for tensor in _tensors(memoryview(content), "model"):
            parts = dict(_fields(tensor))
            outside = outside or bool(parts.get(_EXTERNAL_DATA) or parts.get(_DATA_LOCATION))
            if broken is None and _has_nan(parts):
                broken = bytes(parts.get(_NAME, b"")).decode(errors="replace")  # pyright: ignore
    except (IndexError, RecursionError):
        raise ValueError(f"{path} is not an ONNX file, or is cut short; export it again") from None
    if outside:
        raise ValueError(
            f"{path} names other files that hold its weights, and no export of dabdetr does; "
            "export it again"
        )
    if broken is not None:
        raise ValueError(not_numbers(path, broken))
    return content


def not_numbers(path: str | Path, name: str) -> str:
    """The message for a file with NaN in the weights ``name``."""
    return (
        f"{path} holds weights that are not finite: {shown(name or 'without a name')}; did its "
        "training diverge? Export it again from weights that are sound"
    )


def _has_nan(parts: Mapping[int, int | memoryview]) -> bool:
    """Whether a tensor contains NaN. Infinities are allowed: masks have them."""
    kind = _FLOAT_TYPES.get(parts.get(_TYPE, 0))  # pyright: ignore
    for number, dtype in ((_RAW, kind), (_FLOATS, "<f4"), (_DOUBLES, "<f8")):
        values = parts.get(number)
        if dtype is None or not isinstance(values, memoryview):
            continue
        whole = len(values) // np.dtype(dtype).itemsize * np.dtype(dtype).itemsize
        if np.isnan(np.frombuffer(values[:whole], dtype)).any():
            return True
    return False


def _tensors(message: memoryview, kind: str, depth: int = 0) -> Iterator[memoryview]:
    """All tensors in a message."""
    if depth > MOST_DEPTH:
        raise RecursionError
    if kind == "tensor":
        yield message
        return
    for number, value in _fields(message):
        inner = _FIELDS[kind].get(number)
        if inner and isinstance(value, memoryview):
            yield from _tensors(value, inner, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a protobuf message; IndexError where it is malformed."""
    offset = 0
    while offset < len(message):
        key, offset = _varint(message, offset)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, offset = _varint(message, offset)
            yield number, value
            continue
        if wire not in (1, 2, 5):
            raise IndexError
        size = {1: 8, 5: 4}.get(wire)
        if size is None:
            size, offset = _varint(message, offset)
        if offset + size > len(message):
            raise IndexError
        yield number, message[offset : offset + size]
        offset += size


def _varint(message: memoryview, offset: int) -> tuple[int, int]:
    """An integer stored in seven bits per byte, and the offset after it."""
    value = 0
    for index in range(10):
        byte = message[offset + index]
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, offset + index + 1
    raise IndexError
