"""The command `dabdetr`: its group of verbs, and messages and exit codes of errors.

Exit codes: 0 fine; 1 findings; 2 usage or input; 3 cannot run here; 70 a fault of dabdetr itself;
130 interrupted.
"""

from __future__ import annotations

import copy
import inspect
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import dabdetr
from dabdetr.packages import explained
from dabdetr.text import Lines, exhausted, printable, reason, shortened, wrapped

DEBUG = "DABDETR_DEBUG"

RETIRED = {
    "bench": {"--pictures": "--images"},
    "demo": {"--pictures": "--images"},
    "export": {"--pictures": "--images"},
}
"""Verb → earlier name of an option → present name; earlier names are accepted for one release."""

VERBS = {
    theirs: ours
    for ours, every in {
        "bench": "benchmark",
        "predict": "detect infer inference",
        "val": "eval evaluate report test validate",
        "train": "finetune fit",
    }.items()
    for theirs in every.split()
}
"""Verbs of other tools → ours."""

ELSEWHERE = {
    theirs: ours
    for ours, every in {
        "--batch": "--batch-size --bs",
        "--config": "--cfg --config-file",
        "--model": "--checkpoint --ckpt --weights",
        "--conf": "--conf-thres --conf-threshold --confidence "
        "--confidence-threshold --score-thr --score-threshold --threshold",
        "--data": "--data-dir --dataset --dataset-dir --dataset-path",
        "--patience": "--early-stopping",
        "--epochs": "--epoch --num-epochs",
        "--half --precision=fp16": "--fp16",
        "--device": "--gpu",
        "--precision=fp16": "--half",
        "--source": "--image --input",
        "--imgsz": "--image-size --img --img-size --input-size --resolution",
        "--nms": "--iou --iou-thres --iou-threshold",
        "--lr": "--learning-rate --lr0",
        "--log": "--logger",
        "--max-det": "--max-detections --top-k",
        "--queries": "--num-queries",
        "--workers": "--num-workers",
        "--output": "--out --out-dir --output-dir --output-file --save-dir",
        "--from": "--pretrained",
        "--tiles": "--sahi",
        "--stride": "--vid-stride",
    }.items()
    for theirs in every.split()
}
"""Options of other tools → our options; the first that the verb has is used."""

