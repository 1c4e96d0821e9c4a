"""Duplicate removal: by hand, that groups stay out of it, and that its numbers are learned."""

from __future__ import annotations

import math

import pytest
import torch

from dabdetr.model.detector import build
from dabdetr.model.duplicates import IOU, SHARPNESS, STRENGTH, DuplicateRemoval
from dabdetr.presets import derive, preset
from dabdetr.structures import Images, Targets

BOXES = torch.tensor(
    [[[0.5, 0.5, 0.2, 0.2], [0.5, 0.52, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]]]
)
LOGITS = torch.tensor([[[2.0, -1.0], [1.0, 0.0], [-3.0, 1.5], [0.5, 0.1]]])


def lost(overlap: float) -> float:
    return STRENGTH / (1 + math.exp(-SHARPNESS * (overlap - IOU)))


def test_by_hand() -> None:
    # the first is the best; the second loses by its overlap with it (18 of 22 parts), the third
    # lies on the first, and that its best class is another one does not matter; the last is alone
    expected = LOGITS - torch.tensor([0.0, lost(0.18 / 0.22), lost(1.0), 0.0])[None, :, None]
    torch.testing.assert_close(DuplicateRemoval(1)(LOGITS, BOXES, 0, 0), expected)


def test_groups_take_nothing_and_lose_nothing() -> None:
    found = DuplicateRemoval(1)(LOGITS, BOXES, 1, 0)  # the first query is a group's
    assert torch.equal(found[0, 0], LOGITS[0, 0])
    torch.testing.assert_close(found[0, 2], LOGITS[0, 2])  # 1.5 is now the best of the twins
    torch.testing.assert_close(found[0, 1], LOGITS[0, 1] - lost(0.18 / 0.22))


def test_equal_scores_keep_both() -> None:
    twins = torch.zeros(1, 2, 1)
    assert torch.equal(DuplicateRemoval(1)(twins, BOXES[:, [0, 2]], 0, 0), twins)


def test_its_numbers_are_learned() -> None:
    module = DuplicateRemoval(2)
    module(LOGITS, BOXES, 0, 1).sum().backward()
    assert module.curve.grad is not None
    assert (module.curve.grad[0] == 0).all()
    assert (module.curve.grad[1] != 0).all()


@pytest.mark.parametrize("name", ["dino-nano", "dn-detr-nano"])
def test_matching_queries_are_as_without_groups(name: str) -> None:
    torch.manual_seed(0)
    config = derive(preset(name), "once", model__decoder__duplicate_removal=True)
    detector = build(config, ["a", "b"]).eval()
    images = Images(torch.randn(2, 3, 64, 64))
    targets = Targets(torch.tensor([0, 1]), torch.rand(2, 4) * 0.3 + 0.3, (1, 1))
    alone, beside = detector(images), detector(images, targets)
    torch.testing.assert_close(beside.logits, alone.logits, atol=1e-4, rtol=1e-4)
    detector.decoder.duplicates = None
    without = detector(images)
    torch.testing.assert_close(without.boxes, alone.boxes)
    assert (alone.logits <= without.logits + 1e-6).all()
    if name == "dn-detr-nano":  # proposals of random weights do not overlap
        assert (alone.logits < without.logits - 1e-3).any()
