"""A report's section on queries: where and how often each finds objects, and which never do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from dabdetr.evaluation.census import Census
from dabdetr.report.figures import INK, SIDE, panel
from dabdetr.report.page import table
from dabdetr.structures.drawing import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 30
"""The most queries in the page's table."""
MAPS = (3, 4)
"""Rows and columns of heat maps, one for each of the busiest queries."""


def census_figures(census: Census) -> Iterator[tuple[str, str, Figure]]:
    """Name, caption and figure of each."""
    figure, axis = panel(3.5, xlim=(0, 1), ylim=(1, 0), xlabel="x of the image", ylabel="y")
    counts = np.array([use.count for use in census.used], float)
    points = np.array([use.centre for use in census.used]).reshape(-1, 2)
    most = max(counts.max(initial=1), 1)
    areas = 200 * counts / most + 4
    axis.scatter(*points.T, s=areas, facecolors=INK + "66", edgecolors=INK, linewidths=1.2)
    yield (
        "query_places",
        "Mean centre of each query's detections; area: their number.",
        figure,
    )
    yield (
        "query_maps",
        "Where in the image the busiest queries find objects; the deeper the blue, the more.",
        _maps(census),
    )
    figure, axis = panel(2.8, xlabel="queries, the busiest first", ylabel="detections")
    axis.bar(
        range(len(counts) + len(census.idle)),
        [*counts, *[0] * len(census.idle)],
        width=1.0,
        color=INK,
    )
    yield "query_counts", "Detections of each query.", figure


def _maps(census: Census) -> Figure:
    from matplotlib.colors import to_rgb

    figure = new_figure(*SIDE)
    busiest = census.used[: MAPS[0] * MAPS[1]]
    for at, axis in enumerate(figure.subplots(*MAPS).flat):
        axis.set(xticks=[], yticks=[])
        if at >= len(busiest):
            axis.set_axis_off()
            continue
        share = busiest[at].places / busiest[at].places.max()
        blue = np.broadcast_to(to_rgb(INK), (*share.shape, 3))
        axis.imshow(np.dstack([blue, share]), aspect="auto")  # clear where nothing is
        axis.set_title(f"query {busiest[at].query}", fontsize=9, pad=3)
    return figure


def census_section(census: Census, drawn: str) -> str:
    """The section's HTML; ``drawn`` is that of the figures."""
    rows = [
        [
            str(row["query"]),
            str(row["count"]),
            str(row["right"]),
            ", ".join(f"{count}× {name}" for name, count in [*row["classes"].items()][:3]),
            f"{row['entropy']:.2f}",
            f"{row['centre'][0]:.2f}, {row['centre'][1]:.2f}",
            f"{row['size']:.2f}",
        ]
        for row in census.to_dict()["queries"][:SHOWN]
    ]
    shown = f"The {SHOWN} busiest queries. " if len(census.used) > SHOWN else ""
    head = ("query", "found", "right", "classes", "entropy (bits)", "centre", "size")
    idle = ", ".join(map(str, census.idle)) or "none"
    pairs = [[f"{one} and {other}", str(count)] for one, other, count in census.duplicates[:10]]
    duplicates = table(("pair", "same object"), pairs, "Queries with duplicates") if pairs else ""
    rows_by_layer = [
        [
            str(use.layer),
            str(use.queries),
            str(use.count),
            str(use.right),
            str(use.duplicates),
            f"{use.entropy:.2f}",
            f"{use.spread:.3f}",
        ]
        for use in census.layers
    ]
    titles = ("after layer", "queries", "found", "right", "duplicates", "entropy (bits)", "spread")
    by_layer = ""
    if rows_by_layer:
        by_layer = (
            "<h3>Layer by layer</h3><p>The detections after each decoder layer. Entropy falls when "
            "queries specialise in classes, spread (deviation of a query's centres, 0–1 of the "
            "image) when they specialise in places.</p>" + table(titles, rows_by_layer, "By layer")
        )
    return (
        f'<section id="queries"><h2>Queries</h2><p>{census.sentence.capitalize()}.</p>'
        f'<div class="grid">{drawn}</div>{table(head, rows, "What queries find")}'
        f"<p>{shown}Centre and size are means, 0–1 of the image. Queries that find "
        f"nothing: {idle}. <code>dabdetr prune</code> removes queries that are not needed.</p>"
        f"{duplicates}{by_layer}</section>"
    )
