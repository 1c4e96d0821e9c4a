"""The service as its clients see it: over HTTP, with the model of the package behind it."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi import HTTPException
from PIL import Image
from typer.testing import CliRunner

import dabdetr
from dabdetr import Predictor
from dabdetr.cli import app as cli
from dabdetr.serve.app import Gate, Settings, make_app

SMEAR = Path(dabdetr.__file__).parent / "photos" / "blood-1.jpg"
BOXES = [[210, 160, 320, 260], [20, 300, 130, 390]]


@contextmanager
def running(app: Any) -> Iterator[str]:
    """The address of a server with ``app``."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor("blood-cells")


@pytest.fixture(scope="module")
def service(predictor: Predictor) -> Iterator[str]:
    with running(make_app(predictor, Settings("blood-cells", body_mib=1))) as address:
        yield address


def ask(address: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, Any]:
    """Status, body (JSON is read) and headers of an answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(address, body, named)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            status, content, about = answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        status, content, about = error.code, error.read(), error.headers
    if about.get_content_type() == "application/json":
        return status, json.loads(content), about
    return status, content, about


def as_json(address: str, **fields: Any) -> tuple[int, Any]:
    return ask(address, json.dumps(fields).encode(), content_type="application/json")[:2]


def as_form(address: str, files: list[tuple[str, bytes]], **fields: str) -> tuple[int, Any]:
    edge = uuid.uuid4().hex
    parts = [
        f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        "Content-Type: image/jpeg\r\n\r\n".encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    parts += [
        f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    body = b"".join(parts) + f"--{edge}--\r\n".encode()
    return ask(address, body, content_type=f"multipart/form-data; boundary={edge}")[:2]


def test_a_body_a_form_and_json_give_what_the_predictor_finds(
    service: str, predictor: Predictor
) -> None:
    content = SMEAR.read_bytes()
    wanted = predictor.one(str(SMEAR)).to_dict()["detections"]
    assert len(wanted) > 5
    status, answer, _ = ask(f"{service}/detect", content, content_type="image/jpeg")
    assert status == 200
    assert answer["model"] == "blood-cells"
    (image,) = answer["images"]
    assert (image["height"], image["width"], image["detections"]) == (480, 640, wanted)
    status, answer = as_form(f"{service}/detect", [("a.jpg", content), ("b.jpg", content)])
    assert [each["source"] for each in answer["images"]] == ["a.jpg", "b.jpg"]
    assert [each["detections"] for each in answer["images"]] == [wanted, wanted]
    text = base64.b64encode(content).decode()
    for given in (text, f"data:image/jpeg;base64,{text}"):
        status, answer = as_json(f"{service}/detect", image=given)
        assert (status, answer["images"][0]["detections"]) == (200, wanted)
    assert len(as_json(f"{service}/detect", images=[text, text])[1]["images"]) == 2


def test_options_are_those_of_the_predictor(service: str, predictor: Predictor) -> None:
    options = {"conf": 0.2, "max_det": 4, "nms": 0.5, "multi_label": True}
    wanted = predictor.one(str(SMEAR), classes=["RBC", "WBC"], **options).to_dict()["detections"]
    query = "conf=0.2&max_det=4&nms=0.5&multi_label=true&classes=RBC&classes=1"
    _, answer, _ = ask(f"{service}/detect?{query}", SMEAR.read_bytes())
    assert answer["images"][0]["detections"] == wanted
    assert len(wanted) == 4


@pytest.mark.parametrize(
    ("place", "body", "status", "said"),
    [
        ("/detect", b"", 400, r"no image came; send an image file as the body"),
        ("/detect", b"hello", 400, r"not an image that can be read"),
        ("/detect", SMEAR.read_bytes()[:2000], 400, r"image 1: .*"),
        ("/detect?conf=2", b"x", 400, r"conf: .*less than or equal to 1"),
        ("/detect?classes=cat", SMEAR.read_bytes(), 400, r"does not know the class.*cat"),
        ("/ask", SMEAR.read_bytes(), 400, r"no boxes came; send boxes as"),
        ("/detect", b"x" * (2 << 20), 413, r"the body is larger than 1 MiB"),
        ("/nothing", b"x", 404, r"there is no POST /nothing; /docs lists all routes"),
        ("/healthz", b"x", 405, r"there is no POST /healthz"),
    ],
)  # fmt: skip
def test_bad_requests_get_one_sentence(
    place: str, body: bytes, status: int, said: str, service: str
) -> None:
    found, answer, _ = ask(service + place, body, content_type="image/jpeg")
    assert found == status
    assert re.search(said, answer["error"])
    assert ask(f"{service}/healthz")[0] == 200  # it goes on


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"image": 3}, r"an image should be text; got int"),
        ({"image": "/etc/hostname"}, r"neither base64 nor an http address; got /etc/hostname"),
        ({"image": "file:///etc/hostname"}, r"neither base64 nor"),
        ({"image": "http://127.0.0.1:1/x.jpg"}, r"private|this machine"),
        ({"image": "aGVsbG8="}, r"not an image that can be read"),
        ({"images": []}, r"no image came"),
        ({"boxes": 3, "image": "aGVsbG8="}, r"not an image that can be read"),
    ],
)
def test_bad_images_in_json_get_one_sentence(
    fields: dict[str, Any], said: str, service: str
) -> None:
    status, answer = as_json(f"{service}/detect", **fields)
    assert status == 400
    assert re.search(said, answer["error"])


@pytest.mark.parametrize("body", [b"{", b"[1]", b"[" * 100_000, b"\xff"])
def test_broken_json_gets_one_sentence(body: bytes, service: str) -> None:
    for place in ("/detect", "/v2/models/blood-cells/infer"):
        status, answer, _ = ask(service + place, body, content_type="application/json")
        assert status == 400
        assert "should be a JSON object" in answer["error"] or "no JSON" in answer["error"]


def test_an_address_is_fetched_only_where_that_is_allowed(
    predictor: Predictor, tmp_path: Path
) -> None:
    shutil.copy(SMEAR, tmp_path / "a.jpg")
    (tmp_path / "film.mp4").write_bytes(b"\0" * 100)
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = lambda *_: None  # pyright: ignore
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as files:
        threading.Thread(target=files.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{files.server_port}"
        with running(make_app(predictor, Settings("m", allow_private=True))) as address:
            status, answer = as_json(f"{address}/detect", image=f"{place}/a.jpg")
            assert status == 200
            assert answer["images"][0]["source"] == f"{place}/a.jpg"
            assert answer["images"][0]["detections"]
            status, answer = as_json(f"{address}/detect", image=f"{place}/film.mp4")
            assert status == 400  # no video is opened
        files.shutdown()


def test_questions_are_answered_as_the_predictor_answers(
    service: str, predictor: Predictor
) -> None:
    wanted = predictor.ask(str(SMEAR), BOXES)
    status, answer = as_form(
        f"{service}/ask", [("a.jpg", SMEAR.read_bytes())], boxes=json.dumps(BOXES)
    )
    assert status == 200
    assert [each["box"] for each in answer["answers"]] == [
        each["box"] for each in wanted.to_dict()["answers"]
    ]
    assert np.array(answer["answers"][1]["layers"]) == pytest.approx(wanted.layers[:, 1], abs=0.01)
    assert answer["answers"][1]["detection"]["name"] == "RBC"
    text = base64.b64encode(SMEAR.read_bytes()).decode()
    status, answer = as_json(f"{service}/ask", image=text, boxes=[[80, 340]], labels=["RBC"])
    assert (status, answer["answers"][0]["name"]) == (200, "RBC")
    for boxes, said in (
        ([[1, 2, 3, 4], [5, 6]], "all of one kind"),
        ([[900, 900, 950, 950]], "lies outside"),
        ("nothing", "no JSON list"),
        ({"a": 1}, "should be a list"),
    ):
        status, answer = as_json(f"{service}/ask", image=text, boxes=boxes)
        assert status == 400
        assert said in answer["error"]


def test_models_that_cannot_be_asked_say_so() -> None:
    with running(make_app(Predictor("scenes"), Settings("scenes"))) as address:
        questions = ask(f"{address}/model")[1]["questions"]
        status, answer = as_form(f"{address}/ask", [("a", SMEAR.read_bytes())], boxes="[[1, 2]]")
        assert (status == 200) == questions
        assert questions or "denoising" in answer["error"]


def test_kserve_clients_get_boxes_in_json_and_in_binary(service: str, predictor: Predictor) -> None:
    """Requests as Triton's Python client writes them, by hand."""
    wanted = predictor.one(str(SMEAR), conf=0.3)
    place = f"{service}/v2/models/blood-cells"
    about = ask(place)[1]
    assert about["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    for address in ("/v2", "/v2/health/live", "/v2/health/ready"):
        assert ask(service + address)[0] == 200
    for address in ("/ready", "/versions/1", "/versions/1/ready"):
        assert ask(place + address)[0] == 200
    assert ask(f"{service}/v2/models/other")[0] == 404
    assert ask(f"{place}/versions/2/ready")[0] == 404

    content, pixels = SMEAR.read_bytes(), np.asarray(Image.open(SMEAR))
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1]}
    request = {"id": "7", "parameters": {"conf": 0.3}, "inputs": [
        tensor | {"data": [base64.b64encode(content).decode()]}
    ]}  # fmt: skip
    status, answer, _ = ask(f"{place}/infer", json.dumps(request).encode())
    assert (status, answer["id"], answer["model_name"]) == (200, "7", "blood-cells")
    outputs = {each["name"]: each for each in answer["outputs"]}
    assert outputs["boxes"]["shape"] == [len(wanted), 4]
    assert np.array(outputs["boxes"]["data"]) == pytest.approx(wanted.boxes.reshape(-1), abs=1e-3)
    assert outputs["labels"]["data"] == wanted.labels.tolist()
    assert outputs["names"]["data"] == [wanted.names[label] for label in wanted.labels]

    raw = struct.pack("<I", len(content)) + content
    request["inputs"] = [tensor | {"parameters": {"binary_data_size": 2 * len(raw)}, "shape": [2]}]
    request["outputs"] = [{"name": "scores", "parameters": {"binary_data": True}},
                          {"name": "images"}]  # fmt: skip
    head = json.dumps(request).encode()
    status, answer, headers = ask(
        f"{place}/infer", head + raw + raw, inference_header_content_length=str(len(head))
    )
    length = int(headers["Inference-Header-Content-Length"])
    document, rest = json.loads(answer[:length]), answer[length:]
    assert [each["name"] for each in document["outputs"]] == ["scores", "images"]
    scores = np.frombuffer(rest, np.float32)
    assert scores == pytest.approx(np.tile(wanted.scores, 2), abs=1e-4)
    assert document["outputs"][1]["data"] == [0] * len(wanted) + [1] * len(wanted)

    shape = {"name": "image", "datatype": "UINT8", "shape": list(pixels.shape)}
    shape["parameters"] = {"binary_data_size": pixels.size}
    head = json.dumps({"inputs": [shape], "parameters": {"conf": 0.3}}).encode()
    status, answer, _ = ask(
        f"{place}/infer", head + pixels.tobytes(), inference_header_content_length=str(len(head))
    )
    assert status == 200
    assert answer["outputs"][2]["data"] == wanted.labels.tolist()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inputs": None}, r"with inputs, each with name"),
        ({"inputs": [{}]}, r"KeyError: 'name'"),
        ({"inputs": []}, r"no image came"),
        ({"name": "x"}, r"there is no input 'x'"),
        ({"datatype": "FP32"}, r"should be BYTES .* got FP32"),
        ({"datatype": "UINT8", "shape": [2, 2, 3], "data": [1]}, r"has 12 values; 1 came"),
        ({"datatype": "UINT8", "shape": [1, 1, 3], "data": [1, 2, 999]}, r"should be 0–255"),
        ({"data": ["%"]}, r"image file in base64; got %"),
        ({"parameters": {"binary_data_size": 99}}, r"99 bytes of image were announced; 0 came"),
        ({"parameters": {"binary_data_size": -5}}, r"binary_data_size should be a number of b"),
        ({"parameters": {"binary_data_size": math.inf}}, r"number of bytes; got inf"),
        ({"shape": [math.inf]}, r"OverflowError"),
        ({"datatype": "UINT8", "shape": [1, 1, 3], "data": [10**30]}, r"OverflowError"),
        ({"data": [""] * 200_000}, r"at most 1,000 images are taken at once"),
        ({"outputs": [{"name": "masks"}]}, r"no output 'masks'; there are boxes"),
        ({"id": math.nan}, r"id should be text; got nan"),
        ({"options": {"conf": "much"}}, r"parameter conf is 'much'"),
        ({"options": {"max_det": True}}, r"parameter max_det is True"),
    ],
)
def test_bad_tensors_get_one_sentence(change: dict[str, Any], said: str, service: str) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["aGVsbG8="]}
    whole = {key: change.pop(key) for key in ("inputs", "outputs", "id") if key in change}
    options = change.pop("options", {})
    request = {"inputs": [tensor | change], "parameters": options} | whole
    place = f"{service}/v2/models/blood-cells/infer"
    status, answer, _ = ask(place, json.dumps(request).encode())
    assert status == 400
    assert re.search(said, answer["error"])


