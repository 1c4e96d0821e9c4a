"""Reading text files of any encoding, and JSON from them."""

from __future__ import annotations

import ast
import csv
import io
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import chardet

from dabdetr.data.findings import Findings
from dabdetr.files import open_regular, read_regular
from dabdetr.text import parse_json, shown

HEAD = 1 << 16
"""Bytes by which the form of a file is recognised."""
MOST_CELL = 1 << 20
"""Most characters of a cell that is parsed as Python."""
MOST_TEXT = 4 << 30
"""Most bytes of one annotation file."""
csv.field_size_limit((1 << 31) - 1)  # a quote that is not closed makes one cell of what follows

ENCODINGS = {
    "gb18030": "GB 18030",
    "cp949": "EUC-KR",
    "big5hkscs": "Big5",
    "cp932": "Shift JIS",
    "cp1251": "Windows-1251",
    "cp1252": "Windows-1252",
}
"""Encodings that are tried for text that is not UTF-8: Python's name → common name."""
_FOREIGN_WORD = rb"""(?<![^\s,;:"'<>=/])[^\s,;:"'<>=/]*[\x80-\xff][^\s,;:"'<>=/]*"""
_ISOLATED = re.compile(
    rb"([\x00-\x7f]|(?<![\x80-\xff])[\xc0-\xd6\xd8-\xf6\xf8-\xff](?![\x80-\xff]))*"
)
"""Matches text whose bytes above 127 are isolated, like accented letters among plain ones."""


def read_text(path: str | Path, findings: Findings) -> str:
    """The text of a file, without a byte order mark.

    Text that is not UTF-8 is decoded as the one of ``ENCODINGS`` that fits its non-ASCII words, and
    counted. Raises ValueError or OSError with the path in the message.
    """
    content = read_bytes(path)
    marks = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    marked = next((marks[mark] for mark in marks if content.startswith(mark)), None)
    try:
        return content.decode(marked or "utf-8")
    except UnicodeDecodeError as error:
        if marked:
            raise ValueError(f"{path} is not readable text ({error.reason}); check it") from None
        text, encoding = guess(content)
        note_encoding(findings, path, text, encoding)
        return text


def read_json(path: Path, findings: Findings) -> Any:
    """The JSON of a file, or the list of its lines (JSON Lines) or of its rows (CSV).

    A line that is not JSON is counted. CSV cells that contain JSON or Python are parsed.
    """
    text, ending = read_text(path, findings), path.suffix.lower()
    if ending == ".csv":
        table = csv.DictReader(io.StringIO(text))
        return [{column: parse_cell(cell) for column, cell in row.items()} for row in table]
    if text.lstrip()[:1] == "[" or (ending in (".json", ".geojson") and not _is_json_lines(text)):
        return parse_counting(text, str(path), findings)
    rows: list[Any] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            name = f"{path}, line {number}"
            rows += [parse_counting(line, name, findings)] if line.strip() else []
        except ValueError as error:
            findings.add("row-unreadable", str(error))
    return rows


def parse_counting(text: str | bytes, name: str, findings: Findings) -> Any:
    """``parse_json``, with the keys counted that stand twice in an object."""
    repeated: list[str] = []
    tree = parse_json(text, name, repeated)
    findings.add("key-repeated", [f"{name}: {shown(key)}" for key in repeated])
    return tree


def _is_json_lines(text: str) -> bool:
    """Whether the first of several lines is a complete JSON object."""
    first, end, _ = text.lstrip().partition("\n")
    with suppress(ValueError):
        return bool(end) and isinstance(parse_json(first, "line"), dict)
    return False


def mapping(given: Any) -> dict[Any, Any]:
    """A JSON object; empty for any other value."""
    return given if isinstance(given, dict) else {}


def parse_cell(cell: Any) -> Any:
    """The list or mapping that is written in a cell of a table; any other cell as it is."""
    if isinstance(cell, str) and cell.startswith(("[", "{", "(")):
        with suppress(ValueError):
            return parse_json(cell, "cell")
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return ast.literal_eval(cell[:MOST_CELL])
    return cell


def note_encoding(findings: Findings, path: str | Path, text: str, encoding: str) -> None:
    """Count a file that is not UTF-8, with its first non-ASCII word, so that users can check it."""
    word = re.search(r"(?<![\w-])[\w-]*[^\x00-\x7f][\w-]*", text)
    shown = f" (“{word.group()[:20]}”)" if word else ""
    findings.add("encoding", f"{path} as {encoding}{shown}")


def read_bytes(path: str | Path) -> bytes:
    """The content of a regular file; ValueError or FileNotFoundError with the path otherwise."""
    try:
        if Path(path).stat().st_size > MOST_TEXT:
            raise ValueError(f"{path} has more than {MOST_TEXT >> 30} GiB; divide it")
        return read_regular(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no annotation file {path}; check the path") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; check it") from None


def head_of(path: Path) -> bytes:
    """The first ``HEAD`` bytes of a regular file, by which its form is recognised.

    UTF-16 is converted to UTF-8, and a byte order mark removed. Empty if the file cannot be read.
    """
    try:
        with open_regular(path) as file:
            head = file.read(HEAD)
    except (OSError, ValueError):
        return b""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return head.decode("utf-16", "ignore").encode()
    return head.removeprefix(b"\xef\xbb\xbf")


def guess(content: bytes) -> tuple[str, str]:
    """Text decoded from bytes that are not UTF-8, and the common name of the guessed encoding.

    Only words with bytes above 127 count: the rest of a JSON or XML file is no evidence. If all
    such letters are isolated, the text is Western: words of other alphabets have several in a row.
    """
    words = b"\n".join(re.findall(_FOREIGN_WORD, content))
    if _ISOLATED.fullmatch(words):
        return content.decode("cp1252", errors="replace"), ENCODINGS["cp1252"]
    found = chardet.detect_all(
        words, ignore_threshold=True, include_encodings=ENCODINGS, compat_names=False
    )
    for each in found:
        encoding = each["encoding"] or "cp1252"
        try:
            return content.decode(encoding), ENCODINGS[encoding]
        except UnicodeDecodeError:
            continue
    return content.decode("cp1252", errors="replace"), ENCODINGS["cp1252"]
