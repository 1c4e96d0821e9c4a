"""The report as one HTML file, without network access, for any width, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dabdetr.packages import static
from dabdetr.report.pairs import Pair
from dabdetr.structures.drawing import data_url
from dabdetr.text import counted, escape, html_page

PAGE = "report.html"
"""The page's file in a run's folder."""

IMAGE_BYTES = 5_000_000
"""The most characters of all images in a page; the rest of the page is far below 3 MB."""
SIZES = (
    ("APS", "small objects", "below 32 px"),
    ("APM", "medium objects", "32–96 px"),
    ("APL", "large objects", "above 96 px"),
)
"""COCO's sizes: root of the area."""
CONTENTS = {
    "numbers": "Numbers",
    "against": "Comparison",
    "errors": "Errors",
    "training": "Training",
    "curves": "Curves",
    "queries": "Queries",
    "classes": "Classes",
    "worst": "Worst images",
    "best": "Best images",
    "about": "About",
}
"""HTML id → title of each section in the page's table of contents, in order."""


def page(tree: dict[str, Any], sections: Mapping[str, str]) -> str:
    """The page of a report; ``sections`` maps ids of ``CONTENTS`` to HTML, empty for no section."""
    about = tree["about"]
    title = f"{about['model']} on {about['data']}, {about['split']}"
    parts = [(at, sections[at]) for at in CONTENTS if sections.get(at)]
    links = "".join(f'<a href="#{at}">{CONTENTS[at]}</a>' for at, _ in parts)
    body = (
        f"<header><h1>{escape(title)}</h1><nav>{links}</nav></header>\n<main>\n"
        + "\n".join(text for _, text in parts)
        + '\n</main>\n<dialog id="zoom" aria-label="Enlarged"><button>Close</button><div></div>'
        "</dialog>"
    )
    style, script = (static("dabdetr.report", name) for name in ("report.css", "report.js"))
    made = '<meta name="generator" content="dabdetr report">\n'
    return html_page(title, style, body, script, made)


def curve_section(drawn: Sequence[tuple[str, str, str]]) -> str:
    """The figures' section; ``drawn`` holds name, caption and SVG of each."""
    grid = figure_grid(drawn) or "<p>Not drawn: this needs the package matplotlib.</p>"
    return f'<section id="curves"><h2>Curves</h2><div class="grid">{grid}</div></section>'


def figure_grid(drawn: Sequence[tuple[str, str, str]]) -> str:
    """Figures with captions; a click enlarges a figure."""
    return "".join(
        f'<figure id="figure-{name}"><div class="zoomable" tabindex="0" role="button" '
        f'aria-label="Enlarge: {escape(caption)}">{drawing}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for name, caption, drawing in drawn
    )


def number_section(tree: dict[str, Any]) -> str:
    """COCO's numbers with their intervals, totals, and notes."""
    numbers = tree["numbers"]
    cards = []
    for name, words in (("AP", "IoU 0.50–0.95"), ("AP50", "IoU 0.50"), ("AP75", "IoU 0.75")):
        interval = numbers["interval"].get(name)
        level = f"{numbers['interval']['level']:.0%}"
        text = f"{level}: {interval[0]:.3f}–{interval[1]:.3f}" if interval else ""
        cards.append(_card(name, numbers[name], words, text))
    for name, words, sides in SIZES:
        cards.append(_card(name, numbers[name], words, sides))
    cards.append(_card("AR100", numbers["AR100"], "recall", "100 per image"))
    objects = sum(row["objects"] for row in tree["images"])
    missed = sum(row["missed"] for row in tree["images"])
    false = sum(row["false"] for row in tree["images"])
    line = (
        f"{counted(objects, 'object')} in {counted(len(tree['images']), 'image')}: {missed} missed "
        f"and {counted(false, 'false detection')} at the thresholds of the table of classes. "
        f"The ranges contain {numbers['interval']['level']:.0%} of "
        f"{numbers['interval']['resamples']} resamples of the images; – means no such objects."
    )
    notes = "".join(f"<p>Note: {escape(note)}.</p>" for note in tree["notes"])
    return (
        f'<section id="numbers"><h2>Numbers</h2><div class="cards">{"".join(cards)}</div>'
        f"<p>{line}</p>{notes}</section>"
    )


