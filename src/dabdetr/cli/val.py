"""`dabdetr val`: evaluation of a model or of saved detections on labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dabdetr.cli.options import (
    Annotations,
    Batch,
    BoxFormats,
    Coco,
    Compile,
    DataArgument,
    DataOption,
    Device,
    Images,
    ImageSize,
    Json,
    Layers,
    MaxDet,
    ModelArgument,
    ModelOrNone,
    Name,
    Nms,
    Project,
    Queries,
    QueriesInit,
    Quiet,
    RunOutput,
    SetPrecision,
    Split,
    Strict,
    one_of,
    open_split,
    run_place,
    tell_choices,
)
from dabdetr.cli.output import console, print_json, refuse_to_overwrite, say
from dabdetr.packages import install_command

if TYPE_CHECKING:
    import numpy as np

    from dabdetr.data.dataset import DetectionDataset
    from dabdetr.evaluation.against import Comparison
    from dabdetr.evaluation.census import Census
    from dabdetr.evaluation.error_report import ErrorReport
    from dabdetr.evaluation.per_layer import LayerScores
    from dabdetr.evaluation.result import Evaluation
    from dabdetr.inference.runtime import Runtime
    from dabdetr.report.earlier import Earlier
    from dabdetr.runs import RunFolder


def val(
    weights: ModelArgument = None,
    dataset: DataArgument = None,
    model: ModelOrNone = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Saved detections instead of a model: a COCO results file, or what predict --json "
            "printed."
        ),
    ] = None,
    data: DataOption = None,
    split: Split = "val",
    annotations: Annotations = None,
    images: Images = None,
    box_format: BoxFormats = None,
    strict: Strict = False,
    max_det: MaxDet = None,
    nms: Nms = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Write the weights with the thresholds and the calibration of scores that fit "
            "this split best."
        ),
    ] = None,
    imgsz: ImageSize = None,
    queries: Queries = None,
    queries_init: QueriesInit = "keep",
    layers: Layers = None,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="Evaluate after each decoder layer.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="With --per-layer: write curves (.png or .svg).")
    ] = None,
    errors: Annotated[
        bool,
        typer.Option(
            "--errors", help="Also find the cause of each missed object and each false detection."
        ),
    ] = False,
    census: Annotated[
        bool,
        typer.Option(
            "--census", help="Also count what each query finds, and which queries find nothing."
        ),
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Compare with a run folder of val or train, a report, or a COCO results file: "
            "objects won and lost, and whether the difference is more than chance."
        ),
    ] = None,
    batch: Batch = 4,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images.")] = 0,
    device: Device = "auto",
    precision: SetPrecision = "fp32",
    compile: Compile = False,
    coco: Coco = None,
    name: Name = None,
    project: Project = Path("runs/val"),
    output: RunOutput = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a model, an exported file or saved detections.

    Printed are COCO's twelve numbers, and those of each class. The run's folder gets a report: a
    page with figures and tables, and the same as JSON.

    With --errors it also gives the cause of every missed and every false object, the AP that would
    be gained without each cause, and advice.

    With --per-layer it prints the AP after every decoder layer, and the layer from which on
    nothing improves.
    """
    if predictions and dataset is None:  # the only argument is the data
        weights, dataset = None, weights
    model, data = one_of(weights, model, "model"), one_of(dataset, data, "data")
    project, name = run_place(project, name, output)
    if (model is None) == (predictions is None):
        raise ValueError("give --model to run one, or --predictions with what one has found")
    refuse_to_overwrite(coco)
    refuse_to_overwrite(plot)
    refuse_to_overwrite(calibrate)
    if per_layer:
        of_last = {"coco": coco, "calibrate": calibrate, "against": against, "census": census}
        of_last["errors"] = errors
        if given := [f"--{name}" for name, value in of_last.items() if value]:
            raise ValueError(
                f"--per-layer evaluates every layer, {given[0]} the last one; leave out either"
            )
    if per_layer and (precision, compile) != ("fp32", False):
        raise ValueError("--per-layer evaluates in fp32; leave out --precision and --compile")
    if predictions:
        of_model = {"per-layer": per_layer, "calibrate": calibrate, "queries": queries}
        of_model |= {"layers": layers, "imgsz": imgsz, "coco": coco, "census": census}
        if unused := [f"--{name}" for name, value in of_model.items() if value]:
            raise ValueError(f"--predictions runs no model; leave out {', '.join(unused)}")
        _check_file_of_detections(predictions)
    if plot and not per_layer:
        raise ValueError("--plot shows curves over layers; give --per-layer as well")
    if plot and plot.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"--plot should end in .png or .svg; got {plot}")
    if against:
        from dabdetr.report.earlier import check_earlier

        check_earlier(against)  # a missing or damaged file raises before any work
    tell_choices(quiet)
    truth = open_split(data, split, annotations, images, box_format, strict=strict, quiet=quiet)
    from dabdetr.data.statistics import summarise
    from dabdetr.evaluation.evaluate import SUPPRESSION, class_map, evaluate, suppression_gain
    from dabdetr.inference.opening import open_model, torch_runtime
    from dabdetr.runs import RunFolder

    earlier = _earlier(against, truth)  # raises before the evaluation if it cannot be compared
    summary = summarise(truth)
    about = {
        "model": model or str(predictions),
        "data": truth.name,
        "split": truth.split,
        "read": summary.to_dict(),
    }
    folder = RunFolder(project, name, "val")  # raises before the evaluation if the name is taken
    if model is None:
        for line in summary.lines():
            say(line, quiet)
        found = _evaluate_saved(predictions, truth, max_det, nms)
        errors_found = _diagnose_saved(truth, found) if errors else None
        compared = _compared(earlier, truth, found, None)
        written = _write_report(folder, truth, found, None, about, quiet, errors_found, compared)
        more = {**written, **_errors(errors_found), **_against(compared, truth)}
        _report(found, about, as_json, quiet, more)
        _advise(errors_found, compared, as_json, quiet)
        return
    runtime = open_model(
        model,
        device=device,
        precision=precision,  # pyright: ignore[reportArgumentType]
        queries=queries,
        queries_init=queries_init,
        layers=layers,
        image_size=imgsz,
        compile=compile,
    )
    class_map(runtime.names, truth.names)  # raises before the evaluation if classes do not fit
    for line in summary.lines():
        say(line, quiet)
    if calibrate:
        detector = torch_runtime(runtime).model
        detector.config = detector.config.override(["inference.calibration=null"])
    options = {"batch": batch, "max_det": max_det, "workers": workers, "progress": not quiet}
    if per_layer:
        from dabdetr.evaluation.per_layer import evaluate_layers

        found = evaluate_layers(torch_runtime(runtime), truth, **options)
        _report(found, about, as_json, quiet)
        if plot:  # last, so that the numbers are printed even if it fails
            found.plot(plot)
            say(f"curves: {plot}", quiet)
        return
    errors_found = None
    if errors:
        errors_found = _diagnose(runtime, truth, nms, options)
        found = errors_found.diagnosed.evaluation
    else:
        found = evaluate(runtime, truth, nms=nms, **options)
    compared = _compared(earlier, truth, found, runtime)
    queries_found = _census(runtime, truth, found, options) if census else None
    written = _write_report(
        folder, truth, found, runtime, about, quiet, errors_found, compared, queries_found
    )
    if coco:
        found.save_results(coco)
        say(f"detections: {coco}", quiet)
    more: dict[str, Any] = {**written, **_errors(errors_found), **_against(compared, truth)}
    if calibrate:
        _write_calibrated(calibrate, runtime, truth, found, quiet)
    if nms is None:
        gain = suppression_gain(truth, found)
        more["nms_gain"] = {"iou": SUPPRESSION, "AP50": round(gain, 5)}
    _report(found, about, as_json, quiet, more)
    _advise(errors_found, compared, as_json, quiet)
    if gain := more.get("nms_gain"):
        say(
            f"non-maximum suppression (--nms {gain['iou']}) would add {gain['AP50']:+.3f} AP50",
            quiet,
        )


