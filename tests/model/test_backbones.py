"""Backbones: frozen norms, folding, what is trained, which maps come out."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from dabdetr.config import Backbone
from dabdetr.model.backbones import FoldedConv2d, FrozenNorm, TimmBackbone, freeze_norms
from dabdetr.structures import Images


def _randomise_norms(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
            nn.init.normal_(part.running_mean, std=0.2)  # pyright: ignore
            nn.init.uniform_(part.running_var, 0.5, 1.5)  # pyright: ignore


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "tf_efficientnet_lite0", "convnext_atto"])
def test_folding_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    plain = timm.create_model(name, features_only=True).eval()
    _randomise_norms(plain)
    frozen = copy.deepcopy(plain)
    freeze_norms(frozen)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in frozen.modules())
    norms = [part for part in frozen.modules() if isinstance(part, FrozenNorm)]
    assert all(norm.folded for norm in norms)
    assert sum(isinstance(part, FoldedConv2d) for part in frozen.modules()) == len(norms)
    keys = {key for key in plain.state_dict() if not key.endswith("num_batches_tracked")}
    assert set(frozen.state_dict()) == keys
    x = torch.randn(1, 3, 70, 90)
    with torch.no_grad():
        for a, b in zip(plain(x), frozen(x), strict=True):
            assert torch.allclose(a, b, atol=1e-4 * a.abs().max().item())


def test_folded_weights_follow_every_change() -> None:
    body = TimmBackbone(Backbone(name="resnet18", freeze_stride=0)).eval()
    image = Images(torch.randn(1, 3, 64, 64))
    with torch.no_grad():
        first = body(image).maps[0].clone()
        assert body(image).maps[0].equal(first)
        body.body.conv1.weight.mul_(1.5)
        second = body(image).maps[0].clone()
        body.body.bn1.running_var.mul_(2.0)
        third = body(image).maps[0].clone()
    assert not second.equal(first)
    assert not third.equal(second)
    fresh = copy.deepcopy(body)
    with torch.no_grad():
        assert fresh(image).maps[0].equal(third)
    trained = body.train()(image).maps[0]
    assert torch.allclose(trained, third, atol=1e-5)
    assert trained.requires_grad


@pytest.mark.parametrize(
    ("stride", "frozen"),
    [(0, []), (2, ["conv1"]), (4, ["conv1", "layer1"]), (8, ["conv1", "layer1", "layer2"])],
)
def test_stages_up_to_a_stride_are_frozen(stride: int, frozen: list[str]) -> None:
    body = TimmBackbone(Backbone(name="resnet18", freeze_stride=stride)).body
    still = {key.split(".")[0] for key, p in body.named_parameters() if not p.requires_grad}
    assert still == set(frozen)


def test_lite0_freezes_by_stride_and_ends_at_its_last_map() -> None:
    body = TimmBackbone(Backbone(name="tf_efficientnet_lite0", strides=(16,), freeze_stride=8)).body
    trained = {".".join(k.split(".")[:2]) for k, p in body.named_parameters() if p.requires_grad}
    assert trained == {"blocks.3", "blocks.4"}
    assert len(body.blocks) == 5  # pyright: ignore


def test_dilation_keeps_the_channels_and_halves_the_stride() -> None:
    plain = TimmBackbone(Backbone(name="resnet50"))
    dilated = TimmBackbone(Backbone(name="resnet50", output_stride=16, strides=(16,)))
    assert (plain.channels, plain.strides) == ([2048], [32])
    assert (dilated.channels, dilated.strides) == ([2048], [16])
    with torch.no_grad():
        assert dilated(Images(torch.randn(1, 3, 64, 96))).maps[0].shape == (1, 2048, 4, 6)


def test_several_maps_and_their_padding() -> None:
    body = TimmBackbone(Backbone(name="resnet18", strides=(8, 16, 32)))
    padding = torch.zeros(1, 64, 96, dtype=torch.bool)
    padding[:, :, 64:] = True
    features = body(Images(torch.randn(1, 3, 64, 96), padding))
    assert [tuple(m.shape[1:]) for m in features.maps] == [(128, 8, 12), (256, 4, 6), (512, 2, 3)]
    for part, width in zip(features.paddings, (8, 4, 2), strict=True):
        assert part is not None
        assert part[0, 0].tolist() == [False] * width + [True] * (width // 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "no_such_net"}, "no_such_net"),
        ({"name": "resnet18", "strides": (4, 12)}, "no map of stride 12"),
        ({"name": "resnet18", "options": {"wings": 2}}, "wings"),
    ],
)
def test_a_backbone_that_cannot_be_built_is_named(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TimmBackbone(Backbone(**changes))


def test_weights_folded_in_inference_mode_serve_training_later() -> None:
    body = TimmBackbone(Backbone(name="resnet18"))
    image = Images(torch.randn(1, 3, 64, 64))
    with torch.inference_mode():
        body(image)
    body(image).maps[0].sum().backward()
    assert body.body.layer4[0].conv1.weight.grad is not None  # pyright: ignore


def test_tensorflow_padding_does_not_shift_a_picture_in_a_larger_batch() -> None:
    torch.manual_seed(0)
    body = TimmBackbone(Backbone(name="tf_efficientnet_lite0", strides=(16,))).eval()
    picture = torch.randn(1, 3, 90, 366)
    padding = torch.zeros(1, 90, 389, dtype=torch.bool)
    padding[:, :, 366:] = True
    with torch.no_grad():
        alone = body(Images(picture))
        wider = body(Images(torch.nn.functional.pad(picture, (0, 23)), padding))
    assert alone.maps[0].shape[-2:] == (6, 24)
    inner = slice(0, 6)  # columns out of the right border's reach
    gap = (alone.maps[0][..., inner] - wider.maps[0][..., inner]).abs().max()
    assert gap <= 1e-4 * alone.maps[0].abs().max()
    assert alone.paddings[0] is not None
    assert alone.paddings[0][0, 0].tolist() == [False] * 23 + [True]


def test_a_frozen_norm_never_silences_a_branch() -> None:
    body = TimmBackbone(Backbone(name="resnet18"))  # timm starts these branches at zero
    assert all(m.weight.any() for m in body.modules() if isinstance(m, FrozenNorm))
