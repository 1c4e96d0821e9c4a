"""Files are replaced whole, and only regular ones are opened."""

from __future__ import annotations

import io
import os
import socket
from functools import partial
from pathlib import Path

import pytest

from dabdetr.files import (
    UNPORTABLE,
    RegularFile,
    check_folder_name,
    plain_name,
    read_regular,
    replacing,
    write_atomically,
)


def write_half(path: Path) -> None:
    with replacing(path) as beside:
        beside.write_bytes(b"half")
        path.parent.read_bytes()


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, b"old")
    with pytest.raises(IsADirectoryError):
        write_half(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with replacing(path) as beside:
        beside.write_bytes(b"new")
        assert beside.parent == tmp_path
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    with pytest.raises(FileNotFoundError, match=r"no/a.txt cannot be written \(no such file"):
        write_atomically(tmp_path / "no" / "a.txt", b"")


def test_an_interrupt_while_the_file_is_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(handle: int) -> None:
        monkeypatch.undo()
        os.close(handle)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "close", interrupt)
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.bin"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_files_reach_the_disk_before_they_are_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("move"), replace(a, b)))
    write_atomically(tmp_path / "a", b"x")
    assert events == ["fsync", "move", "fsync"]


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        (tmp_path / "link").symlink_to("/dev/zero")
        for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path / "link"):
            with pytest.raises(ValueError, match="is no regular file but a pipe, socket or device"):
                read_regular(path)
        with pytest.raises((ValueError, OSError)):
            read_regular(tmp_path / "socket")
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none")
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "file-link").symlink_to(tmp_path / "file")
    assert read_regular(tmp_path / "file-link") == b"abc"


def test_files_of_the_kernel_without_an_end_are_errors() -> None:
    read, write = os.pipe()  # answers as /proc/kmsg does, which only root may open
    os.set_blocking(read, False)
    with RegularFile(read, "log") as raw, io.BufferedReader(raw) as file:
        for ask in (file.read, partial(file.read, 9), partial(file.readinto, bytearray(9))):
            with pytest.raises(ValueError, match="log has no end yet"):
                ask()
    os.close(write)


@pytest.mark.parametrize("name", ["", " ", "..", "a/b", "a\nb", "\x1b[2J", "\u202ea"])
def test_names_of_runs(name: str) -> None:
    with pytest.raises(ValueError, match="one folder name"):
        check_folder_name(name)
    check_folder_name("run 1")


@pytest.mark.parametrize(
    ("text", "without", "name"),
    [
        ("a\x1b[2J\u202eb\n", "", "a_[2J_b_"),
        ("../../x", "", ".._.._x"),
        ("..\\x\0", "", ".._x_"),
        ("12:30", "", "12:30"),
        ("12:30?", UNPORTABLE, "12_30_"),
        ("\udcff", "", "_"),
        ("é" * 300, "", "é" * 100),
        ("", "", ""),
    ],
)
def test_names_of_files_made_from_others(text: str, without: str, name: str) -> None:
    assert plain_name(text, without) == name
