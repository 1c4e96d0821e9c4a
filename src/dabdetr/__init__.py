"""dabdetr: the DETR family of object detectors around DAB-DETR.

Two levels: ``Predictor``, ``train``, ``evaluate`` for users; ``build``, ``Config``, ``PRESETS`` and
the parts in ``dabdetr.model`` for researchers. Names are imported when first used.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dabdetr.text import PrintableFilter

if TYPE_CHECKING:
    from dabdetr.checkpoints.native import load_model as load_model
    from dabdetr.checkpoints.native import save_model as save_model
    from dabdetr.config import Config as Config
    from dabdetr.evaluation.evaluate import evaluate as evaluate
    from dabdetr.model.detector import build as build
    from dabdetr.predictor import Predictor as Predictor
    from dabdetr.presets import PRESETS as PRESETS
    from dabdetr.structures import Detections as Detections
    from dabdetr.training.train import train as train

__version__ = "0.1.0"

logging.getLogger("dabdetr").addFilter(PrintableFilter())

_MODULES = {
    "Config": "dabdetr.config",
    "Detections": "dabdetr.structures",
    "PRESETS": "dabdetr.presets",
    "Predictor": "dabdetr.predictor",
    "build": "dabdetr.model.detector",
    "evaluate": "dabdetr.evaluation.evaluate",
    "load_model": "dabdetr.checkpoints.native",
    "save_model": "dabdetr.checkpoints.native",
    "train": "dabdetr.training.train",
}

__all__ = [
    "PRESETS",
    "Config",
    "Detections",
    "Predictor",
    "__version__",
    "build",
    "evaluate",
    "load_model",
    "save_model",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'dabdetr' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
