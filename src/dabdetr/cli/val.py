"""`dabdetr val`: evaluation of a model or of saved detections on labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dabdetr.cli import options
from dabdetr.cli.output import console, print_json, refuse_to_overwrite, say
from dabdetr.packages import install_command
from dabdetr.runs import RunFolder

if TYPE_CHECKING:
    import numpy as np

    from dabdetr.data.dataset import DetectionDataset
    from dabdetr.evaluation.against import Comparison
    from dabdetr.evaluation.census import Census
    from dabdetr.evaluation.error_report import ErrorReport
    from dabdetr.evaluation.judged import Judged
    from dabdetr.evaluation.result import Evaluation
    from dabdetr.inference.runtime import Runtime


def val(
    context: typer.Context,
    weights: options.ModelOrData = None,
    dataset: options.Data = None,
    model: options.ModelOrNone = None,
    predictions: options.Predictions = None,
    data: options.DataOption = None,
    split: options.Split = "val",
    annotations: options.Annotations = None,
    images: options.Images = None,
    box_format: options.BoxFormats = None,
    strict: options.Strict = False,
    max_det: options.MaxDet = None,
    nms: options.Nms = None,
    calibrate: options.Calibrate = None,
    imgsz: options.ImageSize = None,
    queries: options.Queries = None,
    queries_init: options.QueriesInit = "keep",
    layers: options.Layers = None,
    per_layer: options.PerLayer = False,
    plot: options.LayerPlot = None,
    errors: options.Errors = False,
    census: options.Census = False,
    against: options.Against = None,
    batch: options.Batch = 4,
    workers: options.Workers = 0,
    device: options.Device = "auto",
    precision: options.SetPrecision = "fp32",
    compile: options.Compile = False,
    coco: options.Coco = None,
    name: options.Name = None,
    project: options.Project = Path("runs/val"),
    output: options.RunOutput = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
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
    model, data = options.one_of(weights, model, "model"), options.one_of(dataset, data, "data")
    options.check_model(model)
    project, name = options.run_place(project, name, output)
    for path in (coco, plot, calibrate):
        refuse_to_overwrite(path)
    of_layer = {"per-layer": per_layer, "queries": queries, "layers": layers, "imgsz": imgsz}
    of_last = {"coco": coco, "calibrate": calibrate, "census": census}
    _check_source(model, predictions, {**of_layer, **of_last})
    if per_layer:
        _check_per_layer({**of_last, "against": against, "errors": errors}, precision, compile)
    if plot and not per_layer:
        raise ValueError("--plot shows curves over layers; give --per-layer as well")
    options.check_figure(plot)
    if against:
        from dabdetr.report.earlier import check_earlier

        check_earlier(against)  # a missing or damaged file raises before any work
    options.tell_choices(quiet)
    truth = options.open_split(
        data, split, annotations, images, box_format, strict=strict, quiet=quiet
    )
    from dabdetr.evaluation.evaluate import SUPPRESSION, class_map, suppression_gain
    from dabdetr.evaluation.judged import judge
    from dabdetr.inference.opening import open_model, torch_runtime
    from dabdetr.report.earlier import compare_with, read_earlier

    # these raise before the evaluation: data that do not fit, a name that is taken
    earlier = None if against is None else read_earlier(against, truth)
    folder = RunFolder(project, name, "val")
    runtime = None if model is None else open_model(model, **options.opening(context.params))
    if runtime is not None:
        class_map(runtime.names, truth.names)
    (summary,) = options.tell_counts([truth], quiet)
    about = {"model": model or str(predictions), "data": truth.name, "split": truth.split}
    read = {"read": summary.to_dict()}
    settings = {"batch": batch, "max_det": max_det, "workers": workers, "progress": not quiet}
    if per_layer:
        from dabdetr.evaluation.per_layer import evaluate_layers

        of_layers = evaluate_layers(torch_runtime(runtime), truth, **settings)
        _print(of_layers, about | read | of_layers.to_dict(), as_json, quiet)
        if plot:  # last, so that the numbers are printed even if it fails
            of_layers.plot(plot)
            say(f"curves: {plot}", quiet)
        return
    if calibrate:  # another calibration is fitted to the model's own scores
        detector = torch_runtime(runtime).model
        detector.config = detector.config.override(["inference.calibration=null"])
    found, limits, why = _evaluate(runtime, predictions, truth, errors, nms, settings)
    judged = judge(truth, found, limits)
    compared = None if earlier is None else compare_with(earlier, truth, found, judged)
    use = _census(runtime, truth, judged, limits, settings) if census else None
    more = _write_report(folder, truth, found, limits, runtime, about, why, compared, use, quiet)
    if coco:
        found.save_results(coco)
        say(f"detections: {coco}", quiet)
    if calibrate:
        from dabdetr.checkpoints.native import save_model
        from dabdetr.evaluation.operating_point import with_operating_point

        detector = torch_runtime(runtime).model
        chosen = with_operating_point(detector.config, truth, found)
        detector.config = chosen.config
        save_model(calibrate, detector)
        say(f"{chosen}\nweights: {calibrate}", quiet)
    if runtime is not None and nms is None:
        gain = round(suppression_gain(truth, found), 5)
        more["nms_gain"] = {"iou": SUPPRESSION, "AP50": gain}
    _print(found, about | read | more, as_json, quiet)
    if compared is not None and not as_json:
        say(compared.sentence, quiet)
    if why is not None and not (quiet or as_json):
        _print_causes(why)
    if (gain := more.get("nms_gain")) and gain["AP50"] >= 0.001:
        say(
            f"non-maximum suppression (--nms {gain['iou']}) would add {gain['AP50']:+.3f} AP50",
            quiet,
        )
    if more["report"]:
        say(f"report: {more['report']}", quiet)


def _check_source(
    model: str | None, predictions: Path | None, of_model: Mapping[str, object]
) -> None:
    """ValueError unless one of the two is given, or for options that saved detections ignore."""
    if (model is None) == (predictions is None):
        raise ValueError("give --model to run one, or --predictions with what one has found")
    if predictions is None:
        return
    if unused := options.given(of_model):
        raise ValueError(f"--predictions runs no model; leave out {', '.join(unused)}")
    if not predictions.exists():
        raise FileNotFoundError(f"there is no results file {predictions}; check the path")
    if predictions.is_dir():
        inside = predictions / "detections.json"
        expected = str(inside) if inside.is_file() else "what predict --coco wrote"
        raise IsADirectoryError(
            f"{predictions} is a folder; --predictions takes a file of detections: {expected}"
        )


def _check_per_layer(of_last: Mapping[str, object], precision: str, compile: bool) -> None:
    """ValueError for options of the last layer only, and for settings other than fp32."""
    if given := options.given(of_last):
        words = " and ".join(given)
        raise ValueError(
            f"--per-layer evaluates every layer, {words} the last one; leave out either"
        )
    if precision != "fp32" or compile:
        raise ValueError("--per-layer evaluates in fp32; leave out --precision and --compile")


def _evaluate(
    runtime: Runtime | None,
    predictions: Path | None,
    truth: DetectionDataset,
    errors: bool,
    nms: float | None,
    settings: dict[str, Any],
) -> tuple[Evaluation, np.ndarray, ErrorReport | None]:
    """The evaluation of the model or of the saved detections, thresholds [classes], and causes.

    The thresholds are the model's; without a model, those of the best F1. Causes are found with
    ``errors``; those that need decoder layers, only for weights.
    """
    from dabdetr.evaluation.error_report import ErrorReport
    from dabdetr.evaluation.errors import diagnose, evaluate_with_errors
    from dabdetr.evaluation.evaluate import evaluate
    from dabdetr.evaluation.judged import default_limits
    from dabdetr.inference.exported import Exported
    from dabdetr.inference.opening import torch_runtime
    from dabdetr.inference.postprocess import class_thresholds

    if runtime is None:
        assert predictions is not None
        config, found = None, _evaluate_saved(predictions, truth, settings["max_det"], nms)
        limits = default_limits(truth, found)
    else:
        config, limits = runtime.config, class_thresholds(runtime.config.inference, truth.names)
        if errors and not isinstance(runtime, Exported):
            weights = torch_runtime(runtime)
            diagnosed = evaluate_with_errors(weights, truth, limits, nms=nms, **settings)
            return diagnosed.evaluation, limits, ErrorReport.of(truth, diagnosed, config)
        found = evaluate(runtime, truth, nms=nms, **settings)
    why = ErrorReport.of(truth, diagnose(truth, found, limits), config) if errors else None
    return found, limits, why


def _evaluate_saved(
    path: Path, truth: DetectionDataset, max_det: int | None, nms: float | None
) -> Evaluation:
    """The evaluation of the detections in a results file."""
    from dabdetr.evaluation.coco_ap import MOST
    from dabdetr.evaluation.evaluate import score
    from dabdetr.evaluation.saved import read_results

    found, notes = read_results(path, truth)
    if nms is not None:
        found = [each.without_overlaps(nms) for each in found]
    if max_det is not None:
        found = [each[:max_det] for each in found]
    result = score(truth, found, max(MOST[-1], max_det or 0))
    return replace(result, notes=(*notes, *result.notes))


def _census(
    runtime: Runtime | None,
    truth: DetectionDataset,
    judged: list[Judged],
    limits: np.ndarray,
    settings: dict[str, Any],
) -> Census:
    """What each query finds; unless the model is exported, also changes from layer to layer."""
    from dabdetr.evaluation.census import census
    from dabdetr.inference.exported import Exported

    assert runtime is not None
    queries = runtime.config.model.queries
    slots = queries.count * (getattr(queries, "patterns", 0) or 1)
    layers: list[list[Judged]] = []
    if not isinstance(runtime, Exported):
        from dabdetr.evaluation.per_layer import judged_by_layer
        from dabdetr.inference.opening import torch_runtime

        layers = judged_by_layer(torch_runtime(runtime), truth, limits, **settings)
    return census(judged, slots, layers)


def _write_report(
    folder: RunFolder,
    truth: DetectionDataset,
    found: Evaluation,
    limits: np.ndarray,
    runtime: Runtime | None,
    about: dict[str, Any],
    why: ErrorReport | None,
    compared: Comparison | None,
    use: Census | None,
    quiet: bool,
) -> dict[str, Any]:
    """Write the report into ``folder``; returns what it adds to the numbers in the JSON document.

    These are the numbers, ``report``, the path of the page (None if it cannot be written), and
    ``errors``, ``against`` and ``queries`` where they were asked for.
    """
    import yaml

    from dabdetr.report.figures import can_draw
    from dabdetr.report.page import PAGE
    from dabdetr.report.write import write_report

    more: dict[str, Any] = found.to_dict() | {"report": None}
    if why is not None:
        more["errors"] = why.summary
    if compared is not None:
        more["against"] = compared.to_dict(truth)
    about, links = {"verb": "val", **about}, {}
    if runtime is not None:
        config = runtime.config.model_dump(mode="json")
        about["config"] = yaml.safe_dump(config, sort_keys=False)
    try:
        with folder as run:
            if why is not None and any(
                why.diagnosed.errors[at].query is not None for at in why.chosen
            ):
                from dabdetr.explain.gallery import write_pages
                from dabdetr.inference.opening import torch_runtime

                links = write_pages(torch_runtime(runtime), why, run.path)
            tree = write_report(
                run.path, truth, found, limits, about, why, links, None, compared, use
            )
    except OSError as error:
        say(f"no report: {error}", quiet)
        return more
    if not can_draw():
        say(f"no figures: they need matplotlib; type: {install_command('train')}", quiet)
    if use is not None:
        more["queries"] = tree["queries"]
        say(f"census: {use.sentence}", quiet)
    more["report"] = str(folder.path / PAGE)
    return more


def _print(found: Any, document: dict[str, Any], as_json: bool, quiet: bool) -> None:
    """Print the numbers as a JSON document, or as tables."""
    if as_json:
        print_json(document)
    elif not quiet:
        console().print(found.table())


def _print_causes(errors: ErrorReport) -> None:
    if not errors.summary["causes"]:
        say("no errors: every object is found, and every detection shown is right")
        return
    from rich.table import Table

    table = Table(title="errors")
    for column in ("cause", "missed", "false", "AP50 gain"):
        table.add_column(column, justify="left" if column == "cause" else "right")
    for row in errors.summary["causes"]:
        gain = f"{row['AP50']:.3f}"
        table.add_row(row["words"], str(row["missed"]), str(row["false"]), gain)
    console().print(table)
    for sentence in errors.summary["advice"]:
        say(f"advice: {sentence}")