def _card(name: str, value: float | None, words: str, interval: str) -> str:
    return (
        f"<div><b>{name}</b><strong>{number(value)}</strong><small>{words}</small>"
        f"<small>{interval}</small></div>"
    )


def number(value: float | None, digits: int = 3) -> str:
    """The value rounded to ``digits``; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], label: str) -> str:
    """An HTML table that scrolls within a narrow page; ``label`` is its accessible name."""
    heads = "".join(f'<th scope="col">{escape(each)}</th>' for each in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def class_section(tree: dict[str, Any]) -> str:
    """The table of classes."""
    head = ("class", "AP", "95 %", "AP50", "AR100", "objects", "threshold", "best", "F1 there")
    rows = []
    for row in tree["per_class"]:
        interval = row["interval"]
        values = [number(row[key]) for key in ("AP50", "AR100")]
        rows.append(
            [
                row["name"],
                number(row["AP"]),
                f"{interval[0]:.2f}–{interval[1]:.2f}" if interval else "–",
                *values,
                str(int(row["objects"] or 0)),
                number(row["threshold"], 2),
                number(row["best_threshold"], 2),
                number(row["best_f1"], 2),
            ]
        )
    return (
        f'<section id="classes"><h2>Classes</h2>{table(head, rows, "Numbers of each class")}'
        "<p>Threshold: the one that the model uses. Best: the one with the highest F1 on these "
        "images; <code>dabdetr val --calibrate</code> writes weights that use it.</p></section>"
    )


def about_section(tree: dict[str, Any]) -> str:
    """The model, the data, the command and the versions."""
    about = dict(tree["about"])
    config = about.pop("config", None)
    rows = [[key, _words(value)] for key, value in about.items() if value not in (None, {}, [])]
    details = (
        ""
        if config is None
        else f"<details><summary>Config</summary><pre>{escape(config)}</pre></details>"
    )
    run = table(("", ""), rows, "What was run")
    return f'<section id="about"><h2>About</h2>{run}{details}</section>'


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(each)}" for key, each in value.items())
    return str(value)


def image_sections(pairs: Sequence[Pair]) -> dict[str, str]:
    """The worst and the best images by section id, with labels and detections side by side."""
    room = IMAGE_BYTES // max(1, 2 * len(pairs))
    parts: dict[str, str] = {}
    for name, title, rule, none in (
        (
            "worst",
            "Worst images",
            "Those with the most missed objects and false detections.",
            "No image has errors.",
        ),
        (
            "best",
            "Best images",
            "Those with the fewest errors; of equals, with the most objects.",
            "All images are among the worst.",
        ),
    ):
        body = (
            "".join(_pair(each, room) for each in pairs if each.group == name) or f"<p>{none}</p>"
        )
        parts[name] = (
            f'<section id="{name}"><h2>{title}</h2><p>{rule} Left: the labels; right: the '
            f'detections.</p><div class="pairs">{body}</div></section>'
        )
    return parts


def _pair(pair: Pair, room: int) -> str:
    row = pair.row
    if pair.truth is None or pair.found is None:
        return f"<figure><figcaption>{escape(row['file'])} cannot be read</figcaption></figure>"
    panels = "".join(
        f'<img class="zoomable" tabindex="0" role="button" '
        f'alt="{kind} of {escape(pair.name)}" src="{data_url(np.asarray(each), room=room)}">'
        for kind, each in (("labels", pair.truth), ("detections", pair.found))
    )
    line = f"{counted(row['objects'], 'object')}, {row['missed']} missed, {row['false']} false"
    return (
        f"<figure><div class=pair>{panels}</div>"
        f"<figcaption>{escape(pair.name)} <small>{line}</small></figcaption></figure>"
    )
