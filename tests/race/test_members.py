"""The race is fair: members differ in their own part, and in nothing else."""

from __future__ import annotations

import pytest
from experiments.race.members import DETRS, LADDER, OWN, RUNGS, SHARED, differing, rung, unfair
from experiments.race.plan import Run, Settings, config_of, plan

from dabdetr.presets import PRESETS, derive

BASE = RUNGS["dab-start"].config


@pytest.mark.parametrize("name", RUNGS)
def test_rungs_differ_in_their_own_part_only(name: str) -> None:
    assert unfair(differing(BASE, rung(name).config)) == []


@pytest.mark.parametrize("name", RUNGS)
def test_runs_share_the_recipe(name: str) -> None:
    """As they are trained: only DETR's rates and epochs are its own."""
    settings = Settings(epochs=3, detr_epochs=9, overrides=("training.batch=4",))
    base = config_of(Run("dab-start", 96, 1), settings)
    config = config_of(Run(name, 96, 1), settings)
    apart = set(unfair(differing(base, config)))
    rates = {"training.lr", "training.backbone_lr"} if rung(name).rate != 1 else set()
    assert apart == rates | ({"training.epochs"} if name in DETRS else set())
    assert config.training.batch == 4
    assert (config.image.size, config.image.max_size, config.training.seed) == (96, 96, 1)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model__width", 128),
        ("model__encoder__layers", 3),
        ("model__decoder__layers", 2),
        ("model__queries__count", 50),
        ("model__backbone__name", "resnet34"),
        ("training__lr", 1e-4),
        ("training__ema", None),
        ("image__size", 96),
        ("loss__box_weight", 4.0),
        ("augment", {"flip": 0.5}),
    ],
)
def test_what_nobody_may_own_is_found(path: str, value: object) -> None:
    changed = derive(BASE, "other", **{path: value})
    assert unfair(differing(BASE, changed))


def test_parts_switched_off_are_exactly_those() -> None:
    wanted = {
        "no-size": {"model.decoder.cross_attention.modulate_size"},
        "no-position": {"model.decoder.modulate_position"},
        "no-update": {"model.decoder.update_anchors", "model.decoder.look_forward_twice"},
        "temperature-10000": {"model.position_temperature"},
        "dab": {"model.queries.content", "model.queries.start", "loss.class_weight"},
    }
    for name, paths in wanted.items():
        assert set(differing(BASE, rung(name).config)) == paths, name
    added = differing(BASE, rung("dn-dab").config)
    assert added
    assert all(path.startswith("model.denoising.") for path in added)
    two, four = rung("points").config, rung("no-size-no-update").config
    # Of boxes' start nothing is left where there are no boxes.
    assert set(differing(two, four)) == {"model.queries.anchor", "model.queries.start"}


def test_rates_multiply_the_common_one() -> None:
    settings = Settings(overrides=("training.lr=0.002", "training.backbone_lr=0.001"))
    rates = [config_of(Run(name, 96, 0), settings).training for name in DETRS]
    assert [each.lr for each in rates] == pytest.approx([2e-3, 4e-3, 0.8e-3, 0.32e-3])
    assert [each.backbone_lr for each in rates] == pytest.approx([1e-3, 2e-3, 0.4e-3, 0.16e-3])


def test_rungs_of_the_race_are_no_presets() -> None:
    assert not set(RUNGS) & set(PRESETS)
    assert len(LADDER) == 9
    assert all(any(path.startswith(part) for part in OWN) for path in SHARED)


def test_unknown_rung() -> None:
    with pytest.raises(ValueError, match="there is no rung 'dap'; there are: detr, conditional"):
        rung("dap")


def test_plan_does_a_seed_of_everything_first() -> None:
    tasks = plan(Settings(seeds=2, sizes=(96, 160)))
    assert len(tasks) == 2 * (len(RUNGS) + 4)
    assert [task.seed for task in tasks] == sorted(task.seed for task in tasks)
    assert {t.rung for t in tasks if t.size == 160} == set(LADDER[:4])
    chosen = plan(Settings(rungs=("detr", "dino"), sizes=(96, 160), seeds=1))
    assert [task.name for task in chosen] == ["detr-96-0", "dino-96-0", "detr-160-0", "dino-160-0"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"rungs": ("dap",)}, "there is no rung 'dap'"),
        ({"sizes": (16,)}, "sizes must be 32 pixels or more"),
        ({"epochs": 300}, "detr_epochs is 90, fewer than the 300 epochs"),
        ({"data": "scenes:size=96"}, "sizes of a ladder are given by --sizes"),
        ({"overrides": ("training.epochs=3",)}, "is for --epochs to say"),
        ({"seeds": 0}, "seeds: Input should be greater than or equal to 1"),
    ],
)
def test_bad_settings(values: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        Settings.of(**values)
    assert "\n" not in str(caught.value)
