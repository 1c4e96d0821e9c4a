"""Settings of a model's parts, one class for each kind; contradictions name both fields."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, Tag, model_validator

from dabdetr.config.base import Section, kinds
from dabdetr.text import shown

_LOADING = frozenset({"checkpoint_path", "cache_dir", "features_only", "out_indices"})
"""Arguments of timm's create_model that are not passed to the network."""
MOST_LAYERS = 200
"""More layers than this are taken for a mistake; no stage of a known network has so many."""


class Backbone(Section):
    """An image network of timm, with feature maps at some of its strides."""

    kind: Literal["timm"] = "timm"
    name: str = Field(default="resnet50", description="name of a timm model")
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments for timm")
    strides: tuple[int, ...] = Field(
        default=(32,), description="strides of the feature maps that are used, finest first"
    )
    output_stride: Literal[8, 16, 32] = Field(
        default=32, description="16: the last stage is dilated (DC5)"
    )
    freeze_stride: int = Field(
        default=4, ge=0, description="stages up to this stride are frozen; 0: none"
    )
    norm: Literal["frozen", "trained"] = Field(
        default="frozen",
        description="frozen: batch norms keep their statistics and weights; trained: they are "
        "trained",
    )
    map_norm: bool = Field(
        default=False,
        description="apply layer norm to every feature map, as detectors with Swin and ConvNeXt do",
    )

    @model_validator(mode="after")
    def _strides_exist(self) -> Self:
        _check_timm(self.name, self.options)
        _rising(self.strides)
        if self.strides[-1] > self.output_stride:
            raise ValueError(
                f"model.backbone.strides asks for stride {self.strides[-1]}, but "
                f"model.backbone.output_stride is {self.output_stride}; lower the one or raise the "
                "other"
            )
        return self


