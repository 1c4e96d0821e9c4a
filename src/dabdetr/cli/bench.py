"""`dabdetr bench`: a model in every runtime and precision on this machine, and which to use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dabdetr.cli.options import Device, Json, Model, Quiet
from dabdetr.cli.output import console, print_json, say
from dabdetr.runs import RunFolder


def bench(
    model: Model,
    data: Annotated[
        str | None, typer.Option(help="Annotated images, a data folder or scenes: gives AP.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Or images without boxes: a folder, pattern or video.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which part of the data.")] = "val",
    max_ap_drop: Annotated[
        float | None,
        typer.Option(help="Points of AP (of 100) that the best may lose; 0.5 if not given."),
    ] = None,
    formats: Annotated[
        str, typer.Option(help="Of these, with commas between; PyTorch fp32 always competes.")
    ] = "torch,onnx,openvino",
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 1,
    threads: Annotated[
        int | None, typer.Option(help="Threads to compute in; each runtime's own if not given.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds, in each of which everyone is timed.")] = 7,
    images: Annotated[
        int,
        typer.Option("--images", help="Images that AP or agreement is measured on, at most."),
    ] = 200,
    scaling: Annotated[bool, typer.Option("--scaling", hidden=True)] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write; runs/bench/bench-N if not given."),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Time a model in every runtime and precision on your images, and say which one to use.

    With AP on annotated data, otherwise with the share of boxes that are those of PyTorch fp32.
    The folder gets bench.md, bench.json and bench.png. What cannot run here is listed with the
    reason.
    """
    from dabdetr.bench.candidates import Plan

    plan = Plan(
        model=model,
        data=data,
        source=source,
        split=split,
        max_ap_drop=max_ap_drop,
        formats=tuple(name.strip() for name in formats.split(",") if name.strip()),
        batch=batch,
        threads=threads,
        rounds=rounds,
        images=images,
        device=device,
    )
    if scaling:
        say("--scaling is now `python -m benchmarks.growth --model …` of the repository", quiet)
    project, name = (Path("runs/bench"), None) if output is None else (output.parent, output.name)
    with RunFolder(project, name, "bench") as folder:
        from dabdetr.bench.report import save, terminal, to_dict
        from dabdetr.bench.run import bench as run

        found = run(plan, progress=not quiet)
        save(found, folder.path)
    if as_json:
        print_json({"folder": str(folder.path), **to_dict(found)})
    elif not quiet:
        console().print(terminal(found))
    say(f"results: {folder.path}", quiet)
