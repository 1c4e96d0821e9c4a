"""A page that explains one image as one self-contained HTML file, and an index of pages."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dabdetr.explain.attention import Attention, DenseAttention
from dabdetr.files import write_atomically
from dabdetr.packages import static
from dabdetr.structures.boxes import centres
from dabdetr.structures.drawing import colour, data_url
from dabdetr.text import counted, embedded_json, escape, html_page

if TYPE_CHECKING:
    from dabdetr.explain.explanation import Explanation
    from dabdetr.explain.trace import Trace

LONGEST = 1600
"""The longest side of the embedded image in pixels."""

THUMBNAIL = 240
"""Longer side in pixels of the images in an index."""

MAP_BYTES = 4_200_000
"""The most bytes of attention maps in a page (a third more as text); best queries come first."""

MOST_QUERIES = 40
"""The most queries whose attention a page contains, unless there are more detections."""

SCRIPTS = ("stage.js", "story.js", "input.js", "page.js")
"""The parts of the page's script in order; the last one starts it."""

MADE = '<meta name="generator" content="dabdetr explain">\n'
"""A line of the head by which a page is recognised."""

TOP = 3
"""The number of classes listed for every query."""


def page(
    explanation: Explanation,
    links: Sequence[tuple[str, str]] = (),
    queries: Sequence[int] | None = None,
) -> str:
    """The page as text; ``links`` are words and addresses of further pages.

    The page contains the attention of the detections' queries and of ``queries``, by default the
    best ones. An address that ends in ``#query=12&layer=3`` opens it at that query and layer.
    """
    anchors = "\n".join(f'<a href="{escape(to)}">{escape(words)}</a>' for words, to in links)
    data = embedded_json(page_data(explanation, queries))
    body = (
        (f"<nav>\n{anchors}\n</nav>\n" if links else "")
        + static("dabdetr.explain", "page.html")
        + f'<script type="application/json" id="data">{data}</script>'
    )
    script = '"use strict";\n' + "\n".join(static("dabdetr.explain", name) for name in SCRIPTS)
    title, style = f"{_title(explanation)} explained", static("dabdetr.explain", "page.css")
    return html_page(title, style, body, script, MADE)


def write_page(
    explanation: Explanation,
    path: Path,
    links: Sequence[tuple[str, str]] = (),
    queries: Sequence[int] | None = None,
) -> None:
    """Write ``page`` to ``path``, atomically."""
    write_atomically(path, page(explanation, links, queries).encode())


def is_page(path: Path) -> bool:
    """Whether the file is a page written by ``write_page``."""
    with path.open("rb") as file:
        return MADE.encode() in file.read(1000)


def write_index(path: Path, model: str, entries: Sequence[dict[str, str]]) -> None:
    """Write a page of links; an entry has ``href``, ``title``, ``text`` and ``thumbnail``."""
    rows = "\n".join(
        f'<li><a href="{escape(e["href"])}"><img src="{e["thumbnail"]}" alt="">'
        f"<b>{escape(e['title'])}</b> {escape(e['text'])}</a></li>"
        for e in entries
    )
    title = f"{model}: {counted(len(entries), 'image')} explained"
    body = f'<header><h1>{escape(title)}</h1></header>\n<ul class="pages">\n{rows}\n</ul>'
    text = html_page(title, static("dabdetr.explain", "page.css"), body)
    write_atomically(path, text.encode())


def entry(explanation: Explanation, href: str) -> dict[str, str]:
    """The entry for ``write_index`` of a page at ``href``."""
    found = explanation.detections
    counts = dict.fromkeys(found.names, 0)
    for label in found.labels:
        counts[found.names[label]] += 1
    listed = ", ".join(f"{name} ({n}×)" for name, n in counts.items() if n) or "nothing found"
    return {
        "href": href,
        "title": Path(found.source).name or "image",
        "text": listed,
        "thumbnail": data_url(explanation.image, THUMBNAIL),
    }


def page_data(explanation: Explanation, queries: Sequence[int] | None = None) -> dict[str, Any]:
    """The data for the page's script: plain lists, boxes 0–1, images and maps as base64."""
    trace, shown = explanation.trace, explanation.shown
    asked = explanation.asked
    traces = [trace] if asked is None else [trace, asked]  # questions follow the model's queries
    boxes = np.concatenate([each.boxes for each in traces], axis=1)
    scores = np.concatenate([each.scores for each in traces], axis=1)
    anchors = [each.anchors for each in traces if each.anchors is not None]
    sizes = [each.reference_sizes for each in traces if each.reference_sizes is not None]
    best = np.argsort(-scores, axis=-1)[..., :TOP]
    of_found = trace.scores[:, shown.queries, shown.labels].T  # [detections, layers]
    truth = None
    if explanation.truth is not None:
        edges = explanation.truth.boxes / np.tile(explanation.size[::-1], 2).astype(np.float32)
        rows = zip(_rounded(centres(edges)), explanation.truth.labels.tolist(), strict=True)
        truth = [{"box": box, "label": label} for box, label in rows]
    return {
        "title": _title(explanation),
        "model": trace.model,
        "names": list(trace.names),
        "colours": ["#" + bytes(colour(label)).hex() for label in range(len(trace.names))],
        "size": list(explanation.size),
        "image": data_url(
            explanation.image, LONGEST, "png" if max(explanation.size) <= 320 else "jpeg"
        ),
        "conf": explanation.conf,
        "found": len(explanation.detections),
        "detections": [
            {
                "query": int(q),
                "label": int(label),
                "score": round(float(s), 4),
                "scores": _rounded(of),
            }
            for q, label, s, of in zip(
                shown.queries, shown.labels, shown.scores, of_found, strict=True
            )
        ],
        "questions": 0 if asked is None else asked.queries,
        "attended": [] if asked is None else _attended(asked),
        "anchors": [_rounded(np.concatenate(layer)) for layer in zip(*anchors, strict=True)]
        or None,
        "boxes": _rounded(boxes),
        "labels": best.tolist(),
        "scores": _rounded(np.take_along_axis(scores, best, axis=-1)),
        "references": _rounded(np.concatenate(sizes, axis=1)) if sizes else None,
        "attention": _attention(explanation, queries),
        "truth": truth,
        "absent": list(trace.absent),
    }


