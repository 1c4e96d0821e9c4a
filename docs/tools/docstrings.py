"""Docstrings as this project writes them → Markdown: a griffe extension.

Lines ``name   meaning`` become a list, and ``>>>`` examples become code, with what they print as
comments.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

NAMED = re.compile(r"^([\w*][\w.*]*(?:, \w+)*) {2,}(\S.*)$")
PROMPT = re.compile(r"^(?:>>>|\.\.\. )")
"""A single ``...`` stands for more of what is printed."""


def as_markdown(text: str) -> str:
    """The same docstring, as mkdocs renders it well."""
    lines: list[str] = []
    inside = ""
    for line in [*text.splitlines(), ""]:
        named, prompt = NAMED.match(line), PROMPT.match(line)
        now = "list" if named or (inside == "list" and line.startswith("  ")) else ""
        printed = inside == "code" and bool(line.strip()) and not prompt
        now = "code" if prompt or printed else now
        if inside == "code" != now:
            lines.append("```")
        if now != inside and now:
            lines += ["", "```python"] if now == "code" else [""]
        if named and not printed:
            line = f"- `{named[1]}`: {named[2]}"
        elif now == "list":
            line = f"    {line.strip()}"
        elif prompt:
            line = line[prompt.end() :].removeprefix(" ") if line.startswith(">>>") else line[4:]
        elif printed:
            line = f"# {line}".replace("# ...", "# …")
        lines.append(line)
        inside = now
    return "\n".join(lines).rstrip()


class Docstrings(griffe.Extension):
    """Rewrites every docstring."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Called for each object that was read from a source."""
        if obj.docstring is not None and not obj.is_alias:
            obj.docstring.value = as_markdown(obj.docstring.value)
