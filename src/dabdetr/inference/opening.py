"""Opening of models of any kind; torch is imported only for weights and ``Detector``s."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from dabdetr.checkpoints.locate import locate
from dabdetr.inference.exported import ENGINES, Exported, graph_in
from dabdetr.inference.runtime import Opening, Runtime, SetPrecision

if TYPE_CHECKING:
    import torch

    from dabdetr.inference.torch_runtime import TorchRuntime
    from dabdetr.model.detector import Detector

_UNCHANGED = {"precision": "fp32", "queries_init": "keep", "compile": False}
"""Values of options that change nothing; for the other options it is None."""


def open_model(source: str | Path | Detector | Runtime, **options: Unpack[Opening]) -> Runtime:
    """The runtime of weights, a ``Detector``, or an exported file.

    Weights are a file, a run folder, or a shipped or hub name; an exported file is .onnx, .pt2, or
    OpenVINO's .xml or folder. A ``Runtime``, or that of a ``Predictor``, is returned unchanged.
    ``options`` are described at ``Opening`` and ``ModelChanges``; ValueError where the model cannot
    be changed any more: for an exported file only the device can be chosen.
    """
    opened = getattr(source, "runtime", source)
    if isinstance(opened, Runtime):
        _refuse_changes("the model is open already", "give its weights", options)
        return opened
    if isinstance(source, str | Path) and is_exported(source):
        _refuse_changes(f"{source} is exported", "export the weights again", options)
        return Exported(source, str(options.get("device", "auto")))
    if source is None or isinstance(source, bool | int | float | list | dict):
        kind = type(source).__name__
        raise ValueError(
            f"a model should be the path or name of weights, or a Detector; got {kind}"
        )
    if isinstance(source, str | Path):
        locate(source)  # a wrong name raises before torch is imported
    return _open_torch(source, **options)  # pyright: ignore[reportArgumentType]


def is_exported(source: str | Path) -> bool:
    """Whether a path is an exported model: a file by its ending, or a folder with a graph."""
    path = Path(source)
    return graph_in(path) is not None if path.is_dir() else path.suffix in ENGINES


def torch_runtime(
    source: str | Path | Detector | Runtime | Any, **options: Unpack[Opening]
) -> TorchRuntime:
    """``open_model`` for callers that need the ``Detector``; ValueError for exported files."""
    runtime = open_model(source, **options)
    if isinstance(runtime, Exported):
        raise ValueError(
            "an exported file gives its last layer only; give the weights that it was made of"
        )
    return runtime  # pyright: ignore[reportReturnType]


def _open_torch(
    source: str | Path | Detector,
    *,
    device: str | torch.device = "auto",
    precision: SetPrecision = "fp32",
    queries: int | None = None,
    queries_init: str = "keep",
    layers: int | None = None,
    image_size: int | None = None,
    compile: bool = False,
) -> TorchRuntime:
    """The runtime of weights or of a ``Detector``, changed as the options say (see ``Opening``)."""
    from dabdetr.checkpoints.native import load_model
    from dabdetr.checkpoints.resize import with_image_size, with_layers, with_queries
    from dabdetr.data.layouts import anchors
    from dabdetr.inference.acceleration import check_settings
    from dabdetr.inference.device import choose_device
    from dabdetr.inference.torch_runtime import TorchRuntime

    check_settings(precision, compile)  # before any loading
    if isinstance(source, str | Path):
        device = choose_device(device)
        detector = load_model(source, device=device).model
    else:
        detector = source
    if image_size is not None:
        detector = with_image_size(detector, image_size)
    detector = with_layers(with_queries(detector, queries, anchors(queries_init)), layers)
    return TorchRuntime(detector, device, precision, compile)


def _refuse_changes(reason: str, remedy: str, options: Opening) -> None:
    changes = [
        name
        for name, value in options.items()
        if name != "device" and value != _UNCHANGED.get(name)
    ]
    if changes:
        raise ValueError(f"{reason}: its {', '.join(changes)} cannot be changed; {remedy} instead")
