"""What the data and the machine decide: input size, queries, epochs, and a plan that holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dabdetr.cli.train import read_minutes
from dabdetr.config import Config, load
from dabdetr.data.dataset import DetectionDataset, ImageRecord, Subset
from dabdetr.data.layouts import open_data
from dabdetr.data.loader import plan_epoch, training_loader
from dabdetr.model.detector import build
from dabdetr.presets import preset
from dabdetr.text import duration
from dabdetr.training.distributed import World
from dabdetr.training.options import choose_config
from dabdetr.training.planning import (
    MOST_EPOCHS,
    MOST_QUERIES,
    TIMED,
    Pace,
    TimeGiven,
    _typical,
    choose_warmup,
    fit_to_data,
    fit_to_time,
    measure_pace,
    tell_plan,
)

Train = Callable[..., object]


class Boxes(DetectionDataset):
    """Images of 640 × 480 pixels that hold so many square objects of one size."""

    name, split, names, category_ids = "boxes", "train", ("thing",), (1,)

    def __init__(self, images: int, side: float, objects: int, crowds: int = 0) -> None:
        self.images, self.side, self.objects, self.crowds = images, side, objects, crowds

    def __len__(self) -> int:
        return self.images

    def record(self, index: int) -> ImageRecord:
        count = self.objects + self.crowds
        crowd = np.arange(count) >= self.objects
        side = np.where(crowd, 2.0, self.side)
        boxes = np.stack([np.zeros(count), np.zeros(count), side, side], axis=1)
        return ImageRecord(
            image_id=index,
            file=f"{index}.png",
            width=640,
            height=480,
            boxes=boxes.astype(np.float32),
            labels=np.zeros(count, dtype=np.int64),
            crowd=crowd,
            areas=side**2,
            annotated=boxes,
        )

    def image(self, index: int) -> np.ndarray:
        return np.zeros((480, 640, 3), dtype=np.uint8)


def planned(data: DetectionDataset, **options: object) -> tuple[Config, list[str]]:
    return fit_to_data(choose_config("dab-lite", **options), data)  # pyright: ignore


@pytest.mark.parametrize(
    ("side", "size"),
    [
        (100, 256),  # large objects: as it stands
        (45, 256),  # 24 pixels at 256: just enough
        (34, 352),  # 18 pixels at 256: 339 would be right, a multiple of 32 is taken
        (4, 512),  # as far as it goes
    ],
)
def test_small_objects_raise_the_input(side: float, size: int) -> None:
    config, lines = planned(Boxes(100, side, 3))
    assert config.image.size == size
    assert config.image.max_size == round(384 * size / 256)
    assert config.image.object_size is None
    assert bool(lines) == (size > 256)
    assert config.augment is not None
    assert max(config.augment.sizes) == round(288 * size / 256)


def test_what_is_given_stays() -> None:
    small = Boxes(100, 4, 90)
    assert planned(small, imgsz=320)[0].image.size == 320
    assert planned(small, overrides=["image.size=224"])[0].image.size == 224
    config, _ = planned(small, overrides=["model.queries.count=120"])
    assert config.model.queries.count == 120
    assert planned(small, epochs=7)[0].training.epochs == 7
    config = preset("dab-detr-lite0")  # no rule is set in it
    assert fit_to_data(config, small)[0].image.size == config.image.size


@pytest.mark.parametrize(
    ("objects", "crowds", "count"), [(28, 0, 100), (51, 40, 150), (766, 0, MOST_QUERIES)]
)
def test_crowded_images_get_more_queries(objects: int, crowds: int, count: int) -> None:
    config, lines = planned(Boxes(10, 100, objects, crowds))
    assert config.model.queries.count == count
    assert any(f"{objects} objects" in line for line in lines) == (count > 100)
    assert any("--queries sets more" in line for line in lines) == (count == MOST_QUERIES)


def test_objects_too_small_to_find_are_said() -> None:
    _, lines = planned(Boxes(100, 2, 3))
    assert "a quarter of the objects would be smaller than 1 pixel" in lines[0]
    assert lines[1].startswith("at 512 pixels they are smaller than 2 pixels, too small")
    _, lines = planned(Boxes(100, 8, 3))
    assert len(lines) == 1


def test_epochs_follow_from_images_and_end_somewhere() -> None:
    assert planned(Boxes(205, 100, 3))[0].training.epochs == 59
    assert planned(Boxes(100_000, 100, 3))[0].training.epochs == 1
    assert planned(Boxes(12, 100, 3))[0].training.epochs == MOST_EPOCHS
    larger = planned(Boxes(200, 4, 3))[0]  # 512 pixels: half of the images
    assert larger.training.epochs == 30


def test_images_without_boxes_decide_nothing() -> None:
    assert planned(Boxes(10, 4, 0))[0].image.size == 256


def test_epochs_fit_into_the_time() -> None:
    config, pace = choose_config("dab-lite"), Pace(train=0.25, val=0.1, report=8.0)
    fitted, every = fit_to_time(config, pace, 1800, train=200, val=80)
    assert pace.seconds(fitted, 200, 80, every) == pytest.approx(1800, rel=0.05)
    assert fitted.training.images is None
    assert every == -(-fitted.training.epochs // 20)
    later, every = fit_to_time(config, pace, 1800, train=200, val=80, spent=600)
    assert 600 + pace.seconds(later, 200, 80, every) == pytest.approx(1800, rel=0.05)
    short, every = fit_to_time(config, pace, 60, train=3000, val=100)  # validating takes 10 s
    assert (short.training.epochs, every) == (1, 1)
    assert short.training.epoch_images is not None
    with pytest.raises(ValueError, match=r"ends in 50 s sees no 4 images .* at least 3 minutes"):
        fit_to_time(config, pace, 50, train=3000, val=500)
    with pytest.raises(ValueError, match=r"ends in 60 s .* at least 2 minutes"):
        fit_to_time(config, pace, 60, train=200, val=20, spent=50)
    few, _ = fit_to_time(config, pace, 40, train=1, val=0)  # an update of the only image
    assert few.training.epochs == 155


def test_the_end_of_a_training_takes_time() -> None:
    pace = Pace(train=1.0, val=0.1, report=8.0)
    config = choose_config("dab-lite", epochs=2)
    # 20 steps; two validations, thresholds and causes of errors of 10 images; the report
    assert pace.seconds(config, 10, 10, every=1) == pytest.approx(20 + 4 * 1.0 + 8)
    assert pace.seconds(config, 10, 0, every=1) == pytest.approx(20)  # no report without val


def test_a_missed_time_is_said() -> None:
    ago = time.monotonic() - 81
    assert TimeGiven(ago, 60).missed().startswith("the training took 81 s for 60 s given: this")
    assert "was slower than" in TimeGiven(ago, 60).missed()
    assert "was faster than" in TimeGiven(ago, 200).missed()
    assert TimeGiven(ago, 80).missed() == TimeGiven(ago, 75).missed() == ""


def test_the_only_image_is_timed_as_one(coco_folder: Path, tiny_config: Config) -> None:
    """A step of one image takes no quarter of its time; five steps are timed."""
    data = Subset(open_data(coco_folder, "train"), [0])
    detector = build(tiny_config.override(["training.batch=4"]), data.names)
    loader = _typical(training_loader(data, detector.config, 0, 0))
    assert [len(batch) for batch in loader.batches] == [1] * TIMED
    one = measure_pace(detector, data, None, World()).train
    config = tiny_config.override(["training.batch=1"])
    same = measure_pace(build(config, data.names), data, None, World()).train
    assert one > 0.5 * same  # a quarter before


@pytest.mark.parametrize(
    ("images", "changes", "ranks", "warmup"),
    [
        (410, {"epochs": 1}, 1, 10),  # 103 updates of 4 images
        (410, {"epochs": 1, "effective_batch": 16}, 1, 2),  # 103 batches, 4 an update
        (410, {"epochs": 4}, 4, 10),  # 26 updates of 16 images an epoch
        (410, {"epochs": 3, "epoch_images": 100}, 1, 7),  # 25 updates an epoch
        (205, {"epochs": 59}, 1, 200),
        (12, {"epochs": 1}, 1, 0),
        (12, {"epochs": 1, "warmup": 30}, 1, 30),
    ],
)
def test_the_warm_up_takes_a_tenth_of_a_short_training(
    images: int, changes: dict[str, int], ranks: int, warmup: int
) -> None:
    config = choose_config("dab-lite")
    config = config.override([f"training.{name}={value}" for name, value in changes.items()])
    assert choose_warmup(config, images, ranks).training.warmup == warmup


def test_a_part_of_the_images_makes_an_epoch(coco_folder: Path, tiny_config: Config) -> None:
    data = open_data(coco_folder, "train")
    config = tiny_config.override(["training.epoch_images=5", "training.batch=2"])
    epochs = [
        {job.index for batch in plan_epoch(data, config, 0, epoch) for job in batch}
        for epoch in range(8)
    ]
    assert all(len(seen) == 5 for seen in epochs)
    assert set.union(*epochs) == set(range(len(data)))  # others each time
    assert len({frozenset(seen) for seen in epochs}) > 1


def test_measuring_changes_nothing(coco_folder: Path, tiny_config: Config) -> None:
    data = open_data(coco_folder, "train")
    detector = build(tiny_config.override(["model.dropout=0.1"]), data.names)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    pace = measure_pace(detector, data, data, World())
    assert torch.equal(torch.rand(4), expected)
    assert pace.train > 0
    assert pace.val > 0
    after = detector.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(parameter.grad is None for parameter in detector.parameters())


def test_time_that_is_given_is_kept(tiny_train: Train, tmp_path: Path, capsys) -> None:
    started = time.monotonic()
    run = tiny_train(tmp_path, minutes=0.25, name="timed", val_every=1000)
    seconds = time.monotonic() - started
    assert 0.5 * 15 < seconds < 2 * 15  # other work on the machine may come and go
    config = load(tmp_path / "timed" / "config.yaml")
    assert config.training.epochs == len(run.rows) > 1  # pyright: ignore
    assert f"plan: {config.training.epochs} epochs of " in capsys.readouterr().err


def test_time_is_read() -> None:
    assert [read_minutes(t) for t in ("30m", "30", "1.5h", "90s", "30 min")] == [
        30.0,
        30.0,
        90.0,
        1.5,
        30.0,
    ]
    for wrong in ("", "0m", "-3m", "1d", "soon"):
        with pytest.raises(ValueError, match="--time should be a number"):
            read_minutes(wrong)


def test_plan_in_words() -> None:
    config = choose_config("dab-lite", epochs=3)
    line = tell_plan(config, 720.0, 205)
    start = "plan: 3 epochs of 205 images, input of up to 256×384 pixels, about 12 min on this"
    assert line.startswith(start)
    assert "--time" not in line  # the epochs were given
    chosen = tell_plan(choose_config("dab-lite"), 720.0, 205)
    assert chosen.endswith("; --time 10m would plan for 10 minutes")
    assert "--time" not in tell_plan(choose_config("dab-lite"), 300.0, 205)
    part = config.override(["training.epoch_images=50"])
    assert "of 50 images out of 205" in tell_plan(part, 720.0, 205)
    assert [duration(s) for s in (5, 120, 7200)] == ["5 s", "2 min", "2.0 h"]
