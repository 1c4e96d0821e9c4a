"""The whole detector: gradients, masks, precision, switches, contradictions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dabdetr.config import Config, Loss, Model
from dabdetr.geometry import move
from dabdetr.model.detector import Detector, build
from dabdetr.model.proposals import _first_boxes
from dabdetr.presets import PRESETS, derive, preset
from dabdetr.structures import Images, Targets
from dabdetr.training.losses import detection_loss

SMALL = derive(
    preset("dab-detr-nano"),
    "small",
    model__width=32,
    model__heads=4,
    model__feedforward=32,
    model__queries__count=9,
    model__encoder__layers=1,
    model__decoder__layers=3,
    model__backbone__norm="frozen",
)
NAMES = ("a", "b", "c")


def _override(variant: str) -> Config:
    return SMALL.override(VARIANTS[variant])


def _randomised(config: Config, seed: int = 0) -> Detector:
    """Every parameter drawn anew, so that no path is silent."""
    torch.manual_seed(seed)
    detector = build(config, NAMES).eval()
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return detector


def _targets(*counts: int) -> Targets:
    total = sum(counts)
    boxes = torch.rand(total, 4) * 0.3 + 0.3
    return Targets(torch.randint(3, (total,)), boxes, counts)


_DENSE = ["model.decoder.update_anchors=false", "model.decoder.look_forward_twice=false"]
_SAMPLING = [
    "model.backbone.strides=[4, 8]",
    "model.encoder={kind: deformable, levels: 3, points: 2, layers: 1}",
    "model.decoder.cross_attention={kind: deformable, points: 3}",
    "model.decoder.norm=false",
]
VARIANTS = {
    "DETR": [
        "model.queries={kind: learned, count: 9, anchor: null}",
        "model.decoder.cross_attention={kind: add}",
        "model.decoder.modulate_position=null",
        *_DENSE,
    ],
    "Conditional": [
        "model.queries={kind: learned, count: 9, anchor: point}",
        "model.decoder.cross_attention.modulate_size=false",
        *_DENSE,
    ],
    "Deformable": [
        *_SAMPLING,
        "model.queries={kind: learned, count: 9, anchor: point, point_layers: 1, content: learned}",
        "model.decoder.modulate_position=null",
        *_DENSE,
    ],
    "Deformable, refined": [
        *_SAMPLING,
        "model.queries={kind: learned, count: 9, anchor: point, point_layers: 1, content: learned}",
        "model.decoder.modulate_position=null",
        "model.decoder.look_forward_twice=false",
        "model.box_head_per_layer=true",
        "model.class_head_per_layer=true",
    ],
    "DAB-Deformable": [*_SAMPLING, "model.decoder.look_forward_twice=false"],
    "DN": ["model.queries.content=unknown", "model.denoising={kind: dn, groups: 2}"],
    "DN with learned content": ["model.denoising={kind: dn, groups: 2}"],
    "DN with patterns": [
        "model.queries={kind: learned, count: 9, content: unknown, patterns: 2}",
        "model.denoising={kind: dn, groups: 2}",
    ],
    "contrastive": ["model.denoising={kind: contrastive, number: 1}"],
    "DN-DAB-Deformable": [
        *_SAMPLING,
        "model.decoder.look_forward_twice=false",
        "model.denoising={kind: dn, groups: 2}",
    ],
    "two-stage": [
        *_SAMPLING,
        "model.queries={kind: from_encoder, count: 9, content: box, rank: objectness}",
        "model.decoder.modulate_position=null",
        "model.decoder.look_forward_twice=false",
    ],
    "DINO": [
        *_SAMPLING[:-1],
        "model.queries={kind: from_encoder, count: 9}",
        "model.decoder.modulate_position=null",
        "model.denoising={kind: contrastive, number: 2}",
    ],
    "two-stage DAB": [*_SAMPLING, "model.queries={kind: from_encoder, count: 9}"],
    "default": [],
    "scalar": ["model.decoder.modulate_position=scalar"],
    "layer": ["model.decoder.modulate_position=layer"],
    "plain": ["model.decoder.modulate_position=null"],
    "no size": ["model.decoder.cross_attention.modulate_size=false"],
    "every layer": ["model.decoder.cross_attention.position_every_layer=true"],
    "own heads": ["model.box_head_per_layer=true"],
    "still": ["model.decoder.update_anchors=false", "model.decoder.look_forward_twice=false"],
    "once": ["model.decoder.look_forward_twice=false"],
    "patterns": ["model.queries.content=zeros", "model.queries.patterns=2"],
    "zeros": ["model.queries.content=zeros"],
    "prelu": ["model.activation=prelu"],
    "unscaled": ["model.encoder.scale_positions=false"],
    "no encoder": ["model.encoder.layers=0"],
    "one layer": ["model.decoder.layers=1"],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_of_every_variant_learns(variant: str) -> None:
    detector = _randomised(SMALL.override(VARIANTS[variant])).train()
    targets = _targets(3, 2)
    out = detector(Images(torch.randn(2, 3, 64, 64)), targets)
    total, _ = detection_loss(out, targets, detector.config.loss)
    total.backward()
    silent = [
        key
        for key, p in detector.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    if variant == "one layer":  # its content says nothing yet and modulates nothing
        silent = [key for key in silent if not key.startswith("decoder.positions.scale")]
    if detector.config.model.queries.content == "zeros" and variant != "patterns":
        first = "decoder.layers.0.self_attention."  # projections of zeros
        silent = [key for key in silent if not key.startswith(first)]
    assert silent == []


def _levels(model: Model) -> list[int]:
    """The stride of every level."""
    assert model.encoder.kind == "deformable"
    return [model.backbone.strides[0] * 2**n for n in range(model.encoder.levels)]


@pytest.mark.parametrize("name", [n for n in PRESETS if "r101" not in n and "swin-l" not in n])
def test_every_preset_builds_and_answers(name: str) -> None:
    detector = build(preset(name), NAMES).eval()
    model = detector.config.model
    count = model.queries.count * max(1, model.queries.patterns)
    if model.queries.kind == "from_encoder":  # so small an image has fewer tokens
        count = min(count, sum(-(-64 // s) * -(-96 // s) for s in _levels(model)))
    with torch.no_grad():
        out = detector(Images(torch.randn(1, 3, 64, 96)))
    layers, logits = model.decoder.layers, 4 if detector.config.classifier == "softmax" else 3
    assert out.logits.shape == (layers, 1, count, logits)
    assert out.boxes.shape == (layers, 1, count, 4)
    frame = {"box": 4, "point": 2, None: None}[model.queries.anchor]
    first = out.anchors[0]
    assert (None if first is None else first.shape[-1]) == frame
    assert ((out.boxes >= 0) & (out.boxes <= 1)).all()


def test_parameter_counts_are_those_of_the_references() -> None:
    coco = [str(index) for index in range(91)]
    for name, trained, total in (
        ("dab-detr-r50", 43_449_117, 43_671_517),
        ("dab-detr-r50-p3", None, 43_672_285),
        ("dab-detr-r101", None, 62_611_421),
    ):
        parameters = list(build(preset(name), coco).parameters())
        assert sum(p.numel() for p in parameters) == total
        if trained is not None:
            assert sum(p.numel() for p in parameters if p.requires_grad) == trained


def test_an_image_gives_the_same_boxes_alone_and_padded() -> None:
    """Images of whole cells: the padded batch tells them from their padding everywhere."""
    detector = _randomised(SMALL)
    # The body's convolutions see across the border of an image; one that has none does not.
    detector.backbone.body = _Cells(detector.backbone.channels[0])  # pyright: ignore
    image, other = torch.randn(3, 48, 64), torch.randn(3, 80, 96)
    pixels, padding = torch.zeros(2, 3, 80, 96), torch.ones(2, 80, 96, dtype=torch.bool)
    pixels[0, :, :48, :64], padding[0, :48, :64] = image, False
    pixels[1], padding[1] = other, False
    with torch.no_grad():
        alone = detector(Images(image[None]))
        both = detector(Images(pixels, padding))
        swapped = detector(Images(pixels.flip(0), padding.flip(0)))
    assert torch.allclose(alone.logits[:, 0], both.logits[:, 0], atol=1e-4)
    assert torch.allclose(alone.boxes[:, 0], both.boxes[:, 0], atol=1e-5)
    assert torch.allclose(both.boxes[:, 0], swapped.boxes[:, 1], atol=1e-6)


class _Cells(torch.nn.Module):
    """A body whose cells see nothing but their own 8×8 pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, channels, 8, stride=8)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.conv(x)]


