"""Videos come frame by frame with their times, and go out with the same ones."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dabdetr.inference.sources import attempts, expand, read_sources
from dabdetr.inference.stream import DamagedFrame, Unreadable
from dabdetr.inference.video import Camera, VideoWriter, frames, is_endless, is_video

av = pytest.importorskip("av")

TIMES = [0, 40, 90, 120, 300, 340, 341, 400, 440, 480]
"""Milliseconds: the distances vary, as phones film."""


def write(path: Path, times: list[int], turned: int = 0, **options: str) -> Path:
    """Frame n has grey 20 + 20·n with its left half dark; times in ms."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        if turned:
            stream.set_display_rotation(turned)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(grey(number), "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def grey(number: int) -> np.ndarray:
    array = np.full((48, 64, 3), 20 + 20 * (number % 10), np.uint8)
    array[:, :32] //= 4
    return array


def damage(path: Path, *places: int) -> Path:
    """Zeros in place of those packets, counted in the order in which they are stored."""
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    content = bytearray(path.read_bytes())
    for place in places:
        start, size = packets[place]
        content[start + 5 : start + size] = bytes(size - 5)
    path.write_bytes(content)
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write(tmp_path / "clip.mp4", TIMES)


def stamps(images: Any) -> list[tuple[int, int]]:
    return [(image.frame, round(1000 * image.time)) for image in images]


def test_frames_come_in_order_with_number_and_time(clip: Path) -> None:
    found = list(read_sources(clip))
    assert stamps(found) == list(enumerate(TIMES))
    for number, image in enumerate(found):
        assert image.name == str(clip)
        assert image.array.shape == (48, 64, 3)
        difference = image.array.astype(int) - grey(number)
        assert np.abs(difference[:, [8, 56]]).max() <= 6


@pytest.mark.parametrize("stride", [2, 3, 20])
def test_stride_leaves_out_frames(clip: Path, stride: int) -> None:
    kept = stamps(read_sources(str(clip), stride=stride))
    assert kept == list(enumerate(TIMES))[::stride]


def test_videos_stand_among_images_and_in_patterns(clip: Path) -> None:
    array = grey(0)
    found = list(read_sources([array, clip, array]))
    assert [image.frame for image in found] == [None, *range(10), None]
    assert len(list(read_sources(f"{clip.parent}/*.mp4"))) == 10


def test_damaged_frames_are_told_and_passed_over(tmp_path: Path) -> None:
    options = {"g": "4", "bf": "0"}
    clip = damage(write(tmp_path / "clip.mp4", [40 * n for n in range(20)], **options), 5, 13)
    told: list[tuple[str, Exception]] = []
    found = list(read_sources(clip, lambda name, error: told.append((name, error))))
    assert stamps(found) == [(n, 40 * n) for n in range(20) if n not in (5, 13)]
    assert [name for name, _ in told] == [str(clip)] * 2
    for (_, error), time in zip(told, ("0.20", "0.52"), strict=True):
        assert isinstance(error, DamagedFrame)
        assert f"{clip}: the frame at {time} s is damaged" in str(error)
    with pytest.raises(DamagedFrame, match=r"at 0\.20 s is damaged"):
        list(read_sources(clip))
    assert len(list(read_sources(clip, "skip"))) == 18


def test_what_is_no_video(tmp_path: Path, clip: Path) -> None:
    for name, content in (("text.mp4", b"hello"), ("cut.mp4", clip.read_bytes()[:900])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} cannot be opened as a video \(.*replace"):
            list(read_sources(tmp_path / name))
        told = list(attempts(expand([tmp_path / name, grey(0)])))
        assert isinstance(told[0], Unreadable)
        assert len(told) == 2
    (tmp_path / "none.mp4").touch()  # as /proc/kmsg seems to be, which ffmpeg would wait for
    with pytest.raises(ValueError, match=r"none\.mp4 is empty"):
        list(read_sources(tmp_path / "none.mp4"))
    (tmp_path / "none.mp4").unlink()
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"sound\.mp4 has no images, only sound"):
        list(read_sources(tmp_path / "sound.mp4"))
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*none\.mp4"):
        read_sources(tmp_path / "none.mp4")


@pytest.mark.skipif(Path("/dev/video7").exists(), reason="there are that many cameras here")
def test_a_camera_that_is_not_there() -> None:
    for source in (7, "7"):
        with pytest.raises(ValueError, match=r"no camera 7 that can be opened here \(.*plug one"):
            list(read_sources(source))


def test_what_means_a_video() -> None:
    assert all(map(is_video, ("a.MP4", Path("a.mkv"), Camera(0), "rtsp://host/1")))
    assert is_video("https://host/a.MP4?x=1")
    assert not any(map(is_video, ("a.gif", "https://host/a.jpg", 0, b"a.mp4", grey(0))))
    assert all(map(is_endless, ("0", Camera(0), "rtsp://host/1")))
    assert not is_endless("a.mp4")


def test_without_the_package_one_is_told_what_to_type(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"type: pip install '.*\[video\]'"):
        list(frames(clip))
    with pytest.raises(ImportError, match="pip install"):
        read_sources([grey(0), clip])
    assert len(list(read_sources(grey(0)))) == 1


@pytest.mark.skipif(
    not hasattr(av.video.stream.VideoStream, "set_display_rotation"), reason="an older PyAV"
)
@pytest.mark.parametrize("turned", [-90, 90, 180])
def test_frames_are_turned_as_they_are_shown(tmp_path: Path, turned: int) -> None:
    clip = write(tmp_path / "clip.mp4", TIMES[:2], turned)
    first = next(read_sources(clip)).array.astype(int)
    dark = {-90: first[:20], 90: first[-20:], 180: first[:, -20:]}[turned]
    light = {-90: first[-20:], 90: first[:20], 180: first[:, :20]}[turned]
    assert first.shape[:2] == ((48, 64) if turned == 180 else (64, 48))
    assert dark.mean() + 8 < light.mean()


def test_a_written_video_has_the_times_of_its_frames(tmp_path: Path, clip: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", str(clip)) as writer:
        for image in read_sources(clip, stride=3):
            assert image.time is not None
            writer.add(image.array[:-1, :-1], image.time)  # odd sides
    out = list(read_sources(tmp_path / "out.mp4"))
    assert [image.time for image in out] == [p.time for p in read_sources(clip, stride=3)]
    assert out[0].array.shape == (46, 62, 3)
    for number, image in enumerate(out):
        difference = image.array.astype(int) - grey(3 * number)[:46, :62]
        assert np.abs(difference[:, [8, 54]]).max() <= 8


def test_times_that_come_twice_are_moved_by_the_least_step(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", "") as writer:
        for time in (0.0, 0.5, 0.5, 0.25, 1.0):
            writer.add(grey(0), time)
    times = [image.time for image in read_sources(tmp_path / "out.mp4")]
    assert times == pytest.approx([0, 0.5, 0.5, 0.5, 1], abs=1e-4)
    assert times == sorted(set(times))  # pyright: ignore[reportArgumentType]


class Parts(SimpleHTTPRequestHandler):
    """Serves files, and parts of them where that is asked for and ``in_parts`` is set."""

    in_parts = True
    cut = 0

    def do_GET(self) -> None:
        content = Path(self.directory, self.path.strip("/").partition("?")[0]).read_bytes()
        wanted = self.headers.get("Range")
        if wanted and self.in_parts:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            content = content[start:]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(content[: len(content) - self.cut])

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the folder, by a name that only this process knows."""
    handler = partial(Parts, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    known = socket.getaddrinfo
    monkeypatch.setattr(
        *(socket, "getaddrinfo"),
        lambda host, *more: known("127.0.0.1" if host == "video.test" else host, *more),
    )
    yield f"http://video.test:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("in_parts", [True, False])
def test_ffmpeg_looks_up_no_name(
    served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_parts: bool
) -> None:
    """It would get another answer than the check of private addresses did."""
    monkeypatch.setattr(Parts, "in_parts", in_parts)
    path = write(tmp_path / "clip.mp4", TIMES)
    if not in_parts:
        path = write_at_the_front(path)
    here = list(read_sources(path))
    there = list(read_sources(f"{served}/{path.name}?x=1", allow_private=True))
    assert len(there) == len(TIMES)
    for one, other in zip(here, there, strict=True):
        assert np.array_equal(one.array, other.array)
    with pytest.raises(ValueError, match="private network"):
        list(read_sources(f"{served}/{path.name}"))


def write_at_the_front(path: Path) -> Path:
    """The same with its index before its images, as it is streamed."""
    target = path.with_name("front.mp4")
    with (
        av.open(str(path)) as given,
        av.open(str(target), "w", options={"movflags": "faststart"}) as made,
    ):
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                made.mux(packet)
    return target


def test_a_remote_video_that_ends_early_is_told(
    served: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = write_at_the_front(write(tmp_path / "clip.mp4", TIMES))
    monkeypatch.setattr(Parts, "cut", 600)
    with pytest.raises(ValueError, match=r"ended 600 bytes too early"):
        list(read_sources(f"{served}/{path.name}", allow_private=True))
    assert not capfd.readouterr().err
