"""Reading of frames from videos and cameras, and writing of videos (needs PyAV)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from dabdetr.files import open_regular
from dabdetr.inference.downloads import (
    PUBLIC,
    SCHEMES,
    Limits,
    RemoteFile,
    check_stream,
    without_password,
)
from dabdetr.inference.stream import DamagedFrame, SourceImage, Unreadable
from dabdetr.packages import lacking
from dabdetr.text import reason

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".wmv"}
    | {".flv", ".3gp", ".ogv"}
)
"""Lower-case endings of videos."""
STREAMS = ("rtsp://", "rtmp://")
"""Beginnings of the addresses of endless videos."""

_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,mpegtsraw,mpegvideo,asf,flv,ogg,h264,"
    "hevc,av1,ivf,wtv,mxf,gxf,dv,m4v,mjpeg,vc1,rm,nut"
)
"""ffmpeg's formats that contain a video and do not refer to other files."""
_TIME_UNIT = Fraction(1, 90_000)  # the usual unit of time in videos, in seconds


class Camera(int):
    """The number of a camera of this machine; 0 is the first."""

    def __str__(self) -> str:
        return f"camera {int(self)}"


def is_video(source: object) -> bool:
    """Whether a source is a camera, or a path or address of a video, by its ending."""
    if isinstance(source, Camera):
        return True
    if not isinstance(source, str | Path):
        return False
    text = str(source)
    if "://" in text:
        source = text.partition("?")[0]
    return text.startswith(STREAMS) or Path(source).suffix.lower() in VIDEO_SUFFIXES


def is_endless(source: object) -> bool:
    """Whether a source is a camera or the address of an endless stream."""
    text = str(source)
    number = text.isdecimal() and not Path(text).exists()
    return isinstance(source, Camera) or number or text.startswith(STREAMS)


def frames(
    source: str | Path | Camera, stride: int = 1, limits: Limits = PUBLIC
) -> Iterator[SourceImage | Unreadable]:
    """Every ``stride``-th frame, rotated as the video's metadata say, with its number and time.

    One frame is in memory at a time. Every damaged frame is yielded as ``Unreadable`` with a
    ``DamagedFrame``, and is counted in the numbers of frames. Times are the video's time stamps in
    seconds; those of a camera start at 0.
    """
    name = without_password(str(source))
    with ExitStack() as stack:
        try:
            container = stack.enter_context(_opened(source, limits))
        except (ValueError, OSError) as error:
            yield Unreadable(name, error)
            return
        start, rgb = 0.0, _Rgb()
        for number, frame in enumerate(_decoded(container, name)):
            if isinstance(frame, Unreadable):
                yield frame
            elif number % stride == 0:
                time = frame.time
                if time is None:  # a video without time stamps
                    time = number / (container.streams.video[0].average_rate or 25)
                if number == 0 and isinstance(source, Camera):  # its stamps do not start at 0
                    start = float(time)
                yield SourceImage(rgb(frame), name, number, float(time) - start)


def _decoded(container: Any, name: str) -> Iterator[Any]:
    """The frames of PyAV, with ``Unreadable`` in the place of each damaged one."""
    from av.error import FFmpegError

    stream = container.streams.video[0]
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except (FFmpegError, OSError) as error:
            yield _damaged(name, f"ends early ({reason(error)})")
            return
        when = "" if packet.pts is None else f" at {float(packet.pts * packet.time_base):.2f} s"
        try:
            found = packet.decode()
        except FFmpegError as error:
            yield _damaged(name, f"the frame{when} is damaged ({reason(error)})")
            continue
        for frame in found:
            bad = frame.is_corrupt
            yield _damaged(name, f"the frame{when} is damaged") if bad else frame


def _damaged(name: str, what: str) -> Unreadable:
    return Unreadable(name, DamagedFrame(f"{name}: {what}"))


class _Rgb:
    """Converts frames to RGB uint8 [height, width, 3], rotated as the frame's metadata say.

    One converter is used for all frames: PyAV makes one for each, which takes milliseconds.
    """

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._converter = VideoReformatter()

    def __call__(self, frame: Any) -> np.ndarray:
        array = self._converter.reformat(frame, format="rgb24").to_ndarray()
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(array, turns)) if turns else array


