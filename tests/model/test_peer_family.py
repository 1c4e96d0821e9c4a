"""Members of which transformers has a class: built tiny, randomised, converted, compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dabdetr.checkpoints.native import load_model
from dabdetr.kernels import use_cpu_kernels
from dabdetr.structures import Images

transformers = pytest.importorskip("transformers")

SIZES = {
    "num_queries": 7,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
}
DEFORMABLE = {"two_stage_num_proposals": 7, "num_feature_levels": 4, "decoder_n_points": 3}
MEMBERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DETR": ("Detr", {}),
    "Conditional DETR": ("ConditionalDetr", {}),
    "DAB-DETR": ("DabDetr", {}),
    "DAB-DETR, two temperatures and a last norm of the encoder": (
        "DabDetr",
        {"temperature_height": 20, "temperature_width": 300, "normalize_before": True},
    ),
    "Deformable DETR": ("DeformableDetr", DEFORMABLE),
    "Deformable DETR, refined": ("DeformableDetr", {**DEFORMABLE, "with_box_refine": True}),
    "Deformable DETR, two-stage": (
        "DeformableDetr",
        {**DEFORMABLE, "with_box_refine": True, "two_stage": True},
    ),
    "Deformable DETR, one level": ("DeformableDetr", {**DEFORMABLE, "num_feature_levels": 1}),
}


def build_peer(kind: str, changes: dict[str, Any]) -> Any:
    """A tiny model of transformers with every tensor drawn anew; evaluation mode."""
    levels = changes.get("num_feature_levels", 1)
    deformable = kind == "DeformableDetr"
    backbone = transformers.TimmBackboneConfig(
        backbone="resnet18",
        out_indices=[2, 3, 4] if levels > 1 else [4] if deformable else [1, 2, 3, 4],
        use_pretrained_backbone=False,
    )
    # Conditional and Deformable DETR have sine codes of 256 built in.
    width = {"hidden_size": 32} if kind == "DabDetr" else {"d_model": 256 if kind != "Detr" else 32}
    names = {0: "cat", 1: "dog", 2: "hen"}
    config = getattr(transformers, f"{kind}Config")(
        backbone_config=backbone,
        id2label=names,
        label2id={name: index for index, name in names.items()},
        **SIZES,
        **width,
        **changes,
    )
    torch.manual_seed(3)
    model = getattr(transformers, f"{kind}ForObjectDetection")(config).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "running_var" in name or (tensor.dim() == 1 and name.endswith("norm.weight")):
                tensor.uniform_(0.7, 1.3)
            elif "embeddings" in name:  # queries far apart, sharp attention: or all answer alike
                tensor.normal_()
            elif tensor.is_floating_point():
                strength = 3.0 if "attn" in name and "offsets" not in name else 1.0
                fan = tensor[0].numel() if tensor.dim() > 1 else 100
                tensor.normal_(std=strength * fan**-0.5)
    return model


@pytest.mark.parametrize("member", MEMBERS)
def test_converted_weights_give_the_same_answers(member: str, tmp_path: Path) -> None:
    kind, changes = MEMBERS[member]
    peer = build_peer(kind, changes)
    peer.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    use_cpu_kernels(peer)  # the same products on both sides: they round in different ways
    assert loaded.model.names == ("cat", "dog", "hen")
    coarse = torch.randn(2, 3, 3, 4, generator=torch.Generator().manual_seed(1))
    pixels = 3 * torch.nn.functional.interpolate(coarse, scale_factor=32.0)
    padding = torch.zeros(2, 96, 128, dtype=torch.bool)
    padding[1, 64:], padding[1, :, 96:] = True, True
    pixels[1] = pixels[1].masked_fill(padding[1], 0.0)
    with torch.no_grad():
        theirs = peer(pixels, pixel_mask=(~padding).long())
        ours = loaded.model(Images(pixels, padding))
    assert ours.logits[-1].shape == theirs.logits.shape
    gap = (ours.logits[-1] - theirs.logits).abs().max()
    assert gap < 1e-4
    assert torch.allclose(ours.boxes[-1], theirs.pred_boxes, atol=1e-5)
    # Queries differ far more than the implementations: a wrong position would be seen.
    assert theirs.logits.std(dim=1).mean() > 10 * gap
