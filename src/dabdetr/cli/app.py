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
from dabdetr.text import Lines, printable, refuse_exhausted, shortened

DEBUG = "DABDETR_DEBUG"

RETIRED = {
    "bench": {"--pictures": "--images"},
    "demo": {"--pictures": "--images"},
    "export": {"--pictures": "--images"},
}
"""Verb → old spelling of an option → the one of today; old ones are accepted for one release."""


def respelled(arguments: list[str]) -> list[str]:
    """The command line with retired options under their names of today; a note names each."""
    verb = next((each for each in arguments if not each.startswith("-")), "")
    ends = arguments.index("--") if "--" in arguments else len(arguments)
    found = []
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        current = RETIRED.get(verb, {}).get(option)
        if current is not None and place < ends:
            print(f"note: {option} is called {current} now", file=sys.stderr)
            argument = current + equals + value
        found.append(argument)
    return found


class Unfinished(Exception):
    """What a verb has done before it was stopped and keeps; the cause says what stopped it."""


class _Verbs(TyperGroup):
    """Runs a verb; what it raises becomes one sentence on stderr and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As always, with retired spellings replaced."""
        return super().parse_args(ctx, respelled(args))

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
        return 3, message
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
    context_settings={"help_option_names": ["-h", "--help"]},
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
