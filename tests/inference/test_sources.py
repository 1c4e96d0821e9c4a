"""Every kind of source gives the same pixels; wrong ones are told in a sentence."""

import io
import shutil
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dabdetr.inference.sources import read_sources


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path, array):
    (tmp_path / "sub").mkdir()
    for place in ("b.png", "a.PNG", "sub/c.png", ".hidden.png"):
        (tmp_path / place).write_bytes(png(array))
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "dir.png").mkdir()
    return tmp_path


def names(source, **options):
    return [Path(image.name).name for image in read_sources(source, **options)]


def test_every_kind_gives_the_same_pixels(folder, array):
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    kinds = [
        *(folder / "b.png", str(folder / "b.png"), Image.fromarray(array), array, png(array)),
        *(tensor, tensor.float() / 255, tensor.double() / 255, array.astype(np.float32) / 255),
    ]
    for kind in kinds:
        (image,) = read_sources(kind)
        np.testing.assert_array_equal(image.array, array)
        assert image.name == (str(kind) if isinstance(kind, str | Path) else "")
    assert len(list(read_sources(kinds))) == len(kinds)
    assert len(list(read_sources(tuple(kinds)))) == len(kinds)


def test_grey_and_half_precision(array):
    grey = array[:, :, 0]
    expected = np.repeat(grey[:, :, None], 3, 2)
    for kind in (grey, torch.from_numpy(grey)[None], torch.from_numpy(grey)[None].bfloat16() / 255):
        (image,) = read_sources(kind)
        difference = image.array.astype(int) - expected
        assert np.abs(difference).max() <= (1 if torch.is_tensor(kind) else 0)


def test_a_folder_gives_its_own_images_by_name(folder):
    assert names(folder) == names(str(folder)) == ["a.PNG", "b.png"]


@pytest.mark.parametrize("name", ["a\x1bb.png", "a\u202eb.png"])
def test_an_image_is_found_again_by_its_source(tmp_path, array, name):
    (tmp_path / name).write_bytes(png(array))
    assert [each.name for each in read_sources(tmp_path)] == [str(tmp_path / name)]


def test_a_link_that_leads_nowhere_is_no_less_an_image(folder):
    (folder / "z.png").symlink_to("gone.png")
    with pytest.raises(FileNotFoundError, match=r"there is no image .*z\.png"):
        names(folder)


def test_open_files(folder, array):
    for file in (io.BytesIO(png(array)), (folder / "b.png").open("rb")):
        with file:
            (image,) = read_sources(file)
            assert (image.array == array).all()
    with pytest.raises(ValueError, match="binary mode"):
        list(read_sources(io.StringIO("x")))


class Upload:
    """As web frameworks pass uploads on: ``read`` waits, the file is inside."""

    def __init__(self, content):
        self.file = io.BytesIO(content)

    async def read(self):
        return self.file.read()


def test_contents_in_other_wraps(array, monkeypatch):
    content = png(array)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    for source in (memoryview(content), Upload(content), "-", [memoryview(content)]):
        assert (next(read_sources(source)).array == array).all()
    assert (next(read_sources(memoryview(array))).array == array).all()


def test_bgr_is_for_arrays_only(array):
    array = array.copy()
    array[..., 0] = 255
    alpha = np.dstack((array, np.full_like(array[..., :1], 255)))
    for pixels in (array[..., ::-1], alpha[..., [2, 1, 0, 3]]):
        assert (next(read_sources(pixels, bgr=True)).array == array).all()
    for same in (png(array), Image.fromarray(array)):
        assert (next(read_sources(same, bgr=True)).array == array).all()


def test_a_folders_videos_are_taken(folder, array):
    from dabdetr.inference.video import VideoWriter

    with VideoWriter(folder / "aa.mp4", "") as writer:
        for number in range(3):
            writer.add(np.zeros((32, 32, 3), np.uint8), number / 10)
    found = [(Path(each.name).name, each.frame) for each in read_sources(folder)]
    assert found == [("a.PNG", None), *(("aa.mp4", n) for n in range(3)), ("b.png", None)]


def test_what_a_folder_leaves_out_is_logged(folder, caplog, monkeypatch):
    (folder / "clip.mp4").touch()
    (folder / "old.pcx").touch()
    monkeypatch.setitem(sys.modules, "av", None)
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    assert "phone.heic" not in names(folder)
    assert "left out 1 video (clip.mp4), which need a package: pip install av" in caplog.text
    assert "left out 1 image (old.pcx) in formats that are not decoded" in caplog.text
    if find_spec("pillow_heif") is None:
        assert "left out 1 HEIC image (phone.heic)" in caplog.text
        with pytest.raises(ValueError, match="pip install pillow-heif"):
            list(read_sources(folder / "phone.heic"))


