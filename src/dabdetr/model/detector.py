"""The skeleton: backbone → encoder → queries → decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from dabdetr.config import Config
from dabdetr.kernels import use_cpu_kernels
from dabdetr.model.backbones import TimmBackbone
from dabdetr.model.collaborative import Collaborative
from dabdetr.model.decoder import Decoder
from dabdetr.model.denoising import Denoising, content_width
from dabdetr.model.encoder import Encoder
from dabdetr.model.groups import join, split
from dabdetr.model.heads import Heads
from dabdetr.model.projection import Projection, Pyramid
from dabdetr.model.proposals import EncoderQueries
from dabdetr.model.queries import LearnedQueries
from dabdetr.model.vit import VitBackbone
from dabdetr.structures import (
    HeadSamples,
    Images,
    Memory,
    Predictions,
    QueryGroup,
    Questions,
    Targets,
)


class Detector(nn.Module):
    """A member of the family: the skeleton with the parts of its config.

    ``config`` is the config the detector was built from, ``names`` the class names in label order.
    """

    def __init__(
        self,
        config: Config,
        names: tuple[str, ...],
        backbone: TimmBackbone | VitBackbone,
        projection: Projection | Pyramid,
        encoder: Encoder,
        queries: LearnedQueries | EncoderQueries,
        decoder: Decoder,
        denoising: Denoising | None = None,
        collaborative: Collaborative | None = None,
    ) -> None:
        super().__init__()
        self.config, self.names = config, names
        self.backbone = backbone
        self.projection = projection
        self.encoder = encoder
        self.queries = queries
        self.decoder = decoder
        self.denoising = denoising
        self.collaborative = collaborative

    def forward(
        self,
        images: Images,
        targets: Targets | None = None,
        questions: Questions | None = None,
    ) -> Predictions:
        """Predictions of the matching queries, and those of query groups.

        ``targets`` (needed in training) add denoising and collaborative groups, ``questions`` a
        group of boxes to ask about. The matching queries attend to no group.
        """
        features = self.backbone(images)
        memory = self.encoder(self.projection(features))
        queries = self.queries(memory)
        if self.denoising is not None:
            queries = self.denoising.beside_copies(queries)
        groups, heads = self.query_groups(memory, images, targets, questions)
        joined, attention_mask = join(queries, groups)
        sizes = [group.count for group in groups]
        predictions = self.decoder(joined, memory, attention_mask, of_groups=sum(sizes))
        predictions = replace(predictions, proposals=queries.proposals, heads=heads)
        if not groups:
            return predictions
        of_groups, matching = split(predictions, sizes)
        return replace(matching, groups=tuple(zip(groups, of_groups, strict=True)))

    def query_groups(
        self,
        memory: Memory,
        images: Images,
        targets: Targets | None,
        questions: Questions | None = None,
    ) -> tuple[list[QueryGroup], tuple[HeadSamples, ...]]:
        """Query groups at known boxes, and the samples that collaborative heads learn from."""
        groups: list[QueryGroup] = []
        heads: tuple[HeadSamples, ...] = ()
        if questions is not None:
            assert self.denoising is not None, "only denoising teaches a decoder to answer"
            groups.append(self.denoising.questions(questions))
        if targets is None:
            return groups, heads
        if self.denoising is not None:
            group = self.denoising(targets)
            groups += [] if group is None else [group]
        if self.collaborative is not None:
            of_heads, heads = self.collaborative(memory, images, targets)
            groups += of_heads
        return groups, heads


def build(config: Config, names: Sequence[str]) -> Detector:
    """A detector for the classes ``names``, with random weights (DAB-DETR's initialisation).

    >>> from dabdetr import PRESETS, build
    >>> build(PRESETS["dab-detr-nano"], ["cat", "dog"]).names
    ('cat', 'dog')
    """
    names = tuple(names)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"class names must be at least one and differ; got {list(names)}")
    model = config.model
    part = model.backbone
    backbone = VitBackbone(part) if part.kind == "vit" else TimmBackbone(part)
    if model.encoder.kind == "deformable":
        projection = Pyramid(backbone.channels, model, model.encoder.levels)
    else:
        projection = Projection(backbone.channels[0], model)
    encoder = Encoder(model)
    free = content_width(model.denoising, model.width)
    if model.queries.kind == "learned":
        queries = LearnedQueries(model.queries, model.width, free)
    else:
        queries = EncoderQueries(model.queries, model.width, free, len(names))
    denoising = None
    if model.denoising is not None:
        unknown = model.queries.content == "unknown"
        denoising = Denoising(model.denoising, len(names), model.width, model.anchor_eps, unknown)
    decoder = Decoder(model, Heads(model, len(names), softmax=config.classifier == "softmax"))
    # Heads initialise themselves; the queries' own parameters are not weight matrices.
    of_queries = [p for name, p in queries.named_children() if name not in ("classes", "boxes")]
    for part in (encoder, decoder.layers, decoder.positions, *of_queries):
        _xavier(part)
    # Last: a seed gives all other parts the same weights with and without collaborative heads.
    collaborative = None if model.collaborative is None else Collaborative(model, len(names))
    detector = Detector(
        config, names, backbone, projection, encoder, queries, decoder, denoising, collaborative
    )
    use_cpu_kernels(detector)
    return detector


def _xavier(module: nn.Module) -> None:
    """Xavier for every matrix; biases of attention outputs are 0.

    Afterwards parts with a ``reset`` method apply their own initialisation.
    """
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
        elif name.endswith("output.bias"):
            nn.init.zeros_(parameter)
    for part in module.modules():
        reset = getattr(part, "reset", None)
        if reset is not None:
            reset()
