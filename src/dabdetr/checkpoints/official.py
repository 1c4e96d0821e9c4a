"""The authors' releases: ``checkpoint["model"]`` and the arguments saved beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dabdetr.checkpoints.foreign import COCO_IDS, Foreign, member_of
from dabdetr.checkpoints.infer_config import class_logits, config_of
from dabdetr.checkpoints.key_names import to_ours
from dabdetr.config import Denoising
from dabdetr.presets.published import DAB_DETR_R50, DINO_R50_4SCALE, DN_DETR_R50, derive

_NOISE = {"scalar": "groups", "label_noise_scale": "label_noise", "box_noise_scale": "box_noise"}


def _temperatures(known: Mapping[str, Any]) -> tuple[float, float] | None:
    """Of the image's position code along height and width, where the arguments have them."""
    height = known.get("pe_temperatureH", known.get("temperatureH"))
    width = known.get("pe_temperatureW", known.get("temperatureW", height))
    return None if height is None else (height, width)


def from_official(state: Mapping[str, Tensor], args: Mapping[str, Any] | None) -> Foreign:
    """The authors' release: ``checkpoint["model"]`` and its saved arguments."""
    member = member_of(state)
    assert member is not None, "the caller has recognised the keys"
    known = dict(args or {})
    notes = () if args else (
        f"no arguments were saved with the weights: assumed 8 heads, no dilation and the position "
        f"temperature of {member[1].name}",
    )  # fmt: skip
    ours = to_ours(state)
    # The deformable members have such an argument, and never read it.
    dense_dab = member[1] in (DAB_DETR_R50, DN_DETR_R50)
    selects = dense_dab or member[1] is DINO_R50_4SCALE
    config = config_of(
        ours,
        member[1],
        f"{member[1].name.removesuffix('-r50')}-{known.get('backbone', 'custom')}",
        backbone=known.get("backbone"),
        dilated=bool(known.get("dilation", False)),
        heads=known.get("nheads", 8),
        dropout=known.get("dropout", 0.0),
        activation=known.get("transformer_activation") if dense_dab else None,
        temperatures=_temperatures(known) if selects else None,
        update=known.get("iter_update", known.get("with_box_refine")),
        max_det=known.get("num_select") if selects else None,
        fixed_centres=bool(known.get("random_refpoints_xy")),
    )
    if member[1].model.queries.kind == "from_encoder" and "num_queries" in known:
        config = derive(
            config, config.name, config.source, model__queries__count=known["num_queries"]
        )
    if member[1] is DINO_R50_4SCALE and known.get("dn_number") is not None:
        config = derive(
            config,
            config.name,
            config.source,
            model__denoising__number=known["dn_number"],
            model__denoising__label_noise=known.get("dn_label_noise_ratio", 0.5) / 2,
            model__denoising__box_noise=known.get("dn_box_noise_scale", 1.0),
        )
    if isinstance(config.model.denoising, Denoising):
        told_noise = {
            f"model__denoising__{ours_name}": known[key]
            for key, ours_name in _NOISE.items()
            if key in known
        }
        config = derive(config, config.name, config.source, **told_noise)
    logits = class_logits(ours, config)
    if known.get("dataset_file", "coco") == "coco" and logits == len(COCO_IDS):
        return Foreign(f"official {member[0]}", config, ours, COCO_IDS, notes)
    names = tuple(f"class {index}" for index in range(logits))
    note = f"the file has no class names: they are called 'class 0' to 'class {logits - 1}'"
    return Foreign(f"official {member[0]}", config, ours, names, (*notes, note))
