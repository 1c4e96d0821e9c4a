"""Weights and configs written before fields were merged, renamed or moved still load.

``saved/`` was written at commit 5529840: weights of narrow members (float16), the config.yaml of
the presets they were derived from, and what those models predicted for one image.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from dabdetr.checkpoints.native import load_model
from dabdetr.checkpoints.transfer import initialise
from dabdetr.config import load, parse
from dabdetr.config.root import RETIRED
from dabdetr.model.detector import build
from dabdetr.presets import PRESETS, preset
from dabdetr.structures import Images

FOLDER = Path(__file__).parent / "saved"
MEMBERS = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def _fields(tree: object, path: str = "") -> set[str]:
    """Dotted paths of all fields of a tree."""
    if not isinstance(tree, dict):
        return set()
    below = (_fields(value, f"{path}{key}.") for key, value in tree.items())
    return {f"{path}{key}" for key in tree}.union(*below)


def _of(tree: dict, path: str) -> Any:
    """The value at a dotted path."""
    return functools.reduce(lambda node, key: node[key], path.split("."), tree)


def _take(tree: dict, path: str) -> Any:
    """The value at a dotted path, and it is taken out."""
    section, _, field = path.rpartition(".")
    return _of(tree, section).pop(field)


def test_the_files_hold_every_retired_field() -> None:
    """Else they would prove nothing."""
    for member in MEMBERS:
        fields = _fields(yaml.safe_load((FOLDER / f"{member}.yaml").read_text()))
        assert set(RETIRED) <= fields, member
    assert len(MEMBERS) == 11


@pytest.mark.parametrize("member", MEMBERS)
def test_an_old_config_keeps_every_value(member: str) -> None:
    path = FOLDER / f"{member}.yaml"
    old, new = yaml.safe_load(path.read_text()), load(path).model_dump(mode="json")
    for field, moved in RETIRED.items():
        value = _take(old, field)
        means = (value,) if moved.means is None else moved.means[value]
        section = _of(new, moved.to.rpartition(".")[0])
        if moved.kind in (None, section.get("kind")):
            assert _of(new, moved.to) in means
    for field in _fields(old):
        if not isinstance(_of(old, field), dict):
            assert _of(new, field) == _of(old, field), field


@pytest.mark.parametrize("member", MEMBERS)
def test_old_weights_predict_what_they_did(member: str) -> None:
    expected = load_file(FOLDER / "expected.safetensors")
    model = load_model(FOLDER / f"{member}.safetensors").model
    with torch.no_grad():
        found = model(Images(expected["pixels"]))
    assert torch.allclose(found.logits[-1], expected[f"{member}/logits"], atol=1e-5)
    assert torch.allclose(found.boxes[-1], expected[f"{member}/boxes"], atol=1e-6)


@pytest.mark.parametrize("member", ["detr-nano", "deformable-detr-r50-two-stage", "co-dino-r50"])
def test_what_old_weights_learn_is_what_they_did(member: str) -> None:
    path = FOLDER / f"{member}.safetensors"
    with safe_open(path, "pt") as file:
        old = json.loads(file.metadata()["config"])
    config = load_model(path).model.config
    assert config.classifier == old["model"]["classifier"]
    assert config.loss.classification == old["loss"]["classification"]
    if config.model.queries.kind == "from_encoder":
        ranked_by_objects = config.model.queries.rank == "objectness"
        assert ranked_by_objects == (old["loss"]["proposal_labels"] == "objects")


def test_old_weights_start_a_training() -> None:
    source = load_model(FOLDER / "detr-nano.safetensors").model
    fresh = build(source.config, source.names)
    report = initialise(fresh, FOLDER / "detr-nano.safetensors")
    assert not report.missing
    assert not report.reinitialised


@pytest.mark.parametrize(
    ("tree", "value"),
    [
        ({"model": {"classifier": "softmax"}}, "softmax"),
        ({"model": {"classifier": "sigmoid"}}, "focal"),
        ({"model": {"classifier": "sigmoid"}, "loss": {"classification": "quality"}}, "quality"),
        ({"model": {"classifier": "softmax"}, "loss": {"classification": "softmax"}}, "softmax"),
    ],
)
def test_the_classifier_follows_from_the_loss(tree: dict, value: str) -> None:
    config = parse(tree, "a file")
    assert config.loss.classification == value
    assert config.classifier == ("softmax" if value == "softmax" else "sigmoid")


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (
            {"model": {"classifier": "softmax"}, "loss": {"classification": "focal"}},
            "model.classifier is 'softmax' and loss.classification is 'focal'",
        ),
        ({"training": {"pictures": 7, "images": 8}}, "training.pictures is 7"),
        ({"model": {"classifier": "tanh"}}, "must be one of: sigmoid, softmax; got 'tanh'"),
        ({"model": {"classifier": ["softmax"]}}, "must be one of: sigmoid, softmax; got"),
        ({"model": {"classifier": "softmax"}, "loss": None}, "loss"),
        ({"model": {"classifier": "softmax"}, "loss": 3}, "loss"),
    ],
)
def test_old_fields_that_contradict_new_ones_are_refused(tree: dict, words: str) -> None:
    with pytest.raises(ValueError, match=r"^a file: ") as caught:
        parse(tree, "a file")
    assert words in str(caught.value)


def test_files_are_not_changed_by_reading_them() -> None:
    tree = {"model": {"classifier": "softmax"}, "training": {"pictures": 7}}
    before = json.dumps(tree)
    assert parse(tree, "a file").training.images == 7
    assert json.dumps(tree) == before


QUERIES = "model.queries={kind: from_encoder, count: 9, content: box}"


@pytest.mark.parametrize(
    ("member", "assignments", "field", "value"),
    [
        ("dab-lite", ["training.pictures=7"], "training.images", 7),
        ("dab-detr-nano", ["model.classifier=softmax"], "loss.classification", "softmax"),
        ("detr-nano", ["model.classifier=sigmoid"], "loss.classification", "focal"),
        ("co-dino-r50", ["model.classifier=sigmoid"], "loss.classification", "quality"),
        (
            "detr-nano",
            ["model.classifier=sigmoid", "loss.classification=quality"],
            "loss.classification",
            "quality",
        ),
        (
            "deformable-detr-nano",
            ["loss.proposal_labels=objects", QUERIES],  # of a field that stands there afterwards
            "model.queries.rank",
            "objectness",
        ),
        (
            "deformable-detr-nano",
            [QUERIES.replace("box}", "box, rank: objectness}"), "loss.proposal_labels=objects"],
            "model.queries.rank",
            "objectness",
        ),
        (
            "deformable-detr-r50-two-stage",
            ["loss.proposal_labels=classes"],
            "model.queries.rank",
            "classes",
        ),
    ],
)
def test_old_paths_are_taken_by_set(
    member: str, assignments: list[str], field: str, value: object
) -> None:
    config = preset(member).override(assignments)
    assert _of(config.model_dump(), field) == value


def test_old_paths_that_contradict_new_ones_are_refused() -> None:
    with pytest.raises(ValueError, match=r"has replaced model\.classifier"):
        preset("detr-nano").override(["model.classifier=softmax", "loss.classification=focal"])


def test_an_old_field_without_effect_is_dropped() -> None:
    config = preset("dab-detr-nano").override(["loss.proposal_labels=objects"])
    assert config == preset("dab-detr-nano")


def test_no_preset_has_a_retired_field() -> None:
    for member in PRESETS.values():
        assert not set(RETIRED) & _fields(member.model_dump())
