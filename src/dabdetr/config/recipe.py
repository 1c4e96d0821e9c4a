"""How images are prepared, what is learned from them, and how the model is trained and asked."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dabdetr.config.base import Section


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
    object_size: float | None = Field(
        default=None,
        gt=0,
        description="pixels that small objects of the data should measure: where set, training "
        "raises size for data whose smaller quarter falls short; null: size is as it stands",
    )
    bits: int | None = Field(
        default=None,
        ge=8,
        le=16,
        description="bits that values of 16-bit files use; training finds it out where it is null",
    )

    @model_validator(mode="after")
    def _sides(self) -> Self:
        if self.max_size < self.size:
            raise ValueError(
                f"image.max_size {self.max_size} is below image.size {self.size}; raise it"
            )
        return self


Classification = Literal["focal", "quality", "mal", "softmax"]


class Loss(Section):
    """Weights of the loss terms and of the assignment's costs (DAB-DETR: 1, 5, 2 and 2, 5, 2)."""

    classification: Classification = Field(
        default="focal",
        description="quality: focal, but an object's score should be its box's IoU; mal: its IoU "
        "to the power of gamma, at full weight however bad the box; softmax: classes exclude one "
        "another, and there is one logit more, the last: no object",
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

    epochs: int = Field(default=50, ge=1, description="passes over the images")
    images: int | None = Field(
        default=None,
        ge=1,
        description="images to see in all: where epochs are not asked for, they are as many as "
        "that takes (300 at most), so that little data are seen more often",
    )
    epoch_images: int | None = Field(
        default=None,
        ge=1,
        description="images in an epoch, others in each; null: all",
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
        description="parts whose blocks the backward pass computes again (activation "
        "checkpointing): less memory, more time",
    )
    start: str = Field(
        default="imagenet", description="'imagenet', 'none', or a file or name of weights"
    )
    class_start: Literal["random", "data"] = Field(
        default="random",
        description="class heads of classes that the weights do not know: random, or solved from "
        "some training images before the first step (data)",
    )
    seed: int = Field(default=42, ge=0, description="seed of all random numbers")
    workers: int = Field(default=0, ge=0, description="processes that read images")
    patience: int | None = Field(
        default=None, ge=1, description="epochs without a higher AP after which training ends"
    )
    checkpoint_minutes: float = Field(
        default=10.0, ge=0, description="between checkpoints within an epoch; 0: at every step"
    )


class Inference(Section):
    """From predictions to detections."""

    max_det: int = Field(default=300, ge=1, description="detections an image at most")
    conf: float = Field(default=0.3, ge=0, le=1, description="lowest score shown")
    class_conf: dict[str, float] = Field(
        default={}, description="lowest score shown of single classes, by name, where it is another"
    )
    calibration: tuple[float, float] | None = Field(
        default=None,
        description="scale and shift of a score's logit, so that a score is how often a detection "
        "of it is right; null: scores as the model gives them",
    )
    nms: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="IoU from which the lesser of two boxes of a class is left out; null: none is",
    )
