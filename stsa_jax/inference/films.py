"""A video's frames with their maps, and the files they are written to."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from stsa_jax.inference.windows import Predictor, predict_some
from stsa_jax.media import video, visualize
from stsa_jax.media.preprocess import resize_frame


class Predicted(NamedTuple):
    """A frame, uint8 `(h, w, 3)`, with its map; see `video.Frame` for name, time and number.

    The map is given as the model's output, `(H, W)`, None if it is read from a file of levels, and
    in 8 bits at the size of the frame. `interpolated`: it lies between two predicted ones in time.
    """

    name: str
    time: Fraction
    pixels: np.ndarray
    saliency: np.ndarray | None
    levels: np.ndarray
    number: int = 0
    interpolated: bool = False


class Mapped(NamedTuple):
    """A frame with the model's output, None if it has none."""

    frame: video.Frame
    saliency: np.ndarray | None
    interpolated: bool = False


def predict_film(
    model: Predictor, frames: Iterable[video.Frame], batch_size: int = 1
) -> Iterator[Predicted]:
    """Like `predict_video`, with the name and the time of each frame."""
    for mapped in maps_of(model, frames, lambda frame: True, batch_size):
        yield finished(model, mapped)


def maps_of(
    model: Predictor,
    frames: Iterable[video.Frame],
    wanted: Callable[[video.Frame], bool],
    batch_size: int = 1,
) -> Iterator[Mapped]:
    """Each frame, in order, with its map if it is `wanted`."""
    read: dict[int, video.Frame] = {}  # by index, without pixels; until their maps are yielded

    def pixels() -> Iterator[np.ndarray]:
        for index, frame in enumerate(frames):
            read[index] = frame._replace(pixels=_NONE)
            yield frame.pixels

    pairs = predict_some(model, pixels(), lambda index: wanted(read[index]), batch_size)
    for index, (picture, saliency) in enumerate(pairs):
        yield Mapped(read.pop(index)._replace(pixels=picture), saliency)


def interpolated(mapped: Iterable[Mapped]) -> Iterator[Mapped]:
    """Gives frames between two maps a map: the two, weighted by the distance in time.

    Frames before the first map have none, those after the last one have the last one. Frames are
    held until the next map.
    """
    before: Mapped | None = None
    held: list[video.Frame] = []
    for each in mapped:
        if before is None or before.saliency is None:
            yield each
        elif each.saliency is None:
            held.append(each.frame)
            continue
        else:
            start, span = before.frame.time, each.frame.time - before.frame.time
            for frame in held:
                weight = np.float32((frame.time - start) / span)
                between = (1 - weight) * before.saliency + weight * each.saliency
                yield Mapped(frame, between, True)
            held = []
            yield each
        before = each._replace(frame=each.frame._replace(pixels=_NONE))
    for frame in held:
        yield Mapped(frame, before.saliency if before else None, True)


def finished(model: Predictor, mapped: Mapped) -> Predicted:
    """The frame with its map as in the model's released code, in 8 bits at the frame's size."""
    frame, saliency = mapped.frame, mapped.saliency
    assert saliency is not None
    size = frame.pixels.shape[:2]
    finish = getattr(model, 'finish', visualize.to_8bit)
    levels = resize_frame(finish(saliency, size), size)
    return Predicted(
        frame.name, frame.time, frame.pixels, saliency, levels, frame.number, mapped.interpolated
    )


def write_map(folder: Path, frame: Predicted) -> None:
    """Writes the 8-bit map, post-processed by its model, as a PNG named after the frame.

    A process that is killed leaves no part of a file under that name.
    """
    path, part = folder / f'{frame.name}.png', folder / '.part'
    try:
        Image.fromarray(frame.levels).save(part, 'PNG')
        os.replace(part, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def overlay_writer(path: Path, film: video.Video) -> Iterator[Callable[[Predicted], None]]:
    """Yields a function that appends a frame, overlaid with its map, to the video `path`.

    Frames keep the source's timestamps and pixel aspect ratio, and the video its sound.
    """
    with video.video_writer(
        path,
        film.info.fps,
        constant_rate=film.constant_rate,
        pixel_aspect=film.pixel_aspect,
        last_duration=film.last_duration,
        sound=film.sound,
    ) as write:
        yield lambda frame: write(visualize.overlay(frame.pixels, frame.levels), frame.time)


@contextmanager
def map_writer(path: Path, film: video.Video) -> Iterator[Callable[[Predicted], None]]:
    """Yields a function that appends a frame's 8-bit map to a grey video, without loss."""
    with video.grey_writer(path, film.info.fps, pixel_aspect=film.pixel_aspect) as write:
        yield lambda frame: write(frame.levels, frame.time)


_NONE = np.empty((0, 0, 3), np.uint8)
