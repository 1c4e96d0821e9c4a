"""Files that showed faults once, read as their names say: ``KIND-…``."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tests.fuzz.targets import Targets, image_folder, opened, safetensors, tiny_config, tiny_onnx

_METADATA = re.compile(r"onnx metadata: (\w+)='(.*)'", re.DOTALL)
_CONFIG = re.compile(r"(\(.*?\))=(.*?)(?= \(|$)", re.DOTALL)


def cases(folder: Path, targets: Targets) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The name of each file, and what reads it."""
    for file in sorted(folder.iterdir()):
        for kind, read in KINDS.items():
            if file.name.startswith(kind):
                yield file.name, read(file, targets)
                break


def _coco(file: Path, targets: Targets) -> Callable[[], Any]:
    folder = targets.place("case")
    image_folder(folder / "train")
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_train.json").write_bytes(file.read_bytes())
    return opened(folder)


def _voc(file: Path, targets: Targets) -> Callable[[], Any]:
    folder = targets.place("case")
    image_folder(folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / "1.xml").write_bytes(file.read_bytes())
    return opened(folder)


def _yolo(file: Path, targets: Targets) -> Callable[[], Any]:
    folder = targets.place("case")
    image_folder(folder / "images" / "train")
    (folder / "labels" / "train").mkdir(parents=True)
    labels = file.read_bytes() if file.suffix == ".txt" else b"0 0.5 0.5 0.2 0.2\n"
    yaml = b"train: images/train\nnames: [a]\n" if file.suffix == ".txt" else file.read_bytes()
    (folder / "labels" / "train" / "1.txt").write_bytes(labels)
    (folder / "data.yaml").write_bytes(yaml)
    return opened(folder)


def _config(file: Path, targets: Targets) -> Callable[[], Any]:
    from dabdetr.config import load

    return lambda: load(file)


def _run(file: Path, targets: Targets) -> Callable[[], Any]:
    from dabdetr.training.options import Sources

    return lambda: Sources.load(file)


def _set(file: Path, targets: Targets) -> Callable[[], Any]:
    assignment = file.read_text().strip().removeprefix("--set ")
    return lambda: tiny_config().override([ast.literal_eval(assignment)])


def _image(file: Path, targets: Targets) -> Callable[[], Any]:
    from dabdetr.data.images import read_image

    return lambda: read_image(file)


def _metadata(file: Path, targets: Targets) -> Callable[[], Any]:
    from dabdetr.inference.exported import Exported

    strings = targets.strings()
    found = _METADATA.search(file.read_text())
    if found and found[2] == "<deleted>":
        del strings[found[1]]
    elif found:
        strings[found[1]] = found[2]
    else:  # format='dabdetr 1', and such
        key, _, value = file.read_text().strip().partition("=")
        strings[key] = ast.literal_eval(value)
    path = targets.place("case") / "x.onnx"
    path.write_bytes(tiny_onnx(strings))

    def case() -> None:
        exported = Exported(path)
        exported.detect([exported.prepare(np.zeros((20, 30, 3), np.uint8))], [(20, 30)], 5)

    return case


def _weights(file: Path, targets: Targets) -> Callable[[], Any]:
    """One field of the metadata, or of the config among them, is another."""
    from dabdetr.checkpoints.native import load_model

    base = targets.weights()
    length = int.from_bytes(base[:8], "little")
    header = json.loads(base[8 : 8 + length])
    about, text = header["__metadata__"], file.read_text().partition("header: ")[2].strip()
    config = json.loads(about["config"])
    for place, value in _CONFIG.findall(text):
        *parents, last = ast.literal_eval(place)
        node = config
        for parent in parents:
            node = node[parent] if isinstance(node, list) else node.setdefault(parent, {})
        if isinstance(node, dict) or last < len(node):
            node[last] = ast.literal_eval(value)
    about["config"] = json.dumps(config)
    if found := re.match(r"(\w+)='(.*)'$", text, re.DOTALL):
        about[found[1]] = found[2]
    path = targets.place("case") / "x.safetensors"
    path.write_bytes(safetensors(header, base[8 + length :]))
    return lambda: load_model(path)


KINDS: dict[str, Callable[[Path, Targets], Callable[[], Any]]] = {
    "card-": _metadata,
    "onnx-meta": _metadata,
    "coco-": _coco,
    "config-yaml": _config,
    "yaml-bomb": _yolo,
    "yaml-": _config,
    "run-yaml": _run,
    "set-": _set,
    "st-config": _weights,
    "st-meta": _weights,
    "pic-": _image,
    "voc-": _voc,
    "yolo-": _yolo,
}
"""Start of a name → what reads the file."""
