"""What a user's own data become in equal processor time: ``dab-lite`` beside a Faster R-CNN.

    OMP_NUM_THREADS=1 python -m benchmarks.learning DATA --minutes 5 15 45

Both begin from the same ImageNet weights of EfficientNet-Lite0 or, ours by default, from the base
that comes with the package; they see the same augmented images at the same size, and are evaluated
by the same code on the ``test`` split, or ``val`` where there is none. Prints a row for each.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from dabdetr.checkpoints.transfer import initialise
from dabdetr.config import Config
from dabdetr.data.augmentation import prepare
from dabdetr.data.dataset import DetectionDataset
from dabdetr.data.layouts import open_data, splits
from dabdetr.data.loader import training_loader
from dabdetr.evaluation.evaluate import evaluate, suppression_gain
from dabdetr.model.detector import build
from dabdetr.presets import preset
from dabdetr.structures import Detections, Images, Targets
from dabdetr.training.planning import fit_to_data

RATE, WARMUP, DECAY = 4e-4, 100, 1e-4
"""Of AdamW for the peer; the rate falls as a cosine over the time given."""
SIZES = ((16, 24), (32, 48), (64, 96), (128, 224))
"""Anchors of the levels at strides 8 to 64, in pixels of the input, each in three shapes."""


class Body(nn.Module):
    """EfficientNet-Lite0 as ``dab-lite`` uses it, with a feature pyramid."""

    def __init__(self, config: Config, names: Sequence[str], width: int = 128) -> None:
        super().__init__()
        detector = build(config, tuple(names))
        initialise(detector, "imagenet")
        self.body, self.out_channels = detector.backbone, width
        channels = [m.shape[1] for m in self.body(Images(torch.zeros(1, 3, 64, 64))).maps]
        self.pyramid = FeaturePyramidNetwork(channels, width, LastLevelMaxPool())

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Maps by level."""
        maps = self.body(Images(pixels)).maps
        return self.pyramid(OrderedDict((str(i), each) for i, each in enumerate(maps)))


def faster_rcnn(config: Config, names: Sequence[str]) -> FasterRCNN:
    """torchvision's, for images that are normalised and resized already.

    Its head is half as wide as torchvision's own, and a quarter as many regions are sampled: with
    its defaults a step takes more than twice as long on a CPU.
    """
    return FasterRCNN(
        Body(config, names),
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        rpn_anchor_generator=AnchorGenerator(SIZES, ((0.5, 1.0, 2.0),) * len(SIZES)),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], 7, 2),
        box_head=TwoMLPHead(128 * 7**2, 512),
        box_predictor=FastRCNNPredictor(512, 1 + len(names)),
        box_batch_size_per_image=128,
        rpn_pre_nms_top_n_train=1000,
        rpn_post_nms_top_n_train=500,
        box_score_thresh=0.001,
        box_detections_per_img=300,
        _skip_resize=True,
    )


class PeerRuntime:
    """A ``Runtime`` around the Faster R-CNN, so that the same code evaluates it."""

    workers = 0

    def __init__(self, model: FasterRCNN, config: Config, names: Sequence[str]) -> None:
        self.model, self.config, self.names = model.eval(), config, tuple(names)

    def for_streams(self) -> PeerRuntime:
        """Itself."""
        return self

    def prepare(self, image: np.ndarray) -> Tensor:
        """As for ours."""
        return prepare(image, self.config.image)

    @torch.inference_mode()
    def detect(
        self,
        prepared: Sequence[Tensor],
        sizes: Sequence[tuple[int, ...]],
        max_det: int,
        sources: Sequence[str] = (),
    ) -> list[Detections]:
        """Boxes in pixels of the original images."""
        found: list[Detections] = []
        for pixels, size, each in zip(prepared, sizes, self.model(list(prepared)), strict=True):
            scale = np.tile([size[1] / pixels.shape[-1], size[0] / pixels.shape[-2]], 2)
            found.append(
                Detections(
                    boxes=(each["boxes"].numpy() * scale).astype(np.float32)[:max_det],
                    scores=each["scores"].numpy()[:max_det],
                    labels=each["labels"].numpy()[:max_det] - 1,
                    queries=np.arange(len(each["scores"][:max_det])),
                    names=self.names,
                    size=(size[0], size[1]),
                )
            )
        return found

    def check_questions(self) -> None:
        """Questions need queries."""
        raise ValueError("a Faster R-CNN has no queries to ask")

    def answer(self, *_: Any) -> Any:
        """Refused, as by ``check_questions``."""
        self.check_questions()


