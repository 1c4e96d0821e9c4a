"""A report's comparison with another one: numbers, and objects won and lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
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
    only = plain["false_only"]
    groups = [
        (title, [_card(data, row, room, side) for row in rows[:SHOWN]])
        for title, rows, side in (
            ("Lost: only the other finds them", plain["lost"], None),
            ("Won: only this one finds them", plain["won"], None),
            ("False in this one only", only["this"], "this"),
            ("False in the other only", only["other"], "other"),
        )
    ]
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


def _card(data: DetectionDataset, row: Mapping[str, Any], room: int, side: str | None) -> str:
    """A false detection of a ``side``, or an object that one of both finds, with what both show."""
    if side is not None:
        drawn, said = {INKS[side]: row["box"]}, f"score {row['score']:.2f}"
    else:
        drawn = {ink: row[each]["box"] for each, ink in INKS.items() if row[each]}
        drawn["missed"] = row["box"]
        answers = []
        for each in ("this", "other"):
            words = "nothing"
            if (found := row[each]) is not None:
                words = f"{found['name']} {found['score']:.2f}, IoU {found['iou']:.2f}"
            answers.append(f"{each}: {words}")
        said = "; ".join(answers)
    image = crop(data, row["image"], row["box"], drawn, room)
    text = f"<b>{escape(row['name'])}</b> <small>{escape(said)}; "
    text += f"{escape(base_name(row['file']))}</small>"
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"
