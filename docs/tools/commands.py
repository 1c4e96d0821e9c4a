"""The command line's reference, read from the signatures of its verbs."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path
from typing import Any

import typer
from family import table
from typer.models import ArgumentInfo

from dabdetr.cli import app

TAKES = {int: "whole number", float: "number", str: "text", Path: "path", bool: ""}


def verbs() -> dict[str, Any]:
    """The function behind each command, by name; those of a group after its name."""
    found: dict[str, Any] = _functions(app)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        inside = _functions(group.typer_instance)
        found |= {f"{group.name} {name}": verb for name, verb in inside.items()}
    return found


def _functions(group: typer.Typer) -> dict[str, Any]:
    functions = (each.callback for each in group.registered_commands)
    return {each.__name__: each for each in functions if each is not None}


def commands() -> str:
    """Every verb: what it does, its arguments and its options."""
    return "\n\n".join(_command(name, verb) for name, verb in verbs().items())


def _command(name: str, verb: Any) -> str:
    hints = typing.get_type_hints(verb, include_extras=True)
    given, options, usage = [], [], ["dabdetr", name]
    for key, parameter in inspect.signature(verb).parameters.items():
        if hints[key] is typer.Context:
            continue
        kind, info = typing.get_args(hints[key])[:2]
        said = (info.help or "").replace("|", "\\|")
        if isinstance(info, ArgumentInfo):
            shown = key.upper() + ("..." if "list" in str(kind) else "")
            usage.append(shown if parameter.default is parameter.empty else f"[{shown}]")
            given.append([f"`{key.upper()}`", said])
        else:
            options.append([_flags(key, info, kind), _takes(kind, info), said, _default(parameter)])
    parts = [f"## dabdetr {name}", inspect.cleandoc(verb.__doc__ or "")]
    parts.append("```text\n" + " ".join([*usage, "[OPTIONS]"]) + "\n```")
    if given:
        parts.append(table(["argument", "what it is"], given))
    parts.append(table(["option", "takes", "what it does", "default"], options))
    return "\n\n".join(parts)


def _flags(key: str, info: Any, kind: Any) -> str:
    """As typed; typer keeps the first declared one as ``default``."""
    flag = "--" + key.replace("_", "-")
    declared = [info.default] if isinstance(info.default, str) else []
    declared += info.param_decls or []
    flags = declared or [flag, *([f"--no-{flag[2:]}"] if kind is bool else [])]
    return ", ".join(f"`{each}`" for each in flags)


def _takes(kind: Any, info: Any) -> str:
    """In words; several where the option may be repeated."""
    if info.metavar:
        return f"`{info.metavar}`"
    inner = next(each for each in (typing.get_args(kind) or (kind,)) if each is not type(None))
    if typing.get_origin(inner) is list:
        return TAKES[typing.get_args(inner)[0]] + ", repeatable"
    return TAKES[inner]


def _default(parameter: inspect.Parameter) -> str:
    value = parameter.default
    if value is parameter.empty:
        return "**required**"
    shown = {None: "", False: "", True: "yes"}
    return shown[value] if isinstance(value, bool | None) else f"`{value}`"
