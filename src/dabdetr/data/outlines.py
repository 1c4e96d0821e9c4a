"""Evidence that boxes belong to their images: outlines follow edges of their own image best.

A high value shows that they belong together. A low value proves nothing: objects that fill their
images, and blurred ones, have no edges under their outlines either.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from dabdetr.data.dataset import DetectionDataset, evenly

IMAGES, BOXES, LONGEST = 64, 30, 320
"""Images examined, boxes examined in each, and the longer side in pixels of the reduced images."""
BAND = 2
"""An edge up to this many pixels from a box's side counts as lying under it."""
EVIDENCE = 5.0
"""Standard errors above which boxes fit their own images; shuffled labels stay below 2."""


def outline_fit(data: DetectionDataset) -> float:
    """By how many standard errors edges under boxes are stronger in their own image than elsewhere.

    0 for fewer than four images with boxes.
    """
    labelled = [index for index in range(len(data)) if (~data.record(index).crowd).any()]
    if len(labelled) < 4:
        return 0.0
    chosen = [labelled[place] for place in evenly(len(labelled), IMAGES)]
    edges = [_edges(data.image(index)) for index in chosen]
    gains: list[float] = []
    for number, index in enumerate(chosen):
        record = data.record(index)
        others = [edges[(number + len(chosen) * n // 4) % len(chosen)] for n in (1, 2, 3)]
        relative = record.boxes[~record.crowd][:BOXES] / np.tile((record.width, record.height), 2)
        differences: list[float] = []
        for box in relative:
            own = _outline_strength(edges[number], box)
            foreign = [_outline_strength(each, box) for each in others]
            # Pair by pair, so that the mean is 0 for shuffled labels.
            differences += [(own - each) / (own + each + 1e-3) for each in foreign]
        gains.append(float(np.mean(differences)))
    return float(np.mean(gains) / (np.std(gains) / np.sqrt(len(gains)) + 1e-9))


def _edges(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Absolute differences of brightness to the left and upper neighbour, [height, width] each."""
    grey = Image.fromarray(image).convert("L")
    scale = min(1.0, LONGEST / max(grey.size))
    width, height = (max(8, round(side * scale)) for side in grey.size)
    small = np.asarray(grey.resize((width, height), Image.Resampling.BOX), np.float32)
    across = np.abs(np.diff(small, axis=1, prepend=small[:, :1]))
    return across, np.abs(np.diff(small, axis=0, prepend=small[:1]))


def _outline_strength(edges: tuple[np.ndarray, np.ndarray], box: np.ndarray) -> float:
    """Mean brightness step under the outline of a box (xyxy, 0–1); skips sides at the border."""
    across, down = edges
    height, width = across.shape
    corners = np.round(box * (width, height, width, height)).astype(int)
    x0, y0, x1, y1 = corners.clip(0, (width - 1, height - 1) * 2).tolist()
    steps: list[float] = []
    for x in (x0, x1):
        if BAND < x < width - BAND:
            steps.append(float(across[y0 : y1 + 1, x - BAND : x + BAND + 1].max(1).mean()))
    for y in (y0, y1):
        if BAND < y < height - BAND:
            steps.append(float(down[y - BAND : y + BAND + 1, x0 : x1 + 1].max(0).mean()))
    return float(np.mean(steps)) if steps else 0.0