def _check_file_of_detections(path: Path) -> None:
    """OSError where ``path`` is missing or a folder."""
    if not path.exists():
        raise FileNotFoundError(f"there is no results file {path}; check the path")
    if path.is_dir():
        inside = path / "detections.json"
        expected = str(inside) if inside.is_file() else "what predict --coco wrote"
        raise IsADirectoryError(
            f"{path} is a folder; --predictions takes a file of detections: {expected}"
        )


def _write_calibrated(
    path: Path, runtime: Runtime, truth: DetectionDataset, found: Evaluation, quiet: bool
) -> None:
    """Write the weights with the thresholds and the calibration that fit ``truth`` best."""
    from dabdetr.checkpoints.native import save_model
    from dabdetr.evaluation.operating_point import with_operating_point
    from dabdetr.inference.opening import torch_runtime

    detector = torch_runtime(runtime).model
    chosen = with_operating_point(detector.config, truth, found)
    detector.config = chosen.config
    save_model(path, detector)
    say(f"{chosen}\nweights: {path}", quiet)


def _evaluate_saved(
    path: Path | None, truth: DetectionDataset, max_det: int | None, nms: float | None
) -> Evaluation:
    """The evaluation of the detections in a results file."""
    from dabdetr.evaluation.coco_ap import MOST
    from dabdetr.evaluation.evaluate import score
    from dabdetr.evaluation.saved import read_results

    assert path is not None
    found, notes = read_results(path, truth)
    if nms is not None:
        found = [each.without_overlaps(nms) for each in found]
    if max_det is not None:
        found = [each[:max_det] for each in found]
    result = score(truth, found, max(MOST[-1], max_det or 0))
    return replace(result, notes=(*notes, *result.notes))


