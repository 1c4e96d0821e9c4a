"""Attention: both forms agree, padding is never seen, nothing becomes NaN."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dabdetr import kernels
from dabdetr.kernels import attend
from dabdetr.model.attention import ConcatCrossAttention, padding_mask, split_heads
from dabdetr.model.positions import QueryPositions
from dabdetr.structures import Memory


def _memory(tokens: torch.Tensor, padding: torch.Tensor | None) -> Memory:
    return Memory(tokens, torch.zeros_like(tokens), padding, ((1, tokens.shape[1]),))


@pytest.mark.parametrize("masked", [True, False])
def test_products_and_fused_kernel_agree(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[1, 4:] = True
    hidden = padding_mask(padding) if masked else None
    monkeypatch.setattr(kernels, "_products_win", lambda *_: True)
    products = attend(q, k, v, hidden)
    monkeypatch.setattr(kernels, "_products_win", lambda *_: False)
    assert torch.allclose(products, attend(q, k, v, hidden), atol=1e-6)


def test_concatenation_is_the_sum_of_two_maps() -> None:
    """One head's scores are content · content + code · position, at scale 1/√(2d)."""
    torch.manual_seed(0)
    layer = ConcatCrossAttention(16, 2, 0.0, add_position=False)
    content, code, tokens = (torch.randn(1, n, 16) for n in (3, 3, 5))
    memory = Memory(tokens, torch.randn(1, 5, 16), None, ((1, 5),))
    heads = lambda x: split_heads(x, 2)  # noqa: E731
    scores = heads(layer.query(content)) @ heads(layer.key(tokens)).mT
    scores = scores + heads(layer.query_code(code)) @ heads(layer.key_position(memory.positions)).mT
    weights = (scores / 16**0.5).softmax(-1)
    expected = layer.output((weights @ heads(layer.value(tokens))).transpose(1, 2).flatten(2))
    found = layer(content, QueryPositions(torch.randn(1, 3, 16), code), memory)
    assert torch.allclose(found, expected, atol=1e-6)


def test_padding_is_not_seen_and_all_padding_is_no_nan() -> None:
    torch.manual_seed(0)
    layer = ConcatCrossAttention(16, 2, 0.0, add_position=True)
    positions = QueryPositions(torch.randn(2, 3, 16), torch.randn(2, 3, 16))
    content, tokens = torch.randn(2, 3, 16), torch.randn(2, 6, 16)
    padding = torch.tensor([[False] * 4 + [True] * 2, [True] * 6])
    before = layer(content, positions, _memory(tokens, padding))
    assert before.isfinite().all()
    changed = tokens.clone()
    changed[0, 4:] = 100.0
    assert layer(content, positions, _memory(changed, padding))[0].equal(before[0])


def test_dropout_drops_weights_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = ConcatCrossAttention(16, 2, 0.5, add_position=False)
    args = (torch.randn(1, 3, 16), QueryPositions(*torch.randn(2, 1, 3, 16)))
    memory = _memory(torch.randn(1, 6, 16), None)
    assert not layer.train()(*args, memory).equal(layer(*args, memory))
    assert layer.eval()(*args, memory).equal(layer(*args, memory))


def test_bf16_products_are_close_to_float32() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 9, 8)
    exact = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    low = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), None)
    assert low.dtype == torch.bfloat16
    assert torch.allclose(low.float(), exact, atol=0.03)