@contextmanager
def _opened(source: str | Path | Camera, limits: Limits = PUBLIC) -> Iterator[Any]:
    """The opened container; ValueError, with the reason, where it cannot be opened."""
    av = require_av()
    with ExitStack() as stack:
        try:
            if isinstance(source, Camera):
                number = int(source)  # by ffmpeg's names of devices and formats
                place, form = {
                    "darwin": (str(number), "avfoundation"),
                    "win32": (str(number), "vfwcap"),
                }.get(sys.platform, (f"/dev/video{number}", "v4l2"))
                container = av.open(place, format=form)
            else:
                place, options = _place(source, limits)
                if isinstance(place, RemoteFile):
                    stack.callback(place.close)
                container = av.open(place, options=options)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            if isinstance(source, Camera):
                raise ValueError(
                    f"there is no camera {int(source)} that can be opened here "
                    f"({reason(error)}); plug one in, try another number, or give a video file"
                ) from None
            raise ValueError(
                f"{without_password(str(source))} cannot be opened as a video ({reason(error)}); "
                "it may be cut short or no video at all: replace or remove it"
            ) from None
        stack.enter_context(container)
        if not container.streams.video:
            raise ValueError(
                f"{without_password(str(source))} has no images, only sound; replace or remove it"
            )
        yield container


def _place(source: str | Path, limits: Limits) -> tuple[str | RemoteFile, dict[str, str]]:
    """The path, address or file for PyAV, and options that limit its protocols and formats.

    Formats that list other places (HLS, concat) are not allowed: they could read any file. Files at
    addresses are opened here: ffmpeg would resolve their host names again, and might get other IP
    addresses than those that were checked.
    """
    text = str(source)
    if text.startswith(STREAMS):
        check_stream(text, limits)
        return text, {}
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    if text.startswith(SCHEMES):
        return RemoteFile(text, limits), options | {"protocol_whitelist": "none"}
    with open_regular(text) as file:
        if not os.fstat(file.fileno()).st_size:
            raise ValueError(f"{text} is empty (0 bytes); replace or remove it")
    return str(Path(text).absolute()), options


def require_av() -> Any:
    """PyAV; an ImportError gives the command that installs it."""
    try:
        import av
    except ImportError:
        raise lacking("a video or camera", "av", "video") from None
    return av


class VideoWriter:
    """Writes an H.264 video (mp4) of frames with their time stamps.

    ``like`` is the video that they come from: its time unit and frame rate are used.
    """

    def __init__(self, path: Path, like: str) -> None:
        self.path, self._stream = path, None
        self._unit, self._rate = _TIME_UNIT, Fraction(25)  # unless ``like`` has others
        if Path(like).is_file():
            with suppress(ValueError), _opened(like) as container:
                video = container.streams.video[0]
                self._unit = video.time_base or self._unit
                self._rate = video.average_rate or self._rate
        self._last = -1
        av = require_av()
        if "libx264" not in av.codecs_available:
            raise ImportError(
                "this build of the package av cannot write H.264; install the one of the package "
                "index (pip install --force-reinstall av) or predict with --no-save"
            )
        self._container = av.open(str(path), "w")
        self._converter = av.video.reformatter.VideoReformatter()  # slow to make: one for all

    def add(self, image: np.ndarray, time: float) -> None:
        """Add an RGB frame shown from ``time`` (seconds); an odd side loses its last pixel."""
        av = require_av()
        height, width = (max(side - side % 2, 2) for side in image.shape[:2])
        if self._stream is None:
            self._stream = self._begin(width, height)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), "rgb24")
        size = self._stream.width, self._stream.height
        frame = self._converter.reformat(frame, *size, "yuv420p")
        # encoders refuse equal stamps, which broken videos have
        self._last = max(round(Fraction(time) / self._unit), self._last + 1)
        frame.pts, frame.time_base = self._last, self._unit
        self._container.mux(self._stream.encode(frame))

    def _begin(self, width: int, height: int) -> Any:
        options = {"crf": "20", "preset": "veryfast"}
        stream = self._container.add_stream("libx264", rate=self._rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = stream.time_base = self._unit
        return stream

    def close(self) -> None:
        """Write the last frames and complete the file."""
        with self._container:
            if self._stream is not None:
                self._container.mux(self._stream.encode(None))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
