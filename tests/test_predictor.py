"""A small detector with random weights, predicting from every side."""

import json
import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import dabdetr
from dabdetr.checkpoints.native import save_model
from dabdetr.data.augmentation import prepare
from dabdetr.data.loader import pad
from dabdetr.inference.torch_runtime import detect_batch
from dabdetr.model.detector import build
from dabdetr.predictor import Predictor
from dabdetr.presets import PRESETS

NAMES = ("owl", "fox", "hen")


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(3)
    model = build(PRESETS["dab-detr-nano"], NAMES)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "heads" in name or "queries" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    shapes = [(60, 80), (60, 80), (80, 60), (120, 160), (50, 50), (60, 80), (1, 1), (9, 400)]
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in shapes]


def by_slot(found):
    """(query, label) → (score, box)."""
    rows = zip(
        found.queries.tolist(), found.labels.tolist(), found.scores, found.boxes, strict=True
    )
    return {(query, label): (score, box) for query, label, score, box in rows}


def assert_same(a, b):
    """The same detections, up to rounding that differs between batch sizes."""
    one, other = by_slot(a), by_slot(b)
    assert one.keys() == other.keys()
    for slot, (score, box) in one.items():
        assert score == pytest.approx(other[slot][0], abs=1e-5)
        np.testing.assert_allclose(box, other[slot][1], atol=2e-3)


def test_equals_the_model_called_by_hand(detector, images):
    image = images[0]
    found = Predictor(detector).one(image, conf=0.0, max_det=10_000, multi_label=True)
    with torch.no_grad():
        output = detector(pad([prepare(image, detector.config.image)]))
    scores = output.logits[-1, 0].sigmoid()
    cx, cy, w, h = (output.boxes[-1, 0] * torch.tensor([80, 60, 80, 60])).unbind(-1)
    corners = torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), -1)
    low, high = torch.zeros(4), torch.tensor([80.0, 60, 80, 60])
    assert len(found) == scores.numel() == 40 * 3
    assert (np.diff(found.scores) <= 0).all()
    for (query, label), (score, box) in by_slot(found).items():
        assert score == pytest.approx(float(scores[query, label]), abs=1e-6)
        np.testing.assert_allclose(box, corners[query].clamp(low, high), atol=1e-3)
    assert (corners < low).any()
    assert found.size == (60, 80)
    assert found.names == NAMES
    assert found.source == ""


@pytest.mark.parametrize("batch", [2, 3, 8])
def test_batches_give_what_single_images_give(detector, images, batch):
    options = {"conf": 0.0, "max_det": 1000}
    alone = [Predictor(detector).one(image, **options) for image in images]
    together = list(Predictor(detector, batch=batch)(images, **options))
    assert len(together) == len(alone)
    for a, b in zip(alone, together, strict=True):
        assert a.size == b.size
        assert_same(a, b)


def test_padding_changes_nothing(detector, images):
    prepared = [prepare(image, detector.config.image) for image in images[:5]]
    sizes = [image.shape[:2] for image in images[:5]]
    together = detect_batch(detector, pad(prepared), sizes, 1000)
    for image, size, found in zip(prepared, sizes, together, strict=True):
        assert_same(found, detect_batch(detector, pad([image]), [size], 1000)[0])


def test_conf_max_det_and_classes(detector, images):
    predictor = Predictor(detector)
    every = predictor.one(images[0], conf=0.0, max_det=1000)
    conf = float(np.median(every.scores))
    assert len(predictor.one(images[0], conf=conf, max_det=1000)) == (every.scores >= conf).sum()
    assert_same(predictor.one(images[0], conf=0.0, max_det=7), every[:7])
    foxes = predictor.one(images[0], conf=0.0, max_det=1000, classes=["fox"])
    assert set(foxes.labels) == {1}
    assert len(foxes) == (every.labels == 1).sum()
    assert_same(predictor.one(images[0], conf=0.0, max_det=1000, classes="fox"), foxes)
    usual = predictor.one(images[0])
    assert_same(usual, every[:100].above(detector.config.inference.conf))


def test_streams_read_no_further_than_needed(detector, images):
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield images[0]

    stream = Predictor(detector, batch=2)(endless())
    next(stream)
    assert len(asked) <= 3 + 3  # a batch, the first of the next one, and those read ahead


def test_sources_and_images(detector, images, tmp_path):
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    Image.fromarray(images[3]).save(tmp_path / "b.png")
    predictor = Predictor(detector)
    found = list(predictor(tmp_path, conf=0.0, keep_images=True))
    assert [each.source for each in found] == [str(tmp_path / n) for n in ("a.png", "b.png")]
    np.testing.assert_array_equal(found[1].image, images[3])
    assert found[0].plot().size == (80, 60)
    assert json.loads(json.dumps(found[0].to_dict()))["source"].endswith("a.png")
    assert predictor.one(tmp_path / "a.png").image is None
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"broken\.png is empty"):
        list(predictor(tmp_path))
    assert len(list(predictor(tmp_path, on_error="skip"))) == 2


def test_a_model_by_its_file(detector, images, tmp_path):
    save_model(tmp_path / "m.safetensors", detector)
    options = {"conf": 0.0, "max_det": 1000}
    loaded = dabdetr.Predictor(tmp_path / "m.safetensors", device="cpu")
    assert loaded.names == NAMES
    assert loaded.config == detector.config
    assert_same(loaded.one(images[0], **options), Predictor(detector).one(images[0], **options))


