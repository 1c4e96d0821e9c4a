"""Ids in files: integers, or texts that may stand for integers."""

from __future__ import annotations

import re
from typing import Any

from dabdetr.text import as_number


def whole(value: Any) -> int | None:
    """The integer value of a number or text; None if it has none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        value = int(text) if re.fullmatch(r"[+-]?\d{1,18}", text) else as_number(text)
    if isinstance(value, float):
        value = int(value) if value.is_integer() and abs(value) < 2**53 else None
    return value if isinstance(value, int) and abs(value) < 2**63 else None


def key(value: Any) -> int | str | None:
    """An id in the form used for comparison: an integer if possible, otherwise its text."""
    if type(value) is int:
        return value if abs(value) < 2**63 else str(value)
    number = whole(value)
    if number is None and isinstance(value, str):
        return value.strip() or None
    return number
