"""Every choice of a detector and its training, as frozen pydantic models; load, override, save.

A part that is absent is ``None``; contradictions raise and name both fields.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from dabdetr.config.backbones import Backbone, Vit
from dabdetr.config.base import NO_FIELD, Section
from dabdetr.config.groups import Collaborative, ContrastiveDenoising, Denoising
from dabdetr.config.model import (
    AddAttention,
    ConcatAttention,
    Decoder,
    DeformableAttention,
    DeformableEncoder,
    DenseEncoder,
    Model,
)
from dabdetr.config.queries import EncoderQueries, LearnedQueries
from dabdetr.files import write_atomically

__all__ = [
    "AddAttention",
    "Augment",
    "Backbone",
    "Collaborative",
    "ConcatAttention",
    "Config",
    "ContrastiveDenoising",
    "Decoder",
    "DeformableAttention",
    "DeformableEncoder",
    "Denoising",
    "DenseEncoder",
    "EncoderQueries",
    "Image",
    "Inference",
    "LearnedQueries",
    "Loss",
    "Model",
    "Section",
    "Training",
    "Vit",
    "load",
    "parse",
]


class Image(Section):
    """How an image becomes the network's input."""

    size: int = Field(default=800, ge=16, description="shorter side in pixels")
    max_size: int = Field(default=1333, ge=16, description="longer side at most")
    mean: tuple[float, float, float] = Field(
        default=(0.485, 0.456, 0.406), description="taken from red, green, blue of 0–1"
    )
    std: tuple[float, float, float] = Field(
        default=(0.229, 0.224, 0.225), description="what they are then divided by"
    )

    @model_validator(mode="after")
    def _sides(self) -> Self:
        if self.max_size < self.size:
            raise ValueError(
                f"image.max_size {self.max_size} is below image.size {self.size}; raise it"
            )
        return self


class Loss(Section):
    """Weights of the loss terms and of the assignment's costs (DAB-DETR: 1, 5, 2 and 2, 5, 2)."""

    classification: Literal["focal", "quality", "mal", "softmax"] = Field(
        default="focal",
        description="quality: focal, but an object's score should be its box's IoU; mal: its IoU "
        "to the power of gamma, at full weight however bad the box; softmax needs "
        "model.classifier softmax",
    )
    class_weight: float = Field(default=1.0, ge=0, description="weight of the class loss")
    box_weight: float = Field(default=5.0, ge=0, description="weight of the boxes' L1 distance")
    giou_weight: float = Field(default=2.0, ge=0, description="weight of 1 − GIoU of the boxes")
    class_cost: float = Field(default=2.0, ge=0, description="assignment: weight of the class")
    box_cost: float = Field(default=5.0, ge=0, description="assignment: weight of the L1 distance")
    giou_cost: float = Field(default=2.0, ge=0, description="assignment: weight of GIoU")
    alpha: float = Field(default=0.25, ge=0, le=1, description="focal loss: weight of objects")
    gamma: float = Field(default=2.0, ge=0, description="focal loss: how much easy cases fade")
    iou_eps: float = Field(default=1e-6, ge=0, description="added to IoU and GIoU denominators")
    proposal_labels: Literal["classes", "objects"] = Field(
        default="classes", description="what two-stage proposals learn: classes, or one for all"
    )
    no_object_weight: float = Field(
        default=0.1, gt=0, le=1, description="softmax classifier: weight of queries without object"
    )

    collaborative_weight: float = Field(
        default=2.0,
        ge=0,
        description="of the collaborative heads' own losses, times decoder layers (Co-DETR's λ2)",
    )

    @model_validator(mode="after")
    def _some_cost(self) -> Self:
        if not self.class_cost + self.box_cost + self.giou_cost:
            raise ValueError("loss.class_cost, box_cost and giou_cost are all 0; give one of them")
        return self


class Augment(Section):
    """Random changes of training images; boxes move with the pixels."""

    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a left-right flip")
    sizes: tuple[int, ...] = Field(
        default=(), description="shorter sides to draw from; empty: image.size"
    )
    crop: float = Field(default=0.5, ge=0, le=1, description="probability of a random crop")
    crop_scale: tuple[float, float] = Field(
        default=(0.5, 1.0), description="crop side, of the image's"
    )
    colour: float = Field(
        default=0.0, ge=0, le=1, description="brightness, contrast, saturation jitter"
    )


class Training(Section):
    """How long, how fast, from where."""

    retired: ClassVar[dict[str, str]] = {"pictures": "images"}

    epochs: int = Field(default=50, ge=1, description="passes over the images")
    images: int | None = Field(
        default=None,
        ge=1,
        description="images to see in all: where epochs are not asked for, they are as many as "
        "that takes, so that little data are seen more often",
    )
    batch: int = Field(default=2, ge=1, description="images in a step")
    effective_batch: int = Field(default=16, ge=1, description="images in an update (accumulation)")
    lr: float = Field(
        default=1e-4, gt=0, description="learning rate (AdamW) of all but the backbone"
    )
    backbone_lr: float = Field(default=1e-5, ge=0, description="0 freezes the backbone")
    offsets_factor: float = Field(
        default=1.0,
        gt=0,
        description="rate of deformable attention's offsets and of learned points, of lr",
    )
    train_only: tuple[str, ...] = Field(
        default=(), description="parameters to train, by how their names start; empty: all"
    )
    weight_decay: float = Field(default=1e-4, ge=0, description="AdamW's decay of weights")
    warmup: int = Field(default=0, ge=0, description="updates over which the rate rises from 0")
    schedule: Literal["step", "cosine", "constant"] = Field(
        default="step", description="how the rate falls: at once (drop), evenly to 0, or never"
    )
    drop: float = Field(
        default=0.8, gt=0, le=1, description="step: share of the epochs before rate ×0.1"
    )
    clip: float = Field(default=0.1, ge=0, description="largest gradient norm; 0: no clipping")
    ema: float | None = Field(default=None, gt=0, lt=1, description="decay of averaged weights")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="numbers of a step; auto: bf16 where the device gains by it"
    )
    recompute: tuple[Literal["backbone", "encoder", "decoder"], ...] = Field(
        default=(),
        description="parts whose blocks the backward pass computes anew (activation "
        "checkpointing): less memory, more time",
    )
    start: str = Field(
        default="imagenet", description="'imagenet', 'none', or a file or name of weights"
    )
    seed: int = Field(default=42, ge=0, description="seed of all random numbers")
    workers: int = Field(default=0, ge=0, description="processes that read images")


