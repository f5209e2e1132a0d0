"""Converts frames and maps to the network's size and range; numpy and Pillow only.

Frames are uint8 RGB `(h, w, 3)`. The network's input is `(H, W, 3)` float32: resized with Pillow's
antialiased bilinear filter, scaled to [0, 1], then normalised with ImageNet's mean and standard
deviation, as in the released STSA-Net. The S3D checkpoints trained on Kinetics expect other ranges,
so the normalisation is stored with the weights.
"""

import functools
from typing import NamedTuple

import numpy as np
from PIL import Image


class Normalisation(NamedTuple):
    """Per-channel mean and standard deviation, for RGB in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KINETICS_KYLEMIN = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # [-1, 1]
KINETICS_TORCHVISION = Normalisation((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))

# ImageNet's mean in levels, without a scale: as Caffe's networks were trained.
CAFFE = Normalisation((123.68 / 255, 116.779 / 255, 103.939 / 255), (1.0, 1.0, 1.0))


def resize_frame(
    frame: np.ndarray,
    size: tuple[int, int],
    kernel: Image.Resampling = Image.Resampling.BILINEAR,
) -> np.ndarray:
    """Resizes uint8 `(h, w, 3)` or `(h, w)` to `size` = (H, W) with Pillow, antialiased."""
    if frame.shape[:2] == tuple(size):
        return frame
    return np.asarray(Image.fromarray(frame).resize((size[1], size[0]), kernel))


def resample(image: np.ndarray, size: tuple[int, int], kernel: str = 'linear') -> np.ndarray:
    """Resizes `(h, w)` or `(h, w, c)` to `size` = (H, W) without antialiasing, in float32.

    `kernel` is 'linear' or 'cubic' (a = -0.75); half-pixel centres, edges clamped, as in OpenCV and
    PyTorch. Linear stays in the range of `image`, cubic overshoots near edges.
    """
    for axis, wanted in enumerate(size):
        n = image.shape[axis]
        if n == wanted:
            image = image.astype(np.float32)
            continue
        shape = [-1 if a == axis else 1 for a in range(image.ndim)]
        taps = _taps(n, wanted, kernel)
        parts = (image.take(place, axis) * weight.reshape(shape) for place, weight in taps)
        image = functools.reduce(np.add, parts)
    return image


def resample_area(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`(h, w, 3)` to `size` = (H, W), each pixel the mean of the area that it covers, in levels.

    As OpenCV's INTER_AREA resizes 8-bit frames; where it enlarges, linear.
    """
    if any(wanted > n for n, wanted in zip(frame.shape, size)):
        return np.clip(np.rint(resample(frame, size)), 0, 255)
    for axis, wanted in enumerate(size):
        shares = _areas(frame.shape[axis], wanted)
        frame = np.moveaxis(np.tensordot(shares, frame, (1, axis)), 0, axis)
    return np.rint(frame)


@functools.lru_cache(maxsize=16)
def _areas(n: int, wanted: int) -> np.ndarray:
    """float32 `(wanted, n)`: the share of each pixel in each of fewer, larger ones."""
    edges = np.arange(wanted + 1) * n / wanted
    pixels = np.arange(n)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.maximum(covered, 0) * wanted / n).astype(np.float32)


@functools.lru_cache(maxsize=16)
def _taps(n: int, wanted: int, kernel: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each tap of the kernel: its index in `n` for each wanted position, and its weights."""
    places = (np.arange(wanted) + 0.5) * n / wanted - 0.5
    first = np.floor(places).astype(int)
    x = places - first
    if kernel == 'linear':
        weights = {0: 1 - x, 1: x}
    else:
        a = -0.75
        near = lambda d: ((a + 2) * d - (a + 3)) * d * d + 1  # noqa: E731
        far = lambda d: ((a * d - 5 * a) * d + 8 * a) * d - 4 * a  # noqa: E731
        weights = {-1: far(1 + x), 0: near(x), 1: near(1 - x), 2: far(2 - x)}
    return [
        (np.clip(first + i, 0, n - 1), weight.astype(np.float32)) for i, weight in weights.items()
    ]


def normalise(
    frames: np.ndarray, normalisation: Normalisation = IMAGENET, out: np.ndarray | None = None
) -> np.ndarray:
    """Frames `(..., w, 3)` in 0..255 -> float32, (x / 255 - mean) / std; into `out` if given."""
    if out is None:
        out = np.empty(frames.shape, np.float32)
    # Over whole rows: looping over three channels at a time would take ten times as long.
    width = frames.shape[-2]
    scale, shift = _row_of(normalisation, width)
    rows, result = (x.reshape(*frames.shape[:-2], width * 3) for x in (frames, out))
    np.multiply(rows, scale, out=result)
    result -= shift
    return out


@functools.lru_cache(maxsize=16)
def _row_of(normalisation: Normalisation, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift for one row of `width` pixels, channels interleaved, (3 width,) float32."""
    mean, std = (np.asarray(x, np.float32) for x in normalisation)
    return np.tile(1 / (255 * std), width), np.tile(mean / std, width)


def denormalise(clip: np.ndarray, normalisation: Normalisation = IMAGENET) -> np.ndarray:
    """The inverse of `normalise`: float32 `(..., 3)` -> uint8 in 0..255, rounded and clipped."""
    mean, std = (np.asarray(x, np.float32) for x in normalisation)
    return np.clip(np.rint((clip * std + mean) * 255), 0, 255).astype(np.uint8)


def resize_density(density: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a float32 density map `(h, w)` to `size`, antialiased bilinear, keeping its range."""
    if density.shape == tuple(size):
        return density.astype(np.float32)
    image = Image.fromarray(density.astype(np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
