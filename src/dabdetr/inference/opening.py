"""The one way to open a model of any kind; torch is imported only for what needs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from dabdetr.checkpoints.locate import locate
from dabdetr.inference.exported import Exported, is_exported
from dabdetr.inference.runtime import Opening, Runtime

if TYPE_CHECKING:
    from dabdetr.inference.torch_runtime import TorchRuntime
    from dabdetr.model.detector import Detector

_UNCHANGED = {"precision": "fp32", "queries_init": "keep", "compile": False}
"""Options that change nothing at these values, as the others do at None."""


def open_model(source: str | Path | Detector | Runtime, **options: Unpack[Opening]) -> Runtime:
    """The runtime of weights (file, run folder, shipped or hub name), a ``Detector``, or an
    exported file (.onnx, .pt2, OpenVINO's .xml or folder).

    A ``Runtime``, or the one behind a ``Predictor``, comes back as it is. ``options`` are described
    at ``Opening`` and ``ModelChanges``; ValueError where the model cannot be changed any more: of
    an exported file only the device can be chosen.
    """
    opened = getattr(source, "runtime", source)
    if isinstance(opened, Runtime):
        _refuse_changes("the model is open already", "give its weights", options)
        return opened
    if isinstance(source, str | Path) and is_exported(source):
        _refuse_changes(f"{source} is exported", "export the weights again", options)
        return Exported(source, str(options.get("device", "auto")))
    if isinstance(source, str | Path):
        locate(source)  # a wrong name is answered before torch is imported
    from dabdetr.inference.torch_runtime import open_torch

    return open_torch(source, **options)  # pyright: ignore[reportArgumentType]


def torch_runtime(
    source: str | Path | Detector | Runtime | Any, **options: Unpack[Opening]
) -> TorchRuntime:
    """As ``open_model``, for what needs the ``Detector`` itself; ValueError for exported files."""
    runtime = open_model(source, **options)
    if isinstance(runtime, Exported):
        raise ValueError(
            "an exported file gives its last layer only; give the weights that it was made of"
        )
    return runtime  # pyright: ignore[reportReturnType]


def _refuse_changes(reason: str, remedy: str, options: Opening) -> None:
    changes = [
        name
        for name, value in options.items()
        if name != "device" and value != _UNCHANGED.get(name)
    ]
    if changes:
        raise ValueError(f"{reason}: its {', '.join(changes)} cannot be changed; {remedy} instead")
