"""`dabdetr serve`: a model as an HTTP service, with a page to try it."""

from __future__ import annotations

import re
import socket
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated

import typer

from dabdetr.cli import options
from dabdetr.cli.output import say
from dabdetr.packages import lacking
from dabdetr.runs import interruptible
from dabdetr.text import reason


def serve(
    context: typer.Context,
    weights: options.ModelArgument = None,
    model: options.ModelOrNone = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")
    ] = 8000,
    name: Annotated[
        str | None,
        typer.Option(help="The model's name in answers and addresses; by its file if not given."),
    ] = None,
    max_body: Annotated[
        float, typer.Option(min=0.01, help="Largest body of a request, in MiB.", metavar="MIB")
    ] = 64,
    parallel: Annotated[
        int, typer.Option(min=1, help="Requests that the model works on at the same time.")
    ] = 1,
    waiting: Annotated[
        int, typer.Option(min=0, help="Requests that may wait; more are refused (status 429).")
    ] = 32,
    allow_private: Annotated[
        bool,
        typer.Option(
            "--allow-private",
            help="Also fetch images from addresses of this machine and of private networks.",
        ),
    ] = False,
    imgsz: options.ImageSize = None,
    queries: options.Queries = None,
    queries_init: options.QueriesInit = "keep",
    layers: options.Layers = None,
    device: options.Device = "auto",
    precision: options.SetPrecision = "fp32",
    compile: options.Compile = False,
    quiet: options.Quiet = False,
) -> None:
    """Answer requests over HTTP, with a page to try the model.

    The page is at /. To send an image to /detect:

    curl --data-binary @photo.jpg http://127.0.0.1:8000/detect

    /ask takes boxes or clicks; /v2 is KServe's protocol, which Triton's clients use; /metrics is
    for Prometheus, and /docs describes all routes. Anyone who reaches the address may ask: there is
    no password. Ctrl-C stops the service after the requests that are being answered.
    """
    source = options.one_of(weights, model, "model")
    if source is None:
        raise ValueError("no model was given: dabdetr serve MODEL")
    service = name if name is not None else _default_name(source)
    if not re.fullmatch(r"[\w.-]{1,100}", service):
        raise ValueError(
            "--name should be 1 to 100 letters, digits, dots, underscores or hyphens; "
            f"got {service!r}"
        )
    try:
        from dabdetr.serve.app import Settings, make_app
        from dabdetr.serve.connections import make_server
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in (
            *("fastapi", "uvicorn", "h11", "starlette", "multipart", "python_multipart"),
            "prometheus_client",
        ):
            raise
        raise lacking("serving", str(error.name), "serve") from None
    from dabdetr.predictor import Predictor

    options.tell_choices(quiet)
    listening = _listen(host, port)
    with closing(listening):
        predictor = Predictor(source, **options.opening(context.params))
        settings = Settings(
            service, max_body, parallel=parallel, waiting=waiting, allow_private=allow_private
        )
        app = make_app(predictor, settings)
        address, number = listening.getsockname()[:2]
        bracketed = f"[{address}]" if ":" in address else address
        say(f"serving {service} at http://{bracketed}:{number}; Ctrl-C stops it", quiet)
        with suppress(KeyboardInterrupt), interruptible():
            make_server(app).run(sockets=[listening])
        sys.stdout.flush()
    say("stopped", quiet)


def _default_name(source: str) -> str:
    """The name of the model's file; of the run folder for the files ``best`` and ``last``."""
    path = Path(source)
    stem = path.stem if path.suffix in (".safetensors", ".onnx", ".pt2", ".xml") else path.name
    if stem in ("best", "last", "model") and path.absolute().parent.name:
        stem = path.absolute().parent.name
    return re.sub(r"[^\w.-]+", "-", stem).strip("-") or "model"


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens at the address; OSError, with what to change, where it cannot."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return socket.create_server(found[0][4][:2], family=found[0][0])
    except (OSError, UnicodeError) as error:
        raise OSError(
            f"cannot listen at {host}:{port}: {reason(error)}; choose another --port or --host"
        ) from None