def test_an_image_that_is_all_padding_gives_numbers() -> None:
    detector = _randomised(SMALL)
    padding = torch.zeros(2, 64, 64, dtype=torch.bool)
    padding[1] = True
    with torch.no_grad():
        out = detector(Images(torch.randn(2, 3, 64, 64), padding))
    assert out.boxes.isfinite().all()
    assert out.logits.isfinite().all()


def test_anchors_and_boxes_stay_float32_under_autocast() -> None:
    detector = _randomised(SMALL)
    image = Images(torch.randn(1, 3, 64, 64))
    with torch.no_grad():
        exact = detector(image)
        with torch.autocast("cpu", torch.bfloat16):
            low = detector(image)
    assert low.boxes.dtype == torch.float32
    assert all(a is not None and a.dtype == torch.float32 for a in low.anchors)
    assert low.logits.dtype == torch.bfloat16
    assert (low.boxes - exact.boxes).abs().max() < 0.05


def test_the_next_anchor_is_moved_by_unnormalised_content() -> None:
    detector = _randomised(SMALL)
    seen: list[torch.Tensor] = []
    detector.decoder.layers[0].register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        out = detector(Images(torch.randn(1, 3, 64, 64)))
        moved = move(out.anchors[0], detector.decoder.heads.deltas(seen[0], 0))
    assert torch.allclose(out.anchors[1], moved, atol=1e-6)
    assert not torch.allclose(out.boxes[0], moved, atol=1e-4)


