"""Import of OpenVINO's packages without telemetry, and OpenVINO's option for the precision."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

_REPORTER = "openvino_telemetry"


def import_unreported(package: str) -> Any:
    """Import ``openvino`` or ``nncf`` without telemetry; ImportError where it is missing.

    Both report every import over the network, from a forked process, if they find the package
    ``openvino_telemetry``. It is hidden during the import.
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
    """OpenVINO's option for a precision; without it OpenVINO computes in bf16 where it can.

    The parts of an int8 model that are not in int8 are in bf16: it is for processors with both.
    """
    return {"INFERENCE_PRECISION_HINT": "bf16" if precision in ("bf16", "int8") else "f32"}
