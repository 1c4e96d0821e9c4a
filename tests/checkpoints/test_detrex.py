"""detrex: each member written under its names comes back with the same config and answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dabdetr.checkpoints.formats import COCO_IDS, from_detrex, recognise
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


def write(member: str, w: Any, backbone: Callable[[str], str]) -> dict[str, torch.Tensor]:
    """The state that detrex's modules of ``member`` would have."""
    model = w.model
    w.backbone(backbone)
    if w.dense:
        w.linear("input_proj", "projection.project")
    else:
        for index in range(model.encoder.levels):
            maps = len(model.backbone.strides)
            name = f"convs.{index}" if index < maps else f"extra_convs.{index - maps}"
            w.linear(f"neck.{name}.conv", f"projection.project.{index}.0")
            w.linear(f"neck.{name}.norm", f"projection.project.{index}.1")
        w.tensor("transformer.level_embeds", "projection.levels")
    for index in range(model.encoder.layers):
        name, ours = f"transformer.encoder.layers.{index}", f"encoder.layers.{index}"
        if w.dense:
            w.packed(f"{name}.attentions.0.attn", f"{ours}.attention")
        else:
            w.sampling(f"{name}.attentions.0", f"{ours}.attention")
        w.linear(f"{name}.norms.0", f"{ours}.attention_norm")
        w.linear(f"{name}.norms.1", f"{ours}.feedforward_norm")
        _feedforward(w, name, ours)
    for index in range(w.layers):
        name, ours = f"transformer.decoder.layers.{index}", f"decoder.layers.{index}"
        _attentions(w, name, ours, first=index == 0)
        w.linear(f"{name}.norms.0", f"{ours}.self_norm")
        w.linear(f"{name}.norms.1", f"{ours}.cross_norm")
        w.linear(f"{name}.norms.2", f"{ours}.feedforward_norm")
        _feedforward(w, name, ours)
    if model.decoder.norm:
        w.linear(
            "transformer.decoder.norm" if member == "DINO" else
            "transformer.decoder.post_norm_layer",
            "decoder.norm",
        )  # fmt: skip
    _queries(member, w)
    _heads(member, w)
    return w.done()


def _feedforward(w: Any, name: str, ours: str) -> None:
    w.linear(f"{name}.ffns.0.layers.0.0", f"{ours}.feedforward.expand")
    w.linear(f"{name}.ffns.0.layers.1", f"{ours}.feedforward.contract")
    if f"{ours}.feedforward.activation.weight" in w.own:
        w.tensor(f"{name}.ffns.0.layers.0.1.weight", f"{ours}.feedforward.activation.weight")
        w.alias(f"{name}.ffns.0.layers.0.1.", f"{name}.ffns.0.activation.")


def _attentions(w: Any, name: str, ours: str, first: bool) -> None:
    if not w.concat:
        w.packed(f"{name}.attentions.0.attn", f"{ours}.self_attention")
        if w.dense:
            w.packed(f"{name}.attentions.1.attn", f"{ours}.cross_attention")
        else:
            w.sampling(f"{name}.attentions.1", f"{ours}.cross_attention")
        return
    common = {
        "query_content_proj": "query",
        "query_pos_proj": "query_position",
        "key_content_proj": "key",
        "key_pos_proj": "key_position",
        "value_proj": "value",
        "out_proj": "output",
    }
    for theirs, own in common.items():
        w.linear(f"{name}.attentions.0.{theirs}", f"{ours}.self_attention.{own}")
        if own != "query_position" or first:
            w.linear(f"{name}.attentions.1.{theirs}", f"{ours}.cross_attention.{own}")
    w.linear(f"{name}.attentions.1.query_pos_sine_proj", f"{ours}.cross_attention.query_code")


