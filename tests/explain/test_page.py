"""Explanations and their pages: what they hold, how large they are, what is odd about input."""

from __future__ import annotations

import base64
import io
import json
import re
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dabdetr import Predictor
from dabdetr.cli import app
from dabdetr.data.layouts import open_data
from dabdetr.explain import figures
from dabdetr.explain.explanation import Explanation, question_grid
from dabdetr.explain.page import entry, page, page_data
from dabdetr.model.detector import build
from dabdetr.presets import preset
from dabdetr.structures.boxes import corners

EVIL = "</script><img src=x onerror=alert(1)>&amp;"
runner = CliRunner()


@pytest.fixture(scope="module")
def scene(predictor: Predictor) -> Explanation:
    data = open_data("scenes:seed=2022,count=8", "test")
    record = data.record(7)
    return predictor.explain(data.image(7)).with_truth(record.boxes, record.labels)


def random_member(name: str, *assignments: str, names: tuple[str, ...] = ("owl", "fox")) -> Any:
    torch.manual_seed(0)
    small = ("image.size=64", "image.max_size=64")
    return Predictor(build(preset(name).override([*small, *assignments]), names), device="cpu")


def embedded(text: str) -> dict[str, Any]:
    """The page's data as its script would parse it."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_it_finds_what_the_predictor_finds(predictor: Predictor, scene: Explanation) -> None:
    found = predictor.one(scene.image)
    assert len(found) > 5
    for part in ("boxes", "scores", "labels", "queries"):
        np.testing.assert_array_equal(getattr(found, part), getattr(scene.detections, part))
    boxes = scene.trace.boxes[-1][scene.detections.queries]
    np.testing.assert_allclose(corners(scene.in_pixels(boxes)).clip(0, 160), found.boxes, atol=1e-3)


def test_truth(scene: Explanation) -> None:
    overlap = scene.iou_with_truth(scene.query(0))
    assert overlap is not None
    assert overlap.shape == (3,)
    assert overlap[-1] > 0.7
    assert Predictor.explain(Predictor("scenes"), scene.image).iou_with_truth(0) is None
    with pytest.raises(ValueError, match="one label from 0 to 9 for each box; got 1 box"):
        scene.with_truth([[0, 0, 1, 1]], [10])
    with pytest.raises(ValueError, match=r"x0 < x1 and y0 < y1; box 1 is \[5.0, 0.0, 5.0, 1.0\]"):
        scene.with_truth([[0, 0, 1, 1], [5, 0, 5, 1]], [1, 1])
    with pytest.raises(ValueError, match="detections, counted from 0; got 99"):
        scene.query(99)


def test_the_page_holds_the_trace(scene: Explanation) -> None:
    text = page(scene)
    data, trace = embedded(text), scene.trace
    np.testing.assert_allclose(data["boxes"], trace.boxes, atol=1e-4)
    assert trace.anchors is not None
    np.testing.assert_allclose(data["anchors"], np.stack(trace.anchors), atol=1e-4)
    np.testing.assert_allclose(np.array(data["scores"])[..., 0], trace.scores.max(-1), atol=1e-4)
    np.testing.assert_array_equal(np.array(data["labels"])[..., 0], trace.scores.argmax(-1))
    assert [row["query"] for row in data["detections"]] == scene.detections.queries.tolist()
    assert len(data["truth"]) == 9
    for outside in ("http://", "https://", 'src="/', "@import", "url("):
        assert outside not in text.replace("http://www.w3.org/2000/svg", "")


def test_maps_are_those_of_the_trace(scene: Explanation) -> None:
    data = page_data(scene)["attention"]
    query = scene.query(1)
    kept = data["queries"][str(query)]
    raw = np.frombuffer(base64.b64decode(kept["bytes"]), np.uint8).reshape(3, 4, 5, 20, 20)
    tops = np.reshape(kept["tops"], (3, 4, 5))
    for layer, look in enumerate(scene.trace.attention):
        for index, part in enumerate(data["parts"]):
            for head in (None, 0, 3):
                place = 0 if head is None else head + 1
                given = raw[layer, index, place] / 255 * tops[layer, index, place]
                expected = look.heat(query, part, head)
                np.testing.assert_allclose(given, expected, atol=expected.max() / 250 + 1e-5)
    assert next(iter(data["queries"])) == str(scene.query(0))


def test_places_are_those_of_the_trace() -> None:
    explanation = random_member("dab-deformable-detr-nano").explain(noise(64, 64), conf=0.9)
    data = page_data(explanation)
    look, query = explanation.trace.attention[1], explanation.query(0)
    assert data["attention"]["parts"] == ["all", "content", "position"]
    for at, part in enumerate(look.parts):
        locations, weights = look.chosen(query, part)  # pyright: ignore
        row = data["attention"]["queries"][str(query)]["rows"][3 + at]
        row = np.reshape(row, (*weights.shape, 3))
        np.testing.assert_allclose(row[..., 2], weights, atol=1e-4)
        np.testing.assert_allclose(row[..., :2], locations, atol=1e-4)


def test_nothing_found_still_gives_a_page(predictor: Predictor) -> None:
    explanation = predictor.explain(np.full((64, 64, 3), 90, np.uint8), conf=1.0)
    assert len(explanation.detections) == 0
    assert len(explanation.shown) == 5
    assert len(set(explanation.shown.queries)) == 5
    data = embedded(page(explanation))
    assert data["found"] == 0
    assert len(data["detections"]) == 5


def test_names_with_html_stay_text() -> None:
    explanation = random_member("dab-detr-nano", names=(EVIL, "fox")).explain(noise(64, 64), 0.0)
    text = page(explanation)
    assert "<img src=x" not in text
    assert embedded(text)["names"] == [EVIL, "fox"]


@pytest.mark.parametrize(
    ("name", "assignments", "shape"),
    [
        ("dab-detr-nano", ["model.decoder.layers=1"], (64, 64)),
        ("dab-detr-nano", ["model.queries.count=2000"], (48, 64)),
        ("dab-detr-nano", ["image.size=256", "image.max_size=384"], (3000, 4000)),
        ("detr-nano", ["model.queries.count=1"], (1, 1)),
        ("conditional-detr-nano", ["model.encoder.layers=0"], (9, 400)),
        ("dino-nano", [], (64, 64)),
    ],
)
def test_odd_sizes(name: str, assignments: list[str], shape: tuple[int, int]) -> None:
    explanation = random_member(name, *assignments).explain(noise(*shape))
    text = page(explanation)
    assert len(text) < 8e6
    data = embedded(text)
    assert (data["anchors"] is None) == (name == "detr-nano")
    assert len(data["boxes"]) == explanation.trace.layers
    assert data["absent"] == list(explanation.trace.absent)


def test_a_page_of_300_queries_and_six_layers_stays_small() -> None:
    """1,050 tokens and 8 heads, as DAB-DETR-R50 has for 1333 × 800."""
    sizes = ["image.size=200", "image.max_size=336", "model.queries.count=300", "model.heads=8"]
    member = random_member("dab-detr-nano", "model.decoder.layers=6", *sizes)
    data = page_data(explanation := member.explain(noise(800, 1344), conf=0.0))
    assert np.prod(data["attention"]["shape"]) == 25 * 42
    assert data["attention"]["heads"] == 8
    kept = data["attention"]["queries"]
    found = {str(query) for query in explanation.detections.queries}
    assert len(found) > 60
    assert found <= set(kept)
    by_head = [query for query, each in kept.items() if each["heads"] == 8]
    assert len(by_head) >= 5
    assert by_head == list(kept)[: len(by_head)]
    mean, whole = (len(base64.b64decode(kept[q]["bytes"])) for q in (list(kept)[-1], by_head[0]))
    assert (mean, whole) == (6 * 4 * 1050, 6 * 4 * 9 * 1050)
    assert len(page(explanation)) < 8e6


def test_wide_maps_keep_the_mean_of_heads_only() -> None:
    sizes = ["image.size=480", "image.max_size=600", "model.decoder.layers=6", "model.heads=8"]
    looks = page_data(random_member("dab-detr-nano", *sizes).explain(noise(80, 100)))["attention"]
    assert looks["shape"] == [60, 75]
    assert len(looks["queries"]) == 4_200_000 // (60 * 75 * 24)
    assert {each["heads"] for each in looks["queries"].values()} == {0}


def test_what_content_alone_does_not_say_is_said() -> None:
    every = "model.decoder.cross_attention.position_every_layer=true"
    for assignments, words in (([], [True, False, False]), ([every], [True, True, True])):
        found = random_member("dab-detr-nano", *assignments).explain(noise(64, 64))
        caveats = page_data(found)["attention"]["caveats"]
        assert ["content alone depends on positions" in caveat for caveat in caveats] == words
    mixed = page_data(random_member("detr-nano").explain(noise(64, 64)))["attention"]["caveats"]
    assert all("in neither part" in caveat for caveat in mixed)


def test_what_cannot_be_written_is_named(scene: Explanation, tmp_path: Path) -> None:
    nowhere = tmp_path / "none"
    for name, write in (
        ("a.html", scene.save),
        ("a.gif", scene.animation),
        ("a.png", lambda path: figures.save(scene.story(), path)),
    ):
        words = re.escape(f"{nowhere / name} cannot be written (no such file or directory); choose")
        with pytest.raises(OSError, match="^" + words):
            write(nowhere / name)


def test_thumbnails_are_small() -> None:
    photo = np.asarray(Image.fromarray(noise(90, 120)).resize((1200, 900)))
    each = entry(random_member("dab-detr-nano").explain(photo), "a.html")
    kind, _, content = each["thumbnail"].partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as small:
        assert small.size == (240, 180)
    assert len(content) < 40_000


def test_it_takes_one_image(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match=r"explain\(\) takes a single image; got 2"):
        predictor.explain([noise(64, 64)] * 2)
    with pytest.raises(ValueError, match="conf should be a number between 0 and 1; got 2"):
        predictor.explain(noise(64, 64), conf=2)
    with pytest.raises(ValueError, match="max_det should be an integer of at least 1; got 0"):
        predictor.explain(noise(64, 64), max_det=0)


def test_in_a_notebook(scene: Explanation) -> None:
    frame = scene._repr_html_()
    assert frame.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert frame.count('"') == 4


# The command


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_weights: Path) -> list[str]:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for name in ("a & b.png", "c.jpg"):
        Image.fromarray(noise(64, 64)).save(Path("in", name))
    return ["explain", "--model", str(tiny_weights), "--quiet"]


def test_one_image_is_one_page(images: list[str]) -> None:
    done = runner.invoke(app, [*images, "in/c.jpg", "-o", "page.html", "--json"])
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["page"] == "page.html"
    assert document["images"][0]["source"] == "in/c.jpg"
    assert embedded(Path("page.html").read_text())["title"] == "c.jpg"
    again = runner.invoke(app, [*images, "in/c.jpg", "-o", "page.html"])
    assert (again.exit_code, again.stdout) == (2, "")
    assert again.stderr.startswith("error: page.html exists and is not overwritten")
    assert runner.invoke(app, [*images, "in/c.jpg", "-o", "page.html", "--force"]).exit_code == 0


def test_several_images_make_an_index(images: list[str]) -> None:
    done = runner.invoke(app, [*images, "in", "-o", "pages.html"])
    assert done.exit_code == 0, done.stderr
    index = Path("pages.html").read_text()
    assert index.count("<li>") == 2
    assert 'href="pages_pages/a%20%26%20b.png.html"' in index
    assert "a &amp; b.png" in index
    assert embedded(Path("pages_pages", "a & b.png.html").read_text())["title"] == "a & b.png"
    Path("pages_pages", "mine.txt").write_text("precious")
    assert runner.invoke(app, [*images, "in", "-o", "pages.html", "--force"]).exit_code == 0
    assert Path("pages_pages", "mine.txt").read_text() == "precious"


def test_pages_lead_to_one_another(images: list[str]) -> None:
    Image.fromarray(noise(64, 64)).save("in/b.png")
    assert runner.invoke(app, [*images, "in", "-o", "all of it.html"]).exit_code == 0
    assert f"<title>{escape(images[2])}: 3 images" in Path("all of it.html").read_text()
    read = {
        name: Path("all of it_pages", f"{name}.html").read_text()
        for name in ("a & b.png", "b.png", "c.jpg")
    }
    links = {name: re.findall(r'<a href="(.*?)">(.*?)</a>', text) for name, text in read.items()}
    back = ("../all%20of%20it.html", "all images")
    assert links["b.png"] == [
        back,
        ("a%20%26%20b.png.html", "← a &amp; b.png"),
        ("c.jpg.html", "c.jpg →"),
    ]
    assert links["a & b.png"] == [back, ("b.png.html", "b.png →")]
    assert links["c.jpg"] == [back, ("b.png.html", "← b.png")]
    assert embedded(read["c.jpg"])["model"] == images[2]


def test_pages_of_an_earlier_run_go(images: list[str]) -> None:
    assert runner.invoke(app, [*images, "in", "-o", "x.html"]).exit_code == 0
    Path("x_pages", "mine.html").write_text("<!doctype html><title>precious</title>")
    Image.fromarray(noise(64, 64)).save("in/b.png")
    Path("in", "c.jpg").unlink()
    assert runner.invoke(app, [*images, "in", "-o", "x.html", "--force"]).exit_code == 0
    left = sorted(path.name for path in Path("x_pages").iterdir())
    assert left == ["a & b.png.html", "b.png.html", "mine.html"]


def test_unreadable_images_are_passed_over_where_asked(images: list[str]) -> None:
    Path("in", "b.jpg").write_text("no image")
    wanted = [*images, "in", "-o", "x.html", "--skip-unreadable", "--json"]
    done = runner.invoke(app, wanted)
    assert done.exit_code == 1
    assert done.stderr.startswith("skipped: in/b.jpg")
    document = json.loads(done.stdout)
    assert len(document["images"]) == 2
    assert len(document["skipped"]) == 1
    done = runner.invoke(app, [*images, "in/b.jpg", "-o", "y.html", "--skip-unreadable", "--json"])
    assert (done.exit_code, json.loads(done.stdout)["page"]) == (1, None)
    assert not Path("y.html").exists()


def test_data_tells_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = ["explain", "--data", "scenes:count=5", "--split", "test", "--count", "2", "--quiet"]
    assert runner.invoke(app, [*wanted, "-o", "x.html"]).exit_code == 0
    pages = sorted(Path("x_pages").iterdir())
    assert len(pages) == 2
    data = embedded(pages[1].read_text())
    record = open_data("scenes:count=5", "test").record(1)
    assert data["title"] == "000001"
    assert [each["label"] for each in data["truth"]] == record.labels.tolist()
    boxes = corners(np.array([each["box"] for each in data["truth"]])) * 160
    np.testing.assert_allclose(boxes, record.boxes, atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "page.html"], "no image was given: dabdetr explain IMAGE …, or --data DATA"),
        (["in", "--data", "scenes", "-o", "page.html"], "give one of them"),
        (["--data", "scenes", "--model", "blood-cells"], "class"),
        (["--data", "nowhere"], "nowhere"),
        (["in/c.jpg", "-o", "nowhere/page.html"], "there is no folder nowhere"),
        (["in/c.jpg", "-o", "page.png"], "the page should end in .html; got page.png"),
        (["in/c.jpg", "-o", "folder.html"], "folder.html exists"),
        (["in/none.jpg"], "there is no file or folder in/none.jpg"),
        (["in", "-o", "in2.html"], "in2_pages exists"),
        (["in/c.jpg", "--model", "nothing"], "nothing"),
        (["in/c.jpg", "-o", "/proc/page.html"], "/proc/page.html cannot be written"),
        (["in", "-o", "/proc/page.html"], "/proc/page_pages cannot be written"),
        (["in", "torn.jpg", "-o", "page.html"], "torn.jpg"),
    ],
)
def test_what_cannot_be_done_is_said(images: list[str], arguments: list[str], words: str) -> None:
    Path("folder.html").mkdir()
    Path("torn.jpg").write_text("no image")
    Path("in2_pages").mkdir()
    before = sorted(Path().rglob("*"))
    done = runner.invoke(app, [*images, *arguments])
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("name", ["dn-detr-nano", "dab-lite"])
def test_questions_of_a_page_have_the_answers_of_ask(name: str) -> None:
    predictor = random_member(name)
    explanation = predictor.explain(noise(48, 64), conf=0.9)
    asked = explanation.asked
    assert asked is not None
    assert asked.anchors is not None
    starts = corners(explanation.in_pixels(asked.anchors[0]))
    some = np.argsort(starts[:, 0], kind="stable")[:: len(starts) // 7]
    weights, module = [], predictor.live.model.decoder.layers[-1].self_attention
    handle = module.register_forward_hook(lambda m, i, _: weights.append(m.attention_weights(*i)))
    answers = predictor.ask(explanation.image, starts[some])
    handle.remove()
    assert asked.attended is not None
    assert explanation.trace.attended is None
    (of_all,) = weights
    np.testing.assert_allclose(
        asked.attended[-1][some], of_all[0, : len(some), len(some) :].detach(), atol=1e-4
    )
    np.testing.assert_allclose(
        corners(explanation.in_pixels(asked.boxes[:, some])), answers.layers, atol=0.02
    )
    np.testing.assert_allclose(asked.scores[-1][some], answers.class_scores, atol=1e-3)

    data, own = page_data(explanation), explanation.trace.queries
    assert data["questions"] == asked.queries == len(data["boxes"][0]) - own
    for (query, weight), row in zip(data["attended"], asked.attended[-1], strict=True):
        assert (row[int(query)], weight) == (row.max(), pytest.approx(row.max(), abs=6e-4))
    np.testing.assert_allclose(np.array(data["boxes"])[:, own:], asked.boxes, atol=1e-4)
    np.testing.assert_allclose(np.array(data["anchors"])[:, own:], asked.anchors, atol=1e-4)
    kept = data["attention"]["queries"][str(own + 5)]
    assert kept["parts"] == ["all"]
    if name == "dab-lite":
        locations, weights = asked.attention[2].chosen(5)  # pyright: ignore
        row = np.reshape(kept["rows"][2], (*weights.shape, 3))
        np.testing.assert_allclose(row[..., :2], locations, atol=1e-3)
    else:
        cells = np.frombuffer(base64.b64decode(kept["bytes"]), np.uint8)
        expected = asked.attention[0].maps(5).mean(0)  # pyright: ignore
        given = cells[: expected.size].reshape(expected.shape) / 255 * kept["tops"][0]
        np.testing.assert_allclose(given, expected, atol=expected.max() / 250 + 1e-5)


def test_members_without_denoising_are_not_asked(scene: Explanation) -> None:
    assert scene.asked is None
    assert page_data(scene)["questions"] == 0


def test_a_grid_of_questions_covers_any_image() -> None:
    for size in [(40, 60), (3, 3000), (3000, 3), (1, 1)]:
        boxes = question_grid(size).boxes[0].numpy()
        assert 100 <= len(boxes) <= 250
        edges = corners(boxes)
        assert (edges >= -1e-6).all()
        assert (edges <= 1 + 1e-6).all()
        assert (boxes[:, 2:] > 0).all()
        assert np.ptp(boxes[:, :2], axis=0).max() > 0.7
