"""The plan of a comparison: its settings, stored as compare.yaml, and the runs that follow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Self

import yaml
from pydantic import Field, field_validator

from dabdetr.config import Config, Section, load
from dabdetr.config.root import load_section
from dabdetr.files import check_folder_name, write_atomically
from dabdetr.text import shown
from dabdetr.training.options import choose_config

SETTINGS = "compare.yaml"
CONFIGS = "configs"
"""The subfolder of the members' configs."""
RUNS = "runs"
"""The subfolder of the run folders."""

MOST_SEEDS = 1000
"""The most seeds of a comparison, as all its runs are planned at once."""


@dataclass(frozen=True)
class Task:
    """One training of a comparison: the name of its run folder, and the arguments of `train`."""

    name: str
    config: Config
    data: str
    val_every: int | None = None
    split: float | None = None


class Settings(Section):
    """The settings shared by all runs of a comparison, and its members.

    The members' configs are in the folder ``CONFIGS``. For None, each member's config applies.
    """

    data: str
    members: tuple[str, ...] = ()
    seeds: int = Field(default=3, ge=1, le=MOST_SEEDS, description="0 … seeds − 1")
    epochs: int | None = Field(default=None, ge=1)
    batch: int | None = Field(default=None, ge=1)
    imgsz: int | None = Field(default=None, ge=16)
    start: str | None = None
    workers: int | None = Field(default=None, ge=0)
    overrides: tuple[str, ...] = Field(default=(), description="path=value, for every member")
    precision: str = Field(default="auto", description="of members whose config says auto")
    val_every: int | None = Field(default=None, ge=1)
    split: float | None = Field(default=None, gt=0, lt=1)

    @field_validator("members")
    @classmethod
    def _valid_members(cls, members: tuple[str, ...]) -> tuple[str, ...]:
        for name in members:
            _check_member(name)
        if len(set(members)) < len(members):
            raise ValueError(f"members should differ; got {shown(members)}")
        return members

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the settings of an existing comparison."""
        path = folder / SETTINGS
        if not path.is_file():
            raise FileNotFoundError(f"there is no comparison in {folder}: expected {SETTINGS}")
        return load_section(cls, path, "'members:'")

    def save(self, folder: Path) -> None:
        """Write the settings as YAML."""
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        write_atomically(folder / SETTINGS, text.encode())

    def configs(self, sources: Iterable[str]) -> dict[str, Config]:
        """The config of each source (a preset, config file or weights) by its name in tables.

        A name that is taken by a member or an earlier source is numbered.
        """
        configs: dict[str, Config] = {}
        for source in sources:
            name = _unused(_name(source), {*self.members, *configs})
            _check_member(name)
            configs[name] = self._config(source, name)
        return configs

    def _config(self, source: str, name: str) -> Config:
        config = choose_config(
            source,
            self.overrides,
            epochs=self.epochs,
            batch=self.batch,
            imgsz=self.imgsz,
            start=self.start,
            workers=self.workers,
        )
        changes = {"start": absolute(config.training.start)}  # runs have another working folder
        if config.training.precision == "auto":
            changes["precision"] = self.precision
        training = config.training.model_copy(update=changes)
        return config.model_copy(update={"name": name, "training": training})

    def extended(self, names: Iterable[str], seeds: int | None = None) -> Self:
        """The settings with more members or another number of seeds; finished runs remain valid."""
        changes = {"members": (*self.members, *names), "seeds": seeds or self.seeds}
        return self.model_copy(update=changes)


def absolute(name: str) -> str:
    """The absolute path of an existing file or folder; any other name unchanged."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def _check_member(name: str) -> None:
    """Raise ValueError for a name that a member's config file and run folders cannot have."""
    check_folder_name(name, "a member's name", "rename its file")


def _unused(stem: str, taken: set[str]) -> str:
    names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
    return next(name for name in names if name not in taken)


def _name(source: str) -> str:
    """A member's name: the stem of its file, or the name of the run for a run's weights."""
    path = Path(source)
    if path.stem in ("best", "last") and path.parent.name:
        return path.resolve().parent.name
    return path.stem if path.suffix else path.name


def plan(settings: Settings, folder: Path) -> list[Task]:
    """All runs, seed by seed, so that a stopped comparison has the same seeds of all members."""
    configs = {name: load(folder / CONFIGS / f"{name}.yaml") for name in settings.members}
    return [
        Task(
            f"{name}-{seed}",
            configs[name].override([f"training.seed={seed}"]),
            settings.data,
            settings.val_every,
            settings.split,
        )
        for seed in range(settings.seeds)
        for name in settings.members
    ]
