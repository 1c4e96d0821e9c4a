"""The authors' releases: as many keys as theirs, converted by the command, or refused clearly."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from dabdetr.checkpoints.formats import from_official, recognise
from dabdetr.checkpoints.native import load_model
from dabdetr.cli.models import convert

State = dict[str, torch.Tensor]

# Tensors in the releases with a ResNet-50 and 6 + 6 layers; 0: not counted.
MEMBERS: dict[str, int] = {
    "DETR": 458,
    "Conditional DETR": 564,
    "Deformable DETR": 0,
    "Deformable DETR, refined": 0,
    "Deformable DETR, two-stage": 0,
    "DAB-DETR": 590,
    "DAB-DETR, patterns": 591,
    "DAB-Deformable-DETR": 604,
    "DN-DETR": 591,
    "DN-DAB-Deformable-DETR": 605,
    "DINO": 0,
}


def write(member: str, w: Any) -> State:
    """``checkpoint["model"]`` of a release."""
    model, decoder = w.model, "transformer.decoder"
    w.backbone(lambda key: f"backbone.0.body.{key}")
    if w.dense:
        w.linear("input_proj", "projection.project")
    else:
        for index in range(model.encoder.levels):
            w.linear(f"input_proj.{index}.0", f"projection.project.{index}.0")
            w.linear(f"input_proj.{index}.1", f"projection.project.{index}.1")
        w.tensor("transformer.level_embed", "projection.levels")
    for index in range(model.encoder.layers):
        name, ours = f"transformer.encoder.layers.{index}", f"encoder.layers.{index}"
        (w.packed if w.dense else w.sampling)(f"{name}.self_attn", f"{ours}.attention")
        w.linear(f"{name}.norm1", f"{ours}.attention_norm")
        w.linear(f"{name}.norm2", f"{ours}.feedforward_norm")
        _feedforward(w, name, ours)
    for index in range(w.layers):
        name, ours = f"{decoder}.layers.{index}", f"decoder.layers.{index}"
        _attentions(w, name, ours, first=index == 0)
        first, second = ("self_norm", "cross_norm") if w.dense else ("cross_norm", "self_norm")
        w.linear(f"{name}.norm1", f"{ours}.{first}")
        w.linear(f"{name}.norm2", f"{ours}.{second}")
        w.linear(f"{name}.norm3", f"{ours}.feedforward_norm")
        _feedforward(w, name, ours)
    if model.decoder.norm:
        w.linear(f"{decoder}.norm", "decoder.norm")
    _queries(member, w)
    _heads(member, w)
    return w.done()


def _feedforward(w: Any, name: str, ours: str) -> None:
    w.linear(f"{name}.linear1", f"{ours}.feedforward.expand")
    w.linear(f"{name}.linear2", f"{ours}.feedforward.contract")
    if f"{ours}.feedforward.activation.weight" in w.own:
        w.tensor(f"{name}.activation.weight", f"{ours}.feedforward.activation.weight")


def _attentions(w: Any, name: str, ours: str, first: bool) -> None:
    if not w.concat:
        w.packed(f"{name}.self_attn", f"{ours}.self_attention")
        if w.dense:
            w.packed(f"{name}.multihead_attn", f"{ours}.cross_attention")
        else:
            w.sampling(f"{name}.cross_attn", f"{ours}.cross_attention")
        return
    common = {
        "qcontent": "query",
        "qpos": "query_position",
        "kcontent": "key",
        "kpos": "key_position",
        "v": "value",
    }
    for theirs, own in common.items():
        w.linear(f"{name}.sa_{theirs}_proj", f"{ours}.self_attention.{own}")
        if own != "query_position" or first:
            w.linear(f"{name}.ca_{theirs}_proj", f"{ours}.cross_attention.{own}")
    w.linear(f"{name}.ca_qpos_sine_proj", f"{ours}.cross_attention.query_code")
    w.linear(f"{name}.self_attn.out_proj", f"{ours}.self_attention.output")
    w.linear(f"{name}.cross_attn.out_proj", f"{ours}.cross_attention.output")


def _queries(member: str, w: Any) -> None:
    decoder, deformable = "transformer.decoder", "Deformable" in member
    if "two-stage" in member or member == "DINO":
        w.linear("transformer.enc_output", "queries.project")
        w.linear("transformer.enc_output_norm", "queries.norm")
    if "two-stage" in member:
        w.linear("transformer.pos_trans", "queries.to_query.0")
        w.linear("transformer.pos_trans_norm", "queries.to_query.1")
    elif member == "DINO":
        w.tensor("transformer.tgt_embed.weight", "queries.content")
        w.mlp(f"{decoder}.ref_point_head.layers", "decoder.positions.to_query", 2)
        w.tensor("label_enc.weight", "denoising.labels.weight")
    elif "DAB" in member or "DN" in member:
        w.tensor("refpoint_embed.weight", "queries.anchors")
        w.mlp(f"{decoder}.query_scale.layers", "decoder.positions.scale", 2)
        w.mlp(f"{decoder}.ref_point_head.layers", "decoder.positions.to_query", 2)
        if deformable:
            w.tensor("tgt_embed.weight", "queries.content")
        else:
            w.mlp("transformer.encoder.query_scale.layers", "encoder.position_scale", 2)
            w.mlp(f"{decoder}.ref_anchor_head.layers", "decoder.positions.size", 2)
        if "patterns" in member:
            w.tensor("transformer.patterns.weight", "queries.patterns")
        if member.startswith("DN"):
            w.tensor("label_enc.weight", "denoising.labels.weight")
    elif deformable:
        both = [w.own.pop("queries.positions"), w.own.pop("queries.content")]
        w.out["query_embed.weight"] = torch.cat(both, dim=1)
        w.linear("transformer.reference_points", "queries.to_point.0")
    else:
        w.tensor("query_embed.weight", "queries.positions")
        if member == "Conditional DETR":
            w.mlp(f"{decoder}.query_scale.layers", "decoder.positions.scale", 2)
            w.mlp(f"{decoder}.ref_point_head.layers", "queries.to_point", 2)


def _heads(member: str, w: Any) -> None:
    if w.dense:
        w.linear("class_embed", "decoder.heads.classes.0")
        w.mlp("bbox_embed.layers", "decoder.heads.boxes.0", 3)
    else:
        shared = not w.model.box_head_per_layer
        for index in range(1 if shared else w.layers):
            w.linear(f"class_embed.{index}", f"decoder.heads.classes.{index}")
            w.mlp(f"bbox_embed.{index}.layers", f"decoder.heads.boxes.{index}", 3)
        for index in range(1, w.layers if shared else 1):
            w.alias("class_embed.0.", f"class_embed.{index}.")
            w.alias("bbox_embed.0.", f"bbox_embed.{index}.")
    if "two-stage" in member:
        w.linear(f"class_embed.{w.layers}", "queries.classes")
        w.mlp(f"bbox_embed.{w.layers}.layers", "queries.boxes", 3)
    if member == "DINO":
        w.linear("transformer.enc_out_class_embed", "queries.classes")
        w.mlp("transformer.enc_out_bbox_embed.layers", "queries.boxes", 3)
    if w.model.queries.kind == "from_encoder":
        w.alias("class_embed.", "transformer.decoder.class_embed.")
    if w.model.decoder.update_anchors:
        w.alias("bbox_embed.", "transformer.decoder.bbox_embed.")


BODY = 265  # tensors of a ResNet-50, without counters


@pytest.mark.parametrize("member", [name for name, count in MEMBERS.items() if count])
def test_the_releases_have_as_many_tensors(member: str, make: Any, writer: Any) -> None:
    source = make(member, model__encoder__layers=6, model__decoder__layers=6)
    state = write(member, writer(source))
    assert sum(not key.startswith("backbone.") for key in state) == MEMBERS[member] - BODY
    ours = from_official(state, {"dataset_file": "other"}).state
    assert set(ours) == {k for k in source.state_dict() if "num_batches" not in k}


@pytest.mark.parametrize("member", MEMBERS)
def test_the_command_converts_each_member(
    member: str, make: Any, writer: Any, agree: Any, tmp_path: Path, capsys: Any
) -> None:
    source = make(member)
    args = argparse.Namespace(dataset_file="other", num_queries=source.config.model.queries.count)
    content = {"model": write(member, writer(source)), "args": args}
    torch.save(content, tmp_path / "checkpoint.pth")
    convert(str(tmp_path / "checkpoint.pth"), tmp_path / "ours.safetensors")
    said = capsys.readouterr()
    assert "official " in said.out + said.err
    loaded = load_model(tmp_path / "ours.safetensors")
    assert loaded.model.names == source.names
    agree(loaded.model, source)


def test_a_dense_decoder_over_levels_is_refused(make: Any, writer: Any, tmp_path: Path) -> None:
    state = write("DN-DAB-Deformable-DETR", writer(make("DN-DAB-Deformable-DETR")))
    for index in range(3):
        layer = f"transformer.decoder.layers.{index}"
        state |= {
            f"{layer}.lvl_attn.weight": torch.ones(4, 32),
            f"{layer}.ca_out_v_proj.weight": torch.ones(32, 32),
        }
    torch.save({"model": state}, tmp_path / "encoder_only.pth")
    with pytest.raises(ValueError, match="deformable encoder and a dense decoder") as caught:
        load_model(tmp_path / "encoder_only.pth")
    assert "\n" not in str(caught.value)
    assert "lvl_attn" in str(caught.value)


def test_formats_are_told_apart_by_their_keys(make: Any, writer: Any) -> None:
    assert recognise(write("DETR", writer(make("DETR")))) == "official DETR"
    assert recognise({"layer.weight": torch.ones(1)}) is None
