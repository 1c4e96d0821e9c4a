"""Writing of a report's files into a run's folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from dabdetr.data.dataset import DetectionDataset
from dabdetr.evaluation.against import Comparison
from dabdetr.evaluation.census import Census
from dabdetr.evaluation.error_report import ErrorReport
from dabdetr.evaluation.judged import judge
from dabdetr.evaluation.result import Evaluation
from dabdetr.files import write_atomically, write_csv
from dabdetr.report.against import against_section
from dabdetr.report.census import census_figures, census_section
from dabdetr.report.contents import contents
from dabdetr.report.earlier import DETECTIONS, NUMBERS
from dabdetr.report.errors import error_section
from dabdetr.report.figures import can_draw, figures, png, svg
from dabdetr.report.page import (
    PAGE,
    about_section,
    class_section,
    curve_section,
    figure_grid,
    image_sections,
    number_section,
    page,
)
from dabdetr.report.pairs import pairs, save_pairs
from dabdetr.report.training import TrainingRecord
from dabdetr.text import json_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(
    folder: Path,
    data: DetectionDataset,
    found: Evaluation,
    limits: np.ndarray,
    about: dict[str, Any],
    why: ErrorReport | None = None,
    links: Mapping[int, str] = MappingProxyType({}),
    trained: TrainingRecord | None = None,
    against: Comparison | None = None,
    queries: Census | None = None,
) -> dict[str, Any]:
    """Write report.html, report.json, detections.json, CSV of each table, and PNG of each figure
    and of the worst and best images (``pairs``).

    Returns the content of report.json. Without matplotlib there are no figures. ``limits``
    [classes] are the thresholds of shown detections. ``why`` adds the causes of errors, ``links``
    the addresses of explain pages by the errors' indices, ``trained`` the curves of the training,
    ``against`` the objects won and lost, and ``queries`` the detections of each query.
    """
    judged = judge(data, found, limits)
    tree = contents(data, found, limits, about, judged)
    errors = ""
    if why is not None:
        tree["errors"] = why.summary | {
            "images": len(why.places),
            "rows": [row | {"image": why.places[row["image"]]} for row in why.summary["rows"]],
            "gallery": [{"row": at, "page": links.get(at)} for at in why.chosen],
        }
        errors = error_section(why, links, len(data))
    drawn, training = _drawn(folder, figures(tree)), ""
    if trained is not None:
        tree["training"] = [dict(row) for row in trained.rows]
        training = trained.section(figure_grid(_drawn(folder, trained.figures())))
        if (batch := trained.png()) is not None:
            write_atomically(folder / "first_batch.png", batch)
    census = ""
    if queries is not None:
        tree["queries"] = queries.to_dict()
        census = census_section(queries, figure_grid(_drawn(folder, census_figures(queries))))
    compared = ""
    if against is not None:
        tree["against"] = against.to_dict(data)
        compared = against_section(data, against, tree["against"])
    for name, rows in tables(tree).items():
        write_csv(
            folder / f"{name}.csv", [rows[0], *(row.values() for row in rows)] if rows else ()
        )
    write_atomically(folder / NUMBERS, json_text(tree).encode())
    found.save_results(folder / DETECTIONS)
    shown = list(pairs(data, tree, judged))
    save_pairs(folder, shown)
    sections = {
        "numbers": number_section(tree),
        "against": compared,
        "errors": errors,
        "training": training,
        "curves": curve_section(drawn),
        "queries": census,
        "classes": class_section(tree),
        **image_sections(shown),
        "about": about_section(tree),
    }
    text = page(tree, sections)
    write_atomically(folder / PAGE, text.encode("utf-8", "replace"))
    return tree


def _drawn(folder: Path, figures: Iterable[tuple[str, str, Figure]]) -> list[tuple[str, str, str]]:
    """Write each figure as PNG; its name, caption and SVG. Nothing without matplotlib."""
    if not can_draw():
        return []
    drawn = []
    for name, caption, figure in figures:
        write_atomically(folder / f"{name}.png", png(figure))
        drawn.append((name, caption, svg(figure)))
    return drawn


def tables(tree: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The report's tables by the name of their CSV file."""
    names = tree["confusion"]["names"]
    confusion = [
        {"object": name, **dict(zip(names, row, strict=True))}
        for name, row in zip(names, tree["confusion"]["matrix"], strict=True)
    ]
    curves = [
        {"class": name, "threshold": at, "precision": precision, "recall": recall, "f1": f1}
        for name, curve in tree["curves"].items()
        for at, precision, recall, f1 in zip(
            *(curve[key] for key in ("scores", "precision", "recall", "f1")), strict=True
        )
    ]
    breakdown = [{"by": name, **row} for name, rows in tree["breakdown"].items() for row in rows]
    calibration: list[dict[str, Any]] = [
        dict(zip(("score", "precision", "count"), row, strict=True))
        for row in zip(
            *(tree["calibration"][key] for key in ("score", "precision", "count")), strict=True
        )
    ]
    errors = tree.get("errors")
    more = {} if errors is None else {"errors": _flat(errors["rows"]), "causes": errors["causes"]}
    if against := tree.get("against"):
        only = against["false_only"]
        sides = [(side, against[side]) for side in ("won", "lost")]
        sides += [("false in this", only["this"]), ("false in the other", only["other"])]
        more["against"] = []
        for side, rows in sides:  # objects, or false detections
            own = "this" if side.endswith("this") else "other"
            for row in rows:
                scores = {each: (row.get(each) or {}).get("score") for each in ("this", "other")}
                if "score" in row:
                    scores[own] = row["score"]
                start = {key: row.get(key) for key in ("image", "file", "object", "name", "box")}
                named = {f"score of {each}": score for each, score in scores.items()}
                more["against"].append({"side": side, **_flat([start])[0], **named})
    if layers := tree.get("queries", {}).get("layers"):
        more["query_layers"] = layers
    return {
        **more,
        "classes": tree["per_class"],
        "images": tree["images"],
        "objects": tree["objects"],
        "confusion": confusion,
        "curves": curves,
        "breakdown": breakdown,
        "calibration": calibration,
    }


def _flat(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with lists joined by spaces, to be cells of a table."""
    return [
        {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in row.items()}
        for row in rows
    ]
