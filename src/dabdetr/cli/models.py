"""`dabdetr models` lists what there is; `dabdetr convert` brings weights into the own format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dabdetr.cli.options import Json, Output, Quiet, place_of
from dabdetr.cli.output import console, print_json, refuse_to_overwrite, say
from dabdetr.cli.train import PRESET


def models(as_json: Json = False) -> None:
    """List the presets to train and the trained models that come with the package."""
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
    weights = [_described(path) for path in shipped().values()]
    if as_json:
        print_json({"presets": presets, "weights": weights})
        return
    _print_weights(weights)
    _print_presets(presets)


def convert(
    source: Annotated[
        str,
        typer.Argument(help="Weights of the authors, transformers, detrex, mmdetection or ours."),
    ],
    target: Annotated[
        Path | None,
        typer.Argument(help="The file to write: NAME.safetensors.", show_default=False),
    ] = None,
    output: Output = None,
    half: Annotated[bool, typer.Option("--half", help="float16: half the file.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the target.")] = False,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="path=value of the config, for what the source does not hold."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert weights to the project's format, with their config and class names inside."""
    target = place_of(target, output, "convert SOURCE -o NAME.safetensors")
    if target.suffix != ".safetensors":
        raise ValueError(f"the target should end in .safetensors; got {target}")
    refuse_to_overwrite(target, "choose another name or add --force", force)
    import torch

    from dabdetr.checkpoints.native import load_model, save_model

    loaded = load_model(source, overrides=assignments or [])
    dtype = torch.float16 if half else torch.float32
    ours = loaded.report.format.startswith("dabdetr")
    about = {} if ours else {"converted_from": loaded.report.format}
    save_model(target, loaded.model, dtype, about)
    if as_json:
        print_json(_report(loaded.report, target))
        return
    say(f"{loaded.report}\nwritten: {target} ({target.stat().st_size / 1e6:.1f} MB)", quiet)


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


def _described(path: Path) -> dict[str, Any]:
    """Size, class names and the notes in the file's head, which is JSON after eight bytes."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        about = json.loads(file.read(length)).get("__metadata__", {})
    config = json.loads(about.pop("config", "{}"))
    return {
        "name": path.stem,
        "preset": config.get("name"),
        "megabytes": round(path.stat().st_size / 1e6, 1),
        "classes": json.loads(about.pop("names", "[]")),
        "about": {key: value for key, value in about.items() if key != "format"},
    }


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
