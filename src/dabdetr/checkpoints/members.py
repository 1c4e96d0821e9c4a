"""Which member of the family a state is of, by what is unique to its keys (official names)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

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


# What a key tells of members that the skeleton does not have.
_REFUSED = ((".lvl_attn.", "DN-DETR with a deformable encoder and a dense decoder over levels"),)


def member_of(official: Mapping[str, Tensor]) -> tuple[str, Config] | None:
    """Name and preset; None where no member has such keys, an error where one is known but lacks.

    A member is refused in one sentence that names the key it was known by.
    """
    for key in official:
        for part, what in _REFUSED:
            if part in key:
                raise ValueError(
                    f"these are weights of {what} ({key}), which this project does not have; "
                    "choose weights of another member"
                )
    for part, queries, name, preset in _MEMBERS:
        if f"{queries}.weight" in official and any(f"{part}." in key for key in official):
            return name, preset
    return None
