"""Numbers that describe a map: how concentrated it is, where its peak and its centre are."""

import math
from typing import NamedTuple

import numpy as np


class Description(NamedTuple):
    """Of one map.

    Attributes:
        concentration: 1 - H / log n for the entropy H of the map as a distribution over its n
            pixels: 0 if all are equal, 1 if all lies in one pixel.
        peak: (x, y) of the largest value, as fractions of width and height, in (0, 1).
        centre: (x, y) of the centre of mass, likewise.
    """

    concentration: float
    peak: tuple[float, float]
    centre: tuple[float, float]


def describe(levels: np.ndarray) -> Description:
    """`levels`: a map of uint8, `(h, w)`. One without any salience counts as constant."""
    height, width = levels.shape
    counts = np.bincount(levels.ravel(), minlength=256).astype(np.float64)
    values = np.arange(256, dtype=np.float64)
    total = float(counts @ values)
    if not total:
        return Description(0.0, (0.5, 0.5), (0.5, 0.5))
    shares = values[1:] / total
    entropy = -float(np.sum(counts[1:] * shares * np.log(shares)))
    largest = math.log(levels.size)
    row, column = divmod(int(levels.argmax()), width)
    across = levels.sum(0, dtype=np.float64) @ (np.arange(width) + 0.5) / (total * width)
    down = levels.sum(1, dtype=np.float64) @ (np.arange(height) + 0.5) / (total * height)
    return Description(
        1 - entropy / largest if largest else 1.0,
        ((column + 0.5) / width, (row + 0.5) / height),
        (float(across), float(down)),
    )
