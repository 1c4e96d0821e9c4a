"""Query groups: extra queries at known boxes, joined with the matching queries, then split.

In training, denoising makes groups from the targets and collaborative heads from their positives.
Questions are a group of boxes given by the caller. The decoder gets one row of queries and a mask,
whatever their source.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import torch
from jaxtyping import Bool
from torch import Tensor

from dabdetr.structures import Predictions, Queries, QueryGroup


def join(
    queries: Queries, groups: Sequence[QueryGroup]
) -> tuple[Queries, Bool[Tensor, "total total"] | None]:
    """All queries in one row, groups first and in order, matching queries last; and the mask.

    True in the mask: the query of the row may not attend to that of the column. Matching queries
    attend to one another only, so their predictions are those of a model without groups. A group
    attends to itself as far as its ``attention_mask`` allows, and to the matching queries if
    ``sees_matching``; never to another group.
    """
    if not groups:
        return queries, None
    assert queries.anchors is not None, "groups stand at boxes; these queries have no anchors"
    assert queries.anchors.shape[-1] == 4, "groups stand at boxes; these queries at points"
    content = torch.cat([*(group.content for group in groups), queries.content], dim=1)
    anchors = torch.cat([*(group.anchors for group in groups), queries.anchors], dim=1)
    total, matching = content.shape[1], queries.content.shape[1]
    mask = torch.ones(total, total, dtype=torch.bool, device=content.device)
    for group, (start, end) in zip(groups, _spans(each.count for each in groups), strict=True):
        mask[start:end, start:end] = group.attention_mask
        mask[start:end, total - matching :].fill_(not group.sees_matching)
    mask[total - matching :, total - matching :].fill_(False)
    return replace(queries, content=content, anchors=anchors), mask


def split(predictions: Predictions, sizes: Sequence[int]) -> tuple[list[Predictions], Predictions]:
    """Split the predictions of joined queries: those of each group, and the matching ones.

    ``sizes`` are the groups' sizes (``QueryGroup.count``), in the order of ``join``.
    """
    of_groups = [_columns(predictions, start, end) for start, end in _spans(sizes)]
    return of_groups, _columns(predictions, sum(sizes), predictions.logits.shape[2])


def _columns(predictions: Predictions, start: int, end: int) -> Predictions:
    """The predictions of the queries ``start`` to ``end``."""
    return replace(
        predictions,
        logits=predictions.logits[:, :, start:end],
        boxes=predictions.boxes[:, :, start:end],
        anchors=tuple(a if a is None else a[:, start:end] for a in predictions.anchors),
    )


def _spans(sizes: Iterable[int]) -> list[tuple[int, int]]:
    """Start and end of each group in the joined row."""
    return list(pairwise(accumulate(sizes, initial=0)))