def test_a_model_in_training_mode_predicts_as_in_evaluation(detector, images):
    expected = Predictor(detector).one(images[0], conf=0.0)
    predictor = Predictor(detector)
    detector.train()
    assert_same(predictor.one(images[0], conf=0.0), expected)
    assert not detector.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conf": 1.5}, "conf should be a number between 0 and 1; got 1.5"),
        ({"conf": float("nan")}, "conf should be a number between 0 and 1"),
        ({"max_det": 0}, "max_det should be an integer of at least 1; got 0"),
        ({"classes": ["cow"]}, "does not know the class cow; it knows: owl, fox, hen"),
    ],
)
def test_wrong_arguments_raise_in_the_call(detector, images, options, message):
    with pytest.raises(ValueError, match=message):
        Predictor(detector)(images, **options)


def test_wrong_settings(detector):
    with pytest.raises(ValueError, match="batch should be at least 1"):
        Predictor(detector, batch=0)
    with pytest.raises(ValueError, match="no precision 'int3'; use auto, fp32, bf16, fp16"):
        Predictor(detector, precision="int3")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="no device 'tpu'"):
        Predictor(detector, device="tpu")
    with pytest.raises(FileNotFoundError, match="no weights 'nothing'"):
        Predictor("nothing")


def test_a_predictor_names_its_model_and_no_model_is_an_error(detector):
    assert repr(Predictor("scenes")) == "Predictor: dab-detr-nano, 10 classes, 40 queries"
    with pytest.raises(ValueError, match="path or name of weights, or a Detector; got NoneType"):
        Predictor(None)


def test_one_takes_one(detector, images):
    with pytest.raises(ValueError, match="a single image; got 2"):
        Predictor(detector).one(images[:2])


def test_bf16_is_near_fp32(detector, images):
    every = {"conf": 0.0, "max_det": 1000, "multi_label": True}  # bf16 may change the best class
    exact = Predictor(detector).one(images[0], **every)
    near = Predictor(detector, precision="bf16").one(images[0], **every)
    assert near.scores.dtype == np.float32
    exact, near = by_slot(exact), by_slot(near)
    gaps = [abs(score - near[slot][0]) for slot, (score, _) in exact.items()]
    assert 0 < max(gaps) < 0.15


def test_broken_weights_are_told_with_the_image(images):
    broken = build(PRESETS["dab-detr-nano"], NAMES).eval()
    with torch.no_grad():
        next(broken.decoder.parameters()).fill_(float("nan"))
    image = Image.fromarray(images[0])
    with pytest.raises(ValueError, match="answer for an image is not finite"):
        Predictor(broken).one(image)


def test_results_are_comparable(detector, images):
    found = Predictor(detector).one(images[0], conf=0.0)
    assert replace(found, image=images[0]).image is not None
    assert found.boxes.dtype == np.float32
    assert found.labels.dtype == found.queries.dtype == np.int64


@pytest.mark.parametrize(("free", "beside"), [(1, True), (0, False)])
def test_images_are_read_beside_the_model_only_where_a_core_is_free(
    free, beside, detector, images, monkeypatch
):
    cores = torch.get_num_threads() + free
    monkeypatch.setattr("dabdetr.inference.device.processors", lambda: cores)
    predictor = Predictor(detector, device="cpu")
    readers = set()
    prepare_one = predictor.runtime.prepare

    def watched(image):
        readers.add(threading.current_thread())
        return prepare_one(image)

    monkeypatch.setattr(predictor.runtime, "prepare", watched)
    assert len(list(predictor(images[:3]))) == 3
    assert (threading.current_thread() not in readers) == beside


def test_explanations_beside_detections_in_threads_are_those_made_alone(detector, images):
    predictor = Predictor(detector)
    alone = [predictor.explain(image, pixels=[(0.5, 0.5)]) for image in images[:4]]
    found = [predictor.one(image, conf=0) for image in images[:4]]
    ready, wrong = threading.Barrier(8), []

    def work(explains, at):
        ready.wait()
        for _ in range(3):
            try:
                if explains:
                    each = predictor.explain(images[at], pixels=[(0.5, 0.5)])
                    for name in ("boxes", "scores"):
                        expected = getattr(alone[at].trace, name)
                        np.testing.assert_allclose(getattr(each.trace, name), expected, atol=1e-5)
                    for name in ("attention", "encoder"):
                        for one, other in zip(
                            getattr(each.trace, name), getattr(alone[at].trace, name), strict=True
                        ):
                            np.testing.assert_allclose(one.weights(), other.weights(), atol=1e-5)
                else:
                    assert_same(predictor.one(images[at], conf=0), found[at])
            except Exception as error:  # of a thread, which pytest does not see
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(n % 2, n // 2)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]
    assert not any(module._forward_hooks for module in detector.modules())


def test_a_predictor_of_weights_can_be_pickled(detector, images):
    copied = pickle.loads(pickle.dumps(Predictor(detector)))
    assert_same(copied.one(images[0], conf=0), Predictor(detector).one(images[0], conf=0))
