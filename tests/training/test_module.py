"""Rates, groups, accumulation, averages, and the sentence about a loss that is not finite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import nn
from torch.optim.swa_utils import AveragedModel

from dabdetr.config import Config, Loss, Training
from dabdetr.model.detector import Detector, build
from dabdetr.presets import PRESETS
from dabdetr.structures import Images, Predictions, Targets
from dabdetr.training import module
from dabdetr.training.accumulation import AccumulatedBatches, Batch
from dabdetr.training.ema import ema_update
from dabdetr.training.engine import quiet_engine
from dabdetr.training.losses import detection_loss
from dabdetr.training.module import TrainingModule
from dabdetr.training.nonfinite import diagnose_inputs, diagnose_nonfinite
from dabdetr.training.optim import parameter_groups, rate_factor
from dabdetr.training.options import choose_config
from dabdetr.training.precision import bf16_gain, choose_precision


def test_step_schedule() -> None:
    """The official recipe: 50 epochs, a tenth of the rate from epoch 40 on."""
    training = Training(epochs=50)
    factors = [rate_factor(training, epoch / 50, 0) for epoch in range(50)]
    assert factors == [1.0] * 40 + [0.1] * 10


@pytest.mark.parametrize("epochs", [3, 10, 12, 36, 60, 300])
def test_step_falls_at_the_start_of_an_epoch(epochs: int) -> None:
    training = Training(epochs=epochs)
    before = sum(rate_factor(training, epoch / epochs, 0) == 1 for epoch in range(epochs))
    assert before == -(-epochs * 8 // 10)


def test_cosine_and_constant() -> None:
    cosine = Training(schedule="cosine")
    factors = [rate_factor(cosine, progress, 0) for progress in (0, 1 / 3, 0.5, 1)]
    assert factors == pytest.approx([1, 0.75, 0.5, 0])
    assert rate_factor(Training(schedule="constant"), 0.9, 5) == 1


def test_warmup_rises_linearly() -> None:
    training = Training(warmup=4, schedule="constant")
    factors = [rate_factor(training, 0, update) for update in range(6)]
    assert factors == [0.25, 0.5, 0.75, 1, 1, 1]


def test_groups_hold_every_trained_parameter_once(tiny_config: Config) -> None:
    config = tiny_config.override(["model.backbone.freeze_stride=4", "model.backbone.norm=frozen"])
    detector = build(config, ["a"])
    groups = {g["name"]: g for g in parameter_groups(detector, Training(lr=1e-4))}
    assert groups["backbone"]["lr"] == 1e-5
    assert groups["rest"]["lr"] == 1e-4
    own = {id(p) for p in detector.backbone.parameters() if p.requires_grad}
    frozen = [p for p in detector.backbone.parameters() if not p.requires_grad]
    assert frozen
    assert {id(p) for p in groups["backbone"]["params"]} == own
    given = [id(p) for group in groups.values() for p in group["params"]]
    assert len(given) == len(set(given))
    assert set(given) == {id(p) for p in detector.parameters() if p.requires_grad}
    assert not any("weight_decay" in group for group in groups.values())  # one decay for all


def test_backbone_rate_zero_freezes(tiny_detector: Detector) -> None:
    config = tiny_detector.config.override(["training.backbone_lr=0"])
    detector = build(config, tiny_detector.names)
    TrainingModule(detector, lambda _: ())
    assert not any(p.requires_grad for p in detector.backbone.parameters())
    assert [g["name"] for g in parameter_groups(detector, config.training)] == ["rest"]


def test_offsets_and_points_have_a_rate_of_their_own() -> None:
    """Deformable DETR: a tenth for sampling offsets and reference points; others say nothing."""
    for name, factor in (("deformable-detr-r50", 0.1), ("dab-deformable-detr-r50", 1.0)):
        assert PRESETS[name].training.offsets_factor == factor
    config = PRESETS["deformable-detr-nano"].override(["training.offsets_factor=0.1"])
    detector = build(config, ["a"])
    groups = {g["name"]: g for g in parameter_groups(detector, config.training)}
    assert groups["offsets"]["lr"] == pytest.approx(config.training.lr / 10)
    assert groups["rest"]["lr"] == config.training.lr
    names = {id(p): name for name, p in detector.named_parameters()}
    slow = {names[id(p)] for p in groups["offsets"]["params"]}
    sampling = [
        *(f"encoder.layers.{n}.attention" for n in range(2)),
        *(f"decoder.layers.{n}.cross_attention" for n in range(3)),
    ]
    parts = [*(f"{layer}.offsets" for layer in sampling), "queries.to_point.0"]
    assert slow == {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    assert len(names) == sum(len(g["params"]) for g in groups.values())


@pytest.mark.parametrize(
    ("only", "changed"),
    [
        (("queries.anchors",), {"queries.anchors"}),
        (("queries",), {"queries.anchors", "queries.content"}),
        (("decoder.heads.classes", "queries.content"),
         {"decoder.heads.classes.0.weight", "decoder.heads.classes.0.bias", "queries.content"}),
    ],
)  # fmt: skip
def test_only_what_was_asked_for_is_trained(
    only: tuple[str, ...], changed: set[str], tiny_detector: Detector
) -> None:
    config = tiny_detector.config.override([f"training.train_only={list(only)}"])
    detector = build(config, tiny_detector.names)
    module = TrainingModule(detector, lambda _: ())
    assert {name for name, p in detector.named_parameters() if p.requires_grad} == changed
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    optimiser = torch.optim.AdamW(parameter_groups(detector, config.training))
    module.on_train_epoch_start()
    targets = Targets(torch.tensor([1]), torch.full((1, 4), 0.4), (1,))
    out = detector(Images(torch.randn(1, 3, 64, 64)), targets)
    detection_loss(out, targets, config.loss)[0].backward()
    optimiser.step()
    after = detector.state_dict()  # buffers as well: batch statistics rest
    assert {key for key in after if not torch.equal(after[key], before[key])} == changed


@pytest.mark.parametrize("change", [
    "training.train_only=[decoder.heads, anchors]",
    "training.train_only=['']",
    "training.lr_factors={decoder.heads: 2, anchors: 0.5}",
])  # fmt: skip
def test_names_of_no_parameter_are_told(change: str, tiny_detector: Detector) -> None:
    config = tiny_detector.config.override([change])
    with pytest.raises(ValueError, match=r"no parameter's name starts with '.*parts are: backbone"):
        TrainingModule(build(config, tiny_detector.names), lambda _: ())


def test_a_name_that_is_nearly_right_is_suggested(tiny_detector: Detector) -> None:
    config = tiny_detector.config.override(["training.train_only=[decoder.haeds]"])
    with pytest.raises(ValueError, match=r"'decoder\.haeds'; did you mean decoder\.heads\? parts"):
        TrainingModule(build(config, tiny_detector.names), lambda _: ())


def test_nothing_left_to_train_is_told(tiny_detector: Detector) -> None:
    parts = ", ".join(f"{name}: 0" for name, _ in tiny_detector.named_children())
    for changes in (
        [f"training.lr_factors={{{parts}}}"],
        ["training.train_only=[backbone]", "training.backbone_lr=0"],
    ):
        config = tiny_detector.config.override(changes)
        with pytest.raises(ValueError, match="leave nothing to train"):
            TrainingModule(build(config, tiny_detector.names), lambda _: ())


def test_rates_by_name(tiny_detector: Detector) -> None:
    """The longest name counts, 0 freezes, and what no name fits keeps its rate."""
    factors = "{backbone: 0.5, decoder: 0.25, decoder.heads: 2, queries.content: 0}"
    config = tiny_detector.config.override([f"training.lr_factors={factors}"])
    detector = build(config, tiny_detector.names)
    TrainingModule(detector, lambda _: ())
    groups = parameter_groups(detector, config.training)
    names = {id(p): name for name, p in detector.named_parameters()}
    rates = {names[id(p)]: g["lr"] for g in groups for p in g["params"]}
    lr, backbone_lr = config.training.lr, config.training.backbone_lr
    for name, _ in detector.named_parameters():
        if name.startswith("queries.content"):
            assert name not in rates
        elif name.startswith("backbone."):
            assert rates[name] == 0.5 * backbone_lr
        elif name.startswith("decoder."):
            assert rates[name] == lr * (2 if name.startswith("decoder.heads") else 0.25)
        else:
            assert rates[name] == lr
    assert groups[-1]["name"] == "rest"  # its rate is the one in results.csv
    plain = parameter_groups(tiny_detector, tiny_detector.config.training)
    assert [group["name"] for group in plain] == ["backbone", "rest"]


def test_an_update_is_the_same_in_one_step_or_in_several(
    tiny_detector: Detector, tmp_path: Path
) -> None:
    """Also where images have different numbers of objects, or none; the fifth is an update of
    its own."""
    config = tiny_detector.config.override(["model.backbone.norm=frozen"])
    counts = (3, 0, 1, 6, 2)
    pixels = torch.randn(5, 3, 64, 64)
    aims = [Targets(torch.arange(n) % 3, torch.rand(n, 4) * 0.4 + 0.3, (n,)) for n in counts]

    def batch(rows: range) -> tuple[Images, Targets]:
        own = [aims[row] for row in rows]
        labels, boxes = (torch.cat([getattr(t, key) for t in own]) for key in ("labels", "boxes"))
        return Images(pixels[rows.start : rows.stop]), Targets(
            labels, boxes, counts[rows.start : rows.stop]
        )

    def gradients(batches: list[tuple[Images, Targets]], gathered: int) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []

        class Watch(Callback):
            def on_before_optimizer_step(self, *_: Any) -> None:
                given = [p.grad for p in detector.parameters() if p.grad is not None]
                found.append(torch.cat([gradient.flatten() for gradient in given]))

        torch.manual_seed(0)
        detector = build(config, tiny_detector.names)
        engine = Trainer(
            accelerator="cpu", max_epochs=1, accumulate_grad_batches=gathered, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=tmp_path, callbacks=[Watch()],
        )  # fmt: skip
        with quiet_engine():
            engine.fit(TrainingModule(detector, lambda _: AccumulatedBatches(batches, gathered)))
        return found

    at_once = gradients([batch(range(4)), batch(range(4, 5))], 1)
    singly = gradients([batch(range(n, n + 1)) for n in range(5)], 4)
    assert len(at_once) == len(singly) == 2
    for one, other in zip(at_once, singly, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


def test_a_step_frees_its_gradients_and_keeps_the_room(
    tiny_detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[bool] = []
    monkeypatch.setattr(module, "keep_freed_memory", lambda: kept.append(True))
    detector = build(tiny_detector.config, tiny_detector.names)
    targets = Targets(torch.tensor([1]), torch.full((1, 4), 0.4), (1,), ("a.jpg",))
    batch = Images(torch.randn(1, 3, 64, 64)), targets
    held: list[bool] = []

    def look(*_: object) -> None:
        held.append(any(p.grad is not None for p in detector.parameters()))

    detector.register_forward_pre_hook(look)
    with quiet_engine():
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=1,
            accumulate_grad_batches=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(TrainingModule(detector, lambda _: AccumulatedBatches([batch] * 5, 2)))
    assert held == [False, True, False, True, False]
    assert all(p.grad is None for p in detector.parameters())
    assert kept == [True]


def test_average_has_a_short_memory_at_first() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2).requires_grad_(False))
    norm, frozen = model
    moving = AveragedModel(model, use_buffers=True, multi_avg_fn=ema_update(0.5))
    average = moving.module
    expected = torch.zeros(2)
    for n, value in enumerate([4.0, 8.0, 16.0, 32.0]):
        nn.init.constant_(norm.weight, value)  # pyright: ignore
        norm.running_mean.fill_(value)  # pyright: ignore
        norm.num_batches_tracked.fill_(n)  # pyright: ignore
        moving.update_parameters(model)
        decay = min(0.5, (1 + n) / (10 + n)) if n else 0.0
        expected = decay * expected + (1 - decay) * value
        torch.testing.assert_close(average[0].weight.detach(), expected)
        torch.testing.assert_close(average[0].running_mean, expected)
        assert average[0].num_batches_tracked == n
    assert torch.equal(average[1].weight, frozen.weight)  # pyright: ignore


def case() -> tuple[Predictions, Targets]:
    generator = torch.Generator().manual_seed(0)
    targets = Targets(
        labels=torch.tensor([0, 1, 0]),
        boxes=torch.full((3, 4), 0.4),
        counts=(1, 0, 2),
        names=("a.jpg", "b.jpg", "c.jpg"),
    )
    boxes = torch.rand(2, 3, 5, 4, generator=generator)
    return Predictions(torch.randn(2, 3, 5, 3, generator=generator), boxes, boxes), targets


def test_diagnosis_names_image_layer_and_term() -> None:
    predictions, targets = case()
    predictions.boxes[1, 2] = float("nan")
    sentence = diagnose_nonfinite(predictions, targets, Loss(), "epoch 3, update 7")
    assert "loss_bbox of decoder layer 1 is nan for image c.jpg;" in sentence
    assert "epoch 3, update 7" in sentence
    assert "a.jpg" not in sentence


def test_diagnosis_names_terms_beyond_the_matching_queries() -> None:
    predictions, targets = case()
    proposals = Predictions(
        predictions.logits[:1].clone(), predictions.boxes[:1].clone(), predictions.anchors[:1]
    )
    proposals.logits[0, 1] = float("nan")
    sentence = diagnose_nonfinite(
        replace(predictions, proposals=proposals), targets, Loss(), "epoch 1, update 1"
    )
    assert "proposal_loss_ce of the encoder is nan for images a.jpg" in sentence


def test_diagnosis_of_several_images() -> None:
    predictions, targets = case()
    predictions.logits[0] = float("inf")
    sentence = diagnose_nonfinite(predictions, targets, Loss(), "epoch 1, update 1")
    assert "loss_ce of decoder layer 0" in sentence
    assert "images a.jpg, b.jpg, c.jpg" in sentence
    unnamed = diagnose_nonfinite(
        predictions, replace(targets, names=()), Loss(), "epoch 1, update 1"
    )
    assert "number 2 of the batch" in unnamed


def test_an_image_or_a_weight_is_blamed_before_the_loss() -> None:
    model, pixels = nn.Linear(2, 2), torch.zeros(3, 3, 4, 4)
    files, place = ("a.jpg", "b.jpg", "c.jpg"), "epoch 1, update 5"
    assert diagnose_inputs(model, pixels, files, place) == ""
    with torch.no_grad():
        model.weight[0, 0] = float("inf")
    assert "weight is not finite before the step" in diagnose_inputs(model, pixels, files, place)
    pixels[1, 2, 3, 3] = float("nan")  # the image comes first: it may have made the weight so
    sentence = diagnose_inputs(model, pixels, files, place)
    assert sentence.startswith("the loss is not finite in epoch 1, update 5: pixels of image b.jpg")
    assert "a.jpg" not in sentence
    assert "number 1 of the batch" in diagnose_inputs(model, pixels, (), place)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_settings_that_are_not_finite_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"training\.lr.*finite"):
        choose_config("dab-lite", lr=float(value))
    with pytest.raises(ValueError, match=r"loss\.box_weight.*finite"):
        choose_config("dab-lite", overrides=[f"loss.box_weight=.{value.lstrip('-')}"])


def test_auto_precision_follows_the_processor() -> None:
    chosen, reason = choose_precision("auto", torch.device("cpu"))
    assert chosen in ("fp32", "bf16")
    assert "as fast as fp32" in reason
    assert choose_precision("fp32", torch.device("cpu")) == ("fp32", "as set")
    assert bf16_gain(64, 3) > 0
    assert bf16_gain(64, 3) == bf16_gain(64, 3)  # measured once


def test_measuring_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    assert bf16_gain(32, 1) > 0
    assert torch.equal(before, torch.get_rng_state())


def test_options_become_config() -> None:
    config = choose_config(
        "dab-detr-r50", epochs=3, batch=2, imgsz=400, lr=1e-3, start="none", seed=5, workers=1,
        overrides=["training.epochs=4"],
    )  # fmt: skip
    training = config.training
    assert (training.epochs, training.batch, training.seed, training.workers) == (4, 2, 5, 1)
    assert training.start == "none"
    assert training.lr == 1e-3
    assert training.backbone_lr == pytest.approx(1e-4)
    assert (config.image.size, config.image.max_size) == (400, 666)
    assert config.augment is not None
    assert config.augment.sizes == tuple(range(240, 401, 16))


@pytest.mark.parametrize(("multiple", "side"), [(None, 40), (1, 40), (64, 64)])
def test_batches_are_padded_to_the_multiple(
    multiple: int | None, side: int, tiny_detector: Detector
) -> None:
    """On the CPU only where it is asked for; a GPU's own multiple is in test_cuda."""
    config = tiny_detector.config.override([f"training.pad_multiple={multiple or 'null'}"])
    module = TrainingModule(build(config, tiny_detector.names), lambda _: ())
    targets = Targets(torch.tensor([1]), torch.full((1, 4), 0.4), (1,))
    batch = Batch(Images(torch.randn(1, 3, 40, 40)), targets, 1.0, 1.0)
    moved = module.transfer_batch_to_device(batch, torch.device("cpu"), 0)
    assert moved.images.pixels.shape == (1, 3, side, side)
    assert torch.equal(moved.images.pixels[..., :40, :40], batch.images.pixels)
    assert (moved.images.padding is None) == (side == 40)
