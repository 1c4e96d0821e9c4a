"""What reading another implementation's checkpoint gives, and the classes of COCO."""

from __future__ import annotations

from dataclasses import dataclass

from dabdetr.checkpoints.key_names import State
from dabdetr.config import Config

Names = tuple[str | None, ...]


@dataclass(frozen=True)
class Foreign:
    """A checkpoint of another implementation, in our words.

    ``names`` has one entry for each class logit; None marks an id without a class.
    ``notes`` say what was assumed.
    """

    format: str
    config: Config
    state: State
    names: Names
    notes: tuple[str, ...] = ()


_COCO = (
    "-,person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,-,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,-,"
    "backpack,umbrella,-,-,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,"
    "baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,-,wine glass,cup,fork,"
    "knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,"
    "couch,potted plant,bed,-,dining table,-,-,toilet,-,tv,laptop,mouse,remote,keyboard,cell phone,"
    "microwave,oven,toaster,sink,refrigerator,-,book,clock,vase,scissors,teddy bear,hair drier,"
    "toothbrush"
)


COCO_IDS = tuple(None if name == "-" else name for name in _COCO.split(","))


def guess_names(logits: int) -> tuple[Names, tuple[str, ...]]:
    """Class names for a file that has none, and what to say of the guess."""
    if logits == len(COCO_IDS):
        return COCO_IDS, ()
    coco = tuple(name for name in COCO_IDS if name)
    if logits == len(coco):
        return coco, ("the file has no class names: 80 classes are taken to be those of COCO",)
    names = tuple(f"class {index}" for index in range(logits))
    return names, (
        f"the file has no class names: they are called 'class 0' to 'class {logits - 1}'",
    )


def assumed(config: Config, state: State) -> str:
    """What a bare state cannot tell, and was taken to be so."""
    model = config.model
    parts = [f"{model.heads} heads", "no dilation"]
    parts.append(f"position temperature {model.position_temperature:g}")
    if not any(f"queries.{table}" in state for table in ("anchors", "positions", "content")):
        parts.append(f"{model.queries.count} proposals")
    return f"no settings were read beside the weights: assumed {', '.join(parts)}"
