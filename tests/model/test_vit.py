"""Plain vision transformers: timm's features, windows, padding, pyramid, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from dabdetr.checkpoints.native import load_model, save_model
from dabdetr.checkpoints.transfer import initialise, timm_state
from dabdetr.config import Config, Vit
from dabdetr.model.detector import Detector, build
from dabdetr.model.vit import VitBackbone, _attend, stretch
from dabdetr.presets import derive, preset
from dabdetr.structures import Images

SMALL: dict[str, Any] = {"depth": 4, "embed_dim": 32, "num_heads": 2}
FOUR_PATCHES = {**SMALL, "img_size": 56}


def _randomise(module: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            one = parameter.dim() == 1 and not name.endswith("bias")
            fan = parameter[0].numel() if parameter.dim() > 1 else 10
            spread = 3 * fan**-0.5 if "qkv" in name else fan**-0.5
            parameter.normal_(float(one), 1.0 if "_token" in name else spread, generator=generator)


def _backbone(**changes: Any) -> VitBackbone:
    """A DINOv2 of four blocks, all random: the table of positions has 4 × 4 places."""
    settings = {"name": "vit_small_patch14_reg4_dinov2", "options": FOUR_PATCHES, "channels": 12}
    body = VitBackbone(Vit(**{**settings, **changes})).eval()
    _randomise(body)
    return body


def _images(*sizes: tuple[int, int], filling: float = 0.0) -> Images:
    """Random images at the top left of a batch; ``filling`` is what their padding holds."""
    height, width = max(s[0] for s in sizes), max(s[1] for s in sizes)
    pixels = torch.full((len(sizes), 3, height, width), filling)
    padding = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for i, (h, w) in enumerate(sizes):
        generator = torch.Generator().manual_seed(h * w)
        pixels[i, :, :h, :w] = torch.randn(3, h, w, generator=generator)
        padding[i, :h, :w] = False
    return Images(pixels, padding if padding.any() else None)


def _close(a: Tensor, b: Tensor, bound: float = 1e-5) -> bool:
    return bool((a - b).abs().max() <= bound * b.abs().max())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_small_patch14_dinov2", FOUR_PATCHES),
        ("vit_small_patch14_reg4_dinov2", FOUR_PATCHES),
        ("vit_tiny_patch16_224", {**SMALL, "img_size": 64}),
        ("vit_base_patch16_clip_224", {**SMALL, "img_size": 64}),
        ("deit3_small_patch16_224", {**SMALL, "img_size": 64}),
        (
            "vit_tiny_patch16_224",
            {**SMALL, "img_size": 48, "class_token": False, "global_pool": ""},
        ),
    ],
)
def test_without_windows_the_patches_are_those_of_timm(name: str, options: dict) -> None:
    patch = 14 if "patch14" in name else 16
    ours = _backbone(name=name, options=options, window=None, strides=(patch,))
    native = timm.create_model(name, num_classes=0, **options).eval()
    other = timm.create_model(name, num_classes=0, dynamic_img_size=True, **options).eval()
    side = options["img_size"] // patch
    torch.manual_seed(0)
    for reference, grid, bound in ((native, (side, side), 1e-5), (other, (6, 9), 1e-4)):
        reference.load_state_dict(ours.body.state_dict())
        x = torch.randn(2, 3, grid[0] * patch, grid[1] * patch)
        with torch.no_grad():
            expected = reference.forward_features(x)[:, ours.body.num_prefix_tokens :]
            assert _close(ours.patches(x, None).flatten(1, 2), expected, bound)
    assert all(block.attn.fused_attn for block in ours.body.blocks)


@given(cells=st.integers(1, 9), count=st.integers(1, 20), behind=st.integers(0, 5))
def test_positions_are_stretched_as_by_antialiased_bicubic_interpolation(
    cells: int, count: int, behind: int
) -> None:
    table = torch.randn(1, 1, cells, cells, generator=torch.Generator().manual_seed(cells))
    expected = F.interpolate(table, (count, count), mode="bicubic", antialias=True)[0, 0]
    weights = stretch(cells, torch.tensor([count]), count + behind)[0]
    assert torch.allclose(weights[:count] @ table[0, 0] @ weights[:count].T, expected, atol=1e-5)
    assert weights.isfinite().all()


@pytest.mark.parametrize("shape", [(5, 7), (4, 4), (6, 9), (2, 8)])
@pytest.mark.parametrize("prefix", [0, 3])
def test_a_windowed_block_is_the_block_over_each_window_alone(
    shape: tuple[int, int], prefix: int
) -> None:
    body = _backbone().body
    x, tokens = torch.randn(2, *shape, 32), torch.randn(2, prefix, 32)
    expected, copies = torch.empty_like(x), []
    with torch.no_grad():
        for top in range(0, shape[0], 3):
            for left in range(0, shape[1], 3):
                part = x[:, top : top + 3, left : left + 3]
                out = body.blocks[0](torch.cat([tokens, part.flatten(1, 2)], dim=1))
                copies.append(out[:, :prefix])
                inside = out[:, prefix:].unflatten(1, part.shape[1:3])
                expected[:, top : top + 3, left : left + 3] = inside
        after, patches = _attend(body.blocks[0], tokens, x, None, 3)
    assert torch.allclose(patches, expected, atol=1e-5)
    assert torch.allclose(after, torch.stack(copies).mean(0), atol=1e-5)


def test_a_window_that_covers_the_input_changes_nothing() -> None:
    everything, windows = _backbone(window=None), _backbone(window=5, global_blocks=1)
    images = _images((70, 60))  # five by five patches
    assert everything(images).maps[0].equal(windows(images).maps[0])
    larger = _images((70, 98))
    assert not _close(windows(larger).maps[0], everything(larger).maps[0], 1e-2)


@pytest.mark.parametrize(
    ("blocks", "windows"),
    [(4, [None] * 4), (2, [3, None, 3, None]), (1, [3, 3, 3, None]), (0, [3] * 4)],
)
def test_global_blocks_are_evenly_spaced(blocks: int, windows: list) -> None:
    assert _backbone(window=3, global_blocks=blocks).windows == windows


def test_windows_keep_to_themselves_and_global_blocks_do_not() -> None:
    options = {**FOUR_PATCHES, "class_token": False, "global_pool": "", "reg_tokens": 0}
    images = _images((56, 112))
    changed = Images(images.pixels.clone())
    changed.pixels[:, :, :, 56:] += 1.0
    for blocks, same in ((0, True), (1, False)):
        body = _backbone(options=options, window=4, global_blocks=blocks)
        with torch.no_grad():
            a, b = body.patches(images.pixels, None), body.patches(changed.pixels, None)
        assert a[:, :, :4].equal(b[:, :, :4]) is same
        assert not a[:, :, 4:].equal(b[:, :, 4:])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"strides": (7, 14, 28)}, [(14, 20), (7, 10), (4, 5)]),
        (
            {
                "name": "vit_tiny_patch16_224",
                "options": SMALL,
                "strides": (4, 8, 16, 32),
            },
            [(24, 36), (12, 18), (6, 9), (3, 5)],
        ),
    ],
)
def test_maps_have_the_strides_and_channels_asked_for(changes: dict, expected: list) -> None:
    body = _backbone(**changes)
    features = body(Images(torch.randn(2, 3, 95, 131)))
    assert [tuple(m.shape[-2:]) for m in features.maps] == expected
    assert [m.shape[1] for m in features.maps] == body.channels == [12] * len(expected)
    for stride, padding in zip(body.strides, features.paddings, strict=True):
        assert padding is not None
        assert (~padding[0]).any(1).sum() == -(-95 // stride)
        assert (~padding[0]).any(0).sum() == -(-131 // stride)


def test_an_input_of_whole_patches_has_no_padding() -> None:
    features = _backbone(strides=(7, 14))(Images(torch.randn(1, 3, 42, 70)))
    assert features.paddings == [None, None]


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("registers", [True, False])
def test_an_image_has_the_same_maps_in_any_batch(window: int | None, registers: bool) -> None:
    options = FOUR_PATCHES
    if not registers:
        options = {**options, "class_token": False, "global_pool": "", "reg_tokens": 0}
    body = _backbone(options=options, window=window, global_blocks=1, strides=(7, 14, 28))
    sizes = [(65, 80), (100, 61), (33, 140)]
    together = body(_images(*sizes, filling=7.0))
    for i, size in enumerate(sizes):
        alone = body(_images(size))
        for ours, many, hidden in zip(alone.maps, together.maps, together.paddings, strict=True):
            h, w = ours.shape[-2:]
            assert _close(many[i, :, :h, :w], ours[0])
            assert hidden is not None
            assert not many[i, :, hidden[i]].any()


def test_an_image_of_nothing_but_padding_gives_numbers() -> None:
    options = {**FOUR_PATCHES, "class_token": False, "global_pool": "", "reg_tokens": 0}
    images = Images(torch.randn(2, 3, 56, 70), torch.zeros(2, 56, 70, dtype=torch.bool))
    assert images.padding is not None
    images.padding[1] = True
    for window in (None, 2):
        body = _backbone(options=options, window=window, global_blocks=1).train()
        body(images).maps[0].sum().backward()
        assert body(images).maps[0].isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in body.parameters())


def test_every_parameter_gets_a_gradient() -> None:
    body = _backbone(strides=(7, 14, 28), window=2, global_blocks=2)
    features = body(_images((65, 80), (100, 61)))
    sum((m * torch.randn_like(m)).sum() for m in features.maps).backward()  # pyright: ignore
    without = [k for k, p in body.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_bfloat16_comes_near() -> None:
    body = _backbone(strides=(7, 14, 28), window=3, global_blocks=1)
    images = _images((65, 80), (100, 61))
    with torch.no_grad():
        exact = body(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = body(images)
    for a, b in zip(rough.maps, exact.maps, strict=True):
        assert (a - b).abs().mean() <= 0.05 * b.abs().mean()


@pytest.mark.parametrize("blocks", [0, 1, 4])
def test_frozen_blocks_and_what_comes_before_them_rest(blocks: int) -> None:
    body = _backbone(freeze_blocks=blocks).body
    trained = {k for k, p in body.named_parameters() if p.requires_grad}
    ends = {0: {"cls_token", "reg_token", "pos_embed", "patch_embed", "blocks", "norm"}}
    assert {k.split(".")[0] for k in trained} == ends.get(
        blocks, {"blocks", "norm"} if blocks < 4 else set()
    )
    assert {int(k.split(".")[1]) for k in trained if k[:6] == "blocks"} == set(range(blocks, 4))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "no_such_net"}, "no_such_net"),
        ({"name": "resnet18", "options": {}}, "resnet18"),
        ({"name": "vit_small_patch16_dinov3", "options": {}}, "plain vision transformers"),
        ({"name": "vit_tiny_r_s16_p8_224", "options": {}}, "plain vision transformers"),
        ({"options": {"wings": 2}}, "wings"),
        ({"strides": (14, 56)}, "strides has 56; patches .* choose of 7, 14, 28"),
        ({"freeze_blocks": 5}, "freeze_blocks is 5, more than the 4 blocks"),
        ({"global_blocks": 9}, "global_blocks is 9, more than the 4 blocks"),
    ],
)
def test_a_backbone_that_cannot_be_built_is_named(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        _backbone(**changes)
    assert "\n" not in str(caught.value)


# In a detector


def _config(**changes: Any) -> Config:
    part = {"kind": "vit", "name": "vit_tiny_patch16_224", "strides": (8, 16), "window": 3}
    part |= {"options": {**SMALL, "img_size": 64}, "global_blocks": 1, "channels": 16}
    return derive(preset("dino-nano"), "vit", model__backbone=part, **changes)


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return build(_config(), ["a", "b"]).eval()


def test_a_detector_is_saved_and_loaded_again(detector: Detector, tmp_path: Path) -> None:
    save_model(tmp_path / "vit.safetensors", detector)
    again = load_model(tmp_path / "vit.safetensors").model
    assert again.config == detector.config
    images = _images((90, 70), (50, 101))
    with torch.no_grad():
        assert again(images).boxes.equal(detector(images).boxes)


def test_timms_own_file_fills_the_transformer(detector: Detector, tmp_path: Path) -> None:
    published = timm.create_model("vit_tiny_patch16_224", **{**SMALL, "img_size": 64})
    _randomise(published, 3)
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    state = timm_state(detector.backbone.part, tmp_path / "model.safetensors")
    assert set(state) == set(detector.backbone.body.state_dict())
    assert all(value.equal(published.state_dict()[key]) for key, value in state.items())


def test_pretrained_weights_come_from_timms_place_in_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    part = {"kind": "vit", "name": "vit_tiny_patch16_224", "strides": (8, 16)}
    detector = build(derive(preset("dino-nano"), "vit", model__backbone=part), ["a"])
    with pytest.raises(
        FileNotFoundError, match=r"timm/vit_tiny_patch16_224.* --from none"
    ) as caught:
        initialise(detector, "imagenet")
    assert "\n" not in str(caught.value)
    repository = tmp_path / "models--timm--vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    published = timm.create_model("vit_tiny_patch16_224")
    save_file(published.state_dict(), repository / "snapshots" / "abc" / "model.safetensors")
    report = initialise(detector, "imagenet")
    own = detector.backbone.body.state_dict()
    assert len(report.loaded) == len(own)
    assert all(value.equal(published.state_dict()[key]) for key, value in own.items())
