"""The tools that make pages of the code."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")

import figures
import generated
import hooks
from docstrings import as_markdown
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[2]


def rendered(markdown: str, place: str = "idea/page.md") -> str:
    return hooks.on_page_markdown(markdown, SimpleNamespace(file=SimpleNamespace(src_uri=place)))


def test_figures_are_shown_as_they_fit_light_and_dark_pages() -> None:
    lines = rendered("![Places](../images/idea/places.png)").splitlines()
    assert lines == [
        "![Places](../images/idea/places.png#only-light)",
        "![Places](../images/idea/places-dark.png#only-dark)",
    ]
    for alone in ("![Way](../images/idea/update.gif)", "![None](../images/idea/none.png)"):
        assert rendered(alone) == alone
    shown = {name for page in figures.IDEAS.glob("*.md") for name in figures.shown(page)}
    made = {path.name.replace("-dark.", ".") for path in figures.IMAGES.glob("*-dark.*")}
    assert made == shown - {"update.gif"}


def test_an_excerpt_has_the_lines_that_it_names() -> None:
    shown = generated.source("dabdetr.structures.tensors._Movable.to").splitlines()
    assert shown[1].startswith("def to(")
    path, _, line = shown[0].split('"')[1].partition(", line ")
    lines = (ROOT / path).read_text().splitlines()
    assert [text.strip() for text in lines[int(line) - 1 :]][: len(shown) - 2] == [
        text.strip() for text in shown[1:-1]
    ]
    assert "@torch.no_grad()" in generated.source(
        "dabdetr.model.denoising.Denoising._noisy_anchors"
    )
    assert "1e-5" in generated.source("dabdetr.geometry.SMALLEST_SIDE")


@pytest.mark.parametrize(
    "asked", ["source dabdetr.geometry.stay", "source nothing.at.all", "family all", "weather"]
)
def test_what_is_not_there_stops_the_build(asked: str) -> None:
    with pytest.raises(PluginError):
        rendered(f"text\n\n{{{{ {asked} }}}}\n")


def test_links_out_of_the_documentation_become_names() -> None:
    assert rendered("see [this](../../src/a.py)") == "see this (`src/a.py`)"
    assert rendered("[b/results.md](../b/results.md)", "page.md") == "`b/results.md`"
    assert rendered("[tour](../index.md#in)") == "[tour](../index.md#in)"


def test_formulas_are_drawn_by_the_browser() -> None:
    inline = hooks.on_page_content(r'<p><span class="arithmatex">\(a &lt; b\)</span></p>')
    assert inline.startswith("<p><math")
    assert "arithmatex" not in inline
    block = hooks.on_page_content('<div class="arithmatex">\\[\n\\frac{1}{2}\n\\]</div>')
    assert 'display="block"' in block
    assert "<mfrac>" in block


def test_code_in_text_breaks_between_words_and_parts_of_names() -> None:
    said = hooks.on_page_content("<code>train --max-det 5</code><code>model.decoder.layers</code>")
    assert said == (
        '<code>train <span class="whole">--max-det</span> 5</code>'
        "<code>model.<wbr>decoder.<wbr>layers</code>"
    )
    kept = "<code>0.5</code><code><span>a.b</span></code>"
    assert hooks.on_page_content(kept) == kept


def test_docstrings_become_lists_and_code() -> None:
    said = as_markdown(
        "A thing.\n\nname    what it is,\n        and more\na, b    two\n\n>>> one\n... two"
    )
    assert "- `name`: what it is,\n    and more\n- `a, b`: two\n" in said
    assert said.endswith("```python\none\ntwo\n```")
    example = ">>> for each in found:\n...     print(each)\n3 objects\n...\n\nMore."
    assert as_markdown(example).split("\n") == [
        *("", "```python", "for each in found:", "    print(each)", "# 3 objects", "# …", "```"),
        *("", "More."),
    ]
    table = "Measured:\n\n    levels    heads\n    80x60    8 of 32"
    assert as_markdown(table) == table


def test_reports_of_races_are_one_heading_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generated, "RACES", tmp_path)
    assert "No race is kept yet" in generated.races()
    assert "Not drawn yet" in generated.attention()
    (tmp_path / "small").mkdir()
    report = "# The race\n\n## Claims\n\n![AP](curves.png) [far](https://example.org)\n"
    report += "\n![AP of the ladder](curves-ladder-96.png)\n"
    (tmp_path / "small" / "report.md").write_text(report)
    (tmp_path / "small" / "curves.png").touch()
    (tmp_path / "small" / "attention-large-96.png").touch()
    shown = generated.races()
    assert shown.startswith("## small\n")
    assert "### Claims" in shown
    assert "<summary>The report of small</summary>" in shown
    assert "![AP](race/small/curves.png) [far](https://example.org)" in shown
    assert shown.count("(race/small/curves-ladder-96.png){.panel}") == 3  # for phones
    assert set(generated.race_files()) == {
        "race/small/curves.png",
        "race/small/attention-large-96.png",
    }
    assert "Not drawn yet" in generated.attention()  # of another race than the one that is shown
    monkeypatch.setattr(generated, "SHOWN", "small")
    measured = "rung,part,inside,centres,width_fit,height_fit\n"
    measured += (
        "dab,position,0.2,1,0.5,-0.1\ndab,position,0.4,2,0.5,-0.2\nno-size,position,1,1,1,1\n"
    )
    (tmp_path / "small" / "attention-96.csv").write_text(measured)
    text = generated.attention()
    assert "](../race/small/attention-large-96.png)" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[2:] == ["| DAB-DETR | position alone | 30 % | 1.50 | 0.50 | −0.15 |"]
