"""Denoising: the recorded preparation of the references, rules by hand, and batches at the edge."""

from __future__ import annotations

import functools
import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torchvision.ops import sigmoid_focal_loss

from dabdetr.config import ContrastiveDenoising
from dabdetr.config import Denoising as PlainDenoising
from dabdetr.model.denoising import Denoising, Noise, draw_noise
from dabdetr.model.groups import QueryGroup, join
from dabdetr.structures import Queries, Targets

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("DABDETR_ORACLE", ROOT / ".." / "shared" / "oracle"))
CASES = ("dn_dab_detr_small", "dn_dab_deformable_small", "dino_small")
PARTS = (PlainDenoising(), ContrastiveDenoising())
LEAST = 1e-3 / (1 + 1e-3)
"""A side or coordinate of 0 after the clamp of the inverse sigmoid."""


def _targets(*counts: int, classes: int = 5, seed: int = 0) -> Targets:
    rng = torch.Generator().manual_seed(seed)
    n = sum(counts)
    labels = torch.randint(classes, (n,), generator=rng)
    sizes = torch.rand(n, 2, generator=rng) * 0.4 + 0.05
    centres = sizes / 2 + torch.rand(n, 2, generator=rng) * (1 - sizes)
    return Targets(labels, torch.cat((centres, sizes), dim=1), counts)


def _module(part: Any, classes: int = 5, width: int = 8) -> Denoising:
    torch.manual_seed(1)
    return Denoising(part, classes, width)


# The recorded preparation of the references


