"""A YOLOX-nano from no weights on a user's own data: the ``libreyolo`` package's recipe, timed.

It needs an environment of its own, without dabdetr:

    python -m venv yolo && yolo/bin/pip install libreyolo
    dabdetr data convert DATA yolo-data --to yolo
    OMP_NUM_THREADS=1 yolo/bin/python benchmarks/yolo.py yolo-data --minutes 15 -o results.json
    dabdetr val --predictions results.json yolo-data --split test

Epochs are planned from the processor time of two epochs. Phases of the recipe that are counted in
epochs (warm-up, the end without mosaic) shrink with a short training.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml  # comes with libreyolo
from libreyolo.models.yolox.model import LibreYOLOX  # pyright: ignore[reportMissingImports]


def train(settings: Path, names: list[str], size: int, epochs: int) -> tuple[Any, float]:
    """The model after so many epochs, and seconds of processor time; nothing is validated."""
    model = LibreYOLOX(size="n", nb_classes=len(names), device="cpu")
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        trained = model.train(
            str(settings),
            epochs=epochs,
            imgsz=size,
            batch=16,
            device="cpu",
            workers=0,
            seed=42,
            project=folder,
            pretrained=False,
            amp=False,
            val=False,
            warmup_epochs=min(5, max(1, epochs // 10)),
            no_aug_epochs=min(15, epochs // 4),
        )
        seconds = time.process_time() - began
        last = trained["last_checkpoint"]  # with averaged weights
        return LibreYOLOX(last, size="n", nb_classes=len(names), device="cpu"), seconds


def main() -> None:
    """Train, detect on the images of a split, and write COCO's results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="a folder in YOLO's layout, with data.yaml")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--split", default="test")
    parser.add_argument("--size", type=int, default=320, help="input size; a multiple of 32")
    parser.add_argument("-o", "--output", type=Path, default=Path("results.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = (given.data / "data.yaml").resolve()
    tree = yaml.safe_load(settings.read_text(encoding="utf-8"))
    names = list(tree["names"].values() if isinstance(tree["names"], dict) else tree["names"])
    _, seconds = train(settings, names, given.size, 2)
    epochs = max(2, round(60 * given.minutes / (seconds / 2)))
    model, seconds = train(settings, names, given.size, epochs)
    print(f"{epochs} epochs in {seconds / 60:.1f} minutes of a processor")
    rows: list[dict[str, Any]] = []
    images = settings.parent / tree[given.split]
    for path in sorted(p for p in images.iterdir() if p.is_file()):
        found = model(str(path), conf=0.001, iou=0.65, max_det=300)
        found = found[0] if isinstance(found, list) else found
        boxes = (torch.as_tensor(x) for x in (found.boxes.xyxy, found.boxes.conf, found.boxes.cls))
        for (left, top, right, bottom), score, label in zip(
            *(b.tolist() for b in boxes), strict=True
        ):
            row = {"image_id": path.stem, "file_name": path.name, "score": score}
            row |= {"category_id": int(label), "category_name": names[int(label)]}
            rows.append(row | {"bbox": [left, top, right - left, bottom - top]})
    given.output.write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
