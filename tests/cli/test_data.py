"""`dabdetr data`: counts, figures, pages, other layouts and splits."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dabdetr.cli import app
from dabdetr.data.layouts import open_data, open_every, splits
from dabdetr.data.statistics import LEARNABLE, describe, recommend
from dabdetr.data.views import CELL, GAP


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def run(*arguments: object) -> Result:
    done = invoke(*arguments)
    assert done.exit_code == 0, done.stderr or done.exception
    return done


def test_stats_are_those_of_the_data(coco_folder: Path, tmp_path: Path) -> None:
    done = run("stats", coco_folder, "--json", "--plot", tmp_path / "stats.png")
    told = json.loads(done.stdout)
    assert [each["split"] for each in told["splits"]] == ["train", "val"]
    for each in told["splits"]:
        data = open_data(coco_folder, each["split"])
        records = [data.record(i) for i in range(len(data))]
        counts = [len(record.labels) for record in records]
        assert (each["images"], each["boxes"]) == (len(data), sum(counts))
        assert sum(each["classes"].values()) == sum(counts)
        column = each["columns"]["objects per image"]
        assert (column[0], column[2], column[4]) == (min(counts), np.median(counts), max(counts))
        boxes = np.concatenate([record.boxes for record in records])
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        assert each["columns"]["object size (px)"][4] == pytest.approx(areas.max() ** 0.5, abs=1e-3)
        grey = np.mean([data.image(i).mean() for i in range(len(data))])
        assert each["columns"]["brightness (0–255)"][2] == pytest.approx(grey, abs=25)
    with Image.open(tmp_path / "stats.png") as figure:
        assert min(figure.size) > 800
        assert len(np.unique(np.asarray(figure.convert("RGB")).reshape(-1, 3), axis=0)) > 100
    lines = run("stats", coco_folder).stderr
    assert "train: 8 images" in lines
    assert "recommended: --imgsz" in lines
    again = invoke("stats", coco_folder, "--plot", tmp_path / "stats.png")
    assert again.exit_code == 2


def test_what_is_recommended(coco_folder: Path) -> None:
    """Small objects ask for large inputs, and where the images are larger still, for tiles."""
    described = describe(open_data(coco_folder))
    plain = recommend([described])
    assert (plain.tiles, plain.queries) == (0, 100)
    from dataclasses import replace

    none = np.zeros(0)
    empty = replace(described, sides=none, shorter=none, objects=np.zeros(8, np.int64))
    assert recommend([empty]).reasons == ("an image has up to 0 objects",)

    fine = replace(
        described,
        widths=described.widths * 25,
        heights=described.heights * 25,
        shorter=described.shorter * 25,
        objects=described.objects * 60,
    )
    advice = recommend([fine])
    assert advice.size == 1280
    assert advice.queries >= 1.5 * fine.objects.max()
    enlarged = np.median(fine.sides) * advice.size / advice.tiles
    assert LEARNABLE / 2 < enlarged < 8 * LEARNABLE


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, Any]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.mark.parametrize("augment", [False, True])
def test_a_page_and_a_contact_sheet(coco_folder: Path, tmp_path: Path, augment: bool) -> None:
    more = ["--augment"] if augment else []
    run("view", coco_folder, "--count", 5, "-o", tmp_path / "v", *more)
    page = Page((tmp_path / "v" / "index.html").read_text())
    images = page.of("img")
    assert len(images) == 5
    assert all(each["src"].startswith("data:image/jpeg;base64,") for each in images)
    data = open_data(coco_folder)
    shown = [data.record(i) for i in np.linspace(0, 7, 5).round().astype(int)]
    assert [each["alt"] for each in images] == [Path(record.file).name for record in shown]
    if not augment:
        assert len(page.of("rect")) == sum(len(record.labels) for record in shown)
    assert page.of("rect")
    assert not [tag for tag in page.tags if tag[0] in ("link", "iframe") or "://" in str(tag[1])]
    with Image.open(tmp_path / "v" / "contact.png") as sheet:
        cell = CELL if augment else 160  # as large as the images, and no larger
        assert sheet.size == (3 * (cell + GAP) + GAP, 2 * (cell + GAP) + GAP)
    again = invoke("view", coco_folder, "--project", tmp_path, "--name", "v")
    assert again.exit_code == 2


def test_names_cannot_break_the_page(coco_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(coco_folder, tmp_path / "mine")
    file = tmp_path / "mine" / "annotations" / "instances_train.json"
    tree = json.loads(file.read_text())
    tree["categories"][3]["name"] = "</title><script>alert(1)</script>\"'"
    file.write_text(json.dumps(tree))
    run("view", tmp_path / "mine", "--project", tmp_path, "--name", "v")
    assert len(Page((tmp_path / "v" / "index.html").read_text()).of("script")) == 1


def test_control_characters_of_file_names_and_long_class_names(
    coco_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(coco_folder, tmp_path / "mine")
    file = tmp_path / "mine" / "annotations" / "instances_train.json"
    tree = json.loads(file.read_text())
    tree["categories"][3]["name"] = "long" * 1000
    row = tree["images"][0]
    place = next((tmp_path / "mine").rglob(row["file_name"]))
    row["file_name"] = "\x1b[31m\u202e.png"
    place.rename(place.with_name(row["file_name"]))
    file.write_text(json.dumps(tree))
    run("view", tmp_path / "mine", "--project", tmp_path, "--name", "v")
    page = (tmp_path / "v" / "index.html").read_text()
    assert not any(character in page for character in "\x1b\u202e")
    assert r"\x1b[31m\u202e.png" in page
    assert max(map(len, run("stats", tmp_path / "mine").stderr.splitlines())) < 500


@pytest.mark.parametrize("layout", ["coco", "yolo", "voc"])
def test_convert_and_back(coco_folder: Path, tmp_path: Path, layout: str) -> None:
    done = run("convert", coco_folder, tmp_path / "out", "--to", layout, "--json")
    assert json.loads(done.stdout)["splits"][0]["boxes"] > 0
    for one, other in zip(open_every(coco_folder), open_every(tmp_path / "out"), strict=True):
        for index in range(len(one)):
            np.testing.assert_array_equal(one.record(index).boxes, other.record(index).boxes)
    assert invoke("convert", coco_folder, tmp_path / "out").exit_code == 2


def test_split(coco_folder: Path, tmp_path: Path) -> None:
    """One split is divided by its share, the same for the same seed."""
    shutil.copytree(coco_folder / "train", tmp_path / "mine")
    source = coco_folder / "annotations" / "instances_train.json"
    shutil.copy(source, tmp_path / "mine" / "_annotations.coco.json")
    for out, seed in (("a", 0), ("b", 0), ("c", 5)):
        more = ("--split", 0.5, "--test", 0.25, "--seed", seed)
        run("split", tmp_path / "mine", tmp_path / out, *more)
    assert splits(tmp_path / "a") == ["train", "val", "test"]

    def names(folder: Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir())

    parts = ("train", "val", "test")
    files = {out: [names(tmp_path / out / part) for part in parts] for out in "abc"}
    assert [len(each) for each in files["a"]] == [4, 2, 2]
    assert files["a"] == files["b"] != files["c"]
    together = [name for part in files["a"] for name in part]
    assert sorted(together) == names(coco_folder / "train")
    divided = invoke("split", coco_folder, tmp_path / "d")
    assert divided.exit_code == 2
    assert "has splits already: train, val" in divided.stderr
    assert invoke("split", tmp_path / "mine", tmp_path / "d", "--test", 0.3).exit_code == 2
