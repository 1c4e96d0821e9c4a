"""Checkpoints of other implementations → our config, parameter names and class names.

Each format has a table from its names to those of the authors' releases; one further table leads
from there to ours. Most of the config is inferred from shapes. Values that shapes do not show
(attention heads, temperature, dilation) come from the settings in the file, if any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from dabdetr.checkpoints.detrex import detrex_to_official, from_detrex, is_detrex
from dabdetr.checkpoints.foreign import COCO_IDS, Foreign, member_of
from dabdetr.checkpoints.mmdetection import (
    from_mmdetection,
    is_mmdetection,
    mmdetection_to_official,
)
from dabdetr.checkpoints.official import from_official
from dabdetr.checkpoints.transformers import (
    from_transformers,
    is_transformers,
    transformers_to_official,
)

__all__ = [
    "COCO_IDS",
    "Foreign",
    "from_detrex",
    "from_mmdetection",
    "from_official",
    "from_transformers",
    "recognise",
]

Keys = Mapping[str, Tensor]
# Name, test of the keys, conversion to the authors' names; the first format whose test passes.
_FORMATS: tuple[tuple[str, Callable[[Keys], bool], Callable[[Keys], Keys]], ...] = (
    ("transformers", is_transformers, transformers_to_official),
    ("mmdetection", is_mmdetection, mmdetection_to_official),
    ("detrex", is_detrex, detrex_to_official),
    ("official", lambda state: True, lambda state: state),
)


def recognise(state: Keys) -> str | None:
    """The implementation and member with these keys ('official DAB-DETR'); None if unknown.

    ValueError for a member that is known but not supported.
    """
    for name, fits, to_official in _FORMATS:
        if fits(state):
            member = member_of(to_official(state))
            return member and f"{name} {member[0]}"
    return None
