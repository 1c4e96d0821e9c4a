"""Checks of an export's options before a model is opened."""

from __future__ import annotations

from pathlib import Path

from dabdetr.export.formats import FORMATS, Format
from dabdetr.files import check_place


def check_target(target: Path, format: Format, force: bool) -> None:
    """ValueError or OSError where the target has a wrong ending, exists, or has no folder."""
    from dabdetr.inference.exported import ENGINES, IN_FOLDERS

    check_place(target)
    files = [each.suffix for each in FORMATS.values() if not each.in_folder]
    if not format.in_folder and target.suffix != format.suffix:
        raise ValueError(f"{target} should end in {format.suffix}; choose such a name")
    if format.in_folder and target.suffix in (*files, *ENGINES):
        raise ValueError(
            f"{target} is the name of a file, and {format.title}'s export is a folder; choose a "
            f"name such as {target.stem}{format.suffix}"
        )
    if target.exists() and target.is_dir() != format.in_folder:
        existing, needed = ("file", "folder") if format.in_folder else ("folder", "file")
        raise FileExistsError(
            f"{target} is a {existing} and is not overwritten, as {format.title}'s export is a "
            f"{needed}; choose another name"
        )
    known = any((target / graph).exists() for graph in IN_FOLDERS)
    if target.is_dir() and not known and any(target.iterdir()):
        raise FileExistsError(
            f"{target} holds no export and is not overwritten; choose another name"
        )
    if target.exists() and not force:
        raise FileExistsError(
            f"{target} exists and is not overwritten; choose another name or add --force"
        )
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent} to write {target.name} in")


def check_top(post: str, max_det: int | None) -> None:
    """ValueError where ``max_det`` is given for a graph that does not rank, or is below 1."""
    if max_det is None:
        return
    from dabdetr.inference.outputs import check_post

    if check_post(post) == "none":
        raise ValueError(
            "max_det is of graphs that rank their boxes; add post='boxes' (--post boxes)"
        )
    if max_det < 1:
        raise ValueError(f"max_det should be at least 1; got {max_det}")
