"""Configuration: contradictions name both fields, overrides, files, presets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dabdetr import config
from dabdetr.config import Config, load, parse
from dabdetr.files import write_atomically
from dabdetr.presets import PRESETS, derive, preset, published, small
from dabdetr.presets.published import DAB_DETR_R50

CONTRADICTIONS = [
    ({"model": {"backbone": {"strides": [32, 16]}}}, ["backbone.strides", "(32, 16)"]),
    ({"model": {"backbone": {"strides": []}}}, ["backbone.strides", "()"]),
    (
        {"model": {"backbone": {"strides": [32], "output_stride": 16}}},
        ["backbone.strides", "32", "backbone.output_stride", "16"],
    ),
    (
        {"model": {"decoder": {"update_anchors": False}}},
        ["decoder.look_forward_twice", "decoder.update_anchors"],
    ),
    ({"model": {"width": 100, "heads": 8}}, ["model.width", "100", "model.heads", "8"]),
    ({"model": {"width": 18, "heads": 2}}, ["model.width", "18", "4"]),
    (
        {"model": {"backbone": {"strides": [16, 32]}}},
        ["model.encoder", "model.backbone.strides", "(16, 32)"],
    ),
    ({"image": {"size": 800, "max_size": 640}}, ["image.max_size", "640", "image.size", "800"]),
    (
        {"loss": {"class_cost": 0, "box_cost": 0, "giou_cost": 0}},
        ["class_cost", "box_cost", "giou_cost"],
    ),
]


@pytest.mark.parametrize(("tree", "words"), CONTRADICTIONS)
def test_contradictions_name_both_fields(tree: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match="origin") as caught:
        parse(tree, "origin")
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"modle": {}}, ["origin: the config has no field 'modle'; it has: name, source"]),
        ({"model": {"widht": 256}}, ["origin: model has no field 'widht'; it has: backbone, "]),
        (
            {"model": {"encoder": {"kind": "deformable", "layrs": 2}}},
            ["origin: model.encoder has no field 'layrs'; it has: kind, layers, levels, skip_"],
        ),
        ({"model": {"encoder": {"layers": -1}}}, ["origin: model.encoder.layers: "]),
        ({"augment": {"sizes": [32, "wide"]}}, ["origin: augment.sizes.1: ", "'wide'"]),
        ({"training": {"epochs": 0}}, ["training.epochs", "0"]),
        ({"training": {"epochs": "many"}}, ["training.epochs", "'many'"]),
        ({"training": {"precision": "fp8"}}, ["training.precision", "'fp8'"]),
        ({"model": {"dropout": 1.0}}, ["model.dropout", "1.0"]),
        ({"augment": {"flip": 2}}, ["augment.flip", "2"]),
    ],
)
def test_unknown_fields_and_values_are_named(tree: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match="origin") as caught:
        parse(tree, "origin")
    for word in words:
        assert word in str(caught.value)


def test_a_config_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        DAB_DETR_R50.name = "other"  # type: ignore[misc]


def test_override_reads_yaml_values() -> None:
    changed = DAB_DETR_R50.override(
        ["training.lr=2e-4", "augment=null", "model.queries.count=100", "image.mean=[0, 0, 0]"]
    )
    assert changed.training.lr == 2e-4
    assert changed.augment is None
    assert changed.model.queries.count == 100
    assert changed.image.mean == (0.0, 0.0, 0.0)
    assert DAB_DETR_R50.training.lr == 1e-4
    assert DAB_DETR_R50.override([]) == DAB_DETR_R50


def test_every_field_says_what_it_is() -> None:
    parts = [getattr(config, name) for name in config.__all__]
    for part in parts:
        if isinstance(part, type) and issubclass(part, config.Section):
            fields = part.model_fields.items()
            silent = [name for name, field in fields if name != "kind" and not field.description]
            assert not silent, part


def test_none_switches_off_as_null_does() -> None:
    changed = preset("dab-lite").override(
        ["augment=none", "model.denoising=none", "training.ema=none", "training.start=none"]
    )
    assert (changed.augment, changed.model.denoising, changed.training.ema) == (None, None, None)
    assert changed.training.start == "none"
    assert parse({"augment": "none"}, "file").augment is None


def test_override_reaches_into_free_options() -> None:
    nano = preset("dab-detr-nano").override(["model.backbone.options.stem_width=16"])
    assert nano.model.backbone.options["stem_width"] == 16


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("training.lr", ["path=value", "training.lr"]),
        ("training.rate=1", ["training", "'rate'", "lr"]),
        ("nothing.lr=1", ["nothing", "training"]),
        ("training.lr.deep=1", ["training.lr", "'deep'"]),
        ("training.lr=-1", ["training.lr", "-1"]),
        ("model.width=100", ["model.width", "model.heads"]),
        (f"model.encoder.layers={10**30}", ["model.encoder.layers", "200"]),
        (f"model.feedforward={2**63}", ["model has a feedforward of", str(2**62)]),
        (f"model.queries.count={10**30}", ["model.queries has a count of", str(2**62)]),
        (f"training.seed={10**30}", ["training has a seed of", str(2**62)]),
        (f"model.encoder={{kind: deformable, points: {2**63}}}", ["model.encoder has a points"]),
        ("model.decoder.layers=201", ["model.decoder.layers", "200"]),
        ("model.queries.point_layers=201", ["model.queries.point_layers", "200"]),
        ("model.encoder={kind: deformable, levels: 17}", ["model.encoder.levels", "16"]),
        ("model.backbone.options={layers: [1, 201]}", ["'layers'", "at most 200"]),
        ("model.backbone.options={depth_multiplier: 1.0e+9}", ["'depth_multiplier'", "at most"]),
        ("image.std=[0.2, 1.0e-310, 0.2]", ["image.std", "1e-310", "0.001"]),
        ("image.mean=[0, 0, 1.0e+300]", ["image.mean", "1e+300", "1000"]),
        ("training.lr=[1", ["training.lr", "[1", "not readable YAML (", "; see line 1, column 3"]),
    ],
)
def test_override_errors_are_one_sentence(assignment: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are checked below
        DAB_DETR_R50.override([assignment])
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@given(
    st.floats(1e-7, 1.0),
    st.integers(1, 1000),
    st.sampled_from(["step", "cosine", "constant"]),
    st.booleans(),
)
def test_overrides_survive_being_written_as_text(
    lr: float, epochs: int, schedule: str, augment: bool
) -> None:
    config = DAB_DETR_R50.override(
        [f"training.lr={lr!r}", f"training.epochs={epochs}", f"training.schedule={schedule}"]
        + ([] if augment else ["augment=null"])
    )
    assert (config.training.lr, config.training.epochs) == (lr, epochs)
    assert config.training.schedule == schedule
    assert (config.augment is not None) == augment


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b\n", ["model:"]),
        ("model: [", ["is not readable YAML (", "; see line 1, column 9"]),
        ("model:\n  width: 8\n heads: 2\n", ["YAML (", "; see line 3, column 2"]),
        ("model:\n  width: 100\n", ["model.width", "model.heads"]),
        ("", ["model:"]),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml"):
        load(tmp_path / "nothing.yaml")


def test_missing_fields_take_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("name: mine\nmodel:\n  queries:\n    count: 50\n")
    config = load(path)
    assert (config.name, config.model.queries.count, config.model.width) == ("mine", 50, 256)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_complete_and_round_trip(name: str, tmp_path: Path) -> None:
    member = preset(name)
    assert member.name == name
    assert member.source
    path = tmp_path / "config.yaml"
    member.save(path)
    assert load(path) == member
    assert Config.model_validate_json(member.model_dump_json()) == member
    assert yaml.safe_load(path.read_text())["name"] == name


PUBLISHED = {
    "dab-detr-r50": 42.2,
    "dab-detr-r50-p3": 42.6,
    "dab-detr-r50-dc5": 44.5,
    "dab-detr-r50-dc5-p3": 45.7,
    "dab-detr-r50-dc5-fixxy": 44.7,
    "dab-detr-r101": 43.5,
    "dab-detr-r101-dc5": 45.8,
    "dab-detr-r101-p3": 44.1,
    "dab-detr-r101-dc5-p3": 46.6,
    "detr-r50": 42.0,
    "detr-r50-dc5": 43.3,
    "detr-r101": 43.5,
    "detr-r101-dc5": 44.9,
    "conditional-detr-r50": 41.0,
    "conditional-detr-r50-dc5": 43.7,
    "conditional-detr-r101": 42.8,
    "conditional-detr-r101-dc5": 45.0,
    "deformable-detr-r50": 44.5,
    "deformable-detr-r50-single": 39.4,
    "deformable-detr-r50-single-dc5": 41.5,
    "deformable-detr-r50-refine": 46.2,
    "dab-deformable-detr-r50": 48.7,
    "dab-deformable-detr-r50-two-stage": 49.7,
    "dn-detr-r50": 44.4,
    "dn-detr-r50-dc5": 46.3,
    "dn-dab-deformable-detr-r50": 49.5,
    "deformable-detr-r50-two-stage": 46.9,
    "dino-r50-4scale": 49.0,
    "dino-r50-5scale": 49.4,
    "co-dab-deformable-r50": 49.5,
    "co-dino-r50": 52.1,
    "dino-swin-l-4scale": 56.8,
    "dino-swin-l-5scale": 57.3,
}
"""COCO AP as the papers (or the releases of their weights) give it."""


def test_only_papers_numbers_are_called_published() -> None:
    given = {name: member.published_ap for name, member in PRESETS.items()}
    assert {name: ap for name, ap in given.items() if ap is not None} == PUBLISHED


def test_every_member_is_a_preset_under_the_name_of_its_variable() -> None:
    members = {
        variable: value
        for module in (published, small)
        for variable, value in vars(module).items()
        if isinstance(value, Config) and not variable.startswith("_")
    }
    assert {name.upper().replace("-", "_"): member for name, member in PRESETS.items()} == members


def test_an_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match="dab-detr-r50-dc5") as caught:
        preset("dab-detr-r5")
    assert "'dab-detr-r5'" in str(caught.value)


def test_derive_changes_only_what_it_says() -> None:
    mine = derive(DAB_DETR_R50, "mine", model__queries__count=100)
    assert mine.model.queries.count == 100
    assert mine.source == DAB_DETR_R50.source
    assert mine.published_ap is None
    restored = derive(mine, "dab-detr-r50", published_ap=42.2, model__queries__count=300)
    assert restored == DAB_DETR_R50


def test_writing_atomically_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


SAMPLING = {"encoder": {"kind": "deformable"}, "backbone": {"strides": [8, 16, 32]}}


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ({"encoder": {"kind": "deformable"}}, ["encoder", "cross_attention"]),
        (
            {"decoder": {"cross_attention": {"kind": "deformable"}}},
            ["encoder", "cross_attention"],
        ),
        (
            {
                **SAMPLING,
                "encoder": {"kind": "deformable", "levels": 2},
                "decoder": {"cross_attention": {"kind": "deformable"}},
            },
            ["encoder.levels", "backbone.strides"],
        ),
        ({"queries": {"kind": "learned", "anchor": None}}, ["cross_attention", "queries.anchor"]),
        (
            {
                "queries": {"kind": "learned", "anchor": None},
                "decoder": {"cross_attention": {"kind": "add"}, "modulate_position": None},
            },
            ["decoder.update_anchors", "queries.anchor"],
        ),
        ({"queries": {"kind": "learned", "anchor": "point"}}, ["modulate_size", "queries.anchor"]),
        (
            {
                "queries": {"kind": "learned", "anchor": "point"},
                "decoder": {"cross_attention": {"kind": "concat", "modulate_size": False}},
            },
            ["update_anchors", "queries.anchor"],
        ),
        (
            {
                "decoder": {
                    "cross_attention": {"kind": "add"},
                    "update_anchors": False,
                    "look_forward_twice": False,
                }
            },
            ["modulate_position", "cross_attention"],
        ),
        (
            {"queries": {"kind": "learned", "anchor": "point", "patterns": 2}},
            ["queries.patterns", "queries.anchor"],
        ),
        ({"queries": {"kind": "from_encoder"}}, ["model.queries", "model.encoder"]),
        ({"queries": {"kind": "learned", "content": "unknown"}}, ["queries.content", "denoising"]),
        (
            {
                "denoising": {"kind": "dn"},
                "queries": {"kind": "learned", "anchor": None},
                "decoder": {
                    "cross_attention": {"kind": "add"},
                    "modulate_position": None,
                    "update_anchors": False,
                    "look_forward_twice": False,
                },
            },
            ["model.denoising", "queries.anchor"],
        ),
    ],
)
def test_parts_that_do_not_go_together_are_named(model: dict, fields: list[str]) -> None:
    with pytest.raises(ValueError, match="model") as caught:
        Config.model_validate({"model": model})
    for field in fields:
        assert field in str(caught.value)


def test_the_kind_of_a_part_may_be_left_out_and_an_unknown_one_lists_those_there_are() -> None:
    model = parse({"model": {"queries": {"count": 7}, "denoising": {"groups": 2}}}, "here").model
    assert (model.queries.kind, model.queries.count) == ("learned", 7)
    assert model.denoising is not None
    assert model.denoising.kind == "dn"
    for wrong in ({"kind": "dreamt"}, "dreamt"):
        with pytest.raises(ValueError, match="kind must be one of: learned, from_encoder"):
            parse({"model": {"queries": wrong}}, "here")


def test_what_cannot_be_written_is_named_as_it_was_given(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none/a\.txt cannot be written \(no such file"):
        write_atomically(tmp_path / "none" / "a.txt", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="folder cannot be written"):
        write_atomically(tmp_path / "folder", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def _full_paths(fields: str, message: str) -> bool:
    """Whether the message has every one of the paths, once and whole."""
    return all(
        len(re.findall(rf"(?<![\w.]){re.escape(field)}(?![\w.])", message)) == 1
        for field in fields.split()
    )


@pytest.mark.parametrize(
    ("tree", "fields"),
    [
        ({"modle": {}}, ""),
        ({"model": {"heads": "many"}}, "model.heads"),
        ({"model": {"heads": 7}}, "model.width model.heads"),
        ({"model": {"queries": {"count": 0}}}, "model.queries.count"),
        ({"model": {"queries": {"kind": "other"}}}, "model.queries"),
        ({"model": {"queries": {"cuont": 3}}}, "model.queries"),
        ({"model": {"queries": {"patterns": 2, "anchor": None}}}, "model.queries.patterns"),
        ({"model": {"backbone": {"strides": [16, 8]}}}, "model.backbone.strides"),
        ({"model": {"backbone": {"strides": [8, 16]}}}, "model.encoder model.backbone.strides"),
        ({"loss": {"class_cost": 0, "box_cost": 0, "giou_cost": 0}}, "loss.class_cost"),
        ({"image": {"size": 900, "max_size": 800}}, "image.size image.max_size"),
        ({"augment": {"crop_scale": [1]}}, "augment.crop_scale.1"),
    ],
)
def test_a_fault_names_its_fields_once(tree: dict, fields: str) -> None:
    with pytest.raises(ValueError, match=r"^config: ") as caught:
        parse(tree, "config")
    message = str(caught.value)
    assert "config: config" not in message
    assert _full_paths(fields, message), message


def test_a_fault_of_the_whole_is_told_once() -> None:
    with pytest.raises(ValueError, match=r"^config: the config has no field 'modle'; it has: name"):
        parse({"modle": {}}, "config")


def test_many_long_faults_stay_one_short_message() -> None:
    with pytest.raises(ValueError, match="model has no f") as error:
        parse({"model": {"a" * 300: 1, "b" * 300: 2}, "training": {"c" * 300: 3}}, "x" * 200)
    assert len(str(error.value)) < 500
    config = preset("dab-detr-nano")
    with pytest.raises(ValueError, match="has no field 'x'"):
        config.override(["loss={0: 1}", "loss.x.y=1"])


def test_classes_may_be_called_by_numbers() -> None:
    changes = ["loss.class_weights={3: 2, 'a': 1}", "inference.class_conf={7: 0.5}"]
    config = Config().override(changes)
    assert config.loss.class_weights == {"3": 2.0, "a": 1.0}
    assert config.inference.class_conf == {"7": 0.5}
    with pytest.raises(ValueError, match=r"loss\.class_weights\.a"):
        Config().override(["loss.class_weights={a: -1}"])
