"""Every pair of choices: it says what contradicts, or it trains a hard batch, in both skeletons."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from dabdetr.config import Config
from dabdetr.model.detector import build
from dabdetr.presets import derive, preset
from dabdetr.structures import Images, Targets
from dabdetr.training.losses import detection_loss

TINY = derive(
    preset("dab-detr-nano"),
    "tiny",
    model__width=16,
    model__heads=2,
    model__feedforward=16,
    model__queries__count=4,
    model__encoder__layers=1,
    model__decoder__layers=2,
    model__backbone__norm="frozen",
)
SKELETONS = {
    "dense": [],
    "deformable": [
        "model.backbone.strides=[8, 16]",
        "model.encoder={kind: deformable, levels: 2, points: 1, layers: 1}",
        "model.decoder.cross_attention={kind: deformable, points: 1}",
    ],
}
CHOICES = {
    "plain queries": ["model.queries={count: 4, anchor: null}"],
    "points": ["model.queries={count: 4, anchor: point}"],
    "proposals": ["model.queries={kind: from_encoder, count: 4}"],
    "proposed content": ["model.queries={kind: from_encoder, count: 4, content: box}"],
    "objectness": [
        "model.queries={kind: from_encoder, count: 4, rank: objectness}",
    ],
    "patterns": ["model.queries.patterns=2"],
    "unknown content": ["model.queries.content=unknown"],
    "one query": ["model.queries.count=1"],
    "add attention": ["model.decoder.cross_attention={kind: add}"],
    "concat attention": ["model.decoder.cross_attention={kind: concat}"],
    "no size": ["model.decoder.cross_attention={kind: concat, modulate_size: false}"],
    "sampling": ["model.decoder.cross_attention={kind: deformable, points: 1}"],
    "dense encoder": ["model.encoder={kind: dense, layers: 1}"],
    "no encoder": ["model.encoder.layers=0"],
    "sampling encoder": ["model.encoder={kind: deformable, levels: 2, points: 1, layers: 1}"],
    "one map": ["model.backbone.strides=[8]"],
    "three levels": ["model.encoder.levels=3"],
    "unmodulated": ["model.decoder.modulate_position=null"],
    "layer modulation": ["model.decoder.modulate_position=layer"],
    "still anchors": [
        "model.decoder.update_anchors=false",
        "model.decoder.look_forward_twice=false",
    ],
    "looking once": ["model.decoder.look_forward_twice=false"],
    "one layer": ["model.decoder.layers=1"],
    "dn": ["model.denoising={kind: dn, groups: 2}"],
    "contrastive": ["model.denoising={kind: contrastive, number: 2}"],
    "softmax": ["loss.classification=softmax"],
    "norm first": [
        "model.norm_first=true",
        "model.encoder.norm=true",
        "model.position_temperature_width=7",
    ],
    "own heads": ["model.box_head_per_layer=true", "model.class_head_per_layer=true"],
}


def _hard_batch() -> tuple[Images, Targets]:
    """More objects than queries, one touching two borders, one without extent; an empty image."""
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.3]] * 6)
    boxes[0] = torch.tensor([0.9, 0.95, 0.2, 0.1])
    boxes[1, 2:] = 0
    padding = torch.zeros(2, 37, 61, dtype=torch.bool)
    padding[1, :, 40:] = True
    return Images(torch.randn(2, 3, 37, 61), padding), Targets(torch.zeros(6).long(), boxes, (6, 0))


def _configure(skeleton: str, *choices: str) -> Config | str:
    """The config with these choices, or the sentence that refuses them."""
    changes = [change for choice in choices for change in CHOICES[choice]]
    try:
        return TINY.override([*SKELETONS[skeleton], *changes])
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("skeleton", SKELETONS)
@pytest.mark.parametrize("first", CHOICES)
def test_a_pair_is_refused_in_a_sentence_or_trains(skeleton: str, first: str) -> None:
    torch.manual_seed(0)
    pairs = [(a, b) for a, b in combinations(CHOICES, 2) if a == first]
    for pair in [(first,), *pairs]:
        config = _configure(skeleton, *pair)
        if isinstance(config, str):
            assert len(config) < 400, (pair, config)
            assert "." in config.split(":")[0] + config, (pair, config)
            assert any(word in config for word in ("model.", "decoder.", "queries.")), pair
            continue
        detector = build(config, ["thing"]).train()
        images, targets = _hard_batch()
        for aims in (targets, Targets(targets.labels[:0], targets.boxes[:0], (0, 0))):
            out = detector(images, aims)
            total, _ = detection_loss(out, aims, config.loss)
            detector.zero_grad()
            total.backward()
            bad = [
                key
                for key, p in detector.named_parameters()
                if p.grad is not None and not p.grad.isfinite().all()
            ]
            assert torch.isfinite(total), pair
            assert bad == [], pair
        with torch.no_grad():
            alone = detector.eval()(Images(images.pixels[:1]))
        assert alone.boxes.isfinite().all(), pair


def test_most_pairs_are_allowed_and_some_are_not() -> None:
    found = {
        skeleton: [
            isinstance(_configure(skeleton, *pair), str) for pair in combinations(CHOICES, 2)
        ]
        for skeleton in SKELETONS
    }
    for skeleton, refused in found.items():
        assert 0.2 < sum(refused) / len(refused) < 0.75, skeleton
