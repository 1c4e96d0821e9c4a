"""Losses: recorded values, one layer at a time, empty batches, and groups with known pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from dabdetr.config import Loss
from dabdetr.geometry import to_corners
from dabdetr.structures import Predictions, Targets
from dabdetr.training.losses import TERMS, count_objects, detection_loss, group_losses
from dabdetr.training.matching import Assignment, assign


def case(counts: tuple[int, ...], layers: int = 2, classes: int = 4) -> tuple[Predictions, Targets]:
    generator = torch.Generator().manual_seed(sum(counts) + layers)
    shape = (layers, len(counts), 9)
    logits = torch.randn(*shape, classes, generator=generator).requires_grad_()
    boxes = (torch.rand(*shape, 4, generator=generator) * 0.5 + 0.1).requires_grad_()
    objects = sum(counts)
    targets = Targets(
        labels=torch.randint(0, classes, (objects,), generator=generator),
        boxes=torch.rand(objects, 4, generator=generator) * 0.5 + 0.1,
        counts=counts,
    )
    return Predictions(logits=logits, boxes=boxes, anchors=boxes.detach()), targets


def test_golden_values() -> None:
    logits = torch.tensor([[2, -1, 0], [-3, 1, 0.5], [0, 0, -2]])[None, None]
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.4, 0.4]])
    targets = Targets(
        labels=torch.tensor([1, 0]),
        boxes=torch.tensor([[0.32, 0.42, 0.2, 0.3], [0.52, 0.5, 0.25, 0.2]]),
        counts=(2,),
    )
    predictions = Predictions(logits=logits, boxes=boxes[None, None], anchors=boxes[None, None])
    total, table = detection_loss(predictions, targets, Loss())
    values = [table[name, 0].item() for name in TERMS]
    assert values == pytest.approx([0.3487488, 0.055, 0.2436258], abs=2e-7)
    assert total.item() == pytest.approx(values[0] + 5 * values[1] + 2 * values[2], rel=1e-6)


def focal(logit: Tensor, positive: bool) -> Tensor:
    p = logit.sigmoid()
    return -0.25 * (1 - p) ** 2 * p.log() if positive else -0.75 * p**2 * (1 - p).log()


def test_equals_plain_loops() -> None:
    predictions, targets = case((3, 0, 2), layers=3)
    loss = Loss(class_weight=2)
    pairs = assign(predictions, targets, loss)
    total, table = detection_loss(predictions, targets, loss)
    expected = 0.0
    for layer in range(3):
        mine = pairs.layer == layer
        owner = {
            (b, q): t
            for b, q, t in zip(
                pairs.image[mine].tolist(), pairs.query[mine].tolist(), pairs.target[mine].tolist(),
                strict=True,
            )
        }  # fmt: skip
        assert len(owner) == 5
        ce = torch.zeros(())
        for b in range(3):
            for q in range(9):
                label = int(targets.labels[owner[b, q]]) if (b, q) in owner else -1
                for c in range(4):
                    ce = ce + focal(predictions.logits[layer, b, q, c], c == label) / 5
        found = torch.stack([predictions.boxes[layer, b, q] for b, q in owner])
        wanted = torch.stack([targets.boxes[t] for t in owner.values()])
        l1 = (found - wanted).abs().sum() / 5
        giou = generalized_box_iou_loss(to_corners(found), to_corners(wanted)).sum() / 5
        for name, value in zip(TERMS, (ce, l1, giou), strict=True):
            assert table[name, layer].item() == pytest.approx(value.item(), rel=1e-4)
        expected += 2 * ce.item() + 5 * l1.item() + 2 * giou.item()
    assert total.item() == pytest.approx(expected, rel=1e-4)


def test_layers_are_independent() -> None:
    predictions, targets = case((3, 1), layers=3)
    _, table = detection_loss(predictions, targets, Loss())
    middle = Predictions(
        predictions.logits[1:2], predictions.boxes[1:2], predictions.anchors[1:2]
    )  # fmt: skip
    _, alone = detection_loss(middle, targets, Loss())
    for name in TERMS:
        assert table[name, 1].item() == pytest.approx(alone[name, 0].item(), rel=1e-6)


@pytest.mark.parametrize("counts", [(0,), (0, 0)])
def test_no_objects(counts: tuple[int, ...]) -> None:
    predictions, targets = case(counts)
    total, table = detection_loss(predictions, targets, Loss())
    total.backward()
    assert table["loss_bbox", 0] == 0
    assert table["loss_giou", 1] == 0
    assert predictions.logits.grad is not None
    assert (predictions.logits.grad > 0).all()  # every query is told to stay silent
    assert predictions.boxes.grad is not None
    assert (predictions.boxes.grad == 0).all()


def test_only_matched_boxes_are_moved() -> None:
    predictions, targets = case((2, 3))
    pairs = assign(predictions, targets, Loss())
    total, _ = detection_loss(predictions, targets, Loss())
    total.backward()
    assert predictions.boxes.grad is not None
    moved = predictions.boxes.grad.abs().sum(-1) > 0
    expected = torch.zeros_like(moved)
    expected[pairs.layer, pairs.image, pairs.query] = True
    assert torch.equal(moved, expected)


def test_known_assignment_needs_no_matching() -> None:
    """Several queries may answer for one object, as in denoising groups."""
    predictions, targets = case((2,), layers=1)
    zero = torch.zeros(4, dtype=torch.long)
    pairs = Assignment(zero, zero, torch.arange(4), torch.tensor([0, 1, 0, 1]))
    terms = group_losses(predictions, targets, pairs, Loss(), objects=4.0)
    wanted = targets.boxes[torch.tensor([0, 1, 0, 1])]
    l1 = (predictions.boxes[0, 0, :4] - wanted).abs().sum() / 4
    assert terms["loss_bbox"].item() == pytest.approx(l1.item(), rel=1e-6)
    total, _ = detection_loss(predictions, targets, Loss(), pairs, torch.tensor(4.0))
    weighted = terms["loss_ce"] + 5 * terms["loss_bbox"] + 2 * terms["loss_giou"]
    assert total.item() == pytest.approx(weighted.item(), rel=1e-6)


def test_float32_under_autocast() -> None:
    predictions, targets = case((2, 1))
    half = Predictions(
        predictions.logits.bfloat16(), predictions.boxes.bfloat16(), predictions.anchors
    )
    with torch.autocast("cpu", torch.bfloat16):
        total, table = detection_loss(half, targets, Loss())
    assert total.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in table.values())


def test_divided_by_objects_but_not_by_nothing() -> None:
    cpu = torch.device("cpu")
    assert count_objects(2.5, cpu).item() == 2.5
    assert count_objects(0, cpu).item() == 1
    predictions, targets = case((2, 1))
    given, _ = detection_loss(predictions, targets, Loss(), objects=torch.tensor(3.0))
    assert detection_loss(predictions, targets, Loss())[0] == given


def test_softmax_classes_are_torchs_weighted_cross_entropy_of_each_layer() -> None:
    torch.manual_seed(0)
    logits, boxes = torch.randn(2, 1, 4, 3), torch.rand(2, 1, 4, 4) * 0.2 + 0.4
    predictions = Predictions(logits=logits, boxes=boxes, anchors=(None, None))
    targets = Targets(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]), (1,))
    loss = Loss(classification="softmax", class_cost=1.0, no_object_weight=0.1)
    found = assign(predictions, targets, loss)
    _, table = detection_loss(predictions, targets, loss)
    for layer in (0, 1):
        query = int(found.query[found.layer == layer])
        truth = torch.full((4,), 2)
        truth[query] = 1
        weight = torch.tensor([1.0, 1.0, 0.1])
        expected = torch.nn.functional.cross_entropy(logits[layer, 0], truth, weight)
        assert table["loss_ce", layer].item() == pytest.approx(expected.item(), rel=1e-5)


def test_softmax_matching_prefers_the_probable_query() -> None:
    logits = torch.tensor([[[[0.0, 0.0, 5.0], [0.0, 4.0, 0.0]]]])
    boxes = torch.full((1, 1, 2, 4), 0.5)
    predictions = Predictions(logits=logits, boxes=boxes, anchors=(None,))
    targets = Targets(torch.tensor([1]), torch.full((1, 4), 0.5), (1,))
    assert assign(predictions, targets, Loss(classification="softmax")).query.tolist() == [1]


def one_pair(
    logits: Tensor, loss: Loss, known: Tensor | None = None, weight: float | None = None
) -> Tensor:
    """The class term of one image with two queries, the first of which has the only object."""
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]])
    weights = None if weight is None else torch.tensor([weight])
    box = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    targets = Targets(torch.tensor([1]), box, (1,), known=known, weights=weights)
    predictions = Predictions(logits[None, None], boxes[None, None], (None,))
    pairs = Assignment(*(torch.tensor([value]) for value in (0, 0, 0, 0)))
    return group_losses(predictions, targets, pairs, loss, 1.0)["loss_ce"][0]


def test_mal_by_hand() -> None:
    # IoU is 0.5, so the score to reach is 0.5 ** 1.5; everything else is weighted by p ** 1.5
    p = torch.tensor([[0.3, 0.6], [0.1, 0.2]])
    target = 0.5**1.5
    positive = -(target * p[0, 1].log() + (1 - target) * (1 - p[0, 1]).log())
    others = p[[0, 1, 1], [0, 0, 1]]
    expected = positive + (others**1.5 * -(1 - others).log()).sum()
    found = one_pair(p.logit(), Loss(classification="mal", gamma=1.5, iou_eps=0.0))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("classification", ["focal", "quality", "mal"])
def test_classes_that_an_image_is_not_labelled_for_are_no_mistake(classification: str) -> None:
    loss = Loss(classification=classification)
    logits = torch.tensor([[0.3, 0.6], [0.1, 0.2]], requires_grad=True)
    known = torch.tensor([[False, True]])
    one_pair(logits, loss, known).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 0] == 0).all()
    assert (logits.grad[:, 1] != 0).all()
    # an object of a class that is not wholly labelled still teaches where it lies
    logits.grad = None
    one_pair(logits, loss, ~known).backward()
    assert logits.grad[0, 1] != 0
    assert logits.grad[1, 1] == 0
    assert torch.equal(one_pair(logits, loss, torch.tensor([[True, True]])), one_pair(logits, loss))


def test_softmax_leaves_unlabelled_classes_out() -> None:
    loss = Loss(classification="softmax")
    logits = torch.tensor([[0.3, 0.6, 0.2], [2.1, 0.2, 0.3]])
    found = one_pair(logits, loss, torch.tensor([[False, True]]))
    assert found == pytest.approx(
        float(
            (
                -logits[0, 1:].log_softmax(0)[0]
                - loss.no_object_weight * logits[1, 1:].log_softmax(0)[1]
            )
            / (1 + loss.no_object_weight)
        )
    )


def test_class_weights_multiply_the_objects_own_term() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 0.0]])
    nothing = focal(logits[[0, 1, 1], [0, 0, 1]], positive=False).sum()
    expected = 3 * focal(logits[0, 1], positive=True) + nothing
    torch.testing.assert_close(one_pair(logits, Loss(), weight=3.0), expected)
    for classification in ("focal", "quality", "mal"):
        loss = Loss(classification=classification)
        thrice, once, none = (one_pair(logits, loss, weight=w) for w in (3.0, 1.0, 0.0))
        assert torch.equal(once, one_pair(logits, loss))
        torch.testing.assert_close(thrice - none, 3 * (once - none))


def test_class_weights_of_softmax_are_torchs() -> None:
    logits = torch.tensor([[0.3, 0.6, 0.2], [2.1, 0.2, 0.3]])
    found = one_pair(logits, Loss(classification="softmax"), weight=3.0)
    expected = torch.nn.functional.cross_entropy(
        logits, torch.tensor([1, 2]), torch.tensor([1.0, 3.0, 0.1])
    )
    torch.testing.assert_close(found, expected)


def test_class_weights_do_not_move_boxes_or_pairs() -> None:
    predictions, targets = case((3, 0, 2), layers=3)
    heavy = replace(targets, weights=torch.tensor([5.0, 1.0, 1.0, 0.0, 1.0]))
    pairs, weighted = assign(predictions, targets, Loss()), assign(predictions, heavy, Loss())
    assert torch.equal(pairs.query, weighted.query)
    table, of_heavy = (detection_loss(predictions, t, Loss())[1] for t in (targets, heavy))
    assert table["loss_giou", 2] == of_heavy["loss_giou", 2]
    assert table["loss_ce", 2] != of_heavy["loss_ce", 2]