def _queries(member: str, w: Any) -> None:
    decoder, dn = "transformer.decoder", member.startswith("DN")
    if "two-stage" in member:
        w.linear("transformer.enc_output", "queries.project")
        w.linear("transformer.enc_output_norm", "queries.norm")
        if "DAB" in member:
            w.mlp(f"{decoder}.query_scale.layers", "decoder.positions.scale", 2)
            w.mlp(f"{decoder}.ref_point_head.layers", "decoder.positions.to_query", 2)
        else:
            w.linear("transformer.pos_trans", "queries.to_query.0")
            w.linear("transformer.pos_trans_norm", "queries.to_query.1")
    elif "DAB" in member or "DN" in member:
        deformable = "Deformable" in member
        w.tensor("refpoint_embed.weight" if deformable else "anchor_box_embed.weight",
                 "queries.anchors")  # fmt: skip
        if deformable:
            w.tensor("tgt_embed.weight", "queries.content")
        else:
            w.mlp("transformer.encoder.query_scale.layers", "encoder.position_scale", 2)
            w.mlp(f"{decoder}.ref_anchor_head.layers", "decoder.positions.size", 2)
        w.mlp(f"{decoder}.query_scale.layers", "decoder.positions.scale", 2)
        w.mlp(f"{decoder}.ref_point_head.layers", "decoder.positions.to_query", 2)
        if "patterns" in member:
            w.tensor("transformer.patterns.weight", "queries.patterns")
        if dn:
            table = "label_encoder" if deformable else "denoising_generator.label_encoder"
            w.tensor(f"{table}.weight", "denoising.labels.weight")
    elif member == "DINO":
        w.tensor("transformer.tgt_embed.weight", "queries.content")
        w.linear("transformer.enc_output", "queries.project")
        w.linear("transformer.enc_output_norm", "queries.norm")
        w.mlp(f"{decoder}.ref_point_head.layers", "decoder.positions.to_query", 2)
        w.out["label_enc.weight"] = w.own.pop("denoising.labels.weight")[:-1]
    elif "Deformable" in member:
        both = [w.own.pop("queries.positions"), w.own.pop("queries.content")]
        w.out["query_embedding.weight"] = torch.cat(both, dim=1)
        w.linear("transformer.reference_points", "queries.to_point.0")
    else:
        w.tensor("query_embed.weight", "queries.positions")
        if member == "Conditional DETR":
            w.mlp(f"{decoder}.query_scale.layers", "decoder.positions.scale", 2)
            w.mlp(f"{decoder}.ref_point_head.layers", "queries.to_point", 2)


def _heads(member: str, w: Any) -> None:
    proposals = w.model.queries.kind == "from_encoder"
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
    if proposals:
        w.linear(f"class_embed.{w.layers}", "queries.classes")
        w.mlp(f"bbox_embed.{w.layers}.layers", "queries.boxes", 3)
        w.alias("class_embed.", "transformer.decoder.class_embed.")
    if w.model.decoder.update_anchors:
        w.alias("bbox_embed.", "transformer.decoder.bbox_embed.")
    if member == "DETR":
        w.out["criterion.empty_weight"] = torch.ones(3)


@pytest.mark.parametrize("member", MEMBERS)
def test_each_member_comes_back(
    member: str, make: Any, writer: Any, detectron2_name: Any, agree: Any, tmp_path: Path
) -> None:
    source = make(member, **MEMBERS[member])
    state = write(member, writer(source), detectron2_name)
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


def test_a_bottleneck_resnet_of_detectron2(make: Any, writer: Any, detectron2_name: Any) -> None:
    source = make("DETR", model__backbone__name="resnet50", **EPS)
    foreign = from_detrex(write("DETR", writer(source), detectron2_name))
    assert foreign.config.model.backbone.name == "resnet50"
    own = {k: v for k, v in source.state_dict().items() if "num_batches" not in k}
    assert set(foreign.state) == set(own)
    assert all(value.equal(foreign.state[key]) for key, value in own.items())


def test_eighty_classes_are_those_of_coco(
    make: Any, writer: Any, detectron2_name: Any, agree: Any, tmp_path: Path
) -> None:
    source = make("DETR", classes=80, **EPS)
    torch.save({"model": write("DETR", writer(source), detectron2_name)}, tmp_path / "a.pth")
    loaded = load_model(tmp_path / "a.pth")
    assert loaded.model.names == tuple(name for name in COCO_IDS if name)
    assert "80 classes are taken to be those of COCO" in str(loaded.report)
    agree(loaded.model, source)


def test_what_is_not_in_the_file_is_said(make: Any, writer: Any, detectron2_name: Any) -> None:
    state = write("DINO", writer(make("DINO", **MEMBERS["DINO"])), detectron2_name)
    foreign = from_detrex(state)
    assert "assumed 8 heads, no dilation, position temperature 10000" in foreign.notes[0]
    assert foreign.config.image.mean == (0.485, 0.456, 0.406)
    table = foreign.state["denoising.labels.weight"]
    assert len(table) == 6
    assert not table[-1].any()


@pytest.mark.parametrize("member", ["DETR", "DINO"])
def test_keys_that_do_not_fit_are_named(
    member: str, make: Any, writer: Any, detectron2_name: Any, tmp_path: Path
) -> None:
    state = write(member, writer(make(member, **MEMBERS[member])), detectron2_name)
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


def test_another_backbone_is_refused_by_its_names(
    make: Any, writer: Any, detectron2_name: Any, tmp_path: Path
) -> None:
    state = write("DINO", writer(make("DINO", **MEMBERS["DINO"])), detectron2_name)
    state = {key: value for key, value in state.items() if not key.startswith("backbone.")}
    state = {"backbone.patch_embed.proj.weight": torch.ones(4, 3, 4, 4), **state}
    assert recognise(state) == "detrex DINO"
    torch.save({"model": state}, tmp_path / "swin.pth")
    with pytest.raises(ValueError, match=r"patch_embed.*only ResNets are converted") as caught:
        load_model(tmp_path / "swin.pth")
    assert "\n" not in str(caught.value)
