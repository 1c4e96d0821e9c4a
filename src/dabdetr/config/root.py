"""The whole config of a member: reading, changes by path, and writing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from dabdetr.config.base import OF_SECTION, Section
from dabdetr.config.model import Model
from dabdetr.config.recipe import Augment, Classification, Image, Inference, Loss, Training
from dabdetr.files import read_regular, write_atomically
from dabdetr.text import parse_yaml, shortened, shown

Part = TypeVar("Part", bound=Section)


class Config(Section):
    """One family member: the model, and the recipe that trains it.

    >>> from dabdetr import PRESETS
    >>> config = PRESETS["dab-detr-nano"].override(["model.queries.count=50"])
    >>> config.model.queries.count
    50
    """

    name: str = Field(
        default="custom", description="name of the member; its runs are named after it"
    )
    source: str = Field(default="", description="paper or recipe of the values")
    published_ap: float | None = Field(
        default=None, description="AP on COCO val2017 that the source reports"
    )
    model: Model = Field(default=Model(), description="the network")
    image: Image = Field(default=Image(), description="size and normalisation of input images")
    loss: Loss = Field(
        default=Loss(), description="weights of the losses and of the matching costs"
    )
    augment: Augment | None = Field(
        default=Augment(), description="random changes of training images; null or none: no changes"
    )
    training: Training = Field(
        default=Training(), description="duration, optimizer, learning rates and initial weights"
    )
    inference: Inference = Field(
        default=Inference(), description="thresholds and limits of detections"
    )

    @model_validator(mode="before")
    @classmethod
    def _no_retired_fields(cls, tree: Any) -> Any:
        return modernise(tree) if isinstance(tree, dict) else tree

    @property
    def classifier(self) -> Literal["sigmoid", "softmax"]:
        """The function from class logits to scores; softmax has one more logit, no object."""
        return "softmax" if self.loss.classification == "softmax" else "sigmoid"

    def override(self, assignments: Iterable[str]) -> Config:
        """A copy with ``path=value`` assignments applied; values are read as YAML.

        >>> from dabdetr import PRESETS
        >>> PRESETS["dab-lite"].override(["training.lr=2e-4", "augment=null"]).training.lr
        0.0002
        """
        return self.changed([_assignment(text) for text in assignments])

    def changed(self, changes: Iterable[tuple[str, Any]]) -> Config:
        """A copy with values set at dotted paths, in order; retired paths are applied last.

        >>> from dabdetr import PRESETS
        >>> PRESETS["dab-lite"].changed([("model.queries.count", 40)]).model.queries.count
        40
        """
        tree = self.model_dump(mode="json")
        changes = list(changes)
        current = [(path, value) for path, value in changes if path not in RETIRED]
        for path, value in current:
            node, field = _place(tree, path)
            node[field] = _copied(value)
        set_paths = {path for path, _ in current}
        for path, value in changes:
            if path in RETIRED:
                also_set = not set_paths.isdisjoint(_lineage(RETIRED[path].to))
                _move(tree, path, value, refuse_other=also_set)
        return parse(tree, "config")

    def save(self, path: str | Path) -> None:
        """Write the config as YAML, atomically.

        >>> from dabdetr import PRESETS
        >>> PRESETS["dab-lite"].save("dab-lite.yaml")
        """
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        write_atomically(path, text.encode())


@dataclass(frozen=True)
class Moved:
    """The successor of a retired field.

    ``to`` is the path of the successor. ``means`` maps a value of the retired field to the values
    of the successor that agree with it, of which the first replaces it; without ``means`` the value
    is the same. In a section of another ``kind`` than given the retired field had no effect, and is
    dropped.
    """

    to: str
    means: Mapping[str, tuple[str, ...]] | None = None
    kind: str | None = None


RETIRED = {
    "training.pictures": Moved("training.images"),
    "model.classifier": Moved(
        "loss.classification",
        {
            "sigmoid": tuple(kind for kind in get_args(Classification) if kind != "softmax"),
            "softmax": ("softmax",),
        },
    ),
    "loss.proposal_labels": Moved(
        "model.queries.rank",
        {"classes": ("classes",), "objects": ("objectness", "object")},
        kind="from_encoder",
    ),
}
"""Path of a field in older files and commands → its successor."""


def modernise(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree of a config with the values of retired fields moved to their successors.

    ValueError if a retired field and its successor are both given and disagree.
    """
    for path in RETIRED:
        *parents, field = path.split(".")
        section = _below(tree, parents)
        if isinstance(section, dict) and field in section:
            tree = _copied(tree)
            value = _below(tree, parents).pop(field)
            _move(tree, path, value, refuse_other=True)
    return tree


