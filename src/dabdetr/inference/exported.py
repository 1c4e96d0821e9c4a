"""Exported files at work, in ONNX Runtime, OpenVINO or torch; torch is imported for .pt2 alone."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from dabdetr.config import Config
from dabdetr.data.preprocessing import fitted_size, input_size, padded, prepare_array
from dabdetr.files import open_regular
from dabdetr.inference.metadata import Metadata
from dabdetr.inference.onnx_file import read_whole
from dabdetr.inference.openvino import import_unreported, precision_hint
from dabdetr.inference.postprocess import detections
from dabdetr.inference.runtime import Sizes, threads
from dabdetr.structures import Detections
from dabdetr.text import parse_json, reason, refuse_exhausted


def is_exported(source: str | Path) -> bool:
    """Whether a path means an exported model: a file by its ending, or a folder by its model."""
    return _file_of(Path(source)) is not None


def _file_of(path: Path) -> Path | None:
    """The file that an engine reads; that of an exported folder is called ``model``."""
    if path.is_dir():
        files = (path / f"model{suffix}" for suffix, engine in ENGINES.items() if engine.in_folder)
        return next((file for file in files if file.is_file()), None)
    return path if path.suffix in ENGINES else None


class Exported:
    """An exported file: Pillow and numpy before and after, its own runtime between.

    ``metadata`` is what the file holds beside the graph.
    """

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        file = _file_of(Path(path))
        if file is None or not file.is_file():
            raise FileNotFoundError(f"there is no exported model {path}; check the path")
        self.path, self.device = str(file), device
        self._engine = ENGINES[file.suffix](file, device)
        self.metadata = Metadata.from_strings(self._engine.strings, str(file))
        self._engine.start(self.metadata)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, it is its file, which is opened again: for process pools."""
        return Exported, (os.path.abspath(self.path), self.device)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, in label order."""
        return self.metadata.names

    @property
    def config(self) -> Config:
        """What the model was built and trained with."""
        return self.metadata.config

    @property
    def prefetches(self) -> bool:
        """Whether a stream is faster with its images read in a thread beside ``detect``."""
        return self._engine.prefetches

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """[3, height, width] float32; as large as it fits in where the input's size is fixed."""
        return prepare_for(self.metadata, image)

    def detect(
        self,
        prepared: Sequence[np.ndarray],
        sizes: Sizes,
        max_det: int,
        sources: Sequence[str] = (),
    ) -> list[Detections]:
        """The ``max_det`` best detections of each prepared image."""
        logits, boxes = self.predict(*padded(prepared, self.metadata.size))
        return detections(
            logits,
            boxes,
            [(int(size[0]), int(size[1])) for size in sizes],
            max_det,
            names=self.names,
            classifier=self.metadata.classifier,
            sources=sources,
            calibration=self.config.inference.calibration,
        )

    def answer(self, prepared: Sequence[np.ndarray], boxes: np.ndarray, labels: np.ndarray) -> Any:
        """ValueError: the graph has no inputs for questions."""
        raise ValueError(f"{self.path} cannot be asked about boxes; ask the weights it was made of")

    def predict(self, pixels: np.ndarray, padding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits [b, queries, classes] and boxes [b, queries, 4] of a batch."""
        try:
            logits, boxes = self._engine(pixels, padding)
        except MemoryError:
            raise
        except Exception as error:  # of many kinds: the graph does not fit the input, or itself
            refuse_exhausted(error)
            raise ValueError(
                f"{self.path} cannot compute an input of {list(pixels.shape)} ({reason(error)}); "
                "export it again"
            ) from None
        self._check(logits.shape, boxes.shape, len(pixels))
        return logits, boxes

    def _check(self, logits: tuple[int, ...], boxes: tuple[int, ...], images: int) -> None:
        """ValueError where what the graph gives is not of its metadata's classes."""
        classes = len(self.names) + (self.metadata.classifier == "softmax")
        if len(logits) != 3 or logits[0] != images or boxes != (*logits[:2], 4):
            raise ValueError(
                f"{self.path} gives logits {list(logits)} and boxes {list(boxes)} for {images} "
                "images; export it again"
            )
        if logits[2] != classes:
            raise ValueError(
                f"{self.path} gives {logits[2]} logits for {classes} class names; its metadata are "
                "of another model: export it again"
            )


def prepare_for(metadata: Metadata, image: np.ndarray) -> np.ndarray:
    """``Exported.prepare`` for a file with these ``metadata``."""
    height, width = image.shape[:2]
    settings = metadata.config.image
    if metadata.size is None:
        return prepare_array(image, input_size(height, width, settings), settings)
    return prepare_array(image, fitted_size(height, width, metadata.size), settings)


class Engine(Protocol):
    """A runtime with one file loaded.

    ``strings`` are the file's metadata; ``start`` is given them, read, before the first call.
    ``prefetches`` is as in ``Runtime``; ``in_folder``: exports are folders of several files.
    """

    in_folder: ClassVar[bool]

    def __init__(self, path: Path, device: str) -> None: ...

    @property
    def strings(self) -> Mapping[str, str]: ...

    @property
    def prefetches(self) -> bool: ...

    def start(self, metadata: Metadata) -> None: ...

    def __call__(self, pixels: np.ndarray, padding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[b, 3, h, w] float32 and [b, h, w] bool → logits and boxes."""
        ...


def _missing(package: str, path: Path) -> ImportError:
    return ImportError(
        f"{path} needs the package {package}; type: pip install {package}, or all that exports "
        "need: pip install 'dabdetr[export]'"
    )


class _Onnx:
    """A session of ONNX Runtime; on CUDA where that is asked for, or there and not refused."""

    in_folder: ClassVar = False
    prefetches = True

    def __init__(self, path: Path, device: str) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise _missing("onnxruntime", path) from None
        cuda, there = "CUDAExecutionProvider", onnxruntime.get_available_providers()
        if device not in ("auto", "cpu", "cuda") or (device == "cuda" and cuda not in there):
            raise ValueError(f"ONNX Runtime has no device {device!r} here; use auto or cpu")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads()
        options.log_severity_level = 3  # errors only
        providers = [cuda] if cuda in there and device != "cpu" else []
        content = read_whole(path)
        try:
            self.session = onnxruntime.InferenceSession(
                content, options, [*providers, "CPUExecutionProvider"]
            )
        except Exception as error:  # of a class of its own for every kind of failure
            raise ValueError(
                f"{path} cannot be loaded by ONNX Runtime ({reason(error)}); export it again"
            ) from None
        self.strings = self.session.get_modelmeta().custom_metadata_map

    def start(self, metadata: Metadata) -> None:
        """Nothing is left to do."""

    def __call__(self, pixels: np.ndarray, padding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.session.run(["logits", "boxes"], {"pixels": pixels, "padding": padding})  # pyright: ignore[reportReturnType]


class _OpenVino:
    """A compiled model of OpenVINO on the CPU, in the precision of its metadata."""

    in_folder: ClassVar = True
    prefetches = True

    def __init__(self, path: Path, device: str) -> None:
        try:
            openvino = import_unreported("openvino")
        except ImportError:
            raise _missing("openvino", path) from None
        if device not in ("auto", "cpu"):
            raise ValueError(f"exports for OpenVINO run on the CPU; got device {device!r}")
        with open_regular(path) as file:
            if not file.read(64).lstrip().startswith(b"<"):
                raise ValueError(f"{path} is no model of OpenVINO, which is XML; export it again")
        self.core = openvino.Core()
        try:
            self.model = self.core.read_model(path)
        except Exception as error:
            raise ValueError(
                f"{path} cannot be loaded by OpenVINO ({reason(error)}); export it again"
            ) from None
        about = ["dabdetr", "card"]
        has = self.model.has_rt_info(about)
        text = self.model.get_rt_info(about).astype(str) if has else "{}"
        self.strings = parse_json(text, f"metadata of {path}")

    def start(self, metadata: Metadata) -> None:
        """Note what to compile for."""
        self.options = precision_hint(metadata.precision)
        if threads():
            self.options["INFERENCE_NUM_THREADS"] = str(threads())
        self.size = metadata.size
        self.compiled: dict[tuple[int, ...] | None, Any] = {}

    def _for(self, shape: tuple[int, ...]) -> Any:
        """The model compiled for one image of the fixed size (5 to 15 % faster), or for any."""
        key = shape if self.size is not None and shape[0] == 1 else None
        if key not in self.compiled:
            model = self.model
            if key is not None:
                model = model.clone()
                model.reshape({"pixels": list(key), "padding": [key[0], *key[2:]]})
            self.compiled[key] = self.core.compile_model(model, "CPU", self.options)
        return self.compiled[key]

    def __call__(self, pixels: np.ndarray, padding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        answer = self._for(pixels.shape)({"pixels": pixels, "padding": padding})
        return answer["logits"], answer["boxes"]


class _Program:
    """A program of torch.export; torch is imported for it, but not to load it."""

    in_folder: ClassVar = False

    def __init__(self, path: Path, device: str) -> None:
        from dabdetr.inference.program import Program

        if device not in ("auto", "cpu"):
            raise ValueError(f"exported programs of torch run on the CPU; got device {device!r}")
        self.program = Program(path)
        text = self.program.texts.get("card.json", "{}")
        self.strings = parse_json(text, f"metadata of {path}")

    @property
    def prefetches(self) -> bool:
        """Not where torch takes every core."""
        from dabdetr.inference.device import takes_every_core

        return not takes_every_core("cpu")

    def start(self, metadata: Metadata) -> None:
        """Nothing is left to do."""

    def __call__(self, pixels: np.ndarray, padding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch

        logits, boxes = self.program(torch.from_numpy(pixels), torch.from_numpy(padding))
        return logits.float().numpy(), boxes.float().numpy()


def runnable(program: Any) -> Any:
    """The module of an exported program of torch, for any batch and size.

    Without the guards that newer versions of torch take from the example's batch and strides: they
    turn away a single image.
    """
    guarded = "check_guards" in inspect.signature(program.module).parameters
    return program.module(check_guards=False) if guarded else program.module()


ENGINES: dict[str, type[Engine]] = {".onnx": _Onnx, ".xml": _OpenVino, ".pt2": _Program}
"""Ending of a file → what runs it."""
