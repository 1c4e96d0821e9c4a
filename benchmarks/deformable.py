"""Deformable attention beside transformers', forward and backward: ``-m benchmarks.deformable``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import Job, Row, alternate, plain, ratio, table, typical
from dabdetr.kernels import use_cpu_kernels
from dabdetr.model.deformable import DeformableAttention

SHAPES = ((60, 80), (30, 40), (15, 20), (8, 10))  # of 480×640 pixels
WIDTH, HEADS, POINTS, IMAGES = 256, 8, 4, 2


def measure(
    shapes: tuple[tuple[int, int], ...] = SHAPES, decoder_queries: int = 300, rounds: int = 7
) -> list[Row]:
    """Speed of the whole module, equal weights and inputs, in the encoder and in the decoder."""
    rows = []
    for place, queries in (
        ("encoder", sum(h * w for h, w in shapes)),
        ("decoder", decoder_queries),
    ):
        for precision in (torch.float32, torch.bfloat16):
            jobs = _jobs(shapes, queries, precision)
            found = alternate(jobs, rounds, warmup=2)
            ours, peer = (1e3 * typical(found, name) for name in ("ours", "peer"))
            what = (
                f"deformable attention, forward + backward, {place} ({queries} queries), "
                f"{str(precision).removeprefix('torch.')}"
            )
            detail = f"{ours:.0f} ms beside {peer:.0f}"
            rows.append(Row(what, ratio(found, "peer", "ours"), bar=1.5, goal=3, detail=detail))
    return rows


def _jobs(
    shapes: tuple[tuple[int, int], ...], queries: int, precision: torch.dtype
) -> dict[str, Job]:
    """A pass through each side's module and back to its input; raises where they disagree."""
    torch.manual_seed(0)
    ours = DeformableAttention(WIDTH, HEADS, len(shapes), POINTS)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.05)
    peer = _peer(ours, len(shapes))
    use_cpu_kernels(ours)
    tokens = torch.randn(IMAGES, sum(h * w for h, w in shapes), WIDTH)
    query = torch.randn(IMAGES, queries, WIDTH)
    references = torch.rand(IMAGES, queries, len(shapes), 2)
    upstream = torch.randn(IMAGES, queries, WIDTH)
    sizes = torch.tensor(shapes)
    starts = torch.cat((sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]))

    def ours_forward(query: Tensor, tokens: Tensor) -> Tensor:
        return ours(query, references, tokens, shapes, None)

    def peer_forward(query: Tensor, tokens: Tensor) -> Tensor:
        return peer(
            query,
            encoder_hidden_states=tokens,
            reference_points=references,
            spatial_shapes=sizes,
            spatial_shapes_list=list(shapes),
            level_start_index=starts,
        )[0]

    def job(forward: Any) -> Job:
        leaves = (query.clone().requires_grad_(), tokens.clone().requires_grad_())

        def run() -> Tensor:
            mixed = precision != torch.float32
            with torch.autocast("cpu", precision, enabled=mixed):
                out = forward(*leaves).float()
            torch.autograd.backward(out, upstream)
            return out.detach()

        return run

    jobs = {"ours": job(ours_forward), "peer": job(peer_forward)}
    a, b = (run() for run in jobs.values())  # pyright: ignore[reportGeneralTypeIssues]
    gap, tolerance = (a - b).abs().max().item(), 1e-4 if precision == torch.float32 else 0.1
    if not gap < tolerance:
        raise AssertionError(f"the sides differ by {gap:g}; nothing was timed")
    return jobs


def _peer(ours: DeformableAttention, levels: int) -> nn.Module:
    """The peer's module with our weights."""
    from transformers import DeformableDetrConfig
    from transformers.models.deformable_detr import modeling_deformable_detr as peers

    config = DeformableDetrConfig(d_model=WIDTH, num_feature_levels=levels)
    peer = peers.DeformableDetrMultiscaleDeformableAttention(config, HEADS, POINTS)
    names = {
        "sampling_offsets": "offsets",
        "attention_weights": "weights",
        "value_proj": "value",
        "output_proj": "output",
    }
    for theirs, mine in names.items():
        getattr(peer, theirs).load_state_dict(getattr(ours, mine).state_dict())
    return peer


def found(threads: int, smoke: bool) -> list[dict[str, Any]]:
    """``measure`` as plain values."""
    torch.set_num_threads(threads)
    return plain(measure(((6, 8), (3, 4)), 10, rounds=2) if smoke else measure())


if __name__ == "__main__":
    torch.set_num_threads(2)
    print(table(measure()))