def test_a_request_has_so_many_images_at_most(service: str) -> None:
    status, answer = as_json(f"{service}/detect", images=[""] * 1001)
    assert (status, answer["error"]) == (
        400,
        "at most 1,000 images are taken at once; send more requests",
    )
    head = json.dumps({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1],
                                   "parameters": {"binary_data_size": 800_000}}]})  # fmt: skip
    begun = time.perf_counter()
    status, answer, _ = ask(
        f"{service}/v2/models/blood-cells/infer",
        head.encode() + bytes(800_000),
        inference_header_content_length=str(len(head)),
    )
    assert (status, answer["error"][:21]) == (400, "at most 1,000 images ")
    assert time.perf_counter() - begun < 2


def test_a_body_that_does_not_come_is_given_up(predictor: Predictor) -> None:
    with running(make_app(predictor, Settings("x", body_seconds=0.5))) as address:
        place = ("127.0.0.1", int(address.rpartition(":")[2]))
        for length in (b"Content-Length: 1000", b"Transfer-Encoding: chunked"):
            with socket.create_connection(place) as slow:
                slow.settimeout(5)
                slow.sendall(b"POST /detect HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\n")
                answer = slow.recv(1000)
                while b"}" not in answer:
                    answer += slow.recv(1000)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"the body did not come within 0.5 seconds" in answer
        assert ask(f"{address}/detect", SMEAR.read_bytes())[0] == 200