def test_a_box_loss_reaches_the_layer_before_only_when_looking_forward_twice() -> None:
    for twice in (True, False):
        detector = _randomised(
            SMALL.override([f"model.decoder.look_forward_twice={str(twice).lower()}"])
        )
        content: list[torch.Tensor] = []
        detector.decoder.layers[0].register_forward_hook(lambda _m, _i, o, c=content: c.append(o))
        out = detector(Images(torch.randn(1, 3, 64, 64)))
        second = out.anchors[1]
        assert second is not None
        assert second.requires_grad == twice
        if twice:
            (reached,) = torch.autograd.grad(second.sum(), content[0])
            assert reached.any()


def test_hidden_queries_do_not_change_those_that_may_not_see_them() -> None:
    """The decoder's mask is what query groups will stand on."""
    detector = _randomised(SMALL)
    with torch.no_grad():
        image = Images(torch.randn(1, 3, 64, 64))
        memory = detector.encoder(detector.projection(detector.backbone(image)))
        queries = detector.queries(memory)
        hidden = torch.zeros(9, 9, dtype=torch.bool)
        hidden[:5, 5:] = True
        assert queries.anchors is not None
        few = type(queries)(queries.content[:, :5], queries.anchors[:, :5])
        whole = detector.decoder(queries, memory, hidden)
        part = detector.decoder(few, memory)
    assert torch.allclose(whole.boxes[:, :, :5], part.boxes, atol=1e-6)


def test_class_names_must_be_given_and_differ() -> None:
    for names in ([], ["a", "a"]):
        with pytest.raises(ValueError, match="class names"):
            build(SMALL, names)


@pytest.mark.parametrize("variant", ["DN", "contrastive", "DN-DAB-Deformable"])
def test_matching_queries_answer_the_same_with_and_without_groups(variant: str) -> None:
    detector = _randomised(SMALL.override(VARIANTS[variant]))
    images = Images(torch.randn(2, 3, 64, 64))
    with torch.no_grad():
        alone = detector(images)
        trained = detector(images, _targets(4, 0))
    assert alone.groups == ()
    ((group, part),) = trained.groups
    assert part.logits.shape[2] == group.count
    assert trained.boxes.shape == alone.boxes.shape
    assert torch.allclose(trained.boxes, alone.boxes, atol=1e-6)
    assert torch.allclose(trained.logits, alone.logits, atol=1e-5)


def test_denoising_without_any_object_is_no_group_and_no_nan() -> None:
    detector = _randomised(SMALL.override(VARIANTS["DN"])).train()
    targets = _targets(0, 0)
    out = detector(Images(torch.randn(2, 3, 64, 64)), targets)
    total, table = detection_loss(out, targets, Loss())
    assert out.groups == ()
    assert total.isfinite()
    assert not any(term.startswith("denoising") for term, _ in table)


def test_a_groups_loss_is_in_the_total_and_in_the_table() -> None:
    detector = _randomised(SMALL.override(VARIANTS["DN"])).train()
    targets = _targets(2, 1)
    out = detector(Images(torch.randn(2, 3, 64, 64)), targets)
    loss = Loss()
    total, table = detection_loss(out, targets, loss)
    layers = range(len(out.logits))
    weights = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    expected = sum(
        weight * table[prefix + term, layer]
        for prefix in ("", "denoising_")
        for term, weight in weights.items()
        for layer in layers
    )
    assert total.item() == pytest.approx(float(expected), rel=1e-5)
    assert all(table["denoising_loss_bbox", layer] > 0 for layer in layers)