def test_deep_images_are_scaled_by_the_bits_they_use(tmp_path):
    deep = np.tile(np.arange(4096, dtype=np.uint16), (8, 1))
    Image.fromarray(deep).save(tmp_path / "deep.png")
    for source in (tmp_path / "deep.png", deep):
        for bits, brightest, levels in ((12, 255, 256), (None, 16, 17)):
            (image,) = read_sources(source, bits=bits)
            assert image.array.max() == brightest
            assert len(np.unique(image.array)) == levels


def test_patterns(folder):
    assert names(f"{folder}/*.png") == ["b.png"]
    assert names(f"{folder}/**/*.png") == ["b.png", "c.png"]
    assert names([f"{folder}/sub/?.png", folder / "a.PNG"]) == ["c.png", "a.PNG"]
    named = folder.rename(folder.with_name("set [v1]"))
    assert names(f"{named}/**/*.png") == ["b.png", "c.png"]


def test_a_file_whose_name_looks_like_a_pattern(tmp_path, array):
    (tmp_path / "day[1]*.png").write_bytes(png(array))
    assert names(tmp_path / "day[1]*.png") == ["day[1]*.png"]


def test_generators_are_read_as_they_are_asked_for(array):
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield array

    stream = read_sources(endless())
    next(stream), next(stream)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere/x.png", "no file or folder .*x.png; check the path"),
        ("nowhere/*.png", "no image or video matches the pattern nowhere/"),
        ("s3://me:secret@bucket/x.png", r"^s3://bucket/x.png is an address of an unknown kind"),
        (["nowhere.png"], "no file or folder nowhere.png"),
        ([], "an empty list was given"),
        (7.5, "expected as a path.* got float"),
        (True, "expected as a path.* got bool"),
        (-1, "expected as a path.* got int"),
        (None, "expected as a path.* got NoneType"),
        ({"a": 1}, "got dict"),
    ],
)
def test_wrong_sources_are_told_at_once(source, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_sources(source)


def test_a_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"folder .* has no images or videos directly in it"):
        read_sources(tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (torch.zeros(2, 3, 8, 8), r"\[2, 3, 8, 8\]; give a batch as list"),
        (torch.zeros(8, 8, 3), r"a tensor should be \[1, 3 or 4 channels"),
        (torch.full((3, 8, 8), 9.0), "floats from 0 to 1"),
        (np.zeros((3, 8, 8), np.uint8), "channels last"),
        (b"", "0 bytes"),
        (b"no image", "not an image"),
    ],
)
def test_bad_images_in_memory_are_told_by_number(source, message, array):
    stream = read_sources([array, source])
    next(stream)
    with pytest.raises(ValueError, match=rf"image 2: .*{message}"):
        next(stream)


def test_broken_files_can_be_passed_over(folder, array):
    (folder / "a1.jpg").write_bytes(b"")
    (folder / "a2.png").write_bytes(png(array)[:200])
    with pytest.raises(ValueError, match=r"a1\.jpg is empty"):
        names(folder)
    assert names(folder, on_error="skip") == ["a.PNG", "b.png"]
    told = []
    assert names(folder, on_error=lambda name, error: told.append((name, str(error)))) == [
        "a.PNG",
        "b.png",
    ]
    assert [Path(name).name for name, _ in told] == ["a1.jpg", "a2.png"]
    assert all(name in message for name, message in told)
    with pytest.raises(ValueError, match="on_error should be"):
        read_sources(folder, on_error="ignore")  # pyright: ignore[reportArgumentType]


class _Answer(BaseHTTPRequestHandler):
    content = b""

    def do_GET(self):
        self.send_response(200 if self.path == "/x.png" else 404)
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(array):
    _Answer.content = png(array)
    server = HTTPServer(("127.0.0.1", 0), _Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_addresses(server, array):
    (image,) = read_sources(f"{server}/x.png", allow_private=True)
    np.testing.assert_array_equal(image.array, array)
    assert image.name == f"{server}/x.png"
    with pytest.raises(ValueError, match=r"/none\.png could not be fetched \(.*give its path"):
        list(read_sources(f"{server}/none.png", allow_private=True))


def test_an_address_that_does_not_answer():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(ValueError, match="could not be fetched"):
        list(read_sources(f"http://127.0.0.1:{port}/x.png", allow_private=True))


def test_images_in_a_folders_folders_are_left_out_and_said(folder, caplog):
    (folder / "day 1" / "cam").mkdir(parents=True)
    shutil.copy(folder / "b.png", folder / "day 1" / "cam" / "c.png")
    assert names(folder) == ["a.PNG", "b.png"]
    assert f"2 images and videos in its folders left out (day 1/cam/c.png); '{folder}/**/*'" in (
        caplog.text
    )
    assert sorted(names(f"{folder}/**/*")) == ["a.PNG", "b.png", "c.png", "c.png"]
    with pytest.raises(ValueError, match=r"its folders have: give .*cam or '.*/day 1/\*\*/\*'"):
        names(folder / "day 1")