def test_a_client_that_leaves_is_no_fault(
    predictor: Predictor, capfd: pytest.CaptureFixture[str]
) -> None:
    with running(make_app(predictor, Settings("x"))) as address:
        place = ("127.0.0.1", int(address.rpartition(":")[2]))
        with socket.create_connection(place) as client:
            client.sendall(b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nabc")
            time.sleep(0.2)
        counted = ""
        for _ in range(50):
            counted = ask(f"{address}/metrics")[1].decode()
            if 'route="/detect"' in counted:
                break
            time.sleep(0.05)
    assert 'status="400"' in counted
    assert "Traceback" not in capfd.readouterr().err


def test_metrics_count_requests_and_images(service: str) -> None:
    def value(name: str) -> float:
        text = ask(f"{service}/metrics")[1].decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
        return float(found[1]) if found else 0.0

    row = 'dabdetr_requests_total{route="/detect",status="200"}'
    before = value(row), value("dabdetr_images_total")
    ask(f"{service}/detect", SMEAR.read_bytes())
    assert (value(row), value("dabdetr_images_total")) == (before[0] + 1, before[1] + 1)
    for number in range(3):  # addresses that anyone may invent make no new rows
        ask(f"{service}/invented/{number}")
    assert "invented" not in ask(f"{service}/metrics")[1].decode()


def test_more_requests_than_may_wait_are_refused() -> None:
    async def crowd() -> list[Any]:
        gate = Gate(parallel=1, waiting=2)
        works = [gate.run(lambda: time.sleep(0.2) or "done") for _ in range(5)]
        return await asyncio.gather(*works, return_exceptions=True)

    answers = asyncio.run(crowd())
    assert answers[:3] == ["done"] * 3
    for refused in answers[3:]:
        assert isinstance(refused, HTTPException)
        assert (refused.status_code, refused.headers) == (429, {"Retry-After": "1"})


def test_a_fault_is_status_500_and_the_service_goes_on(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret inside")

    with running(make_app(predictor, Settings("m"))) as address:
        monkeypatch.setattr(Predictor, "__call__", broken)
        status, answer, _ = ask(f"{address}/detect", SMEAR.read_bytes())
        assert (status, answer) == (500, {"error": "the service failed; its log says how"})
        monkeypatch.undo()
        assert ask(f"{address}/detect", SMEAR.read_bytes())[0] == 200


def test_the_command_serves_until_it_is_stopped(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "dabdetr", "serve", "scenes", "--port", "0"]
    command += ["--name", "digits"]
    for stop in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.fullmatch(r"serving digits at (http://127\.0\.0\.1:(\d+)); Ctrl-C .*\n", line)
        assert found
        assert ask(f"{found[1]}/model")[1]["model"] == "digits"
        taken = CliRunner().invoke(cli, ["serve", "scenes", "--port", found[2]])
        assert taken.exit_code == 2
        assert taken.stderr.startswith(f"error: cannot listen at 127.0.0.1:{found[2]}: address")
        process.send_signal(stop)
        assert process.communicate(timeout=30)[1] == "stopped\n"
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no model was given: dabdetr serve MODEL"),
        (["scenes", "--name", "a b"], "--name should be 1 to 100 letters"),
        (["scenes", "--host", "no.such.host.example"], "cannot listen at no.such.host.example"),
        (["nope"], "nope"),
    ],
)
def test_wrong_commands_are_one_sentence(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(cli, ["serve", *arguments])
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_missing_package_is_named() -> None:
    hidden = "import sys; sys.modules['uvicorn'] = None; from dabdetr.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", hidden, "serve", "scenes"], capture_output=True, text=True
    )
    assert done.returncode == 3
    assert "serving needs the package uvicorn; type: pip install" in done.stderr
    assert "[serve]'" in done.stderr


