"""How DAB-DETR-R50's time and memory grow: the measurements of ``dabdetr bench --scaling``."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dabdetr.bench.growth import Growth, Point
from dabdetr.bench.processes import Failed, Process
from dabdetr.bench.scaling import AXES
from dabdetr.checkpoints.native import save_model
from dabdetr.model.detector import build
from dabdetr.presets import preset

ROUNDS = 2


def found(threads: int = 2, smoke: bool = False) -> dict[str, Any]:
    """Axis → points; images are 640x480 where pixels do not vary."""
    config = preset("dab-detr-nano" if smoke else "dab-detr-r50")
    config = config.override(["image.size=480", "image.max_size=640"])
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    points: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        save_model(file, build(config, [str(n) for n in range(91)]))
        for axis, what in AXES.items():
            values = what.values[:1] if smoke else what.values
            points[axis] = [asdict(_point(str(file), axis, v, environment)) for v in values]
    return {"model": config.name, "points": points}


def growth(found: dict[str, Any]) -> Growth:
    """What was kept, as ``dabdetr bench`` draws it."""
    points = {
        axis: tuple(Point(**each) for each in values) for axis, values in found["points"].items()
    }
    return Growth(points, 0.0, {})


def _point(model: str, axis: str, value: int, environment: dict[str, str]) -> Point:
    with Process(environment) as process:
        try:
            asked = {"model": model, "axis": axis, "value": value, "device": "cpu"}
            seconds = process.ask("grow", rounds=ROUNDS, **asked)
            return Point(value, seconds, process.ask("memory"))
        except Failed as error:
            return Point(value, problem=str(error))
