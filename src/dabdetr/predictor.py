"""``Predictor``: detections, answers and explanations for images, as a stream or a list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np

from dabdetr.config import Config
from dabdetr.inference.opening import open_model, torch_runtime
from dabdetr.inference.postprocess import class_thresholds, thresholds
from dabdetr.inference.questions import Asked, ask, questions
from dabdetr.inference.runtime import ModelChanges, Runtime, SetPrecision
from dabdetr.inference.sources import attempts, expand, is_single
from dabdetr.inference.stream import (
    OnError,
    Unreadable,
    check_on_error,
    report,
    run,
    views,
)
from dabdetr.inference.tiling import AT_ONCE, Tiling, merge
from dabdetr.structures import Answers, Detections, Results
from dabdetr.structures.detections import class_labels
from dabdetr.text import counted

if TYPE_CHECKING:
    import torch

    from dabdetr.explain.explanation import Explanation
    from dabdetr.inference.torch_runtime import TorchRuntime
    from dabdetr.model.detector import Detector

__all__ = ["Predictor", "open_model"]


class DetectOptions(TypedDict, total=False):
    """The options of ``Predictor.__call__`` except ``keep_images``, for type checkers."""

    conf: float | None
    max_det: int | None
    classes: Sequence[str | int] | str | int | None
    on_error: OnError
    tiles: bool | int | Tiling
    stride: int
    nms: float | None
    multi_label: bool
    allow_private: bool
    bgr: bool


class Predictor:
    """A model ready to detect, from weights (file, folder or name) or a ``Detector``.

    An exported file (``.onnx``, OpenVINO's folder, ``.pt2``) opens too; the first two do so without
    torch.

    ``batch`` images of one prepared size go through the model together; the detections are the same
    as for each image alone. The model is put into evaluation mode. ``device``, ``precision`` and
    ``changes`` are those of ``open_model``: another number of queries or layers, another image
    size, compiled code (see ``Opening`` and ``ModelChanges``). Choices made by measuring are logged
    by the logger ``dabdetr``. Compiled code and precisions other than "fp32" use a copy of the
    weights.

    >>> for found in Predictor("scenes")("demo/images", conf=0.5):
    ...     print(found)
    1 object in 000.png: 1× 2
    ...
    """

    def __init__(
        self,
        model: str | Path | Detector | Runtime,
        device: str | torch.device = "auto",
        batch: int = 1,
        precision: SetPrecision = "fp32",
        **changes: Unpack[ModelChanges],
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch should be at least 1; got {batch}")
        self.runtime: Runtime = open_model(model, device=device, precision=precision, **changes)
        self.batch = batch

    def __repr__(self) -> str:
        """The model's name, its classes and queries."""
        name, queries = self.config.name, self.config.model.queries.count
        classes = counted(len(self.names), "class", "classes")
        return f"Predictor: {name}, {classes}, {counted(queries, 'query', 'queries')}"

    @property
    def live(self) -> TorchRuntime:
        """The runtime of a ``Detector`` itself; ValueError where the model is an exported file."""
        return torch_runtime(self.runtime)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, in label order."""
        return self.runtime.names

    @property
    def config(self) -> Config:
        """The config that the model was built and trained with."""
        return self.runtime.config

    def class_thresholds(self, conf: float | None = None) -> np.ndarray:
        """Score thresholds [classes]: the config's for each class, or ``conf`` for all classes.

        >>> Predictor("scenes").class_thresholds(0.25).tolist()[:2]
        [0.25, 0.25]
        """
        if conf is None:
            return class_thresholds(self.config.inference, self.names)
        return np.full(
            len(self.names), thresholds(self.config.inference, conf, None)[0], np.float32
        )

    def __call__(
        self,
        source: Any,
        conf: float | None = None,
        max_det: int | None = None,
        classes: Sequence[str | int] | str | int | None = None,
        keep_images: bool = False,
        on_error: OnError = "raise",
        tiles: bool | int | Tiling = False,
        stride: int = 1,
        nms: float | None = None,
        multi_label: bool = False,
        allow_private: bool = False,
        bgr: bool = False,
    ) -> Iterator[Detections]:
        """Detections of every image of ``source`` (see ``read_sources``), in order, as a stream.

        Boxes are clipped to their image. The defaults of ``conf``, ``max_det`` and ``nms`` are the
        config's; ``nms`` is the IoU from which the lower-scored of two boxes of a class is removed.
        Each query yields its best class only, or with ``multi_label`` every class above its
        threshold. ``classes`` selects classes by name or label. An unreadable image raises a
        ValueError that names it, unless ``on_error`` is another value. Wrong arguments raise in
        this call, not at the first image.

        With ``tiles`` the model also runs on overlapping tiles of large images; the value is their
        size in pixels, True the model's image size. ``stride`` N reads every N-th frame of a video.
        Addresses in private networks are refused without ``allow_private``. ``bgr``: images given
        as arrays have their channels in OpenCV's order.

        The next images are read in a thread while the model runs, where that is faster. An exported
        file on a CPU detects in up to four images of a stream at a time.

        >>> predictor = Predictor("scenes")
        >>> [len(found) for found in predictor("demo/images", conf=0.5, classes=["2", "6"])][:3]
        [1, 2, 1]
        """
        inference = self.config.inference
        nms = inference.nms if nms is None else nms
        if nms is not None and not 0 < nms <= 1:
            raise ValueError(f"nms is an IoU above 0, up to 1; got {nms}")
        limits = self.class_thresholds(conf)
        conf, max_det = thresholds(inference, conf, max_det)
        classes = [classes] if isinstance(classes, str | int) else classes
        class_labels(classes or (), self.names)  # raises for an unknown class
        check_on_error(on_error)
        if isinstance(tiles, bool):
            tiling = Tiling(self.config.image.size) if tiles else None
        else:
            tiling = tiles if isinstance(tiles, Tiling) else Tiling(tiles)
        items = expand(source)
        images = attempts(items, stride, allow_private, self.config.image.bits, bgr)
        prepared = views(self.runtime, images, tiling)

        def select(found: Detections) -> Detections:
            found = found.clipped()
            found = found if multi_label else found.best_of_query()
            found = found if nms is None else found.without_overlaps(nms)
            # with tiles, half the threshold: the part of an object in a tile is also suppressed by
            # the whole object where that scores too little to be shown
            return found.above(limits / 2 if tiling else limits)

        def stream() -> Iterator[Detections]:
            runtime = self.runtime if is_single(items) else self.runtime.for_streams()

            def detect(pixels: Sequence[Any], sizes: Any, names: Sequence[str]) -> list[Detections]:
                return runtime.detect(pixels, sizes, max_det, names)

            batch = max(self.batch, AT_ONCE) if tiling else self.batch
            of_views: list[Detections] = []
            for each, found in run(detect, prepared, batch, on_error, runtime.workers):
                of_views.append(select(found))
                if len(of_views) < len(each.views):
                    continue
                image = each.image
                if tiling:
                    of_views = [merge(of_views, each.views, tiling)[:max_det]]
                yield replace(
                    of_views.pop().above(limits, classes),
                    size=image.array.shape[:2],
                    image=image.array if keep_images else None,
                    frame=image.frame,
                    time=image.time,
                )

        return stream()

    def predict(
        self, source: Any, keep_images: bool | None = None, **options: Unpack[DetectOptions]
    ) -> Results:
        """Detections of all images of ``source`` as a list; options of ``__call__``.

        Images given in memory are kept for ``plot`` unless ``keep_images`` is False. Call the
        predictor itself where the results do not fit in memory together.

        >>> found = Predictor("scenes").predict("demo/images", conf=0.5)
        >>> len(found), found[0].source
        (8, 'demo/images/000.png')
        """
        found = self(source, keep_images=keep_images is not False, **options)
        return Results(
            each if keep_images or not each.source else replace(each, image=None) for each in found
        )

    def one(
        self, image: Any, keep_images: bool = False, **options: Unpack[DetectOptions]
    ) -> Detections:
        """Detections of a single image; options of ``__call__``.

        >>> Predictor("scenes").one("demo/images/000.png", conf=0.5)
        1 object in 000.png: 1× 2
        """
        found = list(self(image, keep_images=keep_images, **options))
        if len(found) != 1:
            raise ValueError(
                f"one() takes a single image; got {len(found)}; call the predictor itself"
            )
        return found[0]

    def ask(
        self,
        image: Any,
        boxes: Any,
        labels: Sequence[str | int | None] | None = None,
        sizes: Any = None,
        conf: float | None = None,
    ) -> Answers:
        """Class scores and refined boxes for questions: rough boxes or clicks in one image.

        ``boxes`` are rough boxes [n, 4], x0 y0 x1 y1 in pixels, or clicks [n, 2], x y. Each becomes
        the anchor of its own query, which attends to the model's matching queries but to no other
        question. ``labels`` are the supposed classes of the objects (names or labels, None where
        unknown). A click is tried with several anchors: squares, or ``sizes`` [k, 2] in pixels.
        ``conf`` is the lowest score of the detections that answers are compared with.
        ValueError for a box outside the image, and for models without denoising.

        >>> smear = "demo/images/photos/blood-1.jpg"
        >>> answers = Predictor("blood-cells").ask(smear, [[210, 160, 320, 260]])
        >>> answers.boxes.shape, answers.class_scores.shape
        ((1, 4), (1, 3))
        """
        found = list(self.ask_all(image, [boxes], [labels], sizes=sizes, conf=conf))
        if len(found) != 1:
            raise ValueError(f"ask() takes a single image; got {len(found)}; use ask_all()")
        return found[0]

    def ask_all(
        self,
        source: Any,
        boxes: Iterable[Any],
        labels: Iterable[Sequence[str | int | None] | None] | None = None,
        sizes: Any = None,
        conf: float | None = None,
        keep_images: bool = False,
        on_error: OnError = "raise",
        stride: int = 1,
    ) -> Iterator[Answers]:
        """``ask`` for every image of ``source``, as a stream; other options as for ``__call__``.

        ``boxes`` and ``labels`` have one entry per image. An entry is read when its batch of images
        is run: with a ``batch`` of 1, after the answers for the previous image were returned. An
        entry of ``boxes`` may be a function of the image's (height, width) and its name.

        >>> smears = ["demo/images/photos/blood-1.jpg", "demo/images/photos/blood-2.jpg"]
        >>> clicks = [[[120, 80], [200, 300]], [[60, 60]]]
        >>> answers = Predictor("blood-cells").ask_all(smears, clicks)
        >>> [len(set(each.questions.tolist())) for each in answers]
        [2, 1]
        """
        self.runtime.check_questions()
        inference = self.config.inference
        limits = self.class_thresholds(conf)
        _, max_det = thresholds(inference, conf, None)
        check_on_error(on_error)
        prepared = views(
            self.runtime, attempts(expand(source), stride, bits=self.config.image.bits)
        )
        entries = zip(boxes, repeat(None) if labels is None else labels, strict=False)

        def next_entry() -> tuple[Any, Any]:
            entry = next(entries, None)
            if entry is None:
                raise ValueError("there are more images than entries of boxes; give one for each")
            return entry

        def answer(pixels: Sequence[Any], shapes: Any, names: Sequence[str]) -> list[Answers]:
            asked: list[Asked] = []
            for shape, name in zip(shapes, names, strict=True):
                of_image, supposed = next_entry()
                of_image = of_image(shape, name) if callable(of_image) else of_image
                asked.append(questions(of_image, supposed, shape, self.names, sizes))
            return ask(self.runtime, pixels, shapes, names, asked, max_det, limits)

        def skip(name: str, error: Exception) -> None:
            report(Unreadable(name, error), on_error)
            next_entry()  # the entry of the unreadable image

        # one call at a time, as each takes the next entries
        for each, found in run(answer, prepared, self.batch, skip, self.runtime.workers):
            image = each.image
            detections = replace(
                found.detections,
                image=image.array if keep_images else None,
                frame=image.frame,
                time=image.time,
            )
            yield replace(found, detections=detections)

    def explain(
        self,
        image: Any,
        conf: float | None = None,
        max_det: int | None = None,
        pixels: Sequence[tuple[float, float]] = (),
    ) -> Explanation:
        """The detections of one image and how the model computed them: trace, figures, HTML page.

        ``pixels`` (x, y, 0–1 of the image) are the places whose encoder attention is recorded. If
        the model can be asked about boxes, the page also answers clicks and drawn boxes.

        >>> explanation = Predictor("scenes").explain("demo/images/000.png", conf=0.5)
        >>> explanation.detections
        1 object in 000.png: 1× 2
        """
        from dabdetr.explain.explanation import explain

        found = list(explain(self.live, image, conf, max_det, pixels, ask=True))
        if len(found) != 1:
            raise ValueError(
                f"explain() takes a single image; got {len(found)}; call it for each of them"
            )
        return found[0]
