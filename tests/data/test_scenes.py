"""Scenes are the same everywhere, hold what they say, and never show a training digit in val."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dabdetr.data import scenes as module
from dabdetr.data.layouts import open_data, splits
from dabdetr.data.scenes import SPLITS, Scenes

FINGERPRINT = """
import hashlib
from dabdetr.data.scenes import Scenes
data = Scenes("val", seed=5)
print(hashlib.sha256(b"".join(data.image(i).tobytes() for i in range(5))).hexdigest())
"""


def test_the_same_bits_in_another_process_and_order() -> None:
    data = Scenes("val", seed=5)
    backwards = [data.image(i).tobytes() for i in reversed(range(5))][::-1]
    printed = subprocess.run(
        [sys.executable, "-c", FINGERPRINT], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert printed == hashlib.sha256(b"".join(backwards)).hexdigest()


def test_seed_split_and_index_all_matter() -> None:
    images = [
        Scenes(split, seed=seed).image(index).tobytes()
        for split in SPLITS
        for seed in (0, 1)
        for index in (0, 1)
    ]
    assert len(set(images)) == len(images)
    assert len({image[: 160 * 3] for image in images}) == len(images)  # grounds differ too


def test_digits_of_the_splits_are_disjoint() -> None:
    _, digits, rows = module._digits()
    used = np.concatenate([rows[split] for split in SPLITS])
    assert sorted(used) == list(range(len(digits)))
    drawn = {split: set() for split in SPLITS}
    rng = np.random.default_rng(0)
    for split in SPLITS:
        for _ in range(500):
            row, label = module._random_glyph(rng, split)
            assert label == digits[row]
            drawn[split].add(row)
        assert drawn[split] <= set(rows[split].tolist())
    assert not drawn["train"] & (drawn["val"] | drawn["test"])
    assert not drawn["val"] & drawn["test"]


@given(st.integers(0, 10**6), st.sampled_from([64, 96, 160]), st.integers(1, 12))
@settings(max_examples=60)
def test_records_are_sound(index: int, size: int, objects: int) -> None:
    data = Scenes("train", size=size, objects=objects)
    record, image = data.record(index), data.image(index)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    assert len(record.labels) <= objects
    assert (record.boxes >= 0).all()
    assert (record.boxes <= size).all()
    assert (record.boxes[:, 2:] - record.boxes[:, :2] >= 2).all()
    assert set(record.labels.tolist()) <= set(range(10))


def test_boxes_are_tight_around_the_ink(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same scene on an even ground, in one loud colour: the ink is where the boxes say."""
    loud = np.float32([255, 0, 255])

    def even(rng: np.random.Generator, size: int) -> tuple[np.ndarray, float]:
        return np.zeros((size, size, 3), np.float32), 0.0

    monkeypatch.setattr(module, "_ground", even)
    monkeypatch.setattr(module, "_colour", lambda rng, ground: loud)
    data, seen = Scenes("train", objects=1), 0
    for index in range(60):
        record = data.record(index)
        ink = data.image(index)[:, :, 0] >= module._INK
        if not len(record.boxes):
            assert not ink.any()
            continue
        rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
        tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_array_equal(record.boxes[0], tight)
        seen += 1
    assert seen > 40


def test_the_mix_is_as_described() -> None:
    data = Scenes("train")
    records = [data.record(i) for i in range(600)]
    counts = np.array([len(record.labels) for record in records])
    boxes = np.concatenate([record.boxes for record in records])
    labels = np.concatenate([record.labels for record in records])
    assert 0.02 < (counts == 0).mean() < 0.09
    assert counts.max() == 10
    assert set(labels.tolist()) == set(range(10))
    tall = boxes[:, 3] - boxes[:, 1]
    assert tall.min() < 20
    assert tall.max() > 60


def test_digits_stand_out_and_do_not_hide_one_another() -> None:
    data = Scenes("val")
    for index in range(len(data)):
        boxes = data.record(index).boxes
        low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        shared = (high - low).clip(0).prod(-1)
        np.fill_diagonal(shared, 0)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        assert (shared <= 0.4 * areas[:, None]).all()
    rng = np.random.default_rng(0)
    for ground in (30, 128, 220):
        ink = np.array([module._colour(rng, ground) @ module._LUMA for _ in range(200)])
        assert (np.abs(ink - ground) > 50).all()
    middling = np.array([module._colour(rng, 128) @ module._LUMA for _ in range(200)])
    assert (middling < 128).any()
    assert (middling > 128).any()


def test_by_name() -> None:
    data = open_data("scenes:size=96,objects=6,count=50,seed=3", "val")
    assert len(data) == 50
    assert data.shape(0) == (96, 96)
    np.testing.assert_array_equal(
        data.image(7), Scenes("val", size=96, objects=6, count=50, seed=3).image(7)
    )
    assert splits("scenes") == ["train", "val", "test"]
    assert data.names == tuple("0123456789")
    assert data.category_ids == tuple(range(1, 11))


def test_training_is_endless_and_the_rest_is_not() -> None:
    train, val = open_data("scenes", "train"), open_data("scenes", "val")
    assert (train.endless, val.endless, len(val)) == (True, False, 200)
    assert train.image(10**9).shape == (160, 160, 3)
    with pytest.raises(IndexError):
        val.image(200)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("scenes:colour=3", "val", "'colour=3' is not understood"),
        ("scenes:size=big", "val", "'size=big' is not understood"),
        ("scenes:size=8", "val", "size must be at least 32; got 8"),
        ("scenes:count=0", "val", "count must be at least 1"),
        ("scenes", "dev", "no split 'dev'; they have: train, val, test"),
    ],
)
def test_options_that_make_no_sense(name: str, split: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_data(name, split)
