"""`dabdetr models`, a list of models, and `dabdetr convert`, conversion of weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from dabdetr.cli import options
from dabdetr.cli.output import console, print_json, refuse_to_overwrite, say
from dabdetr.cli.train import PRESET
from dabdetr.text import in_any_case


def models(
    every: Annotated[
        bool, typer.Option("--all", help="List all presets, with their sources.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List recommended models: trained ones, and presets to train."""
    from dabdetr.checkpoints.locate import shipped
    from dabdetr.presets import PRESETS

    first = sorted(PRESETS.values(), key=lambda each: each.name != PRESET)
    presets = [
        {
            "name": each.name,
            "backbone": each.model.backbone.name,
            "queries": each.model.queries.count,
            "layers": [each.model.encoder.layers, each.model.decoder.layers],
            "published_ap": each.published_ap,
            "source": each.source,
        }
        for each in first
    ]
    weights = [_description(path) for path in shipped().values()]
    if as_json:
        print_json({"presets": presets, "weights": weights})
        return
    if every:
        _print_weights(weights)
        _print_presets(presets)
    else:
        _print_recommended()


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="Weights of the authors, transformers, detrex, mmdetection or ours.",
            callback=options.check_model,
        ),
    ],
    target: Annotated[
        Path | None,
        typer.Argument(
            help="The file to write: NAME.safetensors; with --to transformers, a folder.",
            show_default=False,
        ),
    ] = None,
    output: options.Output = None,
    to: Annotated[
        str, typer.Option(help="dabdetr; or transformers: a folder for its pipeline.")
    ] = "dabdetr",
    push: Annotated[
        str | None,
        typer.Option(
            "--push-to-hub",
            metavar="OWNER/NAME",
            help="With --to transformers: upload the folder to this repository of the hub.",
            show_default=False,
        ),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Write float16: half the file size.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the target.")] = False,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="path=value of the config, for settings that the source lacks."),
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Convert weights of other formats to ours, or to transformers.

    A file of ours also contains the config and the class names.
    """
    target = options.place_of(target, output, "convert SOURCE -o NAME.safetensors")
    to = in_any_case(to, ("dabdetr", "transformers"))
    if to == "transformers":
        if half or force:
            raise ValueError("--half and --force are of --to dabdetr; leave them out")
        _to_transformers(source, target, push, assignments or [], as_json, quiet)
        return
    if to != "dabdetr" or push is not None:
        raise ValueError(
            f"--to should be dabdetr or transformers (which --push-to-hub needs); got {to!r}"
        )
    if target.suffix != ".safetensors":
        raise ValueError(f"the target should end in .safetensors; got {target}")
    refuse_to_overwrite(target, "choose another name or add --force", force)
    import torch

    from dabdetr.checkpoints.native import load_model, save_model

    loaded = load_model(source, overrides=assignments or [])
    dtype = torch.float16 if half else torch.float32
    ours = loaded.report.format.startswith("dabdetr")
    metadata = {} if ours else {"converted_from": loaded.report.format}
    save_model(target, loaded.model, dtype, metadata)
    if as_json:
        print_json(_report(loaded.report, target))
        return
    say(f"{loaded.report}\nwritten: {target} ({target.stat().st_size / 1e6:.1f} MB)", quiet)
    say(f"next: dabdetr predict --model {target} IMAGES", quiet)


def _to_transformers(
    source: str,
    target: Path,
    push: str | None,
    assignments: list[str],
    as_json: bool,
    quiet: bool,
) -> None:
    refuse_to_overwrite(target)
    from dabdetr.checkpoints.native import load_model
    from dabdetr.checkpoints.to_transformers import push_to_hub, save_transformers

    loaded = load_model(source, overrides=assignments)
    gap = save_transformers(target, loaded.model)
    address = None if push is None else push_to_hub(target, push)
    if as_json:
        print_json(_report(loaded.report, target) | {"difference": gap, "hub": address})
        return
    pushed = "" if address is None else f"\npushed: {address}"
    say(
        f"{loaded.report}\nwritten: {target}; transformers gives the same within {gap:.1g}{pushed}",
        quiet,
    )


def _report(report: Any, target: Path) -> dict[str, Any]:
    return {
        "source": report.source,
        "format": report.format,
        "target": str(target),
        "loaded": len(report.loaded),
        "reinitialised": list(report.reinitialised),
        "missing": list(report.missing),
        "unexpected": list(report.unexpected),
        "notes": list(report.notes),
    }


def _description(path: Path) -> dict[str, Any]:
    """Size and metadata of a safetensors file, read from its head without the tensors.

    The head is JSON after eight bytes with its length.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        metadata = json.loads(file.read(length)).get("__metadata__", {})
    config = json.loads(metadata.pop("config", "{}"))
    return {
        "name": path.stem,
        "preset": config.get("name"),
        "megabytes": round(path.stat().st_size / 1e6, 1),
        "classes": json.loads(metadata.pop("names", "[]")),
        "about": {key: value for key, value in metadata.items() if key != "format"},
    }


class Row(NamedTuple):
    """A recommended model; values that are not measured or published are empty."""

    name: str
    millions: str
    gflops: str
    cpu_ms: str
    ap: str
    use: str


DETECT = "detect: dabdetr predict --model NAME IMAGES"
TRAIN = "train: dabdetr train DATA --model NAME"
RECOMMENDED = {
    DETECT: (
        Row("scenes", "0.9", "", "", "", "digits, to try things"),
        Row("blood-cells", "4.3", "1.3", "80", "61.0 bccd", "cells of blood smears"),
        Row("tools", "4.3", "1.3", "80", "76.2 foda", "tools and parts on the ground"),
        Row("dab-detr-resnet-50", "43.7", "84", "2700", "42.2 COCO", "everyday objects; 175 MB"),
        Row("deformable-detr", "40.0", "", "", "44.5 COCO", "small objects too; 161 MB"),
    ),
    TRAIN: (
        Row("dab-lite", "4.3", "1.3", "80", "", "the default, on a CPU"),
        Row("vit-dino-s", "43.0", "341", "14200", "", "a ViT backbone, on a GPU"),
        Row("dab-detr-r50", "43.7", "84", "2700", "42.2 COCO", "the paper's model"),
        Row("dn-detr-r50", "43.8", "84", "2600", "44.4 COCO", "learns in fewer epochs"),
        Row("dab-detr-r50-dc5", "43.7", "149", "5900", "44.5 COCO", "finer feature maps"),
        Row("dino-r50-4scale", "47.0", "230", "7500", "49.0 COCO", "best AP with ResNet-50"),
        Row("dab-detr-nano", "0.9", "", "", "", "small, to read and change"),
    ),
}
"""Command → the models for it, at most twelve; ``models`` prints how they were measured."""


def _print_recommended() -> None:
    from rich.table import Column, Table

    width = max(len(row.name) for rows in RECOMMENDED.values() for row in rows)
    for command, rows in RECOMMENDED.items():
        name = Column("model", no_wrap=True, min_width=width)
        numbers = [Column(name, justify="right") for name in ("M param", "GFLOPs", "CPU ms")]
        table = Table(
            name, *numbers, Column("AP", min_width=9, no_wrap=True), Column("for", ratio=1)
        )
        table.title, table.title_justify, table.width = f"to {command}", "left", 80
        for row in rows:
            table.add_row(*row)
        console().print(table)
    print(
        "The first three are included; the others are downloaded once. All licences are\n"
        "Apache-2.0. GFLOPs (multiply-adds) and CPU ms are of one image of the preset's\n"
        "size, 4:3 (800x1066; dab-lite 256x341), one thread, fp32. AP on COCO is the\n"
        "authors', on bccd and foda ours. All presets: dabdetr models --all"
    )


def _print_presets(presets: list[dict[str, Any]]) -> None:
    from rich.table import Column, Table
    from rich.text import Text

    name = Column("preset", no_wrap=True, min_width=max(len(each["name"]) for each in presets))
    table = Table(name, "backbone", "queries", "layers", "COCO AP", "source")
    for each in presets:
        ap = each["published_ap"]
        table.add_row(
            each["name"],
            each["backbone"],
            str(each["queries"]),
            "{} + {}".format(*each["layers"]),
            "–" if ap is None else f"{ap:.1f}",
            Text(each["source"]),
        )
    console().print(table)
    print(
        "Presets have no weights of their own: train one, then detect with what it has learned.\n"
        "COCO AP is the source's number, not measured by us."
    )


def _print_weights(weights: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("trained model", "preset", "MB", "classes", "about")
    for each in weights:
        about = ", ".join(f"{key} {value}" for key, value in each["about"].items())
        classes = ", ".join(each["classes"])
        table.add_row(
            each["name"], str(each["preset"]), str(each["megabytes"]), Text(classes), Text(about)
        )
    if weights:
        console().print(table)