@functools.cache
def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location("oracle_fill", FOLDER / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    return fill.load(name, as_torch=True)


class Recorded:
    """A case's targets, random numbers and results, in our form."""

    def __init__(self, name: str) -> None:
        if not (FOLDER / "cases" / name / "case.json").is_file():
            pytest.skip(f"no oracle case {name} in {FOLDER}; set DABDETR_ORACLE to their folder")
        self.settings, state, inputs, self.expected = _load(name)
        self.numbers, settings = inputs["denoising"], self.settings
        given = inputs["targets"]
        self.targets = Targets(
            torch.cat([t["labels"] for t in given]),
            torch.cat([t["boxes"] for t in given]),
            tuple(len(t["labels"]) for t in given),
        )
        self.contrastive = "dn_number" in settings
        if self.contrastive:
            part = ContrastiveDenoising(
                number=settings["dn_number"],
                label_noise=settings["dn_label_noise_ratio"] / 2,
                box_noise=settings["dn_box_noise_scale"],
            )
        else:
            part = PlainDenoising(
                groups=settings["scalar"],
                label_noise=settings["label_noise_scale"],
                box_noise=settings["box_noise_scale"],
            )
        self.module = Denoising(part, settings["num_classes"], settings["hidden_dim"])
        self.module.labels.weight.data = state["label_enc.weight"]
        self.group = self.module(self.targets, self._noise(part.label_noise))
        self.size = int(self.numbers["pad_size"])

    def _noise(self, threshold: float) -> Noise:
        chance, objects = self.numbers["noise_p"], len(self.targets.labels)
        labels = torch.zeros(len(chance), dtype=torch.long)
        labels[chance < threshold] = self.numbers["noise_new_label"]
        if self.contrastive:
            shift = self.numbers["noise_part"] * (2 * self.numbers["noise_sign"] - 1)
        else:
            shift = 2 * self.numbers["noise_box"] - 1
        form = (-1, objects)
        return Noise(chance.view(form), labels.view(form), shift.view(*form, 4))

    def batch_first(self, key: str) -> torch.Tensor:
        """A recorded query tensor as [batch, queries, …]."""
        tensor = self.numbers[key]
        return tensor if tensor.shape[0] == len(self.targets.counts) else tensor.transpose(0, 1)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Recorded:
    return Recorded(request.param)


def test_recorded_content_and_anchors(case: Recorded) -> None:
    assert case.group.count == case.size
    content = case.batch_first("input_query_label")[:, : case.size]
    logits = case.batch_first("input_query_bbox")[:, : case.size]
    assert torch.equal(case.group.content, content)
    assert torch.allclose(case.group.anchors, logits.sigmoid(), rtol=0, atol=1e-6)
    assert torch.allclose(case.group.anchors.logit(), logits, rtol=0, atol=2e-4)
    if case.contrastive:
        assert (logits.abs() > 6.9).any()  # some recorded boxes reach the clamp


def test_recorded_mask(case: Recorded) -> None:
    wanted = case.numbers["attn_mask"]
    matching, width = len(wanted) - case.size, case.module.width
    rest = Queries(torch.zeros(2, matching, width), torch.zeros(2, matching, 4))
    _, hidden = join(rest, [case.group])
    assert hidden is not None
    assert torch.equal(hidden, wanted)


def test_recorded_pairs(case: Recorded) -> None:
    group, numbers, targets = case.group, case.numbers, case.targets
    if case.contrastive:
        assert group.copies == int(numbers["num_dn_group"])
        positives = case.size // (2 * group.copies)
        assert (group.query % (2 * positives) < positives).all()
        assert len(group.query) == group.copies * len(targets.labels)
        assert group.supervised.all()
        return
    assert group.copies == case.settings["scalar"]
    assert torch.equal(group.query, numbers["map_known_indice"])
    assert torch.equal(group.image, numbers["batch_idx"].repeat(group.copies))
    assert torch.equal(targets.labels[group.target], numbers["known_labels"])
    assert torch.equal(targets.boxes[group.target], numbers["known_boxes"])
    assert int(group.supervised.sum()) == len(group.query)
    assert group.supervised[group.image, group.query].all()


def test_recorded_losses_of_the_last_layer(case: Recorded) -> None:
    """Recorded predictions, judged by our pairs, supervision and number of copies."""
    group, targets, arrays = case.group, case.targets, case.expected["arrays"]
    logits, boxes = arrays["train_dn_logits"], arrays["train_dn_boxes"]
    if not case.contrastive:
        logits, boxes = logits[-1], boxes[-1]
    truth = torch.zeros_like(logits)
    truth[group.image, group.query, targets.labels[group.target]] = 1
    focal = sigmoid_focal_loss(logits, truth, 0.25, 2.0)[group.supervised].sum()
    distance = (boxes[group.image, group.query] - targets.boxes[group.target]).abs().sum()
    objects = len(targets.labels) * group.copies
    name = "loss_{}_dn" if case.contrastive else "tgt_loss_{}"
    losses = case.expected["losses"]
    assert float(focal / objects) == pytest.approx(losses[name.format("ce")], rel=1e-4)
    assert float(distance / objects) == pytest.approx(losses[name.format("bbox")], rel=1e-4)


def test_recorded_content_of_matching_queries() -> None:
    """The dense DN model starts them all as "unknown"."""
    case = Recorded("dn_dab_detr_small")
    content = case.batch_first("input_query_label")[:, case.size :]
    part, classes, width = case.module.part, case.module.classes, case.module.width
    module = Denoising(part, classes, width, unknown=True)
    module.load_state_dict(case.module.state_dict())
    queries = module.beside_copies(Queries(torch.zeros_like(content), None))
    assert torch.equal(queries.content, content)


# Rules by hand


def _still(copies: int, shift: list[float]) -> Noise:
    """No label replaced, one object, the same shift for every copy."""
    moves = torch.tensor(shift).expand(copies, 1, 4)
    return Noise(torch.ones(copies, 1), torch.zeros(copies, 1, dtype=torch.long), moves)


ONE = Targets(torch.tensor([2]), torch.tensor([[0.5, 0.5, 0.2, 0.4]]), (1,))


def test_dn_moves_centre_by_half_sides_and_size_by_sides() -> None:
    module = _module(PlainDenoising(groups=1, box_noise=0.4))
    group = module(ONE, _still(1, [1.0, -1.0, 0.5, -0.5]))
    assert group is not None
    assert torch.allclose(group.anchors, torch.tensor([[[0.54, 0.42, 0.24, 0.32]]]))


def test_contrastive_moves_edges_and_negatives_one_half_side_more() -> None:
    module = _module(ContrastiveDenoising(number=1, box_noise=1.0))
    group = module(ONE, _still(4, [0.5, -0.5, 0.5, -0.5]))
    assert group is not None
    near, far = [0.55, 0.4, 0.2, 0.4], [0.65, 0.2, 0.2, 0.4]
    assert torch.allclose(group.anchors, torch.tensor([[near, far, near, far]]))
    assert group.query.tolist() == [0, 2]
    assert group.copies == 2


def test_edges_that_change_places_give_the_least_side() -> None:
    module = _module(ContrastiveDenoising(number=1, box_noise=1.0))
    group = module(ONE, _still(4, [0.5, 0.0, -0.5, 0.0]))
    assert group is not None
    assert torch.allclose(group.anchors[0, 1, [0, 2]], torch.tensor([0.5, LEAST]))


def test_labels_are_replaced_below_the_chance() -> None:
    module = _module(PlainDenoising(groups=3, label_noise=0.2))
    chance = torch.tensor([[0.19], [0.2], [0.9]])
    noise = Noise(chance, torch.tensor([[4], [4], [4]]), torch.zeros(3, 1, 4))
    group = module(ONE, noise)
    assert group is not None
    table = module.labels.weight
    expected = torch.cat((table[[4, 2, 2]], torch.ones(3, 1)), dim=1)
    assert torch.equal(group.content[0], expected)


@pytest.mark.parametrize(
    ("number", "most", "groups"),
    [
        (100, 1, 100),
        (100, 6, 16),
        (100, 100, 1),
        (100, 300, 1),
        (50, 3, 16),
        (49, 3, 98),
        (1, 5, 2),
    ],
)
def test_number_of_contrastive_groups(number: int, most: int, groups: int) -> None:
    group = _module(ContrastiveDenoising(number=number))(_targets(most, 1))
    assert group is not None
    assert group.copies == groups
    assert group.count == 2 * most * groups


def test_slots_by_hand() -> None:
    """Images of 2, 0 and 1 objects, two copies: which slot is whose, and what the others hold."""
    group = _module(PlainDenoising(groups=2))(_targets(2, 0, 1))
    assert group is not None
    assert group.image.tolist() == [0, 0, 2, 0, 0, 2]
    assert group.query.tolist() == [0, 1, 0, 2, 3, 2]
    assert group.target.tolist() == [0, 1, 2, 0, 1, 2]
    filled = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0]], dtype=torch.bool)
    assert torch.equal(group.supervised, filled)
    assert (group.content[~filled] == 0).all()
    assert (group.anchors[~filled] == 0.5).all()
    assert (group.content[filled][:, -1] == 1).all()
    own = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)
    assert torch.equal(group.attention_mask, own)


