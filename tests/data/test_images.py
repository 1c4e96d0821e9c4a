"""Every kind of image comes out as a person would see it; every broken one in one sentence."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from dabdetr.data import images
from dabdetr.data.heads import read_heads
from dabdetr.data.images import IMAGE_SUFFIXES, image_size, read_image, used_bits

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
        (np.full((2, 2, 3), 200.0), "got float64 from 200 to 200; convert it: array.astype"),
        (np.full((2, 2, 3), np.nan), "floats from 0 to 1; got float64 with values that are not"),
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
    with pytest.raises(ValueError, match=r"^the content "):
        read_image(content)


@pytest.mark.parametrize("side", [40, 30])  # Pillow raises at twice its limit, and warns above it
def test_decompression_bombs_are_refused(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    content = as_file(Image.new("RGB", (side, side)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(ValueError, match="decompression bomb"):
        read_image(content)
    for kind, most in (("WEBP", 350), ("JPEG2000", 233)):  # their decoders take more memory
        with pytest.raises(ValueError, match=rf"more than {most} pixels, .* bomb"):
            read_image(as_file(Image.new("RGB", (20, 20)), kind))


def chunks(*parts: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )


PALETTE_WITHOUT_COLOURS = chunks(
    (b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 3, 0, 0, 0)),
    (b"IDAT", zlib.compress(bytes(4 * 5))),
    (b"IEND", b""),
)


def avif() -> bytes:
    content = as_file(Image.fromarray(large(CORNERS)), "AVIF")
    return content[: len(content) // 2] + bytes(len(content) // 2)


BROKEN: dict[str, bytes] = {
    "AssertionError": PALETTE_WITHOUT_COLOURS,
    "ValueError": b"P2\n4 4\n255\n\x112 a b c",
    "SyntaxError": b"\x89PNG\r\n\x1a\n" + PALETTE_WITHOUT_COLOURS[8:40] + b"\0" * 60,
    **({"RuntimeError": avif()} if features.check("avif") else {}),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_whatever_a_decoder_raises_is_a_damaged_image(kind: str) -> None:
    with pytest.raises(ValueError, match=r"damaged or cut short|not an image that can be read"):
        read_image(BROKEN[kind])


def eps() -> bytes:
    return (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
        b"(started) print\nshowpage\n%%EOF\n"
    )


@pytest.mark.parametrize("name", ["a.jpg", "a.eps"])
def test_no_other_program_is_started(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / name).write_bytes(eps())
    with pytest.raises(ValueError, match="none of JPEG, PNG"):
        read_image(tmp_path / name)
    assert not started.exists()


@pytest.mark.parametrize("kind", ["DDS", "PCX", "TGA", "ICO", "SGI"])
def test_formats_that_are_not_promised_are_not_decoded(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(as_file(Image.fromarray(large(CORNERS)), kind))
    with pytest.raises(ValueError, match="none of JPEG, PNG"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "JPEG2000", "PPM"])
def test_formats_that_are_promised(kind: str) -> None:
    content = as_file(Image.fromarray(large(CORNERS)), kind)
    assert alike(read_image(content))


def alike(image: np.ndarray) -> bool:
    """Whether an image shows the corners, as lossy formats keep them."""
    return np.abs(image.astype(int) - large(CORNERS)).mean() < 8


def test_phones_and_pillow_agree_on_avif_and_mpo() -> None:
    image = Image.fromarray(large(CORNERS))
    other = Image.fromarray(255 - large(CORNERS))
    content = as_file(image, "MPO", save_all=True, append_images=[other], quality=100)
    assert alike(read_image(content))
    if features.check("avif"):
        content = as_file(image, "AVIF", quality=100)
        assert alike(read_image(content))


def test_heic_names_the_package_that_is_missing(tmp_path: Path) -> None:
    if importlib.util.find_spec("pillow_heif"):
        pytest.skip("pillow-heif is installed here")
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    with pytest.raises(ValueError, match=r"a.jpg is a HEIC image.*pip install pillow-heif"):
        read_image(tmp_path / "a.jpg")
    assert {".heic", ".heif", ".avif", ".jfif", ".jpe", ".mpo"} <= IMAGE_SUFFIXES


def test_the_first_page_is_taken_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Image.fromarray(large(CORNERS)), Image.fromarray(255 - large(CORNERS))
    for kind in ("TIFF", "GIF", "WEBP", "PNG"):
        path = tmp_path / f"pages.{kind.lower()}"
        first.save(path, kind, save_all=True, append_images=[second])
        assert alike(read_image(path))
        read_image(path)
        first.save(tmp_path / f"page.{kind.lower()}", kind)
        read_image(tmp_path / f"page.{kind.lower()}")
        of_data = Path(shutil.copy(path, tmp_path / f"data.{kind.lower()}"))
        read_image(of_data, size=first.size)  # the data set counts them
        read_heads([str(of_data)])
    assert len(caplog.messages) == 4
    assert (
        caplog.messages[0] == f"{tmp_path}/pages.tiff has several pages or frames; the first "
        "is used"
    )


def test_twelve_bits_in_sixteen_are_stretched_where_that_is_known(tmp_path: Path) -> None:
    values = np.array([[0, 1024, 4095], [2048, 3000, 100]], np.uint16)
    for kind in ("PNG", "TIFF"):
        path = tmp_path / f"a.{kind.lower()}"
        Image.fromarray(values).save(path, kind)
        assert used_bits(path) == 12
        np.testing.assert_array_equal(
            read_image(path, bits=12)[:, :, 0], np.round(values / 4095 * 255)
        )
        assert read_image(path).max() == 16
    assert read_image(as_file(Image.fromarray(values * 15), "PNG"), bits=12).max() == 255
    assert used_bits(as_file(Image.fromarray(values // 999), "PNG")) == 8
    assert used_bits(as_file(Image.fromarray(large(CORNERS)), "PNG")) is None
    assert used_bits(as_file(Image.fromarray(values.astype(np.float32)), "TIFF")) is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_conversion_in_strips_gives_the_same(
    orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, _ = turned(orientation)
    whole = read_image(content)
    monkeypatch.setattr(images, "STRIP", 100)
    np.testing.assert_array_equal(read_image(content), whole)
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (40, 30, 4), dtype=np.uint8)
    alpha = rgba[:, :, 3:] / 255
    wanted = np.floor(rgba[:, :, :3] * alpha + 255 * (1 - alpha) + 0.5)
    for source in (rgba, as_file(Image.fromarray(rgba), "PNG"), rgba / 255):
        np.testing.assert_allclose(read_image(source), wanted, atol=0)


PEAK = """
import sys
from pathlib import Path
from dabdetr.data.images import read_image
def now(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024
before = now("VmRSS")
read_image(sys.argv[1])
print(now("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("P", "PNG", {"transparency": b"\x10" * 256}),
        ("F", "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("I;16", "PNG", {}),
        ("RGB", "JPEG", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"}),
    ],
)
def test_a_small_file_of_many_pixels_takes_no_more_than_they_do(
    mode: str, kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    side = 3000
    image = Image.new(mode, (side, side), (7, 8) if mode == "LA" else 7)
    image.save(tmp_path / "bomb", kind, **options)
    assert (tmp_path / "bomb").stat().st_size < 1e6
    line = [sys.executable, "-c", PEAK, str(tmp_path / "bomb")]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4 * 3 * side**2


def test_what_libtiff_finds_wrong_stays_off_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = bytearray(as_file(Image.fromarray(pixels), "TIFF", compression="tiff_adobe_deflate"))
    content[60:2000] = bytes(1940)
    with pytest.raises(ValueError, match=r"damaged or cut short|not an image"):
        read_image(bytes(content))
    assert capfd.readouterr().err == ""


def test_what_pillow_logs_stays_off_stderr(tmp_path: Path) -> None:
    """Where nobody listens, as in a program of its own, Python prints messages of loggers."""
    content = as_file(Image.new("RGB", (8, 8)), "TIFF")
    samples = content.index(struct.pack("<HHIH", 277, 3, 1, 3))
    wrong = content[: samples + 8] + struct.pack("<H", 279) + content[samples + 10 :]
    (tmp_path / "x.tif").write_bytes(wrong)
    code = (
        "import sys\nfrom dabdetr.data.images import read_image\n"
        "try: read_image(sys.argv[1])\nexcept ValueError: print('refused')"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "x.tif")]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")


def test_a_gif_whose_later_frames_are_damaged_is_read() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8), np.uint8)
    first, second = map(Image.fromarray, pixels)
    content = as_file(first, "GIF", save_all=True, append_images=[second])
    at = content.rindex(b",\0\0\0\0")  # the head of the second frame
    assert {read_image(content[: at + size]).shape for size in range(1, 14)} == {(8, 8, 3)}


def test_threads_read_at_once_without_warnings(recwarn: pytest.WarningsRecorder) -> None:
    content = as_file(Image.fromarray(large(CORNERS)), "TIFF", tiffinfo={305: "x" * 40})
    entry = content.index(struct.pack("<HHI", 305, 2, 41))
    bad_tag = content[: entry + 8] + b"\xff\xff\xff\x7f" + content[entry + 12 :]
    with pytest.warns(UserWarning, match="Truncated File Read"):
        Image.open(io.BytesIO(bad_tag)).getexif()
    contents = [bad_tag, as_file(Image.fromarray(large(CORNERS)), "PNG")] * 8
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(read_image, contents))
    assert all((each == large(CORNERS)).all() for each in read)
    assert not recwarn.list


@pytest.mark.parametrize("place", ["pipe", "/dev/zero"])
def test_only_regular_files_are_images(place: str, tmp_path: Path) -> None:
    path = tmp_path / place
    if place == "pipe":
        os.mkfifo(path)
    for reader in (read_image, image_size, used_bits):
        with pytest.raises(ValueError, match="no regular file"):
            reader(path)
