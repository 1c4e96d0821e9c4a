"""Reading of request bodies within limits: image files, addresses, boxes."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dabdetr.inference.downloads import SCHEMES, Limits, fetch
from dabdetr.text import shortened

HOW = (
    "send an image file as the body, a form with files called image, or JSON such as "
    '{"image": "<base64 or an http address>"}'
)


AT_ONCE = 8
"""Bodies of the largest size that may come, or wait to be answered, at the same time."""
MOST_IMAGES = 1000
"""Most images of one request, and most files of a form."""


def check_count(images: int) -> None:
    """ValueError for a request with more than ``MOST_IMAGES`` images."""
    if images > MOST_IMAGES:
        raise ValueError(f"at most {MOST_IMAGES:,} images are taken at once; send more requests")


class LimitedBodies:
    """ASGI middleware that ends a request whose body is larger than ``most`` bytes, or takes
    longer than ``seconds`` to come; or where the bodies of all are larger than ``AT_ONCE`` such."""

    def __init__(self, app: ASGIApp, most: int, seconds: float) -> None:
        self.app, self.most, self.seconds = app, most, seconds
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        seen, whole = 0, False
        end = time.monotonic() + self.seconds

        async def limited() -> Message:
            nonlocal seen, whole
            try:  # what comes after the body is the end of the connection
                left = None if whole else max(0.0, end - time.monotonic())
                message = await asyncio.wait_for(receive(), left)
            except TimeoutError:
                late = f"the body did not come within {self.seconds:g} seconds"
                raise HTTPException(408, late, {"Connection": "close"}) from None
            whole = not message.get("more_body", False)
            seen += len(message.get("body", b""))
            self._held += len(message.get("body", b""))
            if seen > self.most:
                raise HTTPException(413, f"the body is larger than {self.most / 2**20:g} MiB")
            if self._held > AT_ONCE * self.most:
                busy = "the bodies of all requests are larger than may come at a time; try again"
                raise HTTPException(429, busy, {"Retry-After": "1", "Connection": "close"})
            return message

        try:
            await self.app(scope, limited, send)
        finally:
            self._held -= seen


@dataclass(frozen=True)
class Question:
    """One image and the questions about it, as arguments of ``Predictor.ask``."""

    image: Any
    name: str
    boxes: Any
    labels: Any
    sizes: Any


@dataclass
class Body:
    """The body of a request: call ``read`` first, then ``images`` or ``questions``.

    files   (content, file name) of image files
    fields  the other fields of a form, or of a JSON object
    """

    request: Request
    mib: float
    allow_private: bool
    files: list[tuple[bytes, str]] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)

    async def content(self) -> bytes:
        """The raw bytes."""
        return await self.request.body()

    async def read(self) -> Body:
        """Parse the body by its content type; HTTPException where that fails."""
        kind = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            most = int(self.mib * 2**20)
            async with self.request.form(max_part_size=most) as form:
                for name, value in form.multi_items():
                    if isinstance(value, UploadFile):
                        self.files.append((await value.read(), value.filename or ""))
                    else:
                        self.fields[name] = value
        elif kind == "application/json":
            self.fields = _object(await self.content())
        elif content := await self.content():
            self.files.append((content, ""))
        return self

    def images(self) -> tuple[list[Any], list[str]]:
        """The images for a ``Predictor`` and their names; addresses are fetched here."""
        found = [BytesIO(content) for content, _ in self.files]
        names = [name for _, name in self.files]
        given = self.fields.get("images", self.fields.get("image", []))
        given = given if isinstance(given, list) else [given]
        check_count(len(found) + len(given))
        for each in given:
            content, name = self._content(each)
            found.append(BytesIO(content))
            names.append(name)
        if not found:
            raise ValueError(f"no image came; {HOW}")
        return found, names

    def questions(self) -> Question:
        """The image and the questions about it; ValueError where boxes are missing."""
        images, names = self.images()
        if len(images) != 1:
            raise ValueError(f"a question is about one image; got {len(images)}")
        boxes, labels, sizes = (self._values(name) for name in ("boxes", "labels", "sizes"))
        if boxes is None:
            raise ValueError(
                "no boxes came; send boxes as [[x0, y0, x1, y1], …] or clicks as [[x, y], …], in "
                "pixels of the image"
            )
        return Question(images[0], names[0], boxes, labels, sizes)

    def _values(self, name: str) -> Any:
        """The list in a field; in a form it is JSON text."""
        value = self.fields.get(name)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise ValueError(f"{name} is no JSON list; got {shortened(value, 60)}") from None
        if value is not None and not isinstance(value, list):
            raise ValueError(f"{name} should be a list; got {type(value).__name__}")
        return value

    def _content(self, given: Any) -> tuple[bytes, str]:
        """An image's bytes and name, from base64 text, a data address or an http address."""
        if not isinstance(given, str):
            raise ValueError(f"an image should be text; got {type(given).__name__}; {HOW}")
        if given.startswith(SCHEMES):
            limits = Limits(mib=self.mib, private=self.allow_private)
            return fetch(given, limits), given
        text = given.partition(",")[2] if given.startswith("data:") else given
        return from_base64(text, "an image is neither base64 nor an http address"), ""


def from_base64(text: Any, fault: str) -> bytes:
    """The content of a file in base64; ValueError, beginning with ``fault``, if it is not."""
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, TypeError):
        raise ValueError(f"{fault}; got {shortened(str(text), 40)}") from None


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError(f"the body is no JSON; {HOW}") from None
    if not isinstance(value, dict):
        raise ValueError(f"the body should be a JSON object; got {type(value).__name__}; {HOW}")
    return value
