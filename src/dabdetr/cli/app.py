"""The command `dabdetr`: its group of verbs, and the one place where errors become sentences.

Exit codes: 0 fine; 1 findings; 2 usage or input; 3 cannot run here; 70 a fault of dabdetr itself;
130 interrupted.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import dabdetr
from dabdetr.packages import explained
from dabdetr.text import Lines, printable, refuse_exhausted, shortened

DEBUG = "DABDETR_DEBUG"

RETIRED = {
    "bench": {"--pictures": "--images"},
    "demo": {"--pictures": "--images"},
    "export": {"--pictures": "--images"},
}
"""Verb → old spelling of an option → the one of today; old ones are accepted for one release."""

ELSEWHERE = {
    "--batch-size": "--batch",
    "--bs": "--batch",
    "--checkpoint": "--model",
    "--confidence": "--conf",
    "--conf-thres": "--conf",
    "--cfg": "--config",
    "--dataset": "--data",
    "--early-stopping": "--patience",
    "--epoch": "--epochs",
    "--fp16": "--half",
    "--image-size": "--imgsz",
    "--img": "--imgsz",
    "--img-size": "--imgsz",
    "--input": "--source",
    "--iou": "--nms",
    "--iou-thres": "--nms",
    "--learning-rate": "--lr",
    "--lr0": "--lr",
    "--num-queries": "--queries",
    "--num-workers": "--workers",
    "--pretrained": "--from",
    "--resolution": "--imgsz",
    "--save-dir": "--output",
    "--score-thr": "--conf",
    "--threshold": "--conf",
    "--weights": "--model",
}
"""Options of other tools → ours, where the verb has it."""

ANSWERS = {
    "--amp": "training computes in bf16 where that is faster; --set training.precision=bf16 or "
    "=fp32 chooses (predict, val: --precision)",
    "--augment": "--set augment.flip=0.5 and the like change it, --set augment=none ends it",
    "--cache": "images are read and prepared ahead by --workers processes",
    "--cos-lr": "the schedule is the config's: --set training.schedule=cosine",
    "--freeze": "say what is trained instead: --only queries --only decoder.heads; --set "
    "training.backbone_lr=0 keeps the backbone as it is",
    "--lrf": "the schedule is the config's: --set training.schedule=cosine",
    "--nc": "class names and their number are read from the data",
    "--num-classes": "class names and their number are read from the data",
    "--optimizer": "the optimizer is AdamW; --lr and --set training.weight_decay=1e-4 change it",
    "--exist-ok": "nothing is overwritten; choose another --name",
    "--show": "images with boxes are written to the run's folder; in Python: found.show()",
    "--verbose": "progress is printed unless --quiet is given; DABDETR_DEBUG=1 shows tracebacks",
}
"""Options of other tools that have no counterpart → what to do instead."""


def respelled(arguments: list[str], group: Any = None) -> list[str]:
    """The command line with options of old versions and of other tools under our names.

    A note names each. ``group`` holds the verbs; ValueError answers options of ``ANSWERS``.
    """
    verb, command = _command(arguments, group)
    known = {each for parameter in getattr(command, "params", ()) for each in parameter.opts}
    ends = arguments.index("--") if "--" in arguments else len(arguments)
    found = []
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        spelled = normalised(option)
        if place < ends and option.startswith("--"):
            current = RETIRED.get(verb, {}).get(spelled)
            if current is not None:
                print(f"note: {option} is called {current} now", file=sys.stderr)
                argument = current + equals + value
            elif spelled not in known and ELSEWHERE.get(spelled) in known:
                current = ELSEWHERE[spelled]
                print(f"note: {option} is {current} here", file=sys.stderr)
                argument = current + equals + value
            elif spelled not in known and spelled in ANSWERS and known:
                raise ValueError(f"there is no option {option}: {ANSWERS[spelled]}")
        found.append(argument)
    return found


def _command(arguments: list[str], group: Any) -> tuple[str, Any]:
    """The verb's name, and its command where ``group`` has it (that of `data stats` is stats)."""
    names = [normalised(each) for each in arguments if not each.startswith("-")]
    command = group
    for name in names:
        inner = getattr(command, "commands", {}).get(name)
        if inner is None:
            break
        command = inner
    return (names[0] if names else ""), command


def normalised(token: str) -> str:
    """The name of a verb or an option in any case, with underscores or hyphens."""
    return token.lower().replace("_", "-") if len(token) > 2 else token


class Unfinished(Exception):
    """What a verb has done before it was stopped and keeps; the cause says what stopped it."""


class _Verbs(TyperGroup):
    """Runs a verb; what it raises becomes one sentence on stderr and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As always, with the spellings of old versions and other tools replaced."""
        try:
            args = respelled(args, self)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        _show_help(ctx, args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb that ``ctx`` names."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except (Exception, KeyboardInterrupt) as error:
            # Usage errors and exits are typer's own; it prints and exits with 2 itself.
            if type(error).__module__.startswith(("typer", "click")) or os.environ.get(DEBUG):
                raise
            code, message = _explain(error)
            if message:
                print(message if code == 130 else f"error: {message}", file=sys.stderr)
            if isinstance(error, Unfinished):
                print(printable(str(error)), file=sys.stderr)
            raise SystemExit(code) from None


def _show_help(ctx: Any, arguments: list[str]) -> None:
    """Print the help of the verb that is asked for it, and end.

    typer would load pydantic first, to read options: a quarter of the time that help takes.
    """
    ends = arguments.index("--") if "--" in arguments else len(arguments)
    if not {"-h", "--help"} & set(arguments[:ends]):
        return
    for name in arguments:
        verbs = getattr(ctx.command, "commands", None)
        if verbs is None or name.startswith("-"):
            break
        if normalised(name) not in verbs:
            return  # typer says which are there
        verb = verbs[normalised(name)]
        if verb.context_settings.get("help_option_names") == []:  # it passes all arguments on
            return
        ctx = typer.Context(verb, parent=ctx, info_name=name)
    typer.echo(ctx.get_help())
    raise SystemExit(0)


def _explain(error: BaseException) -> tuple[int, str]:
    """Exit code and sentence."""
    if isinstance(error, Unfinished):
        assert error.__cause__ is not None
        code, message = _explain(error.__cause__)
        return 1 if code == 2 else code, message
    lines = error.lines if isinstance(error, Lines) else (str(error).strip(),)
    message = "\n".join(shortened(printable(line)) for line in lines)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, BrokenPipeError):  # such as `dabdetr … | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1, ""  # as rich does
    if isinstance(error, ImportError):
        return 3, printable(explained(error))
    try:
        refuse_exhausted(error)
    except MemoryError as exhausted:
        return 3, f"out of memory ({exhausted}); lower --batch, --imgsz or --queries"
    if isinstance(error, MemoryError):
        return 3, f"out of memory ({message}); lower --batch, --imgsz or --queries"
    if isinstance(error, OSError) and error.strerror and error.filename:
        named = shortened(printable(str(error.filename)), 300)
        return 2, f"{named}: {error.strerror.lower()}"
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
    """Train DAB-DETR on your boxes, detect with it, evaluate it."""