def test_proposals_are_the_best_tokens_and_their_boxes_the_anchors() -> None:
    detector = _randomised(_override("DINO"))
    image = Images(torch.randn(1, 3, 64, 64))
    with torch.no_grad():
        memory = detector.encoder(detector.projection(detector.backbone(image)))
        queries = detector.queries(memory)
    assert queries.proposals is not None
    assert queries.anchors is not None
    assert queries.anchors.equal(queries.proposals.boxes[0])
    scores = queries.proposals.logits[0].max(-1).values
    assert scores.equal(scores.sort(descending=True).values)
    assert ((queries.anchors > 0) & (queries.anchors <= 1)).all()


def test_more_queries_than_tokens_gives_as_many_as_there_are() -> None:
    detector = _randomised(_override("DINO").override(["model.queries.count=1000"]))
    with torch.no_grad():
        out = detector(Images(torch.randn(1, 3, 32, 32)))
    assert out.boxes.shape[2] == 8 * 8 + 4 * 4 + 2 * 2
    assert out.boxes.isfinite().all()


def test_padding_is_never_proposed() -> None:
    detector = _randomised(_override("DINO").override(["model.queries.count=30"]))
    padding = torch.zeros(1, 64, 64, dtype=torch.bool)
    padding[:, :, 32:] = True
    image = Images(torch.randn(1, 3, 64, 64), padding)
    with torch.no_grad():
        memory = detector.encoder(detector.projection(detector.backbone(image)))
        first, valid = _first_boxes(memory)
    assert memory.padding is not None
    assert not (valid & memory.padding).any()
    inside = first.sigmoid()[valid]
    assert ((inside > 0) & (inside < 1)).all()  # in the frame of the unpadded image
    assert inside[:, 0].max() > 0.8


@pytest.mark.parametrize(
    ("name", "smaller"),
    [
        ("dab-detr-nano", 0),
        ("dab-deformable-detr-nano", -2),  # SPEC §4.4: its anchors are large
        ("dino-nano", 0),
        ("co-dino-nano", 0),
    ],
)
def test_the_boxes_of_an_untrained_member_are_its_anchors(name: str, smaller: float) -> None:
    """In every layer, but for the smaller start of learned anchors of deformable members."""
    torch.manual_seed(0)
    detector = build(preset(name), NAMES).eval()
    with torch.no_grad():
        out = detector(Images(torch.randn(1, 3, 96, 96)))
    assert out.anchors[0] is not None
    moved = out.boxes.logit() - out.anchors[0].logit()
    expected = torch.tensor([0, 0, smaller, smaller]).expand_as(moved)
    torch.testing.assert_close(moved, expected.float(), atol=1e-3, rtol=0)


def test_one_head_of_all_layers_does_not_shrink_the_boxes_in_each() -> None:
    config = preset("dab-deformable-detr-nano").override(["model.box_head_per_layer=false"])
    torch.manual_seed(0)
    with torch.no_grad():
        out = build(config, NAMES).eval()(Images(torch.randn(1, 3, 96, 96)))
    torch.testing.assert_close(out.boxes[-1], out.boxes[0])


def test_initial_weights() -> None:
    """Packed attention, DETR's boxes and what makes places of queries (SPEC §1.10, §7)."""
    torch.manual_seed(0)
    detr, conditional = (
        build(preset(f"{name}-nano"), NAMES) for name in ("detr", "conditional-detr")
    )
    dino = build(preset("dino-nano"), NAMES)
    width = preset("detr-nano").model.width

    def bound(weight: Tensor) -> float:
        return weight.abs().max().item()

    packed = (6 / (3 * width + width)) ** 0.5
    for attention in (
        conditional.encoder.layers[0].attention,
        detr.decoder.layers[0].self_attention,
        detr.decoder.layers[0].cross_attention,
        dino.decoder.layers[0].self_attention,
    ):
        for part in (attention.query, attention.key, attention.value):  # pyright: ignore
            assert bound(part.weight) == pytest.approx(packed, rel=0.01)
            assert not part.bias.any()
        assert bound(attention.output.weight) == pytest.approx((6 / (2 * width)) ** 0.5, rel=0.01)  # pyright: ignore
    assert detr.decoder.heads.boxes[0][-1].weight.any()  # pyright: ignore
    assert not conditional.decoder.heads.boxes[0][-1].weight.any()  # pyright: ignore
    for first in (conditional.queries.to_point[0], dino.queries.project):  # pyright: ignore
        assert bound(first.weight) == pytest.approx((6 / (2 * width)) ** 0.5, rel=0.01)  # pyright: ignore
    assert dino.queries.content.std().item() == pytest.approx(1, abs=0.05)  # pyright: ignore
    assert not dino.queries.boxes[-1].weight.any()  # pyright: ignore
    assert bound(dino.queries.classes.weight) == pytest.approx(width**-0.5, rel=0.05)  # pyright: ignore
