"""detrex: each member written under its names comes back with the same config and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dabdetr.checkpoints.detrex import from_detrex
from dabdetr.checkpoints.foreign import COCO_IDS
from dabdetr.checkpoints.native import load_model

# What the configs of detrex's projects say, where it differs from the authors' releases.
EPS = {"model__anchor_eps": 1e-3}
MEMBERS: dict[str, dict[str, Any]] = {
    "DETR": EPS,
    "Conditional DETR": EPS,
    "Deformable DETR": EPS,
    "Deformable DETR, refined": EPS,
    "Deformable DETR, two-stage": EPS,
    "DAB-DETR": EPS,
    "DAB-DETR, patterns": EPS,
    "DAB-Deformable-DETR": EPS,
    "DAB-Deformable-DETR, two-stage": EPS,
    "DN-DETR": EPS,
    "DN-DAB-Deformable-DETR": EPS,
    "DINO": {
        **EPS,
        "model__position_temperature": 10000.0,
        "model__position_offset": -0.5,
        "model__class_head_per_layer": True,
        "model__box_head_per_layer": True,
    },
}


@pytest.mark.parametrize("member", MEMBERS)
def test_each_member_comes_back(
    member: str, make: Any, written: Any, agree: Any, tmp_path: Path
) -> None:
    source = make(member, **MEMBERS[member])
    state = written("detrex", member, source)
    torch.save({"model": state, "iteration": 90000}, tmp_path / "model_final.pth")
    loaded = load_model(tmp_path / "model_final.pth")
    assert loaded.report.format == f"detrex {_family(member)}"
    assert loaded.model.names == source.names
    expected = source.config.model.model_copy(update={"dropout": 0.0})
    assert loaded.model.config.model.model_copy(update={"dropout": 0.0}) == expected
    agree(loaded.model, source)


def _family(member: str) -> str:
    name, _, stages = member.partition(", ")
    return f"two-stage {name}" if stages == "two-stage" else name


def test_a_bottleneck_resnet_of_detectron2(make: Any, written: Any) -> None:
    source = make("DETR", model__backbone__name="resnet50", **EPS)
    foreign = from_detrex(written("detrex", "DETR", source, "resnet50"))
    assert foreign.config.model.backbone.name == "resnet50"
    own = {k: v for k, v in source.state_dict().items() if "num_batches" not in k}
    assert set(foreign.state) == set(own)
    assert all(value.equal(foreign.state[key]) for key, value in own.items())


def test_eighty_classes_are_those_of_coco(
    make: Any, written: Any, agree: Any, tmp_path: Path
) -> None:
    source = make("DETR", classes=80, **EPS)
    torch.save({"model": written("detrex", "DETR", source)}, tmp_path / "a.pth")
    loaded = load_model(tmp_path / "a.pth")
    assert loaded.model.names == tuple(name for name in COCO_IDS if name)
    assert "80 classes are taken to be those of COCO" in str(loaded.report)
    agree(loaded.model, source)


def test_what_is_not_in_the_file_is_said(make: Any, written: Any) -> None:
    state = written("detrex", "DINO", make("DINO", **MEMBERS["DINO"]))
    foreign = from_detrex(state)
    assert "assumed 8 heads, no dilation, position temperature 10000" in foreign.notes[0]
    assert foreign.config.image.mean == (0.485, 0.456, 0.406)
    table = foreign.state["denoising.labels.weight"]
    assert len(table) == 6
    assert not table[-1].any()


@pytest.mark.parametrize("member", ["DETR", "DINO"])
def test_keys_that_do_not_fit_are_named(
    member: str, make: Any, written: Any, tmp_path: Path
) -> None:
    state = written("detrex", member, make(member, **MEMBERS[member]))
    del state["transformer.decoder.layers.1.norms.2.bias"]
    state["transformer.encoder.layers.1.norms.0.weight"] = torch.ones(31)
    state["transformer.surprise.weight"] = torch.ones(2)
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="do not fit") as caught:
        load_model(tmp_path / "a.pth")
    for part in (
        "decoder.layers.1.feedforward_norm.bias",
        "encoder.layers.1.attention_norm.weight (31,) for (32,)",
        "surprise.weight",
    ):
        assert part in str(caught.value)


def test_another_backbone_is_refused_by_its_names(make: Any, written: Any, tmp_path: Path) -> None:
    state = written("detrex", "DINO", make("DINO", **MEMBERS["DINO"]))
    state = {key: value for key, value in state.items() if not key.startswith("backbone.")}
    state = {"backbone.patch_embed.proj.weight": torch.ones(4, 3, 4, 4), **state}
    torch.save({"model": state}, tmp_path / "swin.pth")
    with pytest.raises(ValueError, match=r"patch_embed.*only ResNets are converted") as caught:
        load_model(tmp_path / "swin.pth")
    assert "\n" not in str(caught.value)
