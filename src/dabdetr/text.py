"""Safe parsing of JSON and YAML; text for messages and pages without control characters.

A user's file may be damaged or malicious: nested thousands deep, a few lines of aliases that expand
to gigabytes, names that move the cursor or reverse the direction of a line.
"""

from __future__ import annotations

import difflib
import errno
import html
import itertools
import json
import logging
import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
)
"""Forbids a page to load anything from elsewhere."""
MOST_YAML = 1 << 20
"""Most characters of a YAML file; the files that this package reads are far shorter."""
MOST_NODES = 100_000
"""Most values in a YAML file; those of an alias count each time it is used."""
MOST_DIGITS = 1000
"""Most characters of a number in a YAML file; the time for 1:1:1:… grows with their square."""
MOST_MESSAGE = 480
"""Most characters of a message; the middle of a longer one is left out."""

# Line and paragraph separators; marks, overrides, embeddings and isolates of writing direction.
_BIDI = "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_RAW = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufeff{_BIDI}]")
# Lines of OpenVINO's errors that give places in its source code.
_SOURCE_LINE = re.compile(r"Exception from |Check '.*' failed at |\s*$")
# Messages of numpy, torch, ONNX Runtime and OpenVINO for exhausted memory.
_EXHAUSTED = re.compile(
    "(can.?t|cannot|unable to|failed to) allocate|out of memory|bad_alloc|bad allocation",
    re.I,
)
# Messages of torch and Python for a size beyond any memory; our own messages may quote these.
_OVERFLOW = re.compile(
    "storage size calculation overflowed|overflow when unpacking long|index-sized integer|"
    "int too (large|big) to convert",
    re.I,
)
# Beginnings of spreadsheet formulas; signed numbers such as "+0.150 ± 0.635" or "-1e-05 2.5 nan"
# (a box) are not formulas.
_NUMBER = r"[+-]?(\d[\d.]*(e[+-]?\d+)?|\.\d+|inf|nan)"
_FORMULA = re.compile(rf"\s*([=@]|(?=[+-])(?!{_NUMBER}( (± )?{_NUMBER})*\Z))")
# Without the direction marks U+200E, U+200F, U+061C, which Hebrew and Arabic names need.
_NO_NAME = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069]")


