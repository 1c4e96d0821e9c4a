"""Collaborative heads: assignment, places in pixels, query groups, none of it at inference."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torchvision.ops import box_iou

from dabdetr.checkpoints.native import load_model, save_model
from dabdetr.checkpoints.transfer import initialise
from dabdetr.config import Config
from dabdetr.geometry import to_corners
from dabdetr.model.collaborative.atss import (
    ATSS,
    CANDIDATES,
    _threshold,
    assign_atss,
    centrality,
)
from dabdetr.model.collaborative.faster_rcnn import FasterRCNN
from dabdetr.model.collaborative.pyramid import IGNORED, NOTHING, HeadInputs, choose, head_inputs
from dabdetr.model.detector import Detector, build
from dabdetr.model.groups import join
from dabdetr.presets import derive, preset
from dabdetr.structures import Images, Memory, Predictions, Queries, Targets
from dabdetr.training.losses import detection_loss

NAMES = ("a", "b", "c")
_NARROW = {
    "model__backbone": preset("dab-detr-nano").model.backbone.model_dump()
    | {"strides": (8, 16), "norm": "frozen"},
    "model__encoder": {"kind": "deformable", "layers": 1, "levels": 3, "points": 2},
    "model__decoder__layers": 2,
    "model__queries__count": 9,
    "model__width": 48,
    "model__heads": 4,
    "model__feedforward": 32,
    "model__collaborative__regions": 16,
    "model__collaborative__region_width": 16,
}
NARROW = {
    name: derive(preset(name), name, **_NARROW)
    for name in ("co-dab-deformable-r50", "co-dino-r50", "co-dab-deformable-nano", "co-dino-nano")
}
MEMBERS = sorted(NARROW)


def _detector(config: Config, names: tuple[str, ...] = NAMES, seed: int = 0) -> Detector:
    """Every parameter drawn anew, so that no path is silent; heads are drawn last."""
    torch.manual_seed(seed)
    detector = build(config, names)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return detector


def _targets(*counts: int, classes: int = 3) -> Targets:
    total = sum(counts)
    boxes = torch.cat((torch.rand(total, 2) * 0.4 + 0.3, torch.rand(total, 2) * 0.3 + 0.2), 1)
    return Targets(torch.randint(classes, (total,)), boxes, counts)


def _images(batch: int, height: int = 64, width: int = 96) -> Images:
    return Images(torch.randn(batch, 3, height, width))


def _parts(detector: Detector, images: Images) -> tuple[Memory, Queries]:
    memory = detector.encoder(detector.projection(detector.backbone(images)))
    return memory, detector.queries(memory)


# ATSS: which anchors an object picks


def _line() -> torch.Tensor:
    """Five anchors of 20 pixels, their centres 10 apart."""
    x = torch.arange(5) * 10.0
    return torch.stack((x, torch.zeros(5), x + 20, torch.full((5,), 20.0)), dim=1)


WIDE, EXACT = [15.0, 0.0, 45.0, 20.0], [20.0, 0.0, 40.0, 20.0]
ALL = torch.ones(5, dtype=torch.bool)


def test_atss_by_hand() -> None:
    """Overlaps .11 .43 .67 .43 .11: mean .349, deviation .238; one anchor reaches .587."""
    assert assign_atss([_line()], ALL, torch.tensor([WIDE])).tolist() == [-1, -1, 0, -1, -1]
    # On two levels there are as many candidates of each; the doubled values have less deviation.
    both = assign_atss([_line(), _line()], ALL.repeat(2), torch.tensor([WIDE]))
    assert both.tolist() == [-1, -1, 0, -1, -1] * 2


def test_the_threshold_is_of_counted_candidates_and_a_samples_deviation() -> None:
    """Mean .3 and deviation √(.08 / 2) = .2; the fourth candidate lies in the padding."""
    overlap = torch.tensor([[0.1, 0.3, 0.5, 0.9]])
    assert _threshold(overlap, overlap < 0.8).tolist() == pytest.approx([0.5])


def test_an_anchor_of_two_objects_goes_to_the_one_it_overlaps_more() -> None:
    for boxes, winner in (([WIDE, EXACT], 1), ([EXACT, WIDE], 0)):
        assigned = assign_atss([_line()], ALL, torch.tensor(boxes))
        assert assigned.tolist() == [-1, -1, winner, -1, -1]


def test_anchors_in_the_padding_are_nobodys() -> None:
    shown = torch.tensor([True, True, False, True, True])
    assert assign_atss([_line()], shown, torch.tensor([EXACT])).max() == NOTHING


def test_the_centre_must_lie_in_the_object() -> None:
    """The best anchor's centre is the object's edge."""
    left = torch.tensor([[10.0, 0.0, 20.0, 20.0]])
    assert assign_atss([_line()], ALL, left).max() == NOTHING


def _plain_atss(levels: list[torch.Tensor], boxes: torch.Tensor) -> list[int]:
    """The same rule in loops."""
    anchors = torch.cat(levels)
    overlaps = box_iou(boxes, anchors).tolist()
    chosen: dict[int, tuple[float, int]] = {}
    for number, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        candidates, start = [], 0
        for level in levels:
            middle = ((level[:, :2] + level[:, 2:]) / 2).tolist()
            far = [math.dist(m, ((x0 + x1) / 2, (y0 + y1) / 2)) for m in middle]
            order = sorted(range(len(far)), key=far.__getitem__)[:9]
            candidates += [start + place for place in order]
            start += len(level)
        values = torch.tensor([overlaps[number][place] for place in candidates])
        least = float(values.mean() + values.std())
        for place in candidates:
            a = anchors[place].tolist()
            x, y = (a[0] + a[2]) / 2, (a[1] + a[3]) / 2
            inside = min(x - x0, y - y0, x1 - x, y1 - y) > 0.01
            here = overlaps[number][place]
            if inside and here >= least and here > chosen.get(place, (-1.0, 0))[0]:
                chosen[place] = (here, number)
    return [chosen.get(place, (0.0, NOTHING))[1] for place in range(len(anchors))]


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), objects=st.integers(0, 4))
def test_atss_is_the_rule_in_loops(seed: int, objects: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    boxes = to_corners(torch.rand(objects, 4, generator=rng) * 60 + 2)
    levels = [
        to_corners(torch.cat((torch.rand(n, 2, generator=rng) * 80, torch.full((n, 2), side)), 1))
        for n, side in ((30, 16.0), (12, 32.0), (2, 64.0))
    ]
    assert len(levels[0]) > CANDIDATES
    shown = torch.ones(44, dtype=torch.bool)
    assert assign_atss(levels, shown, boxes).tolist() == _plain_atss(levels, boxes)


def test_centrality_by_hand() -> None:
    box = torch.tensor([[0.0, 0.0, 40.0, 40.0]]).expand(3, 4)
    middles = torch.tensor([[20.0, 20.0], [10.0, 20.0], [10.0, 10.0]])
    anchors = torch.cat((middles - 4, middles + 4), dim=1)
    assert centrality(anchors, box).tolist() == pytest.approx([1, math.sqrt(1 / 3), 1 / 3])


# Places in pixels


WIDTH = 16
"""Channels of maps that no detector made."""


def _scene(height: int, width: int, counts: tuple[int, ...], padding: Any = None) -> HeadInputs:
    strides = (8, 16, 32, 64)
    shapes = [(-(-height // s), -(-width // s)) for s in strides]
    maps = [torch.randn(len(counts), WIDTH, *shape) for shape in shapes]
    images = Images(torch.zeros(len(counts), 3, height, width), padding)
    return head_inputs(maps, strides, images, _targets(*counts))


def test_boxes_are_in_pixels_of_the_unpadded_image() -> None:
    padding = torch.zeros(2, 60, 100, dtype=torch.bool)
    padding[1, :, 50:], padding[1, 30:] = True, True
    targets = Targets(torch.tensor([0, 1]), torch.tensor([[0.5, 0.5, 0.2, 0.4]] * 2), (1, 1))
    scene = head_inputs([], (), Images(torch.zeros(2, 3, 60, 100), padding), targets)
    assert scene.shapes == [(60, 100), (30, 50)]
    assert scene.boxes[0].tolist() == [pytest.approx([40, 18, 60, 42])]
    assert scene.boxes[1].tolist() == [pytest.approx([20, 9, 30, 21])]
    assert [rows.tolist() for rows in scene.rows] == [[0], [1]]
    assert torch.allclose(scene.relative(scene.boxes[1], 1), targets.boxes[1:])


def test_boxes_without_extent_are_left_out() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.0, 0.2], [0.5, 0.5, 0.1, 0.2], [1.0, 1.0, 0.0, 0.0]])
    targets = Targets(torch.tensor([0, 1, 2]), boxes, (3,))
    scene = head_inputs([], (), Images(torch.zeros(1, 3, 60, 100)), targets)
    assert scene.rows[0].tolist() == [1]
    assert scene.labels(0).tolist() == [1]


def test_anchors_stand_at_their_cells() -> None:
    """Sizes that no stride divides: the grid must not be guessed from them."""
    head, scene = ATSS(WIDTH, 3, (8, 16, 32, 64)), _scene(70, 100, (1,))
    fine, coarser, *_ = scene.anchors(head.generator)
    assert fine.shape == (9 * 13, 4)
    assert fine[0].tolist() == [-32, -32, 32, 32]
    assert fine[13 + 2].tolist() == [16 - 32, 8 - 32, 16 + 32, 8 + 32]
    assert coarser[1].tolist() == [16 - 64, -64, 16 + 64, 64]


def test_regions_are_read_where_they_are_and_from_the_level_of_their_size() -> None:
    """Maps that hold their x coordinate in pixels, and their level's number."""
    head, scene = FasterRCNN(_co("co-dino-nano"), WIDTH, 3, (8, 16, 32, 64)), _scene(400, 600, (0,))
    maps = {}
    for level, stride in enumerate((8, 16, 32)):
        cells = 600 // stride
        x = ((torch.arange(cells) + 0.5) * stride).expand(400 // stride, cells)
        maps[str(level)] = torch.stack((x, torch.full_like(x, level)))[None]
    small, large = [200.0, 100.0, 260.0, 160.0], [100.0, 50.0, 400.0, 350.0]
    pooled = head.roi.box_roi_pool(maps, [torch.tensor([small, large])], scene.shapes)
    where, level = pooled.mean((2, 3)).T.tolist()
    # torchvision's frame has its cells' middles half a cell earlier.
    assert where[0] == pytest.approx(230 + 4, abs=1)
    assert where[1] == pytest.approx(250 + 8, abs=1)
    assert level == [0, 1]


def _co(name: str) -> Any:
    return NARROW[name].model.collaborative


def test_pairs_of_both_heads_are_positives_of_their_own_image() -> None:
    torch.manual_seed(1)
    scene = _scene(96, 128, (3, 0, 2))
    owner = torch.tensor([0, 0, 0, 2, 2])
    heads = {
        "rcnn": FasterRCNN(_co("co-dino-nano"), WIDTH, 3, scene.strides),
        "atss": ATSS(WIDTH, 3, scene.strides),
    }
    for name, head in heads.items():
        found, total = head(scene), 0
        for image in range(3):
            rows, places = found.rows[image], found.places[image]
            positive = rows >= 0
            total += int(positive.sum())
            assert (owner[rows[positive]] == image).all()
            assert positive.any() == (image != 1)
            assert len(found.features[image]) == len(places) == len(rows)
            if name == "rcnn" and image != 1:
                own = dict(zip(scene.rows[image].tolist(), scene.boxes[image], strict=True))
                wanted = torch.stack([own[row] for row in rows[positive].tolist()])
                assert (box_iou(places[positive], wanted).diag() >= 0.5).all()
        samples = found.samples[-1]
        named = samples.labels[samples.labels < 3]
        assert len(named) == len(samples.found) == len(samples.wanted) == total
        truth = torch.cat([scene.targets.labels[rows[rows >= 0]] for rows in found.rows])
        assert torch.equal(named, truth)


def test_padding_is_never_judged() -> None:
    padding = torch.zeros(1, 96, 128, dtype=torch.bool)
    padding[:, :, 64:] = True
    scene = _scene(96, 128, (2,), padding)
    head = ATSS(WIDTH, 3, scene.strides)
    found = head(scene)
    centre = (found.places[0][:, 0] + found.places[0][:, 2]) / 2
    assert torch.equal(found.rows[0] == IGNORED, centre >= 64)
    assert len(found.samples[0].labels) == int((centre < 64).sum())


# Query groups


@given(
    rows=st.lists(st.integers(IGNORED, 3), max_size=30),
    count=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_places_chosen_are_positives_then_negatives(rows: list[int], count: int, seed: int) -> None:
    torch.manual_seed(seed)
    table = torch.tensor(rows, dtype=torch.long)
    chosen = choose(table, count)
    positives, negatives = sum(r >= 0 for r in rows), rows.count(NOTHING)
    first = min(positives, count)
    assert len(chosen) == min(count, positives + negatives)
    assert (table[chosen[:first]] >= 0).all()
    assert (table[chosen[first:]] == NOTHING).all()
    assert len(set(chosen.tolist())) == len(chosen)


def test_a_group_is_no_larger_than_allowed_and_asks_for_true_objects() -> None:
    config = NARROW["co-dab-deformable-nano"].override(["model.collaborative.max_positives=11"])
    detector, targets = _detector(config), _targets(4, 1)
    out = detector(_images(2), targets)
    owner = torch.tensor([0, 0, 0, 0, 1])
    assert [group.name for group, _ in out.groups] == ["rcnn_queries", "atss_queries"]
    for group, own in out.groups:
        assert group.count == own.logits.shape[2] <= 11
        assert torch.equal(owner[group.target], group.image)
        assert group.supervised.all()
        assert ((group.anchors > 0) & (group.anchors < 1)).all()
        assert not group.anchors.requires_grad
        assert group.copies * 5 == pytest.approx(len(group.query))


@pytest.mark.parametrize("name", ["co-dab-deformable-nano", "co-dino-nano"])
def test_no_group_sees_another_nor_the_matching_queries(name: str) -> None:
    detector = _detector(NARROW[name]).eval()
    with torch.no_grad():
        images, targets = _images(2), _targets(3, 1)
        memory, queries = _parts(detector, images)
        groups, _ = detector.query_groups(memory, images, targets)
        joined, hidden = join(queries, groups)
        together: Predictions = detector.decoder(joined, memory, hidden)
        alone = detector.decoder(queries, memory)
        assert torch.allclose(together.boxes[:, :, -9:], alone.boxes, atol=1e-6)
        assert torch.allclose(together.logits[:, :, -9:], alone.logits, atol=1e-5)
        start = 0
        for group in groups:
            span = slice(start, start + group.count)
            start += group.count
            if group.name == "denoising":
                continue
            only = detector.decoder(Queries(group.content, group.anchors), memory)
            assert torch.allclose(together.boxes[:, :, span], only.boxes, atol=1e-6)
            assert torch.allclose(together.logits[:, :, span], only.logits, atol=1e-5)


# Training


@pytest.mark.parametrize("name", MEMBERS)
def test_every_parameter_learns(name: str) -> None:
    detector, targets = _detector(NARROW[name]).train(), _targets(3, 2)
    total, _ = detection_loss(detector(_images(2), targets), targets, detector.config.loss)
    total.backward()
    silent = [
        key
        for key, p in detector.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert silent == []


def test_heads_teach_the_encoder() -> None:
    """The losses of each head alone reach the backbone."""
    detector, targets = _detector(NARROW["co-dab-deformable-nano"]).train(), _targets(3, 2)
    out = detector(_images(2), targets)
    first = next(detector.backbone.parameters())
    assert [samples.name for samples in out.heads] == ["rpn", "rcnn", "atss"]
    for samples in out.heads:
        said = samples.logits.square().sum() + samples.found.square().sum()
        (reached,) = torch.autograd.grad(said, first, retain_graph=True)
        assert reached.any()


EDGES: dict[str, tuple[tuple[int, ...], int, int]] = {
    "nothing at all": ((0, 0), 64, 96),
    "one object": ((1,), 64, 96),
    "one image empty": ((3, 0), 64, 96),
    "odd sizes": ((2, 1), 47, 83),
    "very small": ((1,), 16, 17),
    "crowded": ((40,), 64, 96),
}


@pytest.mark.parametrize("edge", EDGES)
def test_batches_at_the_edge(edge: str) -> None:
    counts, height, width = EDGES[edge]
    names = ("only",) if edge == "one object" else NAMES
    name = "co-dab-deformable-r50" if edge == "nothing at all" else "co-dino-r50"
    detector = _detector(NARROW[name], names).train()
    targets = _targets(*counts, classes=len(names))
    _finite_step(detector, _images(len(counts), height, width), targets)


def _finite_step(detector: Detector, images: Images, targets: Targets) -> None:
    total, table = detection_loss(detector(images, targets), targets, detector.config.loss)
    total.backward()
    assert total.isfinite()
    assert all(value.isfinite() for value in table.values())
    assert all(p.grad.isfinite().all() for p in detector.parameters() if p.grad is not None)


def test_boxes_at_the_border_without_extent_and_an_image_of_padding() -> None:
    detector = _detector(NARROW["co-dab-deformable-nano"]).train()
    padding = torch.zeros(2, 64, 96, dtype=torch.bool)
    padding[1] = True
    boxes = [[0.5, 0.5, 1, 1], [0.05, 0.95, 0.1, 0.1], [1, 1, 0, 0], [0.5, 0, 0.3, 0.3]]
    targets = Targets(torch.tensor([0, 1, 2, 0]), torch.tensor(boxes, dtype=torch.float), (3, 1))
    _finite_step(detector, Images(torch.randn(2, 3, 64, 96), padding), targets)


def test_low_precision() -> None:
    detector, targets = _detector(NARROW["co-dab-deformable-nano"]).train(), _targets(3, 1)
    with torch.autocast("cpu", torch.bfloat16):
        out = detector(_images(2), targets)
        total, _ = detection_loss(out, targets, detector.config.loss)
    total.backward()
    assert total.isfinite()
    for samples in out.heads:
        assert samples.found.dtype == samples.wanted.dtype == torch.float32
    assert all(group.anchors.dtype == torch.float32 for group, _ in out.groups)


# Inference


@pytest.mark.parametrize("name", ["co-dab-deformable-nano", "co-dino-r50"])
def test_predictions_are_those_of_the_model_without_heads(name: str) -> None:
    """The same seed gives the same weights; heads are never asked without targets."""
    detector = _detector(NARROW[name]).eval()
    plain = build(NARROW[name].override(["model.collaborative=null"]), NAMES).eval()
    assert plain.collaborative is None
    own = {k: v for k, v in detector.state_dict().items() if not k.startswith("collaborative.")}
    plain.load_state_dict(own)
    asked: list[Any] = []
    assert detector.collaborative is not None
    detector.collaborative.register_forward_hook(lambda *call: asked.append(call))
    with torch.no_grad():
        image = _images(2)
        alone, without = detector(image), plain(image)
        assert asked == []
        trained = detector(image, _targets(2, 1))
    assert len(asked) == 1
    assert torch.equal(alone.boxes, without.boxes)
    assert torch.equal(alone.logits, without.logits)
    assert alone.groups == alone.heads == ()
    assert torch.allclose(trained.boxes, alone.boxes, atol=1e-6)
    assert torch.allclose(trained.logits, alone.logits, atol=1e-5)


def test_the_same_seed_gives_the_other_parts_the_same_weights() -> None:
    config = NARROW["co-dino-nano"]
    states = []
    for changed in (config, config.override(["model.collaborative=null"])):
        torch.manual_seed(7)
        states.append(build(changed, NAMES).state_dict())
    assert all(torch.equal(states[0][key], value) for key, value in states[1].items())


def test_files_hold_no_heads_and_serve_predictions_and_further_training(tmp_path: Path) -> None:
    detector = _detector(NARROW["co-dab-deformable-nano"]).eval()
    save_model(tmp_path / "co.safetensors", detector)
    loaded = load_model(tmp_path / "co.safetensors")
    assert loaded.model.collaborative is None
    assert loaded.model.config == detector.config
    assert not any(key.startswith("collaborative") for key in loaded.report.loaded)
    with torch.no_grad():
        image = _images(1)
        assert torch.equal(loaded.model(image).boxes, detector(image).boxes)

    again = build(detector.config, NAMES)
    report = initialise(again, tmp_path / "co.safetensors")
    assert again.collaborative is not None
    assert report.reinitialised
    assert all(key.startswith("collaborative.") for key in report.reinitialised)
    save_model(tmp_path / "again.safetensors", loaded.model)
    assert load_model(tmp_path / "again.safetensors").model.config == detector.config


# Contradictions


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dab-detr-nano", "model.collaborative={}", r"model\.encoder is dense"),
        ("deformable-detr-nano", "model.collaborative={}", r"model\.queries\.anchor is 'point'"),
        (
            "deformable-detr-r50-two-stage",
            "model.collaborative={}",
            r"model\.queries\.content 'box'",
        ),
        (
            "deformable-detr-r50-two-stage",
            "model.denoising={kind: contrastive}",
            r"model\.denoising adds queries .*content 'box'",
        ),
        ("co-dino-nano", "model.backbone.strides=[4, 16]", r"strides is \(4, 16\)"),
        ("co-dino-nano", "model.collaborative.heads=[]", "at least one"),
        ("co-dino-nano", "model.collaborative.heads=[atss, atss]", "none twice"),
        ("co-dino-nano", "model.collaborative.heads=[fcos]", "collaborative.heads"),
        ("co-dino-nano", "model.collaborative.max_positives=0", "max_positives"),
    ],
)
def test_contradictions_name_the_fields(name: str, change: str, message: str) -> None:
    with pytest.raises((ValueError, ValidationError), match=message):
        preset(name).override([change])


@pytest.mark.parametrize("head", ["rcnn", "atss"])
def test_one_head_alone(head: str) -> None:
    config = NARROW["co-dab-deformable-nano"].override([f"model.collaborative.heads=[{head}]"])
    detector, targets = _detector(config).train(), _targets(2)
    out = detector(_images(1), targets)
    assert [group.name for group, _ in out.groups] == [f"{head}_queries"]
    total, _ = detection_loss(out, targets, config.loss)
    assert total.isfinite()
