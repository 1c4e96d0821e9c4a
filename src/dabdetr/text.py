"""Text of files and of the network: read within bounds, and shown without control characters.

What a user gives may be damaged or made to harm: nested thousands deep, a few lines that stand for
gigabytes, names that move the cursor or turn the direction of a line.
"""

from __future__ import annotations

import difflib
import html
import json
import logging
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml

MOST_YAML = 1 << 20
"""Characters of a YAML file; every one that this package reads is far shorter."""
MOST_NODES = 100_000
"""Values in a YAML file, where those of an alias count as often as it is used."""
MOST_MESSAGE = 480
"""Characters of a message; the middle of a longer one is left out."""

# Line and paragraph separators, and what overrides, embeds or isolates a direction of writing.
_BIDI = "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_RAW = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufeff{_BIDI}]")
# Lines of OpenVINO's errors that tell of its own code.
_WHERE = re.compile(r"Exception from |Check '.*' failed at |\s*$")
# As numpy, torch, ONNX Runtime and OpenVINO say it.
_EXHAUSTED = re.compile(
    "(can.?t|cannot|unable to|failed to) allocate|out of memory|bad_alloc|bad allocation",
    re.I,
)
# As torch and Python say it of a size that no memory holds; not where a message of ours quotes it.
_OVERFLOW = re.compile(
    "storage size calculation overflowed|overflow when unpacking long|index-sized integer|"
    "int too (large|big) to convert",
    re.I,
)
# How formulas of spreadsheets begin; signed numbers, as of "+0.150 ± 0.635" or "-1e-05 2.5 nan"
# (a box), are none.
_NUMBER = r"[+-]?(\d[\d.]*(e[+-]?\d+)?|\.\d+|inf|nan)"
_FORMULA = re.compile(rf"\s*([=@]|(?=[+-])(?!{_NUMBER}( (± )?{_NUMBER})*\Z))")
# Marks of direction (U+200E, U+200F, U+061C) are part of honest names in Hebrew and Arabic.
_NO_NAME = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069]")


def parse_json(content: str | bytes, name: str) -> Any:
    """The value of a JSON text; ValueError names the file and says where it breaks off."""
    try:
        return json.loads(content)
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
    """The value of a YAML text of plain values; ValueError names the file and the line.

    ``as_text`` leaves each value the text that it is: no is "no" and not false.
    At most ``MOST_NODES`` values come out, however often aliases repeat them.
    """
    import yaml  # not for a program that reads none

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
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded(node, {}) > MOST_NODES:
            raise ValueError(
                f"{name} is not readable YAML (its aliases stand for more than {MOST_NODES:,} "
                "values); write them out"
            )
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not readable YAML{_place(error)}") from None
    except RecursionError:
        raise ValueError(f"{name} is not readable YAML (nested too deep, or in itself)") from None
    except (AttributeError, LookupError, TypeError, ArithmeticError) as error:
        # of a scalar that is not of the type its tag says: !!int '', !!timestamp foo
        raise ValueError(f"{name} is not readable YAML (a value does not fit its tag)") from error
    except ValueError as error:
        said = str(error)
        if said.startswith(name):
            raise
        raise ValueError(f"{name} is not readable YAML ({reason(error)})") from None


def _expanded(node: Any, known: dict[int, int]) -> int:
    """Values that a node stands for; RecursionError where it holds itself."""
    if id(node) in known:
        if not known[id(node)]:
            raise RecursionError
        return known[id(node)]
    known[id(node)] = 0
    parts: list[Any] = [] if node.id == "scalar" else node.value
    if node.id == "mapping":
        parts = [part for pair in node.value for part in pair]
    known[id(node)] = 1 + sum(_expanded(part, known) for part in parts)
    return known[id(node)]


def _place(error: yaml.YAMLError) -> str:
    """Where YAML broke off, and why, if it says so."""
    mark = getattr(error, "problem_mark", None)
    where = "" if mark is None else f"; see line {mark.line + 1}, column {mark.column + 1}"
    why = getattr(error, "problem", None) or getattr(error, "reason", None)
    return (f" ({shortened(printable(str(why)), 80)})" if why else "") + where


def shown(value: Any, most: int = 60) -> str:
    """A value for a message, as Python writes it, in ``most`` characters at most.

    A list or mapping that is long or holds others is told by its kind and length: its text may be
    of any size.
    """
    if isinstance(value, list | tuple | dict | set):
        pairs = isinstance(value, dict)
        parts = list(value.values() if pairs else value)[:9]
        if len(parts) > 8 or any(isinstance(part, list | tuple | dict | set) for part in parts):
            return f"{'a mapping' if pairs else 'a list'} of {len(value)}"
        said = [shown(part, most) for part in parts]
        if pairs:
            said = [f"{shown(key, most)}: {each}" for key, each in zip(value, said, strict=True)]
        text = ", ".join(said).join("{}" if pairs else "[]")
    elif isinstance(value, str):
        text = repr(value[: most + 1])
    elif isinstance(value, int) and value.bit_length() > 256:
        text = f"a number of {value.bit_length()} bits"
    else:
        text = str(value)
    return shortened(printable(text), most)


