"""An option that several verbs share is written once."""

import ast
from collections import defaultdict
from pathlib import Path

import dabdetr.cli.options


def test_no_option_is_written_twice() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for file in sorted(Path(dabdetr.cli.options.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Annotated":
                places[ast.unparse(node)].append(f"{file.name}:{node.lineno}")
    assert len(places) > 100  # the glob found the verbs
    assert [each for each in places.values() if len(each) > 1] == []
