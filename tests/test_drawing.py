"""Boxes and labels end up where they should, on images of any size."""

import numpy as np
import pytest
from PIL import Image

from dabdetr.structures import Detections
from dabdetr.structures.drawing import colour
from dabdetr.structures.drawing import draw as draw_arrays


def found(boxes, size, labels=None, names=("owl", "fox", "hen")):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    labels = np.zeros(count, np.int64) if labels is None else np.asarray(labels)
    return Detections(
        boxes, np.linspace(0.9, 0.5, count, dtype=np.float32), labels, np.arange(count), names, size
    )


def draw(image, detections):
    return draw_arrays(
        image, detections.boxes, detections.scores, detections.labels, detections.names
    )


def changed(image, drawn):
    """Mask of the pixels that were drawn on."""
    return (np.asarray(drawn) != image).any(-1)


def coloured(drawn, label):
    return (np.asarray(drawn) == colour(label)).all(-1)


def test_the_frame_lies_on_the_edge_of_the_box():
    image = np.full((300, 400, 3), 128, np.uint8)
    drawn = draw(image, found([[100, 120, 200, 220]], (300, 400)))
    rows, columns = np.nonzero(changed(image, drawn)[150:])
    assert (columns.min(), columns.max()) == (100, 199)
    assert rows.max() + 150 == 219
    assert not changed(image, drawn)[140:200, 110:190].any()
    assert coloured(drawn, 0)[150:200, 100].all()


def test_the_image_given_is_not_touched():
    image = np.zeros((50, 60, 3), np.uint8)
    draw(image, found([[5, 5, 50, 40]], (50, 60)))
    assert not image.any()


def test_the_label_stands_above_or_within():
    image = np.full((300, 400, 3), 128, np.uint8)
    above = changed(image, draw(image, found([[100, 120, 200, 220]], (300, 400))))
    assert above[:119].any()
    assert not above[:90].any()
    within = changed(image, draw(image, found([[100, 3, 200, 220]], (300, 400))))
    assert not within[:3].any()
    assert within[10:25, 105:140].any()


def test_labels_do_not_cover_each_other():
    size = (400, 600)
    image = np.full((*size, 3), 128, np.uint8)
    boxes = [[200, 100, 400, 300], [202, 102, 402, 302], [198, 98, 398, 298]]
    three = coloured(draw(image, found(boxes, size)), 0)
    alone = [coloured(draw(image, found(box, size)), 0).sum() for box in boxes]
    assert three.sum() > 0.8 * sum(alone)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 9), (10, 20000), (3000, 4), (1200, 1600)])
def test_any_size(size):
    height, width = size
    image = np.full((*size, 3), 99, np.uint8)
    boxes = [[0, 0, width, height], [width / 4, height / 4, width / 2, height / 2], [0, 0, 0, 0]]
    drawn = draw(image, found(boxes, size, [0, 1, 2]))
    assert drawn.size == (width, height)
    assert changed(image, drawn).any()


def test_lines_grow_with_the_image():
    widths = []
    for side in (100, 800, 3200):
        image = np.full((side, side, 3), 128, np.uint8)
        half, low = side // 2, side // 4
        drawn = draw(image, found([[low, low, side - low, side - low]], (side, side)))
        widths.append(int(coloured(drawn, 0)[half, :half].sum()))
    assert widths == sorted(set(widths))


@pytest.mark.parametrize("name", ["小熊猫", "енот", "🦝", "ρακούν", "", "a\nb", "x" * 500, "راكون"])
def test_any_name(name):
    image = np.full((120, 160, 3), 128, np.uint8)
    drawn = draw(image, found([[20, 40, 100, 100]], (120, 160), names=(name,)))
    assert coloured(drawn, 0).any()


def test_boxes_beyond_the_image():
    image = np.full((120, 160, 3), 128, np.uint8)
    drawn = draw(image, found([[-50, -50, 900, 900], [-9, 30, 40, 200]], (120, 160)))
    assert drawn.size == (160, 120)


def test_nothing_found_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert not changed(image, draw(image, found([], (40, 50)))).any()


def test_an_image_in_no_decoded_format_starts_no_other_program(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg", "EPS")  # for which Pillow has Ghostscript
    with pytest.raises(OSError, match="cannot identify"):
        found([[1, 1, 4, 4]], (8, 8)).plot(tmp_path / "x.jpg")


def test_images_of_other_kinds(tmp_path):
    grey = np.full((40, 50), 77, np.uint8)
    Image.fromarray(grey).save(tmp_path / "g.png")
    content = (tmp_path / "g.png").read_bytes()
    kinds = [grey, grey[:, :, None], grey / 255, Image.fromarray(grey), tmp_path / "g.png", content]
    plain = draw(np.repeat(grey[:, :, None], 3, 2), found([[5, 5, 20, 20]], (40, 50)))
    for kind in kinds:
        plotted = found([[5, 5, 20, 20]], (40, 50)).plot(kind)
        np.testing.assert_array_equal(np.asarray(plotted), np.asarray(plain))


def test_a_photograph_is_turned_as_its_camera_was_held(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    Image.fromarray(pixels).save(tmp_path / "t.png", exif=exif)
    turned = np.rot90(pixels, -1)
    plotted = found([], turned.shape[:2]).plot(tmp_path / "t.png")
    np.testing.assert_array_equal(np.asarray(plotted), turned)


def simulated(rgb, kind):
    """What a dichromat sees of a colour (Viénot, Brettel and Mollon 1999), in linear RGB."""
    to_lms = np.array(
        [[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]]
    )
    lost = {
        "protan": [[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]],
        "deutan": [[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]],
    }[kind]
    return np.linalg.inv(to_lms) @ np.array(lost) @ to_lms @ ((np.array(rgb) / 255) ** 2.2)


@pytest.mark.parametrize("kind", ["protan", "deutan"])
def test_the_first_colours_differ_for_everyone(kind):
    first = [colour(label) for label in range(7)]
    assert len({colour(label) for label in range(21)}) == 21
    seen = [simulated(rgb, kind) for rgb in first]
    gaps = [np.abs(a - b).max() for i, a in enumerate(seen) for b in seen[i + 1 :]]
    assert min(gaps) > 0.05
