"""What a user might pick instead: from a decoded JPEG to boxes, at equal input size.

Weights are random everywhere, which changes no time but that of non-maximum suppression: the peers'
score thresholds keep them from having anything to suppress.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

HEIGHT, WIDTH = 480, 640
YOLO = ("ultralytics", "yolo11n.yaml", "yolo11m.yaml")
"""A package that is run in an environment of its own (its licence is the AGPL), and its models."""
YOLO_NEEDS = (
    "opencv-python-headless",
    "pyyaml",
    "requests",
    "psutil",
    "polars",
    "ultralytics-thop",
)


def found(threads: int = 2, smoke: bool = False, rounds: int = 7) -> dict[str, Any]:
    """Milliseconds an image and millions of parameters, by model."""
    from benchmarks.timing import alternate

    torch.set_num_threads(threads)
    image = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    models = {**_ours(smoke), **_torchvision(smoke)}
    jobs = {name: (lambda call=call: call(image)) for name, (call, _) in models.items()}
    seconds = alternate(jobs, 2 if smoke else rounds, warmup=2)
    rows = {
        name: {"ms": 1e3 * median(each[name] for each in seconds), "parameters": count / 1e6}
        for name, (_, count) in models.items()
    }
    return rows if smoke else {**rows, **_yolo(threads)}


Model = tuple[Callable[[np.ndarray], Any], int]


def _ours(smoke: bool) -> dict[str, Model]:
    from dabdetr.model.detector import build
    from dabdetr.predictor import Predictor
    from dabdetr.presets import preset

    models: dict[str, Model] = {}
    for name in ("dab-detr-nano",) if smoke else ("dab-detr-r50", "dab-lite"):
        config = preset(name).override([f"image.size={HEIGHT}", f"image.max_size={WIDTH}"])
        detector = build(config, [str(n) for n in range(80)]).eval()
        count = sum(p.numel() for p in detector.parameters())
        for precision in ("fp32", "bf16"):
            predictor = Predictor(detector, precision=precision)
            models[f"{name}, {precision}"] = predictor.one, count
    return models


def _torchvision(smoke: bool) -> dict[str, Model]:
    from torchvision.models import detection
    from torchvision.transforms.v2.functional import to_image

    names = [
        "ssdlite320_mobilenet_v3_large",
        "fasterrcnn_mobilenet_v3_large_fpn",
        "fasterrcnn_resnet50_fpn",
        "fasterrcnn_resnet50_fpn_v2",
    ]
    models: dict[str, Model] = {}
    for name in names[:1] if smoke else names:
        size = {} if name.startswith("ssd") else {"min_size": HEIGHT, "max_size": WIDTH}
        model = getattr(detection, name)(
            weights=None, weights_backbone=None, num_classes=81, **size
        ).eval()

        def call(image: np.ndarray, model: Any = model) -> Any:
            with torch.no_grad():
                return model([to_image(image).float() / 255])

        shown = "SSDLite, at its own 320x320" if size == {} else f"torchvision {name}"
        models[f"{shown}, fp32"] = call, sum(p.numel() for p in model.parameters())
    return models


def _yolo(threads: int) -> dict[str, Any]:
    """The same of a YOLO, in an environment of its own that borrows this one's torch."""
    python = _environment(Path(__file__).parent / ".yolo")
    if python is None:
        return {}
    command = [str(python), __file__, str(threads), *YOLO[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"no YOLO: {(done.stderr.strip().splitlines() or ['?'])[-1]}", file=sys.stderr)
        return {}
    return json.loads(done.stdout.splitlines()[-1])


def _environment(folder: Path) -> Path | None:
    """The interpreter of an environment with the YOLO; None where it cannot be installed."""
    python = folder / "bin" / "python"
    if (folder / "ready").exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    theirs = next((folder / "lib").glob("python*/site-packages"))
    (theirs / "borrowed.pth").write_text(ours + "\n")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps"]
    done = subprocess.run([*pip, YOLO[0], *YOLO_NEEDS], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"no YOLO: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    (folder / "ready").touch()
    return python


def _time_yolo(threads: int, names: list[str], rounds: int = 9) -> dict[str, Any]:
    from ultralytics import YOLO as Model  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(threads)
    image = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    rows = {}
    for name in names:
        model, seconds = Model(name), []
        for _ in range(rounds + 2):
            started = time.perf_counter()
            model.predict(image, imgsz=(HEIGHT, WIDTH), verbose=False, device="cpu")
            seconds.append(time.perf_counter() - started)
        count = sum(p.numel() for p in model.model.parameters())
        title = f"{YOLO[0]} {name.partition('.')[0]}, fp32"
        rows[title] = {"ms": 1e3 * median(seconds[2:]), "parameters": count / 1e6}
    return rows


if __name__ == "__main__":
    print(json.dumps(_time_yolo(int(sys.argv[1]), sys.argv[2:])))
