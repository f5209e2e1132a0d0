"""A saliency map for every frame of a video, from a window that slides one frame at a time.

The network sees T frames and predicts the saliency of one of them, the target: with T = 32 the 16th
('middle') or the 32nd ('last'). The window of frame i is i - 15 ... i + 16, or i - 31 ... i; beyond
the ends of the video its first and last frames are repeated. Memory use does not depend on the
length of the video, and each frame is resized and normalised once.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np

Frame = TypeVar('Frame')


class Predictor(Protocol):
    """The interface of a model; `stsa_jax.load` returns one.

    `config.frames` is T, `config.image_size` (H, W), `config.target` 'middle' (the default if the
    field is missing) or 'last'.
    """

    config: Any

    def preprocess(self, frames: np.ndarray) -> np.ndarray:
        """uint8 `(n, h, w, 3)` -> float32 `(n, H, W, 3)`."""

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """float32 `(B, T, H, W, 3)` -> `(B, H, W)` in [0, 1]."""


def predict_frames(
    model: Predictor, frames: Iterable[np.ndarray], batch_size: int = 1
) -> Iterator[np.ndarray]:
    """One map for every frame of a video, in order.

    Args:
        model: as `Predictor`.
        frames: uint8 `(h, w, 3)`, the video from its first to its last frame.
        batch_size: windows per call of the model. The last call is padded, so that all have
            one shape and the model is compiled once.

    Yields:
        float32 `(H, W)` in [0, 1], at the model's size.
    """
    return (saliency for _, saliency in predict_video(model, frames, batch_size))


def predict_video(
    model: Predictor, frames: Iterable[np.ndarray], batch_size: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Like `predict_frames`, but yields each original frame together with its map."""
    if batch_size < 1:
        raise ValueError(f'batch_size is {batch_size}; expected 1 or more')
    sources: deque[np.ndarray] = deque()  # frames whose maps were not yielded yet

    def prepared() -> Iterator[np.ndarray]:
        for frame in frames:
            sources.append(frame)
            yield model.preprocess(frame[None])[0]

    clips = windows(prepared(), model.config.frames, target_index(model.config))
    running = None  # JAX computes while the next frames are read
    while batch := list(islice(clips, batch_size)):
        filled = batch + batch[-1:] * (batch_size - len(batch))
        pixels = np.stack([frame for window in filled for frame in window])
        started = model(pixels.reshape(batch_size, -1, *pixels.shape[1:])), len(batch)
        if running:
            yield from _results(*running, sources)
        running = started
    if running:
        yield from _results(*running, sources)


def windows(frames: Iterable[Frame], length: int, target: int) -> Iterator[tuple[Frame, ...]]:
    """For each of `frames` the `length` frames around it, itself at index `target`.

    The first frame is repeated before the start and the last one after the end. Reads `length - 1 -
    target` frames ahead and holds `length`.
    """
    window: deque[Frame] = deque(maxlen=length)
    for frame in frames:
        window.extend([frame] * (1 if window else target + 1))
        if len(window) == length:
            yield tuple(window)
    for _ in range(length - 1 - target if window else 0):
        window.append(window[-1])
        if len(window) == length:
            yield tuple(window)


def target_index(config: Any) -> int:
    """The index in the window, from 0, of the frame whose saliency the model predicts."""
    target = getattr(config, 'target', 'middle')
    if target not in ('middle', 'last'):
        raise ValueError(f"config.target is {target!r}; expected 'middle' or 'last'")
    return config.frames // 2 - 1 if target == 'middle' else config.frames - 1


def _results(maps, count: int, sources: deque) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for saliency in np.asarray(maps, np.float32)[:count]:
        yield sources.popleft(), saliency