def _move(tree: dict[str, Any], path: str, value: Any, refuse_other: bool) -> None:
    """Set the successor of the retired ``path``; ``refuse_other``: ValueError if it disagrees."""
    moved = RETIRED[path]
    *parents, field = moved.to.split(".")
    section: Any = tree
    for parent in parents:
        section = section.setdefault(parent, {}) if isinstance(section, dict) else None
    if not isinstance(section, dict) or moved.kind not in (None, section.get("kind")):
        return  # a missing section is refused later; one of another kind never had the field
    if moved.means is not None and (not isinstance(value, str) or value not in moved.means):
        known = ", ".join(moved.means)
        raise ValueError(f"{path} (now {moved.to}) must be one of: {known}; got {shown(value)}")
    agreeing = (value,) if moved.means is None else moved.means[value]
    if section.get(field) in agreeing:
        return
    if refuse_other and field in section:
        raise ValueError(
            f"{path} is {shown(value)} and {moved.to} is {shown(section[field])}: "
            f"{moved.to} has replaced {path}; give only {moved.to}"
        )
    section[field] = agreeing[0]


def _copied(tree: Any) -> Any:
    """A deep copy of the tree's dicts; sections become dicts too."""
    if isinstance(tree, BaseModel):
        return tree.model_dump()
    return {key: _copied(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def _below(tree: Any, keys: Iterable[str]) -> Any:
    """The value at the nested keys, or None."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _lineage(path: str) -> set[str]:
    """The path and all paths above it."""
    keys = path.split(".")
    return {".".join(keys[: depth + 1]) for depth in range(len(keys))}


def _assignment(text: str) -> tuple[str, Any]:
    """Path and value of ``path=value``; YAML, but 1e-4 is a number (YAML 1.1 requires a dot)."""
    path, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set expects path=value; got {shown(text)}")
    read = parse_yaml(value, f"the value of --set {shown(text)}")
    if isinstance(read, str):
        with suppress(ValueError):
            read = float(read)
    return path.strip(), read


def _place(tree: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """The section that contains the field at a dotted path, and the field's name."""
    node: Any = tree
    *parents, field = path.split(".")
    for depth, key in enumerate((*parents, field)):
        if not isinstance(node, dict) or key not in node:
            known = ", ".join(map(str, node)) if isinstance(node, dict) else "no field"
            where = ".".join(parents[:depth]) or "the config"
            raise ValueError(f"{where} has no field {shown(key)}; it has: {shortened(known, 300)}")
        if depth < len(parents):
            node = node[key]
    return node, field


MOST_FAULTS = 3
"""The most faults of a config in one message."""


def load(path: str | Path) -> Config:
    """Read a YAML config; missing fields have their defaults, unknown fields are errors."""
    return load_section(Config, path, "'model:' and 'training:'")


def load_section(section: type[Part], path: str | Path, fields: str) -> Part:
    """Any section from a YAML file; ``fields`` are examples of its fields for the error."""
    tree = parse_yaml(read_regular(path), str(path))
    if not isinstance(tree, dict):
        raise ValueError(f"{path} should hold fields like {fields}; it holds {shown(tree)}")
    return parse_section(section, tree, str(path))


def parse(tree: dict[str, Any], origin: str) -> Config:
    """A config from plain values; ValueError with a sentence for each faulty field."""
    return parse_section(Config, tree, origin)


def parse_section(section: type[Part], tree: dict[str, Any], origin: str) -> Part:
    """Any section from plain values; errors as in ``parse``."""
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        problems = error.errors()
        faults = [shortened(_fault(problem, tree), 320) for problem in problems[:MOST_FAULTS]]
        if len(problems) > MOST_FAULTS:
            faults = [faults[0], f"and {len(problems) - 1} more faults"]
        raise ValueError(shortened(f"{origin}: {'; '.join(faults)}")) from None


def _fault(problem: ErrorDetails, tree: dict[str, Any]) -> str:
    """The field and what is wrong with it; the validators of sections name their fields."""
    if problem["type"] == "value_error":
        return problem["msg"].removeprefix("Value error, ")
    where = _path(problem["loc"], tree)
    if problem["type"] == OF_SECTION:
        return f"{where} {problem['msg']}"
    value = problem["input"]
    got = "" if isinstance(value, dict | BaseModel) else f" (got {shown(value)})"
    return f"{where}: {problem['msg']}{got}"


def _path(place: Iterable[int | str], tree: Any) -> str:
    """The dotted path of a fault in ``tree``, without the kinds that pydantic inserts into it."""
    path = []
    for step in place:
        if isinstance(step, int):
            path.append(str(step))
            tree = tree[step] if isinstance(tree, list | tuple) and step < len(tree) else None
        elif isinstance(tree, dict) and step in tree:
            path.append(step)
            tree = tree[step]
    return ".".join(path) or "the config"


def differences(one: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted path → both values, for every field in which two configs differ; absent is ``None``.

    Parts of different ``kind`` differ in every field that they do not share as well.
    """
    flat = [dict(leaves(each.model_dump(mode="json"))) for each in (one, other)]
    paths = dict.fromkeys((*flat[0], *flat[1]))
    both = {path: (flat[0].get(path), flat[1].get(path)) for path in paths}
    return {path: values for path, values in both.items() if values[0] != values[1]}


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of every leaf of a tree."""
    if not isinstance(tree, dict) or not tree:
        yield path, tree
        return
    for key, value in tree.items():
        yield from leaves(value, f"{path}.{key}" if path else key)
