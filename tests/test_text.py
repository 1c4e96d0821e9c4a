"""What files hold is read within bounds and shown without what moves a terminal's cursor."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dabdetr.text import (
    MOST_YAML,
    PrintableFilter,
    cells,
    check_name,
    counted,
    escape,
    json_text,
    markdown,
    parse_json,
    parse_yaml,
    printable,
    shortened,
    shown,
)

LOLS = "a: &a [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "x.json is nested too deep"),
        ('{"a": }', r"x.json is not readable JSON \(Expecting value, line 1, column 7\)"),
        (b"\xff\xfe{}", "x.json is not readable JSON"),
        ("1" * 5000, r"x.json is not readable JSON \(Exceeds the limit"),
    ],
)
def test_json_that_cannot_be_read(content: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_json(content, "x.json")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LOLS, "aliases stand for more than 100,000 values"),
        ("a: &a {x: 1}\n" + "".join(f"b{i}: &b{i} {{<<: [*a, *a]}}\n" for i in range(3)), ""),
        ("names: &n [x, *n]", "nested too deep, or in itself"),
        ("{a: " * 3000 + "}" * 3000, "nested too deep"),
        ("x: !!int ''", "a value does not fit its tag"),
        ("x: !!float ''", "a value does not fit its tag"),
        ("x: !!bool foo", "a value does not fit its tag"),
        ("x: !!timestamp foo", "a value does not fit its tag"),
        ("x: !!int abc", "x.yaml is not readable YAML .*abc"),
        ("x: 2001-99-99", "x.yaml is not readable YAML"),
        ("x: =", r"could not determine a constructor.*line 1, column 4"),
        ("x: *nothing", "line 1, column 4"),
        ("x: \0", "x.yaml is not readable YAML"),
        ("a: 1\n]\n", "line 2, column 1"),
        (b"\xed\xa0\x80", r"byte 0 is no UTF-8"),
        ("x: !!python/object/apply:os.system [touch x]", "could not determine a constructor"),
        ("#" * (MOST_YAML + 1), "1,048,577 characters"),
        ("- a\n" * 200_000, "more than 100,000 values"),
        ("x:\n  1" + ":1" * 200_000, "a number of 400,001 characters.* line 2"),
        ("x: !!float 1" + ":1" * 200_000, "a number of 400,001 characters"),
        ("? [a, b]\n: c", "unhashable"),
        ("? {a: b}\n: c", "unhashable"),
    ],
)
def test_yaml_that_cannot_be_read(content: str | bytes, message: str) -> None:
    if not message:
        assert isinstance(parse_yaml(content, "x.yaml"), dict)
        return
    with pytest.raises(ValueError, match=message) as caught:
        parse_yaml(content, "x.yaml")
    assert len(str(caught.value)) < 300
    assert str(caught.value).startswith("x.yaml")


def test_a_merge_bomb_ends_before_it_grows() -> None:
    bomb = "a0: &a0 {k: v}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12)
    )
    with pytest.raises(ValueError, match="aliases stand for"):
        parse_yaml(bomb, "x.yaml")


def test_honest_yaml_keeps_its_aliases() -> None:
    text = "base: &b {lr: 1e-4}\nrun: {<<: *b, seed: 1}\n"
    assert parse_yaml(text, "x")["run"] == {"lr": "1e-4", "seed": 1}
    assert parse_yaml(b"\xef\xbb\xbfa: 1", "x") == {"a": 1}
    assert parse_yaml("", "x") is None


@given(st.text())
def test_what_is_shown_can_be_printed(text: str) -> None:
    for line in (printable(text), shown(text), shown([text]), json_text({text: text})):
        line.encode()
        assert not any(c in line for c in "\x1b\r\n\x07\x9b\u202e\u2066")
    assert json.loads(json_text([text])) == [text]


def test_names_of_any_script_are_shown_as_they_are() -> None:
    for name in ("Würfel", "猫", "טכנאי", "🙂", "a b"):
        assert printable(name) == escape(name) == name
        assert check_name(name, "the class") == name
    assert json_text({"a": "猫"}) == '{"a": "猫"}'
    assert printable("a\nb\x1b[2J", lines=True) == "a\nb\\x1b[2J"


@pytest.mark.parametrize("name", ["\x1b]0;x\x07", "a\nb", "\ud800", "\u202eabc", "", " ", None, 3])
def test_names_that_are_refused(name: object) -> None:
    with pytest.raises(ValueError, match="class 3") as caught:
        check_name(name, "class 3")
    assert printable(str(caught.value)) == str(caught.value)


def test_tables_and_pages_hold_no_control_characters() -> None:
    assert cells(["\x1b[2J\n\u202e", 3, None]) == [r"\x1b[2J\x0a\u202e", 3, None]
    assert markdown("[a](b)|<b>`\x1b\n") == r"\[a\](b)\|&lt;b&gt;\`\\x1b\\x0a"
    assert escape("<\x1b>\n\u202e\u200f") == "&lt;\\x1b&gt;\n\\u202e\u200f"


def test_cells_are_no_formulas_of_spreadsheets() -> None:
    formulas = [
        '=HYPERLINK("http://x","y")',
        "@SUM(1)",
        "+1+cmd|' /C calc'!A0",
        "-a",
        " =1",
        "\t=1",
        "-1+1",
        "-1 2\n",
        "-",
        "-.",
        "+1 -2 =3",
    ]
    assert cells(formulas) == [f"'{printable(text)}" for text in formulas]
    others = ["+0.150 ± 0.635", "-1", "+1.5", "a=b", "–", "x@y", "", "7-segment"]
    others += ["-1.5 2 -3e-05 4", "-1e-05", "-.5", "-inf nan", "+0.2 ± 1e-05"]
    assert cells(others) == others


def test_values_in_messages_stay_short() -> None:
    nested: list[object] = []
    for _ in range(60):
        nested = [nested, nested]
    for value in ("x" * 10_000, nested, {"a": nested}, list(range(9999)), 10**9000, b"y" * 9000):
        assert len(shown(value)) <= 60
    assert shown([1, "a", None]) == "[1, 'a', None]"
    assert shown({"a": 1}) == "{'a': 1}"
    assert shown({"a": nested}) == "a mapping of 1"
    assert shown(list(range(9))) == "a list of 9"
    assert shortened("a" * 9 + "b" * 9, 7) == "aaaa…bb"


def test_log_records_are_printable(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("dabdetr")
    assert any(isinstance(each, PrintableFilter) for each in logger.filters)
    with caplog.at_level(logging.WARNING, "dabdetr"):
        logger.warning("%s has %d", "a\x1b[31m", 3)
    assert caplog.messages == ["a\\x1b[31m has 3"]


@pytest.mark.parametrize(
    ("number", "nouns", "expected"),
    [
        (0, ("image",), "0 images"),
        (1, ("image",), "1 image"),
        (12_000, ("image",), "12,000 images"),
        (1, ("class", "classes"), "1 class"),
        (2, ("class", "classes"), "2 classes"),
    ],
)
def test_counted(number: int, nouns: tuple[str, ...], expected: str) -> None:
    assert counted(number, *nouns) == expected
