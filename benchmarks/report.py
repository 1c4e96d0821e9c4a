"""The page of all parts that were kept. Nothing is typed by hand: what is missing is left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.compare import BARS, MEMORY, TASKS, Case
from benchmarks.timing import Row, table
from dabdetr.files import write_atomically

INTRO = """# Benchmarks

Written by `make bench`: every number comes from a file in `results/`, nothing is typed by hand. A
part can be measured again alone: `python -m benchmarks --only forward --models dab`.
"""
BESIDE = """
## Beside transformers

The same weights on both sides: outputs and losses are held against each other first. Each side has
a process of its own, as its users do; a round times one right after the other, and who starts
alternates. Ratio = peer's eager fp32 ÷ ours: above 1 we are faster. "best" is what `Predictor`
takes with `precision="auto", compile=True`, and in training bf16 autocast; "lean" is that with
`training.recompute` of all blocks. A training step is forward pass, matching, losses of all layers,
backward pass and fused AdamW, {images} images with 10 objects each. Its peak of memory is what the
process held at most beyond what it held when its libraries were imported (weights, optimiser and
gradients are in it); the last column is of the whole process.

| member | size | what | ratio (median) | lowest | highest | bar | goal | | ours s | peer s |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def write_results(path: Path, folder: Path) -> None:
    """Compose the page of the parts in ``folder``."""
    parts = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    text = INTRO + _machines(parts)
    races = [
        Case(**each)
        for task in ("forward", "train")
        for name, part in parts.items()
        if name.startswith(f"{task}-")
        for each in part["found"]
    ]
    if races:
        text += _beside(sorted(races, key=_order))
    for name, write in SECTIONS.items():
        if name in parts:
            text += write(parts[name]["found"], path.parent)
    write_atomically(path, text.encode())


def _order(case: Case) -> tuple[int, str, int, int]:
    cases = list(BARS)
    return list(TASKS).index(case.task), case.kind, case.width, cases.index((case.task, case.way))


def verdict(value: float, bar: float, goal: float, most: bool = False) -> str:
    """As ``Row`` says it."""
    return Row("", value, bar=bar, goal=goal, most=most).verdict


def _machines(parts: dict[str, Any]) -> str:
    lines = []
    for each in {json.dumps(part["machine"] | {"commit": ""}) for part in parts.values()}:
        m = json.loads(each)
        versions = ", ".join(f"{name} {number}" for name, number in m["versions"].items())
        lines.append(
            f"Machine: {m['processor']}, {m['cores']} cores, {m['system']}; {m['threads']} "
            f"threads. {versions}.\n"
        )
    commits = sorted({part["machine"]["commit"] for part in parts.values()})
    return "\n" + "".join(sorted(lines)) + f"\nMeasured at commits: {', '.join(commits)}.\n"


def _beside(races: list[Case]) -> str:
    text = BESIDE.format(images=TASKS["training step"])
    for case in races:
        bars = BARS[case.task, case.way]
        cells = [
            case.kind,
            f"{case.width}x{case.height}",
            f"{case.task}, {case.way}",
            *(f"{n:.2f}" for n in (case.ratio, case.ratios[0], case.ratios[-1])),
            *((*map(str, bars), verdict(case.ratio, *bars)) if bars else ("", "", "")),
            *(f"{case.seconds(side):.3f}" for side in ("ours", "peer")),
        ]
        text += _row(cells)
    trained = [case for case in races if case.task == "training step"]
    if trained:
        text += "\n| member | size | training step | peak, ours ÷ peer | bar | goal | | ours MiB "
        text += "| peer MiB | with libraries |\n" + "| --- " * 10 + "|\n"
    for case in trained:
        held = case.peak
        own = {side: held[side] - held[f"{side} libraries"] for side in ("ours", "peer")}
        value = own["ours"] / own["peer"]
        cells = [case.kind, f"{case.width}x{case.height}", case.way]
        cells += [f"{value:.2f}", *map(str, MEMORY), verdict(value, *MEMORY, most=True)]
        cells += [f"{own[side]:.0f}" for side in own] + [f"{held['ours'] / held['peer']:.2f}"]
        text += _row(cells)
    told = [(case, each) for case in races for each in case.told]
    if told:
        text += "\nWhat ours chose:\n\n"
        text += "".join(f"- {c.kind}, {c.width}x{c.height}: {each}\n" for c, each in told)
    return text


