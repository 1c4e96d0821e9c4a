"""Where queries come from: learned boxes, points or positional queries; and how many there are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from dabdetr import config
from dabdetr.geometry import inverse_sigmoid
from dabdetr.model.positions import mlp
from dabdetr.structures import Memory, Queries


class LearnedQueries(nn.Module):
    """Each query is parameters: an anchor box in logit space, and its content (DAB-DETR §3.2).

    Without boxes it is a positional query (DETR), and a point made of that (Conditional DETR §3.3).
    With patterns every anchor is asked once for each pattern, all anchors of the first pattern
    first (Anchor DETR): ``patterns × count`` queries.
    """

    def __init__(self, part: config.LearnedQueries, width: int, indicator: bool = False) -> None:
        """``indicator`` keeps the last channel of content at 0: no copy of denoising."""
        super().__init__()
        self.count, self.width, self.indicator = part.count, width, indicator
        self.anchors: nn.Parameter | None = None
        self.sizes: nn.Parameter | None = None
        self.positions: nn.Parameter | None = None
        self.to_point: nn.Sequential | None = None
        self.content: nn.Parameter | None = None
        self.patterns: nn.Parameter | None = None
        if part.anchor != "box":
            self.positions = nn.Parameter(torch.randn(part.count, width))
        elif part.fixed_centres:  # a buffer: neither gradient nor weight decay moves it
            centres, sizes = initial_anchors(part.count, part.start).split(2, dim=1)
            self.register_buffer("centres", centres.clone())
            self.sizes = nn.Parameter(sizes.clone())
        else:
            self.anchors = nn.Parameter(initial_anchors(part.count, part.start))
        if part.anchor == "point":
            self.to_point = mlp(*[width] * part.point_layers, 2)
        if part.content == "learned":
            self.content = nn.Parameter(torch.randn(part.count, width - indicator))
        if part.patterns:
            self.patterns = nn.Parameter(torch.randn(part.patterns, width))

    def logits(self) -> Float[Tensor, "count 4"] | None:
        """Anchors before the sigmoid: x, y, w, h; None where queries are no boxes."""
        if self.sizes is None:
            return self.anchors
        return torch.cat((self.get_buffer("centres"), self.sizes), dim=1)

    @torch.no_grad()
    def resize(self, count: int, init: str | Tensor = "keep") -> None:
        """Have ``count`` anchors; a new one takes the content of an old one near it.

        'keep': of too many, those closest to others go; too few are joined by more in the widest
        gaps, of median size. 'grid': centres in even rows, median size. Boxes [n, 4] (cxcywh, 0–1):
        their k-means, as large on average as the old anchors: the decoder tells sizes by anchors it
        knows, and finds next to nothing from smaller ones.
        """
        old = self.logits()
        if old is None:
            raise ValueError(
                "the number of queries can change where each is an anchor box; these are learned "
                "positional queries: train anew with model.queries.count, or take a DAB member"
            )
        if isinstance(init, Tensor):
            new = _clusters(old, init, count)
            source = _nearest(new, old)
        elif init == "grid":
            new = _sized(_grid(count), old)
            source = _nearest(new, old)
        elif init == "keep":
            new, source = _kept(old, count)
        else:
            raise ValueError(f"anchors come by 'keep', 'grid' or boxes to cluster; got {init!r}")
        if self.content is not None:
            self.content = nn.Parameter(self.content[source])
        if self.sizes is None:
            self.anchors = nn.Parameter(new)
        else:
            self.register_buffer("centres", new[:, :2].clone())
            self.sizes = nn.Parameter(new[:, 2:].clone())
        self.count = count

    def forward(self, memory: Memory, unknown: Float[Tensor, " width"] | None = None) -> Queries:
        """``unknown`` is content that all queries start from, where denoising has it."""
        batch = memory.tokens.shape[0]  # a length would be a fixed number in an exported graph
        anchors, positions = self._places()
        if self.content is not None:
            content = F.pad(self.content, (0, int(self.indicator)))
        else:
            content = memory.tokens.new_zeros(self.count, self.width, dtype=torch.float32)
        if self.patterns is not None and anchors is not None:
            content = self.patterns.repeat_interleave(self.count, dim=0)
            anchors = anchors.repeat(len(self.patterns), 1)
        if unknown is not None:
            content = content + unknown
        return Queries(
            content.expand(batch, -1, -1),
            None if anchors is None else anchors.expand(batch, -1, -1),
            None if positions is None else positions.expand(batch, -1, -1),
        )

    def _places(self) -> tuple[Tensor | None, Tensor | None]:
        """Anchors, 0–1 of the image, and learned positional queries; one of them may be None."""
        logits = self.logits()
        if logits is not None:
            return logits.float().sigmoid(), None
        if self.to_point is None:
            return None, self.positions
        return self.to_point(self.positions).float().sigmoid(), self.positions


def anchors_as_in(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state ``given``, its anchors parted in centres and sizes, or joined, as ``own``'s are."""
    whole, parts = "queries.anchors", ("queries.centres", "queries.sizes")
    rest = {key: value for key, value in given.items() if key not in (whole, *parts)}
    if whole in given and parts[0] in own:
        return rest | dict(zip(parts, given[whole].split(2, dim=1), strict=True))
    if parts[0] in given and whole in own:
        return rest | {whole: torch.cat([given[part] for part in parts], dim=1)}
    return dict(given)


