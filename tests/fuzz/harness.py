"""Runs code on damaged input, in one process, and says what is a fault of the program.

A fault: an exception that would end with exit code 70, a Python warning, a message of 500
characters or more, ten seconds of work without an end, 2 GiB more memory, anything on stderr, a
program started, a connection made, or the file that every attack tries to make.
"""

from __future__ import annotations

import faulthandler
import os
import random
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dabdetr.inference.openvino import import_unreported

SECONDS = 10.0
"""Of processor time."""
WAITING = 4
"""Times as many seconds may go by in all, as the machine may be busy."""
MIB = 2048
LIBRARIES = ("torch", "torchvision", "timm", "pytorch_lightning", "onnx", "onnxruntime", "openvino")
STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen")
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.sendto")


@dataclass(frozen=True)
class Fault:
    """What went wrong, and where: alike faults have the same ``kind`` and ``place``."""

    kind: str
    place: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind} @ {self.place}: {self.detail}"


@dataclass
class Outcome:
    """How many cases of a target ended how."""

    ends: Counter[str] = field(default_factory=Counter)
    faults: dict[tuple[str, str], tuple[Fault, int]] = field(default_factory=dict)

    def add(self, fault: Fault) -> None:
        """Count a fault; of alike ones the first is kept."""
        key = (fault.kind, fault.place)
        first, count = self.faults.get(key, (fault, 0))
        self.faults[key] = (first, count + 1)

    def note(self, name: str, end: Fault | str) -> bool:
        """Count how the case ``name`` ended; whether it is a fault of a new kind."""
        if not isinstance(end, Fault):
            self.ends[end] += 1
            return False
        self.ends["fault"] += 1
        known = (end.kind, end.place) in self.faults
        self.add(Fault(end.kind, end.place, f"{name}: {end.detail}"))
        return not known

    @property
    def cases(self) -> int:
        """All that ran."""
        return self.ends.total()


class _TooLong(BaseException):
    """Ten seconds are over; no ``except Exception`` should stop it."""


class _Watch:
    """What the audit hook has seen since ``clear``; a hook cannot be taken out again."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on and (event in STARTS or event in NETWORK):
            self.seen.append(f"{event} {args!r:.200}")


_watch: _Watch | None = None


class Harness:
    """Runs cases; ``flag`` is the file that attacks try to make."""

    def __init__(self, folder: Path) -> None:
        global _watch
        _watch = _watch or _Watch()
        self.watch = _watch
        self.folder = folder
        self.flag = folder / "ran"
        self._limit()

    def run(self, case: Callable[[], Any], memory_may_end: bool = False) -> Fault | str:
        """How a case ended: the fault, or ``fine``, ``refused``, ``memory``."""
        self.watch.seen.clear()
        _reset_peak()
        before, noise = _resident(), os.fstat(2).st_size if self._captured else 0
        end: Fault | str
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.setitimer(signal.ITIMER_REAL, WAITING * SECONDS)
            faulthandler.dump_traceback_later(2 * WAITING * SECONDS, exit=True)
            self.watch.on = True
            try:
                case()
                end = "fine"
            except _TooLong as error:
                end = Fault("hang", _place(error), f"more than {SECONDS:g} seconds")
            except SystemExit as error:
                end = "refused" if error.code in (0, 1, 2, 3) else Fault("exit", "", repr(error))
            except BaseException as error:  # what kind it is, is what is asked
                if isinstance(error, KeyboardInterrupt):
                    raise
                end = _judged(error, memory_may_end)
            finally:
                self.watch.on = False
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.setitimer(signal.ITIMER_PROF, 0)
                faulthandler.cancel_dump_traceback_later()
        grown = (_peak() - before) / 2**20
        if grown > MIB:
            end = Fault("memory", "", f"{grown:.0f} MiB")
        if self._captured and os.fstat(2).st_size > noise:
            end = Fault("noise", "", repr(_tail(noise)))
        if self.watch.seen:
            end = Fault("started", self.watch.seen[0].split()[0], self.watch.seen[0])
        if self.flag.exists():
            end = Fault("code run", "", f"{self.flag} was made")
            os.remove(self.flag) if self.flag.is_file() else os.rmdir(self.flag)
        return end

    _captured = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, stderr is a file that is looked at, and time is limited."""
        saved = os.dup(2)
        before = {n: signal.signal(n, self._alarm) for n in (signal.SIGALRM, signal.SIGPROF)}
        with tempfile.TemporaryFile() as file:
            sys.stderr.flush()
            os.dup2(file.fileno(), 2)
            self._captured = True
            try:
                yield
            finally:
                self._captured = False
                sys.stderr.flush()
                os.dup2(saved, 2)
                os.close(saved)
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _alarm(self, *_: Any) -> None:
        if self.watch.on:  # not between cases
            raise _TooLong

    @staticmethod
    def _limit() -> None:
        """Allocations far above the allowed fail at once, and do not end the machine.

        What is large by itself is imported before.
        """
        for name in LIBRARIES:
            with suppress(ImportError):
                import_unreported(name)  # a reporter would fork while a case is watched
        wanted = _virtual() + (MIB + 1024) * 2**20
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or hard >= wanted:
            resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))

    @staticmethod
    def unlimit() -> None:
        """Give the process its memory back."""
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _judged(error: BaseException, memory_may_end: bool) -> Fault | str:
    """Whether an exception tells the user what is wrong with the input."""
    from dabdetr.cli.app import _explain

    code, message = _explain(error)
    place = _place(error)
    if code == 3 and memory_may_end:
        return "memory"
    if code != 2:
        return Fault(f"exit {code} {type(error).__name__}", place, message[:300])
    raw = str(error)
    if len(raw) >= 500:
        return Fault("long message", place, f"{len(raw)} characters: {raw[:200]}")
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        return Fault("message that names no file", place, raw)
    if not raw.strip():
        return Fault("empty message", place, type(error).__name__)
    return "refused"


def _place(error: BaseException) -> str:
    """The last place of our own code that an exception came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}dabdetr{os.sep}" in frame.filename]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))


def _resident() -> int:
    return _status("VmRSS")


def _virtual() -> int:
    return _status("VmSize")


def _peak() -> int:
    return _status("VmHWM")


def _reset_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _tail(start: int) -> bytes:
    return os.pread(2, 300, start)


Case = tuple[Callable[[], Any], bytes]
"""What is run, and the input that is kept where it is a fault."""
Target = Callable[[random.Random], Case]


def run_target(
    harness: Harness,
    name: str,
    target: Target,
    cases: int,
    seed: int,
    keep: Path | None = None,
    memory_may_end: bool = False,
    first: int = 0,
) -> Outcome:
    """``cases`` of a target; case number ``n`` of a seed is always the same."""
    outcome = Outcome()
    for number in range(first, first + cases):
        case, content = target(random.Random(f"{seed} {name} {number}"))
        end = harness.run(case, memory_may_end)
        if outcome.note(f"{name} {number}", end) and keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{name}-{number}").write_bytes(content)
    return outcome
