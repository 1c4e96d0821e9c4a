"""mmdetection: each member written under its names comes back with the same config and answers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from dabdetr.checkpoints.formats import COCO_IDS, from_mmdetection
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


def write(member: str, w: Any) -> State:
    """The state that mmdetection's modules of ``member`` would have."""
    model = w.model
    w.backbone(lambda key: f"backbone.{key}")
    if w.dense:
        w.linear("neck.convs.0.conv", "projection.project")
    else:
        _neck(w)
        w.tensor("level_embed", "projection.levels")
    for index in range(model.encoder.layers):
        name, ours = f"encoder.layers.{index}", f"encoder.layers.{index}"
        if w.dense:
            w.packed(f"{name}.self_attn.attn", f"{ours}.attention")
        else:
            w.sampling(f"{name}.self_attn", f"{ours}.attention")
        _norms(w, name, ours, ("attention_norm", "feedforward_norm"))
        _feedforward(w, f"{name}.ffn", ours)
    for index in range(w.layers):
        name, ours = f"decoder.layers.{index}", f"decoder.layers.{index}"
        _attentions(w, name, ours, first=index == 0)
        _norms(w, name, ours, ("self_norm", "cross_norm", "feedforward_norm"))
        _feedforward(w, f"{name}.ffn", ours)
    if model.decoder.norm:
        w.linear("decoder.norm" if member == "DINO" else "decoder.post_norm", "decoder.norm")
    _queries(member, w)
    _heads(member, w)
    return w.done()


def _neck(w: Any, prefix: str = "neck.") -> None:
    """Convolutions have no bias before a norm."""
    maps = len(w.model.backbone.strides)
    for index in range(w.model.encoder.levels):
        name = f"convs.{index}" if index < maps else f"extra_convs.{index - maps}"
        w.tensor(f"{prefix}{name}.conv.weight", f"projection.project.{index}.0.weight")
        del w.own[f"projection.project.{index}.0.bias"]
        w.linear(f"{prefix}{name}.gn", f"projection.project.{index}.1")


def _norms(w: Any, name: str, ours: str, norms: tuple[str, ...]) -> None:
    for index, norm in enumerate(norms):
        w.linear(f"{name}.norms.{index}", f"{ours}.{norm}")


def _feedforward(w: Any, name: str, ours: str) -> None:
    w.linear(f"{name}.layers.0.0", f"{ours}.feedforward.expand")
    w.linear(f"{name}.layers.1", f"{ours}.feedforward.contract")
    if f"{ours}.feedforward.activation.weight" in w.own:
        w.tensor(f"{name}.layers.0.1.weight", f"{ours}.feedforward.activation.weight")


def _attentions(w: Any, name: str, ours: str, first: bool) -> None:
    if not w.concat:
        w.packed(f"{name}.self_attn.attn", f"{ours}.self_attention")
        if w.dense:
            w.packed(f"{name}.cross_attn.attn", f"{ours}.cross_attention")
        else:
            w.sampling(f"{name}.cross_attn", f"{ours}.cross_attention")
        return
    common = {
        "qcontent_proj": "query",
        "qpos_proj": "query_position",
        "kcontent_proj": "key",
        "kpos_proj": "key_position",
        "v_proj": "value",
        "out_proj": "output",
    }
    for theirs, own in common.items():
        w.linear(f"{name}.self_attn.{theirs}", f"{ours}.self_attention.{own}")
        if own != "query_position" or first:
            w.linear(f"{name}.cross_attn.{theirs}", f"{ours}.cross_attention.{own}")
    w.linear(f"{name}.cross_attn.qpos_sine_proj", f"{ours}.cross_attention.query_code")


def _queries(member: str, w: Any) -> None:
    if member.startswith("DAB"):
        w.tensor("query_embedding.weight", "queries.anchors")
        w.mlp("encoder.query_scale.layers", "encoder.position_scale", 2)
        w.mlp("decoder.query_scale.layers", "decoder.positions.scale", 2)
        w.mlp("decoder.ref_point_head.layers", "decoder.positions.to_query", 2)
        w.mlp("decoder.ref_anchor_head.layers", "decoder.positions.size", 2)
        if "patterns" in member:
            w.tensor("patterns.weight", "queries.patterns")
    elif member == "DINO":
        w.tensor("query_embedding.weight", "queries.content")
        w.linear("memory_trans_fc", "queries.project")
        w.linear("memory_trans_norm", "queries.norm")
        w.mlp("decoder.ref_point_head.layers", "decoder.positions.to_query", 2)
        labels = w.own.pop("denoising.labels.weight")
        w.out["dn_query_generator.label_embedding.weight"] = labels[:-1]
    elif "two-stage" in member:
        w.linear("memory_trans_fc", "queries.project")
        w.linear("memory_trans_norm", "queries.norm")
        w.linear("pos_trans_fc", "queries.to_query.0")
        w.linear("pos_trans_norm", "queries.to_query.1")
    elif "Deformable" in member:
        both = [w.own.pop("queries.positions"), w.own.pop("queries.content")]
        w.out["query_embedding.weight"] = torch.cat(both, dim=1)
        w.linear("reference_points_fc", "queries.to_point.0")
    else:
        w.tensor("query_embedding.weight", "queries.positions")
        if member == "Conditional DETR":
            w.mlp("decoder.query_scale.layers", "decoder.positions.scale", 2)
            w.mlp("decoder.ref_point_head.layers", "queries.to_point", 2)


