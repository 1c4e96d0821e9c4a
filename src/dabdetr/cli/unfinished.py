"""The journal of a run of `dabdetr predict`, from which a stopped run can be continued."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from dabdetr.checkpoints.locate import locate
from dabdetr.cli.app import Unfinished
from dabdetr.inference.downloads import without_password
from dabdetr.inference.sources import Expanded, expand
from dabdetr.inference.video import is_endless
from dabdetr.runs import RunFolder, locked
from dabdetr.text import counted, parse_json, reason, shortened, shown

if TYPE_CHECKING:
    from dabdetr.structures import Detections

FILE = "unfinished.jsonl"
"""Name of the journal; it is in the run's folder until all of its images are done."""
FREE = {
    *("batch", "device", "allow_private", "skip_unreadable", "coco", "label_studio"),
    *("as_json", "as_lines", "quiet", "project", "name", "output", "go_on"),
}
"""Options that may differ when a run is continued: they do not change the detections, or only name
further places to write them to."""
_MODELS = (".safetensors", ".pth", ".pt", ".bin", ".json", ".onnx", ".xml", ".pt2")
_PATHS = ("coco", "label_studio", "project")
_ARRAYS = (
    ("boxes", np.float32, (-1, 4)),
    ("scores", np.float32, -1),
    ("labels", np.int64, -1),
    ("queries", np.int64, -1),
)


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """The command's options as JSON values without passwords, as they are in the journal."""
    values = {key: str(each) if isinstance(each, Path) else each for key, each in options.items()}
    for key in ("images", "source"):
        if values.get(key):
            values[key] = [without_password(each) for each in values[key]]
    return values


def find(project: Path, name: str | None) -> Path:
    """The folder of the stopped run called ``name``, or of the newest one in ``project``."""
    if name is not None:
        if not (project / name).is_dir():
            raise FileNotFoundError(f"there is no run {project / name} to go on with")
        if not (project / name / FILE).is_file():
            raise ValueError(f"the run {project / name} is finished; begin a new one")
        return project / name
    found = [file for file in project.glob(f"*/{FILE}") if file.is_file()]
    if not found:
        raise FileNotFoundError(f"there is no unfinished run in {project} to go on with")
    return max(found, key=lambda file: file.stat().st_mtime_ns).parent


def new_journal(items: Iterable[tuple[Any, str]], options: Mapping[str, Any]) -> Journal | None:
    """The journal of a new run; None for cameras and standard input, which cannot be continued."""
    items = list(items)
    if any(isinstance(item, bytes) or is_endless(item) for item, _ in items):
        return None
    places = [name if _is_address(item) else str(item) for item, name in items]
    secret = any(_is_address(item) and item != name for item, name in items)
    return Journal(places, plain(options), secret)


def _is_address(item: Any) -> bool:
    return isinstance(item, str) and "://" in item


