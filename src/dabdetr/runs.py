"""Run folders, ``runs/VERB/NAME``: made hidden, published under their name, locked, removed."""

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

from dabdetr.files import check_folder_name, check_place, unwritable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PATIENCE = 1.0
"""Seconds in which a killed process's children may still have its lock."""


class RunFolder:
    """A new folder under ``project``; inside ``with``, files are written into ``path``.

    It is hidden until ``publish``, which the end of the ``with`` block does at the latest; an
    error before that removes it. Without a name, folders count ``verb-1``, ``verb-2``, ….

    remedy     what to do about a name that is taken, for the error
    abandoned  whether a folder of that name may be replaced, as a killed run left it
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
        self._made: list[Path] = []
        check_place(project)
        check_folder_name(verb, "the config's name, which its runs have,", "give --name")
        if name is not None:
            check_folder_name(name)
            if not self._free(self.path):
                raise FileExistsError(f"{self.path} exists and is not overwritten; {remedy}")

    @classmethod
    def existing(cls, path: Path) -> RunFolder:
        """That of a run that was stopped, to go on with."""
        folder = cls(path.parent, None, path.name)
        folder.path, folder.published = path, True
        return folder

    def __enter__(self) -> RunFolder:
        if self.published:
            return self
        missing = [p for p in (self.project, *self.project.parents) if not p.exists()]
        try:
            self._made = missing
            self.path = self._hidden()
        except OSError as error:
            raise unwritable(self.path, error) from None
        return self

    def _hidden(self) -> Path:
        self.project.mkdir(parents=True, exist_ok=True)
        try:
            return Path(tempfile.mkdtemp(dir=self.project, prefix=f".{self.verb}-"))
        except FileNotFoundError:  # another run has just removed the folder, which it had made
            self.project.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(dir=self.project, prefix=f".{self.verb}-"))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.publish()
        elif not self.published:
            self.discard()

    def publish(self) -> Path:
        """Give the folder its name, now; what happens afterwards does not remove it."""
        if self.published:
            return self.path
        umask = os.umask(0)
        os.umask(umask)
        self.path.chmod(0o777 & ~umask)
        names = [self.name] if self.name else (f"{self.verb}-{n}" for n in count(1))
        for name in names:
            target = self.project / name
            if not self._free(target):
                continue
            shutil.rmtree(target, ignore_errors=True)
            try:
                self.path = self.path.rename(target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # somebody was faster
                    raise
                continue
            self.published = True
            return self.path
        raise FileExistsError(
            f"{self.project / str(self.name)} exists by now; the run is in {self.path}"
        )

    def discard(self) -> None:
        """Remove the folder, and the folders above it that were made for it and are empty."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):  # a folder that somebody else uses by now stays
            for folder in self._made:
                folder.rmdir()

    def _free(self, target: Path) -> bool:
        """Whether nothing is in ``target``, or it was abandoned; ValueError where it is in use."""
        if not target.exists() or (target.is_dir() and not any(target.iterdir())):
            return True
        if self.name is None or not self.abandoned(target):
            return False
        with locked(target):
            return True


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does.

    Outside the main thread nothing changes, nor for a signal that is ignored (``nohup``).
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
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run folder; ValueError where one is in it.

    The lock ends with this process, however that ends. File systems without locks have none.
    """
    handle = _lock(folder)
    try:
        yield
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
    """In a forked worker, which may outlive its parent for seconds: the lock is not its own."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)
