"""mmdetection: each member written under its names comes back with the same config and answers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from dabdetr.checkpoints.foreign import COCO_IDS
from dabdetr.checkpoints.mmdetection import from_mmdetection
from dabdetr.checkpoints.native import load_model

State = dict[str, torch.Tensor]

# What mmdetection's code and configs say, where it differs from the authors' releases.
EPS, MIXED = {"model__anchor_eps": 1e-5}, {"model__anchor_eps": 1e-3}
HEADS = {"model__class_head_per_layer": True, "model__box_head_per_layer": True}
MEMBERS: dict[str, dict[str, Any]] = {
    "DETR": EPS,
    "Conditional DETR": EPS,
    "Deformable DETR": EPS,
    "Deformable DETR, refined": EPS,
    "Deformable DETR, two-stage": EPS,
    "DAB-DETR": MIXED,
    "DAB-DETR, patterns": MIXED,
    "DINO": {**MIXED, **HEADS},
}
FIVE_LEVELS = {"model__backbone__strides": (4, 8, 16, 32), "model__encoder__levels": 5}


def _save(path: Path, state: State, **meta: Any) -> Path:
    torch.save({"meta": {"epoch": 12, "cfg": "model = dict()", **meta}, "state_dict": state}, path)
    return path


def _without_biases(source: Any) -> Any:
    """Projections before a norm have no bias there: zeros here."""
    source = copy.deepcopy(source)
    with torch.no_grad():
        for key, value in source.state_dict().items():
            if key.startswith("projection.project.") and key.endswith(".0.bias"):
                value.zero_()
    return source


@pytest.mark.parametrize("member", MEMBERS)
def test_each_member_comes_back(
    member: str, make: Any, written: Any, agree: Any, tmp_path: Path
) -> None:
    source = _without_biases(make(member, **MEMBERS[member]))
    loaded = load_model(_save(tmp_path / "epoch_12.pth", written("mmdetection", member, source)))
    family = "two-stage Deformable DETR" if "two-stage" in member else member.split(",")[0]
    assert loaded.report.format == f"mmdetection {family}"
    expected = source.config.model.model_copy(update={"dropout": 0.0})
    assert loaded.model.config.model.model_copy(update={"dropout": 0.0}) == expected
    agree(loaded.model, source)


def test_co_dino_comes_back_without_its_auxiliary_heads(
    make: Any, written: Any, agree: Any, tmp_path: Path
) -> None:
    source = _without_biases(make("DINO", **MEMBERS["DINO"], **FIVE_LEVELS))
    path = _save(tmp_path / "co.pth", written("mmdetection", "Co-DINO", source))
    loaded = load_model(path)
    assert loaded.report.format == "mmdetection Co-DINO"
    assert "auxiliary heads of Co-DINO are dropped" in str(loaded.report)
    assert loaded.model.config.model.encoder.levels == 5
    agree(loaded.model, source)


def test_class_names_come_from_the_data_set_of_the_checkpoint(make: Any, written: Any) -> None:
    state = written("mmdetection", "DETR", make("DETR", classes=3, **EPS))
    for meta in (
        {"dataset_meta": {"CLASSES": ("cat", "dog", "hen"), "PALETTE": [(0, 0, 0)]}},
        {"dataset_meta": {"classes": ["cat", "dog", "hen"]}},
        {"CLASSES": ("cat", "dog", "hen")},
    ):
        assert from_mmdetection(state, meta).names == ("cat", "dog", "hen")
    foreign = from_mmdetection(state, {"CLASSES": ("cat", "dog")})
    assert foreign.names == ("class 0", "class 1", "class 2")


def test_eighty_classes_are_those_of_coco(make: Any, written: Any) -> None:
    foreign = from_mmdetection(
        written("mmdetection", "DETR", make("DETR", classes=80, **EPS)), None
    )
    assert foreign.names == tuple(name for name in COCO_IDS if name)


def test_what_cannot_be_expressed_is_said(make: Any, written: Any) -> None:
    foreign = from_mmdetection(
        written("mmdetection", "DINO", make("DINO", **MEMBERS["DINO"])), None
    )
    assert any("1e-3 and 1e-5 in turn" in note for note in foreign.notes)
    assert foreign.config.image.mean == (0.485, 0.456, 0.406)


def test_keys_that_do_not_fit_are_named(make: Any, written: Any, tmp_path: Path) -> None:
    state = written("mmdetection", "DAB-DETR", make("DAB-DETR", **MIXED))
    del state["decoder.post_norm.bias"]
    state["encoder.layers.1.ffn.layers.1.weight"] = torch.ones(3, 48)
    state["bbox_head.surprise"] = torch.ones(2)
    with pytest.raises(ValueError, match="do not fit") as caught:
        load_model(_save(tmp_path / "a.pth", state))
    for part in (
        "decoder.norm.bias",
        "encoder.layers.1.feedforward.contract.weight (3, 48) for (32, 48)",
        "bbox_head.surprise",
    ):
        assert part in str(caught.value)
