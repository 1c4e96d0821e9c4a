"""`dabdetr export`: a model as a file for ONNX Runtime, OpenVINO or torch, with a certificate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dabdetr.cli import options
from dabdetr.cli.output import print_json, say
from dabdetr.export.checks import check_target, check_top
from dabdetr.export.formats import FORMATS, check_format, check_opset
from dabdetr.text import wrapped


def export(
    weights: options.ModelArgument = None,
    model: options.ModelOrNone = None,
    format: Annotated[str, typer.Option(help=f"One of {', '.join(FORMATS)}.")] = "onnx",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The file (OpenVINO: folder) to write.", show_default=False
        ),
    ] = None,
    half: Annotated[
        bool,
        typer.Option("--half", "--fp16", help="Half precision; OpenVINO's file is half as large."),
    ] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16.")] = False,
    int8: Annotated[
        str | None,
        typer.Option(
            help="Compute in int8 (OpenVINO), with value ranges measured on these data or images."
        ),
    ] = None,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Fix the input's height and width.", metavar="H W"),
    ] = None,
    post: Annotated[
        str,
        typer.Option(
            help="Outputs. none: logits and boxes of all queries; boxes: ranked boxes in pixels."
        ),
    ] = "none",
    max_det: Annotated[
        int | None, typer.Option(help="Boxes per image with --post boxes.", show_default=False)
    ] = None,
    padding: Annotated[
        bool,
        typer.Option("--padding/--no-padding", help="Give the file an input for the padding mask."),
    ] = True,
    with_questions: Annotated[
        bool,
        typer.Option(
            "--with-questions",
            help="Add inputs for questions about boxes, and outputs for the answers.",
        ),
    ] = False,
    opset: Annotated[
        int | None, typer.Option(help="Version of ONNX's operators, 18 to 25.", show_default=False)
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(help="Images on which PyTorch and the file are compared."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Labelled images for the comparison, which then includes AP: a folder, or scenes."
        ),
    ] = None,
    imgsz: options.ImageSize = None,
    queries: options.Queries = None,
    queries_init: options.QueriesInit = "keep",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a model for ONNX Runtime, OpenVINO or torch.export.

    The file takes any batch and image size unless --size is given. PyTorch and the file run on the
    same images (generated scenes if none are given). If their detections differ too much, the file
    is deleted and the exit code is 1.
    """
    model = options.one_of(weights, model, "model")
    if model is None:
        raise ValueError("no model was given: dabdetr export MODEL")
    chosen = [name for name, on in (("fp16", half), ("bf16", bf16), ("int8", int8)) if on]
    if len(chosen) > 1:
        raise ValueError(f"choose one precision; {' and '.join(chosen)} were given")
    precision = chosen[0] if chosen else "fp32"
    chosen_format = check_format(format, precision)
    target = output or Path(f"{Path(model).stem}{chosen_format.suffix}")
    check_target(target, chosen_format, force)
    check_top(post, max_det)
    check_opset(opset)
    options.check_folder(data)
    from dabdetr.export.export import Uncertified
    from dabdetr.export.export import export as write
    from dabdetr.inference.opening import torch_runtime

    runtime = torch_runtime(
        model, device="cpu", queries=queries, queries_init=queries_init, image_size=imgsz
    )
    options.tell_choices(quiet)
    try:
        made = write(
            runtime.model,
            target,
            format=format,
            precision=precision,
            size=size,
            images=images,
            data=data,
            calibration=int8,
            post=post,
            max_det=max_det,
            padding=padding,
            opset=opset,
            with_questions=with_questions,
            force=force,
            progress=not quiet,
        )
    except Uncertified as error:
        _print({"file": None, "certificate": error.certificate.to_dict()}, str(error), as_json)
        raise typer.Exit(1) from None
    document = {"file": str(made.path), "certificate": made.certificate.to_dict()}
    _print(document, "" if quiet else f"{made.path}\n{made.certificate}", as_json)
    say(f"next: dabdetr predict --model {made.path} IMAGES", quiet)


def _print(document: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        print_json(document)
    elif text:
        print(wrapped(text, sys.stdout))
