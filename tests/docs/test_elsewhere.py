"""The blocks of "Use the file elsewhere" in other languages: run, and their boxes compared."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pages import blocks, commands
from PIL import Image
from typer.testing import CliRunner

from dabdetr.cli import app
from dabdetr.predictor import Predictor

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "recipes" / "elsewhere.md"
PHOTO, SCENE = "demo/images/photos/portrait.jpg", "demo/images/000.png"
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def folder(reader: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder with the page's exports, and its programs under the names they have."""
    root = tmp_path_factory.mktemp("elsewhere") / "reader"
    shutil.copytree(reader, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for block in blocks(PAGE):
            name = block.title.removeprefix('title="').removesuffix('"')
            if name:
                (root / name).write_text(block.source)
            for command, _ in commands(block.source) if block.language == "console" else ():
                if command.startswith("dabdetr export "):
                    done = CliRunner().invoke(app, command.split()[1:])
                    assert done.exit_code == 0, done.output
    return root


@pytest.fixture(scope="module")
def packages(folder: Path) -> Path:
    """The same folder with the packages that the page installs from npm."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
    wanted = ["onnxruntime-node", "onnxruntime-web", "sharp"]
    done = subprocess.run([*install, *wanted], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm cannot install {', '.join(wanted)}: {done.stderr[-200:]}")
    return folder


def assert_found(folder: Path, image: str, said: str, pixels: float, score: float) -> None:
    """Lines "label score left top right bottom" hold dabdetr's boxes of the image."""
    found = Predictor(folder / "elsewhere.onnx").one(folder / image, conf=0.5, multi_label=True)
    rows = np.array([[float(word) for word in line.split()] for line in said.splitlines()])
    assert len(found)
    assert rows.shape == (len(found), 6), said
    np.testing.assert_array_equal(rows[:, 0], found.labels)
    np.testing.assert_allclose(rows[:, 1], found.scores, atol=score)
    limits = np.tile(np.array(found.size[::-1]), 2)
    np.testing.assert_allclose(rows[:, 2:].clip(0, limits), found.boxes, atol=pixels)


def test_cpp(folder: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="needs openvino: pip install openvino")
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    place = Path(openvino.__file__).parent
    (library,) = place.glob("libs/libopenvino.so.*")
    build = ["g++", "-std=c++17", "-Wall", "detect.cpp", "-o", "detect", f"-I{place}/include"]
    link = [f"-L{place}/libs", f"-l:{library.name}", f"-Wl,-rpath,{place}/libs"]
    subprocess.run([*build, *link], cwd=folder, check=True)
    for image in (SCENE, PHOTO):
        with Image.open(folder / image) as opened:
            small = opened.convert("RGB").resize((160, 160), Image.Resampling.BILINEAR)
        small.save(folder / "image.ppm")
        small.save(folder / "small.png")
        done = subprocess.run(
            ["./detect", "image.ppm"], cwd=folder, capture_output=True, text=True, check=True
        )
        assert_found(folder, "small.png", done.stdout, 0.05, 1e-3)


def test_node(packages: Path) -> None:
    for image, pixels, score in ((SCENE, 0.05, 1e-3), (PHOTO, 1.0, 0.02)):
        done = subprocess.run(
            ["node", "detect.mjs", image], cwd=packages, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert_found(packages, image, done.stdout, pixels, score)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def address(packages: Path) -> Iterator[str]:
    """Of the folder, as ``python -m http.server`` serves it."""
    handler = functools.partial(_Quiet, directory=packages)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_browser(packages: Path, address: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if not Path(CHROMIUM).is_file():
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for image, pixels, score in ((SCENE, 0.05, 1e-3), (PHOTO, 2.0, 0.05)):
            page = browser.new_page()
            page.goto(f"{address}/detect.html")
            page.wait_for_function("typeof file.onchange == 'function'", timeout=120_000)
            page.set_input_files("#file", str(packages / image))
            page.wait_for_function("found.textContent.length > 0", timeout=120_000)
            assert_found(packages, image, page.inner_text("#found"), pixels, score)
        browser.close()


def test_python_needs_onnxruntime_only(folder: Path) -> None:
    """The first Python block, without dabdetr and torch in reach."""
    source = next(block.source for block in blocks(PAGE) if block.language == "python")
    barred = "import sys; sys.modules['dabdetr'] = sys.modules['torch'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", barred + source], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[") >= 1
