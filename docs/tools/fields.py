"""The configuration's reference, read from its pydantic models."""

from __future__ import annotations

import inspect
import typing
from typing import Any

from docstrings import as_markdown
from family import table
from pydantic.fields import FieldInfo

from dabdetr import config

ORDER = (
    *(config.Config, config.Model),
    *(config.Backbone, config.Vit),
    *(config.DenseEncoder, config.DeformableEncoder),
    *(config.LearnedQueries, config.EncoderQueries),
    *(config.Decoder, config.ConcatAttention, config.AddAttention, config.DeformableAttention),
    *(config.Denoising, config.ContrastiveDenoising, config.Collaborative),
    *(config.Image, config.Augment, config.Loss, config.Training, config.Inference),
)
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def fields() -> str:
    """Every part of a config: its fields, their values, their defaults."""
    return "\n\n".join(_part(part) for part in ORDER)


def _part(part: type[config.Section]) -> str:
    rows = [
        [f"`{name}`", _values(field), _default(field), field.description or "–"]
        for name, field in part.model_fields.items()
        if name != "kind"
    ]
    parts = [f"## {part.__name__}", as_markdown(inspect.getdoc(part) or "")]
    if "kind" in part.model_fields:
        parts.append(f"`kind: {part.model_fields['kind'].default}`")
    if rows:
        parts.append(table(["field", "values", "default", "meaning"], rows))
    return "\n\n".join(parts)


def _values(field: FieldInfo) -> str:
    """The type in words, with bounds; parts as links to their own tables."""
    bounds = []
    for each in field.metadata:
        bounds += [
            f"{sign} {getattr(each, key)}" for key, sign in BOUNDS.items() if _has(each, key)
        ]
    return " ".join(filter(None, [_type(field.annotation), ", ".join(bounds)]))


def _has(value: Any, key: str) -> bool:
    return getattr(value, key, None) is not None


def _type(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return " · ".join(f"`{value}`" for value in arguments)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is tuple:
        inner = [each for each in arguments if each is not Ellipsis]
        many = "list of " if Ellipsis in arguments else f"{len(inner)} × "
        return many + _type(inner[0])
    if origin is dict:
        return "mapping"
    if arguments:  # a union
        return " · ".join(_type(each) for each in arguments)
    if isinstance(kind, type) and issubclass(kind, config.Section):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    words = {int: "whole number", float: "number", str: "text", bool: "yes/no"}
    return words.get(kind, "`null`" if kind is type(None) else str(kind))


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, config.Section):
        return f"[{type(value).__name__}](#{type(value).__name__.lower()})"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    if isinstance(value, bool | None):
        return {None: "`null`", True: "`true`", False: "`false`"}[value]
    return f"`{value}`" if value != "" else "–"
