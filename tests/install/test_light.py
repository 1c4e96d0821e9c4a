"""The package without the extra `train`: small, quick to install, and enough for exported files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import pytest

from dabdetr.packages import TRAINING, explained, install_command

ROOT = Path(__file__).parents[2]
MOST_MB = 300


def test_a_missing_package_is_answered_by_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def installed_from(content: str | None) -> None:
        class Found:
            def read_text(self, name: str) -> str | None:
                assert name == "direct_url.json"
                return content

        monkeypatch.setattr("importlib.metadata.distribution", lambda _: Found())

    installed_from('{"url": "file:///home/me/my%20dabdetr", "dir_info": {"editable": true}}')
    assert install_command("train") == "pip install '/home/me/my dabdetr[train]'"
    for content in (None, '{"url": "https://example.org/dabdetr.whl", "archive_info": {}}'):
        installed_from(content)
        assert install_command("onnx") == "pip install 'dabdetr[onnx]'"
    missing = ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    assert explained(missing) == "this needs the package torch; type: pip install 'dabdetr[train]'"
    for other in (ImportError("broken"), ModuleNotFoundError("No module named 'x'", name="x")):
        assert explained(other) == str(other)


def test_training_packages_are_those_of_the_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {"scikit_learn": "sklearn"}

    def modules(requirements: list[str]) -> set[str]:
        found = {re.split(r"[<>=]", each)[0].replace("-", "_") for each in requirements}
        return {names.get(each, each) for each in found}

    assert modules(project["optional-dependencies"]["train"]) == TRAINING
    assert not modules(project["dependencies"]) & TRAINING


def test_verbs_about_data_need_nothing_of_the_extra(coco_folder: Path, tmp_path: Path) -> None:
    """Also val, whose report then has no figures."""
    hidden = f"import sys; sys.modules.update(dict.fromkeys({sorted(TRAINING)}))"
    truth = json.loads((coco_folder / "annotations" / "instances_val.json").read_text())
    rows = [{**each, "score": 0.5} for each in truth["annotations"]]
    (tmp_path / "found.json").write_text(json.dumps(rows))
    for line, code, said in (
        ("val --predictions found.json DATA", 0, "no figures: they need matplotlib; type: pip"),
        ("data stats DATA", 0, "train"),
        ("data view DATA", 0, ""),
        ("data convert DATA new", 0, "new"),
        ("doctor DATA", 1, ""),
        ("models", 0, "dab-lite"),
    ):
        words = line.replace("DATA", str(coco_folder)).split()
        main = f"{hidden}; from dabdetr.cli import main; sys.argv = ['dabdetr', *{words}]; main()"
        done = subprocess.run(
            [sys.executable, "-c", main], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == code, (line, done.stderr)
        assert said in done.stdout + done.stderr, (line, done.stderr)
    (report,) = tmp_path.rglob("report.html")
    assert "needs the package matplotlib" in report.read_text()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_light_install_runs_exported_files(tmp_path: Path) -> None:
    """A fresh environment below 300 MB: predict, val, data and doctor work, training says how."""
    full = [sys.executable, "-m", "dabdetr"]
    for line in ("demo --count 8 -q", "export scenes -o scenes.onnx -q"):
        subprocess.run([*full, *line.split()], cwd=tmp_path, check=True)
    place = tmp_path / "light"
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    command = [place / "bin" / "pip", "install", "-q", f"{ROOT}[onnx]"]
    installed = subprocess.run(command, capture_output=True, text=True)
    if "No matching distribution" in installed.stderr:
        pytest.skip("no package index can be reached")
    assert installed.returncode == 0, installed.stderr
    size = sum(each.stat().st_size for each in place.rglob("*") if not each.is_symlink())
    assert size < MOST_MB * 1e6, f"{size / 1e6:.0f} MB"
    for line, code, said in (
        ("predict --model scenes.onnx demo/images", 0, "objects in 8 images"),
        ("val scenes.onnx demo/data", 0, "IoU 0.50"),
        ("data stats demo/data", 0, "train"),
        ("doctor demo/data", 1, ""),
        ("models", 0, "dab-lite"),
        ("train demo/data", 3, "this needs the package torch; type: pip install '"),
        ("export scenes -o other.onnx", 3, "[train]'"),
    ):
        done = subprocess.run(
            [place / "bin" / "python", "-W", "error", "-m", "dabdetr", *line.split()],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, (line, done.stderr)
        assert said in done.stdout + done.stderr, (line, done.stdout, done.stderr)
    with subprocess.Popen(
        [place / "bin" / "python", "-m", "dabdetr", "serve", "scenes.onnx", "--port", "0"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    ) as serving:
        assert serving.stderr is not None
        found = re.search(r"http://\S+(?=;)", serving.stderr.readline())
        assert found
        image = (tmp_path / "demo" / "images" / "000.png").read_bytes()
        with urllib.request.urlopen(f"{found[0]}/detect", image) as answer:
            assert json.load(answer)["images"][0]["detections"]
        serving.terminate()
        serving.communicate(timeout=30)
    assert serving.returncode == 0
