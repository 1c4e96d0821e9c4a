"""The service: an ASGI application around a ``Predictor``."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client import generate_latest as metrics_text
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import dabdetr
from dabdetr.predictor import Predictor
from dabdetr.serve import kserve
from dabdetr.serve.requests import Body, LimitedBodies
from dabdetr.text import counted, printable, shortened

log = logging.getLogger("dabdetr")

STATIC = Path(__file__).parent / "static"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
MESSAGE = 500
"""Most characters of an error's message."""

Made = TypeVar("Made")


@dataclass(frozen=True)
class Settings:
    """The settings of a service.

    name           the model's name in answers and in KServe's addresses
    body_mib       size of a request's body, and of an image fetched from an address, at most
    body_seconds   time that a request's body may take to come
    parallel       requests that the model works on at the same time
    waiting        requests that may wait for that; more are refused with status 429
    allow_private  whether images are fetched from this machine and from private networks
    """

    name: str
    body_mib: float = 64
    body_seconds: float = 60
    parallel: int = 1
    waiting: int = 32
    allow_private: bool = False


Conf = Annotated[float | None, Query(ge=0, le=1, description="lowest score")]
MaxDet = Annotated[int | None, Query(ge=1, description="maximum number of detections per image")]
Classes = Annotated[list[str] | None, Query(description="only these classes, by name or label")]
Nms = Annotated[
    float | None, Query(gt=0, le=1, description="IoU from which a duplicate is removed")
]
MultiLabel = Annotated[bool, Query(description="every class of a query that scores enough")]


