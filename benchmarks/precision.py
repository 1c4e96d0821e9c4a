"""What bf16 costs in AP, on the shipped models and images they were not trained on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from dabdetr.data.layouts import open_data
from dabdetr.evaluation.evaluate import evaluate

DATA = Path(os.environ.get("DABDETR_DATA", Path(__file__).parents[2] / "shared" / "data"))
PAIRS = (("scenes", "scenes"), ("blood-cells", str(DATA / "bccd")))
"""Shipped models and their data; what is not there is left out."""


def found(threads: int = 2, smoke: bool = False) -> list[dict[str, Any]]:
    """AP of each model in both precisions on its test split."""
    torch.set_num_threads(threads)
    rows = []
    for model, where in PAIRS[:1] if smoke else PAIRS:
        if where != "scenes" and not Path(where).exists():
            continue
        data = open_data("scenes:objects=3" if smoke else where, "val" if smoke else "test")
        scores = {name: evaluate(model, data, precision=name).ap for name in ("fp32", "bf16")}
        rows.append({"model": model, "data": data.name, "images": len(data), **scores})
    return rows
