"""What a run of `dabdetr predict` has finished, so that one that was stopped can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from dabdetr.checkpoints.locate import locate
from dabdetr.inference.downloads import without_password
from dabdetr.inference.sources import Expanded, expand
from dabdetr.inference.video import is_endless
from dabdetr.text import counted, parse_json, reason, shortened, shown

if TYPE_CHECKING:
    from dabdetr.structures import Detections

FILE = "unfinished.jsonl"
"""Lies in the folder of a run until all of its images are done."""
FREE = {
    *("batch", "device", "allow_private", "skip_unreadable", "coco", "label_studio"),
    *("as_json", "as_lines", "quiet", "project", "name", "output", "go_on"),
}
"""Options that may be others when a run goes on: they do not change what is found, or only where it
is written once more."""
_MODELS = (".safetensors", ".pth", ".pt", ".bin", ".json", ".onnx", ".xml", ".pt2")
_PATHS = ("coco", "label_studio", "project")
_ARRAYS = (
    ("boxes", np.float32, (-1, 4)),
    ("scores", np.float32, -1),
    ("labels", np.int64, -1),
    ("queries", np.int64, -1),
)


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the command as they are noted: as JSON has them, without passwords."""
    noted = {key: str(each) if isinstance(each, Path) else each for key, each in options.items()}
    for key in ("images", "source"):
        if noted.get(key):
            noted[key] = [without_password(each) for each in noted[key]]
    return noted


def find(project: Path, name: str | None) -> Path:
    """The folder of the run that was stopped: that of ``name``, or the newest of ``project``."""
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
    """The journal of a new run; none where it could not go on: of a camera, of standard input."""
    items = list(items)
    if any(isinstance(item, bytes) or is_endless(item) for item, _ in items):
        return None
    places = [name if _is_address(item) else str(item) for item, name in items]
    secret = any(_is_address(item) and item != name for item, name in items)
    return Journal(places, plain(options), secret)


def _is_address(item: Any) -> bool:
    return isinstance(item, str) and "://" in item


def model_stamp(model: str) -> list[list[Any]]:
    """Sizes and times of the files that ``model`` means."""
    path = locate(model)
    if path is None:
        return []
    files = [path] if path.is_file() else sorted(path.iterdir())
    files = [file for file in files if file.suffix in _MODELS]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


class Journal:
    """The images of a run, and the detections of those that are done, a line each in a file.

    Nothing is written before ``start``.

    places   paths and addresses of all images and videos, in order
    names    the same as ``Detections.source`` has them
    options  of the command, by parameter
    secret   whether an address had a password, which is not noted
    done     how many of them are done; of a video, all frames
    """

    def __init__(self, places: Sequence[str], options: Mapping[str, Any], secret: bool) -> None:
        self.places, self.options, self.secret = list(places), dict(options), secret
        self.names = [without_password(place) for place in places]
        self.done = 0
        self.model: Any = None
        self._before = 0  # bytes of the file that were there when the run goes on
        self._begun = 0
        self._frame = -1
        self._file: BinaryIO | None = None

    @classmethod
    def read(cls, folder: Path) -> Journal:
        """That of a run that was stopped; what follows its last finished image is cut off."""
        file = folder / FILE
        journal, end, begins, last = None, 0, 0, (-1, False)
        try:
            with file.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    if not line.endswith(b"\n"):
                        break  # the process was killed while it wrote
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
        """The options to go on with: the run's own, and of those ``given`` now the ``FREE`` ones.

        ValueError where another is given and differs, or options are not those ``known`` today.
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
        """What is not done yet; only where there are passwords do ``sources`` matter."""
        if not self.secret:
            left = list(zip(self.places, self.names, strict=True))[self.done :]
            return Expanded((at if _is_address(at) else Path(at), name) for at, name in left)
        items = list(expand(sources))
        if [name for _, name in items] != self.names:
            raise ValueError("the images are others than those that the run was begun with")
        return Expanded(items[self.done :])

    def start(self, folder: Path, model: str) -> None:
        """Write into ``folder`` from now on; ValueError where the model's files have changed."""
        new, stamp = not (folder / FILE).exists(), model_stamp(model)
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
        """How many images are done, which are not, and how to go on."""
        left = self.names[self.done :]
        named = ", ".join(shortened(name, 60) for name in left[:3])
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        place = "" if folder.parent == Path("runs/predict") else f" --project {folder.parent}"
        unfinished = f"not done: {named}{more}; " if left else ""
        return (
            f"{self.done} of {counted(len(self.names), 'image')} done and kept in {folder}; "
            f"{unfinished}"
            f"go on with: dabdetr predict --continue{place} --name {folder.name}"
        )

    def add(self, found: Detections) -> None:
        """Note an image or a frame."""
        number = -1 if found.frame is None else found.frame
        if not (self._goes_on(found.source) and number > self._frame):
            self._begin(found.source)
        self._frame = number
        arrays = {key: getattr(found, key).tolist() for key, *_ in _ARRAYS}
        rest = {"size": found.size, "frame": found.frame, "time": found.time}
        self._note({"found": arrays | rest}, ongoing=found.frame is not None)

    def skip(self, name: str, reason: str, ongoing: bool) -> None:
        """Note an image that is skipped; ``ongoing``: a frame of a video that has others."""
        if not ongoing or not self._goes_on(name):
            self._begin(name)
            self._frame = -1
        self._note({"skipped": reason}, ongoing)

    def again(self, folder: Path, names: tuple[str, ...]) -> Iterator[Detections | str]:
        """What was finished before: detections, or why an image was skipped."""
        with (folder / FILE).open("rb") as lines:
            head = lines.readline()
            left = self._before - len(head)
            while left > 0:
                line = lines.readline()
                left -= len(line)
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
        """Write no more."""
        if self._file is not None:
            with suppress(OSError):  # a full disk, which was told of when it was written to
                self._file.close()

    def _goes_on(self, name: str) -> bool:
        """Whether ``name`` may be the video that is being read."""
        return self.done < self._begun and self.names[self._begun - 1] == name

    def _begin(self, name: str) -> None:
        """Go to the next image of that name; videos between had no frames."""
        self._begun = self.names.index(name, self._begun) + 1

    def _note(self, row: Mapping[str, Any], ongoing: bool) -> None:
        self._write({"image": self._begun - 1, "ongoing": ongoing, **row})
        self.done = self._begun - ongoing

    def _write(self, row: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(row).encode() + b"\n")
            self._file.flush()
