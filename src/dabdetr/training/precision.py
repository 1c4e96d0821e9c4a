"""The number format of a training step."""

from __future__ import annotations

from functools import cache

import torch

from dabdetr.inference.runtime import Precision
from dabdetr.measure import seconds


def choose_precision(setting: str, device: torch.device) -> tuple[Precision, str]:
    """The precision that ``setting`` means on ``device``, and the reason in a few words."""
    if setting == "fp16" and device.type == "cpu":
        raise ValueError(
            "training.precision fp16 needs a GPU, and the device is cpu; use bf16, fp32 or auto"
        )
    if setting in ("fp32", "bf16", "fp16"):
        return setting, "as set"  # pyright: ignore[reportReturnType]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "this GPU has it") if native else ("fp32", "this GPU has no bf16")
    if device.type == "cpu":
        gain = bf16_gain()
        return "bf16" if gain > 1.5 else "fp32", f"bf16 products run {gain:.1f}× as fast as fp32"
    return "fp32", f"the safe choice on {device.type}"


@cache  # trainings of one process compute in one precision, however busy the machine becomes
def bf16_gain(side: int = 512, repeats: int = 7) -> float:
    """Speed of bf16 matrix products on this processor, relative to fp32."""
    with torch.random.fork_rng(devices=[]):
        matrix = torch.randn(side, side)
    return _fastest(matrix, repeats) / _fastest(matrix.bfloat16(), repeats)


def _fastest(matrix: torch.Tensor, repeats: int) -> float:
    """Seconds of the fastest of several matrix squarings, after a warm-up."""
    _ = matrix @ matrix
    return min(seconds(lambda: matrix @ matrix) for _ in range(repeats))
