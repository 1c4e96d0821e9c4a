"""Every kind of image comes out as a person would see it; every broken one in one sentence."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dabdetr.data.images import image_size, read_image

CORNERS = np.array(
    [[[250, 0, 0], [0, 250, 0], [0, 0, 250]], [[250, 250, 0], [0, 250, 250], [9, 9, 9]]],
    dtype=np.uint8,
)
"""An image without any symmetry, 3 wide and 2 high."""


def large(image: np.ndarray) -> np.ndarray:
    """Each pixel as a block of 16x16, which JPEG keeps apart."""
    return image.repeat(16, 0).repeat(16, 1)


def turned(orientation: int) -> tuple[bytes, np.ndarray]:
    """A JPEG stored in the given EXIF orientation, and what it should look like."""
    upright = large(CORNERS)
    undo = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(undo)).save(
        file, "JPEG", quality=100, subsampling=0, exif=exif
    )
    return file.getvalue(), upright


def as_file(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    content, upright = turned(orientation)
    np.testing.assert_allclose(read_image(content).astype(int), upright.astype(int), atol=12)


def test_an_image_annotated_before_turning_stays_unturned() -> None:
    content, upright = turned(6)
    high, wide = upright.shape[:2]
    assert read_image(content, size=(wide, high)).shape == (high, wide, 3)
    assert read_image(content, size=(high, wide)).shape == (wide, high, 3)
    with pytest.raises(ValueError, match="is 48x32 pixels, but its annotations were made for 5x5"):
        read_image(content, size=(5, 5))


def test_size_is_that_after_turning(tmp_path: Path) -> None:
    content, upright = turned(6)
    (tmp_path / "turned.jpg").write_bytes(content)
    assert image_size(tmp_path / "turned.jpg") == (upright.shape[1], upright.shape[0])


def test_broken_exif_does_not_spoil_the_image() -> None:
    content = as_file(
        Image.fromarray(large(CORNERS)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"
    )
    assert read_image(content).shape == (32, 48, 3)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 256, 32768], [40000, 65000, 65535]], dtype=np.uint16)
    wanted = np.round(values / 257).astype(int)
    for content in (
        as_file(Image.fromarray(values), "PNG"),
        as_file(Image.fromarray(values), "TIFF"),
    ):
        image = read_image(content)
        for channel in range(3):
            np.testing.assert_array_equal(image[:, :, channel], wanted)
    np.testing.assert_array_equal(read_image(values)[:, :, 0], wanted)
    np.testing.assert_array_equal(read_image(values.astype(">u2"))[:, :, 1], wanted)


def test_float_images_keep_their_range() -> None:
    values = np.array([[0, 0.25, 1]], dtype=np.float32)
    for source in (values, Image.fromarray(values), Image.fromarray(values * 255)):
        np.testing.assert_array_equal(read_image(source)[0, :, 0], [0, 64, 255])


def test_transparency_lies_over_white() -> None:
    rgba = np.array([[[200, 0, 0, 255], [0, 0, 0, 0], [0, 0, 100, 51]]], dtype=np.uint8)
    wanted = np.array([[[200, 0, 0], [255, 255, 255], [204, 204, 224]]])
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "L").convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    np.testing.assert_array_equal(read_image(as_file(Image.fromarray(rgba), "PNG")), wanted)
    np.testing.assert_array_equal(read_image(rgba), wanted)
    content = as_file(palette, "PNG", transparency=b"\x00\xff")
    np.testing.assert_array_equal(read_image(content), [[[255, 255, 255], [40, 50, 60]]])
    content = as_file(palette, "PNG")
    np.testing.assert_array_equal(read_image(content), [[[10, 20, 30], [40, 50, 60]]])
    grey = np.array([[[90, 255], [90, 0]]], dtype=np.uint8)
    np.testing.assert_array_equal(
        read_image(as_file(Image.fromarray(grey, "LA"), "PNG"))[:, :, 2], [[90, 255]]
    )


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr", "HSV"])
def test_other_colour_spaces(mode: str) -> None:
    grey = np.where(large(CORNERS)[:, :, :1] > 100, 255, 0).astype(np.uint8).repeat(3, 2)
    image = read_image(Image.fromarray(grey).convert(mode))
    np.testing.assert_allclose(image.astype(int), grey.astype(int), atol=3)


def test_cmyk_jpeg_is_not_inverted() -> None:
    white = Image.new("CMYK", (16, 16), (0, 0, 0, 0))
    assert read_image(as_file(white, "JPEG", quality=100)).min() > 250


@pytest.mark.parametrize(("width", "height"), [(1, 1), (20000, 10)])
def test_extreme_sizes(width: int, height: int) -> None:
    image = read_image(as_file(Image.new("RGB", (width, height), (1, 2, 3)), "PNG"))
    assert image.shape == (height, width, 3)
    assert (image == [1, 2, 3]).all()


@given(
    st.integers(1, 5), st.integers(1, 5), st.sampled_from([None, 1, 3]), st.integers(0, 2**32 - 1)
)
def test_arrays_of_any_type_agree(height: int, width: int, channels: int | None, seed: int) -> None:
    shape = (height, width) if channels is None else (height, width, channels)
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    image = read_image(array)
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(
        image, np.broadcast_to(array.reshape(height, width, -1), image.shape)
    )
    for other in (
        array.astype(np.float64) / 255,
        array.astype(np.uint16) * np.uint16(257),
        array.astype(int),
    ):
        np.testing.assert_array_equal(read_image(other), image)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 40, 50), np.uint8), "move the channels last"),
        (np.zeros((4,), np.uint8), r"\[height, width\]"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.full((2, 2, 3), 200.0), "floats from 0 to 1; got float64 from 200 to 200"),
        (np.full((2, 2, 3), np.nan), "floats from 0 to 1"),
        (np.full((2, 2, 3), -1), "from -1 to -1"),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_image(array)


def test_what_is_no_image_at_all() -> None:
    with pytest.raises(ValueError, match=r"expected as a path, bytes, a PIL image .* got list"):
        read_image([1, 2])  # pyright: ignore[reportArgumentType]


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(f"no image {tmp_path / 'no.png'}")):
        read_image(tmp_path / "no.png")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path} is a folder")):
        read_image(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"not an image, but a text of some length", "not an image that can be read"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "not an image that can be read|damaged"),
        (turned(1)[0][:-100], "damaged or cut short"),
        (turned(1)[0][:30], "not an image that can be read"),
        (as_file(Image.fromarray(large(CORNERS)), "PNG")[:-60], "damaged or cut short"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="the bytes given"):
        read_image(content)


@pytest.mark.parametrize("side", [40, 30])  # Pillow raises at twice its limit, and warns above it
def test_decompression_bombs_are_refused(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    content = as_file(Image.new("RGB", (side, side)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(ValueError, match="decompression bomb"):
        read_image(content)
