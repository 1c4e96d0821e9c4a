"""Checkpoints of the authors' releases: ``checkpoint["model"]`` and ``checkpoint["args"]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dabdetr.checkpoints.foreign import COCO_IDS, Foreign, member_of, placeholder_names
from dabdetr.checkpoints.infer_config import class_logits, config_of
from dabdetr.checkpoints.key_names import to_ours
from dabdetr.config import Config, ContrastiveDenoising, Denoising
from dabdetr.presets.published import DAB_DETR_R50, DINO_R50_4SCALE, DN_DETR_R50, derive

_NOISE = {"scalar": "groups", "label_noise_scale": "label_noise", "box_noise_scale": "box_noise"}


def from_official(state: Mapping[str, Tensor], args: Mapping[str, Any] | None) -> Foreign:
    """An authors' release: ``checkpoint["model"]`` and its saved arguments."""
    member, preset = member_of(state)
    known = dict(args or {})
    notes = () if args else (
        f"no arguments were saved with the weights: assumed 8 heads, no dilation and the position "
        f"temperature of {preset.name}",
    )  # fmt: skip
    ours = to_ours(state)
    dense_dab = preset in (DAB_DETR_R50, DN_DETR_R50)
    # deformable members have arguments for temperature and number of detections, but ignore them
    selects = dense_dab or preset is DINO_R50_4SCALE
    height = known.get("pe_temperatureH", known.get("temperatureH"))
    width: Any = known.get("pe_temperatureW", known.get("temperatureW", height))
    config = config_of(
        ours,
        preset,
        f"{preset.name.removesuffix('-r50')}-{known.get('backbone', 'custom')}",
        backbone=known.get("backbone"),
        dilated=bool(known.get("dilation", False)),
        heads=known.get("nheads", 8),
        dropout=known.get("dropout", 0.0),
        activation=known.get("transformer_activation") if dense_dab else None,
        temperatures=(height, width) if selects and height is not None else None,
        update=known.get("iter_update", known.get("with_box_refine")),
        max_det=known.get("num_select") if selects else None,
        fixed_centres=bool(known.get("random_refpoints_xy")),
    )
    config = derive(config, config.name, config.source, **_training_settings(config, known))
    logits = class_logits(ours, config)
    if known.get("dataset_file", "coco") == "coco" and logits == len(COCO_IDS):
        return Foreign(f"official {member}", config, ours, COCO_IDS, notes)
    names, placeholder_notes = placeholder_names(logits)
    return Foreign(f"official {member}", config, ours, names, (*notes, *placeholder_notes))


def _training_settings(config: Config, known: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of the config for the saved arguments of proposals and denoising."""
    changes: dict[str, Any] = {}
    if config.model.queries.kind == "from_encoder" and "num_queries" in known:
        changes["model__queries__count"] = known["num_queries"]
    denoising = config.model.denoising
    if isinstance(denoising, ContrastiveDenoising) and known.get("dn_number") is not None:
        changes["model__denoising__number"] = known["dn_number"]
        changes["model__denoising__label_noise"] = known.get("dn_label_noise_ratio", 0.5) / 2
        changes["model__denoising__box_noise"] = known.get("dn_box_noise_scale", 1.0)
    if isinstance(denoising, Denoising):
        changes |= {
            f"model__denoising__{field}": known[argument]
            for argument, field in _NOISE.items()
            if argument in known
        }
    return changes
