"""Running of exported files in ONNX Runtime, OpenVINO or torch, which is imported only for .pt2."""

from __future__ import annotations

import copy
import inspect
import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dabdetr.config import Config
from dabdetr.data.preprocessing import fitted_size, input_size, padded, prepare_array
from dabdetr.files import open_regular
from dabdetr.inference.metadata import Metadata
from dabdetr.inference.onnx_file import not_numbers, read_whole
from dabdetr.inference.openvino import import_unreported, precision_hint
from dabdetr.inference.outputs import ANSWERS, POSTS, QUESTIONS, fits_questions
from dabdetr.inference.postprocess import Ranked, named, refuse_nonfinite
from dabdetr.inference.questions import refuse_unable
from dabdetr.inference.runtime import Outputs, Sizes
from dabdetr.measure import processors
from dabdetr.packages import lacking
from dabdetr.structures import Detections
from dabdetr.text import counted, exhausted, parse_json, reason

MOST_AT_ONCE = 4
"""Most calls of ``detect`` at a time; each needs memory for its feature maps."""


def threads(calls: int = 1) -> int:
    """Number of threads for each of so many calls at a time; 0: the library decides.

    All calls share those of OMP_NUM_THREADS, as for torch, or the processors.
    """
    value = os.environ.get("OMP_NUM_THREADS", "")
    given = int(value) if value.isdecimal() else 0
    return given if calls == 1 else max(1, (given or processors()) // calls)


def calls_at_once() -> int:
    """Calls of ``detect`` that share the processors when a stream is run: 1 to ``MOST_AT_ONCE``."""
    return min(MOST_AT_ONCE, threads() or processors())


def graph_in(folder: Path) -> Path | None:
    """The graph in an exported folder (one of ``IN_FOLDERS``); None where there is none."""
    if (folder / "model.safetensors").exists():  # a folder of weights, which may also have a graph
        return None
    return next((folder / name for name in IN_FOLDERS if (folder / name).is_file()), None)


class Exported:
    """The runtime of an exported file: pre- and postprocessing in numpy, the graph in its engine.

    ``metadata`` are those in the file.
    """

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        file: Path | None = Path(path)
        if file.is_dir():
            file = graph_in(file)
        if file is None or file.suffix not in ENGINES or not file.is_file():
            raise FileNotFoundError(f"there is no exported model {path}; check the path")
        self.path, self.device = str(file), device
        self._engine = ENGINES[file.suffix](file, device)
        self.metadata = Metadata.from_strings(self._engine.strings, str(file))
        self._engine.start(self.metadata)
        self._streaming: Exported | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path only; the file is opened again in the other process."""
        return Exported, (os.path.abspath(self.path), self.device)

    def over(self, engine: Callable[..., Sequence[np.ndarray]]) -> Exported:
        """A copy with another engine, or with any function from the graph's inputs to outputs."""
        other = object.__new__(Exported)  # copy.copy would open the file again
        other.__dict__.update(self.__dict__, _engine=engine)
        return other

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, in label order."""
        return self.metadata.names

    @property
    def config(self) -> Config:
        """The config that the model was built and trained with."""
        return self.metadata.config

    @property
    def workers(self) -> int:
        """Threads that make a stream faster (see ``Runtime``)."""
        return self._engine.workers

    def for_streams(self) -> Exported:
        """The file loaded for several calls at a time, each with its share of the threads."""
        if self._streaming is None:
            self._streaming = self.over(self._engine.for_streams())
        return self._streaming

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """[3, height, width] float32; where the input's size is fixed, the largest that fits."""
        return prepare_for(self.metadata, image)

    def detect(
        self,
        prepared: Sequence[np.ndarray],
        sizes: Sizes,
        max_det: int,
        sources: Sequence[str] = (),
    ) -> list[Detections]:
        """The ``max_det`` best detections of each prepared image."""
        outputs = self.predict(*padded(prepared, self.metadata.size), sizes)
        refuse_nonfinite(outputs, sources)
        return named(self.rank(outputs, sizes, max_det), self.names, sizes, sources)

    def rank(self, outputs: Sequence[np.ndarray], sizes: Sizes, max_det: int) -> list[Ranked]:
        """The ``max_det`` best detections in ``outputs`` of ``predict`` for images of ``sizes``."""
        post = POSTS[self.metadata.post]
        return post.read(self.metadata, outputs[: len(post.outputs)], sizes, max_det)

    def check_questions(self) -> None:
        """ValueError where the model cannot be asked, or the graph has no input for questions."""
        refuse_unable(self.config)
        if not self.metadata.questions:
            raise ValueError(
                f"{self.path} takes no questions about boxes; export its weights again with "
                "--with-questions"
            )

    def answer(
        self, prepared: Sequence[np.ndarray], boxes: np.ndarray, labels: np.ndarray
    ) -> Outputs:
        """Outputs for images of one size with questions."""
        self.check_questions()
        pixels, padding = padded(prepared, self.metadata.size)
        no_sizes = [(0, 0)] * len(prepared)
        logits, matching, answers, layers = self.predict(pixels, padding, no_sizes, (boxes, labels))
        return Outputs(logits, matching, answers, layers.swapaxes(0, 1))

    def predict(
        self,
        pixels: np.ndarray,
        padding: np.ndarray,
        sizes: Sizes,
        asked: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> tuple[np.ndarray, ...]:
        """The graph's outputs for a batch of images; ``sizes`` are their original (height, width).

        ``asked`` are boxes and labels of questions (see ``as_inputs``). A graph without the input
        ``padding`` is run on images of several sizes one by one.
        """
        given = as_inputs(self.metadata, pixels, padding, sizes, asked)
        if self.metadata.padding or not padding.any():
            return self._run(given)
        rows = []
        for n, mask in enumerate(padding):
            height, width = (~mask).any(1).sum(), (~mask).any(0).sum()
            row = {name: each[n : n + 1] for name, each in given.items()}
            name = self.metadata.inputs["pixels"]
            rows.append(self._run(row | {name: row[name][:, :, :height, :width]}))
        return tuple(np.concatenate(parts) for parts in zip(*rows, strict=True))

    def _run(self, given: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        pixels = next(iter(given.values()))
        try:
            outputs = self._engine(*given.values())
        except Exception as error:  # of many kinds: a graph that is wrong, or for other inputs
            if full := exhausted(error):
                raise full from None
            raise ValueError(
                f"{self.path} cannot compute an input of {list(pixels.shape)} ({reason(error)}); "
                "export it again"
            ) from None
        shapes = [each.shape for each in outputs]
        names = self.metadata.outputs
        images, fits = len(given[self.metadata.inputs["pixels"]]), len(shapes) == len(names)
        if fits and self.metadata.questions:
            asked = given[self.metadata.inputs["questions"]].shape[1]
            fits = fits_questions(self.metadata, (images, asked), shapes[-len(ANSWERS) :])
            shapes = shapes[: -len(ANSWERS)]
        if not (fits and POSTS[self.metadata.post].fits(self.metadata, images, shapes)):
            found = " and ".join(str(list(each.shape)) for each in outputs)
            raise ValueError(
                f"{self.path} gives {found} for {', '.join(names)} of "
                f"{counted(len(pixels), 'image')} and {counted(len(self.names), 'class name')}; "
                "its metadata are of another model: export it again"
            )
        return tuple(outputs)


def as_inputs(
    metadata: Metadata,
    pixels: np.ndarray,
    padding: np.ndarray,
    sizes: Sizes | None = None,
    asked: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """The inputs of a graph with these ``metadata``, by name and in its order.

    ``sizes`` are (height, width) of the original images; without them boxes are in pixels of the
    prepared images. ``asked`` are boxes [b, n, 4] (cxcywh, 0–1) and labels [b, n] of questions.
    """
    count = len(pixels)
    boxes, labels = (np.zeros((count, 0, 4)), np.zeros((count, 0))) if asked is None else asked
    measured = np.zeros((count, 2)) if sizes is None else np.array(sizes)
    given = {
        "pixels": pixels,
        "padding": padding,
        "sizes": measured.astype(np.int64),
        "questions": boxes.astype(np.float32),
        "question_labels": labels.astype(np.int64),
    }
    return {name: given[key] for key, name in metadata.inputs.items()}


def prepare_for(metadata: Metadata, image: np.ndarray) -> np.ndarray:
    """``Exported.prepare`` for a file with these ``metadata``."""
    height, width = image.shape[:2]
    settings = metadata.config.image
    if metadata.size is None:
        size = input_size(height, width, settings)
    elif metadata.padding:
        size = fitted_size(height, width, metadata.size)
    else:  # stretched, as this graph has no input for padding
        size = metadata.size
    return prepare_array(image, size, settings)


class Engine(Protocol):
    """A file loaded by the library that runs it.

    ``strings`` are the file's metadata; ``start`` is called with the parsed ones before the first
    call. ``workers`` and ``for_streams`` are those of ``Runtime``.
    """

    def __init__(self, path: Path, device: str) -> None: ...

    @property
    def strings(self) -> Mapping[str, str]: ...

    @property
    def workers(self) -> int: ...

    def for_streams(self) -> Engine: ...

    def start(self, metadata: Metadata) -> None: ...

    def __call__(self, *inputs: np.ndarray) -> Sequence[np.ndarray]:
        """The outputs for the inputs, both in the order of the metadata."""
        ...


class _Onnx:
    """A session of ONNX Runtime; on CUDA for the device "cuda", and for "auto" if available.

    ``workers`` calls share the threads.
    """

    def __init__(self, path: Path, device: str, workers: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise lacking(str(path), "onnxruntime") from None
        cuda, available = "CUDAExecutionProvider", onnxruntime.get_available_providers()
        if device not in ("auto", "cpu", "cuda") or (device == "cuda" and cuda not in available):
            raise ValueError(f"ONNX Runtime has no device {device!r} here; use auto or cpu")
        self.path, self.device, self.workers = path, device, workers
        self.on_cpu = device == "cpu" or cuda not in available
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads(workers)
        options.log_severity_level = 3  # errors only
        providers = [] if self.on_cpu else [cuda]
        self.version = _version(path)
        content = read_whole(path)
        try:
            self.session = onnxruntime.InferenceSession(
                content,
                options,
                [*providers, "CPUExecutionProvider"],
                enable_fallback=int(not self.on_cpu),  # a retry would be printed to stdout
            )
        except Exception as error:  # each kind of failure has its own class
            if full := exhausted(error):
                raise full from None
            raise ValueError(
                f"{path} cannot be loaded by ONNX Runtime ({reason(error)}); export it again"
            ) from None
        self.strings = self.session.get_modelmeta().custom_metadata_map

    def for_streams(self) -> _Onnx:
        """A further session; this one where the file has changed since, and on CUDA."""
        workers = calls_at_once() if self.on_cpu else 1
        if workers == 1 or _version(self.path) != self.version:
            return self
        other = _Onnx(self.path, self.device, workers)
        other.inputs, other.outputs = self.inputs, self.outputs
        return other

    def start(self, metadata: Metadata) -> None:
        """Set the names of inputs and outputs."""
        self.inputs, self.outputs = tuple(metadata.inputs.values()), tuple(metadata.outputs)

    def __call__(self, *inputs: np.ndarray) -> Sequence[np.ndarray]:
        return self.session.run(self.outputs, dict(zip(self.inputs, inputs, strict=True)))  # pyright: ignore[reportReturnType]


def _version(path: Path) -> tuple[int, ...]:
    """Numbers that change with the file; none where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


class _OpenVino:
    """A compiled model of OpenVINO on the CPU, in the precision of its metadata."""

    workers = 1

    def __init__(self, path: Path, device: str) -> None:
        try:
            openvino = import_unreported("openvino")
        except ImportError:
            raise lacking(str(path), "openvino") from None
        if device not in ("auto", "cpu"):
            raise ValueError(f"exports for OpenVINO run on the CPU; got device {device!r}")
        with open_regular(path) as file:
            if not re.match(rb"\s*(<\?xml[^>]*>\s*)?<net\s[^>]*version=", file.read(1000)):
                raise ValueError(
                    f"{path} is not a model of OpenVINO, which is XML; export it again"
                )
        self.core = openvino.Core()
        try:
            self.model = self.core.read_model(path)
        except Exception as error:
            if full := exhausted(error):
                raise full from None
            raise ValueError(
                f"{path} cannot be loaded by OpenVINO ({reason(error)}); export it again"
            ) from None
        for each in self.model.get_ops():
            if each.get_type_name() != "Constant":
                continue
            floats = each.get_element_type().get_type_name() in ("f16", "f32", "f64")
            if floats and np.isnan(each.data).any():
                raise ValueError(not_numbers(path, each.get_friendly_name()))
        key = ["dabdetr", "card"]
        text = self.model.get_rt_info(key).astype(str) if self.model.has_rt_info(key) else "{}"
        self.strings = parse_json(text, f"metadata of {path}")

    def start(self, metadata: Metadata) -> None:
        """Set the options, inputs and outputs to compile for."""
        self.options = precision_hint(metadata.precision)
        if threads():
            self.options["INFERENCE_NUM_THREADS"] = str(threads())
        self.inputs, self.outputs = tuple(metadata.inputs.values()), tuple(metadata.outputs)
        self.size, self.free = metadata.size, set(QUESTIONS.values())
        self._forget()

    def _forget(self) -> None:
        """Begin without compiled code and requests."""
        self.compiled: dict[tuple[int, ...] | None, Any] = {}
        self.idle: dict[tuple[int, ...] | None, list[Any]] = defaultdict(list)
        self.lock = threading.Lock()

    def for_streams(self) -> _OpenVino:
        """The same model, compiled for several calls at a time."""
        other = copy.copy(self)
        other.workers = calls_at_once()
        other.options = {**self.options, "NUM_STREAMS": str(other.workers)}
        other._forget()
        return other if other.workers > 1 else self

    @contextmanager
    def _request(self, shapes: Sequence[tuple[int, ...]]) -> Iterator[Any]:
        """An inference request that no other thread uses; the default one is shared by all."""
        key = shapes[0] if self.size is not None and shapes[0][0] == 1 else None
        with self.lock:
            idle, compiled = self.idle[key], self._compiled_for(key, shapes)
            request = idle.pop() if idle else compiled.create_infer_request()
        try:
            yield request
        finally:
            idle.append(request)

    def _compiled_for(self, key: tuple[int, ...] | None, shapes: Sequence[tuple[int, ...]]) -> Any:
        """The model compiled for one image of the fixed size (5 to 15 % faster), or for any."""
        if key not in self.compiled:
            model = self.model
            if key is not None:
                model = model.clone()
                fixed = dict(zip(self.inputs, map(list, shapes), strict=True))
                for name in self.free.intersection(fixed):
                    fixed[name][1] = -1
                model.reshape(fixed)
            self.compiled[key] = self.core.compile_model(model, "CPU", self.options)
        return self.compiled[key]

    def __call__(self, *inputs: np.ndarray) -> Sequence[np.ndarray]:
        with self._request([each.shape for each in inputs]) as request:
            answer = request.infer(dict(zip(self.inputs, inputs, strict=True)))
        return [answer[name] for name in self.outputs]


class _Program:
    """A program of torch.export, loaded by ``dabdetr.inference.program`` and not by torch."""

    def __init__(self, path: Path, device: str) -> None:
        from dabdetr.inference.program import Program

        if device not in ("auto", "cpu"):
            raise ValueError(f"exported programs of torch run on the CPU; got device {device!r}")
        self.program = Program(path)
        text = self.program.texts.get("card.json", "{}")
        self.strings = parse_json(text, f"metadata of {path}")

    @property
    def workers(self) -> int:
        """0 where torch takes every core, else 1."""
        from dabdetr.inference.device import takes_every_core

        return 0 if takes_every_core("cpu") else 1

    def for_streams(self) -> _Program:
        """This program itself."""
        return self

    def start(self, metadata: Metadata) -> None:
        """Does nothing: a program needs no metadata."""

    def __call__(self, *inputs: np.ndarray) -> Sequence[np.ndarray]:
        import torch

        return [each.numpy() for each in self.program(*map(torch.from_numpy, inputs))]


def runnable(program: Any) -> Any:
    """The module of an exported program of torch, for any batch and size.

    The guards that newer versions of torch derive from the example's batch and strides are left
    out: they reject a single image.
    """
    guarded = "check_guards" in inspect.signature(program.module).parameters
    return program.module(check_guards=False) if guarded else program.module()


ENGINES: dict[str, type[Engine]] = {".onnx": _Onnx, ".xml": _OpenVino, ".pt2": _Program}
"""Ending of a file → its engine."""

IN_FOLDERS = ("model.xml", "onnx/model.onnx", "1/model.onnx")
"""Places of the graph in exported folders of OpenVINO, transformers.js and Triton."""
