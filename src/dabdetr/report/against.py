"""The part of a report that compares with another one: numbers, and objects won and lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from dabdetr.data.dataset import DetectionDataset
from dabdetr.evaluation.against import Comparison
from dabdetr.report.crops import crop
from dabdetr.report.page import number, table
from dabdetr.text import escape

SHOWN = 12
"""Objects of each kind in the page."""
BYTES = 400_000
"""Of all their images together, as text."""


def against_section(data: DetectionDataset, against: Comparison, plain: Mapping[str, Any]) -> str:
    """HTML; ``plain`` is ``against.to_dict``."""
    numbers = [
        [
            name,
            number(each.this),
            number(each.other),
            f"{each.value:+.3f}",
            f"{each.interval[0]:+.3f} to {each.interval[1]:+.3f}",
            "yes" if each.real else "no",
        ]
        for name, each in against.numbers.items()
    ]
    head = ("", "this", "other", "difference", "95 %", "more than chance")
    won, lost = (Counter(row["name"] for row in plain[kind]) for kind in ("won", "lost"))
    changed = [name for name in data.names if won[name] or lost[name]]
    classes = [[name, str(won[name]), str(lost[name])] for name in changed]
    parts = [
        '<section id="against"><h2>Comparison</h2>',
        f"<p>{escape(against.sentence.replace('against', 'Against', 1))}. False detections: "
        f"{against.false[0]} here, {against.false[1]} there.</p>",
        table(head, numbers, "Numbers of both"),
        "<p>The images are resampled for both alike; thresholds are those of each.</p>",
        table(("class", "won", "lost"), classes, "Objects won and lost") if classes else "",
    ]
    room = BYTES // (2 * SHOWN)
    for kind in ("lost", "won"):
        cards = "".join(_card(data, row, room) for row in plain[kind][:SHOWN])
        if cards:
            parts.append(f'<h3>{kind.capitalize()}</h3><div class="crops">{cards}</div>')
    return "".join(parts) + "</section>"


def _card(data: DetectionDataset, row: Mapping[str, Any], room: int) -> str:
    try:
        shown = crop(data, row["image"], row["box"], {"missed": row["box"]}, room)
    except (OSError, ValueError):  # gone since it was evaluated
        shown = "<p>The image cannot be read.</p>"
    name = row["file"].replace("\\", "/").rsplit("/", 1)[-1]
    text = f"<b>{escape(row['name'])}</b> <small>{escape(name)}</small>"
    return f"<figure>{shown}<figcaption>{text}</figcaption></figure>"
