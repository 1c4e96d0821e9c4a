"""All settings of a detector and its training, as frozen pydantic models; load, override, save.

An absent part is ``None``; contradictions raise ValueError with the names of both fields.
"""

from dabdetr.config.base import Section
from dabdetr.config.model import Model
from dabdetr.config.parts import (
    AddAttention,
    Backbone,
    Collaborative,
    ConcatAttention,
    ContrastiveDenoising,
    Decoder,
    DeformableAttention,
    DeformableEncoder,
    Denoising,
    DenseEncoder,
    EncoderQueries,
    LearnedQueries,
    Vit,
)
from dabdetr.config.recipe import Augment, Image, Inference, Loss, Training
from dabdetr.config.root import Config, load, parse

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
