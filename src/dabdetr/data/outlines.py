"""Whether boxes belong to their images: edges lie under a box's outline more than in other images.

Much is evidence that they do. Little is none that they do not: single objects that fill their
images, or soft ones, have no edges there either.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from dabdetr.data.dataset import DetectionDataset

IMAGES, BOXES, LONGEST = 64, 30, 320
"""Images and boxes of each that are looked at, and the longer side that images are reduced to."""
BAND = 2
"""Pixels on both sides of a line in which an edge counts as lying under it."""
EVIDENCE = 5.0
"""Standard errors above which boxes fit their own images; shuffled labels stay below 2."""


def outline_fit(data: DetectionDataset) -> float:
    """By how many standard errors edges lie under boxes in their own rather than other images.

    0 for fewer than four images with boxes.
    """
    labelled = [index for index in range(len(data)) if (~data.record(index).crowd).any()]
    if len(labelled) < 4:
        return 0.0
    places = np.linspace(0, len(labelled) - 1, min(IMAGES, len(labelled))).round().astype(int)
    chosen = [labelled[place] for place in np.unique(places)]
    edges = [_edges(data.image(index)) for index in chosen]
    gains: list[float] = []
    for number, index in enumerate(chosen):
        record = data.record(index)
        others = [edges[(number + len(chosen) * n // 4) % len(chosen)] for n in (1, 2, 3)]
        shares = record.boxes[~record.crowd][:BOXES] / np.tile((record.width, record.height), 2)
        found: list[float] = []
        for box in shares:
            own = _under(edges[number], box)
            foreign = [_under(each, box) for each in others]
            # Each against own alone: of labels that were shuffled, the mean is then 0.
            found += [(own - each) / (own + each + 1e-3) for each in foreign]
        gains.append(float(np.mean(found)))
    return float(np.mean(gains) / (np.std(gains) / np.sqrt(len(gains)) + 1e-9))


def _edges(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps of brightness from left to right and from above to below, [height, width] each."""
    grey = Image.fromarray(image).convert("L")
    scale = min(1.0, LONGEST / max(grey.size))
    width, height = (max(8, round(side * scale)) for side in grey.size)
    small = np.asarray(grey.resize((width, height), Image.Resampling.BOX), np.float32)
    across = np.abs(np.diff(small, axis=1, prepend=small[:, :1]))
    return across, np.abs(np.diff(small, axis=0, prepend=small[:1]))


def _under(edges: tuple[np.ndarray, np.ndarray], box: np.ndarray) -> float:
    """The mean step under the outline of a box, 0–1; lines along the image's edge are left out."""
    across, down = edges
    height, width = across.shape
    corners = np.round(box * (width, height, width, height)).astype(int)
    x0, y0, x1, y1 = corners.clip(0, (width - 1, height - 1) * 2).tolist()
    found: list[float] = []
    for x in (x0, x1):
        if BAND < x < width - BAND:
            found.append(float(across[y0 : y1 + 1, x - BAND : x + BAND + 1].max(1).mean()))
    for y in (y0, y1):
        if BAND < y < height - BAND:
            found.append(float(down[y - BAND : y + BAND + 1, x0 : x1 + 1].max(0).mean()))
    return float(np.mean(found)) if found else 0.0
