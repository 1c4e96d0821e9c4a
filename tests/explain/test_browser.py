"""The page in a real browser: what a person clicks, presses and sees."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dabdetr import Predictor
from dabdetr.data.layouts import open_data
from dabdetr.explain import page as page_module
from dabdetr.explain.explanation import Explanation
from dabdetr.model.detector import build
from dabdetr.presets import preset
from dabdetr.structures import Detections
from dabdetr.structures.boxes import corners, iou

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
pytestmark = pytest.mark.skipif(
    not Path(CHROMIUM).exists(), reason="no chromium (Debian: apt-get install chromium)"
)
EVIL = "<img src=x onerror=console.error('ran')>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Opens an explanation's page; in the end no console error and no request may have been."""
    complaints: list[str] = []

    def open_page(explanation: Explanation, width: int = 1200, height: int = 900) -> Any:
        explanation.save(tmp_path / "page.html")
        page = browser.new_page(viewport={"width": width, "height": height})
        page.on("console", lambda message: complaints.append(f"{message.type} {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tmp_path / "page.html").as_uri())
        return page

    asked: list[str] = []
    yield open_page
    for context in browser.contexts:
        context.close()
    assert complaints == []
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert sum(url.startswith("file") for url in asked) == 1


@pytest.fixture(scope="module")
def scene() -> Explanation:
    data = open_data("scenes:seed=2022,count=8", "test")
    return Predictor("scenes", device="cpu").explain(data.image(7))


def member(name: str, *assignments: str, names: tuple[str, ...] = ("owl", "fox")) -> Explanation:
    torch.manual_seed(0)
    small = ("image.size=64", "image.max_size=64")
    model = build(preset(name).override([*small, *assignments]), names)
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return Predictor(model, device="cpu").explain(noise, conf=1.0)


def shown_box(page: Any, selector: str = ".picked") -> list[float]:
    """x0 y0 x1 y1 of a drawn box, in the image's pixels."""
    script = "e => { const b = e.getBBox(); return [b.x, b.y, b.x + b.width, b.y + b.height] }"
    return page.locator(f"#boxes {selector}").last.evaluate(script)


def move_to(page: Any, x: float, y: float) -> None:
    """Point at a place of the image, 0–1."""
    frame = page.locator("#stage").bounding_box()
    page.mouse.move(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"])


def click_at(page: Any, x: float, y: float) -> None:
    """Click a place of the image, 0–1."""
    move_to(page, x, y)
    page.mouse.down()
    page.mouse.up()


def lit(page: Any) -> int:
    """How many pixels of the attention layer are visible."""
    script = """c => {
        const [w, h] = [c.width, c.height];
        const pen = new OffscreenCanvas(w, h).getContext("2d", { willReadFrequently: true });
        pen.drawImage(c, 0, 0);
        return pen.getImageData(0, 0, w, h).data.filter((v, i) => i % 4 == 3 && v > 20).length;
    }"""
    return page.locator("#heat").evaluate(script)


def test_a_known_object_tells_its_story(visit: Any, scene: Explanation) -> None:
    page = visit(scene)
    at, label = 4, scene.trace.names[scene.detections.labels[4]]
    x, y = scene.detections.boxes[at].reshape(2, 2).mean(0) / 160
    click_at(page, float(x), float(y))
    query = scene.query(at)
    title = page.locator("#story-title").inner_text()
    assert title == f"{label}, score {scene.detections.scores[at]:.2f}, query {query}"
    np.testing.assert_allclose(shown_box(page), scene.detections.boxes[at], atol=0.5)
    assert page.locator("#list [aria-selected=true]").get_attribute("data-query") == str(query)
    scores = [
        page.locator(f"#numbers tbody tr:nth-child({2 + k}) td:nth-child(2)") for k in range(3)
    ]
    expected = scene.trace.scores[:, query].max(-1)
    assert [cell.inner_text() for cell in scores] == [f"{s:.2f}" for s in expected]


@pytest.mark.parametrize("width", [1280, 360])
def test_a_click_in_a_box_tells_of_the_smallest(visit: Any, scene: Explanation, width: int) -> None:
    """And a click at the same place of the next larger one, until all that lie there were told."""
    page = visit(scene, width)
    assert page.locator("#all").is_checked()
    boxes = scene.detections.boxes / 160
    for box in boxes:
        x, y = box.reshape(2, 2).mean(0).tolist()
        holding = (boxes[:, :2] <= (x, y)).all(1) & (boxes[:, 2:] >= (x, y)).all(1)
        there = sorted(
            np.flatnonzero(holding), key=lambda at: np.prod(boxes[at, 2:] - boxes[at, :2])
        )
        move_to(page, x, y)
        for at in [*there, there[0]]:
            assert page.locator("#tip").inner_text().startswith(f"query {scene.query(at)}:")
            click_at(page, x, y)
            assert page.locator("#story-title").inner_text().endswith(f"query {scene.query(at)}")
            move_to(page, 0, 0)
            move_to(page, x, y)


def test_shift_picks_the_nearest_query_even_in_a_box(visit: Any, scene: Explanation) -> None:
    page = visit(scene)
    centres = scene.trace.boxes[-1, :, :2]
    for query in np.setdiff1d(np.arange(40), scene.detections.queries)[:8]:
        x, y = centres[query].tolist()
        if not (0.02 < x < 0.98 and 0.02 < y < 0.98):
            continue
        page.keyboard.down("Shift")
        click_at(page, x, y)
        page.keyboard.up("Shift")
        told = page.locator("#story-title").inner_text()
        near = np.flatnonzero(abs(centres - centres[query]).max(-1) < 0.02)
        assert any(f"query {q}" in told for q in near), (query, told)


def test_two_classes_of_one_query_are_two_detections(visit: Any) -> None:
    explanation = member("dab-detr-nano")
    explanation = replace(explanation, detections=both_classes(explanation))
    page = visit(explanation)
    assert page.locator("#list li").count() == 4
    for at in (1, 3):
        page.locator("#list li").nth(at).click()
        assert page.locator("#list [aria-selected=true]").count() == 1
        assert page.locator("#list [aria-selected=true]").get_attribute("id") == f"detection-{at}"
        name = explanation.trace.names[explanation.detections.labels[at]]
        score = explanation.detections.scores[at]
        title = f"{name}, score {score:.2f}, query {explanation.query(at)}"
        assert page.locator("#story-title").inner_text() == title
    page.locator("#list").focus()
    page.keyboard.press("Home")
    told = [page.locator("#list [aria-selected=true]").get_attribute("id")]
    for _ in range(3):
        page.keyboard.press("ArrowDown")
        told.append(page.locator("#list [aria-selected=true]").get_attribute("id"))
    assert told == [f"detection-{at}" for at in range(4)]


def both_classes(explanation: Explanation) -> Detections:
    """Queries 3 and 5, each found as both classes."""
    trace, queries = explanation.trace, np.array([3, 5, 3, 5])
    labels = np.array([0, 0, 1, 1])
    edges = corners(explanation.in_pixels(trace.boxes[-1, queries]))
    scores = trace.scores[-1, queries, labels]
    return Detections(edges, scores, labels, queries, trace.names, explanation.size)


def test_the_slider_moves_the_boxes(visit: Any, scene: Explanation) -> None:
    page = visit(scene)
    query = scene.query(0)
    assert scene.trace.anchors is not None
    places = [scene.trace.anchors[0][query], *scene.trace.boxes[:, query]]
    others = set()
    for layer in (0, 1, 2, 3):
        page.locator("#layer").fill(str(layer))
        x, y, w, h = scene.in_pixels(places[layer])
        expected = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        np.testing.assert_allclose(shown_box(page), expected, atol=0.1)
        others.add(tuple(shown_box(page, ".detection")))
    assert len(others) == 4
    assert "After layer 3 of 3" in page.locator("#layer-name").inner_text()
    anchor = scene.in_pixels(scene.trace.anchors[2][query])
    np.testing.assert_allclose(
        shown_box(page, ".anchor")[2] - shown_box(page, ".anchor")[0], anchor[2], atol=0.1
    )


def test_the_keyboard_does_it_all(visit: Any, scene: Explanation) -> None:
    page = visit(scene)
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "stage":
            break
    for key in ("ArrowDown", "ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
    assert f"query {scene.query(2)}" in page.locator("#story-title").inner_text()
    assert "After layer 2" in page.locator("#layer-name").inner_text()
    page.keyboard.press("a")
    assert page.locator("#parts input:checked").get_attribute("value") == "content"
    page.keyboard.press("h")
    assert "head 1" in page.locator("#caption").inner_text()
    page.keyboard.press("p")
    assert page.locator("#boxes .path").count() == 0
    page.keyboard.press("q")
    assert page.locator("#boxes .query").count() == 0
    page.keyboard.press("ArrowUp")
    assert f"query {scene.query(1)}" in page.locator("#story-title").inner_text()
    page.keyboard.press("Space")
    playwright.expect(page.locator("#layer")).to_have_value("3", timeout=8000)


def test_attention_is_seen_and_switched_off(visit: Any, scene: Explanation) -> None:
    page = visit(scene)
    tops = set()
    for part in ("all", "content", "position", "unmodulated"):
        page.locator(f"#parts label:has([value={part}])").click()
        assert lit(page) > 100
        tops.add(page.locator("#top").inner_text())
    assert len(tops) == 4
    assert "the content gives w_ref × h_ref" in page.locator("#caption").inner_text()
    page.locator("#head").select_option("2")
    assert "head 2" in page.locator("#caption").inner_text()
    page.locator("#parts label:has([value=none])").click()
    assert lit(page) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["dab-detr-nano", "dab-deformable-detr-nano"])
def test_what_is_seen_is_said_above_the_fold(visit: Any, name: str, scheme: str) -> None:
    page = visit(member(name), 1280)
    page.emulate_media(color_scheme=scheme)
    sampled = name.startswith("dab-def")
    for part in ("all", "content", "position"):
        page.locator(f"#parts label:has([value={part}])").click()
        for key in ("#caption", "#levels" if sampled else "#scale"):
            box = page.locator(key).bounding_box()
            assert box["height"] > 10
            assert box["y"] + box["height"] <= 900, (part, key)
    if sampled:
        levels = page.locator("#levels li").all_inner_texts()
        assert levels == ["8 × 6 cells", "4 × 3 cells", "2 × 2 cells"]
        assert "position alone chose them" in page.locator("#caption").inner_text()
    else:
        assert "w_ref / w = " in page.locator("#caption").inner_text()


def test_hover_tells_of_any_query(visit: Any, scene: Explanation) -> None:
    page = visit(scene)
    queries = set(range(40)) - set(scene.detections.queries.tolist())
    inside = [q for q in queries if (abs(scene.trace.boxes[-1, q, :2] - 0.5) < 0.45).all()]
    query = inside[0]
    x, y = scene.trace.boxes[-1, query, :2].tolist()
    frame = page.locator("#stage").bounding_box()
    page.mouse.move(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"])
    told = page.locator("#tip").inner_text()
    near = abs(scene.trace.boxes[-1, :, :2] - (x, y)).max(-1) < 0.03
    assert any(f"query {q}:" in told for q in np.flatnonzero(near))
    page.mouse.move(2, 2)
    assert not page.locator("#tip").is_visible()


def test_hover_tells_of_queries_whose_dots_are_not_drawn(visit: Any) -> None:
    explanation = replace(member("dab-detr-nano", "model.queries.count=100"), conf=1.0)
    page = visit(explanation)
    assert not page.locator("#all").is_checked()
    boxes, free = explanation.trace.boxes[-1], np.ones(100, bool)
    for taken in boxes[explanation.shown.queries]:
        free &= (abs(boxes - taken)[:, :2] > taken[2:] / 2 + 0.02).any(-1)
    for query in np.flatnonzero(free)[:5]:
        x, y = boxes[query, :2].tolist()
        move_to(page, x, y)
        told = page.locator("#tip").inner_text()
        near = np.flatnonzero(abs(boxes[:, :2] - (x, y)).max(-1) < 0.02)
        assert any(f"query {q}:" in told for q in near)
    assert free.any()


@pytest.mark.parametrize("width", [360, 390])
def test_a_phone_needs_no_sideways_scrolling(visit: Any, scene: Explanation, width: int) -> None:
    page = visit(scene, width, 800)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#stage").bounding_box()["width"] > 0.85 * width
    before = shown_box(page)
    page.locator("#layer").fill("0")
    assert shown_box(page) != before


@pytest.mark.parametrize(("width", "side"), [(1280, 4000), (360, 4000), (360, 992)])
def test_the_numbers_fit(visit: Any, scene: Explanation, width: int, side: int) -> None:
    large = np.asarray(Image.fromarray(scene.image).resize((side, side)))
    boxes, labels = scene.detections.boxes * (side / 160), scene.detections.labels
    page = visit(replace(scene, image=large).with_truth(boxes, labels), width)
    fits = "e => e.scrollWidth <= e.clientWidth"
    assert page.locator(".scroll").evaluate(fits)
    heads = [each.split() for each in page.locator("#numbers th").all_inner_texts()]
    assert heads[3] == ["centre", "x,", "y"]
    x, y, w, h = scene.trace.boxes[-1, scene.query(0)] * side
    cells = page.locator("#numbers tbody tr").last.locator("td").all_inner_texts()
    assert cells[3:5] == [f"{x:.0f}, {y:.0f}", f"{w:.0f} × {h:.0f}"]


def test_a_truth_of_another_class_is_marked(visit: Any, scene: Explanation) -> None:
    found, names = scene.detections, scene.trace.names
    labels = found.labels.copy()
    labels[0] = (labels[0] + 1) % len(names)
    page = visit(scene.with_truth(found.boxes, labels))
    differs = r"e => e.classList.contains('differs')"
    told = f"The truth there is “{names[labels[0]]}” ≠ “{names[found.labels[0]]}”."
    assert page.locator("#real").inner_text() == told
    assert page.locator("#real").evaluate(differs)
    assert page.locator("#boxes text", has_text=f"truth: {names[labels[0]]}").count() == 1
    last = page.locator("#boxes > *").last  # no box is drawn over it
    assert last.text_content() == f"truth: {names[labels[0]]}"
    page.locator("#list li").nth(1).click()
    assert page.locator("#real").inner_text() == f"The truth there is “{names[labels[1]]}”."
    assert not page.locator("#real").evaluate(differs)


def test_a_truth_beside_the_box_is_not_there(visit: Any, scene: Explanation) -> None:
    found = scene.detections
    x0, y0, x1, y1 = found.boxes[0].tolist()
    beside = [[x0 + 0.9 * (x1 - x0), y0, x1 + 0.9 * (x1 - x0), y1]]  # IoU 0.05
    page = visit(scene.with_truth(beside, found.labels[:1]))
    assert page.locator("#real").inner_text() == "There is no labelled object there."
    assert page.locator("#boxes text", has_text="truth: ").count() == 0


def test_what_attention_lacks_is_said(visit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single heads for the best queries only; content that holds positions."""
    monkeypatch.setattr(page_module, "MAP_BYTES", 30_000)
    page = visit(member("dab-detr-nano"))
    assert page.locator("#head").is_enabled()
    assert page.locator("#limits").inner_text() == ""
    page.locator("#parts label:has([value=content])").click()
    assert "adds positions" not in page.locator("#limits").inner_text()
    page.locator("#layer").fill("1")
    assert "adds positions to content" in page.locator("#limits").inner_text()
    page.locator("#head").select_option("1")
    page.locator("#parts label:has([value=all])").click()
    page.locator("#list li").nth(4).click()
    assert page.locator("#head").is_disabled()
    assert "single heads are kept for the best queries only" in page.locator("#limits").inner_text()
    assert "mean of all heads" in page.locator("#caption").inner_text()
    assert lit(page) > 20


def test_names_with_html_are_text(visit: Any) -> None:
    page = visit(member("dab-detr-nano", names=(EVIL, EVIL + "x" * 300)))
    assert page.locator("#list li", has_text=EVIL).count() > 0
    assert page.locator("img").count() == 1


@pytest.mark.parametrize("name", ["detr-nano", "conditional-detr-nano", "deformable-detr-nano"])
def test_other_members(visit: Any, name: str) -> None:
    explanation = member(name)
    page = visit(explanation)
    for sentence in explanation.trace.absent:
        assert page.locator("#notes li", has_text=sentence).count() == 1
    least = page.locator("#layer").get_attribute("min")
    assert least == ("1" if name == "detr-nano" else "0")
    assert "Nothing was found" in page.locator("#list-title").inner_text()
    assert lit(page) > 20
    page.locator("#layer").fill(str(least))
    assert page.locator("#boxes .picked").count() == 1


def test_300_queries_and_six_layers_open_at_once(visit: Any) -> None:
    sizes = ["image.size=200", "image.max_size=336", "model.heads=8", "model.decoder.layers=6"]
    explanation = member("dab-detr-nano", *sizes, "model.queries.count=300")
    started = time.perf_counter()
    page = visit(explanation)
    page.wait_for_selector("#boxes .picked", state="attached")
    taken = page.evaluate("performance.timing.loadEventEnd - performance.timing.navigationStart")
    assert taken < 2000, (taken, time.perf_counter() - started)


def test_one_layer_and_2000_queries(visit: Any) -> None:
    page = visit(member("dab-detr-nano", "model.decoder.layers=1", "model.queries.count=2000"))
    page.locator("#all").check()
    assert page.locator("#boxes .query").count() == 2000
    page.locator("#layer").fill("0")
    assert page.locator("#layer-name").inner_text() == "Start: initial anchors"


def test_a_click_and_a_drawn_box_are_questions(visit: Any) -> None:
    explanation = member("dab-lite")
    page = visit(explanation)
    stage = page.locator("#stage").bounding_box()

    def at(x: float, y: float) -> tuple[float, float]:
        return stage["x"] + x * stage["width"], stage["y"] + y * stage["height"]

    assert explanation.asked is not None
    own, anchors = explanation.trace.queries, explanation.asked.anchors
    assert anchors is not None
    page.check("#ask")
    page.mouse.move(*at(0.25, 0.2))
    page.mouse.down()
    page.mouse.move(*at(0.6, 0.5), steps=3)
    page.mouse.move(*at(0.75, 0.7), steps=3)
    page.mouse.up()
    query = int(page.locator(".picked").get_attribute("data-query"))
    assert query >= own
    start = corners(explanation.in_pixels(anchors[0]))
    width, height = 64, 48
    wanted = np.array([0.25 * width, 0.2 * height, 0.75 * width, 0.7 * height])
    assert iou(start[query - own], wanted) > 0.99 * iou(start, wanted).max()
    assert "a question" in page.inner_text("#story-title")
    assert "The box asked about there is" in page.inner_text("#story")
    assert explanation.asked.attended is not None
    most = explanation.asked.attended[-1][query - own].argmax()
    told = f"Of the model's queries it attends most to query {most}, "
    assert told in page.inner_text("#story")
    assert page.locator(".asked").count() == 1

    page.mouse.click(*at(0.1, 0.9))
    clicked = int(page.locator(".picked").get_attribute("data-query"))
    x, y = start[clicked - own].reshape(2, 2).mean(0)
    assert abs(x - 6.4) < 10
    assert abs(y - 43.2) < 10
    page.locator("#parts input[value=content]").check(force=True)
    assert "keeps the whole attention" in page.inner_text("#caption")
    page.uncheck("#ask")
    page.locator("#list li").first.click()
    assert page.locator(".asked").count() == 0


def test_nothing_is_asked_where_a_member_cannot_answer(visit: Any, scene: Explanation) -> None:
    page = visit(scene)
    assert not page.locator("#ask-field").is_visible()
    assert "ask" not in page.locator("#keys").inner_text()
    page.keyboard.press("k")
    assert not page.is_checked("#ask")
