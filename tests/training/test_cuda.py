"""The same model on a CUDA GPU: forward pass, gradients, training, resuming, several processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training.conftest import Train
from tests.training.test_resume import epochs_in, stopped_when

from dabdetr import Predictor
from dabdetr.config import Config
from dabdetr.data.layouts import open_data
from dabdetr.model.detector import Detector, build
from dabdetr.presets import PRESETS, preset
from dabdetr.structures import Images, Targets
from dabdetr.training.accumulation import Batch
from dabdetr.training.losses import detection_loss
from dabdetr.training.module import TrainingModule

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

MEMBERS = [
    *(name for name in PRESETS if name.endswith(("-nano", "-r50", "-4scale"))),
    *("dab-detr-r50-dc5", "dab-detr-r50-p3", "deformable-detr-r50-two-stage", "dab-lite"),
    *("dab-detr-r50-dc5-fixxy", "dab-deformable-detr-r50-two-stage", "vit-dino-s"),
]
"""Every kind of query, attention and backbone."""


@pytest.fixture(autouse=True)
def _exact_products() -> Iterator[None]:
    """TF32 would round products to ten bits: more than what is compared here."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def batch(device: str) -> tuple[Images, Targets]:
    """Two images of unlike size, one padded, with two objects and one object."""
    generator = torch.Generator().manual_seed(3)
    padding = torch.zeros(2, 128, 160, dtype=torch.bool)
    padding[1, :, 96:] = True
    images = Images(torch.randn(2, 3, 128, 160, generator=generator), padding)
    boxes = torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.3, 0.3], [0.4, 0.5, 0.5, 0.4]])
    targets = Targets(torch.tensor([0, 1, 1]), boxes, (2, 1))
    return images.to(device), targets.to(device)


def detector(config: Config) -> Detector:
    torch.manual_seed(0)
    return build(config, ["a", "b"])


@pytest.mark.parametrize("name", MEMBERS)
def test_a_forward_pass_gives_the_processors_numbers(name: str) -> None:
    model = detector(preset(name)).eval()
    with torch.no_grad():
        expected = model(batch("cpu")[0])
        found = model.cuda()(batch("cuda")[0])
    # Proposals are the best of many scores: where two are alike, either may come first.
    if PRESETS[name].model.queries.kind == "from_encoder":
        gaps = torch.cdist(found.boxes[-1].cpu(), expected.boxes[-1], p=1).amin(-1)
        assert gaps.median() < 1e-3
        return
    torch.testing.assert_close(found.logits.cpu(), expected.logits, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(found.boxes.cpu(), expected.boxes, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["dab-detr-nano", "deformable-detr-nano", "conditional-detr-nano"])
def test_a_training_step_has_the_processors_gradients(name: str) -> None:
    gradients = {}
    for device in ("cpu", "cuda"):
        model = detector(preset(name).override(["model.dropout=0"]))
        with torch.no_grad():  # no sampling point between two pixels, where the slope jumps
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape))
        model = model.to(device).train()
        images, targets = batch(device)
        total, _ = detection_loss(model(images, targets), targets, model.config.loss)
        total.backward()
        gradients[device] = {
            key: p.grad.cpu() for key, p in model.named_parameters() if p.grad is not None
        }
    assert gradients["cpu"].keys() == gradients["cuda"].keys()
    largest = max(gradient.abs().max() for gradient in gradients["cpu"].values())
    for key, gradient in gradients["cpu"].items():
        gap = (gradients["cuda"][key] - gradient).abs().max()
        assert gap < 1e-3 * largest, (key, gap, largest)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["dab-detr-nano", "dino-nano", "co-dino-nano", "dab-lite"])
