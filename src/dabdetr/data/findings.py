"""What was odd in a data set: counted by kind, with examples, and what was done about it.

Readers are tolerant: an odd row is left out or mended, and counted here. Nothing is dropped,
guessed or reinterpreted without that. ``refuse`` turns what was found into one error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from dabdetr.text import Lines, printable, shortened

Action = Literal["skipped", "mended", "kept", "noted"]
"""Left out; read as something else; read as it is although it is likely wrong; harmless."""

EXAMPLES = 3
LONGEST = 160
"""Characters of an example."""


@dataclass(frozen=True)
class Kind:
    """One kind of oddity.

    what    its plural noun phrase
    done    what was done about it
    effect  what it does, or would have done, to training
    remedy  how to mend it in the files
    """

    name: str
    action: Action
    what: str
    done: str
    effect: str
    remedy: str


@dataclass
class Finding:
    """How often a kind was found, and where first."""

    kind: Kind
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        first = f" (first: {self.examples[0]})" if self.examples else ""
        return f"{self.kind.what}: {self.count:,}, {self.kind.done}{first}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        kind = self.kind
        return {
            "kind": kind.name,
            "action": kind.action,
            "what": kind.what,
            "done": kind.done,
            "count": self.count,
            "examples": self.examples,
        }


class Findings:
    """Findings by kind, in the order in which they were first met."""

    def __init__(self) -> None:
        self._found: dict[str, Finding] = {}

    def add(self, name: str, examples: str | Iterable[str] = (), count: int | None = None) -> None:
        """Count oddities of the kind ``name``; as many as there are examples if not given.

        Nothing is counted for no examples and no count. Of the examples the first are kept.
        """
        given = [examples] if isinstance(examples, str) else list(examples)
        count = len(given) if count is None else count
        if not count:
            return
        found = self._found.setdefault(name, Finding(KINDS[name]))
        found.count += count
        room = EXAMPLES - len(found.examples)
        found.examples += [shortened(printable(each), LONGEST) for each in given[:room]]

    def merge(self, other: Findings) -> None:
        """Take what ``other`` found as well."""
        for name, found in other._found.items():
            self.add(name, found.examples, found.count)

    def count(self, name: str) -> int:
        """How often a kind was found."""
        return self._found[name].count if name in self._found else 0

    def __iter__(self) -> Any:
        return iter(self._found.values())

    def __len__(self) -> int:
        return len(self._found)

    def of(self, *actions: Action) -> list[Finding]:
        """Those about which one of ``actions`` was done."""
        return [found for found in self if found.kind.action in actions]

    def to_dict(self) -> list[dict[str, Any]]:
        """Plain values, ready for JSON."""
        return [found.to_dict() for found in self]


def refuse(found: dict[str, Findings]) -> None:
    """Raise ValueError with all that was left out, mended or is likely wrong, by split."""
    faults = [
        f"{split}: {each}"
        for split, findings in found.items()
        for each in findings.of("skipped", "mended", "kept")
    ]
    if len(faults) == 1:
        raise ValueError(f"{faults[0]}; mend the files, or leave out --strict")
    if faults:
        head = f"the data have {len(faults)} kinds of faults; mend them, or leave out --strict:"
        raise Lines(head, *(f"  {each}" for each in faults))


def kinds(action: Action, rows: Iterable[tuple[str, str, str, str, str]]) -> dict[str, Kind]:
    """Kinds of one action by name; a row is name, what, done, effect and remedy."""
    return {
        name: Kind(name, action, what, done, effect, remedy)
        for name, what, done, effect, remedy in rows
    }


_NO_OBJECT = "the object is not learned, and finding it counts as wrong"
_OUT = "left out"

KINDS: dict[str, Kind] = {
    **kinds(
        "skipped",
        (
            (
                "row-unreadable",
                "rows that are no JSON objects",
                _OUT,
                _NO_OBJECT,
                "remove them from the list",
            ),
            (
                "image-unnamed",
                "images without a file name",
                f"{_OUT} with their boxes",
                "the image is not learned from",
                "give each a file_name",
            ),
            (
                "image-missing",
                "listed images that are not there",
                f"{_OUT} with their boxes",
                "the image is not learned from",
                "add the files, or remove the images and their annotations from the list",
            ),
            (
                "image-damaged",
                "images that are damaged or in no format that can be read",
                f"{_OUT} with their boxes",
                "training would end where it comes to them",
                "replace the files, or remove them",
            ),
            (
                "image-size-other",
                "images of another shape than their annotations say",
                f"{_OUT} with their boxes",
                "the boxes belong to another image or another crop",
                "put the right images there, or correct width and height",
            ),
            (
                "image-id-repeated",
                "images whose id another image has",
                f"{_OUT}: the first of each id is kept",
                "whose boxes they are cannot be known",
                "give each image an id of its own",
            ),
            (
                "box-unreadable",
                "boxes that are not four numbers",
                _OUT,
                _NO_OBJECT,
                "give each a box of four numbers",
            ),
            (
                "box-infinite",
                "boxes with numbers that are not finite, or far beyond any image",
                _OUT,
                _NO_OBJECT,
                "correct or remove them",
            ),
            (
                "box-empty",
                "boxes without width or height",
                _OUT,
                "such a box has no IoU with anything",
                "draw them again, or remove them",
            ),
            (
                "box-outside",
                "boxes that lie outside their image",
                _OUT,
                "nothing of the object can be seen",
                "correct or remove them; check that width and height are those of the image",
            ),
            (
                "class-unknown",
                "annotations of a class that is not listed",
                _OUT,
                _NO_OBJECT,
                "add the class to the list, or correct the annotations",
            ),
            (
                "image-unknown",
                "annotations of an image that is not listed",
                _OUT,
                "none, if the image is not to be used",
                "add the image to the list, or remove the annotations",
            ),
            (
                "shape-without-area",
                "points, lines and other shapes without an area",
                _OUT,
                _NO_OBJECT,
                "draw them as boxes or polygons",
            ),
            (
                "line-unreadable",
                "lines that are not a class and numbers",
                _OUT,
                _NO_OBJECT,
                "write: class centre-x centre-y width height",
            ),
            (
                "box-beyond",
                "boxes with numbers far beyond 0–1 of the image",
                _OUT,
                _NO_OBJECT,
                "divide by the image's width and height",
            ),
            (
                "line-angle",
                "lines with a fifth number that is no confidence (an angle, or a track's number)",
                _OUT,
                _NO_OBJECT,
                "export as four corners, x y x y x y x y",
            ),
            (
                "line-keypoints",
                "lines that look like a box with keypoints, which data.yaml does not declare",
                _OUT,
                _NO_OBJECT,
                "declare kpt_shape in data.yaml, or export boxes only",
            ),
            (
                "line-columns",
                "lines with a number of columns that no known form has",
                _OUT,
                _NO_OBJECT,
                "write: class centre-x centre-y width height",
            ),
            (
                "file-unreadable",
                "annotation files that cannot be read",
                "left out with their images",
                "the images are not learned from",
                "replace or remove the files",
            ),
            (
                "split-missing",
                "splits that are named, but whose images are not there",
                _OUT,
                "they are neither trained nor validated on",
                "correct the path, or remove the name",
            ),
        ),
    ),
    **kinds(
        "mended",
        (
            (
                "box-swapped",
                "boxes drawn from right to left or from below",
                "corners swapped",
                "the box would have no area",
                "write the smaller coordinates first",
            ),
            (
                "box-cut",
                "boxes that reach past their image",
                "cut to it",
                "the parts outside cannot be found",
                "cut them; check width and height if there are many",
            ),
            (
                "box-moved",
                "boxes one pixel beside their image (counted from 1)",
                "moved in by a pixel",
                "none",
                "count pixels from 0",
            ),
            (
                "box-relative",
                "boxes given as 0–1 of the image",
                "scaled to pixels",
                "every box would be smaller than a pixel",
                "write pixels, as the layout wants them",
            ),
            (
                "box-pixels",
                "boxes given in pixels where 0–1 of the image is expected",
                "read as pixels",
                "every box would lie outside its image",
                "divide by the image's width and height",
            ),
            (
                "box-corners",
                "boxes given as two corners instead of width and height",
                "read as corners",
                "every box would be too large",
                "write the width and height; or give --box-format",
            ),
            (
                "box-centres",
                "boxes given by their centre instead of a corner",
                "read as centres",
                "every box would be shifted by half its size",
                "write the upper left corner; or give --box-format",
            ),
            (
                "box-extents",
                "boxes given by a corner and sizes where others are expected",
                "read as x, y, width, height",
                "every box would be wrong",
                "write them as the layout wants them; or give --box-format",
            ),
            (
                "box-from-shape",
                "annotations with an outline and no box",
                "read as the box around it",
                "none",
                "none is needed",
            ),
            (
                "box-text",
                "boxes whose numbers are written as text",
                "read as numbers",
                "none",
                "write numbers without quotes",
            ),
            (
                "id-text",
                "ids written as text or with a decimal point",
                "read as the ids they mean",
                "none",
                "write integers",
            ),
            (
                "id-numbered",
                "images whose ids are no numbers",
                "numbered in the order of the list",
                "none; result files hold the numbers",
                "give images integer ids",
            ),
            (
                "annotation-id",
                "annotations whose id is missing or occurs twice",
                "read by their order",
                "none",
                "give each annotation an id of its own",
            ),
            (
                "crowd-odd",
                "values of iscrowd other than 0 and 1",
                "read as 0",
                "the object is trained on",
                "write 0 or 1",
            ),
            (
                "area-odd",
                "areas that are no positive numbers",
                "the box's area taken",
                "only which objects count as small, medium or large",
                "write the area in pixels, or leave it out",
            ),
            (
                "size-odd",
                "images whose width or height in the annotations cannot be",
                "the image's own taken",
                "none",
                "write the image's width and height",
            ),
            (
                "size-scaled",
                "images of another scale than their annotations say",
                "boxes scaled to the image",
                "every box would lie in the wrong place",
                "write the image's own width and height, and boxes in its pixels",
            ),
            (
                "size-taken",
                "images of another size than their annotations say, whose boxes fit them",
                "the image's own size taken",
                "none",
                "correct width and height",
            ),
            (
                "name-cleaned",
                "file names with foreign folders, backslashes or URL escapes",
                "found by the rest of the path",
                "none",
                "write paths relative to the image folder, with /",
            ),
            (
                "name-base",
                "images that lie in another folder than is said",
                "found by their file name, which occurs once",
                "none",
                "write paths relative to the image folder",
            ),
            (
                "name-case",
                "file names in another case or with another ending than the file's",
                "found by what they share",
                "none here; on other systems they may not be found",
                "write names as the files have them",
            ),
            (
                "class-name-odd",
                "classes without a name that can be shown",
                "given one",
                "names are how classes are known",
                "give each class a name without control characters",
            ),
            (
                "class-name-repeated",
                "class names that occur twice",
                "read as one class",
                "two classes become one",
                "give each class a name of its own",
            ),
            (
                "class-id-repeated",
                "class ids that occur twice",
                "the first name taken",
                "objects of the second class get the first one's name",
                "give each class an id of its own",
            ),
            (
                "class-names-missing",
                "classes without names",
                "called by their numbers",
                "detections are called by numbers too",
                "list the names: names: [...] in data.yaml, or classes.txt",
            ),
            (
                "class-grouping",
                "classes that only group others and own no box",
                _OUT,
                "one class more that is never found",
                "none is needed",
            ),
            (
                "class-count",
                "counts of classes that are not that of the names",
                "the names taken",
                "none, if the names are complete",
                "correct nc",
            ),
            (
                "line-twice",
                "lines that occur twice in a file",
                "counted once",
                "objects would be learned and counted twice",
                "remove them",
            ),
            (
                "line-separators",
                "lines with commas, semicolons or other signs between the numbers",
                "read all the same",
                "none",
                "separate numbers by blanks",
            ),
            (
                "line-confidence",
                "lines with a confidence behind the box",
                "read without it",
                "predictions, not labels, may be what is trained on",
                "remove the last column, and check that people drew the boxes",
            ),
            (
                "box-rotated",
                "rotated boxes, or outlines of four corners",
                "read as the upright box around them",
                "boxes are looser than the objects",
                "none, if upright boxes are what you want",
            ),
            (
                "encoding",
                "text files in an encoding other than UTF-8",
                "read in the one that fits",
                "class names may be misspelt",
                "save them as UTF-8",
            ),
        ),
    ),
    **kinds(
        "kept",
        (
            (
                "label-shared",
                "images that share one label file, as their names differ only in the ending",
                "all of them given its boxes",
                "one of them has the other's boxes",
                "rename one image and give it a label file of its own",
            ),
            (
                "label-case",
                "label files whose name has another case than their image's",
                "not used",
                "the image is learned as background",
                "rename the label files as the images are",
            ),
            (
                "split-shared",
                "images that another split has as well",
                "kept",
                "what is measured on val is better than on new images",
                "list each image in one split only",
            ),
            (
                "image-twice",
                "images that are listed more than once",
                "kept as separate images",
                "if each entry has a part of the boxes, the others are learned as background",
                "list each image once, with all its boxes",
            ),
        ),
    ),
    **kinds(
        "noted",
        (
            (
                "label-missing",
                "images without a label file",
                "read as images without objects",
                "they are learned as background",
                "fine if nothing is in them; else add the files",
            ),
            (
                "class-empty",
                "classes without a box",
                "kept in the list",
                "they are never found",
                "label some, or remove them from the list",
            ),
            (
                "class-split",
                "classes that only some splits list",
                "taken into all of them",
                "what one split lacks is not learned, or not measured",
                "list the same classes in every split",
            ),
            (
                "line-outline",
                "lines with the corners of a polygon",
                "read as the box around it",
                "none",
                "none is needed",
            ),
            (
                "line-keypoints-declared",
                "lines with keypoints behind the box",
                "read as boxes",
                "none",
                "none is needed",
            ),
            (
                "image-unlisted",
                "images that no annotation names",
                "left out",
                "nothing is learned from them",
                "fine if they are not to be used; else label them",
            ),
            (
                "frames",
                "files with several pages or frames",
                "only the first is read",
                "the others are not seen",
                "save them as files of their own",
            ),
            (
                "deep",
                "images of more than 8 bits a channel",
                "scaled to 8 bits by the highest value of all",
                "none; predict scales alike (image.bits)",
                "check what `data view` shows",
            ),
            (
                "place",
                "folders above or inside the data set",
                "the data set found there",
                "none",
                "give the data set's own folder",
            ),
            (
                "split-only",
                "data sets without a val split",
                "trained on all of train; --split 0.8 would hold out a fifth to validate on",
                "nothing tells which epoch is best",
                "--split 0.8",
            ),
        ),
    ),
}
