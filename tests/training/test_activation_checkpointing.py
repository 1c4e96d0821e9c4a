"""Blocks computed anew in the backward pass: same loss, same gradients, less remembered."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from dabdetr.config import Config
from dabdetr.model.detector import Detector, build
from dabdetr.presets import PRESETS
from dabdetr.structures import Images, Targets
from dabdetr.training.activation_checkpointing import blocks, checkpoint_activations
from dabdetr.training.losses import detection_loss

PARTS = ("backbone", "encoder", "decoder")
FROZEN = ["model.backbone.norm=frozen", "model.dropout=0.1"]


def member(name: str) -> Config:
    return PRESETS[name].override(FROZEN)


def step(detector: Detector, mixed: bool = False) -> tuple[float, dict[str, Tensor], int]:
    """Loss, gradients and the number of floats remembered of one training step."""
    torch.manual_seed(1)
    pixels = torch.randn(2, 3, 64, 96)
    padding = torch.zeros(2, 64, 96, dtype=torch.bool)
    padding[1, :, 64:] = True
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.3, 0.6, 0.2, 0.2], [0.6, 0.4, 0.5, 0.5]])
    targets = Targets(torch.tensor([0, 2, 1]), boxes, (1, 2))
    remembered: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        remembered[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    detector.train()
    detector.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed), saved_tensors_hooks(pack, _same):
        predictions = detector(Images(pixels, padding), targets)
        total, _ = detection_loss(predictions, targets, detector.config.loss)
    total.backward()
    found = {n: p.grad.clone() for n, p in detector.named_parameters() if p.grad is not None}
    return total.item(), found, sum(remembered.values())


def _same(tensor: Tensor) -> Tensor:
    return tensor


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", ["dn-detr-nano", "dino-nano"])
def test_loss_and_gradients_stay(name: str, mixed: bool) -> None:
    plain = build(member(name), "abc")
    thrifty = deepcopy(plain)
    checkpoint_activations(thrifty, PARTS)
    loss, gradients, remembered = step(plain, mixed)
    loss_anew, gradients_anew, remembered_anew = step(thrifty, mixed)
    assert loss_anew == loss
    assert gradients.keys() == gradients_anew.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradients_anew[key], gradient, msg=key)
    assert remembered_anew < 0.6 * remembered
    assert thrifty.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("part", PARTS)
def test_every_part_forgets(part: str) -> None:
    detector = build(member("dab-detr-nano"), "abc")
    before = step(detector)[2]
    checkpoint_activations(detector, (part,))
    assert step(detector)[2] < before


def test_a_copy_computes_with_its_own_weights() -> None:
    detector = build(member("dab-detr-nano"), "abc").eval()
    checkpoint_activations(detector, PARTS)
    copy = deepcopy(detector)
    images = Images(torch.randn(1, 3, 64, 64))
    with torch.no_grad():
        before = copy(images).logits
        for parameter in detector.parameters():
            parameter.zero_()
        assert torch.equal(copy(images).logits, before)
        assert not torch.equal(detector(images).logits, before)


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ("{name: resnet50, strides: [32]}", 16),
        ("{name: tf_efficientnet_lite0, strides: [16], norm: frozen}", 11),
        ("{name: swin_tiny_patch4_window7_224, strides: [32], norm: trained}", 12),
        ("{kind: vit, name: vit_tiny_patch16_224, strides: [16]}", 13),  # and the pyramid's level,
    ],
)
def test_blocks_of_a_backbone(change: str, count: int) -> None:
    detector = build(PRESETS["dab-detr-nano"].override([f"model.backbone={change}"]), "abc")
    assert len(list(blocks(detector.backbone))) == count


def test_batch_statistics_are_not_gathered_twice() -> None:
    config = PRESETS["dab-detr-nano"]
    assert config.model.backbone.kind == "timm"
    with pytest.raises(ValueError, match=r"training.recompute has backbone, .*norm=frozen"):
        checkpoint_activations(build(config, "abc"), ("backbone",))