def _peers(found: dict[str, Any], _: Path) -> str:
    text = (
        "\n## What a user might pick instead\n\nFrom a decoded image of 640x480 to boxes, one at "
        "a time, input of the same size unless it says otherwise; random weights. torchvision and "
        "we are timed in turn, a YOLO after that in an environment of its own. Speed says nothing "
        "of AP.\n\n| model | ms | parameters, millions |\n| --- | --- | --- |\n"
    )
    for name, each in sorted(found.items(), key=lambda item: item[1]["ms"]):
        text += _row([name, f"{each['ms']:.0f}", f"{each['parameters']:.1f}"])
    return text


def _roofline(found: dict[str, Any], _: Path) -> str:
    peaks = ", ".join(f"{name} {value / 1e12:.2f}" for name, value in found["peaks"].items())
    height, width = found["size"]
    groups = list(found["rows"][0]["groups"])
    text = (
        f"\n## How near to the machine\n\nPeak of a large matrix product here, TFLOP/s: {peaks}. "
        f"Forward pass of {width}x{height}, not compiled; operations are those of products and "
        "convolutions, then the shares of the time by torch's profiler.\n\n"
        f"| model | | GFLOP | ms | TFLOP/s | of the peak | {' | '.join(groups)} |\n"
        + "| --- " * (6 + len(groups))
        + "|\n"
    )
    for row in found["rows"]:
        speed = row["operations"] / row["seconds"]
        cells = [row["model"], row["precision"], f"{row['operations'] / 1e9:.0f}"]
        cells += [f"{1e3 * row['seconds']:.0f}", f"{speed / 1e12:.2f}", f"{row['share']:.0%}"]
        text += _row([*cells, *(f"{row['groups'][group]:.0%}" for group in groups)])
    return text


def _growth(found: dict[str, Any], folder: Path) -> str:
    from benchmarks.growth import draw, loaded, table

    points = loaded(found)
    draw(points).savefig(folder / "growth.png", dpi=80, bbox_inches="tight")
    return (
        f"\n## How it grows\n\n{found['model']}, PyTorch fp32, each value in a process of its own, "
        "640x480 where pixels do not vary; objects are those of a training step of 2 images. "
        "MiB are all that the process held.\n\n![time and memory](growth.png)\n\n"
    ) + table(points)


def _precision(found: list[dict[str, Any]], _: Path) -> str:
    text = (
        "\n## What bf16 costs\n\nAP of shipped models on images they were not trained on; at "
        "most 0.2 points (of 100) may be lost.\n\n| model | data | images | AP fp32 | AP bf16 "
        "| points | |\n| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    for each in found:
        points = 100 * (each["bf16"] - each["fp32"])
        cells = [each["model"], each["data"], str(each["images"])]
        cells += [f"{each['fp32']:.4f}", f"{each['bf16']:.4f}", f"{points:+.2f}"]
        text += _row([*cells, "met" if points >= -0.2 else "missed"])
    return text


def _rows(title: str) -> Callable[[Any, Path], str]:
    def write(found: list[dict[str, Any]], _: Path) -> str:
        return f"\n## {title}\n\n" + table([Row(**each) for each in found]) + "\n"

    return write


def _exports(found: dict[str, Any], _: Path) -> str:
    from benchmarks.exports import rows

    return "\n## Exported files\n\n" + "\n".join(rows(found)) + "\n"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"


SECTIONS = {
    "precision": _precision,
    "exports": _exports,
    "matching": _rows("Matcher and losses"),
    "deformable": _rows("Deformable attention"),
    "evaluation": _rows("Evaluation"),
    "memory": _rows("Memory of large images"),
    "peers": _peers,
    "roofline": _roofline,
    "growth": _growth,
}
