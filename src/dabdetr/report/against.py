"""A report's comparison with another one: numbers, and objects won and lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dabdetr.data.dataset import DetectionDataset
from dabdetr.evaluation.against import Comparison
from dabdetr.report.crops import crop
from dabdetr.report.page import number, table
from dabdetr.report.pairs import base_name
from dabdetr.text import escape

SHOWN = 12
"""The most objects shown as won, and as lost."""
BYTES = 400_000
"""The most characters of all their images."""


def against_section(data: DetectionDataset, against: Comparison, plain: Mapping[str, Any]) -> str:
    """The section's HTML; ``plain`` is ``against.to_dict(data)``."""
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
        f"{against.false[0]} in this one, {against.false[1]} in the other.</p>",
        table(head, numbers, "Numbers of both"),
        "<p>Both use the same resamples of the images, and each its own thresholds.</p>",
        table(("class", "won", "lost"), classes, "Objects won and lost") if classes else "",
    ]
    room = BYTES // (4 * SHOWN)
    groups = (
        (
            "Lost: only the other finds them",
            [_object(data, row, room) for row in plain["lost"][:SHOWN]],
        ),
        (
            "Won: only this one finds them",
            [_object(data, row, room) for row in plain["won"][:SHOWN]],
        ),
        ("False in this one only", _false(data, plain, "this", room)),
        ("False in the other only", _false(data, plain, "other", room)),
    )
    if any(cards for _, cards in groups):
        parts.append(
            "<h3>Where they disagree</h3><p>The labels decide. White: objects, the one in question "
            "bold. Orange: the detection of this one; blue: of the other.</p>"
        )
    for title, cards in groups:
        if cards:
            parts.append(f'<h4>{title}</h4><div class="crops">{"".join(cards)}</div>')
    return "".join(parts) + "</section>"


INKS = {"other": "other", "this": "found"}
"""Side → CSS class of its boxes, in drawing order."""


def _object(data: DetectionDataset, row: Mapping[str, Any], room: int) -> str:
    """An object that one of both finds, with the nearest detections."""
    boxes = {ink: row[side]["box"] for side, ink in INKS.items() if row[side]}
    drawn = {**boxes, "missed": row["box"]}
    said = [f"{side}: {_words(row[side])}" for side in ("this", "other")]
    return _card(data, row, drawn, row["name"], "; ".join(said), room)


def _false(data: DetectionDataset, plain: Mapping[str, Any], side: str, room: int) -> list[str]:
    rows = plain["false_only"][side][:SHOWN]
    return [
        _card(data, row, {INKS[side]: row["box"]}, row["name"], f"score {row['score']:.2f}", room)
        for row in rows
    ]


def _words(answer: Mapping[str, Any] | None) -> str:
    if answer is None:
        return "nothing"
    return f"{answer['name']} {answer['score']:.2f}, IoU {answer['iou']:.2f}"


def _card(
    data: DetectionDataset,
    row: Mapping[str, Any],
    drawn: Mapping[str, Sequence[float]],
    title: str,
    said: str,
    room: int,
) -> str:
    image = crop(data, row["image"], row["box"], drawn, room)
    text = f"<b>{escape(title)}</b> <small>{escape(said)}; {escape(base_name(row['file']))}</small>"
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"
