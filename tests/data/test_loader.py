"""Batches: every image once, like with like, padding marked, the same bits for any workers."""

from __future__ import annotations

import shutil
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
from dabdetr.data.loader import pad, pad_to_multiple, plan_epoch, training_loader
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
