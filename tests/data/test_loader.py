"""Batches: every image once, like with like, padding marked, the same bits for any workers."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dabdetr.config import Augment, Config, Image, Training
from dabdetr.data.dataset import DetectionDataset, ImageRecord
from dabdetr.data.layouts import open_data
from dabdetr.data.loader import (
    pad,
    pad_to_multiple,
    plan_epoch,
    repeat_factors,
    training_examples,
    training_loader,
)
from dabdetr.geometry import to_corners


def config(batch: int = 3, workers: int = 0, augment: Augment | None = None) -> Config:
    return Config(
        image=Image(size=64, max_size=96),
        augment=augment,
        training=Training(batch=batch, workers=workers),
    )


LIVELY = Augment(flip=0.5, crop=0.5, sizes=(48, 64, 80), colour=0.5)


class Blank(DetectionDataset):
    """Grey images of the given (height, width)s; one object and one crowd in each."""

    name, split, names, category_ids = "blank", "train", ("thing",), (1,)

    def __init__(self, shapes: list[tuple[int, int]]) -> None:
        self.shapes = shapes

    def __len__(self) -> int:
        return len(self.shapes)

    def record(self, index: int) -> ImageRecord:
        height, width = self.shapes[index]
        boxes = np.float32([[0, 0, width / 2, height / 4], [0, 0, width, height]])
        return ImageRecord(
            image_id=index,
            file=f"blank/{index}",
            width=width,
            height=height,
            boxes=boxes,
            labels=np.zeros(2, np.int64),
            crowd=np.array([False, True]),
            areas=np.ones(2),
            annotated=boxes.astype(float),
        )

    def image(self, index: int) -> np.ndarray:
        return np.full((*self.shapes[index], 3), 128, np.uint8)


def equal(a: Any, b: Any) -> bool:
    """The same training batch, bit for bit."""
    (images, targets), (other_images, other_targets) = a, b
    paddings = (images.padding, other_images.padding)
    return (
        torch.equal(images.pixels, other_images.pixels)
        and (torch.equal(*paddings) if None not in paddings else paddings == (None, None))
        and torch.equal(targets.boxes, other_targets.boxes)
        and torch.equal(targets.labels, other_targets.labels)
        and (targets.counts, targets.names) == (other_targets.counts, other_targets.names)
    )


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=5))
def test_padding_lies_at_the_bottom_and_right(shapes: list[tuple[int, int]]) -> None:
    images = [torch.full((3, h, w), float(i + 1)) for i, (h, w) in enumerate(shapes)]
    batch = pad(images)
    if len(set(shapes)) == 1:
        assert batch.padding is None
    else:
        assert batch.padding is not None
        for row, (h, w) in enumerate(shapes):
            assert not batch.padding[row, :h, :w].any()
            assert (~batch.padding[row]).sum() == h * w
            assert (batch.pixels[row][:, batch.padding[row]] == 0).all()
    for row, (h, w) in enumerate(shapes):
        assert torch.equal(batch.pixels[row, :, :h, :w], images[row])


@pytest.mark.parametrize("shapes", [[(5, 7)], [(5, 7), (8, 3)], [(8, 12)]])
def test_more_padding_makes_the_sides_multiples(shapes: list[tuple[int, int]]) -> None:
    before = pad([torch.ones(3, h, w) for h, w in shapes])
    after = pad_to_multiple(before, 4)
    assert after.pixels.shape[2:] == tuple(-(-side // 4) * 4 for side in before.pixels.shape[2:])
    assert (after is before) == (shapes == [(8, 12)])
    assert pad_to_multiple(before, 1) is before
    for row, (h, w) in enumerate(shapes):
        assert torch.equal(after.pixels[row, :, :h, :w], torch.ones(3, h, w))
        assert after.pixels[row].sum() == 3 * h * w
        if after.padding is not None:
            assert (~after.padding[row]).nonzero().tolist() == [
                [y, x] for y in range(h) for x in range(w)
            ]


@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=150),
    st.integers(1, 7),
    st.integers(0, 1000),
    st.integers(0, 50),
)
def test_each_image_once_an_epoch(
    shapes: list[tuple[int, int]], batch: int, seed: int, epoch: int
) -> None:
    data = Blank(shapes)
    plan = plan_epoch(data, config(batch, augment=LIVELY), seed, epoch)
    assert sorted(job.index for jobs in plan for job in jobs) == list(range(len(shapes)))
    assert [len(jobs) for jobs in plan[:-1]] == [batch] * (len(plan) - 1)
    assert plan == plan_epoch(data, config(batch, augment=LIVELY), seed, epoch)
    assert all(len({job.side for job in jobs}) == 1 for jobs in plan)


def test_epochs_and_seeds_differ() -> None:
    data = Blank([(40, 50)] * 60)
    orders = {
        tuple(job.index for jobs in plan_epoch(data, config(), seed, epoch) for job in jobs)
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


class Rare(Blank):
    """Square images of a common class; every tenth has an object of a rare one as well."""

    names, category_ids = ("common", "rare"), (1, 2)

    def record(self, index: int) -> ImageRecord:
        record = super().record(index)
        if index % 10:
            return record
        return replace(record, labels=np.array([0, 1]), crowd=np.array([False, False]))


def test_repeat_factors_by_hand() -> None:
    """A tenth of the images has the rare class: √(0.4 / 0.1) = 2; the common one is everywhere."""
    factors = repeat_factors(Rare([(64, 64)] * 20), 0.4)
    assert factors.tolist() == [2.0 if index % 10 == 0 else 1.0 for index in range(20)]
    assert repeat_factors(Rare([(64, 64)] * 20), 0.05).tolist() == [1.0] * 20
    assert repeat_factors(Blank([(64, 64)] * 3), 1.0).tolist() == [1.0] * 3


def test_balanced_epochs_draw_rare_classes_more_often() -> None:
    data, plain = Rare([(64, 64)] * 40), config(4, augment=LIVELY)
    balanced = plain.override(["training.balance=0.9"])  # factor 3: 120 / 480 of 40 for 4 of them
    drawn: Counter[int] = Counter()
    for epoch in range(60):
        jobs = [job for batch in plan_epoch(data, balanced, 1, epoch) for job in batch]
        assert len(jobs) == 40
        drawn.update(job.index for job in jobs)
        again = [job for job in jobs if job.copy]
        firsts = {job.index: job.crop for job in jobs if not job.copy}
        assert {job.index for job in again} <= set(firsts)
        assert any(job.crop != firsts[job.index] for job in again)
    rare = sum(drawn[index] for index in range(0, 40, 10)) / sum(drawn.values())
    assert rare == pytest.approx(12 / 48, abs=0.003)
    assert len(drawn) == 40  # nobody is never seen
    everyone = training_examples(data, balanced, 0, range(40))
    assert len(list(everyone)) == 40
    evenly = balanced.override(["training.balance=0.1"])  # no class is rarer
    seen = [job.index for batch in plan_epoch(data, evenly, 1, 0) for job in batch]
    assert sorted(seen) == list(range(40))


def test_class_weights_go_with_the_objects() -> None:
    data, plain = Rare([(64, 64)] * 20), config(20)
    weighted = plain.override(["loss.class_weights={rare: 3}"])
    ((_, targets),) = training_loader(data, weighted, 0, 0)
    assert targets.weights is not None
    assert targets.weights.tolist() == [3.0 if label else 1.0 for label in targets.labels.tolist()]
    assert 3.0 in targets.weights.tolist()
    ((_, targets),) = training_loader(data, plain, 0, 0)
    assert targets.weights is None
    unknown = plain.override(["loss.class_weights={Rare: 3}"])
    with pytest.raises(ValueError, match="no class 'Rare'; the data's classes are common, rare"):
        training_loader(data, unknown, 0, 0)


def half(image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> Any:
    """The left half of an image, darkened at random."""
    image[:] = rng.integers(0, 100)
    return image[:, : image.shape[1] // 2], boxes + np.array([8, 0, 8, 0]), labels


def test_an_own_transform_comes_first_and_repeats_itself() -> None:
    data = Blank([(64, 96), (64, 64)])
    plain = config(1)
    runs = [
        list(training_loader(data, own, 3, epoch, transform=half))
        for own in (plain, plain, plain.override(["training.workers=1"]))
        for epoch in (0, 1)
    ]
    assert all(equal(a, b) for a, b in zip(runs[0], runs[2], strict=True))
    assert all(equal(a, b) for a, b in zip(runs[0], runs[4], strict=True))
    assert not torch.equal(runs[0][0][0].pixels, runs[1][0][0].pixels)
    wide = next(b for batches in runs[0:1] for b in batches if b[1].names == ("blank/0",))
    # 48 wide, the box from 8 to 56 is clipped
    torch.testing.assert_close(wide[1].boxes, torch.tensor([[28 / 48, 1 / 8, 40 / 48, 1 / 4]]))
    assert (data.image(0) == 128).all()


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (lambda i, b, n: i, "got ndarray"),
        (lambda i, b, n: (i / 255, b, n), r"uint8 \[height, width, 3\]; got float64"),
        (lambda i, b, n: (i[..., 0], b, n), r"got uint8 \[64, 64\]"),
        (lambda i, b, n: (i, b[:, :3], n), r"\[objects, 4\]; got float32 \[1, 3\]"),
        (lambda i, b, n: (i, b * np.nan, n), "finite numbers"),
        (lambda i, b, n: (i, b, n + 1), r"one of 0 … 0 for each of 1 boxes; got \[1\]"),
        (lambda i, b, n: (i, b, n[:0]), "for each of 1 boxes"),
    ],
)
def test_what_a_transform_should_not_return_is_told(result: Any, told: str) -> None:
    loader = training_loader(
        Blank([(64, 64)]), config(1), 0, 0, transform=lambda i, b, n, rng: result(i, b, n)
    )
    with pytest.raises(ValueError, match=rf"blank/0: the transform should return .*{told}"):
        list(loader)


def test_a_transform_may_leave_nothing() -> None:
    def gone(image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, rng: Any) -> Any:
        return image, boxes + 1000, labels

    for transform in (gone, lambda image, boxes, labels, rng: (image, [], [])):
        ((_, targets),) = training_loader(Blank([(64, 64)]), config(1), 0, 0, transform=transform)
        assert targets.counts == (0,)
        assert targets.boxes.shape == (0, 4)


def test_batch_mates_are_alike_and_batches_mixed() -> None:
    rng = np.random.default_rng(0)
    shapes = [tuple(rng.integers(40, 160, 2).tolist()) for _ in range(400)]
    plan = plan_epoch(Blank(shapes), config(4), 0, 0)
    ratios = [[shapes[job.index][0] / shapes[job.index][1] for job in jobs] for jobs in plan]
    spread = np.mean([max(batch) / min(batch) for batch in ratios])
    assert spread < 1.15  # in random batches of these it is about 3
    middles = [np.mean(batch) for batch in ratios]
    assert abs(np.corrcoef(middles[:-1], middles[1:])[0, 1]) < 0.3


def test_targets_are_relative_to_the_unpadded_image_and_hold_no_crowd() -> None:
    data = Blank([(64, 96), (64, 64), (96, 64)])
    (images, targets), *rest = training_loader(data, config(), 0, 0)
    assert not rest
    assert images.pixels.shape == (3, 3, 96, 96)
    assert targets.counts == (1, 1, 1)
    assert sorted(targets.names) == ["blank/0", "blank/1", "blank/2"]
    wanted = torch.tensor([[0.25, 0.125, 0.5, 0.25]]).expand(3, 4)
    torch.testing.assert_close(targets.boxes, wanted)
    assert targets.labels.dtype == torch.int64


def test_boxes_fit_the_pixels_of_the_batch() -> None:
    """On scenes, what is inside a box differs from the image shown without its digits."""
    data = open_data("scenes:count=40", "val")
    for images, targets in training_loader(data, config(4, augment=LIVELY), 0, 0):
        start = 0
        for row, count in enumerate(targets.counts):
            padding = None if images.padding is None else images.padding[row]
            height = images.pixels.shape[2] if padding is None else int((~padding[:, 0]).sum())
            width = images.pixels.shape[3] if padding is None else int((~padding[0]).sum())
            boxes = to_corners(targets.boxes[start : start + count])
            start += count
            assert (boxes >= -1e-6).all()
            assert (boxes <= 1 + 1e-6).all()
            for x0, y0, x1, y1 in (boxes * torch.tensor([width, height, width, height])).tolist():
                patch = images.pixels[row, :, int(y0) : int(y1) + 1, int(x0) : int(x1) + 1]
                assert patch.std(dim=(1, 2)).max() > 0.1, (targets.names[row], x0, y0, x1, y1)
        assert start == len(targets.boxes) == len(targets.labels)


def test_workers_change_no_bit() -> None:
    data = open_data("scenes:count=20", "train")
    alone = list(training_loader(data, config(3, 0, LIVELY), 7, 2))
    helped = list(training_loader(data, config(3, 2, LIVELY), 7, 2))
    assert len(alone) == len(helped) == 7
    assert all(equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_an_epoch_repeats_itself() -> None:
    data = open_data("scenes:count=20", "train")
    loader = training_loader(data, config(3, 0, LIVELY), 7, 2)
    whole = list(loader)
    assert len(loader) == 7
    assert all(equal(a, b) for a, b in zip(whole, loader, strict=True))


def test_endless_data_are_new_in_each_epoch() -> None:
    data = open_data("scenes:count=6", "train")
    seen = [
        name
        for epoch in range(3)
        for _, targets in training_loader(data, config(), 0, epoch)
        for name in targets.names
    ]
    assert sorted(seen) == [data.record(i).file for i in range(18)]


def test_the_callers_random_state_is_left_alone() -> None:
    data = open_data("scenes:count=4", "val")
    before = torch.get_rng_state()
    list(training_loader(data, config(augment=LIVELY), 0, 0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_in_one_sentence(
    coco_folder: Path, tmp_path: Path, workers: int
) -> None:
    shutil.copytree(coco_folder, tmp_path / "data")
    broken = tmp_path / "data" / "train" / "003.png"
    data = open_data(tmp_path / "data", "train")
    broken.write_bytes(broken.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"003\.png is damaged or cut short") as caught:
        list(training_loader(data, config(workers=workers), 0, 0))
    assert "\n" not in str(caught.value)


def test_images_that_have_a_hand_are_never_mirrored() -> None:
    """A half-black image would show a flip; digits read backwards are no digits."""

    class Handed(Blank):
        mirrors = False

        def image(self, index: int) -> np.ndarray:
            image = np.zeros((64, 64, 3), np.uint8)
            image[:, 32:] = 255
            return image

    class Handless(Handed):
        mirrors = True

    flips = Augment(flip=1.0, crop=0.0)
    for kind, bright_left in ((Handed, False), (Handless, True)):
        ((images, _),) = training_loader(kind([(64, 64)]), config(1, augment=flips), 0, 0)
        assert (images.pixels[..., :32].mean() > images.pixels[..., 32:].mean()) == bright_left
    assert not open_data("scenes", "train").mirrors
