"""What a race is to run: its settings, kept as ladder.yaml, and the list of runs they mean."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from experiments.race.members import LADDER, RUNGS, Rung, rung
from experiments.race.results import RaceResults
from pydantic import Field, model_validator

from dabdetr.compare.plan import Task, absolute
from dabdetr.config import Config, Section
from dabdetr.config.root import parse_section
from dabdetr.files import read_regular, write_atomically
from dabdetr.text import parse_yaml, shown

SETTINGS = "ladder.yaml"
RACE = "race"
"""Folder of the runs within a ladder's."""
BODIES = "bodies"
TAUGHT = "taught"
WORDS = ("imagenet", "none")
"""Starts that are no file's name, whatever lies in the folder."""

_ELSEWHERE = {
    "training.epochs": "--epochs",
    "training.seed": "--seeds",
    "training.start": "--start",
    "image.size": "--sizes",
    "image.max_size": "--sizes",
    "name": "--rungs",
}
"""What a rung's own place in the race decides, and the option that says it."""


class Settings(Section):
    """Everything that one command's worth of runs depends on."""

    data: str = Field(default="scenes:objects=6", description="scenes, or a folder of data")
    rungs: tuple[str, ...] = Field(
        default=(), description="each at every size; empty: all, most at the first size alone"
    )
    sizes: tuple[int, ...] = Field(default=(96, 160, 224), description="longer side in pixels")
    seeds: int = Field(default=3, ge=1, description="0 … seeds − 1")
    epochs: int = Field(default=30, ge=1)
    detr_epochs: int = Field(default=90, ge=1, description="of DETR, which needs more")
    val_every: int = Field(default=1, ge=1, description="epochs between points of the curves")
    start: str = Field(default=TAUGHT, description="taught, imagenet, none, or weights")
    body_steps: int = Field(default=800, ge=1, description="steps in which a body is taught")
    overrides: tuple[str, ...] = Field(default=(), description="path=value, for every rung")
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    @model_validator(mode="after")
    def _sound(self) -> Self:
        for name in self.rungs:
            rung(name)
        if not self.sizes or min(self.sizes) < 32:
            raise ValueError(f"sizes must be 32 pixels or more; got {self.sizes}")
        if self.detr_epochs < self.epochs:
            raise ValueError(
                f"detr_epochs is {self.detr_epochs}, fewer than the {self.epochs} epochs of all; "
                "DETR needs as many at least"
            )
        if "size=" in self.data and self.data.startswith("scenes"):
            raise ValueError(f"{self.data!r} sets a size; sizes of a ladder are given by --sizes")
        for override in self.overrides:
            path = override.partition("=")[0].strip()
            if path in _ELSEWHERE:
                raise ValueError(f"--set {override} is for {_ELSEWHERE[path]} to say; use that")
        return self

    @classmethod
    def of(cls, **values: Any) -> Settings:
        """Settings of plain values, every other as it is by default; one sentence on a bad one."""
        return parse_section(cls, values, "settings of the race")

    @classmethod
    def load(cls, folder: Path) -> Settings:
        """Those of a ladder that was begun."""
        path = folder / SETTINGS
        if not path.is_file():
            raise FileNotFoundError(f"there is no ladder in {folder}: expected {SETTINGS} there")
        tree = parse_yaml(read_regular(path), str(path))
        if not isinstance(tree, dict):
            raise ValueError(f"{path} should hold the settings of a ladder; got {shown(tree)}")
        return parse_section(cls, tree, str(path))

    def save(self, folder: Path) -> None:
        """Write as YAML."""
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        write_atomically(folder / SETTINGS, text.encode())

    def extended(self, rungs: Sequence[str], sizes: Sequence[int], seeds: int | None) -> Settings:
        """With other runs to do next; what was run already stays comparable to them."""
        tree = self.model_dump()
        tree |= {"rungs": tuple(rungs)} if rungs else {}
        tree |= {"sizes": tuple(sizes)} if sizes else {}
        tree |= {} if seeds is None else {"seeds": seeds}
        return Settings.of(**tree)


SHORT = Settings(rungs=LADDER[:4], sizes=(96,), seeds=1, epochs=5, detr_epochs=5, body_steps=800)
"""The first four rungs, seen to be in order in less than ten minutes on two cores."""


@dataclass(frozen=True)
class Run:
    """One run of the race."""

    rung: str
    size: int
    seed: int

    @property
    def name(self) -> str:
        """Of the run's folder."""
        return f"{self.rung}-{self.size}-{self.seed}"


def plan(settings: Settings) -> list[Run]:
    """All runs, one seed of everything before the next: what a stopped race has is of use."""
    chosen = [rung(name) for name in settings.rungs] or list(RUNGS.values())
    return [
        Run(each.name, size, seed)
        for seed in range(settings.seeds)
        for number, size in enumerate(settings.sizes)
        for each in chosen
        if settings.rungs or each.everywhere or number == 0
    ]


def tasks(settings: Settings) -> list[Task]:
    """The same runs, as they are trained."""
    return [
        Task(
            run.name,
            config_of(run, settings),
            data_at(settings.data, run.size),
            settings.val_every,
        )
        for run in plan(settings)
    ]


def data_at(data: str, size: int) -> str:
    """The data whose images are drawn ``size`` large, where they are drawn."""
    kind, _, options = data.partition(":")
    if kind != "scenes":
        return data
    return f"scenes:{','.join(filter(None, (f'size={size}', options)))}"


def body_file(folder: Path, size: int) -> Path:
    """Where the body is that all runs of a size start from."""
    return folder / BODIES / f"body-{size}.safetensors"


def config_of(run: Run, settings: Settings) -> Config:
    """What the run trains: the rung's config, the common changes, its rate, epochs and seed.

    Paths of its start are relative to the race's folder, so that the record names no machine.
    """
    member = rung(run.rung)
    start = str(body_file(Path(), run.size))
    if settings.start != TAUGHT:
        start = settings.start if settings.start in WORDS else absolute(settings.start)
    config = common(member, settings, run.size)
    epochs = settings.detr_epochs if member.long else settings.epochs
    return config.override(
        [
            f"name={member.name}",
            f"training.epochs={epochs}",
            f"training.seed={run.seed}",
            f"training.start={json.dumps(start)}",
        ]
    )


def common(member: Rung, settings: Settings, size: int) -> Config:
    """A rung's config with everybody's changes, at its rate."""
    config = member.config.override(settings.overrides)
    training = config.training
    return config.override(
        [
            *(f"image.size={size}", f"image.max_size={size}", "training.images=null"),
            f"training.precision={settings.precision}",
            f"training.lr={training.lr * member.rate}",
            f"training.backbone_lr={training.backbone_lr * member.rate}",
        ]
    )


def wanted_precision(settings: Settings) -> str:
    """What the rungs' recipe says, where it is not changed for all of them."""
    return RUNGS["dab-start"].config.override(settings.overrides).training.precision


def load_results(folder: Path) -> RaceResults:
    """What the finished runs of a race recorded, in the order of the rungs."""
    return RaceResults.load(folder / RACE, tuple(RUNGS))
