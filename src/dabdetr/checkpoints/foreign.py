"""``Foreign``, a checkpoint of another implementation in our terms; its member and its classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from dabdetr.checkpoints.key_names import State
from dabdetr.config import Config
from dabdetr.presets.published import (
    CONDITIONAL_DETR_R50,
    DAB_DEFORMABLE_DETR_R50,
    DAB_DEFORMABLE_DETR_R50_TWO_STAGE,
    DAB_DETR_R50,
    DEFORMABLE_DETR_R50,
    DEFORMABLE_DETR_R50_TWO_STAGE,
    DETR_R50,
    DINO_R50_4SCALE,
    DN_DAB_DEFORMABLE_DETR_R50,
    DN_DETR_R50,
)
from dabdetr.text import counted

Names = tuple[str | None, ...]


@dataclass(frozen=True)
class Foreign:
    """A checkpoint of another implementation with our config and key names.

    ``names`` has one entry for each class logit; None marks an id without a class.
    ``notes`` are sentences on what was assumed.
    """

    format: str
    config: Config
    state: State
    names: Names
    notes: tuple[str, ...] = ()


# Two parts whose keys (in the authors' names) mark a member, its name, its preset; the first fits.
_MEMBERS: tuple[tuple[str, str, str, Config], ...] = (
    ("sampling_offsets", "transformer.enc_out_class_embed", "DINO", DINO_R50_4SCALE),
    (
        "sampling_offsets",
        "transformer.pos_trans",
        "two-stage Deformable DETR",
        DEFORMABLE_DETR_R50_TWO_STAGE,
    ),
    (
        "sampling_offsets",
        "transformer.enc_output",
        "two-stage DAB-Deformable-DETR",
        DAB_DEFORMABLE_DETR_R50_TWO_STAGE,
    ),
    ("sampling_offsets", "label_enc", "DN-DAB-Deformable-DETR", DN_DAB_DEFORMABLE_DETR_R50),
    ("ca_qpos_sine_proj", "label_enc", "DN-DETR", DN_DETR_R50),
    ("sampling_offsets", "refpoint_embed", "DAB-Deformable-DETR", DAB_DEFORMABLE_DETR_R50),
    ("sampling_offsets", "query_embed", "Deformable DETR", DEFORMABLE_DETR_R50),
    ("ca_qpos_sine_proj", "refpoint_embed", "DAB-DETR", DAB_DETR_R50),
    ("ca_qpos_sine_proj", "query_embed", "Conditional DETR", CONDITIONAL_DETR_R50),
    ("multihead_attn", "query_embed", "DETR", DETR_R50),
)


# Part of a key that marks a member which the skeleton does not have, and that member's name.
_REFUSED = ((".lvl_attn.", "DN-DETR with a deformable encoder and a dense decoder over levels"),)


class UnknownMember(Exception):
    """The keys are of no member of the family."""


def member_of(official: Mapping[str, Tensor]) -> tuple[str, Config]:
    """Name and preset of the member with these keys, in the authors' names.

    ``UnknownMember`` if there is none; ValueError, with the key, for one that is not supported.
    """
    for key in official:
        for part, name in _REFUSED:
            if part in key:
                raise ValueError(
                    f"these are weights of {name} ({key}), which this project does not have; "
                    "choose weights of another member"
                )
    for part, queries, name, preset in _MEMBERS:
        if f"{queries}.weight" in official and any(f"{part}." in key for key in official):
            return name, preset
    raise UnknownMember


_COCO = (
    "-,person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,-,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,-,"
    "backpack,umbrella,-,-,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,"
    "baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,-,wine glass,cup,fork,"
    "knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,"
    "couch,potted plant,bed,-,dining table,-,-,toilet,-,tv,laptop,mouse,remote,keyboard,cell phone,"
    "microwave,oven,toaster,sink,refrigerator,-,book,clock,vase,scissors,teddy bear,hair drier,"
    "toothbrush"
)


COCO_IDS = tuple(None if name == "-" else name for name in _COCO.split(","))


def guess_names(logits: int) -> tuple[Names, tuple[str, ...]]:
    """Class names for a file that has none, and a note on the guess."""
    if logits == len(COCO_IDS):
        return COCO_IDS, ()
    coco = tuple(name for name in COCO_IDS if name)
    if logits == len(coco):
        return coco, ("the file has no class names: 80 classes are taken to be those of COCO",)
    return placeholder_names(logits)


def placeholder_names(logits: int) -> tuple[Names, tuple[str, ...]]:
    """The names "class 0", "class 1", …, and a note on them."""
    names = tuple(f"class {index}" for index in range(logits))
    return names, (
        f"the file has no class names: they are called 'class 0' to 'class {logits - 1}'",
    )


def assumed(config: Config, state: State) -> str:
    """A note on the values of the config that cannot be inferred from a state without settings."""
    model = config.model
    parts = [counted(model.heads, "head"), "no dilation"]
    parts.append(f"position temperature {model.position_temperature:g}")
    if not any(f"queries.{table}" in state for table in ("anchors", "positions", "content")):
        parts.append(counted(model.queries.count, "proposal"))
    return f"the weights came without settings: assumed {', '.join(parts)}"
