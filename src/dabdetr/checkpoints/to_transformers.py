"""Saving of weights as a folder of Hugging Face transformers, the inverse of ``transformers.py``.

Both use the same table of names: each key of transformers is converted to the name of our tensor.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dabdetr.checkpoints.key_names import State, official_table, rename
from dabdetr.checkpoints.transformers import TRANSFORMERS
from dabdetr.config import Config
from dabdetr.files import new_folder
from dabdetr.model.detector import Detector
from dabdetr.packages import lacking
from dabdetr.structures import Images
from dabdetr.text import counted, markdown, reason

GAP = 2e-3
"""Largest allowed difference of boxes (shares of the image) and class probabilities."""
_TRAINING = ("denoising.", "collaborative.")
"""Prefixes of parts that only training needs."""


def save_transformers(folder: Path, detector: Detector) -> float:
    """Write ``model.safetensors``, ``config.json``, ``preprocessor_config.json``, ``README.md``.

    Both models are run on the same random image, and the largest difference is returned.
    ValueError where transformers has no class that computes the same.
    """
    try:
        import transformers
    except ImportError:
        raise lacking("this", "transformers") from None
    kind, processor = _kind(detector.config)
    with warnings.catch_warnings():  # of transformers' own code
        warnings.simplefilter("ignore")
        settings = getattr(transformers, f"{kind}Config")(**_settings(detector, kind))
        peer = getattr(transformers, f"{kind}ForObjectDetection")(settings).eval()
        peer.load_state_dict(_renamed(peer.state_dict(), detector.state_dict(), kind))
        gap = _gap(peer, detector)
    if not gap < GAP:
        raise ValueError(
            f"transformers' {kind} computes something else from these weights (its outputs differ "
            f"by {gap:.2g}); they cannot be converted"
        )
    image = detector.config.image
    preparation = {
        "image_processor_type": processor,
        **{"do_resize": True, "resample": 2, "do_pad": True},
        "size": {"shortest_edge": image.size, "longest_edge": image.max_size},
        **{"do_rescale": True, "rescale_factor": 1 / 255},
        **{"do_normalize": True, "image_mean": image.mean, "image_std": image.std},
    }
    with new_folder(folder) as written, _without_progress_bars():
        peer.save_pretrained(written)
        text = json.dumps(preparation, indent=2)
        (written / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")
        (written / "README.md").write_text(_card(detector), encoding="utf-8")
    return gap


def push_to_hub(folder: Path, repository: str) -> str:
    """Upload a folder to a model repository of the hub; returns its address. OSError on failure."""
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        address = str(api.create_repo(repository, exist_ok=True))
        api.upload_folder(repo_id=repository, folder_path=folder)
    except Exception as error:  # network, hub, missing login
        raise OSError(
            f"{repository} could not be pushed to the hub ({reason(error)}); the folder is written "
            f"and can be pushed later: hf upload {repository} {folder}"
        ) from None
    return address


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Switch the progress bars of transformers off inside ``with``."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _kind(config: Config) -> tuple[str, str]:
    """Names of the member's class and image processor; ValueError for members without a class."""
    model = config.model
    cross, dense = model.decoder.cross_attention.kind, model.encoder.kind == "dense"
    anchor = getattr(model.queries, "anchor", None)
    softmax = config.classifier == "softmax"
    known = {
        (True, "add", None, True): ("Detr", "DetrImageProcessor"),
        (True, "concat", "point", False): ("ConditionalDetr", "ConditionalDetrImageProcessor"),
        (True, "concat", "box", False): ("DabDetr", "ConditionalDetrImageProcessor"),
        (False, "deformable", "point", False): ("DeformableDetr", "DeformableDetrImageProcessor"),
    }
    found = known.get((dense, cross, anchor, softmax))
    if found is None or model.queries.kind != "learned":
        raise ValueError(
            f"transformers has no class for {config.name}; it has DETR, Conditional DETR, DAB-DETR "
            "and Deformable DETR"
        )
    if model.backbone.kind != "timm" or model.backbone.options:
        raise ValueError(
            f"transformers builds a timm backbone from its name alone, and that of {config.name} "
            "has further options; presets with a whole ResNet can be converted, such as "
            "dab-detr-r50"
        )
    return found


