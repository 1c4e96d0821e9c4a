"""Changes that damage files in the ways that files are damaged, or made to harm: seeded."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import isfinite
from typing import Any

Tree = Any
"""What JSON and YAML hold: dicts, lists and scalars."""

INTEGERS = (0, 1, -1, 2, 7, 127, 255, 256, 65535, 2**31 - 1, -(2**31), 2**32, 2**63, 10**18, 10**30)
FLOATS = (0.0, -0.0, 0.5, -1.5, 1e-320, 1e308, -1e308, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    *(
        "",
        " ",
        "0",
        "-1",
        "nan",
        "None",
        "null",
        "true",
        "a" * 5000,
        "\x00",
        "\x1b]0;x\x07",
        "\r\n",
    ),
    *(
        "\u202eabc",
        "\ud800",
        "../../../etc/passwd",
        "/dev/zero",
        "/dev/stdin",
        "~",
        "C:\\x",
        "%s%n",
    ),
    *("${x}", "{0}", "[red]", "猫", "e\u0301", "\ufeff", "1e400", "0x10", "1_000", "file:///x"),
)
VALUES: tuple[Tree, ...] = (
    *INTEGERS,
    *FLOATS,
    *TEXTS,
    *(None, True, False, [], {}, [[]], [None], {"": None}, [1, "a", None], {"a": {"b": [1]}}),
)


def bytes_changed(rng: random.Random, content: bytes, dictionary: Sequence[bytes] = ()) -> bytes:
    """One to six changes: flips, cuts, repeats, moves, numbers, words of the ``dictionary``."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if not found:
            return bytes(rng.randbytes(8))
        at = rng.randrange(len(found))
        size = min(rng.choice((1, 1, 2, 4, 16, 256)), len(found) - at)
        kind = rng.randrange(9)
        if kind == 0:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at : at + size] = rng.randbytes(size)
        elif kind == 2:
            del found[at : at + size]
        elif kind == 3:
            found[at:at] = found[at : at + size] * rng.choice((1, 2, 50))
        elif kind == 4:
            del found[at:]
        elif kind == 5:
            number = rng.choice((0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1))
            found[at : at + 4] = number.to_bytes(4, rng.choice(("little", "big")))
        elif kind == 6:
            to = rng.randrange(len(found))
            found[to:to] = found[at : at + size]
        elif kind == 7 and dictionary:
            word = rng.choice(dictionary)
            found[at : at + rng.choice((0, len(word)))] = word
        else:
            found[at : at + size] = bytes([rng.choice((0, 32, 255))]) * size
    return bytes(found)


def text_changed(rng: random.Random, text: str, words: Sequence[str] = ()) -> bytes:
    """Lines and words changed as people and programs do, or bytes."""
    if rng.random() < 0.3:
        return bytes_changed(rng, text.encode("utf-8", "surrogatepass"))
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(lines))
        parts = lines[at].split(" ")
        kind = rng.randrange(7)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(at, rng.choice(lines) if lines else "")
        elif kind == 2:
            parts[rng.randrange(len(parts))] = str(rng.choice(VALUES))
            lines[at] = " ".join(parts)
        elif kind == 3 and words:
            lines[at] = lines[at] + rng.choice(words)
        elif kind == 4 and words:
            parts[-1] = rng.choice(words)
            lines[at] = " ".join(parts)
        elif kind == 5:
            lines[at] = rng.choice(("\t", "  ", "- ", "")) + lines[at]
        else:
            lines[at] = lines[at] * rng.choice((0, 2, 40))
        lines = lines or [""]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def tree_changed(rng: random.Random, tree: Tree) -> Tree:
    """A copy with one to four values replaced, removed, repeated, moved, renamed or nested."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = list(_places(tree))
        if not places:
            return rng.choice(VALUES)
        holder, key = rng.choice(places)
        kind = rng.randrange(9)
        if kind <= 3:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
        elif kind == 4:
            del holder[key]
        elif kind == 5:
            other, from_key = rng.choice(places)
            holder[key] = copy.deepcopy(other[from_key]) if _has(other, from_key) else None
        elif kind == 6:
            holder[key] = _near(rng, holder[key])
        elif kind == 7 and isinstance(holder, dict):
            holder[str(rng.choice(TEXTS))] = holder.pop(key)
        elif isinstance(holder, list):
            holder.extend(copy.deepcopy(holder[:3]) * rng.choice((1, 5)))
        else:
            holder[key] = [holder[key]]
    return tree


def _places(tree: Tree) -> Any:
    """(holder, key) of every value below."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(pairs):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _near(rng: random.Random, value: Tree) -> Tree:
    """A value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, -value, value * 1000, float(value), str(value)))
    if isinstance(value, float):
        return rng.choice((-value, value * 1e6, value * 1e-6, int(value) if isfinite(value) else 0))
    if isinstance(value, str):
        return rng.choice((value + "\x1b[2J", value[:1], value * 200, value.upper(), [value]))
    if isinstance(value, list):
        return rng.choice((value[:1], value * 2, list(reversed(value)), dict(enumerate(value))))
    return None if value is None else list(value.values())


def json_bytes(rng: random.Random, tree: Tree) -> bytes:
    """JSON of a changed tree; now and then of odd form: deep, cut short, another encoding."""
    kind = rng.random()
    if kind < 0.02:
        depth = rng.choice((900, 5000, 100_000))
        return b"[" * depth + b"]" * rng.choice((0, depth))
    text = json.dumps(tree_changed(rng, tree), ensure_ascii=rng.random() < 0.5)
    content = text.encode("utf-8", "surrogatepass")
    if kind < 0.15:
        return bytes_changed(
            rng, content, (b'"', b"{", b"}", b"1e999", b"NaN", b"\\ud800", b"\xff")
        )
    if kind < 0.18:
        return text.encode(rng.choice(("utf-16", "latin-1")), "replace")
    return content


YAML_WORDS = (
    *(
        "!!int ''",
        "!!int abc",
        "!!float ''",
        "!!bool foo",
        "!!timestamp foo",
        "!!binary x",
        "!!set",
    ),
    *(
        "!!python/object/apply:os.system [touch FLAG]",
        "*x",
        "&x",
        "&a [*a]",
        "=",
        "<<: *x",
        "? ",
        "|",
    ),
    *("{", "[", "'", '"', "\t", "---", "...", "%TAG ! x", ": ", "2001-99-99", "1:2:3", "0o9", ">"),
)


def yaml_bytes(rng: random.Random, text: str, tree: Tree) -> bytes:
    """YAML of changed lines, or of a changed tree; now and then a bomb or a deep nest."""
    import yaml

    kind = rng.random()
    if kind < 0.03:
        names = "abcdefghij"
        rows = ["a: &a [x, x, x, x, x, x, x, x, x]"]
        rows += [f"{n}: &{n} [{', '.join(['*' + b] * 9)}]" for b, n in pairwise(names)]
        return ("\n".join(rows) + "\n" + text).encode()
    if kind < 0.05:
        depth = rng.choice((400, 3000))
        return ("x: " + "[" * depth + "]" * depth).encode()
    if kind < 0.6:
        return text_changed(rng, text, YAML_WORDS)
    changed = tree_changed(rng, tree)
    return yaml.safe_dump(changed, allow_unicode=True).encode("utf-8", "surrogatepass")


def attempt(make: Callable[[], bytes], otherwise: bytes) -> bytes:
    """What ``make`` gives; some changed trees are none that a library writes."""
    try:
        return make()
    except Exception:  # of the library that writes, which is not what is tested
        return otherwise
