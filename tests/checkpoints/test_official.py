"""The authors' releases: as many keys as theirs, converted by the command, or refused clearly."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from dabdetr.checkpoints.foreign import UnknownMember
from dabdetr.checkpoints.native import load_model
from dabdetr.checkpoints.official import from_official
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


BODY = 265  # tensors of a ResNet-50, without counters


@pytest.mark.parametrize("member", [name for name, count in MEMBERS.items() if count])
def test_the_releases_have_as_many_tensors(member: str, make: Any, written: Any) -> None:
    source = make(member, model__encoder__layers=6, model__decoder__layers=6)
    state = written("official", member, source)
    assert sum(not key.startswith("backbone.") for key in state) == MEMBERS[member] - BODY
    ours = from_official(state, {"dataset_file": "other"}).state
    assert set(ours) == {k for k in source.state_dict() if "num_batches" not in k}


@pytest.mark.parametrize("member", MEMBERS)
def test_the_command_converts_each_member(
    member: str, make: Any, written: Any, agree: Any, tmp_path: Path, capsys: Any
) -> None:
    source = make(member)
    args = argparse.Namespace(dataset_file="other", num_queries=source.config.model.queries.count)
    content = {"model": written("official", member, source), "args": args}
    torch.save(content, tmp_path / "checkpoint.pth")
    convert(str(tmp_path / "checkpoint.pth"), tmp_path / "ours.safetensors")
    said = capsys.readouterr()
    assert "official " in said.out + said.err
    loaded = load_model(tmp_path / "ours.safetensors")
    assert loaded.model.names == source.names
    agree(loaded.model, source)


def test_a_dense_decoder_over_levels_is_refused(make: Any, written: Any, tmp_path: Path) -> None:
    state = written("official", "DN-DAB-Deformable-DETR", make("DN-DAB-Deformable-DETR"))
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


def test_formats_are_told_apart_by_their_keys(make: Any, written: Any) -> None:
    assert from_official(written("official", "DETR", make("DETR")), None).format == "official DETR"
    with pytest.raises(UnknownMember):
        from_official({"layer.weight": torch.ones(1)}, None)
