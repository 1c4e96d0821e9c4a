"""A report's section on errors: causes, the AP50 that fixing them gains, advice, a gallery."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby

from dabdetr.data.dataset import DetectionDataset
from dabdetr.evaluation.causes import CAUSES, Error
from dabdetr.evaluation.error_report import ErrorReport
from dabdetr.evaluation.tide import KINDS
from dabdetr.report.crops import crop
from dabdetr.report.page import number, table
from dabdetr.text import counted, escape

BYTES = 1_200_000
"""The most characters of all images of the gallery."""


def error_section(why: ErrorReport, links: Mapping[int, str], images: int) -> str:
    """The section's HTML; ``links`` maps errors of the gallery to their explain pages.

    ``images`` is the number of images of the whole report.
    """
    data, summary, chosen = why.data, why.summary, why.chosen
    causes = [
        [row["words"], str(row["missed"]), str(row["false"]), number(row["AP50"])]
        for row in summary["causes"]
    ]
    kinds = [
        [KINDS[row["kind"]], str(row["count"]), number(row["AP50"])] for row in summary["tide"]
    ]
    advice = "".join(f"<li>{_marked(sentence)}.</li>" for sentence in summary["advice"])
    errors, room = why.diagnosed.errors, BYTES // max(len(chosen), 1)
    groups = []
    for cause, indices in groupby(chosen, lambda at: errors[at].cause):
        cards = "".join(_card(data, errors[at], links.get(at), room) for at in indices)
        title = CAUSES[cause].capitalize()
        groups.append(f'<h4>{escape(title)}</h4><div class="crops">{cards}</div>')
    subset = ""
    if len(data) < images:
        subset = (
            f"<p>Errors in {counted(len(data), 'image')}, spaced evenly among all {images}; "
            "<code>dabdetr val --errors</code> covers all.</p>"
        )
    return (
        f'<section id="errors"><h2>Errors</h2>{subset}'
        + (f'<ul class="advice">{advice}</ul>' if advice else "")
        + '<div class="tables"><div><h3>Causes</h3>'
        + (_causes(causes) if causes else "<p>No errors at the thresholds in use.</p>")
        + "</div><div><h3>TIDE</h3>"
        + table(("kind", "errors", "AP50 gain"), kinds, "Kinds of errors as TIDE counts them")
        + "<p>Kinds of errors as TIDE (Bolya et al., 2020) defines them, over all detections, "
        "whatever their score.</p></div></div>"
        + (_gallery(groups, linked=bool(links)) if groups else "")
        + "</section>"
    )


def _causes(rows: list[list[str]]) -> str:
    """The table of causes with its explanation."""
    return table(("cause", "missed", "false", "AP50 gain"), rows, "Causes of errors") + (
        "<p>Counts at the thresholds in use; the gain is that of mending this cause alone. AP does "
        "not depend on the threshold: objects under it gain nothing.</p>"
    )


def _gallery(groups: list[str], linked: bool) -> str:
    opens = " A click on an image opens the page of its query at the layer shown." if linked else ""
    return (
        "<h3>Gallery</h3><p>White: objects, the missed one bold. Orange: the false detection, or "
        "the box of the query that shows the cause; blue: the detection that it duplicates."
        f"{opens}</p>{''.join(groups)}"
    )


def _marked(sentence: str) -> str:
    """The sentence as HTML, with options of the command line as code."""
    return re.sub(r"(--[a-z-]+(?: [0-9.]+)?)", r"<code>\1</code>", escape(sentence))


def _card(data: DetectionDataset, error: Error, link: str | None, room: int) -> str:
    names = data.names
    if error.side == "missed":
        title = f"{names[error.label or 0]} missed"
    else:
        title = f"{names[error.found or 0]} false"
    text = f"<figcaption><b>{escape(title)}:</b> <small>{escape(error.why)}.</small></figcaption>"
    body = crop(data, error.image, error.box, _drawn(error), room) + text
    if link is not None:
        body = f'<a href="{escape(link)}">{body}</a>'
    return f'<figure class="error" data-cause="{error.cause}">{body}</figure>'


def _drawn(error: Error) -> dict[str, Sequence[float]]:
    """The boxes of an error by their CSS class, in drawing order."""
    boxes: dict[str, Sequence[float]] = {}
    if error.other_box is not None:
        boxes["other"] = error.other_box
    if error.side == "false":
        boxes["found"] = error.box
    else:
        if error.shown is not None:
            boxes["found"] = error.shown
        boxes["missed"] = error.box
    return boxes
