"""Loggers by name: destinations of every epoch's numbers besides ``results.csv``."""

from __future__ import annotations

import importlib.util
import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from dabdetr.text import printable

PROJECT = "dabdetr"
"""Project name in loggers that collect runs of many folders."""


class TrackioLogger(Logger):
    """A Lightning logger for trackio, which Lightning lacks."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.run: Any = None

    @property
    def name(self) -> str:
        return PROJECT

    @property
    def version(self) -> str:
        return self.folder.name

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        self.run = trackio.init(project=PROJECT, name=self.version, config=params, resume="allow")

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.run.log(metrics, step=step)

    def finalize(self, status: str) -> None:
        if self.run is not None:
            self.run.finish()


def _wandb(folder: Path) -> Logger:
    return WandbLogger(project=PROJECT, name=folder.name, save_dir=folder, resume="allow")


def _mlflow(folder: Path) -> Logger:
    # without MLFLOW_TRACKING_URI: next to the run's other files; MLflow 3 refuses plain folders
    place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
    artifacts = str(folder / "mlflow")
    return MLFlowLogger(
        PROJECT, run_name=folder.name, tracking_uri=place, artifact_location=artifacts
    )


def _tensorboard(folder: Path) -> Logger:
    return TensorBoardLogger(folder, name="tensorboard", version="")


LOGGERS: dict[str, tuple[tuple[str, ...], Callable[[Path], Logger]]] = {
    "tensorboard": (("tensorboard", "tensorboardX"), _tensorboard),
    "mlflow": (("mlflow",), _mlflow),
    "trackio": (("trackio",), TrackioLogger),
    "wandb": (("wandb",), _wandb),
}
"""Name → packages, one of which is needed, and the function that creates it for a run folder."""
NAMES = ("csv", *LOGGERS)
"""``csv`` is results.csv, which every run has."""


def check_loggers(names: Sequence[str]) -> None:
    """ValueError for an unknown name, or one whose package is not installed."""
    for name in names:
        if name not in NAMES:
            raise ValueError(f"there is no logger {printable(name)!r}; use {', '.join(NAMES)}")
        packages = LOGGERS[name][0] if name in LOGGERS else ()
        if packages and not any(importlib.util.find_spec(package) for package in packages):
            raise ModuleNotFoundError(
                f"--log {name} needs the package {packages[0]}; type: pip install 'dabdetr[{name}]'"
            )


class TolerantLogger(Logger):
    """A logger that never stops a training: its first error is printed and disables it.

    A network that is down, a full disk or a wrong key costs the curves of that logger, not the run.
    """

    def __init__(self, name: str, make: Callable[[], Logger], tell: Callable[[str], None]) -> None:
        super().__init__()
        self.called, self.tell = name, tell
        self.inner: Logger | None = None
        self._do(lambda: setattr(self, "inner", make()))

    @property
    def name(self) -> str:
        return self.called

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        self._call("log_hyperparams", params)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._call("log_metrics", metrics, step)

    def save(self) -> None:
        self._call("save")

    def finalize(self, status: str) -> None:
        self._call("finalize", status)

    def _call(self, method: str, *arguments: Any) -> None:
        if self.inner is not None:
            self._do(lambda: getattr(self.inner, method)(*arguments))

    def _do(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # other people's code may raise anything
            self.inner = None
            words = printable(str(error) or type(error).__name__)[:200]
            self.tell(f"logger {self.called} failed and is left out from here on: {words}")


def make_loggers(
    names: Sequence[str], folder: Path, tell: Callable[[str], None]
) -> list[TolerantLogger]:
    """A logger for each name; ``tell`` is called with a sentence where one fails."""
    return [
        TolerantLogger(name, lambda make=LOGGERS[name][1]: make(folder), tell)
        for name in dict.fromkeys(names)
        if name in LOGGERS
    ]