def _settings(detector: Detector, kind: str) -> dict[str, Any]:
    """The fields of the config of transformers."""
    model: Any = detector.config.model
    part, cross = model.backbone, model.decoder.cross_attention
    backbone = {
        "model_type": "timm_backbone",
        "backbone": part.name,
        "features_only": True,
        "use_pretrained_backbone": False,
        "out_indices": [stride.bit_length() - 2 for stride in part.strides],
        **({"output_stride": part.output_stride} if part.output_stride != 32 else {}),
    }
    names = dict(enumerate(detector.names))
    of_kind: dict[str, Any] = {}
    if kind == "DabDetr":
        width = model.position_temperature_width
        of_kind = {
            "temperature_height": round(model.position_temperature),
            "temperature_width": round(model.position_temperature if width is None else width),
            "random_refpoints_xy": model.queries.fixed_centres,
            "num_patterns": model.queries.patterns,
            "keep_query_pos": cross.position_every_layer,
            "normalize_before": model.encoder.norm,
        }
    if kind == "DeformableDetr":
        of_kind = {
            "num_feature_levels": model.encoder.levels,
            "encoder_n_points": model.encoder.points,
            "decoder_n_points": cross.points,
            "with_box_refine": model.decoder.update_anchors,
        }
    return {
        "backbone_config": backbone,
        "num_queries": model.queries.count,
        "encoder_layers": model.encoder.layers,
        "decoder_layers": model.decoder.layers,
        "encoder_ffn_dim": model.feedforward,
        "decoder_ffn_dim": model.feedforward,
        "encoder_attention_heads": model.heads,
        "decoder_attention_heads": model.heads,
        "activation_function": model.activation,
        "dropout": model.dropout,
        "hidden_size" if kind == "DabDetr" else "d_model": model.width,
        "id2label": names,
        "label2id": {name: label for label, name in names.items()},
        **of_kind,
    }


def _renamed(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], kind: str) -> State:
    """Our tensors under their names; ValueError for a name that the other side does not have."""
    official = {key: rename(key, TRANSFORMERS) for key in theirs}
    table = official_table(official.values())
    state: State = {}
    used: set[str] = set()
    for key, name in official.items():
        mine = rename(name, table)
        if mine not in ours and ".heads." in mine:  # one head for all layers
            parts = mine.split(".")  # decoder.heads.boxes.5.0.weight
            mine = ".".join((*parts[:3], "0", *parts[4:]))
        tensor = ours.get(mine)
        if mine == "queries.positions" and kind == "DeformableDetr":
            tensor = torch.cat((ours["queries.positions"], ours["queries.content"]), dim=1)
            used.add("queries.content")
        if tensor is None or tensor.shape != theirs[key].shape:
            raise ValueError(
                f"transformers' {kind} needs {key} {list(theirs[key].shape)}, which these weights "
                "do not have; they cannot be converted"
            )
        state[key] = tensor.detach().cpu()
        used.add(mine)
    needed = {key for key in ours if not key.startswith(_TRAINING)}
    unused = sorted(key for key in needed - used if not key.endswith("num_batches_tracked"))
    if unused:
        raise ValueError(
            f"transformers' {kind} has no place for {unused[0]} (of "
            f"{counted(len(unused), 'tensor')}); these weights cannot be converted"
        )
    return state


def _gap(peer: Any, detector: Detector) -> float:
    """The largest difference of boxes and class probabilities on one random image."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, 128, 160, generator=random)
    padding = torch.zeros(1, 128, 160, dtype=torch.bool)
    detector = detector.cpu().eval()
    with torch.no_grad():
        theirs = peer(pixels)
        mine = detector(Images(pixels, padding))
    scores = torch.sigmoid
    if detector.config.classifier == "softmax":
        scores = lambda logits: logits.softmax(-1)  # noqa: E731
    boxes = (theirs.pred_boxes - mine.boxes[-1]).abs().max()
    return max(float(boxes), float((scores(theirs.logits) - scores(mine.logits[-1])).abs().max()))


def _card(detector: Detector) -> str:
    """The model card of the hub."""
    config = detector.config
    names = "\n".join(f"- {markdown(name)}" for name in detector.names)
    about = markdown(config.source or "An object detector")
    return f"""---
library_name: transformers
pipeline_tag: object-detection
tags: [object-detection, dabdetr, safetensors]
---

# {markdown(config.name)}

{about}. Trained with dabdetr and converted for transformers.

```python
from transformers import pipeline

detect = pipeline("object-detection", "THIS FOLDER OR ITS NAME ON THE HUB")
print(detect("image.jpg", threshold={config.inference.conf}))
```

## Classes

{names}
"""
