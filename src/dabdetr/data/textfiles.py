"""Text files in whatever encoding they were written."""

from __future__ import annotations

import re
from pathlib import Path

from dabdetr.data.findings import Findings
from dabdetr.files import open_regular, read_regular

HEAD = 1 << 16
MOST_TEXT = 4 << 30
"""Bytes of one annotation file."""


def read_text(path: str | Path, findings: Findings) -> str:
    """The text of a file; ValueError or OSError name it. A byte order mark is left out.

    What is not UTF-8 is taken for Windows-1251 where words of Cyrillic letters stand in it, for
    Shift JIS where Japanese syllables do, for Windows-1252 where bytes above 127 stand mostly
    beside small letters, and else for GB 18030 (which holds GBK and GB 2312); it is counted.
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
        note_encoding(findings, path, text, encoding)
        return text


def note_encoding(findings: Findings, path: str | Path, text: str, encoding: str) -> None:
    """Count a file that is not UTF-8; its first foreign word shows whether the guess is right."""
    word = re.search(r"[\w-]*[^\x00-\x7f][\w-]*", text)
    shown = f" (“{word.group()[:20]}”)" if word else ""
    findings.add("encoding", f"{path} as {encoding}{shown}")


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


def head_of(path: Path) -> bytes:
    """The first bytes of a regular file, by which its form is known; none where it has none."""
    try:
        with open_regular(path) as file:
            return file.read(HEAD)
    except (OSError, ValueError):
        return b""


def guess(content: bytes) -> tuple[str, str]:
    """Text that is not UTF-8, and the encoding it was taken for."""
    some = content[:1_000_000]
    high = b"".join(re.findall(rb"[\x80-\xff]{2,}", some))
    words = b"".join(re.findall(rb"[\x80-\xff]{3,}", some))
    small = sum(byte >= 0xE0 for byte in words)  # small letters of Cyrillic, which fill words
    if small > 0.6 * len(high) and not re.search(rb"[\x80-\xa7\xa9-\xb7\xb9-\xbf]", high):
        return content.decode("cp1251", errors="replace"), "Windows-1251"
    kana = len(re.findall(rb"[\x82\x83].", some, re.DOTALL))
    if kana * 4 > len(high):
        try:
            return content.decode("cp932"), "Shift JIS"
        except UnicodeDecodeError:
            pass
    beside_letters = len(re.findall(rb"[a-z][\x80-\xff]+|[\x80-\xff]+[a-z]", some))
    if beside_letters * 2 <= len(re.findall(rb"[\x80-\xff]+", some)):
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
