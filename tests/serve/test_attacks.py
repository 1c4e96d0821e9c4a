"""Requests that mean harm, over raw sockets: none is status 500, stops others or takes memory."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dabdetr import Predictor
from dabdetr.serve import connections
from dabdetr.serve.app import Settings, make_app
from dabdetr.serve.connections import make_server

# starlette leaves the file of a part that has no end to the garbage collector
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function SpooledTemporaryFile:"
    "pytest.PytestUnraisableExceptionWarning"
)
HEAD = b"POST /detect HTTP/1.1\r\nHost: x\r\n"
JSON = b"Content-Type: application/json\r\n"
MODEL = "scenes"


def png(width: int = 64, height: int = 48) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(content, "PNG")
    return content.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of side² grey pixels, in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    packer, rows = zlib.compressobj(9), []
    rows = [packer.compress(bytes(side + 1)) for _ in range(side)]
    pixels = b"".join(rows) + packer.flush()
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@contextmanager
def served(app: Any, seconds: int = 10) -> Iterator[tuple[str, int]]:
    """Where a service listens."""
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listening:
        server = make_server(app, seconds)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listening.getsockname()[:2]
        server.should_exit = server.force_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def app() -> Any:
    return make_app(Predictor(MODEL), Settings(MODEL, body_mib=1, body_seconds=2))


@pytest.fixture(scope="module")
def place(app: Any) -> Iterator[tuple[str, int]]:
    with served(app, 2) as where:
        yield where


def answer(place: tuple[str, int], content: bytes, wait: float = 20) -> bytes:
    """All that comes back until the connection closes, or the first answer is whole."""
    found = b""
    with socket.create_connection(place, timeout=wait) as client:
        try:
            client.sendall(content)
            while chunk := client.recv(1 << 16):
                found += chunk
                head, _, body = found.partition(b"\r\n\r\n")
                length = [int(x[15:]) for x in head.lower().split(b"\r\n") if x[:15] == LENGTH]
                if length and len(body) >= length[0]:
                    break
        except ConnectionError:
            pass
    return found


LENGTH = b"content-length:"


def with_body(body: bytes, kind: bytes = b"", path: bytes = b"/detect", more: bytes = b"") -> bytes:
    line = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(body)
    kind = b"Content-Type: " + kind + b"\r\n" if kind else b""
    return line + kind + more + b"\r\n" + body


def check_alive(place: tuple[str, int], seconds: float = 15) -> None:
    """Another client is answered meanwhile."""
    begun = time.perf_counter()
    assert answer(place, with_body(png())).startswith(b"HTTP/1.1 200")
    assert time.perf_counter() - begun < seconds


def tensors(**changes: Any) -> dict[str, Any]:
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["eA=="]} | changes
    return {"inputs": [{key: each for key, each in image.items() if each is not None}]}


def kserve(size: Any, rest: bytes, announced: bytes | None = None, **changes: Any) -> bytes:
    """A request with binary tensors."""
    about = {"binary_data_size": size}
    head = json.dumps(tensors(data=None, parameters=about, **changes)).encode()
    length = b"%d" % len(head) if announced is None else announced
    more = b"Inference-Header-Content-Length: " + length + b"\r\n"
    return with_body(head + rest, path=f"/v2/models/{MODEL}/infer".encode(), more=more)


def as_json(**fields: Any) -> bytes:
    return with_body(json.dumps(fields).encode(), b"application/json")


def question(boxes: str, labels: str = "null", sizes: str = "null") -> bytes:
    image = base64.b64encode(png()).decode()
    body = f'{{"image": "{image}", "boxes": {boxes}, "labels": {labels}, "sizes": {sizes}}}'
    return with_body(body.encode(), b"application/json", b"/ask")


def form(body: bytes, boundary: bytes = b"b") -> bytes:
    return with_body(body, b"multipart/form-data; boundary=" + boundary)


SVG = (
    b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'><image href='file:///x'/></svg>"
)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch /tmp/ran) (w) file\n"
PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
DEEP = 100_000
REQUESTS = {
    "no http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9,
    "http 0.9": b"GET /\r\n\r\n",
    "bad version": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    "no host": b"POST /detect HTTP/1.1\r\n\r\n",
    "huge header": HEAD + b"X: " + b"a" * 300_000 + b"\r\n\r\n",
    "many headers": HEAD + b"".join(b"X%d: y\r\n" % n for n in range(9000)) + b"\r\n",
    "long target": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "nul in header": HEAD + b"X: a\0b\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "length and chunks": HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "huge length": HEAD + b"Content-Length: 99999999999999999999\r\n\r\nabc",
    "bad chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc",
    "huge chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
    "other encoding": HEAD + b"Transfer-Encoding: gzip\r\n\r\nabc",
    "short body": HEAD + b"Content-Length: 1000\r\n\r\nabc",
    "long body": with_body(bytes(1_100_000)),
    "upgrade": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "expect": HEAD + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    "trace": b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n",
    "connect": b"CONNECT 10.0.0.1:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "absolute": b"GET http://169.254.169.254/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "dots": b"GET /static/../app.py HTTP/1.1\r\nHost: x\r\n\r\n",
    "quoted dots": b"GET /static/%2e%2e/app.py HTTP/1.1\r\nHost: x\r\n\r\n",
    "far dots": b"GET /static/..%2f..%2f..%2f..%2f..%2fetc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    "whole path": b"GET /static//etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    "nul in path": b"GET /static/page.css%00.py HTTP/1.1\r\nHost: x\r\n\r\n",
    "no utf-8 in path": b"GET /static/%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n",
    "long static": b"GET /static/" + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "control in path": b"GET /%1b%5b2J HTTP/1.1\r\nHost: x\r\n\r\n",
    "odd query": with_body(png(), path=b"/detect?conf=nan&max_det=99999999999999999999"),
    "infinite query": with_body(png(), path=b"/detect?conf=inf"),
    "large max_det": with_body(png(), path=b"/detect?max_det=9223372036854775807"),
    "huge max_det": with_body(png(), path=b"/detect?max_det=" + b"9" * 4000),
    "odd class": with_body(png(), path=b"/detect?classes=%ff%1b"),
    "huge class": with_body(png(), path=b"/detect?classes=" + b"9" * 5000),
    "many classes": with_body(png(), path=b"/detect?" + b"classes=1&" * 5000),
    "svg": with_body(SVG, b"image/jpeg"),
    "eps": with_body(EPS, b"image/jpeg"),
    "eps in a form": form(PART + EPS + b"\r\n--b--\r\n"),
    "bomb": with_body(bomb(20_000)),
    "smaller bomb": with_body(bomb(9000)),
    "form without boundary": with_body(PART, b"multipart/form-data"),
    "form of another boundary": form(PART + b"x\r\n--b--\r\n", b"c"),
    "form without end": form(PART + b"x" * 1000),
    "form of odd boundary": form(PART, b"\xff" * 300),
    "form of many parts": form(PART.replace(b'; filename="a.jpg"', b"") * 5000),
    "form of many files": form((PART + b"x\r\n") * 3000 + b"--b--\r\n"),
    "form with odd name": form(PART.replace(b"a.jpg", b"../\x1b\xff") + png() + b"\r\n--b--\r\n"),
    "form of long header": form(b"--b\r\nX: " + b"a" * 500_000),
    "deep json": with_body(b"[" * DEEP + b"]" * DEEP, b"application/json"),
    "deep objects": with_body(b'{"a":' * DEEP + b"1" + b"}" * DEEP, b"application/json"),
    "long number": with_body(b'{"image": ' + b"9" * 100_000 + b"}", b"application/json"),
    "surrogate": with_body(b'{"image": "\\ud800"}', b"application/json"),
    "utf-16 json": with_body('{"image": "eA=="}'.encode("utf-16"), b"application/json"),
    "many images": as_json(images=["eA=="] * 100_000),
    "nested images": as_json(images=[[["eA=="]]]),
    "file address": as_json(image="file:///etc/passwd"),
    "private address": as_json(image="http://127.0.0.1:1/x.png"),
    "metadata address": as_json(image="http://169.254.169.254/latest/meta-data"),
    "private in octal": as_json(image="http://0177.0.0.1/x.png"),
    "private as a number": as_json(image="http://2130706433/x.png"),
    "private in IPv6": as_json(image="http://[::ffff:127.0.0.1]/x.png"),
    "private by name": as_json(image="http://localhost:1/x.png"),
    "path": as_json(image="/etc/passwd"),
    "nan box": question("[[NaN, 0, 1, 1]]"),
    "infinite box": question("[[0, 0, 1e999, 1]]"),
    "large box": question("[[0, 0, 1e308, 1e308]]"),
    "number too long": question(f"[[0, 0, {'9' * 4000}, 1]]"),
    "ragged boxes": question("[[0, 0, 1, 1], [2, 3]]"),
    "many boxes": question(f"[{', '.join(['[1, 1, 9, 9]'] * 20_000)}]"),
    "text box": question('[["a", null, {}, []]]'),
    "deep boxes": question("[" * 900 + "]" * 900),
    "odd labels": question("[[1, 1, 9, 9]]", "[9999999999999999999999]"),
    "nan sizes": question("[[5, 5]]", "null", "[[NaN, -Infinity]]"),
    "tensor too long": kserve(10**9, b"abc"),
    "tensor of no bytes": kserve(0, b""),
    "tensor of negative size": kserve(-1, b"abc"),
    "tensor of text size": kserve("9", b"abc"),
    "tensor of inner size": kserve(8, struct.pack("<I", 2**32 - 1) + b"abcd"),
    "header too long": kserve(3, b"abc", b"999999999"),
    "header of text": kserve(3, b"abc", b"x"),
    "header of minus": kserve(3, b"abc", b"-5"),
    "pixels of huge shape": kserve(3, b"abc", datatype="UINT8", shape=[2**40, 2**40, 3]),
    "pixels of negative shape": kserve(3, b"abc", datatype="UINT8", shape=[-1, 1, 3]),
    "pixels of none": kserve(0, b"", datatype="UINT8", shape=[0, 0, 3]),
    "pixels of odd shape": kserve(3, b"abc", datatype="UINT8", shape=["a", None, 3]),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_no_request_is_a_fault_of_the_service(name: str, place: tuple[str, int]) -> None:
    begun = time.perf_counter()
    found = answer(place, REQUESTS[name])
    assert not found or found.startswith(b"HTTP/1.1 "), found[:80]
    assert not found.startswith(b"HTTP/1.1 5"), found[-300:]
    assert b"root:" not in found
    assert b"def make_app" not in found
    assert b"\x1b" not in found
    if (body := found.partition(b"\r\n\r\n")[2]).startswith(b'{"error"'):
        assert len(json.loads(body)["error"]) <= 500
    assert time.perf_counter() - begun < 20


def test_pipelined_requests_are_answered_in_turn(place: tuple[str, int]) -> None:
    many = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 300
    last = b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection(place, timeout=20) as client:
        client.sendall(many + last)
        found = b""
        while chunk := client.recv(1 << 16):
            found += chunk
    assert found.count(b"HTTP/1.1 200") == 301


def test_a_head_that_comes_slowly_is_given_up(place: tuple[str, int]) -> None:
    begun = time.perf_counter()
    with socket.create_connection(place, timeout=20) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        try:
            while time.perf_counter() - begun < 15:
                client.sendall(b"X: y\r\n")
                time.sleep(0.2)
        except ConnectionError:
            pass
    assert time.perf_counter() - begun < 10
    kept = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(place, timeout=20) as client:
        for _ in range(3):  # a connection that is used stays open
            client.sendall(kept)
            answer = b""
            while not answer.endswith(b'{"status":"ok"}'):  # head and body may come apart
                chunk = client.recv(4096)
                assert chunk, answer
                answer += chunk
            assert answer.startswith(b"HTTP/1.1 200")
            time.sleep(1.2)
        client.sendall(kept[:20])
        assert client.recv(4096) == b""


def test_many_open_connections_keep_nobody_out(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST", 50)
    with served(app, 60) as place, ExitStack() as stack:
        held = []
        for number in range(150):
            client = stack.enter_context(socket.create_connection(place, timeout=20))
            client.sendall(b"GET / HTTP/1.1\r\n" if number % 2 else b"")
            held.append(client)
        check_alive(place)
        assert held[0].recv(10) == b""
        held[-1].settimeout(0.1)
        with pytest.raises(TimeoutError):
            held[-1].recv(10)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_bodies_that_are_held_back_take_no_memory(app: Any) -> None:
    """Of 200 clients with 1 MiB each but for the last byte, 8 MiB are kept."""
    content = HEAD + b"Content-Length: 1000001\r\n\r\n" + bytes(1_000_000)
    with served(app) as place, ExitStack() as stack:
        check_alive(place)
        before, held = _resident_mib(), []
        for _ in range(100):
            client = stack.enter_context(socket.create_connection(place, timeout=1))
            with suppress(ConnectionError, TimeoutError):
                client.sendall(content)
            held.append(client)
        assert _resident_mib() - before < 60
        answers = b""
        for client in held:
            client.settimeout(10)
            with suppress(ConnectionError, TimeoutError):
                answers += client.recv(1 << 16)
        assert answers.count(b"HTTP/1.1 429") > 50
        assert answers.count(b"HTTP/1.1 5") == 0
        for client in held:
            client.close()
        time.sleep(0.5)
        check_alive(place)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.slow
def test_memory_is_flat(place: tuple[str, int]) -> None:
    for _ in range(2):
        for content in REQUESTS.values():
            answer(place, content)
    before = _resident_mib()
    for _ in range(3):
        for content in REQUESTS.values():
            answer(place, content)
        check_alive(place)
    assert _resident_mib() - before < 30


def _resident_mib() -> float:
    with open(f"/proc/{os.getpid()}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
