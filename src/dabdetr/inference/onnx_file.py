"""Where an ONNX file keeps its weights, found without the package onnx.

A file may name others that hold its tensors, anywhere on the disk. Exports of this package never
do, and how far a runtime follows such names depends on its version.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dabdetr.files import read_regular

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
MOST_DEPTH = 64
"""Graphs inside graphs."""


def read_whole(path: Path) -> bytes:
    """The content of an ONNX file that holds all its tensors; ValueError where it names others."""
    content = read_regular(path)
    try:
        outside = _names_files(memoryview(content), "model")
    except (IndexError, RecursionError):
        raise ValueError(f"{path} is no ONNX file, or is cut short; export it again") from None
    if outside:
        raise ValueError(
            f"{path} names other files that hold its weights, and no export of dabdetr does; "
            "export it again"
        )
    return content


def _names_files(message: memoryview, kind: str, depth: int = 0) -> bool:
    """Whether a tensor in the message says that its values are in another file."""
    if depth > MOST_DEPTH:
        raise RecursionError
    for number, value in _fields(message):
        if kind == "tensor" and number in (_EXTERNAL_DATA, _DATA_LOCATION) and value:
            return True
        inner = _FIELDS[kind].get(number)
        if inner and isinstance(value, memoryview) and _names_files(value, inner, depth + 1):
            return True
    return False


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
