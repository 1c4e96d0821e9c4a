"""The result of an evaluation: COCO's numbers, overall and per class, as tables and as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dabdetr.files import replacing
from dabdetr.structures import Detections
from dabdetr.text import counted

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

NUMBERS = (
    *("AP", "AP50", "AP75", "APS", "APM", "APL"),
    *("AR1", "AR10", "AR100", "ARS", "ARM", "ARL"),
)
"""COCO's twelve, in its order; S, M, L are objects below 32² px, up to 96² px, above."""
_OBJECTS = (
    *("IoU 0.50–0.95", "IoU 0.50", "IoU 0.75"),
    *("small objects", "medium objects", "large objects"),
)
_RECALLS = (
    *("1 per image", "10 per image", "100 per image"),
    *("small objects", "medium objects", "large objects"),
)


@dataclass(frozen=True)
class Evaluation:
    """How well detections fit a data set; −1 for a number whose objects the data set lacks.

    numbers     COCO's twelve numbers by name, 0–1
    per_class   class name → AP, AP50, AR100 and the number of objects (crowds are not counted)
    images      number of images evaluated
    seconds     duration, including prediction if the model was run
    notes       caveats about the numbers, one sentence each
    most        the number of best detections of a class in an image that count for AP
    detections  one item for each image in the data set's order, with the data set's labels
    """

    numbers: dict[str, float]
    per_class: dict[str, dict[str, float]]
    images: int
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    detections: tuple[Detections, ...] = field(default=(), repr=False, compare=False)
    image_ids: tuple[int, ...] = field(default=(), repr=False)
    category_ids: tuple[int, ...] = field(default=(), repr=False)
    most: int = 100

    @property
    def ap(self) -> float:
        """Mean over IoU 0.50, 0.55 … 0.95 and all classes."""
        return self.numbers["AP"]

    @property
    def ap50(self) -> float:
        """At IoU 0.50."""
        return self.numbers["AP50"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; null in place of −1."""
        return {
            "numbers": _nulls(self.numbers),
            "per_class": {name: _nulls(row) for name, row in self.per_class.items()},
            "images": self.images,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }

    def to_coco(self) -> list[dict[str, Any]]:
        """All detections as rows of a COCO results file, in the data set's own ids."""
        return [
            row
            for image_id, found in zip(self.image_ids, self.detections, strict=True)
            for row in found.to_coco(image_id, self.category_ids)
        ]

    def save_results(self, path: str | Path) -> None:
        """Write all detections as JSON, in the format that COCO's tools and servers read.

        The numbers are precise enough to get the same evaluation.
        """
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            start = "["
            for image_id, found in zip(self.image_ids, self.detections, strict=True):
                for row in found.to_coco(image_id, self.category_ids):
                    x, y, width, height = row["bbox"]
                    file.write(
                        f'{start}{{"image_id": {image_id}, "category_id": {row["category_id"]}, '
                        f'"bbox": [{x:.4f}, {y:.4f}, {width:.4f}, {height:.4f}], '
                        f'"score": {row["score"]:.9g}}}'
                    )
                    start = ",\n"
            file.write("]\n" if start != "[" else "[]\n")

    def table(self) -> Group:
        """A rich renderable: the twelve numbers, then the classes, then the notes."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        names, numbers = list(self.numbers), self.numbers
        overall = Table(title=f"{counted(self.images, 'image')} in {self.seconds:.1f} s")
        for column in ("AP", "", "AR", ""):
            overall.add_column(column, justify="right" if column else "left")
        for ap, objects, ar, limit in zip(names[:6], _OBJECTS, names[6:], _RECALLS, strict=True):
            overall.add_row(shown(numbers[ap]), objects, shown(numbers[ar]), limit)
        parts: list[Any] = [overall]
        if len(self.per_class) > 1:
            parts.append(self._class_table())
        return Group(*parts, *(Text(f"Note: {note}.") for note in self.notes))

    def _class_table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table("class")
        for column in ("AP", "AP50", "AR100", "objects"):
            table.add_column(column, justify="right")
        for name, row in self.per_class.items():
            values = [shown(row[key]) for key in ("AP", "AP50", "AR100")]
            table.add_row(Text(name), *values, str(int(row["objects"])))
        return table


def shown(number: float) -> str:
    """The number with three digits; a dash for COCO's −1, which means that no objects apply."""
    return "–" if number < 0 else f"{number:.3f}"


def _nulls(numbers: dict[str, float]) -> dict[str, float | None]:
    assert all(math.isfinite(value) for value in numbers.values()), numbers
    return {name: None if value < 0 else value for name, value in numbers.items()}
