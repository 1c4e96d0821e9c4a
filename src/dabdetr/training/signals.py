"""Signals that stop a training so that it can be resumed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytorch_lightning import Callback


class Stop(Callback):
    """Whether this process received a stop signal.

    An interrupt raised within a destructor or a callback of the garbage collector is lost, so the
    next batch checks here as well.
    """

    requested = False

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        if self.requested:
            raise KeyboardInterrupt


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt and set ``Stop.requested``.

    The flag matters: workers die of the same signal, and torch's RuntimeError about them may come
    before the interrupt. Outside the main thread nothing changes, nor for ignored signals
    (``nohup``).
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def interrupt(*_: Any) -> None:
        stop.requested = True
        if hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise for dead workers
        raise KeyboardInterrupt

    names = [n for n in ("SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD") if hasattr(signal, n)]
    before = {getattr(signal, n): signal.getsignal(getattr(signal, n)) for n in names}
    for number, handler in before.items():
        if number.name != "SIGCHLD" and handler != signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
