"""What all configuration is made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Discriminator


class Part(BaseModel):
    """Base of all configuration: immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def kinds(default: str, *others: str) -> Discriminator:
    """How a union of parts tells them apart: by ``kind``, ``default`` where none is given."""

    def kind(value: Any) -> Any:
        if isinstance(value, dict):
            return value.get("kind", default)
        return getattr(value, "kind", None)

    known = ", ".join((default, *others))
    return Discriminator(
        kind, custom_error_type="kind", custom_error_message=f"kind must be one of: {known}"
    )
