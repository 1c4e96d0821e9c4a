"""`dabdetr bench`: speed and AP of a model in every runtime and precision, and a recommendation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dabdetr.cli import options
from dabdetr.cli.output import console, print_json, say
from dabdetr.files import check_writable
from dabdetr.runs import RunFolder


def bench(
    model: options.Model,
    data: Annotated[
        str | None, typer.Option(help="Annotated images, a data folder or scenes: gives AP.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="Images without boxes, instead of --data: a folder, pattern or video."),
    ] = None,
    split: options.Split = "val",
    max_ap_drop: Annotated[
        float | None,
        typer.Option(
            help="AP points (of 100) that the recommended one may lose; 0.5 if not given."
        ),
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            help="Formats to measure, separated by commas; compile adds torch.compile. PyTorch "
            "fp32 is always measured."
        ),
    ] = "torch,onnx,openvino",
    batch: options.Batch = 1,
    threads: Annotated[
        int | None, typer.Option(help="Number of threads; each runtime's default if not given.")
    ] = None,
    rounds: Annotated[
        int, typer.Option(help="Number of rounds; every candidate is timed once per round.")
    ] = 5,
    images: Annotated[
        int,
        typer.Option("--images", help="Maximum number of images for AP or agreement."),
    ] = 100,
    scaling: Annotated[bool, typer.Option("--scaling", hidden=True)] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write; runs/bench/bench-N if not given."),
    ] = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure a model in every runtime and precision; recommend one.

    It exports the model in each format, times all candidates in turn, and measures AP on labelled
    data, on other images the share of boxes that agree with those of PyTorch in fp32. This takes
    some minutes; --formats onnx shortens it. The folder gets bench.md, bench.json and bench.png.
    Runtimes that cannot run here are listed with the reason.
    """
    project, name = options.run_place(Path("runs/bench"), None, output)
    options.check_folder(data)
    check_writable(project)
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
    with RunFolder(project, name, "bench") as folder:
        from dabdetr.bench.report import save, terminal, to_dict
        from dabdetr.bench.run import bench as run

        options.tell_choices(quiet)
        found = run(plan, progress=not quiet)
        save(found, folder.path)
    if as_json:
        print_json({"folder": str(folder.path), **to_dict(found)})
    elif not quiet:
        console().print(terminal(found), crop=False)  # commands stay whole
    say(f"results: {folder.path}", quiet)
