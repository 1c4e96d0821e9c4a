"""The family as tables, made of its presets."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from dabdetr.config import Config
from dabdetr.presets import PRESETS

COLUMNS = (
    *("preset", "AP", "M", "backbone", "layers", "attention", "queries"),
    *("modulated by", "anchors move", "in training"),
)


def family(kind: str) -> str:
    """Presets with a ``published`` AP by their source, or those of ``ours``."""
    if kind not in ("published", "ours"):
        raise ValueError(f"the family is 'published' or 'ours'; got {kind!r}")
    if kind == "ours":
        ours = [preset for preset in PRESETS.values() if preset.published_ap is None]
        sources = [[f"`{preset.name}`", preset.source] for preset in ours]
        rows = ([name, *rest] for name, _, *rest in map(row, ours))
        columns = [column for column in COLUMNS if column != "AP"]
        return f"{table(['preset', 'what it is'], sources)}\n\n{table(columns, rows)}"
    by_source: dict[str, list[Config]] = {}
    for preset in PRESETS.values():
        if preset.published_ap is not None:
            by_source.setdefault(preset.source, []).append(preset)
    parts = (
        f"### {source}\n\n{table(COLUMNS, map(row, members))}"
        for source, members in by_source.items()
    )
    return "\n\n".join(parts)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def row(preset: Config) -> list[str]:
    """Cells of ``COLUMNS``, as plain words."""
    model = preset.model
    return [
        f"`{preset.name}`",
        "–" if preset.published_ap is None else f"{preset.published_ap:.1f}",
        f"{millions(preset.name):.1f}",
        _backbone(preset),
        f"{model.encoder.layers} + {model.decoder.layers}",
        model.decoder.cross_attention.kind,
        _queries(preset),
        _modulated(preset),
        _moves(preset),
        _helpers(preset),
    ]


def _backbone(preset: Config) -> str:
    part = preset.model.backbone
    strides = ", ".join(map(str, part.strides))
    name = part.name.partition(".")[0].replace("_", "_<wbr>")  # long ones may be broken
    return f"{name} at {strides}"


def _queries(preset: Config) -> str:
    queries = preset.model.queries
    anchor = queries.anchor or "no anchor"
    origin = {"learned": "learned", "from_encoder": "from encoder"}[queries.kind]
    patterns = f" × {queries.patterns} patterns" if queries.patterns else ""
    return f"{queries.count}{patterns}, {anchor}, {origin}"


def _modulated(preset: Config) -> str:
    decoder = preset.model.decoder
    by = [decoder.modulate_position or ""]
    by.append("size" if getattr(decoder.cross_attention, "modulate_size", False) else "")
    return ", ".join(filter(None, by)) or "–"


def _moves(preset: Config) -> str:
    decoder = preset.model.decoder
    if not decoder.update_anchors:
        return "–"
    return "yes, twice" if decoder.look_forward_twice else "yes"


def _helpers(preset: Config) -> str:
    model = preset.model
    kinds = {"dn": "denoising", "contrastive": "contrastive denoising"}
    helpers = [kinds[model.denoising.kind]] if model.denoising else []
    helpers += list(model.collaborative.heads) if model.collaborative else []
    return ", ".join(helpers) or "–"


@cache
def millions(name: str) -> float:
    """Millions of numbers in a detector for 80 classes, without what only training needs.

    Norms count as trained ones do; nothing is allocated.
    """
    import torch

    from dabdetr.model.detector import build

    preset = PRESETS[name]
    if preset.model.backbone.kind == "timm":
        preset = preset.override(["model.backbone.norm=trained"])
    with torch.device("meta"):
        detector = build(preset, [str(number) for number in range(80)])
    helpers = ("denoising.", "collaborative.")
    kept = (p for key, p in detector.named_parameters() if not key.startswith(helpers))
    return sum(parameter.numel() for parameter in kept) / 1e6
