"""Where an ONNX file keeps its weights, found without the package onnx.

A file may name others that hold its tensors, anywhere on the disk. Exports of this package never
do, and how far a runtime follows such names depends on its version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from dabdetr.files import read_regular
from dabdetr.text import shown

# Message → number of a field → the message in it (onnx.proto3, whose numbers never change).
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
"""Graphs inside graphs."""


def read_whole(path: Path) -> bytes:
    """The content of an ONNX file that holds all its tensors; ValueError where it names others, or
    where a weight is not a number."""
    content = read_regular(path)
    outside, broken = False, None
    try:
        for tensor in _tensors(memoryview(content), "model"):
            parts = dict(_fields(tensor))
            outside = outside or bool(parts.get(_EXTERNAL_DATA) or parts.get(_DATA_LOCATION))
            if broken is None and _has_nan(parts):
                broken = bytes(parts.get(_NAME, b"")).decode(errors="replace")  # pyright: ignore
    except (IndexError, RecursionError):
        raise ValueError(f"{path} is no ONNX file, or is cut short; export it again") from None
    if outside:
        raise ValueError(
            f"{path} names other files that hold its weights, and no export of dabdetr does; "
            "export it again"
        )
    if broken is not None:
        raise ValueError(not_numbers(path, broken))
    return content


def not_numbers(path: str | Path, name: str) -> str:
    """The sentence about a file with NaN among its weights."""
    return (
        f"{path} holds weights that are not finite: {shown(name or 'without a name')}; did its "
        "training diverge? Export it again from weights that are sound"
    )


def _has_nan(parts: Mapping[int, int | memoryview]) -> bool:
    """Whether a tensor's fields hold NaN. Infinities may be meant, such as in a mask."""
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
    """Every tensor in the message."""
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
    """Number and value of each field of a protobuf message; IndexError where it is none."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire not in (1, 2, 5):
            raise IndexError
        size = {1: 8, 5: 4}.get(wire)
        if size is None:
            size, at = _varint(message, at)
        if at + size > len(message):
            raise IndexError
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where the next field begins."""
    value = 0
    for place in range(10):
        byte = message[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise IndexError
