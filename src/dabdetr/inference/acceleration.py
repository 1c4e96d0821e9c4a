"""Faster forward passes of a detector: lower precision, folded norms, compiled code.

Choices are made by measuring and logged in one sentence.
"""

from __future__ import annotations

import copy
import logging
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame

from dabdetr.inference.device import keep_freed_memory
from dabdetr.inference.runtime import Precision, SetPrecision
from dabdetr.kernels import Conv2d, Linear
from dabdetr.measure import seconds
from dabdetr.model.detector import Detector
from dabdetr.model.frozen_norm import FoldedConv2d
from dabdetr.structures import Images, Predictions, Questions
from dabdetr.text import reason

NUMBER_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_ENOUGH = 1.15
"""Speed of a lower precision relative to float32 from which it is chosen."""
MOST_SIZES = 8
"""Most input sizes to compile for; torch keeps no more."""

log = logging.getLogger("dabdetr")
_chosen: dict[tuple[str, str], tuple[Precision, str]] = {}
"""(model config, device) → chosen precision and the sentence about it."""
Forward = Callable[[Images], Predictions]


class AcceleratedModel:
    """Calls a detector in evaluation mode in a given precision, compiled if ``compile``.

    In fp32 without compilation the detector itself is called, so that later changes of its weights
    count. Otherwise a copy with its present weights is called. ``precision`` "auto" is decided on
    the first images.
    """

    def __init__(
        self, model: Detector, precision: SetPrecision = "fp32", compile: bool = False
    ) -> None:
        check_settings(precision, compile)
        self.model = model
        self.compile = compile
        self.precision: Precision | None = None
        self._copy: Detector | None = None
        self._compiled: dict[torch.Size, Forward | None] = {}
        if next(model.parameters()).device.type == "cpu":
            keep_freed_memory()
        if precision != "auto":
            self._use(precision)

    def _use(self, precision: Precision) -> None:
        self.precision = precision
        if precision != "fp32" or self.compile:
            self._copy = inference_copy(self.model, precision)

    @property
    def running(self) -> Detector:
        """The detector that is called without compilation: the given one, or its copy."""
        return self.model if self._copy is None else self._copy

    def __call__(self, images: Images, questions: Questions | None = None) -> Predictions:
        """Predictions without gradients; calls with questions are not compiled."""
        if self.precision is None:
            self._use(choose(self.model, images))
        assert self.precision is not None
        if questions is not None:
            with torch.no_grad(), autocast(self.precision, images.pixels.device):
                return self.running(images, questions=questions)
        if self.compile:
            self._compile_for(images)
        with torch.no_grad(), autocast(self.precision, images.pixels.device):
            compiled = self._compiled.get(images.pixels.shape)
            return (self.running if compiled is None else compiled)(images)

    def _compile_for(self, images: Images) -> None:
        """Compile for inputs of this size, once, and keep the compiled code if it is faster."""
        size = images.pixels.shape
        if size in self._compiled or len(self._compiled) == MOST_SIZES:
            return
        assert self.precision is not None
        eager = self._copy = self._copy or inference_copy(self.model, self.precision)
        self._compiled[size] = None
        if (lacking := no_compiler(images.pixels.device)) is not None:
            log.info("not compiled: %s", lacking)
            return
        compiled = torch.compile(eager, dynamic=False)
        started = time.perf_counter()
        with autocast(self.precision, images.pixels.device), _packing(self.precision):
            try:
                _seconds(compiled, images)
            except Exception as error:  # of many kinds; the model runs without compilation
                log.info("not compiled: %s", reason(error))
                return
            took = time.perf_counter() - started
            before, after = seconds_in_turn(eager, compiled, images)
        if after < before:
            self._compiled[size] = compiled
        log.info(
            "%s for %d×%d pixels in %.0f s: %.0f ms a batch, %.0f ms without",
            "compiled" if after < before else "compiled and given up",
            size[3],
            size[2],
            took,
            1e3 * after,
            1e3 * before,
        )


def check_settings(precision: SetPrecision, compile: bool) -> None:
    """ValueError for an unknown precision, or where ``compile`` is not a bool."""
    if precision not in ("auto", "fp32", *NUMBER_TYPES):
        names = ", ".join(("auto", "fp32", *NUMBER_TYPES))
        raise ValueError(f"there is no precision {precision!r}; use {names}")
    if not isinstance(compile, bool):
        raise ValueError(f"compile should be True or False; got {compile!r}")


def inference_copy(model: Detector, precision: Precision = "fp32") -> Detector:
    """A copy for inference only: norms are folded, weights of products are in ``precision``.

    Under ``autocast`` it computes the same as the model, for which autocast converts every weight
    again in every call.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for part in model.modules():
        if isinstance(part, FoldedConv2d):
            part.fold()
        if precision != "fp32" and type(part) in (Linear, Conv2d, FoldedConv2d, Conv2dSame):
            part.to(NUMBER_TYPES[precision])
    return model.requires_grad_(False)


def choose(model: Detector, images: Images) -> Precision:
    """bf16 if it is clearly faster on these images, else fp32; measured once per process."""
    device = images.pixels.device
    key = model.config.model.model_dump_json(), str(device)
    if key not in _chosen:
        fp32, bf16 = seconds_in_turn(model, inference_copy(model, "bf16"), images, "bf16")
        name: Precision = "bf16" if fp32 / bf16 > _ENOUGH else "fp32"
        sentence = f"computing in {name}: a batch takes {1e3 * bf16:.0f} ms in bf16 and "
        _chosen[key] = name, sentence + f"{1e3 * fp32:.0f} ms in fp32"
    log.info(_chosen[key][1])
    return _chosen[key][0]


def seconds_in_turn(
    a: Forward, b: Forward, images: Images, precision: Precision | None = None, rounds: int = 3
) -> tuple[float, float]:
    """Median seconds of ``a`` and ``b``, called in turn; ``b`` in ``precision`` if given."""
    times: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        first = _seconds(a, images)
        with autocast(precision, images.pixels.device) if precision else nullcontext():
            times.append((first, _seconds(b, images)))
    first, second = zip(*times[1:], strict=True)  # the first round warms up
    return median(first), median(second)


@torch.no_grad()
def _seconds(forward: Forward, images: Images) -> float:
    return seconds(lambda: forward(images).boxes[-1].sum().item())  # item() waits for the device


def _packing(precision: Precision) -> AbstractContextManager[Any]:
    """In low precision, a context in which compiled code stores weights in its kernels' layout.

    It is a tenth faster and needs a second copy of the weights; in float32 the layout is right
    already. As an option of ``torch.compile`` it has no effect: weights are inputs of the graph
    by then.
    """
    from torch._inductor import config

    return config.patch(freezing=precision != "fp32")


def no_compiler(device: torch.device) -> str | None:
    """The reason why code cannot be compiled for this device; None if it can."""
    if device.type != "cpu":
        return None
    from torch._inductor import config

    compilers = config.cpp.cxx
    compilers = compilers if isinstance(compilers, tuple) else (compilers,)
    names = [name for name in compilers if name]
    if any(shutil.which(name) for name in names):
        return None
    return "there is no C++ compiler; install g++, or leave --compile out"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which a model computes in ``precision``."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=NUMBER_TYPES[precision])
