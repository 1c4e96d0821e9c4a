"""`dabdetr prune`: removal of queries and decoder layers that AP does not need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dabdetr.cli import options
from dabdetr.cli.output import print_json, refuse_to_overwrite, say


def prune(
    model: options.ModelArgument = None,
    data: options.Data = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The pruned weights (.safetensors).")
    ] = None,
    split: options.Split = "val",
    within: Annotated[
        float, typer.Option(min=0, help="AP points (of 100) that may be lost.")
    ] = 0.1,
    batch: options.Batch = 4,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Remove decoder layers and queries that your data does not need.

    The written weights contain a certificate: AP and time before and after, and the data they were
    measured on. AP is measured on the split on which queries and layers were chosen; check it on
    another split with val. If nothing can be removed, no file is written and the exit code is 1.
    Fewer queries may take as long as before: the last lines say so.
    """
    if model is None or data is None:
        raise ValueError("give a model and data: dabdetr prune MODEL DATA -o pruned.safetensors")
    if output is None:
        raise ValueError(f"say where the pruned weights go: dabdetr prune {model} {data} -o FILE")
    if output.suffix != ".safetensors":
        raise ValueError(f"the pruned weights should end in .safetensors (-o); got {output}")
    refuse_to_overwrite(output)
    options.check_folder(data)
    from dabdetr.data.layouts import open_data

    truth = open_data(data, split)  # missing data raise before torch is imported
    import json

    from dabdetr.checkpoints.native import load_model, save_model
    from dabdetr.evaluation.evaluate import class_map
    from dabdetr.evaluation.pruning import prune as pruned

    detector = load_model(model).model
    class_map(detector.names, truth.names)
    truth = truth.checked(progress=not quiet)
    say("measuring the AP of the whole model, then of fewer layers and queries …", quiet)
    found = pruned(detector, truth, within / 100, batch, device, lambda line: say(line, quiet))
    certificate = {
        "model": model,
        "data": truth.name,
        "split": truth.split,
        **found.certificate(),
    }
    if found.smaller:
        save_model(output, found.detector, metadata={"pruned": json.dumps(certificate)})
        say(f"{found.sentence}\n{found.gain}\nweights: {output}", quiet)
        say(f"next: dabdetr val {output} DATA, with a split that was not used here", quiet)
    else:
        say(
            f"nothing can be removed within {within:g} AP points, and no file was written; "
            "--within allows more",
            quiet,
        )
    if as_json:
        print_json({"weights": str(output) if found.smaller else None, **certificate})
    if not found.smaller:
        raise typer.Exit(1)
