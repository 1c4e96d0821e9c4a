"""A model evaluated on generated scenes and on a folder, from images to numbers."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import dabdetr
from dabdetr.checkpoints.native import save_model
from dabdetr.data.augmentation import prepare
from dabdetr.data.layouts import open_data
from dabdetr.data.loader import pad
from dabdetr.data.scenes import Scenes
from dabdetr.evaluation.evaluate import evaluate, score
from dabdetr.inference.torch_runtime import detect_batch
from dabdetr.model.detector import build
from dabdetr.presets import PRESETS, derive
from dabdetr.structures import Detections

DIGITS = tuple("0123456789")


@pytest.fixture(scope="module")
def scenes():
    return Scenes("val", count=6)


def make(names=DIGITS, seed=0, config=PRESETS["dab-detr-nano"]):
    """Random weights whose boxes still say something: small boxes near their anchors."""
    torch.manual_seed(seed)
    model = build(config, names)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "heads" in name or "queries" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def test_equals_detections_image_by_image(scenes):
    model = make()
    ours = evaluate(model, scenes, batch=4)
    expected = []
    for index in range(len(scenes)):
        image = scenes.image(index)
        images = pad([prepare(image, model.config.image)])
        expected += detect_batch(model, images, [image.shape[:2]], 100)
    assert ours.numbers == pytest.approx(score(scenes, expected).numbers, abs=1e-4)
    assert ours.images == 6
    assert ours.seconds > 0
    for found, each in zip(ours.detections, expected, strict=True):
        assert len(found) == 100
        np.testing.assert_allclose(found.scores, each.scores, atol=1e-5)


def test_classes_in_another_order_change_nothing(scenes):
    model = make()
    ours = evaluate(model, scenes)
    order = [3, 1, 2, 0, 9, 8, 7, 6, 5, 4]
    turned = make([DIGITS[i] for i in order])
    state = model.state_dict()
    for key in state:
        if key.startswith("decoder.heads.classes."):
            state[key] = state[key][order]
    turned.load_state_dict(state)
    again = evaluate(turned, scenes)
    assert again.numbers == pytest.approx(ours.numbers, abs=1e-4)
    for name, row in ours.per_class.items():
        assert again.per_class[name] == pytest.approx(row, abs=1e-4)


def test_wrong_classes_are_told_before_any_image_is_read(scenes):
    with pytest.raises(ValueError, match=r"model does not know 9; the data do not have x;"):
        evaluate(make((*DIGITS[:9], "x")), scenes)


def test_more_classes_than_the_data_have(scenes):
    ours = evaluate(make((*DIGITS, "x")), scenes)
    assert set(ours.per_class) == set(DIGITS)
    assert "the data set lacks the class x," in ours.notes[0]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_as_before_and_training_goes_on(scenes, training):
    # frozen norms remember products of their weights: none may be left over that cannot be trained
    config = derive(
        PRESETS["dab-detr-nano"], "f", model__backbone__norm="frozen", training__backbone_lr=0.0
    )
    model = make(config=config).train(training)
    for parameter in model.backbone.parameters():
        parameter.requires_grad = False
    evaluate(model, scenes, max_det=5)
    assert model.training == training
    images = pad([prepare(scenes.image(0), config.image)])
    images.pixels.requires_grad_()
    model(images).boxes.sum().backward()
    assert images.pixels.grad is not None
    assert images.pixels.grad.abs().max() > 0


def test_the_mode_is_restored_after_an_error(tmp_path):
    data = folder(tmp_path)
    (tmp_path / "val" / "b.png").write_bytes(b"")
    model = make(("owl", "fox")).train()
    with pytest.raises(ValueError, match=r"b\.png is empty"):
        evaluate(model, data)
    assert model.training


def folder(root):
    """A tiny COCO folder: sparse ids, a crowd, an image without objects, three shapes."""
    (root / "val").mkdir()
    (root / "annotations").mkdir()
    rng = np.random.default_rng(0)
    images, shapes = [], [(40, 60), (50, 50), (40, 60), (60, 30)]
    for name, id, (height, width) in zip("abcd", (7, 30, 4, 99), shapes, strict=True):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "val" / f"{name}.png")
        images.append({"id": id, "file_name": f"{name}.png", "width": width, "height": height})
    rows = [(7, 21, 0), (7, 5, 0), (30, 5, 1), (4, 21, 0)]
    annotations = [
        {"id": 9 - i, "image_id": image, "category_id": category, "iscrowd": crowd,
         "bbox": [3.25, 4.1, 20.3, 25.7], "area": 400.5}
        for i, (image, category, crowd) in enumerate(rows)
    ]  # fmt: skip
    categories = [{"id": 21, "name": "owl"}, {"id": 5, "name": "fox"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return root


def test_a_folder_and_a_file_of_weights(tmp_path, capfd):
    data = folder(tmp_path)
    model = make(("owl", "fox"))
    save_model(tmp_path / "m.safetensors", model)
    ours = dabdetr.evaluate(tmp_path / "m.safetensors", data, device="cpu")
    assert ours.numbers == pytest.approx(evaluate(model, str(data), batch=1).numbers, abs=1e-6)
    assert {name: row["objects"] for name, row in ours.per_class.items()} == {"owl": 2, "fox": 1}
    ours.save_results(tmp_path / "results.json")
    rows = json.loads((tmp_path / "results.json").read_text())
    assert len(rows) == 4 * 80
    assert {row["image_id"] for row in rows} == {4, 7, 30, 99}
    assert {row["category_id"] for row in rows} == {5, 21}
    assert capfd.readouterr().out == ""


def test_wrong_arguments(scenes, tmp_path):
    with pytest.raises(ValueError, match="scenes have no split 'holiday'"):
        evaluate(make(), "scenes", split="holiday")
    with pytest.raises(FileNotFoundError, match="no data folder"):
        evaluate(make(), tmp_path / "none")
    with pytest.raises(ValueError, match="batch should be at least 1"):
        evaluate(make(), scenes, batch=0)
    with pytest.raises(ValueError, match="max_det should be at least 1"):
        evaluate(make(), scenes, max_det=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named_in_one_sentence(coco_folder, tmp_path, workers):
    shutil.copytree(coco_folder, tmp_path / "data")
    broken = tmp_path / "data" / "val" / "001.png"
    data = open_data(tmp_path / "data", "val")
    broken.write_bytes(broken.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"001\.png is damaged or cut short") as caught:
        evaluate(make(), data, workers=workers)
    assert "\n" not in str(caught.value)


def test_more_objects_of_a_class_than_count(tmp_path):
    """150 objects, all found: COCO counts 100, which is told; a higher limit counts all."""
    (tmp_path / "val").mkdir()
    Image.new("RGB", (600, 400)).save(tmp_path / "val" / "a.png")
    boxes = [[(i % 15) * 40.0, (i // 15) * 40.0, 30.0, 30.0] for i in range(150)]
    rows = [{"id": i, "image_id": 1, "category_id": 1, "bbox": box} for i, box in enumerate(boxes)]
    image = {"id": 1, "file_name": "a.png", "width": 600, "height": 400}
    tree = {"images": [image], "annotations": rows, "categories": [{"id": 1, "name": "item"}]}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(tree))
    data = open_data(tmp_path, "val")
    record = data.record(0)
    scores, queries = np.linspace(0.99, 0.5, 150, dtype=np.float32), np.arange(150)
    found = Detections(record.boxes, scores, record.labels, queries, data.names, (400, 600))
    result = score(data, [found])
    assert result.ap == pytest.approx(0.663, abs=1e-3)
    told = "up to 150 objects of a class in 1 image: AP counts the 100 best detections"
    assert result.notes == (f"{told} as COCO does; --max-det 150 counts more",)
    whole = score(data, [found], most=150)
    assert (whole.ap, whole.notes) == (pytest.approx(1.0), ())
    assert whole.numbers["AR100"] == result.numbers["AR100"]
    assert score(data, [found], most=120).notes[0].startswith(told.replace("100", "120"))
