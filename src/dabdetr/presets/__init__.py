"""The family: one config value for each member, with its source."""

from __future__ import annotations

from dabdetr.config import Config
from dabdetr.presets import published, small
from dabdetr.presets.published import derive

__all__ = ["PRESETS", "derive", "preset"]

PRESETS: dict[str, Config] = {
    member.name: member
    for module in (published, small)
    for variable, member in vars(module).items()
    if isinstance(member, Config) and not variable.startswith("_")
}
"""Every public config of the two modules, by its name."""


def preset(name: str) -> Config:
    """The preset called ``name``; ValueError with the known names for an unknown one."""
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]
