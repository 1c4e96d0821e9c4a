"""Backbones: frozen norms, folding, what is trained, which maps come out."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models.swin_transformer import ShiftedWindowAttention

from dabdetr.checkpoints.transfer import timm_state
from dabdetr.config import Backbone
from dabdetr.model.backbones import TimmBackbone
from dabdetr.model.detector import build
from dabdetr.model.frozen_norm import FoldedConv2d, FrozenNorm, freeze_norms
from dabdetr.presets import derive, preset
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


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_folding_changes_no_gradient(name: str) -> None:
    torch.manual_seed(0)
    plain = timm.create_model(name, features_only=True).eval()
    _randomise_norms(plain)
    frozen = copy.deepcopy(plain)
    freeze_norms(frozen)
    x = torch.randn(1, 3, 64, 96)  # the first layers have fewer weights than their maps numbers
    for body in (plain, frozen):
        sum(m.square().mean() for m in body(x)).backward()  # pyright: ignore
    weights = dict(plain.named_parameters())
    norms = {n for n, part in plain.named_modules() if isinstance(part, nn.BatchNorm2d)}
    compared = 0
    for key, parameter in frozen.named_parameters():
        if key.rpartition(".")[0] not in norms and parameter.grad is not None:
            expected = weights[key].grad
            torch.testing.assert_close(
                parameter.grad, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item()
            )
            compared += 1
    assert compared == sum(isinstance(part, nn.Conv2d) for part in plain.modules())


def test_settled_convolutions_pad_whole_cells_as_tensorflow_does() -> None:
    torch.manual_seed(0)
    body = TimmBackbone(Backbone(name="tf_efficientnet_lite0", strides=(8, 16, 32))).eval()
    _randomise_norms(body)
    image = Images(torch.randn(1, 3, 64, 96))
    with torch.no_grad():
        before = body(image).maps
        for module in body.modules():
            if isinstance(module, FoldedConv2d):
                module.fold()
        for a, b in zip(before, body(image).maps, strict=True):
            assert torch.allclose(a, b, atol=1e-5 * a.abs().max().item())


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


@pytest.mark.parametrize("side", [16, 2])  # while learning, weights are scaled; the map is
@pytest.mark.parametrize("switched", [True, False])
def test_folded_weights_follow_a_fused_step(side: int, switched: bool) -> None:
    """Such a step does not count as a change of the weights; what was evaluated before it lies."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32))
    freeze_norms(net)
    net.eval()
    image = torch.randn(1, 16, side, side)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, fused=True)
    with torch.no_grad():
        before = net(image)
    net.train(switched)
    net(image).sum().backward()
    optimizer.step()
    with torch.no_grad():
        net.eval()
        after = net(image)
    fresh = copy.deepcopy(net)
    fresh[0]._folded = None  # pyright: ignore
    with torch.no_grad():
        torch.testing.assert_close(after, fresh(image), atol=0, rtol=0)
    assert not after.allclose(before)


@pytest.mark.parametrize(
    ("stride", "frozen"),
    [(0, []), (2, ["conv1"]), (4, ["conv1", "layer1"]), (8, ["conv1", "layer1", "layer2"])],
)
def test_stages_up_to_a_stride_are_frozen(stride: int, frozen: list[str]) -> None:
    body = TimmBackbone(Backbone(name="resnet18", freeze_stride=stride)).body
    still = {key.split(".")[0] for key, p in body.named_parameters() if not p.requires_grad}
    assert still == set(frozen)


def test_frozen_stages_keep_their_statistics() -> None:
    part = Backbone(name="resnet18", norm="trained", freeze_stride=4)
    body = TimmBackbone(part).train()
    before = copy.deepcopy(body.state_dict())
    body(Images(torch.randn(2, 3, 64, 64)))
    changed = {
        key.split(".")[1]
        for key, value in body.state_dict().items()
        if not value.equal(before[key])
    }
    assert changed == {"layer2", "layer3", "layer4"}
    assert body.eval().train().body.layer2[0].bn1.training  # pyright: ignore


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
        ({"name": "vit_tiny_patch16_224", "strides": (16,)}, "set model.backbone.kind to 'vit'"),
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