def test_an_exported_file_is_served_without_torch() -> None:
    """Nothing of the service imports it."""
    code = "import sys, dabdetr.serve.app, dabdetr.cli.serve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("blood-cells", "blood-cells"),
        ("runs/train/cells/best.safetensors", "cells"),
        ("cells v2.onnx", "cells-v2"),
        ("models/cells_openvino_model", "cells_openvino_model"),
        ("user/cells-1.5", "cells-1.5"),
    ],
)
def test_the_name_comes_from_the_file(source: str, name: str) -> None:
    from dabdetr.cli.serve import _default_name

    assert _default_name(source) == name


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_detects_and_asks(width: int, scheme: Any, service: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page, errors = context.new_page(), []
        page.on("console", lambda each: errors.append(each.text) if each.type != "log" else None)
        page.on("pageerror", lambda each: errors.append(str(each)))
        page.goto(service)
        page.set_input_files("#file", SMEAR)
        rows = page.locator("#table tbody tr")
        count = len(dabdetr.Predictor("blood-cells").one(SMEAR))
        playwright.expect(page.locator("#state")).to_have_text(f"{count} objects in blood-1.jpg")
        assert rows.count() == count > 5
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        frame = page.locator("#stage").bounding_box()
        assert frame
        scale = frame["width"] / 640
        page.mouse.click(frame["x"] + 80 * scale, frame["y"] + 345 * scale)
        playwright.expect(page.locator("#answer")).to_contain_text("RBC, 9")
        page.mouse.click(frame["x"] + 192 * scale, frame["y"] + 144 * scale)  # background
        playwright.expect(page.locator("#answer")).to_contain_text("Nothing is there (RBC, ")
        x, y = frame["x"] + 215 * scale, frame["y"] + 100 * scale
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 190 * scale, y + 180 * scale, steps=3)
        page.mouse.up()
        playwright.expect(page.locator("#answer")).to_contain_text("with the drawn box")
        assert "WBC" in page.inner_text("#answer")
        assert page.locator("#boxes .answer").count() == 1
        page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": b"x"})
        playwright.expect(page.locator("#state.error")).to_contain_text("not an image")
        assert [each for each in errors if "400" not in each] == []
        browser.close()


def test_a_class_has_the_same_colour_in_the_page_as_in_drawn_images() -> None:
    from importlib.resources import files

    from dabdetr.structures.drawing import HUES, colour

    script = (files("dabdetr.serve") / "static" / "page.js").read_text()
    listed = re.findall(r'"(#[0-9a-f]{6})"', script.partition("COLOURS = ")[2].partition(";")[0])
    assert listed == ["#{:02x}{:02x}{:02x}".format(*colour(label)) for label in range(HUES)]
