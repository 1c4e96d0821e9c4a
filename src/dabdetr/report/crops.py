"""Crops of images around a box, with boxes drawn over them, for a report's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from dabdetr.data.dataset import DetectionDataset
from dabdetr.structures.boxes import iou
from dabdetr.structures.drawing import data_url, svg_rectangle

SIDE = 240
"""Longer side of a crop in pixels."""


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
    edges = np.array([box, *drawn.values()], float)
    low, high = edges[:, :2].min(0), edges[:, 2:].max(0)
    limit = np.array(pixels.shape[1::-1], float)
    side = np.minimum(max(*((high - low) * 2), 48), limit)
    start = ((low + high - side) / 2).clip(0, limit - side).astype(int)
    end = np.ceil(start + side).astype(int)
    x0, y0, x1, y1 = *start, *end
    image = Image.fromarray(pixels[y0:y1, x0:x1])
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.BILINEAR)
    objects = record.boxes[~record.crowd]
    near = iou(objects, np.array([x0, y0, x1, y1], float)) > 0
    shapes = [svg_rectangle(each, "truth", x0, y0) for each in objects[near].tolist()]
    shapes += [svg_rectangle(each, kind, x0, y0) for kind, each in drawn.items()]
    address = data_url(np.asarray(image), room=room)
    return (
        f'<svg viewBox="0 0 {x1 - x0} {y1 - y0}" role="img" aria-label="part of the image">'
        f'<image href="{address}" width="{x1 - x0}" height="{y1 - y0}"/>{"".join(shapes)}</svg>'
    )
