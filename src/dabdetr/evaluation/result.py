"""Tables of an evaluation for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from dabdetr.evaluation.evaluate import Evaluation

_OBJECTS = ("all", "IoU 0.50", "IoU 0.75", "small", "medium", "large")
_RECALLS = ("1 an image", "10 an image", "100 an image", "small", "medium", "large")


def tables(evaluation: Evaluation) -> Group:
    """The twelve numbers side by side, the classes below, notes at the end."""
    names = list(evaluation.numbers)
    overall = Table(title=f"{evaluation.images} images in {evaluation.seconds:.1f} s")
    for column in ("AP", "of", "AR", "with"):
        overall.add_column(column, justify="right" if column in ("AP", "AR") else "left")
    for ap, what, ar, which in zip(names[:6], _OBJECTS, names[6:], _RECALLS, strict=True):
        numbers = evaluation.numbers
        overall.add_row(shown(numbers[ap]), what, shown(numbers[ar]), which)
    parts: list[RenderableType] = [overall]
    if len(evaluation.per_class) > 1:
        parts.append(_class_table(evaluation))
    parts += [Text(f"Note: {note}.") for note in evaluation.notes]
    return Group(*parts)


def _class_table(evaluation: Evaluation) -> Table:
    table = Table("class")
    for column in ("AP", "AP50", "AR100", "objects"):
        table.add_column(column, justify="right")
    for name, row in evaluation.per_class.items():
        values = [shown(row[key]) for key in ("AP", "AP50", "AR100")]
        table.add_row(Text(name), *values, str(int(row["objects"])))
    return table


def shown(number: float) -> str:
    """Three digits; a dash for COCO's −1, which means that there are no such objects."""
    return "–" if number < 0 else f"{number:.3f}"
