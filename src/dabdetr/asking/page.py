"""A page of images with their boxes before and after, as one self-contained HTML file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dabdetr.packages import static
from dabdetr.report.crops import Frame, framed
from dabdetr.structures.drawing import data_url
from dabdetr.text import escape, html_page

LONGEST = 640
"""The longest side in pixels of an image in the page."""


@dataclass(frozen=True)
class Card:
    """An image, or the part of it around a box, with boxes in pixels of the whole image.

    frame   x0 y0 x1 y1 of the part that is shown
    mark    HTML in front of the title, such as a checkbox
    """

    image: np.ndarray
    frame: Frame
    before: Sequence[Sequence[float]]
    after: Sequence[Sequence[float]]
    title: str
    text: str
    mark: str = ""

    def html(self) -> str:
        """The card as HTML."""
        x0, y0, x1, y1 = self.frame
        address = data_url(self.image[y0:y1, x0:x1], LONGEST)
        boxes = [("before", box) for box in self.before] + [("after", box) for box in self.after]
        return (
            f"<figure>{framed(self.frame, address, boxes)}"
            f"<figcaption><label>{self.mark}<b>{escape(self.title)}</b></label>"
            f"<small>{escape(self.text)}</small></figcaption></figure>"
        )


def whole(image: np.ndarray) -> Frame:
    """The frame of the whole image."""
    return 0, 0, image.shape[1], image.shape[0]


def page(
    title: str,
    lead: str,
    cards: Sequence[Card],
    width: int = 300,
    controls: str = "",
    script: str = "",
) -> str:
    """The page; cards are at least ``width`` pixels wide.

    ``lead`` is text with commands between backticks, ``controls`` HTML, ``script`` JavaScript.
    """
    words = re.sub("`(.+?)`", r"<code>\1</code>", escape(lead))
    switches = "".join(
        f'<label><input type="checkbox" id="hide-{kind}" checked> '
        f'<span class="swatch {kind}"></span>{kind}</label>'
        for kind in ("before", "after")
    )
    body = (
        f"<header><h1>{escape(title)}</h1><p>{words}</p></header>\n"
        f'<div class="bar">{switches}{controls}</div>\n'
        f'<main class="cards" style="--width: {width}px">\n'
        + "\n".join(card.html() for card in cards)
        + "\n</main>"
    )
    style = static("dabdetr.data", "page.css") + static("dabdetr.asking", "page.css")
    return html_page(title, style, body, script)
