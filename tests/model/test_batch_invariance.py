"""An image gives the same detections alone, in any batch, in any order, with any padding."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dabdetr.config import Config
from dabdetr.data.augmentation import prepare
from dabdetr.data.loader import pad
from dabdetr.inference.torch_runtime import detect_batch
from dabdetr.model.detector import Detector, build
from dabdetr.predictor import Predictor
from dabdetr.presets import PRESETS, derive, preset
from dabdetr.structures import Detections, Images

SCORE, PIXELS = 1e-4, 0.05
SIZES = [(64, 64), (64, 90), (90, 64), (61, 83), (40, 100), (90, 90), (33, 35)]
"""Heights and widths: whole cells of every stride, and odd ones."""


def _with_backbone(member: str, **backbone: Any) -> Config:
    """A member at teaching size on another small network."""
    strides = preset(member).model.backbone.strides
    return derive(
        preset(member),
        backbone["name"],
        model__backbone={"strides": strides, "norm": "trained", "freeze_stride": 0, **backbone},
    )


_SWIN = {"depths": (2, 2, 2, 2), "embed_dim": 24, "num_heads": (1, 2, 4, 8)}
_VIT = {"depth": 4, "embed_dim": 32, "num_heads": 2, "img_size": 64}
MEMBERS = {name: preset(name) for name in PRESETS if name.endswith("-nano")} | {
    "lite0": _with_backbone("dab-detr-nano", name="tf_efficientnet_lite0"),
    "lite0, deformable": _with_backbone("dab-deformable-detr-nano", name="tf_efficientnet_lite0"),
    "ConvNeXt": _with_backbone("dino-nano", name="convnext_atto"),
    "Swin": _with_backbone("dino-nano", name="swin_tiny_patch4_window7_224", options=_SWIN),
    "ViT": derive(
        preset("dino-nano"),
        "vit",
        model__backbone={
            "kind": "vit",
            "name": "vit_tiny_patch16_224",
            "options": _VIT,
            "strides": (8, 16),
            "global_blocks": 2,
            "window": 3,
        },
    ),
}


@cache
def _detector(member: str) -> Detector:
    """With every parameter drawn anew, and classes that say something of every query."""
    config = MEMBERS[member].override(["image.size=64", "image.max_size=96"])
    torch.manual_seed(1)
    detector = build(config, ("a", "b", "c")).eval()
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            scale = 0.2 if "heads" in name else 0.03  # with more, rounding grows
            parameter.add_(scale * torch.randn_like(parameter))
            if "classes" in name and name.endswith("bias"):
                parameter.zero_()
    return detector


@cache
def _image(height: int, width: int, seed: int) -> np.ndarray:
    """Blots of any colour: borders of objects everywhere, also at the image's."""
    rng = np.random.default_rng([height, width, seed])
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1)[:height, :width])


@cache
def _alone(member: str, key: tuple[int, int, int]) -> Detections:
    return Predictor(_detector(member)).one(
        _image(*key), conf=0.0, max_det=10_000, multi_label=True
    )


def _assert_same(found: Detections, expected: Detections) -> None:
    """The same boxes of the same queries, whatever the order among equal scores."""
    rows = [np.lexsort((each.labels, each.queries)) for each in (found, expected)]
    one, other = found[rows[0]], expected[rows[1]]
    np.testing.assert_array_equal(one.queries, other.queries)
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=SCORE)
    np.testing.assert_allclose(one.boxes, other.boxes, rtol=0, atol=PIXELS)
    assert found.size == expected.size


quick = settings(max_examples=8, phases=(Phase.generate,))  # failures need no shrinking
keys = st.tuples(st.sampled_from(SIZES), st.integers(0, 2)).map(lambda k: (*k[0], k[1]))


@pytest.mark.parametrize("member", MEMBERS)
@quick
@given(st.lists(keys, min_size=1, max_size=5), st.integers(1, 4))
def test_any_batch_in_any_order(member: str, keys: list[tuple[int, int, int]], batch: int) -> None:
    predictor = Predictor(_detector(member), batch=batch)
    images = [_image(*key) for key in keys]
    found = predictor(images, conf=0.0, max_det=10_000, multi_label=True)
    for key, each in zip(keys, found, strict=True):
        _assert_same(each, _alone(member, key))


@pytest.mark.parametrize("member", MEMBERS)
@quick
@given(st.lists(keys, min_size=1, max_size=4), st.integers(0, 40), st.integers(0, 40))
def test_any_padding(member: str, keys: list[tuple[int, int, int]], down: int, right: int) -> None:
    detector = _detector(member)
    images = pad([prepare(_image(*key), detector.config.image) for key in keys])
    padding = images.padding
    if padding is None:
        padding = torch.zeros_like(images.pixels[:, 0], dtype=torch.bool)
    images = Images(
        torch.nn.functional.pad(images.pixels, (0, right, 0, down), value=0.7),
        torch.nn.functional.pad(padding, (0, right, 0, down), value=True),
    )
    sizes = [key[:2] for key in keys]
    for key, each in zip(keys, detect_batch(detector, images, sizes, 10_000), strict=True):
        high = np.array((key[1], key[0]) * 2, np.float32)
        each = each[:]
        each.boxes[:] = each.boxes.clip(0, high)
        _assert_same(each, _alone(member, key))


def test_the_images_are_told_apart() -> None:
    """The test above would not notice a model that says the same of everything."""
    one, other = (_alone("dab-detr-nano", (64, 64, seed)) for seed in (0, 1))
    with pytest.raises(AssertionError):
        _assert_same(one, other)


def test_an_image_of_nothing_but_padding_gives_numbers() -> None:
    images = Images(torch.zeros(2, 3, 64, 64), torch.ones(2, 64, 64, dtype=torch.bool))
    found = detect_batch(_detector("dab-detr-nano"), images, [(64, 64)] * 2, 10)
    assert all(np.isfinite(each.boxes).all() for each in found)
