"""The base class of all configuration sections."""

from __future__ import annotations

from types import NoneType
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, model_validator
from pydantic_core import PydanticCustomError

from dabdetr.text import shortened, shown

OF_SECTION = "of_section"
"""Type of errors about a whole section; their sentences continue after the section's name."""
LARGEST = 2**62
"""The largest whole number: torch takes no larger sizes or seeds."""


class Section(BaseModel):
    """Base of all configuration: immutable, and unknown fields are errors.

    For a field that may be null, the word none means null as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        for key in tree:
            if key not in cls.model_fields:
                known = ", ".join(cls.model_fields)
                about = {"key": shown(key), "known": shortened(known, 300)}
                raise PydanticCustomError(OF_SECTION, "has no field {key}; it has: {known}", about)
        return {key: None if cls._absent(key, value) else value for key, value in tree.items()}

    @model_validator(mode="after")
    def _within_largest(self) -> Self:
        for key in type(self).model_fields:
            value = getattr(self, key)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int) and abs(number) > LARGEST:
                    about = {"key": key, "number": shown(number), "most": str(LARGEST)}
                    raise PydanticCustomError(
                        OF_SECTION, "has a {key} of {number}; at most {most} is possible", about
                    )
        return self

    @classmethod
    def _absent(cls, key: str, value: Any) -> bool:
        return value == "none" and NoneType in get_args(cls.model_fields[key].annotation)


def kinds(default: str, *others: str) -> Discriminator:
    """The discriminator of a union of parts: their ``kind``, or ``default`` if it is missing."""

    def kind(value: Any) -> Any:
        if isinstance(value, dict):
            return value.get("kind", default)
        return getattr(value, "kind", None)

    known = ", ".join((default, *others))
    return Discriminator(
        kind, custom_error_type="kind", custom_error_message=f"kind must be one of: {known}"
    )
