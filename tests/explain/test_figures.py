"""Figures show what the trace holds; files are whole and of the kind their name says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from dabdetr import Predictor, build
from dabdetr.data.layouts import open_data
from dabdetr.explain import concepts, figures
from dabdetr.explain.explanation import Explanation
from dabdetr.presets import preset
from dabdetr.structures import Detections
from dabdetr.structures.boxes import corners
from dabdetr.structures.drawing import colour


@pytest.fixture(scope="module")
def scene(predictor: Predictor) -> Explanation:
    data = open_data("scenes:seed=2022,count=8", "test")
    record = data.record(3)
    found = predictor.explain(data.image(3), pixels=[(0.5, 0.25)])
    return found.with_truth(record.boxes, record.labels)


def member(name: str, *assignments: str) -> Explanation:
    torch.manual_seed(0)
    small = ("image.size=64", "image.max_size=64", *assignments)
    model = build(preset(name).override(small), ["$a$", "b_{"])
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return Predictor(model, device="cpu").explain(noise)


def film(path: Path) -> list[np.ndarray]:
    """The frames of a GIF."""
    with Image.open(path) as moving:
        frames = [
            np.asarray(each.convert("RGB"), np.float32) for each in ImageSequence.Iterator(moving)
        ]
        assert moving.info["loop"] == 0
    return frames


def frames(panel: Any) -> list[list[float]]:
    """x0 y0 x1 y1 of every rectangle in a panel."""
    return [[float(v) for v in patch.get_bbox().extents] for patch in panel.patches]


def test_a_story_has_anchor_boxes_score_and_iou(scene: Explanation, tmp_path: Path) -> None:
    figure = scene.story(1)
    image, curve = figure.axes
    query = scene.query(1)
    assert scene.trace.anchors is not None
    places = [scene.trace.anchors[0][query], *scene.trace.boxes[:, query]]
    expected = corners(scene.in_pixels(np.stack(places)))
    np.testing.assert_allclose(frames(image), expected, atol=1e-3)
    score, overlap = (np.asarray(line.get_ydata()) for line in curve.lines)
    np.testing.assert_array_equal(score, scene.trace.scores[:, query].max(-1))
    np.testing.assert_array_equal(overlap, scene.iou_with_truth(query))
    for name, head in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")):
        figures.save(figure, tmp_path / name, dpi=40)
        assert (tmp_path / name).read_bytes().startswith(head)
    with pytest.raises(ValueError, match=r"should end in \.png, \.svg or \.pdf; got a\.gif"):
        figures.save(figure, "a.gif")


def test_a_story_is_of_the_detection_s_class(scene: Explanation) -> None:
    found = scene.detections
    other = (found.labels[:1] + 1) % len(found.names)
    second = Detections(
        found.boxes[:1], found.scores[:1], other, found.queries[:1], found.names, found.size
    )
    figure = replace(scene, detections=second).story(0)
    np.testing.assert_array_equal(
        np.asarray(figure.axes[1].lines[0].get_ydata()),
        scene.trace.scores[:, found.queries[0], other[0]],
    )
    assert figure.get_suptitle().endswith(f": {found.names[other[0]]}")


def test_attention_has_a_panel_for_each_layer_and_part(scene: Explanation) -> None:
    panels = np.reshape(np.array(scene.attention(0).axes, object), (4, 3))
    query = scene.query(0)
    for row, part in zip(panels, scene.trace.attention[0].parts, strict=True):
        for panel, look in zip(row, scene.trace.attention, strict=True):
            shown = np.asarray(panel.images[1].get_array())
            np.testing.assert_array_equal(shown, look.heat(query, part))
    assert len(scene.attention(0, "content").axes) == 3


@pytest.mark.parametrize(
    ("name", "anchor", "levels"),
    [
        ("detr-nano", "; solid: box", 0),
        ("conditional-detr-nano", "; +: anchor, solid: box", 0),
        ("deformable-detr-nano", "; +: anchor, solid: box", 3),
        ("dab-deformable-detr-nano", "; dashed: anchor, solid: box", 3),
    ],
)
def test_attention_says_what_is_drawn(name: str, anchor: str, levels: int) -> None:
    figure = member(name).attention()
    assert anchor in figure.get_suptitle()
    assert [len(legend.get_texts()) for legend in figure.legends] == [levels] * (levels > 0)
    row = figure.axes[0].get_ylabel()
    assert row == ("sampling locations" if levels else "whole attention")


def test_the_story_s_legend_reads_row_by_row() -> None:
    figure = member("dab-detr-nano", "model.decoder.layers=6").story()
    figure.draw_without_rendering()
    legend = figure.axes[0].get_legend()
    assert legend is not None
    places = [(text.get_window_extent(), text.get_text()) for text in legend.get_texts()]
    read = [text for _, text in sorted(places, key=lambda each: (-each[0].y0, each[0].x0))]
    assert read == ["anchor", *(f"layer {n}" for n in range(1, 7))]


def test_a_class_keeps_its_colour_in_all_frames(scene: Explanation, tmp_path: Path) -> None:
    scene.animation(tmp_path / "a.gif")
    for label in set(scene.shown.labels.tolist()):
        ink = np.array(colour(label), np.float32)
        parted = [abs(frame - ink).sum(-1).min() for frame in film(tmp_path / "a.gif")]
        assert max(parted) == 0


def test_anchors_have_no_scores(scene: Explanation, tmp_path: Path) -> None:
    """Of the first frame, only outlines differ from the image."""
    scene.animation(tmp_path / "a.gif")
    image = np.asarray(Image.fromarray(scene.image).resize((480, 480)), np.float32)
    assert scene.trace.anchors is not None
    anchors = scene.trace.anchors[0][scene.shown.queries]
    line = np.zeros((480, 480), bool)
    for edges in (corners(anchors) * 480).clip(0, 480).round().astype(int):
        (x0, y0), (x1, y1) = edges.reshape(2, 2).tolist()
        ring = np.zeros_like(line)
        ring[max(y0 - 2, 0) : y1 + 2, max(x0 - 2, 0) : x1 + 2] = True
        ring[y0 + 3 : max(y1 - 3, 0), x0 + 3 : max(x1 - 3, 0)] = False
        line |= ring
    differs = abs(film(tmp_path / "a.gif")[0] - image).sum(-1) > 150
    assert not differs[~line].any()


@pytest.mark.parametrize("name", ["detr-nano", "conditional-detr-nano", "deformable-detr-nano"])
def test_members_without_boxes_as_anchors(name: str, tmp_path: Path) -> None:
    """And names that would be formulas to matplotlib."""
    explanation = member(name)
    for number, figure in enumerate((explanation.story(), explanation.attention())):
        figures.save(figure, tmp_path / f"{number}.png", dpi=30)
    figures.animation(explanation, tmp_path / "a.gif", between=1)
    assert len(film(tmp_path / "a.gif")) <= 3  # a frame that is like the one before is left out


def test_one_layer(tmp_path: Path) -> None:
    explanation = member("dab-detr-nano", "model.decoder.layers=1")
    figures.save(explanation.story(), tmp_path / "a.png", dpi=30)
    assert len(explanation.attention().axes) == 4


def test_members_side_by_side(scene: Explanation) -> None:
    assert scene.truth is not None
    box = scene.truth.boxes[0]
    torch.manual_seed(0)
    detr = Predictor(build(preset("detr-nano"), "ab"), device="cpu").explain(scene.image)
    figure = figures.comparison([detr, scene], box, ["DETR", "DAB-DETR"])
    panels = np.reshape(np.array(figure.axes, object), (2, 2))
    assert panels[0, 0].get_title().startswith("DETR (IoU 0.")
    assert panels[0, 1].get_title() == "DAB-DETR (IoU 0.95)"
    for panel in figure.axes:
        np.testing.assert_allclose(frames(panel), [box])
    inside = [[float(p.get_xlabel().split("%")[0]) for p in row] for row in panels]
    assert inside[1][1] > 3 * inside[1][0]
    overlaps = figures.iou(corners(scene.trace.boxes[-1]), box / 160)
    look = scene.trace.attention[-1].heat(int(overlaps.argmax()), "position")
    np.testing.assert_array_equal(np.asarray(panels[0, 1].images[1].get_array()), look)


def test_encoder_attention(scene: Explanation) -> None:
    figure = figures.encoder_attention(scene)
    assert len(figure.axes) == 2
    shown = np.asarray(figure.axes[1].images[1].get_array())
    np.testing.assert_array_equal(shown, scene.trace.encoder[1].heat(0))
    with pytest.raises(ValueError, match=r"explain with pixels=\[\(x, y\)\]"):
        figures.encoder_attention(member("detr-nano"))


def test_the_animation_ends_with_the_detections(scene: Explanation, tmp_path: Path) -> None:
    scene.animation(tmp_path / "a.gif")
    images = film(tmp_path / "a.gif")
    assert 12 <= len(images) <= 1 + 3 * 5
    assert abs(images[0] - images[-1]).mean() > 1
    wanted = scene.shown.plot(scene.image).resize((480, 480))
    parted = [abs(image - np.asarray(wanted, np.float32)).mean() for image in images]
    assert np.argmin(parted) >= len(images) - 5
    with pytest.raises(ValueError, match=r"should end in \.gif"):
        scene.animation("a.png")


def test_codes_are_most_like_those_nearby() -> None:
    distance = np.array([0, 0.1, 0.3])
    last = np.zeros(3)
    for temperature in (5, 20, 10000):  # ever broader
        values = concepts.similarity(distance, temperature, 128)
        assert values[0] == pytest.approx(1, abs=1e-6)
        assert values[0] > values[1] > values[2]
        assert (values[1:] > last[1:]).all()
        last = values
    assert len(concepts.code_similarity().axes[0].lines) == 5


def test_position_maps_widen_with_the_anchor() -> None:
    for width, height in ((0.6, 0.15), (0.15, 0.6)):
        plain = concepts.position_map((0.5, 0.5, width, height))
        sized = concepts.position_map((0.5, 0.5, width, height), reference=0.3)
        np.testing.assert_allclose(plain, plain.T, atol=1e-7)
        across, down = (np.ptp(np.flatnonzero(sized.sum(a) > 0.01)) for a in (0, 1))
        assert across > 1.5 * down if width > height else down > 1.5 * across
        assert sized.sum() == pytest.approx(1)
    assert len(concepts.position_maps().axes) == 8


def test_learned_anchors(predictor: Predictor) -> None:
    data = open_data("scenes", "train")
    state = torch.get_rng_state()
    figure = concepts.learned_anchors(predictor.live.model, data, 20)
    assert torch.equal(state, torch.get_rng_state())
    after = concepts.anchors_of(predictor.live.model)
    shown = np.asarray(figure.axes[1].collections[1].get_offsets())
    np.testing.assert_allclose(shown, after[:, :2])
    boxes = concepts.boxes_of(data, 20)
    assert len(boxes) == sum(len(data.record(index).boxes) for index in range(20))
    first = data.record(0).boxes / 160
    np.testing.assert_allclose(corners(boxes[: len(first)]), first, atol=1e-6)
    with pytest.raises(ValueError, match="detr-nano has no learned anchor boxes"):
        concepts.anchors_of(build(preset("detr-nano"), "ab"))