def _attended(asked: Trace) -> list[list[float]]:
    """For each question the query that it attends to most in the last layer, and the weight."""
    assert asked.attended is not None
    last = asked.attended[-1]
    return [[int(row.argmax()), round(float(row.max()), 3)] for row in last]


def _attention(explanation: Explanation, queries: Sequence[int] | None) -> dict[str, Any]:
    """The attention of the detections' queries, then of the next best ones; or of ``queries``, then
    of the detections'; as many as fit.

    Dense attention: the mean over heads for all of them, and single heads for the best ones.
    """
    layers = explanation.trace.attention
    final = explanation.trace.scores[-1].max(-1)
    found = explanation.shown.queries.tolist()
    if queries is None:
        order = list(dict.fromkeys([*found, *np.argsort(-final).tolist()]))
        order = order[: max(MOST_QUERIES, len(set(found)))]
    else:
        order = list(dict.fromkeys([*queries, *found]))
    first = layers[0]
    common = {
        "heads": first.heads,
        "parts": list(first.parts),
        "caveats": [layer.caveat for layer in layers],
    }
    asked = () if explanation.asked is None else explanation.asked.attention
    numbers = range(explanation.asked.queries if explanation.asked else 0)
    if not isinstance(first, DenseAttention):
        by_query = {str(query): _locations(layers, query) for query in order}
        by_query |= {
            str(explanation.trace.queries + query): _locations(asked, query, ("all",), 3)
            for query in numbers
        }
        shape = list(first.weights.shape[1:])  # heads, levels, points
        levels = [list(cells) for cells in first.shapes]
        return {
            "kind": "locations",
            "shape": shape,
            "levels": levels,
            **common,
            "queries": by_query,
        }
    shape = list(first.maps(0).shape[1:])
    mean = len(layers) * len(first.parts) * shape[0] * shape[1]
    order = order[: max(1, MAP_BYTES // mean)]
    by_head = max(0, MAP_BYTES - len(order) * mean) // (first.heads * mean)
    by_query = {str(query): _maps(layers, query, at < by_head) for at, query in enumerate(order)}
    if len(numbers) * len(layers) * shape[0] * shape[1] <= MAP_BYTES // 2:
        by_query |= {
            str(explanation.trace.queries + query): _maps(asked, query, False, ("all",))
            for query in numbers
        }
    return {"kind": "maps", "shape": shape, **common, "queries": by_query}


def _maps(
    layers: Sequence[Attention], query: int, by_head: bool, parts: Sequence[str] | None = None
) -> dict[str, Any]:
    """[layers, parts, mean and heads, cells] as bytes; the largest weight of each map is 255."""
    blocks, tops = [], []
    for layer in layers:
        for part in parts or layer.parts:
            maps = layer.maps(query, part)
            stack = np.concatenate((maps.mean(0, keepdims=True), maps if by_head else maps[:0]))
            top = stack.max((1, 2), keepdims=True)
            blocks.append((stack / top.clip(1e-12) * 255).round().astype(np.uint8).tobytes())
            tops += _rounded(top.ravel(), 5)
    text = base64.b64encode(b"".join(blocks)).decode()
    heads = layers[0].heads if by_head else 0
    return {"heads": heads, "parts": list(parts or layers[0].parts), "bytes": text, "tops": tops}


def _locations(
    layers: Sequence[Attention], query: int, parts: Sequence[str] | None = None, digits: int = 4
) -> dict[str, Any]:
    """For each layer and part, x, y and weight of each location: heads, levels, points."""
    rows = []
    for layer in layers:
        assert not isinstance(layer, DenseAttention)
        for part in parts or layer.parts:
            locations, weights = layer.chosen(query, part)
            row = np.concatenate((locations, weights[..., None]), -1).ravel()
            rows.append(_rounded(row, digits))
    heads, parts = layers[0].heads, list(parts or layers[0].parts)
    return {"heads": heads, "parts": parts, "rows": rows}


def _rounded(values: np.ndarray, digits: int = 4) -> list[Any]:
    return np.round(values.astype(np.float64), digits).tolist()


def _title(explanation: Explanation) -> str:
    source = explanation.detections.source
    return Path(source).name if source else "an image"
