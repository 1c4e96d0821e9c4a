"""What surrounds a run in this process: the engine's chatter, and signals that stop it."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NOISE = (".*treespec, LeafSpec.*", ".*GPU available but not used.*")
"""Remarks of the engine, or about it, that mean nothing here."""


@contextmanager
def quiet_engine() -> Iterator[None]:
    """Without banners of pytorch-lightning, and without warnings that mean nothing here."""
    loggers = [logging.getLogger(n) for n in ("pytorch_lightning", "lightning_fabric")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in NOISE:
            warnings.filterwarnings("ignore", message)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM stops a run as Ctrl-C does (where signals can be handled: in the main thread)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