class Vit(Section):
    """A plain vision transformer of timm with a simple feature pyramid (ViTDet)."""

    kind: Literal["vit"] = "vit"
    name: str = Field(
        default="vit_small_patch14_dinov2",
        description="timm name of a plain ViT with learned position embeddings",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments for timm")
    strides: tuple[int, ...] = Field(
        default=(14,),
        description="strides of the feature maps, finest first: a quarter, a half, one or two times"
        " the patch size (patch 14: 7, 14, 28; patch 16: 4, 8, 16, 32)",
    )
    channels: int = Field(default=256, ge=1, description="channels of every feature map")
    window: int | None = Field(
        default=14,
        ge=1,
        description="side of attention windows in patches, for inputs larger than one window; null:"
        " every block attends globally",
    )
    global_blocks: int = Field(
        default=4,
        ge=0,
        description="number of blocks with global attention, evenly spaced and including the last; "
        "the others attend within windows",
    )
    freeze_blocks: int = Field(
        default=0,
        ge=0,
        description="number of first blocks that are frozen, with the embeddings; 0: none",
    )

    @model_validator(mode="after")
    def _strides_rise(self) -> Self:
        _check_timm(self.name, self.options)
        _rising(self.strides)
        return self


def _check_timm(name: str, options: dict[str, Any]) -> None:
    """ValueError for names and options by which timm would load files or query the hub.

    A config comes from untrusted weights files, so it must not cause downloads or reads.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(
            f"model.backbone.name should be a name of timm's own, without address or folder; got "
            f"{shown(name)}"
        )
    for key in options:
        if key.startswith("pretrained") or key in _LOADING:
            raise ValueError(
                f"model.backbone.options has {shown(key)}, by which timm loads files; weights to "
                "start from are named by training.start, or --from"
            )
    for key in [key for key in options if key == "layers" or key.startswith("depth")]:
        each = options[key] if isinstance(options[key], list | tuple) else [options[key]]
        if any(isinstance(number, int | float) and number > MOST_LAYERS for number in each):
            raise ValueError(
                f"model.backbone.options has {shown(key)} of {shown(options[key])}; at most "
                f"{MOST_LAYERS} layers are built"
            )


def _rising(strides: tuple[int, ...]) -> None:
    if not strides or sorted(set(strides)) != list(strides):
        raise ValueError(f"model.backbone.strides must rise and not repeat; got {strides}")


BackboneKind = Annotated[
    Annotated[Backbone, Tag("timm")] | Annotated[Vit, Tag("vit")], kinds("timm", "vit")
]


class DenseEncoder(Section):
    """Self-attention over all tokens of one map."""

    kind: Literal["dense"] = "dense"
    layers: int = Field(
        default=6,
        ge=0,
        le=MOST_LAYERS,
        description="number of layers; 0: the feature map is used unchanged",
    )
    scale_positions: bool = Field(
        default=True, description="scale positional encodings by the content"
    )
    norm: bool = Field(default=False, description="normalise the tokens after the last layer")


class DeformableEncoder(Section):
    """Self-attention that samples a few locations of every level (Deformable DETR §4.1)."""

    kind: Literal["deformable"] = "deformable"
    layers: int = Field(
        default=6,
        ge=0,
        le=MOST_LAYERS,
        description="number of layers; 0: the feature maps are used unchanged",
    )
    levels: int = Field(
        default=4,
        ge=1,
        le=16,
        description="number of feature maps; those beyond backbone.strides are computed from the "
        "last one",
    )
    skip_levels: int = Field(
        default=0,
        ge=0,
        description="number of finest levels whose tokens are read but not changed: most of the "
        "encoder's time is spent on the finest level",
    )
    points: int = Field(default=4, ge=1, description="sampling points per head and level")
    norm: bool = Field(default=False, description="normalise the tokens after the last layer")

    @property
    def scale_positions(self) -> bool:
        """Only dense encoders scale position codes."""
        return False

    @model_validator(mode="after")
    def _some_level_changes(self) -> Self:
        if self.layers and self.skip_levels >= self.levels:
            raise ValueError(
                f"model.encoder.skip_levels is {self.skip_levels} of {self.levels} levels, so the "
                "layers would change nothing; lower it, or set model.encoder.layers to 0"
            )
        return self


class AddAttention(Section):
    """Cross-attention with positions added to queries and keys (DETR)."""

    kind: Literal["add"] = "add"


class ConcatAttention(Section):
    """Cross-attention with content and position concatenated in each head (Conditional DETR)."""

    kind: Literal["concat"] = "concat"
    modulate_size: bool = Field(
        default=True, description="divide the positional part by the anchor's width and height"
    )
    position_every_layer: bool = Field(
        default=False,
        description="add the positional query to the content in all layers, not only in the first",
    )


class DeformableAttention(Section):
    """Cross-attention that samples a few locations around the anchor (Deformable DETR §4.1)."""

    kind: Literal["deformable"] = "deformable"
    points: int = Field(default=4, ge=1, description="sampling points per head and level")


CrossAttention = Annotated[
    Annotated[AddAttention, Tag("add")]
    | Annotated[ConcatAttention, Tag("concat")]
    | Annotated[DeformableAttention, Tag("deformable")],
    kinds("concat", "add", "deformable"),
]
EncoderKind = Annotated[
    Annotated[DenseEncoder, Tag("dense")] | Annotated[DeformableEncoder, Tag("deformable")],
    kinds("dense", "deformable"),
]


class LearnedQueries(Section):
    """Queries that are parameters: content, and an anchor or a plain positional query."""

    kind: Literal["learned"] = "learned"
    count: int = Field(
        default=300, ge=1, description="number of queries, the maximum number of detections"
    )
    anchor: Literal["box", "point"] | None = Field(
        default="box", description="box, point, or null: the positional query itself is learned"
    )
    point_layers: int = Field(
        default=2,
        ge=1,
        le=MOST_LAYERS,
        description="layers of the MLP from positional query to point",
    )
    content: Literal["zeros", "learned", "unknown"] = Field(
        default="zeros",
        description="initial content; unknown: the row for no class of the label embedding",
    )
    patterns: int = Field(
        default=0,
        ge=0,
        description="number of pattern embeddings that are combined with every anchor; 0: none",
    )
    start: Literal["normal", "uniform", "uniform_small"] = Field(
        default="normal",
        description="initial anchors: normal: logits from N(0, 1); uniform: uniform centres; "
        "uniform_small: small sizes as well",
    )
    fixed_centres: bool = Field(
        default=False, description="keep the initial centres; only sizes are learned"
    )

    @model_validator(mode="after")
    def _fixed_centres_need_boxes(self) -> Self:
        if self.fixed_centres and self.anchor != "box":
            raise ValueError(
                f"model.queries.fixed_centres is true and model.queries.anchor is {self.anchor!r}: "
                "only boxes have a centre and a size; set anchor to 'box' or fixed_centres to false"
            )
        return self

    @model_validator(mode="after")
    def _patterns_need_boxes(self) -> Self:
        if self.patterns and self.anchor != "box":
            raise ValueError(
                f"model.queries.patterns is {self.patterns} and model.queries.anchor is "
                f"{self.anchor!r}: only boxes take several patterns; set anchor to 'box'"
            )
        return self


class EncoderQueries(Section):
    """Queries from the encoder's best tokens, each with a proposed box (two-stage)."""

    kind: Literal["from_encoder"] = "from_encoder"
    count: int = Field(default=900, ge=1, description="number of proposals that become queries")
    per_object: float | None = Field(
        default=None,
        gt=0,
        description="minimum number of queries per object of the fullest image: training raises "
        "count for crowded data; null: count is not changed",
    )
    content: Literal["learned", "box", "token"] = Field(
        default="learned",
        description="learned: an embedding per query (mixed query selection); box: computed from "
        "the proposed box, like the positional query; token: the proposing token",
    )
    rank: Literal["classes", "objectness", "object"] = Field(
        default="classes",
        description="score that ranks tokens and that proposals learn. classes: the best class "
        "score; objectness: the first logit, trained as one class for all objects on "
        "all tokens; object: a head of one class, trained on the selected tokens, which"
        " serves any set of classes",
    )
    distinct: bool = Field(
        default=False,
        description="prefer tokens that score higher than their neighbours of the level, so that "
        "fewer proposals are near-duplicates",
    )

    @property
    def anchor(self) -> Literal["box"]:
        """Proposals are boxes."""
        return "box"

    @property
    def patterns(self) -> int:
        """Each proposal is one query, so there are no patterns."""
        return 0


QueriesKind = Annotated[
    Annotated[LearnedQueries, Tag("learned")] | Annotated[EncoderQueries, Tag("from_encoder")],
    kinds("learned", "from_encoder"),
]


class Decoder(Section):
    """The decoder layers."""

    layers: int = Field(
        default=6,
        ge=1,
        le=MOST_LAYERS,
        description="number of decoder layers; each predicts classes and boxes",
    )
    cross_attention: CrossAttention = Field(
        default=ConcatAttention(), description="kind of cross-attention"
    )
    modulate_position: Literal["content", "scalar", "layer"] | None = Field(
        default="content",
        description="factor of the positional encoding (deformable: of the positional query): a "
        "vector or number computed from the content, a learned vector per layer, or "
        "none",
    )
    norm: bool = Field(default=True, description="normalise the content before the heads")
    update_anchors: bool = Field(
        default=True, description="each layer moves the anchors for the next layer"
    )
    look_forward_twice: bool = Field(
        default=True, description="the box loss of a layer also trains the layer before it"
    )
    relation: bool = Field(
        default=False,
        description="bias self-attention by the relative position of two queries' boxes",
    )
    duplicate_removal: bool = Field(
        default=False,
        description="lower the score of a query if a better query has nearly the same box; by how "
        "much is learned",
    )

    @model_validator(mode="after")
    def _look_forward_fits(self) -> Self:
        if self.look_forward_twice and not self.update_anchors:
            raise ValueError(
                "model.decoder.look_forward_twice is true, model.decoder.update_anchors is false: "
                "anchors that never move have nothing to look forward to; switch "
                "look_forward_twice off"
            )
        return self


class Denoising(Section):
    """Denoising: noisy copies of the objects as additional queries in training (DN-DETR)."""

    kind: Literal["dn"] = "dn"
    groups: int = Field(default=5, ge=1, description="number of noisy copies of every object")
    label_noise: float = Field(
        default=0.2, ge=0, le=1, description="probability that the class of a copy is replaced"
    )
    box_noise: float = Field(
        default=0.4,
        ge=0,
        description="largest shift of the centre, in half sides, and largest change of the size, in"
        " sides",
    )


class ContrastiveDenoising(Section):
    """Contrastive denoising: near copies of objects to restore, far ones to reject (DINO)."""

    kind: Literal["contrastive"] = "contrastive"
    number: int = Field(
        default=100,
        ge=1,
        description="number of near copies per image, from which the number of groups follows; "
        "below 50: half the number of groups, whatever the number of objects",
    )
    label_noise: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="probability that the class of a copy is replaced (half of the reference's "
        "label_noise_ratio)",
    )
    box_noise: float = Field(
        default=1.0,
        ge=0,
        description="shift of the edges in half sides: up to this for near copies, up to twice for "
        "far ones",
    )


DenoisingKind = Annotated[
    Annotated[Denoising, Tag("dn")] | Annotated[ContrastiveDenoising, Tag("contrastive")],
    kinds("dn", "contrastive"),
]


class Collaborative(Section):
    """Heads of classic detectors on the encoder's maps, in training only (Co-DETR).

    Each head trains the encoder, and its positives are additional queries of the decoder.
    """

    heads: tuple[Literal["rcnn", "atss"], ...] = Field(
        default=("rcnn", "atss"), description="rcnn (Faster R-CNN) and atss"
    )
    max_positives: int = Field(
        default=300, ge=1, description="maximum number of queries from the positives of one head"
    )
    features: bool = Field(
        default=True,
        description="add image features at the positives to the content of those queries",
    )
    regions: int = Field(default=512, ge=1, description="rcnn: number of regions per image")
    region_width: int = Field(
        default=1024, ge=1, description="rcnn: width of its two fully connected layers"
    )

    @model_validator(mode="after")
    def _heads_differ(self) -> Self:
        if not self.heads or len(set(self.heads)) != len(self.heads):
            raise ValueError(
                f"model.collaborative.heads must name at least one, none twice; got {self.heads}; "
                "set model.collaborative to null for none"
            )
        return self
