"""The built site: whole, current, and readable without a network."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dabdetr.presets import PRESETS

pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(1800)
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FETCHED = re.compile(
    r"<(?:link|script|img|iframe|source|object)\b[^>]*?(?:src|href)=\"?(https?:[^\s\">]+)"
)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built strictly, as `make docs` does it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def text_of(page: Path) -> str:
    """What a reader sees."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    assert len(pages(site)) > 30
    for page in pages(site):
        assert FETCHED.findall(page.read_text()) == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?https?:", style.read_text()), style


def test_what_is_generated_is_there(site: Path) -> None:
    for page in pages(site):
        content = page.read_text()
        assert "{{ " not in re.sub(r"<code.*?</code>", "", content, flags=re.DOTALL), page
        assert "arithmatex" not in content, page
    assert (site / "idea" / "size.html").read_text().count("<math") >= 2
    assert "def sine_code" in text_of(site / "idea" / "position.html")
    assert not list(site.rglob("*.py"))


def rows_of(page: Path, column: str) -> dict[str, dict[str, str]]:
    """Rows of the tables that have ``column``, by their first cell."""
    found: dict[str, dict[str, str]] = {}
    for table in re.findall(r"<table>(.*?)</table>", page.read_text(), re.DOTALL):
        lines = [
            [html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in cells]
            for line in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
            if (cells := re.findall(r"<t[hd]>(.*?)</t[hd]>", line, re.DOTALL))
        ]
        if lines and column in lines[0]:
            found |= {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[1:]}
    return found


def test_the_family_table_is_current(site: Path) -> None:
    page = site / "family.html"
    rows, published = rows_of(page, "attention"), rows_of(page, "AP")
    assert set(rows) == set(PRESETS)
    assert set(published) == {p.name for p in PRESETS.values() if p.published_ap is not None}
    for name, preset in PRESETS.items():
        row, model = rows[name], preset.model
        assert row.get("AP") == (f"{preset.published_ap:.1f}" if name in published else None)
        assert row["attention"] == model.decoder.cross_attention.kind
        assert row["queries"].startswith(f"{model.queries.count}")
        assert model.backbone.name.partition(".")[0] in row["backbone"]
        assert ("denoising" in row["in training"]) == (model.denoising is not None)
        assert ("rcnn" in row["in training"]) == (model.collaborative is not None)
        assert preset.source in text_of(page)
    # Sizes that the papers and cards give: 44 M for DAB-DETR-R50, 41 M for DETR-R50.
    assert round(float(rows["dab-detr-r50"]["M"])) == 44
    assert round(float(rows["detr-r50"]["M"])) in (41, 42)
    assert rows["co-dino-nano"]["M"] == rows["dino-nano"]["M"]


def test_the_references_are_whole(site: Path) -> None:
    from commands import verbs

    from dabdetr import config

    said = text_of(site / "reference" / "commands.html")
    for verb in verbs():
        assert f"dabdetr {verb}" in said
    assert "--set" in said
    assert "--assignments" not in said
    fields = (site / "reference" / "config.html").read_text().replace("<wbr>", "")
    parts = {
        each
        for each in vars(config).values()
        if isinstance(each, type) and issubclass(each, config.Section)
    }
    for part in parts - {config.Section}:
        assert f'id="{part.__name__.lower()}"' in fields, part
        for field in part.model_fields:
            assert field == "kind" or f"<code>{field}</code>" in fields
    api = text_of(site / "reference" / "api.html")
    for name in (
        "Predictor",
        "Detections",
        "evaluate",
        "train",
        "build",
        "load_model",
        "save_model",
    ):
        assert name in api


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip("no chromium (Debian: apt-get install chromium)")
    with driver.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_opens_without_a_network(site: Path, browser: Any, width: int) -> None:
    """No request leaves the folder, nothing complains, nothing is wider than the screen."""
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
    context.set_default_timeout(120_000)  # a busy machine is no fault of a page
    complaints: list[str] = []
    for path in pages(site):
        if path.name == "404.html":
            continue
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type} {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(f"failed {request.url}"))
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
        assert page.evaluate(broken) == [], path
        flat = (
            "[...document.querySelectorAll('math')].filter(m => !m.getBoundingClientRect().height)"
        )
        assert page.evaluate(f"{flat}.length") == 0, path
        page.close()
    context.close()
    assert complaints == []