def _diagnose(
    runtime: Runtime, truth: DetectionDataset, nms: float | None, options: dict[str, Any]
) -> ErrorReport:
    """The evaluation and its errors; for an exported file only causes visible in detections."""
    from dabdetr.evaluation.error_report import ErrorReport
    from dabdetr.evaluation.errors import diagnose, evaluate_with_errors
    from dabdetr.evaluation.evaluate import evaluate
    from dabdetr.inference.exported import Exported
    from dabdetr.inference.postprocess import class_thresholds

    limits = class_thresholds(runtime.config.inference, truth.names)
    if isinstance(runtime, Exported):
        found = diagnose(truth, evaluate(runtime, truth, nms=nms, **options), limits)
    else:
        from dabdetr.inference.opening import torch_runtime

        found = evaluate_with_errors(torch_runtime(runtime), truth, limits, nms=nms, **options)
    return ErrorReport.of(truth, found, runtime.config)


def _diagnose_saved(truth: DetectionDataset, found: Evaluation) -> ErrorReport:
    from dabdetr.evaluation.error_report import ErrorReport
    from dabdetr.evaluation.errors import diagnose
    from dabdetr.evaluation.judged import default_limits

    return ErrorReport.of(truth, diagnose(truth, found, default_limits(truth, found)))


def _write_report(
    folder: RunFolder,
    truth: DetectionDataset,
    found: Evaluation,
    runtime: Runtime | None,
    about: dict[str, Any],
    quiet: bool,
    errors: ErrorReport | None,
    against: Comparison | None,
    queries: Census | None = None,
) -> dict[str, Any]:
    """Write the report into ``folder``; returns its entries of the JSON document.

    These are ``report``, the path of the page (None if it cannot be written), and with a census
    ``queries``.
    """
    import yaml

    from dabdetr.report.figures import can_draw
    from dabdetr.report.page import PAGE
    from dabdetr.report.write import write_report

    known = {name: about[name] for name in ("model", "data", "split")}
    limits = _limits(truth, found, runtime)
    if runtime is not None:
        config = runtime.config.model_dump(mode="json")
        known["config"] = yaml.safe_dump(config, sort_keys=False)
    try:
        with folder as run:
            links = {} if errors is None else _explain_pages(errors, runtime, run.path)
            tree = write_report(
                run.path,
                truth,
                found,
                limits,
                {"verb": "val", **known},
                errors,
                links,
                against=against,
                queries=queries,
            )
    except OSError as error:
        say(f"no report: {error}", quiet)
        return {"report": None}
    page = folder.path / PAGE
    if not can_draw():
        say(f"no figures: they need matplotlib; type: {install_command('train')}", quiet)
    if (counted := tree.get("queries")) is None:
        say(f"report: {page}", quiet)
        return {"report": str(page)}
    say(f"census: {counted['sentence']}\nreport: {page}", quiet)
    return {"report": str(page), "queries": counted}


