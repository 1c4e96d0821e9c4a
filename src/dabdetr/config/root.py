"""The whole config of a member: read, changed by path, written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from dabdetr.config.base import NO_FIELD, Section
from dabdetr.config.model import Model
from dabdetr.config.recipe import Augment, Image, Inference, Loss, Training
from dabdetr.files import write_atomically


class Config(Section):
    """One family member: the model, and the recipe that trains it."""

    name: str = Field(default="custom", description="of the member; runs are called after it")
    source: str = Field(default="", description="paper or recipe the values come from")
    published_ap: float | None = Field(
        default=None, description="COCO val2017 AP of the source, if any"
    )
    model: Model = Field(default=Model(), description="what is computed")
    image: Image = Field(default=Image(), description="how images are made the network's input")
    loss: Loss = Field(default=Loss(), description="what is learned: weights of loss and costs")
    augment: Augment | None = Field(
        default=Augment(), description="random changes of training images; null or none: none"
    )
    training: Training = Field(default=Training(), description="how long, how fast, from where")
    inference: Inference = Field(default=Inference(), description="from predictions to detections")

    @model_validator(mode="after")
    def _one_classifier(self) -> Self:
        queries = self.model.queries
        if queries.kind == "from_encoder" and (queries.rank == "classes") != (
            self.loss.proposal_labels == "classes"
        ):
            raise ValueError(
                f"model.queries.rank is {queries.rank!r} and loss.proposal_labels is "
                f"{self.loss.proposal_labels!r}: objectness goes with objects, classes with classes"
            )
        if (self.model.classifier == "softmax") != (self.loss.classification == "softmax"):
            raise ValueError(
                f"model.classifier is {self.model.classifier!r} and loss.classification is "
                f"{self.loss.classification!r}: softmax goes with softmax, sigmoid with focal "
                "or quality"
            )
        return self

    def override(self, assignments: Iterable[str]) -> Config:
        """A copy with ``path=value`` assignments applied; values are read as YAML.

        ``config.override(["training.lr=2e-4", "augment=null"])``
        """
        tree = self.model_dump(mode="json")
        for assignment in assignments:
            path, equals, text = assignment.partition("=")
            if not equals:
                raise ValueError(f"--set expects path=value; got {assignment!r}")
            node, keys = tree, path.strip().split(".")
            if keys[:1] == ["training"] and keys[1:] == ["pictures"]:
                keys[1] = "images"
            for depth, key in enumerate(keys):
                if not isinstance(node, dict) or key not in node:
                    known = ", ".join(node) if isinstance(node, dict) else "no field"
                    where = ".".join(keys[:depth]) or "the config"
                    raise ValueError(f"{where} has no field {key!r}; it has: {known}")
                if depth < len(keys) - 1:
                    node = node[key]
            try:
                node[keys[-1]] = _yaml_value(text)
            except yaml.YAMLError as error:
                raise ValueError(
                    f"--set {assignment!r} has a value that is not readable YAML{_where(error)}"
                ) from None
        return parse(tree, "config")

    def save(self, path: str | Path) -> None:
        """Write as YAML: to a temporary name first, then moved."""
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        write_atomically(path, text.encode())


def load(path: str | Path) -> Config:
    """Read a YAML config; missing fields take their defaults, unknown fields are errors."""
    try:
        tree = yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable YAML{_where(error)}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} should hold fields like 'model:' and 'training:'; it does not")
    return parse(tree, str(path))


def parse(tree: dict[str, Any], origin: str) -> Config:
    """A config from plain values; every error names its field in one sentence."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            where = _path(problem["loc"], tree)
            message = problem["msg"].removeprefix("Value error, ")
            given = problem["input"]
            shown = "" if isinstance(given, dict | BaseModel) else f" (got {given!r})"
            colon = "" if problem["type"] == NO_FIELD else ":"
            lines.append(f"{where}{colon} {message}{shown}")
        raise ValueError(f"{origin}: " + "; ".join(lines)) from None


def _path(place: Iterable[int | str], tree: Any) -> str:
    """Fields that lead to a fault in ``tree``; pydantic puts kinds of parts between them."""
    path = []
    for step in place:
        if isinstance(step, int) or (isinstance(tree, dict) and step in tree):
            path.append(str(step))
            tree = tree[step]
    return ".".join(path) or "config"


def _where(error: Exception) -> str:
    """Where YAML broke off, if it says so."""
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f"; see line {mark.line + 1}, column {mark.column + 1}"


def _yaml_value(text: str) -> Any:
    """YAML, with 1e-4 read as a number (YAML 1.1 wants a dot)."""
    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
