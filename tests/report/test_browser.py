"""The report in a real browser: nothing complains or sticks out, errors lead to their queries."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dabdetr.cli import app

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
pytestmark = pytest.mark.skipif(
    not Path(CHROMIUM).exists(), reason="no chromium (Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("runs")
    line = ["val", "scenes", "scenes:count=24,seed=4", "--errors", "--census", "--quiet"]
    line += ["--name", "why"]
    done = CliRunner().invoke(app, [*line, "--project", str(project)])
    assert done.exit_code == 0, done.output
    return project / "why"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, folder: Path) -> Iterator[Any]:
    """Opens the report; in the end no console error and no request off the disk may have been."""
    complaints: list[str] = []
    asked: list[str] = []

    def open_page(width: int = 1280, scheme: str = "light") -> Any:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: complaints.append(f"{message.type} {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((folder / "report.html").as_uri())
        return page

    yield open_page
    for context in browser.contexts:
        context.close()
    assert complaints == []
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_is_readable(visit: Any, width: int, scheme: str) -> None:
    page = visit(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    script = "e => { const s = getComputedStyle(e); return [s.color, s.backgroundColor] }"
    ink, ground = page.locator("body").evaluate(script)
    bright = lambda colour: sum(map(int, colour[4:-1].split(",")))  # noqa: E731
    assert (bright(ink) < bright(ground)) == (scheme == "light")
    lines = """e => { const r = document.createRange(); r.selectNodeContents(e);
        return new Set([...r.getClientRects()].map(each => each.top)).size }"""
    keys = page.locator("#about td:first-child").all()
    assert [key.evaluate(lines) for key in keys] == [1] * len(keys)  # no word is broken
    there = [link.inner_text() for link in page.locator("nav a").all()]
    assert there[:2] == ["Numbers", "Errors"]
    assert "Queries" in there
    for link in page.locator("nav a").all():
        link.click()
        assert page.locator(link.get_attribute("href")).is_visible()
    figure = page.locator("#figure-precision_recall .zoomable")
    figure.focus()
    page.keyboard.press("Enter")
    assert page.locator("dialog svg").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("dialog svg").is_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_an_error_leads_to_its_query_and_layer(visit: Any, folder: Path, width: int) -> None:
    read = json.loads((folder / "report.json").read_text())["errors"]
    gallery = [each for each in read["gallery"] if each["page"]]
    assert len(gallery) >= 5
    shown = visit(width).locator("figure.error")
    assert shown.count() == len(read["gallery"])
    for at in (0, len(gallery) // 2, len(gallery) - 1):
        row = read["rows"][gallery[at]["row"]]
        page = visit(width)
        card = page.locator(f'figure.error a[href="{gallery[at]["page"]}"]').first
        card.click()
        page.wait_for_url("**/errors/*")
        assert f"query {row['query']}" in page.locator("#story-title").inner_text()
        assert page.locator("#layer").input_value() == str(row["layer"])
        assert page.locator("#boxes .picked").last.get_attribute("data-query") == str(row["query"])
        page.locator("nav a").first.click()
        page.wait_for_url("**/report.html#errors")