ANSWERS = {
    "--accumulate": "--set training.effective_batch=16 says how many images make an update",
    "--agnostic-nms": "--nms compares boxes of one class only",
    "--amp": "training computes in bf16 where that is faster; --set training.precision=bf16 or "
    "=fp32 chooses (predict, val: --precision)",
    "--augment": "--set augment.flip=0.5 and the like change it, --set augment=none ends it",
    "--cache": "images are read and prepared ahead by --workers processes",
    "--close-mosaic": "mosaics are not made; --set augment.crop=0.5 and the like change images",
    "--cos-lr": "the schedule is the config's: --set training.schedule=cosine",
    "--dynamic": "an exported file takes any batch and image size unless --size is given",
    "--ema": "--set training.ema=0.999 keeps averaged weights, --set training.ema=null does not",
    "--exist-ok": "nothing is overwritten; choose another --name",
    "--freeze": "say what is trained instead: --only queries --only decoder.heads; --set "
    "'training.lr_factors={backbone: 0}' keeps parts as they are, by name",
    "--gpus": "--device cuda:1 chooses one; `torchrun --nproc-per-node 4 -m dabdetr train` uses "
    "several",
    "--grad-accum-steps": "--set training.effective_batch=16 says how many images make an update",
    "--lrf": "the schedule is the config's: --set training.schedule=cosine",
    "--mode": "the verb says it: dabdetr train, val, predict or export",
    "--momentum": "the optimizer is AdamW; --lr and --set training.weight_decay=1e-4 change it",
    "--mosaic": "mosaics are not made; --set augment.crop=0.5 and the like change images",
    "--nc": "class names and their number are read from the data",
    "--num-classes": "class names and their number are read from the data",
    "--optimizer": "the optimizer is AdamW; --lr and --set training.weight_decay=1e-4 change it",
    "--plots": "figures are written to the run's folder, with report.html",
    "--save-json": "--coco FILE writes a COCO results file, --json prints a document",
    "--show": "images with boxes are written to the run's folder; in Python: found.show()",
    "--simplify": "the graph is simplified when it is written",
    "--stream": "images are always read one after the other, so a folder of any size fits",
    "--task": "the task is detection; the verb says what is done: dabdetr train, val or predict",
    "--tensorboard": "--log tensorboard writes its files",
    "--verbose": "progress is printed unless --quiet is given; DABDETR_DEBUG=1 shows tracebacks",
    "--view-img": "images with boxes are written to the run's folder; in Python: found.show()",
    "--wandb": "--log wandb writes to it",
    "--warmup": "--set training.warmup=200 says how many updates it lasts",
    "--warmup-epochs": "--set training.warmup=200 says how many updates it lasts",
    "--weight-decay": "--set training.weight_decay=1e-4",
    "data stats --output": "--plot FILE writes a figure, --json prints a document",
    "doctor --output": "--fix FOLDER writes a repaired copy, --html FILE a page",
    "train --conf": "AP takes all scores; --set inference.conf=0.4 is the weights' threshold",
    "train --nms": "--set inference.nms=0.7 is that of the weights; predict and val have --nms",
    "train --precision": "--set training.precision=fp16, bf16 or fp32; by itself training "
    "computes in bf16 where that is faster",
    "val --conf": "AP takes all scores; the report has the best threshold of each class, and "
    "--calibrate FILE writes weights with them",
}
"""Options of other tools without a counterpart, in all verbs or in one → what to do instead."""

TYPES = {"int": "N", "float": "X", "str": "TEXT", "path": "PATH"}
"""Type of a value → its name in the help."""

ARGUMENTS = {"--data", "--images", "--model", "--source"}
"""Options for which some verbs have an argument instead; where it is their first, both do."""


def respelled(arguments: list[str], group: Any = None) -> list[str]:
    """The command line with verbs and options of earlier versions and other tools replaced by ours.

    A note is printed for each. ``group`` has the verbs. ValueError, with what to do instead, for
    options without a counterpart.
    """
    verbs = getattr(group, "commands", {})
    verb = normalised(arguments[0]) if arguments else ""
    if verb not in verbs and VERBS.get(verb) in verbs:
        print(f"note: {arguments[0]} is {VERBS[verb]} here", file=sys.stderr)
        arguments = [VERBS[verb], *arguments[1:]]
    name, command = _command(arguments, group)
    if name and group is not None and command is group:  # an unknown verb: click reports it
        return arguments
    known = {each for parameter in getattr(command, "params", ()) for each in parameter.opts}
    arguments = _as_argument(arguments, command, known)
    ends = arguments.index("--") if "--" in arguments else len(arguments)
    replaced = []
    for index, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        spelled = normalised(option)
        if index < ends and option.startswith("--"):
            current = RETIRED.get(name, {}).get(spelled)
            if current is not None:
                print(f"note: {option} is called {current} now", file=sys.stderr)
                argument = current + equals + value
            elif known and spelled not in known:
                current = _our_option(spelled, known)
                if current is None:
                    _refuse(spelled, option, command, group)
                else:
                    print(f"note: {option} is {current} here", file=sys.stderr)
                    argument = current + equals + value
        elif index < ends and argument == "-o" and known and "-o" not in known:
            _refuse("--output", option, command, group)
        elif index < ends and equals and known and not replaced[-1].startswith("-"):
            current = _our_option(f"--{spelled}", known)
            if current is not None and option.isidentifier() and not os.path.exists(argument):
                raise ValueError(f"{argument} is {current} {value} here: options begin with --")
        replaced.append(argument)
    return replaced