class Journal:
    """A file with the images of a run, and a line for each image or frame that is done.

    Nothing is written before ``start``.

    places   paths and addresses of all images and videos, in order
    names    the same without passwords, as in ``Detections.source``
    options  the command's options, by parameter
    secret   whether an address had a password, which is not written
    done     number of images and videos that are done, videos with all their frames
    """

    def __init__(self, places: Sequence[str], options: Mapping[str, Any], secret: bool) -> None:
        self.places, self.options, self.secret = list(places), dict(options), secret
        self.names = [without_password(place) for place in places]
        self.done = 0
        self.model: Any = None
        self._before = 0  # bytes of the file before this continuation of the run
        self._begun = 0  # number of images and videos that were begun
        self._frame = -1  # number of the last frame of the current video
        self._file: BinaryIO | None = None

    @classmethod
    def read(cls, folder: Path) -> Journal:
        """The journal of a stopped run; lines of an image that is not finished are removed."""
        file = folder / FILE
        journal, end, begins, last = None, 0, 0, (-1, False)
        try:
            with file.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    if not line.endswith(b"\n"):
                        break  # the process was killed while writing
                    row = parse_json(line, f"line {number} of {file}")
                    if journal is None:
                        journal = cls(row["images"], row["options"], row["secret"])
                        journal.model = row["model"]
                    else:
                        image = int(row["image"])
                        begins = begins if image == last[0] else end
                        last = image, bool(row["ongoing"])
                    end += len(line)
            if journal is None:
                raise ValueError("it is empty")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is damaged ({reason(error)}); begin a new run") from None
        journal.done = journal._begun = last[0] + (not last[1])
        journal._before = begins if last[1] else end
        os.truncate(file, journal._before)
        return journal

    def options_for(
        self, folder: Path, given: Mapping[str, Any], known: Set[str]
    ) -> dict[str, Any]:
        """The options for continuing: those of the run, and those in ``FREE`` that are given now.

        ValueError where another option is given and differs, or where the run has other options
        than those that are ``known`` in this version.
        """
        if self.options.keys() != known:
            raise ValueError(f"the run {folder} was begun by another version; begin a new one")
        for key in given.keys() - FREE:
            if plain(given)[key] != self.options[key]:
                raise ValueError(
                    f"the run {folder} was begun with {key.replace('_', '-')} "
                    f"{shown(self.options[key])}, not {shown(given[key])}; leave it out, or begin "
                    "a new run"
                )
        if self.secret and not given.keys() & {"images", "source"}:
            raise ValueError(
                f"passwords of addresses are not kept in {folder}; give the images again"
            )
        options = self.options | dict(given)
        for key in _PATHS:
            options[key] = None if options[key] is None else Path(options[key])
        place = {"project": folder.parent, "name": folder.name, "output": None}
        return options | place | {"go_on": False}

    def rest(self, sources: Sequence[Any]) -> Expanded:
        """The images and videos that are not done; ``sources`` are read only for passwords."""
        if not self.secret:
            pairs = list(zip(self.places, self.names, strict=True))[self.done :]
            return Expanded(
                (each if _is_address(each) else Path(each), name) for each, name in pairs
            )
        items = list(expand(sources))
        if [name for _, name in items] != self.names:
            raise ValueError(
                "the images differ from those that the run was begun with; give the same ones"
            )
        return Expanded(items[self.done :])

    def start(self, folder: Path, model: str) -> None:
        """Open the journal in ``folder`` for writing; ValueError if the model's files changed."""
        path = locate(model)  # None for a hub name
        files = sorted(path.iterdir()) if path is not None and path.is_dir() else [path]
        found = [file for file in files if file is not None and file.suffix in _MODELS]
        stamp = [[each.name, each.stat().st_size, each.stat().st_mtime_ns] for each in found]
        new = not (folder / FILE).exists()
        self._file = (folder / FILE).open("ab")
        if new:
            head = {"options": self.options, "model": stamp, "secret": self.secret}
            self._write(head | {"images": self.places})
        elif stamp != self.model:
            raise ValueError(
                f"the model {shown(model)} has changed since the run {folder} was begun; begin a "
                "new one"
            )

    def state(self, folder: Path) -> str:
        """A sentence with the images that are done and not done, and the command to continue."""
        rest = self.names[self.done :]
        listed = ", ".join(shortened(name, 60) for name in rest[:3])
        more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
        project = "" if folder.parent == Path("runs/predict") else f" --project {folder.parent}"
        unfinished = f"not done: {listed}{more}; " if rest else ""
        return (
            f"{self.done} of {counted(len(self.names), 'image')} done and kept in {folder}; "
            f"{unfinished}"
            f"go on with: dabdetr predict --continue{project} --name {folder.name}"
        )

    def add(self, found: Detections) -> None:
        """Write the detections of an image or a frame."""
        number = -1 if found.frame is None else found.frame
        if not (self._continues(found.source) and number > self._frame):
            self._begin(found.source)
        self._frame = number
        arrays = {key: getattr(found, key).tolist() for key, *_ in _ARRAYS}
        rest = {"size": found.size, "frame": found.frame, "time": found.time}
        self._write_done({"found": arrays | rest}, ongoing=found.frame is not None)

    def skip(self, name: str, reason: str, ongoing: bool) -> None:
        """Write the reason for a skipped image, or with ``ongoing`` for a frame of a video."""
        if not ongoing or not self._continues(name):
            self._begin(name)
            self._frame = -1
        self._write_done({"skipped": reason}, ongoing)

    def again(self, folder: Path, names: tuple[str, ...]) -> Iterator[Detections | str]:
        """The earlier results of the run: detections, or the reason why an image was skipped."""
        with (folder / FILE).open("rb") as lines:
            head = lines.readline()
            remaining = self._before - len(head)
            while remaining > 0:
                line = lines.readline()
                remaining -= len(line)
                try:
                    yield self._found(json.loads(line), names)
                except (LookupError, TypeError, ValueError) as error:
                    why = f"{folder / FILE} is damaged ({reason(error)}); begin a new run"
                    raise ValueError(why) from None

    def _found(self, row: Mapping[str, Any], names: tuple[str, ...]) -> Detections | str:
        from dabdetr.structures import Detections

        if "skipped" in row:
            return row["skipped"]
        found = row["found"]
        arrays = {k: np.array(found[k], kind).reshape(shape) for k, kind, shape in _ARRAYS}
        height, width = found["size"]
        return Detections(
            **arrays,
            names=names,
            size=(height, width),
            source=self.names[row["image"]],
            frame=found["frame"],
            time=found["time"],
        )

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with suppress(OSError):  # a full disk, which was reported when writing failed
                self._file.close()

    def _continues(self, name: str) -> bool:
        """Whether ``name`` may be the current video."""
        return self.done < self._begun and self.names[self._begun - 1] == name

    def _begin(self, name: str) -> None:
        """Make the next entry called ``name`` current; entries before it were empty videos."""
        self._begun = self.names.index(name, self._begun) + 1

    def _write_done(self, row: Mapping[str, Any], ongoing: bool) -> None:
        self._write({"image": self._begun - 1, "ongoing": ongoing, **row})
        self.done = self._begun - ongoing

    def _write(self, row: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(row).encode() + b"\n")
            self._file.flush()


