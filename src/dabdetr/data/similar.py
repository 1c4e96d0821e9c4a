"""Near-duplicate images, found by small grey copies whatever their size and compression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from dabdetr.data.cache import cached
from dabdetr.data.heads import each_file
from dabdetr.data.images import opened_image

KIND = "thumbnails-2"
SIDE = 32
"""Side of a grey copy in pixels."""
ALIKE = 0.95
"""Least correlation between the grey copies of near-duplicates."""
DETAILS_ALIKE = 0.9
"""Least correlation after the blurred copy (light and shadow) is subtracted: different scenes with
the same background have less than 0.8; copies of any size, brightness and compression over 0.94."""
CHANGED = 0.4
"""Largest difference in any of 64 cells, in standard deviations: an added object is no copy."""
BLUR = 5
"""Side in pixels of the neighbourhood whose mean is the blurred copy."""
CLOSE_BITS = 48
"""Most of the 256 signs of neighbouring differences in which near-duplicates differ."""
ROWS = 512


def thumbnails(paths: Sequence[str], progress: bool = False) -> np.ndarray:
    """[n, 32, 32] uint8, grey; zeros for a file that cannot be read. Cached between runs."""
    small = cached(KIND, paths, lambda unknown: each_file(_thumbnail, unknown, progress))
    return np.frombuffer(b"".join(small), np.uint8).reshape(-1, SIDE, SIDE)


def _thumbnail(path: str) -> bytes:
    try:
        with opened_image(path) as (image, _):
            image.draft("L", (4 * SIDE, 4 * SIDE))
            if not (image.mode.startswith("I") or image.mode == "F"):
                grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
                return grey.tobytes()
            # More than 8 bits: scaled by the image's highest value.
            values = np.nan_to_num(np.asarray(image, np.float32), posinf=0, neginf=0).clip(0)
            scaled = Image.fromarray(values * (255 / max(float(values.max()), 1e-6)))
            small = scaled.resize((SIDE, SIDE), Image.Resampling.BOX)
            return np.asarray(small).round().astype(np.uint8).tobytes()
    except Exception:  # decoders raise exceptions of many kinds
        return bytes(SIDE * SIDE)


def near_duplicates(thumbs: np.ndarray) -> np.ndarray:
    """[pairs, 2] indices of near-duplicates, the lower index first; ``thumbs`` [n, 32, 32].

    Candidates have nearly the same signs of differences between neighbours in copies of 16x16
    pixels; then their grey copies must correlate. Images without contrast are in no pair.
    """
    if len(thumbs) < 2:
        return np.zeros((0, 2), np.int64)
    values = thumbs.astype(np.float32)
    plain = values.std((1, 2)) < 4
    bits = _signs(values)
    pairs: list[np.ndarray] = []
    for start in range(0, len(bits), ROWS):
        block = bits[start : start + ROWS]
        # The dot product of ±1 vectors gives their Hamming distance.
        distance = (bits.shape[1] - block @ bits[start:].T) / 2
        one, other = np.nonzero(distance <= CLOSE_BITS)
        one, other = one + start, other + start
        later = (other > one) & ~plain[one] & ~plain[other]
        pairs.append(np.stack((one[later], other[later]), 1))
    found = np.concatenate(pairs)
    details = values - _blurred(values)
    alike = _agreement(values, found) >= ALIKE
    alike &= _agreement(details, found) >= DETAILS_ALIKE
    found = found[alike]
    return found[_largest_change(values, found) <= CHANGED]


def _agreement(values: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """[pairs] correlation of the two images of each pair."""
    flat = values.reshape(len(values), -1)
    flat = flat - flat.mean(1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    parts = [pairs[start : start + ROWS] for start in range(0, len(pairs), ROWS)]
    products = [(flat[part[:, 0]] * flat[part[:, 1]]).sum(1) for part in parts]
    return np.concatenate(products) if products else np.zeros(0)


def _largest_change(values: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """[pairs] largest difference among 8x8 cells, in standard deviations of the image."""
    centred = values - values.mean((1, 2), keepdims=True)
    centred /= np.maximum(values.std((1, 2), keepdims=True), 1)
    cells = centred.reshape(len(values), SIDE // 4, 4, SIDE // 4, 4).mean((2, 4))
    changes = (np.abs(cells[one] - cells[other]).max() for one, other in pairs)
    return np.fromiter(changes, np.float32, len(pairs))


def _signs(values: np.ndarray) -> np.ndarray:
    """[n, 256] float32 of ±1: +1 where one of 16x16 cells is brighter than its right neighbour."""
    half = values.reshape(len(values), 16, 2, 16, 2).mean((2, 4))
    right = np.roll(half, -1, axis=2)
    return np.where(half > right, 1, -1).reshape(len(values), -1).astype(np.float32)


def _blurred(values: np.ndarray) -> np.ndarray:
    """Means over neighbourhoods of ``BLUR`` pixels a side; images are mirrored at their borders."""
    edge = BLUR // 2
    for axis in (1, 2):
        widths = [(edge, edge) if each == axis else (0, 0) for each in range(3)]
        wide = np.pad(values, widths, mode="symmetric")
        side = values.shape[axis]
        rows = (wide.take(range(n, n + side), axis) for n in range(BLUR))
        values = sum(rows, np.zeros_like(values)) / BLUR
    return values


def groups(pairs: np.ndarray, count: int) -> np.ndarray:
    """[count] lowest index in the connected component of each image; ``pairs`` [n, 2] are edges."""
    first = np.arange(count)
    while True:
        lowest = first[pairs].min(1, initial=count)
        for ends in (pairs[:, 0], pairs[:, 1], first[pairs[:, 0]], first[pairs[:, 1]]):
            np.minimum.at(first, ends.copy(), lowest)
        first = first[first]
        if (first[pairs[:, 0]] == first[pairs[:, 1]]).all():
            return first