class Inference(Section):
    """From predictions to detections."""

    max_det: int = Field(default=300, ge=1, description="detections an image at most")
    conf: float = Field(default=0.3, ge=0, le=1, description="lowest score shown")


class Config(Section):
    """One family member: the model, and the recipe that trains it."""

    name: str = Field(default="custom", description="of the member; runs are called after it")
    source: str = Field(default="", description="paper or recipe the values come from")
    published_ap: float | None = Field(
        default=None, description="COCO val2017 AP of the source, if any"
    )
    model: Model = Field(default=Model(), description="what is computed")
    image: Image = Field(default=Image(), description="how images are made the network's input")
    loss: Loss = Field(default=Loss(), description="what is learned: weights of loss and costs")
    augment: Augment | None = Field(
        default=Augment(), description="random changes of training images; null or none: none"
    )
    training: Training = Field(default=Training(), description="how long, how fast, from where")
    inference: Inference = Field(default=Inference(), description="from predictions to detections")

    @model_validator(mode="after")
    def _one_classifier(self) -> Self:
        queries = self.model.queries
        if queries.kind == "from_encoder" and (queries.rank == "classes") != (
            self.loss.proposal_labels == "classes"
        ):
            raise ValueError(
                f"model.queries.rank is {queries.rank!r} and loss.proposal_labels is "
                f"{self.loss.proposal_labels!r}: objectness goes with objects, classes with classes"
            )
        if (self.model.classifier == "softmax") != (self.loss.classification == "softmax"):
            raise ValueError(
                f"model.classifier is {self.model.classifier!r} and loss.classification is "
                f"{self.loss.classification!r}: softmax goes with softmax, sigmoid with focal "
                "or quality"
            )
        return self

    def override(self, assignments: Iterable[str]) -> Config:
        """A copy with ``path=value`` assignments applied; values are read as YAML.

        ``config.override(["training.lr=2e-4", "augment=null"])``
        """
        tree = self.model_dump(mode="json")
        for assignment in assignments:
            path, equals, text = assignment.partition("=")
            if not equals:
                raise ValueError(f"--set expects path=value; got {assignment!r}")
            node, keys = tree, path.strip().split(".")
            if keys[:1] == ["training"] and keys[1:] == ["pictures"]:
                keys[1] = "images"
            for depth, key in enumerate(keys):
                if not isinstance(node, dict) or key not in node:
                    known = ", ".join(node) if isinstance(node, dict) else "no field"
                    where = ".".join(keys[:depth]) or "the config"
                    raise ValueError(f"{where} has no field {key!r}; it has: {known}")
                if depth < len(keys) - 1:
                    node = node[key]
            try:
                node[keys[-1]] = _yaml_value(text)
            except yaml.YAMLError as error:
                raise ValueError(
                    f"--set {assignment!r} has a value that is not readable YAML{_where(error)}"
                ) from None
        return parse(tree, "config")

    def save(self, path: str | Path) -> None:
        """Write as YAML: to a temporary name first, then moved."""
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        write_atomically(path, text.encode())


def load(path: str | Path) -> Config:
    """Read a YAML config; missing fields take their defaults, unknown fields are errors."""
    try:
        tree = yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable YAML{_where(error)}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} should hold fields like 'model:' and 'training:'; it does not")
    return parse(tree, str(path))


def parse(tree: dict[str, Any], origin: str) -> Config:
    """A config from plain values; every error names its field in one sentence."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            where = _path(problem["loc"], tree)
            message = problem["msg"].removeprefix("Value error, ")
            given = problem["input"]
            shown = "" if isinstance(given, dict | BaseModel) else f" (got {given!r})"
            colon = "" if problem["type"] == NO_FIELD else ":"
            lines.append(f"{where}{colon} {message}{shown}")
        raise ValueError(f"{origin}: " + "; ".join(lines)) from None


def _path(place: Iterable[int | str], tree: Any) -> str:
    """Fields that lead to a fault in ``tree``; pydantic puts kinds of parts between them."""
    path = []
    for step in place:
        if isinstance(step, int) or (isinstance(tree, dict) and step in tree):
            path.append(str(step))
            tree = tree[step]
    return ".".join(path) or "config"


def _where(error: Exception) -> str:
    """Where YAML broke off, if it says so."""
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f"; see line {mark.line + 1}, column {mark.column + 1}"


def _yaml_value(text: str) -> Any:
    """YAML, with 1e-4 read as a number (YAML 1.1 wants a dot)."""
    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