# What is drawn


def test_noise_is_uniform_and_follows_the_seed() -> None:
    torch.manual_seed(7)
    noise = draw_noise(40, 50, 3, torch.device("cpu"))
    torch.manual_seed(7)
    again = draw_noise(40, 50, 3, torch.device("cpu"))
    assert torch.equal(noise.chance, again.chance)
    assert torch.equal(noise.labels, again.labels)
    assert torch.equal(noise.shift, again.shift)
    for values, low, high in ((noise.chance, 0.0, 1.0), (noise.shift, -1.0, 1.0)):
        assert low <= float(values.min()) < low + 0.01
        assert high - 0.01 < float(values.max()) <= high
        assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.03)
    shares = noise.labels.flatten().bincount(minlength=3) / noise.labels.numel()
    assert torch.allclose(shares, torch.full((3,), 1 / 3), atol=0.05)


@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=4), seed=st.integers(0, 1000))
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.kind)
def test_any_batch(part: Any, counts: list[int], seed: int) -> None:
    """Near copies stay near, pairs point at their own image, every slot is finite."""
    torch.manual_seed(seed)
    targets = _targets(*counts, seed=seed)
    group: QueryGroup | None = Denoising(part, 5, 8)(targets)
    if not sum(counts):
        assert group is None
        return
    assert group is not None
    assert len(group.query) == group.copies * sum(counts)
    owner = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    assert torch.equal(owner[group.target], group.image)
    assert len({*zip(group.image.tolist(), group.query.tolist(), strict=True)}) == len(group.query)
    assert group.supervised[group.image, group.query].all()
    assert group.content.isfinite().all()
    assert ((group.anchors > 0) & (group.anchors < 1)).all()
    found, true = group.anchors[group.image, group.query], targets.boxes[group.target]
    reach = true[:, 2:] / 2 * part.box_noise + LEAST
    assert ((found[:, :2] - true[:, :2]).abs() <= reach + 1e-6).all()


