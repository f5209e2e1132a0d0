"""Recovers fixated points from maps that are not binary: after JPEG, or resized as images.

A fixation map is 0 and one other value. Counts of fixations, mostly 1 and sometimes 2 or 3, are
accepted too. Anything else is noise around the points: a JPEG turns 13 points into some 400 values
above 0. The points are recovered if that is unambiguous, as measured on maps with 1 to 130 points:

- after JPEG (quality 50 and more) points stay above 0.7 of the maximum and noise below 0.45: values
  above the gap are points;
- after resizing each point is a spot of a few pixels, all of about the same sum: the point is its
  centre.
"""

import collections
from typing import NamedTuple

import numpy as np

MOST_COUNTED = 20  # fixations on one pixel in one frame
FULL = 0.75  # of 255: below this the peaks of points have been blurred
GAP = 0.2  # of the maximum: least gap between points and noise
SPOT = 12  # pixels, the largest height and width of a resized point
ODD = (
    0.1  # fraction of spots that may have another sum: two points merged, or half of one at an edge
)


class Points(NamedTuple):
    """bool `(h, w)`, and whether they had to be recovered from noise."""

    fixated: np.ndarray
    recovered: bool


def find_points(values: np.ndarray) -> Points:
    """The fixated pixels of a map `(h, w)` of any real type, 0 where there is none.

    Raises ValueError if no points can be separated from noise.
    """
    top = values.max(initial=0)
    if values.dtype.kind in 'bu' and np.count_nonzero(values) == np.count_nonzero(values == top):
        return Points(values > 0, False)
    values = np.nan_to_num(np.asarray(values, np.float64), nan=0, posinf=0, neginf=0).clip(0)
    fixated = values > 0
    if not fixated.any() or _are_counts(values[fixated]):
        return Points(fixated, False)
    scale = 255 if values.max() > 1 else 1
    found = _above_gap(values) if values.max() >= FULL * scale else None
    if found is None:
        found = _centres(values)
    if found is None:
        raise ValueError(
            f'its {np.count_nonzero(fixated)} values above 0 are neither one constant nor points '
            'with noise around them; was it blurred, or is it a density map?'
        )
    return Points(found, True)


def _are_counts(values: np.ndarray) -> bool:
    """Whether the values above 0 are one constant, or mostly it and small multiples of it.

    For integers the constant must be 1, or the largest multiple 255, as counts are stored; a single
    point blurred over four pixels may have such multiples by chance.
    """
    least, most = values.min(), values.max()
    if most == least:
        return True
    counts = values / least
    whole = np.abs(counts - np.rint(counts)).max() < 1e-3
    stored = least == 1 or most == 255 or np.any(values % 1)
    return bool(whole and stored and most <= MOST_COUNTED * least and np.mean(counts < 1.5) > 0.5)


def _above_gap(values: np.ndarray) -> np.ndarray | None:
    """The pixels above the widest gap between the values above a quarter of the maximum."""
    top = values.max()
    there = np.unique(np.append(values[values > top / 4], top / 4))
    widths = np.diff(there)
    if not len(widths) or widths.max() < GAP * top:
        return None
    found = values > there[widths.argmax()]
    return None if _are_blocks(found) else found


def _are_blocks(found: np.ndarray) -> bool:
    """Whether nearly all connected components are the same rectangle: the map was enlarged."""
    from scipy import ndimage

    labels, count = ndimage.label(found, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    boxes = [(a.stop - a.start, b.stop - b.start) for a, b in ndimage.find_objects(labels)]
    full = [box for box, size in zip(boxes, sizes) if box[0] * box[1] == size and min(box) > 1]
    most = max(collections.Counter(full).values(), default=0)
    return most >= (1 - ODD) * count


def _centres(values: np.ndarray) -> np.ndarray | None:
    """One point at the centre of each spot, if all spots are small and of about the same sum."""
    from scipy import ndimage

    strong = values > values.max() / 8
    labels, count = ndimage.label(strong, np.ones((3, 3)))
    spots = ndimage.find_objects(labels)
    if any(part.stop - part.start > SPOT for spot in spots for part in spot):
        return None
    indices = np.arange(1, count + 1)
    sums = ndimage.sum_labels(values, labels, indices)
    odd = np.abs(np.log2(sums / np.median(sums))) > 0.7
    if odd.mean() > ODD:
        return None
    points = np.zeros(values.shape, bool)
    y, x = np.rint(np.transpose(ndimage.center_of_mass(values, labels, indices))).astype(int)
    points[y, x] = True
    return points
