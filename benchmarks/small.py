"""The small shipped models from JPEG to boxes, and what starting with them takes.

``python -m benchmarks.small --images FOLDER`` exports the models (once: ``--files`` keeps them),
starts every runtime in clean processes, and streams the folder through each, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from dabdetr.files import write_atomically

MODELS = ("scenes", "blood-cells")
BAR = 60.0
"""Images a second."""
RUNTIMES = {"torch": "", "ONNX Runtime": ".onnx", "OpenVINO fp32": "-fp32_openvino"}
RUNTIMES |= {"OpenVINO bf16": "-bf16_openvino", "OpenVINO int8": "-int8_openvino"}
_START = """
import json, sys, time
started = time.perf_counter()
from dabdetr import Predictor
Predictor(sys.argv[1]).one(sys.argv[2])
taken = time.perf_counter() - started
from dabdetr.measure import peak_memory_mib
print(json.dumps({"seconds": taken, "peak": peak_memory_mib()}))
"""
_STREAM = """
import json, sys
from pathlib import Path
from dabdetr import Predictor
from dabdetr.measure import seconds
files = sorted(Path(sys.argv[2]).glob("*.jpg"))[: int(sys.argv[3])]
predictor = Predictor(sys.argv[1])
list(predictor(files[:5]))
print(json.dumps({"rate": len(files) / seconds(lambda: list(predictor(files)))}))
"""


def main() -> None:
    """Make the files that are not there yet, measure, print and write."""
    given = _arguments()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    with tempfile.TemporaryDirectory() as temporary:
        files = make_files(given.files or Path(temporary))
        image = str(min(given.images.glob("*.jpg")))
        found: dict[str, Any] = {"threads": given.threads, "models": {}}
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in files}
        for _ in range(given.rounds):
            for name, model in files.items():
                told = _clean(_START, model, image)
                told |= _clean(_STREAM, model, str(given.images), str(given.count))
                runs[name].append(told)
    found["models"] = {
        name: {key: median(each[key] for each in told) for key in told[0]}
        for name, told in runs.items()
    }
    print("\n".join(rows(found)))
    if given.out:
        write_atomically(given.out, json.dumps(found, indent=1).encode())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small", description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="a folder of .jpg")
    parser.add_argument("--count", type=int, default=200, help="images of a stream (200)")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each (3)")
    parser.add_argument("--threads", type=int, default=2, help="threads (2)")
    parser.add_argument("--files", type=Path, help="folder that keeps the files for another run")
    parser.add_argument("--out", type=Path, help="the JSON to write")
    return parser.parse_args()


def make_files(folder: Path) -> dict[str, str]:
    """Every model in every runtime, by what it is called in the table; made where missing."""
    from dataclasses import replace

    from dabdetr.checkpoints.native import load_model
    from dabdetr.data.layouts import open_data
    from dabdetr.data.preprocessing import padded
    from dabdetr.export.formats import OnnxFile, OpenVinoFile
    from dabdetr.inference.exported import prepare_for
    from dabdetr.inference.metadata import Metadata

    folder.mkdir(exist_ok=True, parents=True)
    made: dict[str, str] = {}
    for name in MODELS:
        made |= {f"{name}, {run}": str(folder / f"{name}{end}") for run, end in RUNTIMES.items()}
        made[f"{name}, torch"] = name
        if all(Path(made[f"{name}, {run}"]).exists() for run, end in RUNTIMES.items() if end):
            continue
        model = load_model(name).model.eval()
        metadata = Metadata("onnx", model.names, model.config)
        onnx = OnnxFile(model, metadata)
        onnx.write(Path(made[f"{name}, ONNX Runtime"]), onnx.metadata)
        scenes = open_data("scenes", "train")  # speed does not depend on the ranges
        for precision in ("fp32", "bf16", "int8"):
            new = replace(metadata, runtime="openvino", precision=precision)
            ranges = None
            if precision == "int8":
                views = [padded([prepare_for(new, scenes.image(n))]) for n in range(8)]
                ranges = views.__iter__
            file = OpenVinoFile(onnx, new, ranges)
            file.write(Path(made[f"{name}, OpenVINO {precision}"]), file.metadata)
    return made


def _clean(code: str, *words: str) -> dict[str, float]:
    """What a new process says last."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{words} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def rows(found: dict[str, Any]) -> list[str]:
    """The table in Markdown."""
    lines = [
        f"Clean processes, {found['threads']} threads. Seconds from importing dabdetr to the boxes "
        f"of a first image; JPEG to boxes, one at a time (asked for: {BAR:g} a second).",
        "",
        "| | first boxes after s | peak MiB | images/s |",
        "| --- | --- | --- | --- |",
    ]
    for name, each in found["models"].items():
        lines.append(
            f"| {name} | {each['seconds']:.2f} | {each['peak']:.0f} | {each['rate']:.1f} |"
        )
    return lines


if __name__ == "__main__":
    main()
