"""Checkpoints of other implementations → our config, parameter names and class names.

Shapes tell most of the config; what they cannot tell (attention heads, temperature, dilation)
comes from the settings that were saved along, if any.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dabdetr.model.formats.foreign import COCO_IDS, Foreign
from dabdetr.model.formats.key_names import rename
from dabdetr.model.formats.members import member_of
from dabdetr.model.formats.official import from_official
from dabdetr.model.formats.transformers import TRANSFORMERS, from_transformers, is_transformers

__all__ = ["COCO_IDS", "Foreign", "from_official", "from_transformers", "recognise"]


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Which implementation wrote these keys ('official DAB-DETR'); None where none that we know."""
    if is_transformers(state):
        member = member_of({rename(key, TRANSFORMERS): value for key, value in state.items()})
        return member and f"transformers {member[0]}"
    member = member_of(state)
    return member and f"official {member[0]}"