def batches(data: DetectionDataset, config: Config) -> Iterator[tuple[Images, Targets]]:
    """Those of one epoch after the other."""
    for epoch in itertools.count():
        yield from training_loader(data, config, config.training.seed, epoch)


def for_torchvision(images: Images, targets: Targets) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Images without padding, and their boxes in pixels with labels from 1."""
    pixels, rows = [], []
    boxes, labels = targets.boxes.split(targets.counts), targets.labels.split(targets.counts)
    for at, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        height, width = images.pixels.shape[-2:]
        if images.padding is not None:
            shown = ~images.padding[at]
            height, width = int(shown.any(1).sum()), int(shown.any(0).sum())
        pixels.append(images.pixels[at, :, :height, :width])
        centre, half = box[:, :2], box[:, 2:] / 2
        corners = torch.cat((centre - half, centre + half), 1)
        corners = corners * torch.tensor([width, height, width, height])
        kept = (corners[:, 2:] - corners[:, :2] > 0.5).all(1)
        rows.append({"boxes": corners[kept], "labels": label[kept] + 1})
    return pixels, rows


def train_peer(
    data: DetectionDataset, config: Config, minutes: float, rate: float = RATE
) -> PeerRuntime:
    """Trained for so many minutes of processor time, evaluation not counted.

    The body's learning rate is a fifth of ``rate``.
    """
    torch.manual_seed(config.training.seed)
    model = faster_rcnn(config, data.names).train()
    slow = {id(p) for p in model.backbone.body.parameters()}
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in learned if id(p) not in slow], "peak": rate},
            {"params": [p for p in learned if id(p) in slow], "peak": rate / 5},
        ],
        weight_decay=DECAY,
    )
    started = time.process_time()
    for step, (images, targets) in enumerate(batches(data, config)):
        share = (time.process_time() - started) / (60 * minutes)
        if share >= 1:
            break
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / WARMUP)
            group["lr"] = group["peak"] * warm * (1 + math.cos(math.pi * share)) / 2
        loss = sum(model(*for_torchvision(images, targets)).values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 10.0)
        optimizer.step()
    print(f"  {step} updates, {step * config.training.batch / len(data):.1f} epochs", flush=True)
    return PeerRuntime(model, config, data.names)


def train_ours(data: str, minutes: float, start: str | None) -> tuple[Any, float]:
    """The default model with a time given; the weights, and minutes of processor time used."""
    import dabdetr

    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {} if start is None else {"start": start}
        began = time.process_time()
        run = dabdetr.train(data, minutes=minutes, project=folder, **options)
        used = (time.process_time() - began) / 60
        from dabdetr.inference.opening import open_model

        return open_model(run.weights), used


def main() -> None:
    """Train and evaluate each side for each time; print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--minutes", type=float, nargs="+", default=[5, 15, 45])
    parser.add_argument(
        "--sides",
        nargs="+",
        default=["dab-lite", "imagenet", "fasterrcnn"],
        choices=["dab-lite", "imagenet", "fasterrcnn"],
        help="dab-lite from its base, the same from ImageNet weights, Faster R-CNN from ImageNet",
    )
    parser.add_argument(
        "--peer-rates", type=float, nargs="+", default=[RATE], help="learning rates of the peer"
    )
    given = parser.parse_args()
    train_data = open_data(given.data, "train")
    tested = open_data(given.data, "test" if "test" in splits(given.data) else "val")
    config, _ = fit_to_data(preset("dab-lite"), train_data)
    print("| minutes | side | AP | AP50 | suppression would add | minutes of a processor used |")
    print("| --- | --- | --- | --- | --- | --- |")
    runs = [
        (minutes, side, rate)
        for minutes, side in itertools.product(given.minutes, given.sides)
        for rate in (given.peer_rates if side == "fasterrcnn" else [0.0])
    ]
    for minutes, side, rate in runs:
        if side == "fasterrcnn":
            runtime, used = train_peer(train_data, config, minutes, rate), minutes
            side = f"{side}, rate {rate:g}"
        else:
            start = "imagenet" if side == "imagenet" else None
            runtime, used = train_ours(given.data, minutes, start)
        found = evaluate(runtime, tested)
        gain = suppression_gain(tested, found)
        row = f"| {minutes:g} | {side} | {found.ap:.3f} | {found.ap50:.3f} | {gain:.3f} |"
        print(f"{row} {used:.1f} |", flush=True)


if __name__ == "__main__":
    main()