def _heads(member: str, w: Any) -> None:
    if w.dense:
        w.linear("bbox_head.fc_cls", "decoder.heads.classes.0")
        if member.startswith("DAB"):
            w.mlp("bbox_head.fc_reg.layers", "decoder.heads.boxes.0", 3)
        else:
            w.linear("bbox_head.reg_ffn.layers.0.0", "decoder.heads.boxes.0.0")
            w.linear("bbox_head.reg_ffn.layers.1", "decoder.heads.boxes.0.2")
            w.linear("bbox_head.fc_reg", "decoder.heads.boxes.0.4")
        return
    for index in range(w.layers):
        source = index if w.model.box_head_per_layer else 0
        if index and not source:
            w.alias("bbox_head.cls_branches.0.", f"bbox_head.cls_branches.{index}.")
            w.alias("bbox_head.reg_branches.0.", f"bbox_head.reg_branches.{index}.")
            continue
        w.linear(f"bbox_head.cls_branches.{index}", f"decoder.heads.classes.{index}")
        _branch(w, f"bbox_head.reg_branches.{index}", f"decoder.heads.boxes.{index}")
    if w.model.queries.kind == "from_encoder":
        w.linear(f"bbox_head.cls_branches.{w.layers}", "queries.classes")
        _branch(w, f"bbox_head.reg_branches.{w.layers}", "queries.boxes")


def _branch(w: Any, name: str, ours: str) -> None:
    for index in (0, 2, 4):
        w.linear(f"{name}.{index}", f"{ours}.{index}")


def write_co_dino(w: Any) -> State:
    """The project CO-DETR keeps the transformer of mmdetection 2 inside its query head."""
    state = write("DINO", w)
    moved: State = {}
    for key, value in state.items():
        if key.startswith("backbone.") or key.startswith("neck."):
            moved[key] = value
            continue
        for theirs, co in (
            ("query_embedding.", "transformer.query_embed."),
            ("memory_trans_fc.", "transformer.enc_output."),
            ("memory_trans_norm.", "transformer.enc_output_norm."),
            ("level_embed", "transformer.level_embeds"),
            ("decoder.ref_point_head.layers.0.", "transformer.decoder.ref_point_head.0."),
            ("decoder.ref_point_head.layers.1.", "transformer.decoder.ref_point_head.2."),
            ("dn_query_generator.", "dn_generator."),
            ("bbox_head.", ""),
            ("encoder.", "transformer.encoder."),
            ("decoder.", "transformer.decoder."),
        ):
            if key.startswith(theirs):
                key = co + key.removeprefix(theirs)
                break
        key = key.replace(".ffn.", ".ffns.0.")
        if "encoder.layers" in key:
            key = key.replace(".self_attn.", ".attentions.0.")
        key = key.replace(".self_attn.", ".attentions.0.").replace(".cross_attn.", ".attentions.1.")
        moved[f"query_head.{key}"] = value
    for name in (
        "rpn_head.rpn_conv",
        "roi_head.0.bbox_head.fc_cls",
        "bbox_head.0.atss_cls",
        "query_head.downsample.0",
        "query_head.transformer.aux_pos_trans.0",
        "query_head.transformer.aux_pos_trans_norm.1",
    ):
        moved[f"{name}.weight"] = torch.ones(3, 3)
    return moved


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
    member: str, make: Any, writer: Any, agree: Any, tmp_path: Path
) -> None:
    source = _without_biases(make(member, **MEMBERS[member]))
    loaded = load_model(_save(tmp_path / "epoch_12.pth", write(member, writer(source))))
    family = "two-stage Deformable DETR" if "two-stage" in member else member.split(",")[0]
    assert loaded.report.format == f"mmdetection {family}"
    expected = source.config.model.model_copy(update={"dropout": 0.0})
    assert loaded.model.config.model.model_copy(update={"dropout": 0.0}) == expected
    agree(loaded.model, source)


def test_co_dino_comes_back_without_its_auxiliary_heads(
    make: Any, writer: Any, agree: Any, tmp_path: Path
) -> None:
    source = _without_biases(make("DINO", **MEMBERS["DINO"], **FIVE_LEVELS))
    path = _save(tmp_path / "co.pth", write_co_dino(writer(source)))
    loaded = load_model(path)
    assert loaded.report.format == "mmdetection Co-DINO"
    assert "auxiliary heads of Co-DINO are dropped" in str(loaded.report)
    assert loaded.model.config.model.encoder.levels == 5
    agree(loaded.model, source)


def test_class_names_come_from_the_data_set_of_the_checkpoint(make: Any, writer: Any) -> None:
    state = write("DETR", writer(make("DETR", classes=3, **EPS)))
    for meta in (
        {"dataset_meta": {"CLASSES": ("cat", "dog", "hen"), "PALETTE": [(0, 0, 0)]}},
        {"dataset_meta": {"classes": ["cat", "dog", "hen"]}},
        {"CLASSES": ("cat", "dog", "hen")},
    ):
        assert from_mmdetection(state, meta).names == ("cat", "dog", "hen")
    foreign = from_mmdetection(state, {"CLASSES": ("cat", "dog")})
    assert foreign.names == ("class 0", "class 1", "class 2")


def test_eighty_classes_are_those_of_coco(make: Any, writer: Any) -> None:
    foreign = from_mmdetection(write("DETR", writer(make("DETR", classes=80, **EPS))), None)
    assert foreign.names == tuple(name for name in COCO_IDS if name)


def test_what_cannot_be_expressed_is_said(make: Any, writer: Any) -> None:
    foreign = from_mmdetection(write("DINO", writer(make("DINO", **MEMBERS["DINO"]))), None)
    assert any("1e-3 and 1e-5 in turn" in note for note in foreign.notes)
    assert foreign.config.image.mean == (0.485, 0.456, 0.406)


def test_keys_that_do_not_fit_are_named(make: Any, writer: Any, tmp_path: Path) -> None:
    state = write("DAB-DETR", writer(make("DAB-DETR", **MIXED)))
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
