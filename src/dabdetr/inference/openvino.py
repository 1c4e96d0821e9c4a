"""What is particular to OpenVINO's packages: how they are imported, and the precision they take."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

_REPORTER = "openvino_telemetry"


def import_unreported(package: str) -> Any:
    """Import ``openvino`` or ``nncf`` without sending word of it; ImportError where it is missing.

    Both report each import to their makers, from a forked process, if they find the package
    ``openvino_telemetry``. It is out of reach for the time of the import only.
    """
    before = sys.modules.get(_REPORTER)
    sys.modules[_REPORTER] = None  # pyright: ignore[reportArgumentType]: import then fails
    try:
        return import_module(package)
    finally:
        del sys.modules[_REPORTER]
        if before is not None:
            sys.modules[_REPORTER] = before


def precision_hint(precision: str) -> dict[str, str]:
    """OpenVINO's option for a precision of ours; alone it computes in bf16 wherever it can.

    What is not in int8 is in bf16 there: both are for processors that have both.
    """
    return {"INFERENCE_PRECISION_HINT": "bf16" if precision in ("bf16", "int8") else "f32"}
