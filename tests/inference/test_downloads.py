"""What a server may send, and where it may lead, is limited; passwords stay unseen."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dabdetr.data.layouts import open_data
from dabdetr.inference.downloads import Limits, fetch, is_public, without_password
from dabdetr.inference.sources import read_sources

HERE = Limits(private=True, seconds=10)


class Answers(BaseHTTPRequestHandler):
    """Answers of every odd kind, by path; ``asked`` notes paths and passwords."""

    asked: list[tuple[str, str | None]]
    port: int

    def do_GET(self) -> None:
        type(self).asked.append((self.path, self.headers.get("Authorization")))
        answer: Callable[[], None] = getattr(self, f"_{self.path.strip('/').split('?')[0]}")
        try:
            answer()
        except OSError:  # the other side has had enough
            self.close_connection = True

    def send(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def lead(self, place: str) -> None:
        self.send_response(302)
        self.send_header("Location", place)
        self.end_headers()

    def _good(self) -> None:
        self.send(b"body", Content_Length="4")

    def _endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(200):
            self.wfile.write(bytes(2**20))

    def _huge(self) -> None:
        self.send(b"x", Content_Length=str(10**12))

    def _short(self) -> None:
        self.send(b"half", Content_Length="8")

    def _slow(self) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.05)

    def _slow_head(self) -> None:
        for _ in range(100):
            self.wfile.write(b"H")
            time.sleep(0.05)

    def _nonsense(self) -> None:
        self.wfile.write(b"no http\r\n\r\n")
        self.close_connection = True

    def _long_head(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n")
        self.close_connection = True

    def _chunked(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nbody\r\n")
        self.close_connection = True

    def _loop(self) -> None:
        number = int(self.path.partition("?")[2] or 0)
        self.lead(f"/loop?{number + 1}")

    def _circle(self) -> None:
        self.lead("/circle")

    def _there(self) -> None:
        self.lead("/good")

    def _file(self) -> None:
        self.lead("file:///etc/hostname")

    def _ftp(self) -> None:
        self.lead("ftp://127.0.0.1/x")

    def _elsewhere(self) -> None:
        self.lead(f"http://user:secret@localhost:{type(self).port}/good")

    def _missing(self) -> None:
        self.send_error(404, "gone\x1b[2J")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Answers.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    Answers.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_body_comes_through_and_redirects_are_followed(server: str) -> None:
    assert fetch(f"{server}/good", HERE) == b"body"
    assert fetch(f"{server}/there", HERE) == b"body"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("endless", "it has more than 1 MiB"),
        ("huge", "it has 1,000,000,000,000 bytes, more than 1 MiB"),
        ("short", "it ended after 4 bytes, 4 too early"),
        ("slow", "no answer within 1 seconds"),
        ("slow_head", "no answer within 1 seconds"),
        ("nonsense", "the answer is no HTTP that can be read"),
        ("long_head", "the answer is no HTTP that can be read"),
        ("chunked", "could not be fetched"),
        ("loop", "it leads on more than 5 times"),
        ("circle", "it redirects too often"),
        ("file", "or to what is neither http nor https"),
        ("ftp", "only http and https addresses are fetched"),
        ("missing", r"the answer is 404 gone\\x1b"),
    ],
)
def test_bad_answers_are_one_sentence_in_good_time(server: str, path: str, message: str) -> None:
    started = time.perf_counter()
    with pytest.raises(ValueError, match=message) as caught:
        fetch(f"{server}/{path}", Limits(mib=1, seconds=1, silence=5, private=True))
    assert time.perf_counter() - started < 4
    assert str(caught.value).startswith(f"{server}/{path} could not be fetched")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:{port}/good",
        "http://localhost:{port}/good",
        "http://127.1:{port}/good",
        "http://2130706433:{port}/good",
        "http://[::1]:{port}/good",
        "http://[::ffff:127.0.0.1]:{port}/good",
        "http://[::127.0.0.1]:{port}/good",
        "http://localhost.:{port}/good",
        "http://user:secret@127.0.0.1:{port}/good",
        "http://10.0.0.1/x",
        "http://169.254.169.254/latest/meta-data",
        "https://192.168.0.1/x",
    ],
)
def test_private_addresses_are_not_asked(server: str, address: str) -> None:
    address = address.format(port=server.rpartition(":")[2])
    with pytest.raises(ValueError, match=r"private network, .*--allow-private") as caught:
        list(read_sources(address))
    assert "secret" not in str(caught.value)
    assert Answers.asked == []


def test_proxies_are_asked_for_public_places_only(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(ValueError, match="private network"):
        fetch("http://127.0.0.1/good")
    assert Answers.asked == []
    with pytest.raises(ValueError, match="could not be fetched"):
        fetch("http://example.invalid/good")
    assert len(Answers.asked) == 1


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::808:808", True),
        ("64:ff9b:1::808:808", False),
        ("::127.0.0.1", False),
        ("::10.0.0.1", False),
        ("::8.8.8.8", True),
        ("::ffff:0:10.0.0.1", False),
        ("2001:0:808:808::80ff:fffe", False),
        ("2001:0:7f00:1::f7f7:f7f7", False),
    ],
)
def test_what_is_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    "host",
    [
        *("localhost.", "LOCALHOST", "a.localhost.", "localhost%2e", "127.0.0.1.", "127%2e0.0.1"),
        *("2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "0", "[::127.0.0.1]"),
        *("[::ffff:7f00:1]", "\u2460\u2461\u2466.0.0.1", "127\u30020\u30020\u30021", "0xa9fea9fe"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_is_not_asked_for_a_private_place_however_it_is_written(
    server: str, monkeypatch: pytest.MonkeyPatch, scheme: str, host: str
) -> None:
    monkeypatch.setenv(f"{scheme}_proxy", server)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(ValueError, match="private network"):
        fetch(f"{scheme}://{host}/good")
    assert Answers.asked == []


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("http://127.0.0.1:1/x", "private network"),
        ("http://localhost./x", "private network"),
        ("http://[::10.0.0.1]/x", "private network"),
        ("http://0x0a000001/x", "private network"),
        ("ftp://example.org/x", "only http and https"),
        ("file:///etc/hostname", "neither http nor https"),
    ],
)
def test_a_public_place_leads_to_no_private_one(
    server: str, monkeypatch: pytest.MonkeyPatch, place: str, message: str
) -> None:
    """The proxy answers as a server in the public network would."""

    class Leading(Answers):
        asked = Answers.asked

        def do_GET(self) -> None:
            self.asked.append((self.path, None))
            self.lead(place)

    leading = ThreadingHTTPServer(("127.0.0.1", 0), Leading)
    threading.Thread(target=leading.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{leading.server_port}")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(ValueError, match=message):
        fetch("http://public.invalid/x")
    leading.shutdown()
    leading.server_close()
    assert Answers.asked == [("http://public.invalid/x", None)]


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl for a certificate")
@pytest.mark.parametrize(
    ("path", "message"), [("file", "neither http nor https"), ("ftp", "only http and https")]
)
def test_https_leads_to_no_file(
    path: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    line = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    line += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    line += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(line, check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    Answers.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    address = f"https://localhost:{server.server_port}"
    assert fetch(f"{address}/good", HERE) == b"body"
    with pytest.raises(ValueError, match=message):
        fetch(f"{address}/{path}", HERE)
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("scheme", ["rtsp", "rtmp"])
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost.", "0x7f.1", "[::127.0.0.1]", "a:p@[::1]"]
)
def test_a_private_stream_is_asked_only_where_that_is_allowed(scheme: str, host: str) -> None:
    pytest.importorskip("av", reason="needs av: pip install 'dabdetr[video]'")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        address = f"{scheme}://{host}:{listening.getsockname()[1]}/live"
        with pytest.raises(ValueError, match=r"private network, .*--allow-private"):
            list(read_sources(address))
        with pytest.raises(TimeoutError):
            listening.accept()


def test_a_stream_in_a_private_network_can_be_allowed() -> None:
    pytest.importorskip("av", reason="needs av: pip install 'dabdetr[video]'")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        asked: list[bytes] = []

        def answer() -> None:
            with listening.accept()[0] as connection:
                asked.append(connection.recv(7))

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"rtsp://127.0.0.1:{listening.getsockname()[1]}/live"
        with pytest.raises(ValueError, match="cannot be opened as a video"):
            list(read_sources(address, allow_private=True))
        thread.join()
    assert asked == [b"OPTIONS"]


def test_addresses_in_a_json_are_not_fetched(server: str, tmp_path: Path) -> None:
    urls = dict.fromkeys(("coco_url", "flickr_url", "url", "file_name"), f"{server}/good")
    image = {"id": 1, "width": 8, "height": 8}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16}
    for keys in (("coco_url", "flickr_url"), ("url",), ("file_name",)):
        tree = {
            "images": [image | {key: urls[key] for key in keys}],
            "annotations": [box],
            "categories": [{"id": 1, "name": "cat"}],
        }
        (tmp_path / "train.json").write_text(json.dumps(tree))
        with pytest.raises((ValueError, OSError)):
            open_data(tmp_path, "train").image(0)
    assert Answers.asked == []


def test_a_password_reaches_its_host_and_nobody_else(server: str) -> None:
    address = server.replace("//", "//me:p%40ss@")
    assert fetch(f"{address}/good", HERE) == b"body"
    expected = "Basic " + base64.b64encode(b"me:p@ss").decode()
    assert Answers.asked == [("/good", expected)]
    Answers.asked.clear()
    assert fetch(f"{address}/elsewhere", HERE) == b"body"
    assert Answers.asked == [("/elsewhere", expected), ("/good", None)]
    for place in (f"{address}/missing", f"{address}/good", "http://me:secret@no host/"):
        with pytest.raises(ValueError, match=r"could not be fetched|not an image") as caught:
            list(read_sources(place, allow_private=True))
        assert "p%40ss" not in str(caught.value)
        assert "secret" not in str(caught.value)
    assert without_password("rtsp://a:b@cam/1?x=1") == "rtsp://cam/1?x=1"
    for path in ("folder/a@b.png", "C:\\a@b.png", "http://h:80/a@b", "http://[::1]:80/a:x@b"):
        assert without_password(path) == path


@pytest.mark.parametrize(
    "start", ["http://", "HTTP://", "http:/", "http:\\\\", "https://[::1/", "s3://", "rtsp://"]
)
@pytest.mark.parametrize(
    "login", ["a:secret@", "a:se@secret@", "a:secret/x@", "a:secret?#x@", "a:secret%40", ":secret@"]
)
def test_no_password_is_shown_of_an_address_that_is_written_wrongly(start: str, login: str) -> None:
    address = (
        f"{start.replace('[::1/', '')}{login}{'[::1' if '[' in start else 'nowhere.invalid'}/x"
    )
    assert "secret" not in without_password(address)
    with pytest.raises((ValueError, OSError)) as caught:
        list(read_sources(address))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", ["hls", "concat", "dash"])
def test_a_video_that_is_a_list_of_places_leads_nowhere(
    server: str, kind: str, tmp_path: Path
) -> None:
    pytest.importorskip("av", reason="needs av: pip install 'dabdetr[video]'")
    content = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{server}/good\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile {server}/good\n",
        "dash": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period>'
        f"<AdaptationSet><BaseURL>{server}/good</BaseURL></AdaptationSet></Period></MPD>",
    }[kind]
    (tmp_path / "a.mp4").write_text(content)
    with pytest.raises(ValueError, match="cannot be opened as a video"):
        list(read_sources(tmp_path / "a.mp4"))
    assert Answers.asked == []


HUB = """
import sys
from dabdetr.checkpoints.native import load_model
for kind in sys.argv[1:]:
    try:
        load_model(f"someone/{kind}")
    except (ValueError, OSError) as error:
        print(error)
