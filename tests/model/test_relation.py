"""Relation of boxes: the numbers by hand, what masks hide, and what a decoder does with it."""

from __future__ import annotations

import math

import pytest
import torch

from dabdetr.model.detector import build
from dabdetr.model.positions import sine_code
from dabdetr.model.relation import FEATURES, SCALE, BoxRelation, log_offsets, log_sides
from dabdetr.presets import derive, preset
from dabdetr.structures import Images, Targets


def test_offsets_and_sides_by_hand() -> None:
    rows = torch.tensor([[[0.5, 0.5, 0.2, 0.1]]])
    columns = torch.tensor([[[0.5, 0.5, 0.2, 0.1], [0.9, 0.4, 0.1, 0.2]]])
    expected = [[0.0, 0.0], [math.log(0.4 / 0.2 + 1), math.log(0.1 / 0.1 + 1)]]
    torch.testing.assert_close(log_offsets(rows, columns)[0, 0], torch.tensor(expected))
    torch.testing.assert_close(log_sides(rows)[0, 0], torch.tensor([0.2, 0.1]).log())


def test_bias_is_of_the_sine_code() -> None:
    module, rows, columns = BoxRelation(2), torch.rand(2, 5, 4), torch.rand(2, 5, 4)
    ratios = (rows[:, :, None, 2:] / columns[:, None, :, 2:]).log()
    numbers = torch.cat((log_offsets(rows, columns), ratios), dim=-1)  # [b, q, k, 4]
    code = sine_code(SCALE * numbers, FEATURES, 10000.0).flatten(-2)
    expected, found = (
        module.project(code).relu().permute(0, 3, 1, 2),
        module(rows, columns, None, 0),
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    gradients = [
        torch.autograd.grad(bias.sum(), [*module.parameters()]) for bias in (found, expected)
    ]
    torch.testing.assert_close(*gradients, atol=1e-2, rtol=1e-4)


def test_boxes_without_extent_give_numbers() -> None:
    boxes = torch.zeros(1, 3, 4)
    assert BoxRelation(2)(boxes, boxes, None, 0).isfinite().all()


def test_groups_have_no_relation_and_stay_hidden() -> None:
    module, boxes = BoxRelation(2), torch.rand(1, 5, 4)
    torch.nn.init.constant_(module.project.bias, 9.0)  # above what relu cuts
    hidden = torch.zeros(5, 5, dtype=torch.bool)
    hidden[2:, :2] = True  # two queries of a group stand first; matching ones do not see them
    hidden[0, 1] = True
    bias = module(boxes, boxes, hidden, 2)
    assert bias.shape == (1, 2, 5, 5)
    assert (bias[..., hidden] == -torch.inf).all()
    assert (bias[..., :2, 2:] == 0).all()
    assert (bias[..., 2:, 2:] > 0).all()
    torch.testing.assert_close(bias[..., 2:, 2:], module(boxes, boxes, None, 0)[..., 2:, 2:])


@pytest.mark.parametrize("name", ["dino-nano", "dn-detr-nano"])
def test_matching_queries_are_as_without_groups(name: str) -> None:
    torch.manual_seed(0)
    detector = build(derive(preset(name), "related", model__decoder__relation=True), ["a", "b"])
    relation = detector.decoder.relation
    assert relation is not None
    torch.nn.init.normal_(relation.project.weight)
    images = Images(torch.randn(2, 3, 64, 64))
    targets = Targets(torch.tensor([0, 1]), torch.rand(2, 4) * 0.3 + 0.3, (1, 1))
    alone = detector.eval()(images)
    beside = detector(images, targets)
    assert beside.groups
    torch.testing.assert_close(beside.boxes, alone.boxes, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(beside.logits, alone.logits, atol=1e-4, rtol=1e-4)
    torch.nn.init.zeros_(relation.project.weight)
    torch.nn.init.zeros_(relation.project.bias)
    without = detector(images)
    assert not torch.allclose(without.logits, alone.logits, atol=1e-4)  # the bias did something
    detector.decoder.relation = None
    torch.testing.assert_close(detector(images).logits, without.logits, atol=1e-5, rtol=1e-4)


def test_switched_off_it_is_the_member_without() -> None:
    torch.manual_seed(0)
    plain = build(preset("dino-nano"), ["a"])
    torch.manual_seed(0)
    off = build(derive(preset("dino-nano"), "off", model__decoder__relation=False), ["a"])
    assert plain.state_dict().keys() == off.state_dict().keys()
    assert all(torch.equal(v, off.state_dict()[k]) for k, v in plain.state_dict().items())
