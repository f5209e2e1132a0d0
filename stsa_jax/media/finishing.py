"""Post-processing of maps to 8 bits as in each model's released code, one function per model.

Each takes a float map `(H, W)` at the model's size and the video's (h, w), and returns uint8: at
the video's size, or at the model's if the released code leaves resizing to the metrics. The values
match those of OpenCV, which the released code uses, except for single grey levels.
"""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import correlate1d, gaussian_filter

from stsa_jax.media.preprocess import resample
from stsa_jax.media.visualize import to_8bit

Finish = Callable[[np.ndarray, tuple[int, int]], np.ndarray]
_BINOMIAL = np.array([1, 4, 6, 4, 1]) / 16  # OpenCV's 5-tap Gaussian


def stsanet(saliency: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes (bilinear) and scales to a maximum of 255: `visualize.to_8bit`."""
    return to_8bit(saliency, size)


def tinyhd(saliency: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Min-max scaling to 8 bits, bicubic resizing to `size`, then a 5x5 Gaussian filter.

    `post_process_png` of tinyHD's `src/generate.py`.
    """
    levels = np.floor(_spread(saliency) * 255)
    large = np.clip(np.rint(resample(levels, size, 'cubic')), 0, 255)
    for axis in (0, 1):
        large = correlate1d(large, _BINOMIAL, axis, mode='mirror')
    return np.rint(large).astype(np.uint8)


def vinet(saliency: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear to `size`, an 11x11 Gaussian filter, then from least to greatest into 8 bits.

    `process` of ViNet's `generate_result.py`, whose `img_save` adds half a level before it rounds.
    """
    sigma = 0.3 * ((11 - 1) * 0.5 - 1) + 0.8  # OpenCV's, of the length
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * sigma**2))
    large = resample(np.asarray(saliency, np.float32), size)
    for axis in (0, 1):
        large = correlate1d(large, taps / taps.sum(), axis, mode='mirror')
    return np.rint(np.minimum(_spread(large) * 255 + 0.5, 255)).astype(np.uint8)


def smoothed(saliency: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut to 1/255, filtered by a Gaussian of 7 pixels, its maximum 255; at the model's size.

    `process` of TASED-Net's `run_example.py` and of HD2S's `test.py`.
    """
    levels = np.floor(np.asarray(saliency) * 255.0) / 255
    soft = gaussian_filter(levels.astype(np.float64), sigma=7)
    peak = soft.max()
    return (soft / peak * 255 if peak > 0 else soft).astype(np.uint8)


def unisal(saliency: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The softmax of the logits resized to `size` (bilinear), its maximum 255.

    `run_inference` of UNISAL's `unisal/train.py`. The logits are the map's logarithm, but for a
    constant, which is the same at any size.
    """
    logits = np.log(np.maximum(np.asarray(saliency, np.float32), np.finfo(np.float32).tiny))
    large = resample(logits, size)
    return (np.exp(large - large.max()) * 255).astype(np.uint8)


def min_max(saliency: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """From least to greatest into 8 bits, at the model's size.

    SalEMA's `src/inference.py`, whose `save_image` adds half a level before it cuts.
    """
    return np.minimum(_spread(saliency) * 255 + 0.5, 255).astype(np.uint8)


def _spread(saliency: np.ndarray) -> np.ndarray:
    """Min-max scaling to [0, 1]; a constant map becomes zero."""
    saliency = np.asarray(saliency, np.float64)
    low, high = saliency.min(), saliency.max()
    return (saliency - low) / (high - low) if high > low else np.zeros_like(saliency)