"""


class Hub(BaseHTTPRequestHandler):
    """A hub that answers for each repository in the way that its name says."""

    def do_GET(self) -> None:
        kind = next(
            each for each in ("nonsense", "huge", "redirect", "silent") if each in self.path
        )
        if kind == "silent":
            time.sleep(30)
        elif kind == "redirect":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
        else:
            files = [{"rfilename": "model.safetensors", "size": 10**14}]
            body = json.dumps({"id": "someone/huge", "sha": "0" * 40, "siblings": files})
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body.encode() if kind == "huge" else b'{"id": ')

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_the_hub_is_answered_in_one_sentence(tmp_path: Path) -> None:
    kinds = ("nonsense", "huge", "redirect", "silent")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
        **dict.fromkeys(("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"), "2"),  # 10 else
    }
    line = [sys.executable, "-c", HUB, *kinds]
    started = time.perf_counter()
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=120)
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    told = dict(zip(kinds, done.stdout.splitlines(), strict=True))
    for kind, sentence in told.items():
        assert sentence.startswith(f"someone/{kind} ")
    assert "more than" in told["huge"]
    assert time.perf_counter() - started < 90


def test_an_address_where_nobody_answers() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(ValueError, match="could not be fetched"):
        fetch(f"http://127.0.0.1:{port}/x", HERE)
