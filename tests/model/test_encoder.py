"""Deformable encoders whose finest levels are read but not changed."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch.testing import assert_close

from dabdetr.config import Config
from dabdetr.model.encoder import Encoder
from dabdetr.presets import preset
from dabdetr.structures import Memory

SHAPES = ((4, 6), (2, 3), (1, 2))
FINE = 4 * 6


def _config(layers: int, skip: int) -> Config:
    changes = {"layers": layers, "levels": 3, "skip_levels": skip, "norm": False}
    return preset("dab-lite").changed([(f"model.encoder.{k}", v) for k, v in changes.items()])


def _encoder(layers: int, skip: int) -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(_config(layers, skip).model)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder


def _memory() -> Memory:
    tokens = sum(height * width for height, width in SHAPES)
    random = torch.Generator().manual_seed(1)
    padding = torch.zeros(2, tokens, dtype=torch.bool)
    padding[1, [5, 27, 31]] = True
    return Memory(
        torch.randn(2, tokens, 128, generator=random),
        torch.randn(2, tokens, 128, generator=random),
        padding,
        SHAPES,
        torch.ones(2, 3, 2),
    )


@torch.no_grad()
def test_one_layer_changes_the_other_levels_as_without() -> None:
    memory = _memory()
    whole, part = (_encoder(1, skip)(memory).tokens for skip in (0, 1))
    assert part[:, :FINE].equal(memory.tokens[:, :FINE])
    assert_close(part[:, FINE:], whole[:, FINE:], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_later_layers_read_the_first_tokens_unchanged() -> None:
    memory = _memory()
    both = _encoder(2, 1)
    single = _encoder(1, 1)
    expected = memory
    for layer in both.layers:
        single.layers[0].load_state_dict(layer.state_dict())
        expected = replace(memory, tokens=single(expected).tokens)
    assert_close(both(memory).tokens, expected.tokens, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(
        both(memory).tokens[:, FINE:], _encoder(2, 0)(memory).tokens[:, FINE:]
    )


def test_some_level_must_change() -> None:
    for layers, skip in product((0, 1), (0, 2)):
        _config(layers, skip)
    _config(0, 3)
    with pytest.raises(ValueError, match="skip_levels is 3 of 3 levels"):
        _config(1, 3)
