"""Settings of image preparation, augmentation, losses, training and inference."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dabdetr.config.base import Section

ClassName = Annotated[str, Field(coerce_numbers_to_str=True)]
"""Name of a class; a number, as YAML reads the name 3, is converted to text."""


_Mean = Annotated[float, Field(ge=-1000, le=1000)]
_Std = Annotated[float, Field(ge=0.001, le=1000)]  # 1/255 for networks that take values up to 255


class Image(Section):
    """Preparation of an image as the network's input."""

    size: int = Field(default=800, ge=16, description="shorter side in pixels")
    max_size: int = Field(default=1333, ge=16, description="maximum of the longer side in pixels")
    mean: tuple[_Mean, _Mean, _Mean] = Field(
        default=(0.485, 0.456, 0.406),
        description="mean that is subtracted from red, green and blue in 0–1",
    )
    std: tuple[_Std, _Std, _Std] = Field(
        default=(0.229, 0.224, 0.225),
        description="standard deviation by which the result is divided",
    )
    object_size: float | None = Field(
        default=None,
        gt=0,
        description="desired size of small objects in pixels: training raises size if the smaller "
        "quarter of the objects would fall below it; null: size is not changed",
    )
    bits: int | None = Field(
        default=None,
        ge=8,
        le=16,
        description="number of bits that 16-bit images use; null: training determines it from the "
        "data",
    )

    @model_validator(mode="after")
    def _max_size_fits(self) -> Self:
        if self.max_size < self.size:
            raise ValueError(
                f"image.max_size {self.max_size} is below image.size {self.size}; raise it"
            )
        return self


Classification = Literal["focal", "quality", "mal", "softmax"]


class Loss(Section):
    """Weights of the loss terms and of the matching costs (DAB-DETR: 1, 5, 2 and 2, 5, 2)."""

    classification: Classification = Field(
        default="focal",
        description="focal: focal loss; quality: focal loss whose target is the box's IoU; mal: "
        "target is the IoU to the power of gamma, at full weight for bad boxes too; "
        "softmax: cross-entropy with an additional last logit for no object",
    )
    class_weight: float = Field(default=1.0, ge=0, description="weight of the class loss")
    class_weights: dict[ClassName, Annotated[float, Field(ge=0)]] = Field(
        default={},
        description="weight of single classes' objects in the class loss, by name, such as "
        "{Platelets: 3}; others: 1",
    )
    box_weight: float = Field(default=5.0, ge=0, description="weight of the L1 loss of boxes")
    giou_weight: float = Field(
        default=2.0, ge=0, description="weight of the loss 1 − GIoU of boxes"
    )
    class_cost: float = Field(default=2.0, ge=0, description="matching: weight of the class cost")
    box_cost: float = Field(default=5.0, ge=0, description="matching: weight of the L1 cost")
    giou_cost: float = Field(default=2.0, ge=0, description="matching: weight of the GIoU cost")
    alpha: float = Field(default=0.25, ge=0, le=1, description="focal loss: weight of positives")
    gamma: float = Field(
        default=2.0, ge=0, description="focal loss: exponent that reduces the weight of easy cases"
    )
    iou_eps: float = Field(
        default=1e-6, ge=0, description="number added to the denominators of IoU and GIoU"
    )
    no_object_weight: float = Field(
        default=0.1, gt=0, le=1, description="softmax: weight of queries without an object"
    )

    collaborative_weight: float = Field(
        default=2.0,
        ge=0,
        description="weight of the losses of the collaborative heads, times the number of decoder "
        "layers (Co-DETR's λ2)",
    )

    @model_validator(mode="after")
    def _some_cost(self) -> Self:
        if not self.class_cost + self.box_cost + self.giou_cost:
            raise ValueError("loss.class_cost, box_cost and giou_cost are all 0; give one of them")
        return self


class Augment(Section):
    """Random changes of training images; boxes move with the pixels."""

    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a horizontal flip")
    sizes: tuple[int, ...] = Field(
        default=(), description="shorter sides to choose from at random; empty: image.size"
    )
    crop: float = Field(default=0.5, ge=0, le=1, description="probability of a random crop")
    crop_scale: tuple[float, float] = Field(
        default=(0.5, 1.0), description="range of the crop's side, as a share of the image's"
    )
    colour: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="probability of random changes of brightness, contrast and saturation",
    )


