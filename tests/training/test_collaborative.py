"""Losses of collaborative heads and of their queries: values by hand, weights, normalisation."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dabdetr.config import Loss
from dabdetr.model.detector import build
from dabdetr.presets import derive, preset
from dabdetr.structures import HeadSamples, Images, Predictions, QueryGroup, Targets
from dabdetr.training.head_losses import head_terms
from dabdetr.training.history import COLUMNS, Row, write_record
from dabdetr.training.losses import TERMS, detection_loss
from dabdetr.training.module import Meter

LOSS = Loss()


def _samples(name: str) -> HeadSamples:
    """Five samples of two classes, two of them objects; one box is shifted by half its width."""
    torch.manual_seed(3)
    columns = {"rpn": 1, "rcnn": 3, "atss": 2}[name]
    labels = [0, 1, 1, 0, 1] if name == "rpn" else [1, 2, 2, 0, 2]
    found = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10]]).requires_grad_()
    wanted = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    atss = (torch.tensor([0.3, -1.0]).requires_grad_(), torch.tensor([1.0, 0.25]))
    return HeadSamples(
        name,
        torch.randn(5, columns).requires_grad_(),
        torch.tensor(labels),
        found,
        wanted,
        *(atss if name == "atss" else (None, None)),
    )


def test_proposals_by_hand() -> None:
    samples = _samples("rpn")
    terms = head_terms(samples, LOSS)
    p = samples.logits[:, 0].sigmoid()
    sure = torch.stack((p[0], 1 - p[1], 1 - p[2], p[3], 1 - p[4]))
    assert terms["loss_ce"].item() == pytest.approx(-sure.log().mean().item())
    assert terms["loss_bbox"].item() == pytest.approx(10 / 5)


def test_regions_by_hand() -> None:
    samples = _samples("rcnn")
    terms = head_terms(samples, LOSS)
    expected = F.cross_entropy(samples.logits, samples.labels)
    assert terms["loss_ce"].item() == pytest.approx(expected.item())
    # IoU 50 / 150; the hull is the union.
    assert terms["loss_giou"].item() == pytest.approx((1 - 1 / 3) / 5)


def test_atss_by_hand() -> None:
    samples = _samples("atss")
    terms = head_terms(samples, LOSS)
    p, truth = samples.logits.sigmoid(), torch.zeros(5, 2)
    truth[0, 1] = truth[3, 0] = 1
    found = -0.25 * (1 - p) ** 2 * p.log() * truth
    silent = -0.75 * p**2 * (1 - p).log() * (1 - truth)
    assert terms["loss_ce"].item() == pytest.approx((found + silent).sum().item() / 2, rel=1e-5)
    assert terms["loss_giou"].item() == pytest.approx(0.25 * (1 - 1 / 3) / 1.25)
    assert samples.centerness is not None
    c = samples.centerness.sigmoid()
    central = -c[0].log() - 0.25 * c[1].log() - 0.75 * (1 - c[1]).log()
    assert terms["loss_centerness"].item() == pytest.approx(central.item() / 2)


@pytest.mark.parametrize("name", ["rpn", "rcnn", "atss"])
@pytest.mark.parametrize("kept", [0, 2])
def test_without_objects_or_samples_losses_are_finite(name: str, kept: int) -> None:
    whole = _samples(name)
    nothing = 1 if name == "rpn" else 2
    empty = replace(
        whole,
        logits=whole.logits[:kept],
        labels=torch.full((kept,), nothing),
        found=whole.found[:0],
        wanted=whole.wanted[:0],
        centerness=None if whole.centerness is None else whole.centerness[:0],
        central=None if whole.central is None else whole.central[:0],
    )
    terms = head_terms(empty, LOSS)
    torch.stack(list(terms.values())).sum().backward()
    assert all(value.isfinite() for value in terms.values())
    assert all(value == 0 for term, value in terms.items() if kept == 0 or term != "loss_ce")
    assert whole.found.grad is not None
    assert not whole.found.grad.any()


def test_weights_of_six_layers_are_those_of_the_paper() -> None:
    """12 each, but 120 for the boxes of regions and 24 for those of ATSS (SPEC §6)."""
    silent = Predictions(torch.full((6, 1, 4, 2), -80.0), torch.full((6, 1, 4, 4), 0.5), (None,))
    targets = Targets(torch.zeros(0, dtype=torch.long), torch.zeros(0, 4), (0,))
    expected = {
        ("rpn", "loss_ce"): 12,
        ("rpn", "loss_bbox"): 12,
        ("rcnn", "loss_ce"): 12,
        ("rcnn", "loss_giou"): 120,
        ("atss", "loss_ce"): 12,
        ("atss", "loss_giou"): 24,
        ("atss", "loss_centerness"): 12,
    }
    heads = tuple(_samples(name) for name in ("rpn", "rcnn", "atss"))
    total, table = detection_loss(replace(silent, heads=heads), targets, LOSS)
    weighted = sum(
        weight * table[f"{name}_{term}", -1] for (name, term), weight in expected.items()
    )
    assert total.item() == pytest.approx(float(weighted), rel=1e-6)
    assert {key for key in table if key[1] == -1} == {(f"{n}_{t}", -1) for n, t in expected}
    for samples in heads:  # no head's share hides another's
        alone, own = detection_loss(replace(silent, heads=(samples,)), targets, LOSS)
        weighted = sum(
            expected[samples.name, term.removeprefix(f"{samples.name}_")] * value
            for (term, layer), value in own.items()
            if layer == -1
        )
        assert alone.item() == pytest.approx(float(weighted), rel=1e-6)
    half, _ = detection_loss(replace(silent, heads=heads), targets, Loss(collaborative_weight=1))
    assert half.item() == pytest.approx(total.item() / 2, rel=1e-6)


def test_a_groups_losses_are_divided_by_its_positives() -> None:
    """Three positives for two objects; the rest must say nothing and does not count."""
    torch.manual_seed(0)
    logits, boxes = torch.randn(2, 2, 5, 3), torch.rand(2, 2, 5, 4) * 0.3 + 0.3
    targets = Targets(torch.tensor([2, 0]), torch.rand(2, 4) * 0.3 + 0.3, (1, 1))
    image, query, target = torch.tensor([[0, 0, 1], [0, 1, 0], [0, 0, 1]])
    group = QueryGroup(
        "atss_queries", boxes[0], boxes[0], torch.zeros(5, 5, dtype=torch.bool),
        image, query, target, 3 / 2, torch.ones(2, 5, dtype=torch.bool), sees_matching=False,
    )  # fmt: skip
    own = Predictions(logits, boxes, (None, None))
    matching = Predictions(torch.full((2, 2, 2, 3), -80.0), torch.full((2, 2, 2, 4), 0.5), (None,))
    _, table = detection_loss(replace(matching, groups=((group, own),)), targets, LOSS)
    for layer in range(2):
        truth = torch.zeros(2, 5, 3)
        truth[image, query, targets.labels[target]] = 1
        p = logits[layer].sigmoid()
        focal = torch.where(
            truth == 1, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log()
        )
        distance = (boxes[layer, image, query] - targets.boxes[target]).abs().sum()
        found = table["atss_queries_loss_ce", layer].item()
        assert found == pytest.approx(focal.sum().item() / 3, rel=1e-5)
        found = table["atss_queries_loss_bbox", layer].item()
        assert found == pytest.approx(distance.item() / 3, rel=1e-5)


def test_quality_scores_are_the_overlap() -> None:
    """One query with the box shifted by half its width: IoU 1/3 is what its class should say."""
    loss = Loss(classification="quality")
    logits = torch.tensor([[[[1.0, -2.0], [0.5, 0.0]]]])
    boxes = torch.tensor([[[[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]]]).requires_grad_()
    targets = Targets(torch.tensor([0]), torch.tensor([[0.4, 0.5, 0.2, 0.2]]), (1,))
    _, table = detection_loss(Predictions(logits, boxes, (None,)), targets, loss)
    p, truth = logits.sigmoid(), torch.tensor([[1 / 3, 0], [0, 0]])
    error = -truth * p.log() - (1 - truth) * (1 - p).log()
    expected = (error * (p - truth) ** 2).sum()
    assert table["loss_ce", 0].item() == pytest.approx(expected.item(), rel=1e-5)
    only_classes = Loss(classification="quality", box_weight=0, giou_weight=0)
    total, _ = detection_loss(Predictions(logits, boxes, (None,)), targets, only_classes)
    assert not total.requires_grad or not torch.autograd.grad(total, boxes)[0].any()


def test_every_term_of_a_member_is_in_the_table_and_the_total() -> None:
    member = derive(
        preset("co-dab-deformable-nano"),
        "small",
        model__width=48,
        model__decoder__layers=2,
        model__collaborative={"regions": 16, "region_width": 16},
    )
    torch.manual_seed(0)
    targets = Targets(torch.tensor([0, 1]), torch.rand(2, 4) * 0.2 + 0.4, (2,))
    out = build(member, ("a", "b")).train()(Images(torch.randn(1, 3, 64, 64)), targets)
    total, table = detection_loss(out, targets, member.loss)
    weights = {"loss_ce": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    expected = sum(
        weights[term] * table[prefix + term, layer]
        for prefix in ("", "rcnn_queries_", "atss_queries_")
        for term in TERMS
        for layer in range(2)
    )
    of_heads = {
        "rpn": {"loss_ce": 4, "loss_bbox": 4},
        "rcnn": {"loss_ce": 4, "loss_giou": 40},
        "atss": {"loss_ce": 4, "loss_giou": 8, "loss_centerness": 4},
    }
    for name, terms in of_heads.items():
        expected += sum(w * table[f"{name}_{term}", -1] for term, w in terms.items())
    assert len(table) == 3 * 3 * 2 + 7
    assert total.item() == pytest.approx(float(expected), rel=1e-5)


def test_terms_of_heads_and_groups_are_logged(tmp_path: Path) -> None:
    """Means over images; a group that one batch lacks counts as 0 there."""
    meter, one = Meter(), torch.ones(())
    plain = {(term, layer): one * (layer + 1) for term in TERMS for layer in range(2)}
    meter.add(one * 8, plain | {("atss_loss_giou", -1): one, ("dn_loss_ce", 1): one * 3}, 1)
    meter.add(one * 4, plain | {("atss_loss_giou", -1): one * 5, ("dn_loss_ce", 0): one}, 3)
    expected = {"loss": 5, **dict.fromkeys(TERMS, 2), "atss_loss_giou": 4, "dn_loss_ce": 0.75}
    assert meter.means() == expected

    rows: list[Row] = [dict.fromkeys(COLUMNS), dict.fromkeys(COLUMNS) | meter.means()]
    write_record(tmp_path / "results.csv", rows)
    first, second = csv.DictReader((tmp_path / "results.csv").read_text().splitlines())
    assert list(first) == [*COLUMNS, "atss_loss_giou", "dn_loss_ce"]
    assert first["atss_loss_giou"] == ""
    assert second["atss_loss_giou"] == "4.00000"
    assert second["dn_loss_ce"] == "0.75000"
