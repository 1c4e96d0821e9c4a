"""Run folders ``runs/VERB/NAME``: hidden while they are filled, then published; locks on them."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from dabdetr.files import check_folder_name, check_place, set_default_mode, unwritable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PATIENCE = 1.0
"""Seconds to wait for a lock: the children of a killed process may hold it a little longer."""


class RunFolder:
    """A new folder under ``project``; inside ``with``, files are written into ``path``.

    It is hidden until ``publish``, which is called at the end of the ``with`` block at the latest;
    an error before that removes it. Without a name, folders are numbered ``verb-1``, ``verb-2``, ….

    remedy     what to do about a name that is taken, for the error
    abandoned  whether an existing folder was left by a killed run and may be replaced
    """

    def __init__(
        self,
        project: str | Path,
        name: str | None,
        verb: str,
        remedy: str = "choose another name",
        abandoned: Callable[[Path], bool] = lambda _: False,
    ) -> None:
        self.project, self.name, self.verb = Path(project), name, verb
        self.remedy, self.abandoned = remedy, abandoned
        self.path = self.project / (name or verb)
        self.published = False
        self._new_parents: list[Path] = []
        check_place(project)
        check_folder_name(verb, "the config's name, which its runs have,", "give --name")
        if name is not None:
            check_folder_name(name)
            if not self._free(self.path):
                raise FileExistsError(f"{self.path} exists and is not overwritten; {remedy}")

    @classmethod
    def existing(cls, path: Path) -> RunFolder:
        """The published folder of a stopped run, to continue it."""
        folder = cls(path.parent, None, path.name)
        folder.path, folder.published = path, True
        return folder

    def __enter__(self) -> RunFolder:
        if self.published:
            return self
        missing = [p for p in (self.project, *self.project.parents) if not p.exists()]
        try:
            self._new_parents = missing
            self.path = self._make_hidden()
        except OSError as error:
            raise unwritable(self.path, error) from None
        return self

    def _make_hidden(self) -> Path:
        self.project.mkdir(parents=True, exist_ok=True)
        try:
            return Path(tempfile.mkdtemp(dir=self.project, prefix=f".{self.verb}-"))
        except FileNotFoundError:  # another run, which had made the project folder, removed it
            self.project.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(dir=self.project, prefix=f".{self.verb}-"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if kind is None:
            self.publish()
        elif not self.published:
            removed = isinstance(error, OSError) and not self.path.exists()
            self.discard()
            if removed:
                raise OSError(
                    f"{self.path} was removed while it was written; begin again"
                ) from None

    def publish(self) -> Path:
        """Rename the folder to its final name; errors after this do not remove it."""
        if self.published:
            return self.path
        try:
            set_default_mode(self.path, 0o777)
        except OSError as error:
            raise unwritable(self.path, error) from None
        names = [self.name] if self.name else (f"{self.verb}-{n}" for n in count(1))
        for name in names:
            target = self.project / name
            if not self._free(target):
                continue
            shutil.rmtree(target, ignore_errors=True)
            try:
                self.path = self.path.rename(target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                continue  # another process took the name in between
            self.published = True
            return self.path
        raise FileExistsError(
            f"{self.project / str(self.name)} exists by now; the run is in {self.path}"
        )

    def discard(self) -> None:
        """Remove the folder, and those of its parents that were made for it and are empty."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):  # a parent that another run uses by now is not empty and stays
            for folder in self._new_parents:
                folder.rmdir()

    def _free(self, target: Path) -> bool:
        """Whether ``target`` is absent, empty or abandoned; ValueError where it is in use."""
        if not target.exists() or (target.is_dir() and not any(target.iterdir())):
            return True
        if self.name is None or not self.abandoned(target):
            return False
        with locked(target):
            return True


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside ``with``, SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does.

    Signals that are ignored (``nohup``) stay ignored; outside the main thread nothing changes.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {getattr(signal, n): signal.getsignal(getattr(signal, n)) for n in names}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def locked(folder: Path) -> Iterator[int | None]:
    """Hold the lock of a run folder; ValueError where another process holds it.

    The lock ends with this process, even a killed one, and with processes that were started with
    the descriptor that this yields. File systems without locks have none.
    """
    handle = _lock(folder)
    try:
        yield handle
    finally:
        if handle is not None:
            _held.discard(handle)
            os.close(handle)


def _lock(folder: Path) -> int | None:
    if fcntl is None:
        return None
    handle = os.open(folder, os.O_RDONLY)
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(0.05)
                continue
            os.close(handle)
            raise ValueError(
                f"another process is at work in {folder}; wait for its end, or stop it first"
            ) from None
        except OSError:  # a file system without locks
            pass
        _held.add(handle)
        return handle


_held: set[int] = set()


def _forget_locks() -> None:
    """Close inherited locks in a forked worker, which may outlive the owner by seconds."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)
