"""Tiny members with every tensor drawn anew, and their states as other implementations write them.

Which tensor has which name there is recorded in ``keys/``, not taken from the project's tables.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dabdetr.config import Config
from dabdetr.model.detector import Detector, build
from dabdetr.presets import derive, preset
from dabdetr.structures import Images

State = dict[str, Tensor]

MEMBERS = {
    "DETR": "detr-r50",
    "Conditional DETR": "conditional-detr-r50",
    "Deformable DETR": "deformable-detr-r50",
    "Deformable DETR, refined": "deformable-detr-r50-refine",
    "Deformable DETR, two-stage": "deformable-detr-r50-two-stage",
    "DAB-DETR": "dab-detr-r50",
    "DAB-DETR, patterns": "dab-detr-r50-p3",
    "DAB-Deformable-DETR": "dab-deformable-detr-r50",
    "DAB-Deformable-DETR, two-stage": "dab-deformable-detr-r50-two-stage",
    "DN-DETR": "dn-detr-r50",
    "DN-DAB-Deformable-DETR": "dn-dab-deformable-detr-r50",
    "DINO": "dino-r50-4scale",
}


@functools.cache
def tiny(member: str, classes: int = 5, **changes: Any) -> Detector:
    """A member as published, but narrow and shallow; in evaluation mode. Do not change it."""
    base: Config = preset(MEMBERS[member])
    sizes = {
        "model__backbone__name": "resnet18",
        "model__width": 32,
        "model__feedforward": 48,
        "model__encoder__layers": 2,
        "model__decoder__layers": 3,
        "model__queries__count": 300 if base.model.queries.content in ("box", "token") else 7,
    }
    config = derive(base, "tiny", **{**sizes, **changes})
    torch.manual_seed(5)
    detector = build(config, [f"class {n}" for n in range(classes)]).eval()
    with torch.no_grad():
        for name, tensor in detector.state_dict().items():
            if "running_var" in name or (tensor.dim() == 1 and "norm" in name):
                tensor.uniform_(0.7, 1.3)
            elif name in ("queries.anchors", "queries.positions", "queries.content"):
                tensor.normal_()  # queries far apart, sharp attention: or all answer alike
            elif tensor.is_floating_point():
                strength = 8.0 if "attention" in name and "offsets" not in name else 1.0
                fan = tensor[0].numel() if tensor.dim() > 1 else 100
                tensor.normal_(std=strength * fan**-0.5)
        if detector.denoising is not None and not detector.denoising.indicator:
            detector.denoising.labels.weight[-1] = 0.0  # "unknown", which is never read
    return detector


def answers(detector: Detector) -> tuple[Tensor, Tensor]:
    """Logits and boxes of the last layer for two images, one of them padded."""
    coarse = torch.randn(2, 3, 3, 4, generator=torch.Generator().manual_seed(1))
    pixels = 3 * torch.nn.functional.interpolate(coarse, scale_factor=32.0)
    padding = torch.zeros(2, 96, 128, dtype=torch.bool)
    padding[1, 64:], padding[1, :, 96:] = True, True
    pixels[1] = pixels[1].masked_fill(padding[1], 0.0)
    with torch.no_grad():
        out = detector.eval()(Images(pixels, padding))
    return out.logits[-1], out.boxes[-1]


def write(format: str, member: str, detector: Detector, body: str = "resnet18") -> State:
    """The detector's state under the names of another implementation.

    ``keys/FORMAT.txt`` has a row for each of its tensors, as recorded from the public module
    definitions: its name, and the tensors of ours that it holds. ``|`` puts them in rows, ``&`` in
    columns; ``*`` is any layer; ``{a,b}`` are both in turn.
    """
    own = {k: v.clone() for k, v in detector.state_dict().items() if "num_batches" not in k}
    sections = _sections(format)
    rows = [*sections[member], *sections.get(body, ())]
    if body not in sections:  # the names of torchvision
        prefix = {"official": "backbone.0.body.", "mmdetection": "backbone."}[format]
        names = [key.removeprefix("backbone.body.") for key in own if key.startswith("backbone.")]
        rows += [(prefix + name, "backbone.body." + name) for name in names]
    state, used = {}, set()
    for theirs, ours in (pair for row in rows for pair in _expand(*row, own)):
        parts = re.split(r" [|&] ", ours)
        if ours.startswith("ones "):
            state[theirs] = torch.ones(*map(int, ours.split()[1:]))
        elif ours.endswith("[:-1]"):
            state[theirs] = own[ours.removesuffix("[:-1]")][:-1]
        else:
            tensors = [own[part].clone() for part in parts]
            state[theirs] = torch.cat(tensors, dim=int("&" in ours))
        used |= {part.removesuffix("[:-1]") for part in parts}
    lacking = {k for k in own if k not in used and not k.startswith("projection.project.")}
    assert not lacking, "tensors without a foreign name"
    return state


@functools.cache
def _sections(format: str) -> dict[str, list[tuple[str, str]]]:
    """Rows by member."""
    text = (Path(__file__).parent / "keys" / f"{format}.txt").read_text()
    blocks = (block.strip().split("\n") for block in text.split("# ")[1:])
    return {title: [tuple(row.split(" = ")) for row in rows] for title, *rows in blocks}  # pyright: ignore


def _expand(theirs: str, ours: str, own: State) -> Iterator[tuple[str, str]]:
    """A row for each layer, and for each word in braces."""
    braces = re.search(r"\{([\w,]+)\}", theirs)
    for word in braces[1].split(",") if braces else [""]:
        pair = [re.sub(r"\{[\w,]+\}", word, name) for name in (theirs, ours)]
        if "*" not in ours:
            yield pair[0], pair[1]
            continue
        first = re.split(r" [|&] ", pair[1])[0]
        for layer in itertools.count():
            if first.replace("*", str(layer)) not in own:
                break
            yield pair[0].replace("*", str(layer)), pair[1].replace("*", str(layer))


def same_answers(loaded: Detector, source: Detector) -> None:
    """Every tensor is in its place, and what is not in a state (eps, temperature) alike too."""
    theirs, ours = answers(source), answers(loaded)
    gap = (ours[0] - theirs[0]).abs().max()
    assert gap < 1e-4
    assert torch.allclose(ours[1], theirs[1], atol=1e-5)
    # Queries differ far more than the two: a wrong position would be seen.
    assert theirs[0].std(dim=1).mean() > 10 * gap
    given, own = source.state_dict(), loaded.state_dict()
    assert set(given) == set(own)
    assert all(own[key].equal(given[key]) for key in own if "num_batches" not in key)


@pytest.fixture(scope="session")
def make() -> Callable[..., Detector]:
    return tiny


@pytest.fixture(scope="session")
def written() -> Callable[..., State]:
    return write


@pytest.fixture(scope="session")
def agree() -> Callable[[Detector, Detector], None]:
    return same_answers