def _limits(truth: DetectionDataset, found: Evaluation, runtime: Runtime | None) -> np.ndarray:
    """Score thresholds [classes]: the model's, or without a model those of the best F1."""
    from dabdetr.evaluation.judged import default_limits
    from dabdetr.inference.postprocess import class_thresholds

    if runtime is None:
        return default_limits(truth, found)
    return class_thresholds(runtime.config.inference, truth.names)


def _earlier(against: Path | None, truth: DetectionDataset) -> Earlier | None:
    if against is None:
        return None
    from dabdetr.report.earlier import read_earlier

    return read_earlier(against, truth)


def _compared(
    earlier: Earlier | None, truth: DetectionDataset, found: Evaluation, runtime: Runtime | None
) -> Comparison | None:
    if earlier is None:
        return None
    from dabdetr.evaluation.judged import judge
    from dabdetr.report.earlier import compare_with

    judged = judge(truth, found, _limits(truth, found, runtime))
    return compare_with(earlier, truth, found, judged)


def _census(
    runtime: Runtime, truth: DetectionDataset, found: Evaluation, options: dict[str, Any]
) -> Census:
    """What each query finds; unless the model is exported, also changes from layer to layer."""
    from dabdetr.evaluation.census import census
    from dabdetr.evaluation.judged import Judged, judge
    from dabdetr.inference.exported import Exported

    queries = runtime.config.model.queries
    slots = queries.count * (getattr(queries, "patterns", 0) or 1)
    limits = _limits(truth, found, runtime)
    layers: list[list[Judged]] = []
    if not isinstance(runtime, Exported):
        from dabdetr.evaluation.per_layer import judged_by_layer
        from dabdetr.inference.opening import torch_runtime

        layers = judged_by_layer(torch_runtime(runtime), truth, limits, **options)
    return census(judge(truth, found, limits), slots, layers)


def _explain_pages(errors: ErrorReport, runtime: Runtime | None, folder: Path) -> dict[int, str]:
    """Write the explain pages of the errors in the gallery; returns the address of each error's.

    Without a model, or where no error has a query, there are none.
    """
    diagnosed = errors.diagnosed.errors
    if runtime is None or all(diagnosed[index].query is None for index in errors.chosen):
        return {}
    from dabdetr.explain.gallery import write_pages
    from dabdetr.inference.opening import torch_runtime

    return write_pages(torch_runtime(runtime), errors, folder)


def _errors(errors: ErrorReport | None) -> dict[str, Any]:
    """The entry for errors in the JSON document."""
    return {} if errors is None else {"errors": errors.summary}


def _against(compared: Comparison | None, truth: DetectionDataset) -> dict[str, Any]:
    """The entry for the comparison in the JSON document."""
    return {} if compared is None else {"against": compared.to_dict(truth)}


def _advise(
    errors: ErrorReport | None, compared: Comparison | None, as_json: bool, quiet: bool
) -> None:
    """Print the comparison, the causes of errors as a table, and advice."""
    if compared is not None and not as_json:
        say(compared.sentence, quiet)
    if errors is None or quiet or as_json:
        return
    if not errors.summary["causes"]:
        say("no errors: every object is found, and every detection shown is right")
        return
    from rich.table import Table

    table = Table(title="errors")
    for column in ("cause", "missed", "false", "AP50 +"):
        table.add_column(column, justify="left" if column == "cause" else "right")
    for row in errors.summary["causes"]:
        gain = f"{row['AP50']:.3f}"
        table.add_row(row["words"], str(row["missed"]), str(row["false"]), gain)
    console().print(table)
    for sentence in errors.summary["advice"]:
        say(f"advice: {sentence}")


def _report(
    found: Evaluation | LayerScores,
    about: dict[str, Any],
    as_json: bool,
    quiet: bool,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    if as_json:
        print_json({**about, **found.to_dict(), **more})
    elif not quiet:
        console().print(found.table())
