"""The skeleton: backbone → encoder → queries → decoder."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dabdetr.config import Config
from dabdetr.model.backbones import TimmBackbone
from dabdetr.model.decoder import Decoder
from dabdetr.model.encoder import Encoder
from dabdetr.model.heads import Heads
from dabdetr.model.projection import Projection, Pyramid
from dabdetr.model.queries import LearnedQueries
from dabdetr.structures import Images, Predictions


class Detector(nn.Module):
    """A member of the family, built from parts.

    ``config`` is the value it was built from, ``names`` the class names in label order.
    """

    def __init__(
        self,
        config: Config,
        names: tuple[str, ...],
        backbone: TimmBackbone,
        projection: Projection | Pyramid,
        encoder: Encoder,
        queries: LearnedQueries,
        decoder: Decoder,
    ) -> None:
        super().__init__()
        self.config, self.names = config, names
        self.backbone = backbone
        self.projection = projection
        self.encoder = encoder
        self.queries = queries
        self.decoder = decoder

    def forward(self, images: Images) -> Predictions:
        features = self.backbone(images)
        memory = self.encoder(self.projection(features, images))
        return self.decoder(self.queries(memory), memory)


def build(config: Config, names: Sequence[str]) -> Detector:
    """A detector for the classes ``names``, with random weights (DAB-DETR's initialisation)."""
    names = tuple(names)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"class names must be at least one and differ; got {list(names)}")
    model = config.model
    backbone = TimmBackbone(model.backbone)
    if model.encoder.kind == "deformable":
        projection = Pyramid(backbone.channels, model, model.encoder.levels)
    else:
        projection = Projection(backbone.channels[0], model)
    encoder = Encoder(model)
    queries = LearnedQueries(model.queries, model.width)
    decoder = Decoder(model, Heads(model, len(names)))
    for part in (encoder, decoder.layers, decoder.positions):
        _xavier(part)
    return Detector(config, names, backbone, projection, encoder, queries, decoder)


def _xavier(module: nn.Module) -> None:
    """Xavier for every matrix; attention outputs start without bias.

    Parts that know better have a ``reset`` and keep what it gave them.
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
