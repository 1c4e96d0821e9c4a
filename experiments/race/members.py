"""The race's members, rung by rung, and the fields in which they may differ at all.

The rule of a fair race: a rung differs from ``dab-start`` in ``OWN`` fields only, never in a
``SHARED`` one. Backbone, width, depth, queries, images, recipe, epochs and seeds are
everybody's. DETR alone may have more epochs, and is tried at four rates, so that it never loses
for want of either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dabdetr.config import Config
from dabdetr.config.root import differences, leaves
from dabdetr.presets import derive, small

OWN = (
    *("model.encoder", "model.queries", "model.decoder", "model.denoising", "model.collaborative"),
    *("model.box_head_per_layer", "model.class_head_per_layer"),
    *("model.position_temperature", "model.position_offset", "model.backbone.strides"),
    *("loss.classification", "loss.class_cost", "loss.class_weight"),
)
"""What makes a member the one it is. Further strides are for members that look at several maps."""
SHARED = ("model.encoder.layers", "model.decoder.layers", "model.queries.count")
"""Within those, what is everybody's nevertheless."""
ABOUT = ("name", "source", "published_ap")
"""Words about a config, which compute nothing."""


@dataclass(frozen=True)
class Rung:
    """One member of the race.

    serves      the claims (names in ``claims``) that are judged with it
    rate        times the common learning rate
    everywhere  raced at every size where rungs are not chosen, else at the first size alone
    long        may train for more epochs than the others
    """

    name: str
    title: str
    config: Config
    serves: tuple[str, ...]
    rate: float = 1.0
    everywhere: bool = False
    long: bool = False


def _without(name: str, **changes: Any) -> Config:
    return derive(small.DAB_DETR_NANO, name, **changes)


_RESTING: dict[str, Any] = {
    "model__decoder__update_anchors": False,
    "model__decoder__look_forward_twice": False,
}
_UNSIZED: dict[str, Any] = {"model__decoder__cross_attention__modulate_size": False}

# Conditional DETR starts with queries told apart by a learned position in every layer, a classifier
# weight of 2 and boxes of no set size. DAB-DETR as released starts with content 0, anchors from
# N(0,1) logits and weight 1. "Conditional's start", for boxes: learned content, weight 2, small
# boxes anywhere. That is how the small presets start.
_RELEASED_START: dict[str, Any] = {
    "model__queries__content": "zeros",
    "model__queries__start": "normal",
    "loss__class_weight": 1.0,
}

RUNGS: dict[str, Rung] = {
    rung.name: rung
    for rung in (
        Rung(
            *("detr", "DETR", small.DETR_NANO, ("order", "tenth", "rate")),
            everywhere=True,
            long=True,
        ),
        Rung(
            *("conditional", "Conditional DETR", small.CONDITIONAL_DETR_NANO, ("order", "size")),
            everywhere=True,
        ),
        Rung(
            *("dab", "DAB-DETR as released"),
            *(_without("dab", **_RELEASED_START), ("order", "tenth")),
            everywhere=True,
        ),
        Rung(
            *("dab-start", "DAB-DETR, Conditional's start", small.DAB_DETR_NANO),
            ("order", "tenth", "size", "denoising", "deformable", "parts"),
            everywhere=True,
        ),
        Rung("dn-dab", "DN-DAB-DETR", small.DN_DETR_NANO, ("denoising",)),
        Rung(
            *("dab-deformable", "DAB-Deformable-DETR", small.DAB_DEFORMABLE_DETR_NANO),
            ("deformable", "denoising"),
        ),
        Rung(
            *("dn-dab-deformable", "DN-DAB-Deformable-DETR", small.DN_DAB_DEFORMABLE_DETR_NANO),
            ("denoising", "dino"),
        ),
        Rung("dino", "DINO", small.DINO_NANO, ("dino", "collaborative")),
        Rung("co-dino", "Co-DINO", small.CO_DINO_NANO, ("collaborative",)),
        Rung("no-size", "DAB, no size modulation", _without("no-size", **_UNSIZED), ("parts",)),
        Rung(
            *("no-position", "DAB, no position modulation"),
            *(_without("no-position", model__decoder__modulate_position=None), ("parts",)),
        ),
        Rung(
            *("no-update", "DAB, no layer-by-layer update"),
            *(_without("no-update", **_RESTING), ("parts",)),
        ),
        Rung(
            *("temperature-10000", "DAB, temperature 10000"),
            *(_without("temperature-10000", model__position_temperature=10000.0), ("parts",)),
        ),
        Rung(  # two numbers have neither size to modulate with nor boxes to update …
            *("points", "DAB, anchors of 2 numbers"),
            _without(
                "points",
                model__queries={"anchor": "point", "count": 40, "content": "learned"},
                **_RESTING,
                **_UNSIZED,
            ),
            ("parts",),
        ),
        Rung(  # … so they are held against boxes that do neither
            *("no-size-no-update", "DAB, neither size modulation nor update"),
            *(_without("no-size-no-update", **_RESTING, **_UNSIZED), ("parts",)),
        ),
        Rung("detr-slow", "DETR, rate × 0.4", small.DETR_NANO, ("rate",), rate=0.4, long=True),
        Rung(
            *("detr-slower", "DETR, rate × 0.16", small.DETR_NANO, ("rate",)),
            rate=0.16,
            long=True,
        ),
        Rung("detr-fast", "DETR, rate × 2", small.DETR_NANO, ("rate",), rate=2.0, long=True),
    )
}

LADDER = tuple(RUNGS)[:9]
"""The family in the order in which its parts were added."""
DETRS = ("detr", "detr-fast", "detr-slow", "detr-slower")
"""DETR at its four rates; the best of them is the one that others are held against."""


def rung(name: str) -> Rung:
    """The rung called ``name``; an unknown name lists those there are."""
    if name not in RUNGS:
        raise ValueError(f"there is no rung {name!r}; there are: {', '.join(RUNGS)}")
    return RUNGS[name]


def title(name: str) -> str:
    """What figures and tables call a rung."""
    return RUNGS[name].title if name in RUNGS else name


TITLES = {name: each.title for name, each in RUNGS.items()}


def differing(one: Config, other: Config, recorded: bool = False) -> dict[str, tuple[Any, Any]]:
    """The ``differences`` of two configs that are not mere words about them.

    With ``recorded``, without fields that came later than the files they were read from.
    """
    found = differences(one, other)
    if recorded:
        trees = (each.model_dump(mode="json", exclude_unset=True) for each in (one, other))
        known = {path for tree in trees for path, _ in leaves(tree)}
        found = {path: values for path, values in found.items() if path in known}
    return {path: values for path, values in found.items() if path not in ABOUT}


def unfair(paths: Any) -> list[str]:
    """Those of the differing ``paths`` in which no member may differ from another."""
    return [path for path in paths if path in SHARED or not _within(path, OWN)]


def _within(path: str, parents: tuple[str, ...]) -> bool:
    return any(path == parent or path.startswith(f"{parent}.") for parent in parents)