class Training(Section):
    """Duration, optimizer, learning rates, initial weights and checkpoints of a training."""

    epochs: int = Field(default=50, ge=1, description="passes over the images")
    images: int | None = Field(
        default=None,
        ge=1,
        description="total number of images to train on: if epochs are not given, their number "
        "follows from it (at most 300)",
    )
    epoch_images: int | None = Field(
        default=None,
        ge=1,
        description="number of images per epoch, a different part each time; null: all",
    )
    balance: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="class-balanced sampling: images of classes that fewer than this share of the "
        "images have are drawn more often, others less (repeat factors of LVIS, by the square "
        "root); null: each image once an epoch",
    )
    batch: int = Field(default=2, ge=1, description="images per step")
    effective_batch: int = Field(
        default=16, ge=1, description="images per update; gradients are accumulated over steps"
    )
    lr: float = Field(
        default=1e-4, gt=0, description="learning rate (AdamW) of everything but the backbone"
    )
    backbone_lr: float = Field(
        default=1e-5, ge=0, description="learning rate of the backbone; 0: frozen"
    )
    offsets_factor: float = Field(
        default=1.0,
        gt=0,
        description="factor of the learning rate for sampling offsets and learned points",
    )
    lr_factors: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default={},
        description="factor of the learning rate of parameters whose names start so, such as "
        "{backbone: 0.5, decoder.heads: 2}; the longest name counts; 0: frozen",
    )
    train_only: tuple[str, ...] = Field(
        default=(),
        description="train only parameters whose names start with one of these; empty: all",
    )
    weight_decay: float = Field(default=1e-4, ge=0, description="weight decay of AdamW")
    warmup: int | None = Field(
        default=0,
        ge=0,
        description="number of updates over which the learning rate rises from 0; null: a tenth of "
        "the training's, at most 200",
    )
    schedule: Literal["step", "cosine", "constant"] = Field(
        default="step",
        description="step: the learning rate falls once, at drop; cosine: it falls steadily to 0; "
        "constant: it stays",
    )
    drop: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="step: share of the epochs after which the learning rate is multiplied by 0.1",
    )
    clip: float = Field(
        default=0.1, ge=0, description="maximum norm of the gradient; 0: no clipping"
    )
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay of the moving average of weights; null: no average",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto",
        description="number format of training; auto: bf16 on devices where it is faster",
    )
    pad_multiple: int | None = Field(
        default=None,
        ge=1,
        description="height and width of a batch are padded to multiples of this number of pixels: "
        "a GPU needs time to prepare its convolutions for each new input size; null: "
        "64 on a CUDA GPU, otherwise 1",
    )
    recompute: tuple[Literal["backbone", "encoder", "decoder"], ...] = Field(
        default=(),
        description="parts whose activations are computed again in the backward pass (activation "
        "checkpointing): less memory, more time",
    )
    start: str = Field(
        default="imagenet",
        description="initial weights: 'imagenet', 'none', or a file or name of weights",
    )
    class_start: Literal["random", "data"] = Field(
        default="random",
        description="initial class heads of classes that the weights do not know: random, or fitted"
        " to some training images before the first step (data)",
    )
    seed: int = Field(default=42, ge=0, description="seed of the random number generators")
    workers: int = Field(default=0, ge=0, description="number of processes that read images")
    patience: int | None = Field(
        default=None,
        ge=1,
        description="number of epochs without a higher AP after which training stops; null: never",
    )
    checkpoint_minutes: float = Field(
        default=10.0,
        ge=0,
        description="minutes between checkpoints within an epoch; 0: after every step",
    )


class Inference(Section):
    """Thresholds and limits in the step from predictions to detections."""

    max_det: int = Field(default=300, ge=1, description="maximum number of detections per image")
    conf: float = Field(default=0.3, ge=0, le=1, description="lowest score shown")
    class_conf: dict[ClassName, float] = Field(
        default={}, description="lowest score shown for single classes, by name"
    )
    calibration: tuple[float, float] | None = Field(
        default=None,
        description="scale and shift of a score's logit after which a score is the share of such "
        "detections that are right; null: scores are not changed",
    )
    nms: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="IoU above which the lower-scored of two boxes of a class is removed; null: "
        "none is",
    )