def in_any_case(name: str, known: Iterable[str]) -> str:
    """The one of ``known`` that differs from ``name`` in upper and lower case only, else ``name``.

    ``name`` comes back too where several do.
    """
    alike = [each for each in known if each.casefold() == name.casefold()]
    return alike[0] if len(alike) == 1 and name not in known else name


def meant(name: str, known: Iterable[str]) -> str:
    """ "; did you mean X?" where one of ``known`` is like ``name``, else nothing."""
    spelled = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(name.casefold(), spelled, 1)
    return f"; did you mean {spelled[near[0]]}?" if near else ""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun: "1 image", "2,000 images"; ``plural`` where it is not noun + s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def shortened(text: str, most: int = MOST_MESSAGE) -> str:
    """The text, its middle left out where it is longer than ``most`` characters."""
    if len(text) <= most:
        return text
    head = (most - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def reason(error: BaseException, most: int = 160) -> str:
    """The first line that an error of another library says, or its kind, to be told in our own."""
    lines = [line for line in str(error).strip().splitlines() if not _WHERE.match(line)]
    return shortened(printable((lines or [type(error).__name__])[0]), most)


def refuse_exhausted(error: BaseException) -> None:
    """MemoryError, with the number, where an error of another library says that memory ran out."""
    found = _EXHAUSTED.search(str(error))
    if not found and not isinstance(error, ValueError):
        found = _OVERFLOW.search(str(error))
    if found or type(error).__name__ == "OutOfMemoryError":
        wanted = re.search(r"tried to allocate (\S+ ?[KMGT]?i?B?)", str(error))
        size = wanted.group(1) if wanted else ""
        if size.isdecimal() or size.removesuffix(" ").isdecimal():
            size = f"{int(size) / 2**30:,.1f} GiB"
        raise MemoryError(size or reason(error)) from None


class Lines(ValueError):
    """An error of several lines, each of which is shown whole."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def printable(text: str, lines: bool = False) -> str:
    """The text with control, direction and surrogate characters written as ``\\x1b``, ``\\u202e``.

    ``lines`` keeps ends of lines and tabs: for texts of several lines that are put together here.
    """

    def escaped(found: re.Match[str]) -> str:
        character = found.group()
        if lines and character in "\n\t":
            return character
        code = ord(character)
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"

    return _RAW.sub(escaped, text)


def escape(text: str) -> str:
    """The text for HTML, with control characters and overrides of direction written out."""
    return html.escape(_NO_NAME.sub(lambda found: printable(found.group(), lines=True), text))


def markdown(text: str) -> str:
    """The text as Markdown shows it: no HTML, no link, no further cell of a table."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", escape(printable(text)))


def cells(row: Iterable[Any]) -> list[Any]:
    """A row of a CSV file, its texts as ``printable`` gives them.

    A text that a spreadsheet would compute (``=HYPERLINK(…)``) has an apostrophe in front.
    """
    return [_cell(value) if isinstance(value, str) else value for value in row]


def _cell(text: str) -> str:
    return f"'{printable(text)}" if _FORMULA.match(text) else printable(text)


def json_text(document: Any, indent: int | None = None) -> str:
    """JSON that can be printed: readable beyond ASCII, but for what ``printable`` escapes."""
    text = json.dumps(document, ensure_ascii=False, indent=indent, allow_nan=False)
    return _RAW.sub(
        lambda found: found.group() if found.group() == "\n" else f"\\u{ord(found.group()):04x}",
        text,
    )


def check_name(name: object, what: str) -> str:
    """``name`` where it is one that can be shown and written; ValueError else.

    A name is text, not empty, without control and surrogate characters and overrides of the
    direction of writing; ``what`` says in the error whose it is.
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
    """Different class names out of a JSON list; ValueError says what is wrong with ``what``."""
    names = parse_json(content, what)
    if not isinstance(names, list) or not names:
        raise ValueError(f"{what} should be a list of class names; got {shown(names)}")
    for label, name in enumerate(names):
        check_name(name, f"class {label} of {what}")
    if len(set(names)) < len(names):
        again = next(name for index, name in enumerate(names) if name in names[:index])
        raise ValueError(f"{what} has the class {shown(again)} twice; names should differ")
    return tuple(names)


class PrintableFilter(logging.Filter):
    """Lets every record through, its message made ``printable``."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always true."""
        record.msg, record.args = printable(record.getMessage(), lines=True), ()
        return True