def test_autocast_trains(precision: str, name: str) -> None:
    """Twenty steps on one batch lower the loss, with finite gradients."""
    model = detector(preset(name).override(["model.dropout=0"])).cuda().train()
    images, targets = batch("cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16", init_scale=1024.0)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    losses = []
    for _ in range(20):
        with torch.autocast("cuda", kind, enabled=precision != "fp32"):
            total, _ = detection_loss(model(images, targets), targets, model.config.loss)
        scaler.scale(total).backward()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        assert torch.isfinite(norm), (precision, losses)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(total.item())
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3]), losses


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "auto"])
def test_a_run_on_the_gpu(precision: str, tiny_train: Train, tmp_path: Path) -> None:
    setting = f"training.precision={precision}"
    run = tiny_train(tmp_path, setting, epochs=3, quiet=True, device="cuda")
    losses = [row["loss"] for row in run.rows]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    ours = Predictor(run.weights, device="cuda")
    assert len(list(ours(np.zeros((96, 96, 3), np.uint8)))) == 1


def test_a_stopped_run_goes_on(tiny_train: Train, tmp_path: Path) -> None:
    straight = tiny_train(tmp_path, epochs=3, name="straight", quiet=True, device="cuda")
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), stopped_when(lambda: epochs_in(folder) >= 1):
        tiny_train(tmp_path, epochs=3, name="run", quiet=True, device="cuda")
    done = subprocess.run(
        [sys.executable, "-m", "dabdetr", "train", "--resume", str(folder), "--device", "cuda"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = torch.load(folder / "last.ckpt", weights_only=True)["run"]["rows"]
    for mine, other in zip(straight.rows, rows, strict=True):
        assert other["loss"] == pytest.approx(mine["loss"], rel=2e-2)  # sums in any order


def test_nccl(tiny_file: Path, coco_folder: Path, tmp_path: Path) -> None:
    """As torchrun starts it, with all the GPUs there are."""
    count = torch.cuda.device_count()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(count), "-m", "dabdetr", "train", "--device", "cuda"),
            *("--data", str(coco_folder), "--config", str(tiny_file), "--epochs", "2", "--json"),
            *("--project", str(tmp_path), "--name", "run", "--set", "training.effective_batch=8"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folder"] == str(tmp_path / "run")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_detections_are_the_processors(precision: str) -> None:
    data = open_data("scenes", "val")
    images = [np.asarray(data.image(index)) for index in range(8)]
    expected = list(Predictor("scenes", device="cpu")(images, conf=0.3))
    found = list(Predictor("scenes", device="cuda", precision=precision)(images, conf=0.3))
    near = {"fp32": 0.05, "bf16": 8.0, "fp16": 1.0}[precision]
    for mine, theirs in zip(found, expected, strict=True):
        sure = [i for i, score in enumerate(theirs.scores) if score > 0.5]
        for index in sure:
            gaps = np.abs(np.asarray(mine.boxes) - np.asarray(theirs.boxes)[index]).max(-1)
            assert gaps.min() < near, (precision, gaps.min())


COMPILED = """
import torch
from dabdetr.model.detector import build
from dabdetr.presets import preset
from dabdetr.structures import Images
model = build(preset("dab-detr-nano"), ["a", "b"]).cuda().eval()
images = Images(torch.randn(2, 3, 128, 160, device="cuda"))
with torch.no_grad():
    gap = (torch.compile(model)(images).boxes - model(images).boxes).abs().max()
print(float(gap))
"""


def test_a_compiled_forward_pass() -> None:
    done = subprocess.run(  # where shapes are not checked, as outside of tests
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-3


def test_a_gpu_gets_few_input_sizes() -> None:
    """Each new size of a batch costs time there, so that sides are rounded up to 64 pixels."""
    module = TrainingModule(detector(preset("dab-detr-nano")), lambda _: ())
    images, targets = batch("cpu")
    moved = module.transfer_batch_to_device(
        Batch(images, targets, 1.0, 1.0), torch.device("cuda"), 0
    )
    assert moved.images.pixels.shape == (2, 3, 128, 192)
    assert moved.images.padding is not None
    assert moved.images.padding[:, :, 160:].all()
