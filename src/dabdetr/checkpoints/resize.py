"""Changing the number of queries, decoder layers or the image size of trained models."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from dabdetr.geometry import inverse_sigmoid
from dabdetr.model.detector import Detector
from dabdetr.model.proposals import EncoderQueries
from dabdetr.model.queries import LearnedQueries
from dabdetr.text import counted

Init = str | np.ndarray | Tensor
"""Choice of new anchors: 'keep', 'grid', or boxes [n, 4] (cxcywh, 0–1) to cluster."""


def with_queries(detector: Detector, count: int | None = None, init: Init = "keep") -> Detector:
    """A copy with ``count`` queries, or the detector itself if nothing changes.

    ``init`` is that of ``set_queries``.
    """
    if count is None and isinstance(init, str) and init == "keep":
        return detector
    changed = copy.deepcopy(detector)
    set_queries(changed, detector.config.model.queries.count if count is None else count, init)
    return changed


def with_image_size(detector: Detector, size: int) -> Detector:
    """The same weights for images whose shorter side is ``size`` pixels.

    The limit of the longer side is scaled by the same factor.
    """
    changed, image = copy.copy(detector), detector.config.image
    longest = round(image.max_size * size / image.size)
    changed.config = changed.config.override([f"image.size={size}", f"image.max_size={longest}"])
    return changed


def set_queries(detector: Detector, count: int, init: Init = "keep") -> None:
    """Change the number of queries of trained weights; the config changes with it.

    ``init``: 'keep' drops anchors or adds some in the gaps, 'grid' puts them on a grid, and for
    boxes [n, 4] (cxcywh, 0–1) the anchors are their k-means. ValueError where queries are not
    anchor boxes.
    """
    if isinstance(init, str) and init not in ("keep", "grid"):
        raise ValueError(f"anchors come by 'keep', 'grid' or boxes to cluster; got {init!r}")
    config = detector.config.override([f"model.queries.count={count}"])
    if isinstance(detector.queries, EncoderQueries):
        _resize_proposals(detector.queries, count, init)
    else:
        _resize_anchors(detector.queries, count, init)
    detector.config = config


@torch.no_grad()
def with_only(detector: Detector, rows: Sequence[int]) -> Detector:
    """A copy with the learned anchors ``rows`` only, in their order, each with all its patterns.

    ValueError where queries are proposals of the encoder.
    """
    changed = copy.deepcopy(detector)
    queries = changed.queries
    if not isinstance(queries, LearnedQueries):
        raise ValueError(
            "the encoder proposes the queries of this model: their number can be changed "
            "(--queries), but none can be picked"
        )
    kept = torch.as_tensor(sorted(rows), dtype=torch.long)
    for name in ("anchors", "sizes", "positions", "content"):
        values = getattr(queries, name)
        if values is not None:
            setattr(queries, name, nn.Parameter(values[kept.to(values.device)]))
    if queries.sizes is not None:
        centres = queries.get_buffer("centres")
        queries.register_buffer("centres", centres[kept.to(centres.device)].clone())
    queries.count = len(kept)
    changed.config = changed.config.override([f"model.queries.count={len(kept)}"])
    return changed


def with_layers(detector: Detector, layers: int | None = None) -> Detector:
    """A copy that ends after its first ``layers`` decoder layers, or the detector itself if None.

    Its predictions equal those of the same layers of the whole detector. It can be saved like any
    detector.
    """
    if layers is None:
        return detector
    available = detector.config.model.decoder.layers
    if not 1 <= layers <= available:
        raise ValueError(
            f"the model has {counted(available, 'decoder layer')}; got {layers}; give a number "
            f"from 1 to {available}"
        )
    changed = copy.deepcopy(detector)
    decoder, heads = changed.decoder, changed.decoder.heads
    decoder.layers = decoder.layers[:layers]
    heads.classes, heads.boxes = heads.classes[:layers], heads.boxes[:layers]
    scale = decoder.positions.scale
    if isinstance(scale, nn.Embedding):  # one for each layer
        kept = scale.weight[:layers].detach().clone()
        decoder.positions.scale = nn.Embedding.from_pretrained(kept, freeze=False)
    changed.config = changed.config.override([f"model.decoder.layers={layers}"])
    return changed


@torch.no_grad()
def _resize_anchors(queries: LearnedQueries, count: int, init: Init) -> None:
    """Set ``count`` anchors of learned queries; a new one gets the content of an old one near it.

    'keep': the anchors closest to others are dropped, or anchors of median size are added in the
    widest gaps. 'grid': centres in even rows, median size. Boxes: their k-means, scaled to the mean
    size of the old anchors: the decoder predicts sizes relative to the anchors of its training, and
    detects almost nothing from smaller ones.
    """
    old = queries.logits()
    if old is None:
        raise ValueError(
            "the number of queries can be changed only where each is an anchor box; these are "
            "learned positional queries: train again with model.queries.count, or take a DAB member"
        )
    if not isinstance(init, str):
        new = _clusters(old, torch.as_tensor(init, dtype=torch.float32), count)
        source = _nearest(new, old)
    elif init == "grid":
        new = _with_median_size(_grid(count), old)
        source = _nearest(new, old)
    else:
        new, source = _thinned_or_filled(old, count)
    if queries.content is not None:
        queries.content = nn.Parameter(queries.content[source])
    if queries.sizes is None:
        queries.anchors = nn.Parameter(new)
    else:
        queries.register_buffer("centres", new[:, :2].clone())
        queries.sizes = nn.Parameter(new[:, 2:].clone())
    queries.count = count


def _resize_proposals(queries: EncoderQueries, count: int, init: Init) -> None:
    """Use the best ``count`` tokens as queries; rows of learned content repeat if too few."""
    if not (isinstance(init, str) and init == "keep"):
        raise ValueError(
            "the encoder proposes the anchors of this model: their number can be changed, their "
            "places cannot; leave the initialisation of queries at 'keep'"
        )
    if queries.content is not None:
        rows = torch.arange(count, device=queries.content.device) % len(queries.content)
        queries.content = nn.Parameter(queries.content.detach()[rows])
    queries.count = count


def _thinned_or_filled(
    old: Float[Tensor, "old 4"], count: int
) -> tuple[Tensor, Int64[Tensor, " count"]]:
    """Logits of the old anchors, fewer or with further ones; and the old query for each."""
    centres = old[:, :2].sigmoid()
    kept, apart = torch.arange(len(old), device=old.device), torch.cdist(centres, centres)
    apart.fill_diagonal_(torch.inf)
    while len(kept) > count:
        closest = apart[kept][:, kept].min(1).values.argmin()
        kept = torch.cat((kept[:closest], kept[closest + 1 :]))
    if len(kept) == count:
        return old[kept], kept
    added = _with_median_size(_gaps(centres, count - len(old)), old)
    return torch.cat((old, added)), torch.cat((kept, _nearest(added, old)))


def _gaps(centres: Float[Tensor, "old 2"], count: int) -> Float[Tensor, "count 2"]:
    """Points far from ``centres`` and from one another, chosen one by one, the farthest first."""
    places = _grid(16 * (len(centres) + count)).to(centres)
    apart, chosen = torch.cdist(places, centres).min(1).values, []
    for _ in range(count):
        chosen.append(places[apart.argmax()])
        apart = torch.minimum(apart, (places - chosen[-1]).norm(dim=1))
    return torch.stack(chosen)


def _grid(count: int) -> Float[Tensor, "count 2"]:
    """Points 0–1 in about as many rows as points per row."""
    rows = max(1, round(count**0.5))
    widths = [count // rows + (row < count % rows) for row in range(rows)]
    return torch.tensor(
        [
            ((x + 0.5) / width, (y + 0.5) / rows)
            for y, width in enumerate(widths)
            for x in range(width)
        ]
    )


def _with_median_size(
    centres: Float[Tensor, "n 2"], old: Float[Tensor, "old 4"]
) -> Float[Tensor, "n 4"]:
    """Logits of boxes at ``centres`` with the median size of the old anchors."""
    sizes = old[:, 2:].median(0).values.expand(len(centres), 2)
    return torch.cat((inverse_sigmoid(centres.to(old)), sizes), dim=1)


def _clusters(
    old: Float[Tensor, "old 4"], boxes: Float[Tensor, "boxes 4"], count: int
) -> Float[Tensor, "count 4"]:
    """Logits of the k-means of ``boxes``, scaled to the mean size of the old anchors."""
    from sklearn.cluster import KMeans

    different = len(boxes.unique(dim=0))
    if different < count:
        raise ValueError(
            f"{count} anchors were asked of the k-means of "
            f"{counted(different, 'different box', 'different boxes')}; ask for fewer, or for "
            "'keep' or 'grid'"
        )
    found = KMeans(count, n_init="auto", random_state=0).fit(boxes.cpu().double().numpy())
    new = inverse_sigmoid(torch.as_tensor(found.cluster_centers_).to(old))
    new[:, 2:] += old[:, 2:].mean(0) - new[:, 2:].mean(0)
    return new


def _nearest(new: Float[Tensor, "new 4"], old: Float[Tensor, "old 4"]) -> Int64[Tensor, " new"]:
    """An old query near each new anchor; all old queries are used almost equally often."""
    times = -(-len(new) // len(old))
    cost = torch.cdist(new[:, :2].sigmoid(), old[:, :2].sigmoid()).repeat(1, times)
    column = linear_sum_assignment(cost.double().cpu().numpy())[1]
    return torch.as_tensor(column, device=old.device) % len(old)