# Batches at the edge


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.kind)
class TestEdges:
    def test_no_object_in_the_batch_gives_no_group(self, part: Any) -> None:
        assert _module(part)(_targets(0, 0)) is None

    def test_image_without_objects_says_nothing(self, part: Any) -> None:
        group = _module(part)(_targets(3, 0))
        assert group is not None
        assert (group.content[1] == 0).all()
        assert (group.anchors[1] == 0.5).all()
        assert (group.image == 0).all()
        assert bool(group.supervised[1].any()) == (part.kind == "contrastive")

    def test_one_class_one_object_batch_of_one(self, part: Any) -> None:
        group = _module(part, classes=1)(_targets(1, classes=1))
        assert group is not None
        assert group.content.isfinite().all()
        assert group.anchors.isfinite().all()

    def test_boxes_at_the_border_and_without_extent(self, part: Any) -> None:
        boxes = [[0.5, 0.5, 1, 1], [0.05, 0.95, 0.1, 0.1], [1, 1, 0, 0], [0, 0, 0, 0.3]]
        targets = Targets(torch.tensor([0, 1, 2, 3]), torch.tensor(boxes, dtype=torch.float), (4,))
        torch.manual_seed(2)
        group = _module(part)(targets)
        assert group is not None
        assert float(group.anchors.min()) >= LEAST - 1e-7
        assert float(group.anchors.max()) <= 1 - LEAST + 1e-7

    def test_without_noise_copies_are_the_objects(self, part: Any) -> None:
        module = _module(part.model_copy(update={"label_noise": 0.0, "box_noise": 0.0}))
        targets = _targets(3, 2)
        group = module(targets)
        assert group is not None
        found = group.anchors[group.image, group.query]
        assert torch.allclose(found, targets.boxes[group.target], atol=1e-6)
        content = group.content[group.image, group.query]
        table = module.labels.weight[targets.labels[group.target]]
        assert torch.equal(content[:, : table.shape[1]], table)

    def test_gradient_reaches_the_table_only(self, part: Any) -> None:
        module = _module(part)
        group = module(_targets(3, 2))
        assert group is not None
        assert not group.anchors.requires_grad
        group.content.sum().backward()
        assert module.labels.weight.grad is not None
        assert module.labels.weight.grad.abs().sum() > 0

    def test_boxes_stay_float32_under_autocast(self, part: Any) -> None:
        module, targets = _module(part), _targets(3, 2)
        torch.manual_seed(4)
        plain = module(targets)
        torch.manual_seed(4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            group = module(targets)
        assert plain is not None
        assert group is not None
        assert group.anchors.dtype == torch.float32
        assert torch.equal(group.anchors, plain.anchors)
        assert torch.equal(group.content, plain.content)

    def test_no_classes_is_one_sentence(self, part: Any) -> None:
        with pytest.raises(ValueError, match=r"needs at least one class; got 0; name the classes"):
            Denoising(part, 0, 8)


@pytest.mark.parametrize(
    "change", [{"groups": 0}, {"label_noise": 1.1}, {"box_noise": -0.1}, {"number": 10}]
)
def test_impossible_settings_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        PlainDenoising.model_validate(change)
