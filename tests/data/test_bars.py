"""Large data sets open quickly and within little memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

MEASURE = """
import json, sys, time
from pathlib import Path
file, folder = sys.argv[1:]
from dabdetr.data.coco import read_coco
from dabdetr.text import parse_json
content = Path(file).read_bytes()
started = time.process_time()
tree = parse_json(content, file)
parsed = time.process_time() - started
del tree, content
started = time.process_time()
data = read_coco(Path(file), Path(folder))
opened = time.process_time() - started
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
found = [each.kind.name for each in data.findings]
print(json.dumps([parsed, opened, peak / 1024, len(data), len(data.labels), found]))
"""


def write(root: Path, images: int, boxes: int) -> Path:
    """A json as COCO's tools write it, and empty files for the images."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    listed = []
    for number in range(images):
        name = f"{number:012d}.jpg"
        (root / "images" / name).touch()
        listed.append({"id": number, "file_name": name, "width": 640, "height": 480})
    corners = rng.uniform(0, 400, (boxes, 2)).round(2).tolist()
    sides = rng.uniform(5, 70, (boxes, 2)).round(2).tolist()
    pairs = zip(corners, sides, strict=True)
    for number, ((x, y), (w, h)) in enumerate(pairs):
        row = {"id": number, "image_id": number % images, "category_id": number % 80 + 1}
        outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        row |= {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "segmentation": outline}
        rows.append(row)
    names = [{"id": n, "name": f"class {n}"} for n in range(1, 81)]
    tree = {"images": listed, "annotations": rows, "categories": names}
    (root / "all.json").write_text(json.dumps(tree))
    return root


def measured(root: Path) -> list[float]:
    command = [sys.executable, "-c", MEASURE, str(root / "all.json"), str(root / "images")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=500)
    return json.loads(done.stdout)


def test_ten_thousand_images_open_in_three_seconds(tmp_path: Path) -> None:
    parsed, opened, _, images, boxes, found = measured(write(tmp_path / "a", 10_000, 60_000))
    assert (images, boxes, found) == (10_000, 60_000, [])
    assert opened - parsed < 3, (parsed, opened)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc for the memory")
def test_half_a_million_boxes_take_less_than_a_gibibyte(tmp_path: Path) -> None:
    _, _, peak, _, boxes, _ = measured(write(tmp_path / "a", 40_000, 500_000))
    assert boxes == 500_000
    assert peak < 1024, peak


def test_ten_thousand_heads_take_twenty_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a moment when they are asked for again."""
    from dabdetr.data.heads import read_heads

    monkeypatch.setenv("DABDETR_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    one = tmp_path / "one.jpg"
    Image.fromarray(rng.integers(0, 255, (480, 640, 3), dtype=np.uint8)).save(one)
    content = one.read_bytes()
    files = []
    for number in range(10_000):
        file = tmp_path / f"{number}.jpg"
        file.write_bytes(content if number != 5000 else content[:20_000])
        files.append(str(file))
    started = time.perf_counter()
    heads = read_heads(files)
    first = time.perf_counter() - started
    assert [number for number, head in enumerate(heads) if head.error] == [5000]
    started = time.perf_counter()
    assert read_heads(files) == heads
    again = time.perf_counter() - started
    assert first < 20, first
    assert again < 2, again
