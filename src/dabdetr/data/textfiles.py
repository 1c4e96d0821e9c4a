"""Text files in whatever encoding they were written."""

from __future__ import annotations

import re
from pathlib import Path

from dabdetr.data.findings import Findings
from dabdetr.files import read_regular

MOST_TEXT = 4 << 30
"""Bytes of one annotation file."""


def read_text(path: str | Path, findings: Findings) -> str:
    """The text of a file; ValueError or OSError name it. A byte order mark is left out.

    What is not UTF-8 is taken for GB 18030 (which holds GBK and GB 2312) where bytes above 127 come
    mostly in groups, and else for Windows-1252; that it is so is counted.
    """
    content = read_bytes(path)
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16")):
        if content.startswith(mark):
            return _decoded(content, encoding, path)
    if content.startswith(b"\xfe\xff"):
        return _decoded(content, "utf-16", path)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        text, encoding = guess(content)
        findings.add("encoding", f"{path} as {encoding}")
        return text


def read_bytes(path: str | Path) -> bytes:
    """The content of a regular file; ValueError or FileNotFoundError name it."""
    try:
        if Path(path).stat().st_size > MOST_TEXT:
            raise ValueError(f"{path} has more than {MOST_TEXT >> 30} GiB; divide it")
        return read_regular(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no annotation file {path}; check the path") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; check it") from None


def guess(content: bytes) -> tuple[str, str]:
    """Text that is not UTF-8, and the encoding it was taken for."""
    groups = [len(group) for group in re.findall(rb"[\x80-\xff]+", content[:1_000_000])]
    if sum(size > 1 for size in groups) * 2 > len(groups):
        try:
            return content.decode("gb18030"), "GB 18030"
        except UnicodeDecodeError:
            pass
    return content.decode("cp1252", errors="replace"), "Windows-1252"


def _decoded(content: bytes, encoding: str, path: str | Path) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not readable text ({error.reason}); check it") from None