def _as_argument(arguments: list[str], command: Any, known: set[str]) -> list[str]:
    """The command line with the value of an option of ``ARGUMENTS`` as the verb's first argument.

    So `doctor --data X` is `doctor X`; unchanged where the verb has the option.
    """
    first = next(
        (p for p in getattr(command, "params", ()) if p.param_type_name == "argument"), None
    )
    own = f"--{first.name}" if first else ""
    if own not in ARGUMENTS - known:
        return arguments
    for index, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if argument == "--":
            break
        if own in (normalised(option), *ELSEWHERE.get(normalised(option), "").split()):
            rest = arguments[index + 1 :]
            if equals or rest:
                value, rest = (value, rest) if equals else (rest[0], rest[1:])
                start = [normalised(each) for each in arguments].index(command.name) + 1
                return [*arguments[:start], value, *arguments[start:index], *rest]
    return arguments


def _our_option(spelled: str, known: set[str]) -> str | None:
    """Our name of another tool's option, if the verb has it."""
    candidates = ELSEWHERE.get(spelled, spelled).split()
    return next((each for each in candidates if each.partition("=")[0] in known), None)


def _refuse(spelled: str, option: str, command: Any, group: Any) -> None:
    """ValueError, with what to use instead, for an option that the verb does not have.

    Returns for options of which nothing is known; click reports those.
    """
    name = _verb_name(command, group)
    meant = [*ELSEWHERE.get(spelled, "").split(), spelled]
    meant = [each.partition("=")[0] for each in meant]
    for each in [*(f"{name} {each}" for each in meant), *meant]:
        if each in ANSWERS:
            raise ValueError(f"there is no option {option} in {name}: {ANSWERS[each]}")
    takes_arguments = any(each.param_type_name == "argument" for each in command.params)
    if takes_arguments and ARGUMENTS.intersection(meant):
        usage = " ".join(command.collect_usage_pieces(typer.Context(command)))
        raise ValueError(f"there is no option {option} in {name}: type dabdetr {name} {usage}")
    other_verbs = [
        verb
        for verb, each in sorted(group.commands.items())
        if not each.hidden
        and any(option in parameter.opts for parameter in each.params for option in meant)
    ]
    if other_verbs:
        raise ValueError(
            f"there is no option {option} in {name}, but in {', '.join(other_verbs)}; "
            f"`dabdetr {name} --help` lists those that there are"
        )


def _verb_name(command: Any, group: Any) -> str:
    """The verb as a user types it: train, or data stats."""
    for name, each in group.commands.items():
        if each is command:
            return name
        if command in getattr(each, "commands", {}).values():
            return f"{name} {command.name}"
    return ""


def _command(arguments: list[str], group: Any) -> tuple[str, Any]:
    """The first word, and the innermost command that the words name (for `data stats`, stats).

    The command is ``group`` where the first word is no verb of it.
    """
    names = [normalised(each) for each in arguments if not each.startswith("-")]
    command = group
    for name in names:
        inner = getattr(command, "commands", {}).get(name)
        if inner is None:
            break
        command = inner
    return (names[0] if names else ""), command


def normalised(token: str) -> str:
    """A verb or an option in lower case and with hyphens for underscores."""
    return token.lower().replace("_", "-") if len(token) > 2 else token


class Unfinished(Exception):
    """A verb was stopped by the cause and keeps its results, which the message describes."""


class _Verb(TyperCommand):
    """A verb whose help leaves most of each line to what an option does."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help without types of flags and without limits of numbers."""
        shown = copy.copy(self)
        shown.params = []
        for parameter in self.get_params(ctx):
            short = copy.copy(parameter)
            short.min = short.max = None  # pyright: ignore[reportAttributeAccessIssue]
            if short.metavar is None and parameter.param_type_name == "option":
                kind = parameter.bare_type().removeprefix("list[").removesuffix("]")  # pyright: ignore
                short.metavar = TYPES.get(kind.partition(" ")[0].lower(), "")
            shown.params.append(short)
        shown.add_help_option = False
        super(_Verb, shown).format_help(ctx, formatter)