@contextmanager
def run_folder(
    folder: RunFolder, needed: bool, journal: Journal | None, summary: Any, model: str
) -> Iterator[RunFolder | None]:
    """The run's folder with its journal; an error after its publication leaves both there.

    ``summary`` counts the images that are done. Unless ``needed``, the folder is only for the
    journal: it is removed at the end, and None is yielded where it cannot be made.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(folder)
        except OSError:
            if needed:
                raise
            yield None
            return
        resumed = folder.published
        if not resumed:
            stack.enter_context(locked(folder.path))
        if journal:
            stack.callback(journal.close)
            journal.start(folder.path, model)
        try:
            yield folder
        except (Exception, KeyboardInterrupt) as error:
            if folder.published and not folder.path.is_dir():
                gone = f"the run folder {folder.path} was removed; nothing of this run is kept"
                raise Unfinished(gone) from error
            if not needed and not resumed and isinstance(error, BrokenPipeError):
                folder.discard()  # the reader has ended, as in `dabdetr predict --jsonl | head`
            elif folder.published and journal:
                raise Unfinished(journal.state(folder.path)) from error
            elif folder.published:
                verb = "is" if summary.images == 1 else "are"
                done = f"{counted(summary.images, 'image')} {verb}"
                raise Unfinished(f"{done} done and kept in {folder.path}") from error
            raise
        if journal:
            (folder.path / FILE).unlink()
        if not needed:
            folder.discard()