# Name, its channels at strides 8, 16 and 32, and what the sides of an input are filled up to.
NETWORKS = [
    ("resnet18", [128, 256, 512], 1),
    ("regnetx_002", [56, 152, 368], 1),
    ("mobilenetv2_050", [16, 48, 160], 1),
    ("mobilenetv3_small_050", [16, 24, 288], 1),
    ("efficientnet_lite0", [40, 112, 320], 1),
    ("tf_efficientnet_lite0", [40, 112, 320], 32),
    ("convnext_atto", [80, 160, 320], 32),
    ("swin_tiny_patch4_window7_224", [48, 96, 192], 4),
    ("swinv2_cr_tiny_ns_224", [48, 96, 192], 4),
]
_NARROW = {"embed_dim": 24, "num_heads": (1, 2, 4, 8)}
OPTIONS: dict[str, Any] = {
    "swin_tiny_patch4_window7_224": {"depths": (2, 2, 2, 2), **_NARROW},
    "swinv2_cr_tiny_ns_224": {"depths": (1, 1, 2, 1), **_NARROW},
}


@pytest.mark.parametrize(("name", "channels", "cell"), NETWORKS)
def test_networks_give_their_maps_at_any_size(name: str, channels: list[int], cell: int) -> None:
    torch.manual_seed(0)
    part = Backbone(name=name, strides=(8, 16, 32), options=OPTIONS.get(name, {}), map_norm=True)
    body = TimmBackbone(part).eval()
    assert (body.channels, body.strides, body.cell) == (channels, [8, 16, 32], cell)
    padding = torch.zeros(2, 95, 131, dtype=torch.bool)
    padding[1, 40:] = True
    with torch.no_grad():
        features = body(Images(torch.randn(2, 3, 95, 131), padding))
    height, width = 95 + -95 % cell, 131 + -131 % cell
    for stride, n, found, hidden in zip(
        body.strides, channels, features.maps, features.paddings, strict=True
    ):
        assert found.shape == (2, n, -(-height // stride), -(-width // stride))
        assert hidden is not None
        assert hidden.shape == (2, *found.shape[-2:])
        assert hidden[1, -(-40 // stride) + 1 :].all()
        assert not hidden[:, : 40 // stride, : 128 // stride].any()
        means = found.mean(1)  # a fresh layer norm centres the channels of every place
        assert means.abs().max() < 1e-5


@pytest.mark.parametrize(("name", "channels", "cell"), NETWORKS)
def test_an_image_in_the_midst_of_a_batch_changes_only_near_its_padding(
    name: str, channels: list[int], cell: int
) -> None:
    if name.startswith("mobilenetv3"):
        pytest.skip("squeeze-and-excitation averages over the whole input, padding and all")
    torch.manual_seed(0)
    options = OPTIONS.get(name, {})
    body = TimmBackbone(Backbone(name=name, strides=(8,), options=options)).eval()
    image = torch.randn(1, 3, 112, 250)
    padding = torch.zeros(1, 112, 300, dtype=torch.bool)
    padding[:, :, 250:] = True
    with torch.no_grad():
        alone = body(Images(image)).maps[0][..., :8]
        wider = body(Images(torch.nn.functional.pad(image, (0, 50)), padding)).maps[0][..., :8]
    assert (alone - wider).abs().max() <= 1e-4 * alone.abs().max()


@pytest.mark.parametrize(
    ("name", "stride", "frozen"),
    [
        ("swin_tiny_patch4_window7_224", 0, []),
        ("swin_tiny_patch4_window7_224", 4, ["layers_0", "patch_embed"]),
        ("swin_tiny_patch4_window7_224", 8, ["layers_0", "layers_1", "patch_embed"]),
        ("convnext_atto", 4, ["stages_0", "stem_0", "stem_1"]),
        ("convnext_atto", 16, ["stages_0", "stages_1", "stages_2", "stem_0", "stem_1"]),
        ("regnetx_002", 8, ["s1", "s2", "stem"]),
        ("mobilenetv3_small_050", 32, ["blocks", "conv_stem"]),
    ],
)
def test_frozen_stages_of_other_networks(name: str, stride: int, frozen: list[str]) -> None:
    part = Backbone(name=name, options=OPTIONS.get(name, {}), freeze_stride=stride, map_norm=True)
    body = TimmBackbone(part)
    still = {key.split(".")[0] for key, p in body.body.named_parameters() if not p.requires_grad}
    assert sorted(still) == frozen
    moving = {key.split(".")[0] for key, p in body.body.named_parameters() if p.requires_grad}
    assert not moving & still
    body(Images(torch.randn(1, 3, 64, 64))).maps[0].square().sum().backward()
    trained = [p for p in body.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("size", [(10, 13), (14, 21), (9, 28)])
def test_swin_fills_up_its_windows_before_it_shifts_them(size: tuple[int, int], shift: int) -> None:
    """torchvision's attention does, and that of Swin's own detectors."""
    torch.manual_seed(0)
    name = "swin_tiny_patch4_window7_224"
    body = copy.deepcopy(TimmBackbone(Backbone(name=name, strides=(4,), options=OPTIONS[name])))
    block: Any = body.eval().body.layers_0.blocks[shift // 3]  # pyright: ignore
    assert block.shift_size == (shift, shift)
    nn.init.normal_(block.attn.relative_position_bias_table)
    peer = ShiftedWindowAttention(24, [7, 7], [shift, shift], 1)
    table = {"relative_position_index": peer.relative_position_index}
    peer.load_state_dict(block.attn.state_dict() | table)
    x = torch.randn(2, *size, 24)
    with torch.no_grad():
        expected = x + peer(block.norm1(x))
        expected = expected + block.mlp(block.norm2(expected))
        assert torch.allclose(block(x), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["dino-swin-l-4scale", "dino-swin-l-5scale"])
def test_swin_presets_build_and_answer(name: str) -> None:
    """A twelfth as wide and with fewer blocks, as the whole one takes seconds and a gigabyte."""
    small = {"embed_dim": 16, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}
    config = derive(preset(name), "small", model__backbone__options=small)
    detector = build(config, ["a", "b"]).eval()
    assert all(p.requires_grad for p in detector.backbone.parameters())
    with torch.no_grad():
        boxes = detector(Images(torch.randn(1, 3, 95, 131))).boxes
    assert boxes.isfinite().all()


def test_the_last_stage_of_swin_shifts_too() -> None:
    name = "swin_tiny_patch4_window7_224"
    body = TimmBackbone(Backbone(name=name, options=OPTIONS[name]))
    assert body.body.layers_3.blocks[1].shift_size == (3, 3)  # pyright: ignore


@pytest.mark.parametrize("name", ["convnext_atto", "regnetx_002", "mobilenetv3_small_050"])
def test_other_networks_that_can_be_dilated(name: str) -> None:
    body = TimmBackbone(Backbone(name=name, output_stride=16, strides=(8, 16)))
    with torch.no_grad():
        maps = body(Images(torch.randn(1, 3, 64, 96))).maps
    assert [tuple(m.shape[-2:]) for m in maps] == [(8, 12), (4, 6)]


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "hgnetv2_b0"])
def test_networks_that_cannot_be_dilated_say_so(name: str) -> None:
    with pytest.raises(ValueError, match=f"output_stride is 16, and timm cannot dilate '{name}'"):
        TimmBackbone(Backbone(name=name, output_stride=16, strides=(16,)))


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_timms_own_file_fills_a_cut_network(name: str, tmp_path: Path) -> None:
    options = OPTIONS.get(name, {})
    published = timm.create_model(name, **options)
    _randomise_norms(published)
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    body = TimmBackbone(Backbone(name=name, strides=(16,), options=options))
    state = timm_state(body.part, tmp_path / "model.safetensors")
    own = body.body.state_dict()
    assert set(own) <= set(state)
    given = {key.replace(".", "_"): value for key, value in published.state_dict().items()}
    assert all(state[key].equal(given[key.replace(".", "_")]) for key in own)


def test_tensorflow_padding_does_not_shift_an_image_in_a_larger_batch() -> None:
    torch.manual_seed(0)
    body = TimmBackbone(Backbone(name="tf_efficientnet_lite0", strides=(16,))).eval()
    image = torch.randn(1, 3, 90, 366)
    padding = torch.zeros(1, 90, 389, dtype=torch.bool)
    padding[:, :, 366:] = True
    with torch.no_grad():
        alone = body(Images(image))
        wider = body(Images(torch.nn.functional.pad(image, (0, 23)), padding))
    assert alone.maps[0].shape[-2:] == (6, 24)
    inner = slice(0, 6)  # columns out of the right border's reach
    gap = (alone.maps[0][..., inner] - wider.maps[0][..., inner]).abs().max()
    assert gap <= 1e-4 * alone.maps[0].abs().max()
    assert alone.paddings[0] is not None
    assert alone.paddings[0][0, 0].tolist() == [False] * 23 + [True]


def test_a_frozen_norm_never_silences_a_branch() -> None:
    body = TimmBackbone(Backbone(name="resnet18"))  # timm starts these branches at zero
    assert all(m.weight.any() for m in body.modules() if isinstance(m, FrozenNorm))


def test_more_channels_than_a_size_can_hold_are_a_wrong_option() -> None:
    options = {"channels": [32, 64, 10**30, 128], "layers": [1, 1, 1, 1]}
    with pytest.raises(ValueError, match="cannot be built by timm as a feature network"):
        TimmBackbone(Backbone(name="resnet18", options=options, freeze_stride=0))
