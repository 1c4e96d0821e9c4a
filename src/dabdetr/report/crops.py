"""Parts of images around boxes, with boxes drawn over them, as SVG for pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image

from dabdetr.data.dataset import DetectionDataset
from dabdetr.structures.boxes import iou
from dabdetr.structures.drawing import data_url

SIDE = 240
"""Longer side of a crop in pixels."""

Frame = tuple[int, int, int, int]
"""x0 y0 x1 y1 of a part of an image in pixels."""


def around(boxes: Iterable[Sequence[float]], image: np.ndarray) -> Frame:
    """A square around boxes, twice as large as they are together, as far as the image reaches."""
    edges = np.array(list(boxes), float)
    low, high = edges[:, :2].min(0), edges[:, 2:].max(0)
    limit = np.array(image.shape[1::-1], float)
    side = np.minimum(max(*((high - low) * 2), 48), limit)
    start = ((low + high - side) / 2).clip(0, limit - side).astype(int)
    (x0, y0), (x1, y1) = start.tolist(), np.ceil(start + side).astype(int).tolist()
    return x0, y0, x1, y1


def framed(frame: Frame, address: str, boxes: Iterable[tuple[str, Sequence[float]]]) -> str:
    """SVG of the part ``frame`` of an image, which is at ``address``, and boxes over it.

    Each box has its CSS class in front; its corners are in pixels of the whole image.
    """
    left, top, right, bottom = frame
    size = f'width="{right - left}" height="{bottom - top}"'
    shapes = "".join(
        f'<rect class="{kind}" x="{x0 - left:.1f}" y="{y0 - top:.1f}" '
        f'width="{x1 - x0:.1f}" height="{y1 - y0:.1f}"/>'
        for kind, (x0, y0, x1, y1) in boxes
    )
    return (
        f'<svg viewBox="0 0 {right - left} {bottom - top}" role="img" '
        f'aria-label="part of the image"><image href="{address}" {size}/>{shapes}</svg>'
    )


def crop(
    data: DetectionDataset,
    index: int,
    box: Sequence[float],
    drawn: Mapping[str, Sequence[float]],
    room: int,
) -> str:
    """SVG of image ``index`` around ``box``, of about ``room`` characters; a note if unreadable.

    ``drawn`` maps CSS classes to boxes in drawing order, above the labelled objects. All boxes are
    corners in pixels.
    """
    try:
        pixels, record = data.image(index), data.record(index)
    except (OSError, ValueError):  # removed or changed after the evaluation
        return "<p>The image cannot be read.</p>"
    x0, y0, x1, y1 = frame = around([box, *drawn.values()], pixels)
    image = Image.fromarray(pixels[y0:y1, x0:x1])
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    address = data_url(np.asarray(image.resize(size, Image.Resampling.BILINEAR)), room=room)
    objects = record.boxes[~record.crowd]
    near = objects[iou(objects, np.array(frame, float)) > 0].tolist()
    return framed(frame, address, [*(("truth", each) for each in near), *drawn.items()])
