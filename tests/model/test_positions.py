"""Sine codes against numbers recorded from the released code, and what modulation does."""

from __future__ import annotations

import math

import pytest
import torch

from dabdetr.model.positions import Positions, anchor_code, map_code, sine_code
from dabdetr.structures import Queries


def _dense(width: int, layers: int, position: str | None, size: bool) -> Positions:
    return Positions(width, layers, True, False, position, size)


def test_map_code_of_a_padded_map() -> None:
    padding = torch.ones(1, 4, 6, dtype=torch.bool)
    padding[:, :3, :5] = False
    code = map_code(padding, 256, 20.0)[0, 1, 2]
    y = torch.tensor([-0.8660247, -0.5000011, -0.7549936, -0.6557322])
    x = torch.tensor([-0.5877848, -0.8090174, -0.4402897, -0.8978558])
    assert torch.allclose(code[:4], y, atol=1e-5)
    assert torch.allclose(code[128:132], x, atol=1e-5)


def test_anchor_code_is_y_x_w_h() -> None:
    code = anchor_code(torch.tensor([0.25, 0.5, 0.1, 0.2]), 256)
    assert code.shape == (512,)
    golden = {
        0: [0, -1, 0.4087512, -0.9126459],
        128: [1, 0, 0.9779177, 0.2089906],
        256: [0.5877852, 0.8090170, 0.5176495, 0.8555927],
        384: [0.9510565, 0.3090170, 0.8857944, 0.4640779],
    }
    for start, values in golden.items():
        assert torch.allclose(code[start : start + 4], torch.tensor(values), atol=1e-5)


def test_a_map_that_is_all_padding_has_a_finite_code() -> None:
    code = map_code(torch.ones(1, 3, 3, dtype=torch.bool), 16, 20.0)
    assert code.isfinite().all()
    assert code[0, 1, 1].tolist() == pytest.approx([0, 1] * 8)


def test_codes_are_float32_under_autocast() -> None:
    positions = _dense(64, 3, "content", True)
    anchors, content = torch.rand(1, 5, 4), torch.randn(1, 5, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = positions(Queries(content, anchors), None, 1)
        assert sine_code(anchors.bfloat16(), 8, 20.0).dtype == torch.float32
    assert found.code is not None
    assert found.code.dtype == torch.float32
    assert found.query.dtype == torch.bfloat16  # the products did run at low precision


def test_size_modulation_widens_attention_for_wide_anchors() -> None:
    torch.manual_seed(0)
    positions = _dense(64, 2, None, True)
    content = torch.randn(1, 1, 64)
    narrow = torch.tensor([[[0.5, 0.5, 0.1, 0.2]]])
    wide = torch.tensor([[[0.5, 0.5, 0.4, 0.2]]])
    a, b = (positions(Queries(content, x), None, 0).code[0, 0] for x in (narrow, wide))  # pyright: ignore
    assert torch.allclose(a[:32], b[:32])  # the y half hears of the height only
    assert torch.allclose(a[32:], 4 * b[32:])  # four times as wide: a quarter of the slope


def test_an_anchor_without_extent_gives_no_infinity() -> None:
    positions = _dense(16, 2, "content", True)
    code = positions(Queries(torch.randn(1, 1, 16), torch.zeros(1, 1, 4)), None, 1).code
    assert code is not None
    assert code.isfinite().all()


@pytest.mark.parametrize("modulate", ["content", "scalar", "layer", None])
def test_first_layer_has_no_content_to_modulate_by(modulate: str | None) -> None:
    torch.manual_seed(0)
    positions = _dense(16, 3, modulate, False)
    anchors = torch.rand(1, 4, 4)
    plain = anchor_code(anchors, 16)[..., :16]
    queries = Queries(torch.randn(1, 4, 16), anchors)
    first, second = (positions(queries, None, layer).code for layer in (0, 1))
    assert first is not None
    assert second is not None
    assert first.equal(plain) == (modulate != "layer")
    assert second.equal(plain) == (modulate is None)


def test_deformable_members_scale_the_positional_query() -> None:
    torch.manual_seed(0)
    positions = Positions(16, 3, True, True, "content", False)
    queries = Queries(torch.randn(1, 4, 16), torch.rand(1, 4, 4))
    ratios = torch.tensor([[[0.5, 0.25], [0.5, 0.5]]])
    first, second = (positions(queries, ratios, layer) for layer in (0, 1))
    assert positions.to_query is not None
    assert queries.anchors is not None
    framed = queries.anchors * torch.tensor([0.5, 0.25, 0.5, 0.25])
    assert torch.allclose(first.query, positions.to_query(anchor_code(framed, 16)))
    assert torch.allclose(second.query, first.query * positions.scale(queries.content))  # pyright: ignore
    assert first.code is None
    assert first.anchors is queries.anchors


def test_without_anchors_the_learned_positions_are_all() -> None:
    positions = Positions(16, 3, False, False, None, False)
    learned = torch.randn(1, 4, 16)
    found = positions(Queries(torch.randn(1, 4, 16), None, learned), None, 1)
    assert found.query is learned
    assert found.code is None
    assert found.anchors is None
    assert not list(positions.parameters())


def test_an_offset_moves_the_code_by_half_a_cell() -> None:
    padding = torch.zeros(1, 1, 4, dtype=torch.bool)
    code = map_code(padding, 8, 10000.0, -0.5)[0, 0, 1, 4]
    assert code.item() == pytest.approx(math.sin(2 * math.pi * 1.5 / 4), abs=1e-4)