def add_verb(group: typer.Typer, verb: Callable[..., Any], heading: str | None = None) -> None:
    """Add a verb to a group, below a heading of the group's help."""
    text = inspect.cleandoc(verb.__doc__ or "")
    paragraphs = [" ".join(each.split()) for each in text.split("\n\n")]
    group.command(cls=_Verb, help="\n\n".join(paragraphs), rich_help_panel=heading)(verb)


class _Verbs(TyperGroup):
    """Runs a verb; its errors become one sentence on stderr and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line after replacing names of earlier versions and other tools."""
        try:
            args = respelled(args, self)
        except ValueError as error:
            print(wrapped(f"error: {error}", sys.stderr), file=sys.stderr)
            raise SystemExit(2) from None
        _show_help(ctx, args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            _shorten(error)
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run the verb of ``ctx``."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except (Exception, KeyboardInterrupt) as error:
            # typer prints its usage errors itself, and exits with 2
            if type(error).__module__.startswith(("typer", "click")) or os.environ.get(DEBUG):
                _shorten(error)
                raise
            code, message = _explain(error)
            if message:
                line = message if code == 130 else f"error: {message}"
                print(wrapped(line, sys.stderr), file=sys.stderr)
            if isinstance(error, Unfinished):
                print(wrapped(printable(str(error)), sys.stderr), file=sys.stderr)
            raise SystemExit(code) from None


def _shorten(error: Any) -> None:
    """Shorten the message of a usage error, which typer prints itself."""
    if hasattr(error, "message"):
        error.message = shortened(printable(str(error.message)), 300)


def _show_help(ctx: Any, arguments: list[str]) -> None:
    """If the command line has --help, print the help of its verb and exit.

    typer would first import pydantic to parse the options, a quarter of the time of this command.
    """
    ends = arguments.index("--") if "--" in arguments else len(arguments)
    if not {"-h", "--help"} & set(arguments[:ends]):
        return
    for name in arguments:
        verbs = getattr(ctx.command, "commands", None)
        if verbs is None or name.startswith("-"):
            break
        if normalised(name) not in verbs:
            return  # an unknown verb: typer reports it
        verb = verbs[normalised(name)]
        if verb.context_settings.get("help_option_names") == []:  # passes its arguments on
            return
        ctx = typer.Context(verb, parent=ctx, info_name=name)
    typer.echo(ctx.get_help())
    raise SystemExit(0)


def _explain(error: BaseException) -> tuple[int, str]:
    """Exit code and message of an error."""
    if isinstance(error, Unfinished):
        assert error.__cause__ is not None
        code, message = _explain(error.__cause__)
        return 1 if code == 2 else code, message
    lines = error.lines if isinstance(error, Lines) else (str(error).strip(),)
    message = "\n".join(shortened(printable(line)) for line in lines)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, BrokenPipeError):  # the reader has ended, as in `dabdetr … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1, ""  # like rich
    if isinstance(error, ImportError):
        return 3, printable(explained(error))
    if full := exhausted(error):
        return 3, f"out of memory ({reason(full)}); lower --batch, --imgsz or --queries"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return 2, f"{shortened(printable(str(error.filename)), 300)}: {reason(error)}"
    if isinstance(error, ValueError | OSError):
        return 2, message
    return 70, f"{type(error).__name__}: {message} (a fault of dabdetr; {DEBUG}=1 shows where)"


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": normalised,
    },
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"dabdetr {dabdetr.__version__}")
        raise typer.Exit


@app.callback()
def dabdetr_(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train DAB-DETR on your boxes, evaluate it, detect with it. To try it: dabdetr demo"""
