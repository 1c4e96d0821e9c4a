"""A message with a count of one has no plural: "1 image", never "1 images"."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dabdetr.bench.candidates import Plan
from dabdetr.bench.run import _notes
from dabdetr.checkpoints.foreign import assumed
from dabdetr.checkpoints.infer_config import _resnet
from dabdetr.checkpoints.native import LoadReport
from dabdetr.data.dataset import ImageRecord, Subset
from dabdetr.data.layouts import open_data
from dabdetr.evaluation.evaluate import _too_many_objects, score
from dabdetr.evaluation.per_layer import LayerScore, LayerScores
from dabdetr.explain.concepts import noisy_copies
from dabdetr.export.certificate import Agreement, Certificate, Tolerance
from dabdetr.inference.questions import questions
from dabdetr.presets import PRESETS
from dabdetr.structures.detections import Detections, Results
from dabdetr.training.diagnosis import faults
from dabdetr.training.fingerprint import _of_images
from dabdetr.training.nonfinite import nonfinite_weights
from dabdetr.training.options import Sources
from dabdetr.training.resume import Checkpoint, check_resumable

ONE = Subset(open_data("scenes:count=4", "val"), [0])
NOTHING = Detections(
    np.zeros((0, 4), np.float32),
    np.zeros(0, np.float32),
    *[np.zeros(0, np.int64)] * 2,
    ("a",),
    (8, 8),
)
ONE_HEAD = PRESETS["detr-nano"].override(["model.heads=1"])


class OneClass(Subset):
    """All objects of one class."""

    def record(self, index: int) -> ImageRecord:
        record = super().record(index)
        return replace(record, labels=np.zeros_like(record.labels))


def raised(call: Callable[[], Any]) -> str:
    with pytest.raises((ValueError, OSError)) as error:
        call()
    return str(error.value)


def resumed(**changed: Any) -> str:
    """What keeps a run of one epoch, one epoch of patience or one process from going on."""
    config = PRESETS["detr-nano"].override(["training.epochs=9", "training.patience=1"])
    row = {"epoch": 1.0, "AP": 0.0}
    told: dict[str, Any] = {"rows": [row], "ranks": 1, "mid_epoch": False} | changed
    epochs = told.pop("epochs", 9)
    checkpoint = Checkpoint(Path("last.ckpt"), ONE.names, config=None, data=None, **told)
    config = config.override([f"training.epochs={epochs}"])
    return raised(lambda: check_resumable(checkpoint, config, (ONE, None), Path("run"), ranks=2))


def broken() -> nn.Module:
    model = nn.Linear(1, 1)
    for parameter in model.parameters():
        nn.init.constant_(parameter, torch.nan)
    return model


def high_rate() -> str:
    config = ONE_HEAD.override(["training.lr=0.1", "training.effective_batch=1"])
    row = {"epoch": 1.0, "updates": 1e6, "loss": 1.0, "AP50": 0.0, "AP": 0.0}
    return dict(faults([row] * 3, config))["rate"]


def copies() -> str:
    part = PRESETS["dn-detr-nano"].model.denoising
    figure = noisy_copies(np.zeros((9, 9, 3), np.uint8), np.array([[1, 1, 4, 4]]), part, 1)
    return "; ".join(panel.get_title() for panel in figure.axes)


def unlabelled() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for part in ("images", "labels"):
            Path(folder, part, "train").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(Path(folder, "images", "train", "a.png"))
        Path(folder, "labels", "train", "a.txt").touch()
        Path(folder, "data.yaml").write_text("names: [a]\ntrain: images/train\n")
        Sources(data=folder).open()


def certificate(detections: int) -> str:
    proof = Certificate(
        *("fp32", 1, (1,), ((9, 9),), detections, 1.0, (0.0, 0.0), (0.0, 0.0), 0.0),
        Tolerance(0.1, 0.01, 1.0, 0.1),
    )
    return str(proof)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (lambda: resumed(epochs=1), "has finished its 1 epoch;"),
        (
            lambda: resumed(rows=[{"epoch": 1.0, "AP": 0.5}, {"epoch": 2.0, "AP": 0.1}]),
            "not risen in 1 epoch;",
        ),
        (lambda: resumed(mid_epoch=True), "by 1 process, and this run has 2"),
        (high_rate, "high for 1 image an update"),
        (lambda: nonfinite_weights(broken()), "weight and 1 more weight"),
        (
            lambda: "".join(_of_images("val", np.ones((1, 3)), np.zeros((0, 3)), ONE)),
            "val has lost 1 of 1 image",
        ),
        (lambda: str(LoadReport("x", "dabdetr 1", ("a",))), "x: 1 tensor loaded"),
        (lambda: assumed(ONE_HEAD, {}), "assumed 1 head,"),
        (lambda: raised(lambda: _resnet({"backbone.body.layer3.0.a": torch.ones(1)})), "1 block "),
        (lambda: raised(lambda: score(ONE, [])), "for 1 image of scenes"),
        (lambda: "".join(_too_many_objects(OneClass(ONE, [0]), 1)), "counts the 1 best detection;"),
        (lambda: LayerScores((LayerScore(1, 0.5, 0.5, 0.5, 0.5, 0.5),), 1).sentence, "1 decoder l"),
        (copies, "1 object, 5 copies"),
        (copies, "the last is the matching query"),
        (lambda: certificate(1), "of 1 detection of 1 image agrees with torch"),
        (lambda: certificate(2), "of 2 detections of 1 image agree with torch"),
        (lambda: str(Agreement(1, 1.0, (0.0, 0.0), (0.0, 0.0))), "1 answer to questions agrees"),
        (lambda: raised(lambda: questions([[1, 1, 2, 2]], [], (9, 9), "a")), "of 1 box; got 0"),
        (lambda: repr(Results([NOTHING] * 2)), "0 objects in 2 images"),
        (lambda: "; ".join(_notes(Plan("scenes", "scenes"), ONE, 1, 1.0)), "AP on 1 image is"),
        (lambda: raised(unlabelled), "no annotated object in 1 image (crowds"),
    ],
)
def test_one_is_no_plural(message: Callable[[], str], expected: str) -> None:
    said = message()
    assert expected in said
    assert not re.search(r"(?<![\d.,])1 [a-z]+(s|es)\b(?<! is)(?<!process)", said), said
