"""The parts of a model and the kinds of each; contradictions raise and name both fields."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, Tag, model_validator

from dabdetr.config.base import Section, kinds
from dabdetr.text import shown

_LOADING = frozenset({"checkpoint_path", "cache_dir", "features_only", "out_indices"})
"""Arguments of timm's create_model that are not the network's."""
MOST_LAYERS = 1000
"""Modules are made one by one: more than this is a mistake, and would take hours."""


class Backbone(Section):
    """An image network of timm, read at some of its strides."""

    kind: Literal["timm"] = "timm"
    name: str = Field(default="resnet50", description="timm model name")
    options: dict[str, Any] = Field(default_factory=dict, description="further timm arguments")
    strides: tuple[int, ...] = Field(
        default=(32,), description="strides of the maps handed on, fine first"
    )
    output_stride: Literal[8, 16, 32] = Field(
        default=32, description="16 dilates the last stage (DC5)"
    )
    freeze_stride: int = Field(
        default=4, ge=0, description="stages up to this stride stay frozen; 0: none"
    )
    norm: Literal["frozen", "trained"] = Field(default="frozen", description="what batch norms do")
    map_norm: bool = Field(
        default=False,
        description="layer norm on every map handed on, as detectors with Swin and ConvNeXt do",
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
    options: dict[str, Any] = Field(default_factory=dict, description="further timm arguments")
    strides: tuple[int, ...] = Field(
        default=(14,),
        description="strides of the maps handed on, fine first: a quarter of the patch, half of "
        "it, the patch, or twice as much (patch 14: 7, 14, 28; patch 16: 4, 8, 16, 32)",
    )
    channels: int = Field(default=256, ge=1, description="of every map handed on")
    window: int | None = Field(
        default=14,
        ge=1,
        description="patches on each side of the windows that attention keeps to where the input "
        "is larger than one; null: attention sees all patches in every block",
    )
    global_blocks: int = Field(
        default=4,
        ge=0,
        description="blocks that see all patches, evenly spaced, the last one among them; the "
        "others keep to their windows",
    )
    freeze_blocks: int = Field(
        default=0,
        ge=0,
        description="so many first blocks stay frozen, and with them the embeddings; 0: nothing",
    )

    @model_validator(mode="after")
    def _strides_rise(self) -> Self:
        _check_timm(self.name, self.options)
        _rising(self.strides)
        return self


def _check_timm(name: str, options: dict[str, Any]) -> None:
    """Refuse what has timm load files, or ask the hub: a config is data, and weights say of it."""
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
        default=6, ge=0, le=MOST_LAYERS, description="encoder layers; 0: the maps as they are"
    )
    scale_positions: bool = Field(default=True, description="content scales the position codes")
    norm: bool = Field(default=False, description="normalise the tokens after the last layer")


class DeformableEncoder(Section):
    """Every token samples a few places of every level (Deformable DETR §4.1)."""

    kind: Literal["deformable"] = "deformable"
    layers: int = Field(
        default=6, ge=0, le=MOST_LAYERS, description="encoder layers; 0: the maps as they are"
    )
    levels: int = Field(
        default=4,
        ge=1,
        le=16,
        description="maps; those beyond backbone.strides are made from the last",
    )
    points: int = Field(default=4, ge=1, description="places in a level for each head")
    norm: bool = Field(default=False, description="normalise the tokens after the last layer")

    @property
    def scale_positions(self) -> bool:
        """Only dense encoders scale position codes."""
        return False


class AddAttention(Section):
    """Cross-attention with positions added to queries and keys (DETR)."""

    kind: Literal["add"] = "add"


class ConcatAttention(Section):
    """Cross-attention whose heads see content and position side by side (Conditional DETR)."""

    kind: Literal["concat"] = "concat"
    modulate_size: bool = Field(
        default=True, description="anchor width and height shape the attention"
    )
    position_every_layer: bool = Field(
        default=False, description="add the positional query in all layers"
    )


class DeformableAttention(Section):
    """Cross-attention that samples a few places around the anchor (Deformable DETR §4.1)."""

    kind: Literal["deformable"] = "deformable"
    points: int = Field(default=4, ge=1, description="places in a level for each head")


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
    """Queries that are parameters: an anchor each (or a plain positional query), and content."""

    kind: Literal["learned"] = "learned"
    count: int = Field(default=300, ge=1, description="number of queries: most objects found")
    anchor: Literal["box", "point"] | None = Field(
        default="box", description="point or null: the positional query is learned as such"
    )
    point_layers: int = Field(
        default=2, ge=1, le=MOST_LAYERS, description="of the map: positional query → point"
    )
    content: Literal["zeros", "learned", "unknown"] = Field(
        default="zeros", description="unknown: the row of denoising's label table for no class"
    )
    patterns: int = Field(
        default=0, ge=0, description="contents tried at every anchor, added to its own; 0: none"
    )
    start: Literal["normal", "uniform", "uniform_small"] = Field(
        default="normal",
        description="initial anchors: N(0,1) logits; uniform centres; and small sizes too",
    )
    fixed_centres: bool = Field(
        default=False, description="anchors keep their first centres; sizes are learned"
    )

    @model_validator(mode="after")
    def _boxes(self) -> Self:
        if self.fixed_centres and self.anchor != "box":
            raise ValueError(
                f"model.queries.fixed_centres is true and model.queries.anchor is {self.anchor!r}: "
                "only boxes have a centre and a size; set anchor to 'box' or fixed_centres to false"
            )
        return self

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if self.patterns and self.anchor != "box":
            raise ValueError(
                f"model.queries.patterns is {self.patterns} and model.queries.anchor is "
                f"{self.anchor!r}: only boxes take several patterns; set anchor to 'box'"
            )
        return self


class EncoderQueries(Section):
    """Queries that the encoder proposes: its best tokens, each with a box (two-stage)."""

    kind: Literal["from_encoder"] = "from_encoder"
    count: int = Field(default=900, ge=1, description="number of proposals that become queries")
    per_object: float | None = Field(
        default=None,
        gt=0,
        description="queries for each object of the fullest image: where set, training raises "
        "count for crowded data; null: count is as it stands",
    )
    content: Literal["learned", "box", "token"] = Field(
        default="learned",
        description="learned: a table (mixed query selection); box: made, as the positional query "
        "is, of the proposed box; token: the token that proposes",
    )
    rank: Literal["classes", "objectness", "object"] = Field(
        default="classes",
        description="what makes a token good, and what proposals learn: classes, the best of which "
        "counts; objectness, the first logit alone, which stands for objects of all classes and "
        "learns from all tokens; or object, a head of one class that learns from the chosen tokens "
        "and serves any set of classes",
    )
    distinct: bool = Field(
        default=False,
        description="tokens that score less than a neighbour of their level propose only where "
        "there are too few others: proposals do not start as twins",
    )

    @property
    def anchor(self) -> Literal["box"]:
        """Proposals are boxes."""
        return "box"

    @property
    def patterns(self) -> int:
        """Proposals are asked once each."""
        return 0


QueriesKind = Annotated[
    Annotated[LearnedQueries, Tag("learned")] | Annotated[EncoderQueries, Tag("from_encoder")],
    kinds("learned", "from_encoder"),
]


class Decoder(Section):
    """The loop over decoder layers."""

    layers: int = Field(
        default=6, ge=1, le=MOST_LAYERS, description="decoder layers, each of which gives boxes"
    )
    cross_attention: CrossAttention = Field(
        default=ConcatAttention(), description="how queries look at the encoder's tokens"
    )
    modulate_position: Literal["content", "scalar", "layer"] | None = Field(
        default="content",
        description="what scales the position code (deformable: the positional query): a vector "
        "or number made of the content, a learned vector of each layer, or nothing",
    )
    norm: bool = Field(default=True, description="normalise content before the heads read it")
    update_anchors: bool = Field(
        default=True, description="each layer moves the anchors for the next"
    )
    look_forward_twice: bool = Field(
        default=True, description="a layer's box loss reaches the one before"
    )
    relation: bool = Field(
        default=False,
        description="self-attention knows how two queries' boxes lie to one another",
    )
    duplicate_removal: bool = Field(
        default=False,
        description="a query's scores fall where a better query has nearly the same box, by how "
        "much is learned",
    )

    @model_validator(mode="after")
    def _update(self) -> Self:
        if self.look_forward_twice and not self.update_anchors:
            raise ValueError(
                "model.decoder.look_forward_twice is true, model.decoder.update_anchors is false: "
                "anchors that never move have nothing to look forward to; switch "
                "look_forward_twice off"
            )
        return self


class Denoising(Section):
    """Noisy copies of the objects as further queries in training (DN-DETR)."""

    kind: Literal["dn"] = "dn"
    groups: int = Field(default=5, ge=1, description="noisy copies of every object")
    label_noise: float = Field(
        default=0.2, ge=0, le=1, description="probability that a copy's class is replaced"
    )
    box_noise: float = Field(
        default=0.4,
        ge=0,
        description="shift of the centre in half sides and of the size in sides, at most",
    )


class ContrastiveDenoising(Section):
    """Near copies of the objects to restore and farther ones to reject, in training (DINO)."""

    kind: Literal["contrastive"] = "contrastive"
    number: int = Field(
        default=100,
        ge=1,
        description="near copies an image has room for, in as many groups as that takes; "
        "below 50: half the number of groups, however many objects there are",
    )
    label_noise: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="probability that a copy's class is replaced "
        "(half of the reference's label_noise_ratio)",
    )
    box_noise: float = Field(
        default=1.0,
        ge=0,
        description="shift of the edges in half sides: near copies up to it, far ones up to twice",
    )


DenoisingKind = Annotated[
    Annotated[Denoising, Tag("dn")] | Annotated[ContrastiveDenoising, Tag("contrastive")],
    kinds("dn", "contrastive"),
]


class Collaborative(Section):
    """Heads of classic detectors on the encoder's maps, in training only (Co-DETR).

    Each finds positives of its own; they teach the encoder, and the decoder as further queries.
    """

    heads: tuple[Literal["rcnn", "atss"], ...] = Field(
        default=("rcnn", "atss"), description="Faster R-CNN (proposals and regions), ATSS"
    )
    max_positives: int = Field(
        default=300, ge=1, description="queries that the positives of a head make, at most"
    )
    features: bool = Field(
        default=True, description="the content of those queries also holds what the maps show there"
    )
    regions: int = Field(default=512, ge=1, description="rcnn: regions judged in an image")
    region_width: int = Field(default=1024, ge=1, description="rcnn: width of its two layers")

    @model_validator(mode="after")
    def _some_heads(self) -> Self:
        if not self.heads or len(set(self.heads)) != len(self.heads):
            raise ValueError(
                f"model.collaborative.heads must name at least one, none twice; got {self.heads}; "
                "set model.collaborative to null for none"
            )
        return self
