"""Near-duplicates, divided data sets, and what is kept of files."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from dabdetr.data.dataset import Subset
from dabdetr.data.heads import read_heads
from dabdetr.data.layouts import open_data, open_training
from dabdetr.data.similar import groups, near_duplicates, thumbnails
from dabdetr.data.splitting import _held_out, divide, fold
from dabdetr.data.statistics import summarise

REAL = Path(os.environ.get("DABDETR_DATA", Path(__file__).parents[3] / "shared" / "data"))


def test_names_that_are_no_unicode_and_files_in_no_decoded_format(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    try:
        Image.new("RGB", (40, 30), (9, 99, 200)).save(tmp_path / name, "PNG")
    except OSError:
        pytest.skip("file names are Unicode here")
    Image.new("RGB", (40, 30), (9, 99, 200)).save(tmp_path / "x.jpg", "EPS")
    paths = [str(tmp_path / name), str(tmp_path / "x.jpg")]
    for _ in range(2):
        heads = read_heads(paths)
        assert heads[0].size == (40, 30)
        assert "not an image that can be read" in heads[1].error
        small = thumbnails(paths)
        assert small[0].any()
        assert not small[1].any()


def test_copies_are_found_whatever_was_done_to_them(coco_folder: Path, tmp_path: Path) -> None:
    files = sorted((coco_folder / "train").iterdir())
    first = Image.open(files[0]).convert("RGB")
    copies = {
        "half.png": first.resize((80, 80)),
        "bad.jpg": first,
        "bright.png": ImageEnhance.Brightness(first).enhance(1.15),
    }
    for name, image in copies.items():
        image.save(tmp_path / name, quality=30)
    first.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored.png")
    (tmp_path / "broken.png").write_bytes(b"x")
    names = [*copies, "mirrored.png", "broken.png"]
    paths = [*map(str, files), *(str(tmp_path / name) for name in names)]
    pairs = near_duplicates(thumbnails(paths)).tolist()
    assert {tuple(pair) for pair in pairs} == {(0, 8), (0, 9), (0, 10), (8, 9), (8, 10), (9, 10)}
    assert groups(np.array(pairs), len(paths)).tolist() == [*range(8), 0, 0, 0, 11, 12]


@pytest.mark.parametrize("name", ["bccd", "coco128", "deeppcb", "foda", "raccoon"])
def test_real_images_are_told_apart(name: str) -> None:
    """Alike as slides and boards are, what is not the same is not taken for it; copies are."""
    if not (REAL / name).is_dir():
        pytest.skip(f"no real data at {REAL / name}")
    paths = [str(p) for p in sorted((REAL / name / "train").iterdir())[:100]]
    pairs = near_duplicates(thumbnails(paths))
    # raccoon-11 is raccoon-116 byte for byte; foda's are neighbouring frames of videos.
    assert len(pairs) <= {"foda": 12, "raccoon": 1}.get(name, 0)


@given(st.integers(0, 2**32), st.integers(30, 200), st.floats(0.1, 0.5))
def test_each_class_has_its_share_on_both_sides(seed: int, images: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.poisson((3, 1, 0.3), (images, 3)).astype(float)
    table = np.concatenate((counts, (counts.sum(1) == 0)[:, None], np.ones((images, 1))), 1)
    held = _held_out(table, share, seed)
    assert abs(held.mean() - share) <= 0.05 + 2 / images
    for kind in range(3):
        whole = counts[:, kind].sum()
        if whole > 8:
            most = counts[:, kind].max()
            assert abs(counts[held, kind].sum() - share * whole) <= most + 0.05 * whole + 1


def test_a_divided_set(coco_folder: Path, tmp_path: Path) -> None:
    only = tmp_path / "mine"
    shutil.copytree(coco_folder / "train", only / "train")
    json_ = coco_folder / "annotations" / "instances_train.json"
    tree = json.loads(json_.read_text())
    shutil.copy(only / "train" / "003.png", only / "train" / "copy.png")
    tree["images"].append(tree["images"][3] | {"id": 99, "file_name": "copy.png"})
    (only / "annotations").mkdir()
    (only / "annotations" / "instances_train.json").write_text(json.dumps(tree))
    train, val = open_training(only, share=0.75)
    assert val is not None
    ids = [[data.record(i).image_id for i in range(len(data))] for data in (train, val)]
    assert sorted(ids[0] + ids[1]) == [*range(1, 9), 99]
    assert len(ids[1]) in (2, 3)
    assert (4 in ids[0]) == (99 in ids[0])  # the copy is on the side of its original
    assert (train.split, val.split) == ("train", "val")
    again = divide(open_data(only), 0.75)
    assert [again[0].record(i).image_id for i in range(len(again[0]))] == ids[0]
    others = (divide(open_data(only), 0.75, seed)[0] for seed in range(1, 6))
    assert any([each.record(i).image_id for i in range(len(each))] != ids[0] for each in others)
    with pytest.raises(ValueError, match="has a val split already; leave out --split"):
        open_training(coco_folder, share=0.8)
    with pytest.raises(ValueError, match=r"0–1, such as 0.8; got 8"):
        open_training(only, share=8)


def test_heads_are_kept_until_a_file_changes(coco_folder: Path, tmp_path: Path) -> None:
    paths = []
    for number in range(100):  # enough for threads
        paths.append(str(tmp_path / f"{number}.png"))
        shutil.copy(coco_folder / "train" / "000.png", paths[-1])
    (tmp_path / "0.png").write_bytes(b"none")
    heads = read_heads([*paths, str(tmp_path / "gone.png")])
    assert {head.size for head in heads[1:-1]} == {(160, 160)}
    assert "is not an image" in heads[0].error
    assert "there is no image" in heads[-1].error
    started = time.perf_counter()
    assert read_heads(paths) == heads[:-1]
    assert time.perf_counter() - started < 1
    Image.new("RGB", (30, 20)).save(tmp_path / "1.png")
    shutil.copy(paths[2], paths[0])
    again = read_heads(paths)
    assert again[1].size == (30, 20)
    assert not again[0].error


def test_ends_of_files_tell_that_they_are_cut(coco_folder: Path, tmp_path: Path) -> None:
    image = Image.open(coco_folder / "train" / "000.png").convert("RGB")
    for ending in ("jpg", "png", "gif", "bmp", "webp", "tif", "ppm", "avif", "jp2"):
        whole = tmp_path / f"whole.{ending}"
        image.save(whole)
        cut = tmp_path / f"cut.{ending}"
        cut.write_bytes(whole.read_bytes()[: -whole.stat().st_size // 3])
        more = tmp_path / f"more.{ending}"
        more.write_bytes(whole.read_bytes() + bytes(100_000))  # cameras append to their files
        good, bad, also = read_heads([str(whole), str(cut), str(more)])
        assert (good.error, good.size[0], also.error) == ("", 160, ""), ending
        assert str(cut) in bad.error, ending


def test_a_summary_counts_what_training_sees(coco_folder: Path, tmp_path: Path) -> None:
    data = open_data(coco_folder)
    summary = summarise(data)
    assert summary.boxes == sum(len(data.record(i).boxes) for i in range(8))
    assert sum(summary.classes.values()) == summary.boxes
    assert summary.lines()[0].startswith(f"train: 8 images, {summary.empty} without boxes; ")
    assert len(summary.lines()) == 1
    assert summary.to_dict()["findings"] == []
    data.names = (*data.names, "unused")
    (line,) = summarise(data).lines()
    assert f"of {len(data.names) - 1} of {len(data.names)} classes: " in line
    assert "0× unused" not in line


def test_folds_are_a_partition_with_every_class_in_each() -> None:
    scenes = Subset(open_data("scenes:size=64,objects=4", "test"), range(30))
    parts = fold(scenes, 3)
    assert sorted(i for part in parts for i in part) == list(range(30))
    assert [len(part) for part in parts] == [10, 10, 10]
    labels = [np.concatenate([scenes.record(i).labels for i in part]) for part in parts]
    counts = np.stack([np.bincount(each, minlength=10) for each in labels])
    assert (counts.max(0) - counts.min(0)).max() <= 4
    assert fold(scenes, 3) == parts
    with pytest.raises(ValueError, match="at least 2 folds"):
        fold(scenes, 1)


def test_a_single_image_cannot_be_divided() -> None:
    one = Subset(open_data("scenes:count=4", "train"), [0])
    with pytest.raises(ValueError, match="has 1 image; a split needs two"):
        divide(one, 0.5)
