"""A video's frames with their maps, and the files they are written to."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from stsa_jax.inference.windows import Predictor, predict_video
from stsa_jax.media import video, visualize
from stsa_jax.media.preprocess import resize_frame


class Predicted(NamedTuple):
    """A frame, uint8 `(h, w, 3)`, with its map; see `video.Frame` for name and time.

    The map is given as the model's output, `(H, W)`, and in 8 bits at the size of the frame.
    """

    name: str
    time: Fraction
    pixels: np.ndarray
    saliency: np.ndarray
    levels: np.ndarray


def predict_film(
    model: Predictor, frames: Iterable[video.Frame], batch_size: int = 1
) -> Iterator[Predicted]:
    """Like `predict_video`, with the name and the time of each frame."""
    labels: deque[tuple[str, Fraction]] = deque()  # of frames that were read but not yielded yet

    def pixels() -> Iterator[np.ndarray]:
        for frame in frames:
            labels.append((frame.name, frame.time))
            yield frame.pixels

    finish = getattr(model, 'finish', visualize.to_8bit)
    for picture, saliency in predict_video(model, pixels(), batch_size):
        size = picture.shape[:2]
        levels = resize_frame(finish(saliency, size), size)
        yield Predicted(*labels.popleft(), picture, saliency, levels)


def write_map(folder: Path, frame: Predicted) -> None:
    """Writes the 8-bit map, post-processed by its model, as a PNG named after the frame."""
    Image.fromarray(frame.levels).save(folder / f'{frame.name}.png')


@contextmanager
def overlay_writer(path: Path, film: video.Video) -> Iterator[Callable[[Predicted], None]]:
    """Yields a function that appends a frame, overlaid with its map, to the video `path`.

    Frames keep the source's timestamps and pixel aspect ratio.
    """
    with video.video_writer(
        path,
        film.info.fps,
        constant_rate=film.constant_rate,
        pixel_aspect=film.pixel_aspect,
        last_duration=film.last_duration,
    ) as write:
        yield lambda frame: write(visualize.overlay(frame.pixels, frame.levels), frame.time)