def html_page(title: str, style: str, body: str, script: str = "", head: str = "") -> str:
    """A complete HTML document; ``title`` is text, the other parts are CSS, HTML and JavaScript."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{POLICY}\n{head}<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"{body}\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def embedded_json(document: Any) -> str:
    """Compact JSON that is safe within a script element: a class may be called ``</script>``."""
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def parse_json(content: str | bytes, name: str, repeated: list[str] | None = None) -> Any:
    """The value of a JSON text; ValueError with the file's name and the place of the fault.

    Of a key that stands twice in an object, the last value counts. Such keys are added to
    ``repeated``, except those whose values are equal.
    """

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) < len(pairs) and repeated is not None:
            repeated.extend(key for key, value in pairs if value != built[key])
        return built

    try:
        return json.loads(content, object_pairs_hook=None if repeated is None else build)
    except RecursionError:
        raise ValueError(f"{name} is nested too deep for JSON that can be read; check it") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{name} is not readable JSON ({error.msg}, {where})") from None
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not readable JSON (it is not in UTF-8)") from None
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"{name} is not readable JSON ({error})") from None


def parse_yaml(content: str | bytes, name: str, as_text: bool = False) -> Any:
    """The value of a YAML text of plain values; ValueError with the file's name and the line.

    ``as_text`` keeps every scalar a string: no is "no", not False. ValueError for more than
    ``MOST_NODES`` values, with the values of an alias counted at each use.
    """
    import yaml  # slow to import

    if len(content) > MOST_YAML:
        raise ValueError(
            f"{name} has {len(content):,} characters; at most {MOST_YAML:,} are read as YAML"
        )
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not readable YAML (byte {error.start} is no UTF-8)") from None
    try:
        loader = (yaml.BaseLoader if as_text else yaml.SafeLoader)(text)
        _bound(loader, name)
        node = loader.get_single_node()
        if node is None:
            return None
        if again := _repeated_key(node):
            raise ValueError(
                f"{name} has {shown(again.value)} twice in one mapping; remove one, see line "
                f"{again.start_mark.line + 1}"
            )
        if _count_expanded(node, {}) > MOST_NODES:
            raise ValueError(
                f"{name} is not readable YAML (its aliases stand for more than {MOST_NODES:,} "
                "values); write them out"
            )
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f"; see line {mark.line + 1}, column {mark.column + 1}"
        why = getattr(error, "problem", None) or getattr(error, "reason", None)
        said = f" ({shortened(printable(str(why)), 80)})" if why else ""
        raise ValueError(f"{name} is not readable YAML{said}{where}") from None
    except RecursionError:
        raise ValueError(f"{name} is not readable YAML (nested too deep, or in itself)") from None
    except (AttributeError, LookupError, TypeError, ArithmeticError) as error:
        # a scalar that does not fit its tag: !!int '', !!timestamp foo
        raise ValueError(f"{name} is not readable YAML (a value does not fit its tag)") from error
    except ValueError as error:
        if str(error).startswith(name):  # raised above
            raise
        raise ValueError(f"{name} is not readable YAML ({reason(error)})") from None


def _bound(loader: Any, name: str) -> None:
    """Make a YAML loader stop at more than ``MOST_NODES`` values or ``MOST_DIGITS`` digits.

    It needs half a minute for a file of ``MOST_YAML`` characters in small values.
    """
    compose, numbers = loader.compose_node, itertools.count(1)

    def bounded(parent: Any, index: Any) -> Any:
        if next(numbers) > MOST_NODES:
            raise ValueError(f"{name} has more than {MOST_NODES:,} values; make it shorter")
        node = compose(parent, index)
        if node.tag.endswith((":int", ":float")) and len(node.value) > MOST_DIGITS:
            line = node.start_mark.line + 1
            raise ValueError(
                f"{name} has a number of {len(node.value):,} characters; at most {MOST_DIGITS:,} "
                f"are read, see line {line}"
            )
        return node

    loader.compose_node = bounded


def _repeated_key(node: Any) -> Any:
    """The first key that a mapping of a node has twice; None without one. YAML forbids it."""
    waiting, seen = [node], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or node.id == "scalar":
            continue
        seen.add(id(node))
        keys = set[tuple[str, str]]()
        for part in node.value:
            key, *values = part if node.id == "mapping" else (None, part)
            if key is not None and key.id == "scalar" and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in keys:
                    return key
                keys.add((key.tag, key.value))
            waiting += values
    return None


def _count_expanded(node: Any, counts: dict[int, int]) -> int:
    """Number of values in a node with its aliases expanded; RecursionError if it contains itself.

    ``counts`` has the numbers of the nodes counted already by id; 0 while a node is being counted.
    """
    if id(node) in counts:
        if not counts[id(node)]:
            raise RecursionError
        return counts[id(node)]
    counts[id(node)] = 0
    parts: list[Any] = [] if node.id == "scalar" else node.value
    if node.id == "mapping":
        parts = [part for pair in node.value for part in pair]
    counts[id(node)] = 1 + sum(_count_expanded(part, counts) for part in parts)
    return counts[id(node)]


def shown(value: Any, most: int = 60) -> str:
    """A value for a message, as Python writes it, in at most ``most`` characters.

    For a list or mapping that is long or nested, only its kind and length: its text may be of any
    size.
    """
    if isinstance(value, list | tuple | dict | set):
        pairs = isinstance(value, dict)
        parts = list(value.values() if pairs else value)[:9]
        if len(parts) > 8 or any(isinstance(part, list | tuple | dict | set) for part in parts):
            return f"{'a mapping' if pairs else 'a list'} of {len(value)}"
        texts = [shown(part, most) for part in parts]
        if pairs:
            texts = [f"{shown(key, most)}: {each}" for key, each in zip(value, texts, strict=True)]
        text = ", ".join(texts).join("{}" if pairs else "[]")
    elif isinstance(value, str):
        text = repr(value[: most + 1])
    elif isinstance(value, int) and value.bit_length() > 256:
        text = f"a number of {value.bit_length()} bits"
    else:
        text = str(value)
    return shortened(printable(text), most)


def in_any_case(name: str, known: Iterable[str]) -> str:
    """The only name of ``known`` that equals ``name`` apart from upper and lower case.

    ``name`` itself where it is in ``known``, or where no name or several equal it.
    """
    alike = [each for each in known if each.casefold() == name.casefold()]
    return alike[0] if len(alike) == 1 and name not in known else name


def meant(name: str, known: Iterable[str]) -> str:
    """The hint "; did you mean X?" where a name of ``known`` is similar to ``name``, else ""."""
    spelled = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(name.casefold(), spelled, 1)
    return f"; did you mean {spelled[near[0]]}?" if near else ""


def as_number(value: Any) -> float | None:
    """The value of a number or of text, which may have a decimal comma; None if it has none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        return float(value.replace(",", ".") if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None


def as_numbers(values: Iterable[Any]) -> list[float] | None:
    """The ``as_number`` of each value; None if one has none."""
    found = [as_number(value) for value in values]
    return None if None in found else found  # pyright: ignore[reportReturnType]


def as_flag(value: Any) -> bool:
    """Whether a value is 1, true or yes, also as text."""
    return str(value).strip().casefold() in ("1", "1.0", "true", "yes")


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun: "1 image", "2,000 images"; ``plural`` if it is not noun + s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, in the unit a person would choose."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def shortened(text: str, most: int = MOST_MESSAGE) -> str:
    """The text; where it is longer than ``most`` characters, without its middle."""
    if len(text) <= most:
        return text
    head = (most - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def reason(error: BaseException, most: int = 160) -> str:
    """The cause in an error of the system or another library, to quote in a message of ours.

    The system's words for it, or the first line of the message, or the type of the error.
    """
    words = str(getattr(error, "strerror", None) or "").lower() or str(error)
    lines = [line for line in words.strip().splitlines() if not _SOURCE_LINE.match(line)]
    return shortened(printable((lines or [type(error).__name__])[0]), most)


def exhausted(error: BaseException) -> MemoryError | None:
    """The MemoryError, with the size, that an error means; None for all other errors."""
    if isinstance(error, MemoryError):
        return error
    if isinstance(error, ValueError) or getattr(error, "errno", errno.ENOMEM) != errno.ENOMEM:
        return None
    found = _EXHAUSTED.search(str(error)) or _OVERFLOW.search(str(error))
    if not found and type(error).__name__ != "OutOfMemoryError":
        return None
    request = re.search(r"tried to allocate (\S+ ?[KMGT]?i?B?)", str(error))
    size = request.group(1) if request else ""
    if size.strip().isdecimal():
        size = f"{int(size) / 2**30:,.1f} GiB"
    return MemoryError(size or reason(error))


class Lines(ValueError):
    """An error of several lines, each of which is shown in full."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def printable(text: str, lines: bool = False) -> str:
    """The text with control, direction and surrogate characters written as ``\\x1b``, ``\\u202e``.

    ``lines`` keeps line ends and tabs, for texts of several lines that this package composes.
    """

    def escaped(found: re.Match[str]) -> str:
        character = found.group()
        if lines and character in "\n\t":
            return character
        code = ord(character)
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"

    return _RAW.sub(escaped, text)


def escape(text: str) -> str:
    """The text escaped for HTML, its control and direction characters escaped as well."""
    return html.escape(_NO_NAME.sub(lambda found: printable(found.group(), lines=True), text))


def markdown(text: str) -> str:
    """The text escaped for Markdown: without HTML, links and separators of table cells."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", escape(printable(text)))


def markdown_table(rows: Sequence[Sequence[str]], number_columns: int = 0) -> str:
    """A table in Markdown of escaped cells, with the head first.

    The last ``number_columns`` columns are aligned at the right.
    """
    words = len(rows[0]) - number_columns
    lines = [rows[0], ["---"] * words + ["---:"] * number_columns, *rows[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cells(row: Iterable[Any]) -> list[Any]:
    """A row of a CSV file, its texts made ``printable``.

    Texts that spreadsheets would run as formulas (``=HYPERLINK(…)``) get an apostrophe in front.
    """
    return [_cell(value) if isinstance(value, str) else value for value in row]


def _cell(text: str) -> str:
    return f"'{printable(text)}" if _FORMULA.match(text) else printable(text)


def json_text(document: Any, indent: int | None = None) -> str:
    """JSON with readable non-ASCII text, except the characters that ``printable`` escapes."""
    text = json.dumps(document, ensure_ascii=False, indent=indent, allow_nan=False)
    return _RAW.sub(
        lambda found: found.group() if found.group() == "\n" else f"\\u{ord(found.group()):04x}",
        text,
    )


def check_name(name: object, what: str) -> str:
    """``name`` if it can be shown and written, else ValueError.

    A name is text, not empty, without control and surrogate characters and overrides of the
    direction of writing. ``what`` is the name's description in the error.
    """
    if not isinstance(name, str):
        raise ValueError(f"{what} should be a text; got {shown(name)}")
    if not name.strip():
        raise ValueError(f"{what} is empty; give it a name")
    if _NO_NAME.search(name):
        raise ValueError(
            f"{what} has control characters, which would reach a terminal: {shown(name)}; rename it"
        )
    return name


def parse_names(content: str, what: str) -> tuple[str, ...]:
    """The class names in a JSON list; ValueError, beginning with ``what``, unless all differ."""
    names = parse_json(content, what)
    if not isinstance(names, list) or not names:
        raise ValueError(f"{what} should be a list of class names; got {shown(names)}")
    for label, name in enumerate(names):
        check_name(name, f"class {label} of {what}")
    if len(set(names)) < len(names):
        again = next(name for index, name in enumerate(names) if name in names[:index])
        raise ValueError(f"{what} has the class {shown(again)} twice; names should differ")
    return tuple(names)


def wrapped(text: str, stream: TextIO) -> str:
    """The text for a stream; on a terminal, long lines are broken between words.

    A word longer than the line, such as a path, stays whole.
    """
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.fill(
            line,
            width,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.split("\n")
    )


class PrintableFilter(logging.Filter):
    """Makes the message of every log record ``printable``; drops no record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Escape the message; always true."""
        record.msg, record.args = printable(record.getMessage(), lines=True), ()
        return True