def make_app(predictor: Predictor, settings: Settings) -> FastAPI:
    """The application; every error's answer is ``{"error": "a sentence"}``.

    A damaged image, a box outside of it or an unknown class is status 400; too large a body 413;
    too many requests 429; one that does not come 408.
    """
    app = FastAPI(title=settings.name, version=dabdetr.__version__, redoc_url=None)
    gate, counts = Gate(settings.parallel, settings.waiting), Metrics()
    counts.waiting.set_function(lambda: gate.waiting)
    most = int(settings.body_mib * 2**20)
    app.add_middleware(LimitedBodies, most=most, seconds=settings.body_seconds)
    app.add_middleware(Measured, metrics=counts)
    known = (AnyHTTPException, RequestValidationError, ClientDisconnect, ValueError, OSError)
    for kind in (*known, Exception):
        app.add_exception_handler(kind, _answer_to)

    def body(request: Request) -> Body:
        return Body(request, settings.body_mib, settings.allow_private)

    def detections(images: list[Any], options: dict[str, Any]) -> Any:
        found = list(predictor(images, **options))
        counts.images.inc(len(found))
        return found

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(STATIC / "page.html", headers=PAGE_HEADERS)

    app.mount("/static", StaticFiles(directory=STATIC), "static")

    @app.get("/model")
    def model() -> dict[str, Any]:
        """Name, classes and defaults of the model."""
        return about(predictor, settings.name)

    @app.post("/detect", openapi_extra=_body_of("images"))
    async def detect(
        request: Request,
        conf: Conf = None,
        max_det: MaxDet = None,
        classes: Classes = None,
        nms: Nms = None,
        multi_label: MultiLabel = False,
    ) -> JSONResponse:
        """Objects in images: the body is an image file, a form with files, or JSON."""
        given = await body(request).read()
        options = {"conf": conf, "max_det": max_det, "nms": nms, "multi_label": multi_label}
        options["classes"] = classes and _named(classes, predictor.names)

        def work() -> dict[str, Any]:
            images, names = given.images()
            rows = [each.to_dict() for each in detections(images, options)]
            for row, name in zip(rows, names, strict=True):
                row["source"] = name
            return {"model": settings.name, "images": rows}

        return JSONResponse(await gate.run(work))

    @app.post("/ask", openapi_extra=_body_of("image, boxes, labels and sizes"))
    async def ask(request: Request, conf: Conf = None) -> JSONResponse:
        """What is at each of some boxes or clicks of one image, and where it ends."""
        given = await body(request).read()

        def work() -> dict[str, Any]:
            predictor.runtime.check_questions()
            asked = given.questions()
            answers = predictor.ask(asked.image, asked.boxes, asked.labels, asked.sizes, conf)
            counts.images.inc()
            document = answers.to_dict()
            known = answers.detections.to_dict()["detections"]
            layers = answers.layers.astype(float).round(2).transpose(1, 0, 2).tolist()
            for row, of_row in zip(document["answers"], layers, strict=True):
                found = row.pop("found")
                row |= {"detection": known[found] if found >= 0 else None, "layers": of_row}
            return {"model": settings.name, **document, "source": asked.name}

        return JSONResponse(await gate.run(work))

    async def infer(request: Request) -> Response:
        content = await body(request).content()
        header = request.headers.get(kserve.HEADER_LENGTH)

        def work() -> tuple[bytes, dict[str, str]]:
            asked = kserve.read_request(content, header)
            found = detections(asked.images, asked.options)
            return kserve.write_answer(asked, found, settings.name)

        answer, headers = await gate.run(work)
        return Response(answer, headers=headers)

    kserve.add_routes(app, settings.name, infer)

    @app.get("/healthz")
    @app.get("/readyz")
    def healthy() -> dict[str, str]:
        """The service runs, with its model loaded."""
        return {"status": "ok"}

    @app.get("/metrics")
    def metrics() -> Response:
        """Counts and times for Prometheus."""
        return Response(metrics_text(counts.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def about(predictor: Predictor, name: str) -> dict[str, Any]:
    """The answer of ``GET /model``."""
    config = predictor.config
    try:
        predictor.runtime.check_questions()
        asks = True
    except ValueError:
        asks = False
    return {
        "model": name,
        "version": dabdetr.__version__,
        "classes": list(predictor.names),
        "conf": config.inference.conf,
        "class_conf": config.inference.class_conf,
        "max_det": config.inference.max_det,
        "image_size": config.image.size,
        "questions": asks,
    }


def _named(classes: Sequence[str], names: Sequence[str]) -> list[str | int]:
    """Class names unchanged; numbers that are not a class name as labels."""
    return [int(each) if each not in names and each.isdecimal() else each for each in classes]


def _body_of(fields: str) -> dict[str, Any]:
    """The OpenAPI description of a body that FastAPI does not parse."""
    kinds = {
        "image/*": {"type": "string", "format": "binary"},
        "multipart/form-data": {"type": "object", "description": f"files and fields: {fields}"},
        "application/json": {"type": "object", "description": f"keys: {fields}"},
    }
    content = {kind: {"schema": schema} for kind, schema in kinds.items()}
    return {"requestBody": {"required": True, "content": content}}


class Gate:
    """Lets some requests compute at the same time and some wait; the others are refused."""

    def __init__(self, parallel: int, waiting: int) -> None:
        import asyncio

        self._most = parallel + waiting
        self._parallel, self._inside = parallel, 0
        self._places = asyncio.Semaphore(parallel)

    @property
    def waiting(self) -> int:
        """Requests that wait now."""
        return max(0, self._inside - self._parallel)

    async def run(self, work: Callable[[], Made]) -> Made:
        """The result of ``work``, run in a thread; status 429 where too many requests wait."""
        if self._inside >= self._most:
            limit = counted(self._most, "request")
            raise HTTPException(
                429,
                f"at most {limit} at a time, all being answered; try again",
                {"Retry-After": "1"},
            )
        self._inside += 1
        try:
            async with self._places:
                return await run_in_threadpool(work)
        finally:
            self._inside -= 1


class Metrics:
    """Counts and times of one service."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self.requests = Counter(
            "dabdetr_requests", "Answered requests", ("route", "status"), registry=own
        )
        self.seconds = Histogram(
            "dabdetr_request_seconds", "Time to answer", ("route",), registry=own
        )
        self.images = Counter("dabdetr_images", "Images that the model has seen", registry=own)
        self.waiting = Gauge("dabdetr_waiting_requests", "Requests that wait", registry=own)


class Measured:
    """ASGI middleware: counts each answer by its route; unknown addresses share one row."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            if scope["type"] == "http":
                route = getattr(scope.get("route"), "path", "unknown")
                self.metrics.requests.labels(route, status).inc()
                self.metrics.seconds.labels(route).observe(time.perf_counter() - begun)


async def _answer_to(request: Request, error: Exception) -> JSONResponse:
    """An error as JSON; an internal error is logged and answered without details."""
    status, headers, message = 400, None, str(error)
    if isinstance(error, AnyHTTPException):
        status, headers, message = error.status_code, error.headers, str(error.detail)
        if message in ("Not Found", "Method Not Allowed"):
            message = f"there is no {request.method} {request.url.path}; /docs lists all routes"
    elif isinstance(error, RequestValidationError):
        first = error.errors()[0]
        message = f"{'.'.join(str(part) for part in first['loc'][1:])}: {first['msg']}"
    elif isinstance(error, ClientDisconnect):
        message = "the body did not come whole"
    elif not isinstance(error, ValueError | OSError):
        status, message = 500, "the service failed; its log says how"
        debug = bool(os.environ.get("DABDETR_DEBUG"))
        log.error("%s %s: %r", request.method, request.url.path, error, exc_info=debug)
    return JSONResponse({"error": shortened(printable(message), MESSAGE)}, status, headers)