def initial_anchors(count: int, start: str) -> torch.Tensor:
    """Anchor logits [count, 4]: x, y, w, h.

    'normal': N(0, 1), as released; 'uniform': centres anywhere; 'uniform_small': sizes about 0.2
    as well, which starts a small data set several epochs ahead.
    """
    logits = torch.randn(count, 4)
    if start != "normal":
        logits[:, :2] = inverse_sigmoid(torch.rand(count, 2))
    if start == "uniform_small":
        logits[:, 2:] = -1.4 + 0.4 * logits[:, 2:]
    return logits


def _kept(old: Float[Tensor, "old 4"], count: int) -> tuple[Tensor, Int64[Tensor, " count"]]:
    """Old anchors' logits, thinned out or joined by more; and the old query behind each."""
    centres = old[:, :2].sigmoid()
    kept, apart = torch.arange(len(old), device=old.device), torch.cdist(centres, centres)
    apart.fill_diagonal_(torch.inf)
    while len(kept) > count:
        closest = apart[kept][:, kept].min(1).values.argmin()
        kept = torch.cat((kept[:closest], kept[closest + 1 :]))
    if len(kept) == count:
        return old[kept], kept
    added = _sized(_gaps(centres, count - len(old)), old)
    return torch.cat((old, added)), torch.cat((kept, _nearest(added, old)))


def _gaps(centres: Float[Tensor, "old 2"], count: int) -> Float[Tensor, "count 2"]:
    """Places far from ``centres`` and from one another: the farthest first, one by one."""
    places = _grid(16 * (len(centres) + count)).to(centres)
    apart, chosen = torch.cdist(places, centres).min(1).values, []
    for _ in range(count):
        chosen.append(places[apart.argmax()])
        apart = torch.minimum(apart, (places - chosen[-1]).norm(dim=1))
    return torch.stack(chosen)


def _grid(count: int) -> Float[Tensor, "count 2"]:
    """Centres in rows, as many rows as places in a row, nearly."""
    rows = max(1, round(count**0.5))
    widths = [count // rows + (row < count % rows) for row in range(rows)]
    return torch.tensor(
        [
            ((x + 0.5) / width, (y + 0.5) / rows)
            for y, width in enumerate(widths)
            for x in range(width)
        ]
    )


def _sized(centres: Float[Tensor, "n 2"], old: Float[Tensor, "old 4"]) -> Float[Tensor, "n 4"]:
    """Logits of boxes at ``centres``, of the old ones' median size."""
    sizes = old[:, 2:].median(0).values.expand(len(centres), 2)
    return torch.cat((inverse_sigmoid(centres.to(old)), sizes), dim=1)


def _clusters(
    old: Float[Tensor, "old 4"], boxes: Float[Tensor, "boxes 4"], count: int
) -> Float[Tensor, "count 4"]:
    """Logits of the k-means of ``boxes``, as large on average as the old anchors."""
    from sklearn.cluster import KMeans

    different = len(boxes.unique(dim=0))
    if different < count:
        raise ValueError(
            f"{count} anchors were asked of the k-means of {different} different boxes; ask for "
            "fewer, or for 'keep' or 'grid'"
        )
    found = KMeans(count, n_init="auto", random_state=0).fit(boxes.cpu().double().numpy())
    new = inverse_sigmoid(torch.as_tensor(found.cluster_centers_).to(old))
    new[:, 2:] += old[:, 2:].mean(0) - new[:, 2:].mean(0)
    return new


def _nearest(new: Float[Tensor, "new 4"], old: Float[Tensor, "old 4"]) -> Int64[Tensor, " new"]:
    """An old query near each new anchor; all old ones serve equally often, or nearly."""
    times = -(-len(new) // len(old))
    cost = torch.cdist(new[:, :2].sigmoid(), old[:, :2].sigmoid()).repeat(1, times)
    column = linear_sum_assignment(cost.double().cpu().numpy())[1]
    return torch.as_tensor(column, device=old.device) % len(old)
