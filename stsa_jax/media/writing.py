"""Writes H.264 video that browsers play, and grey video without loss; in constant memory."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
from av.codec.context import Flags

from stsa_jax.files import atomic_path
from stsa_jax.media.sound import Sound, soundtrack

_CLOCK = 90000  # ticks per second at a variable rate: a multiple of the usual rates and of 1000


class WriteFrame(Protocol):
    """Appends a uint8 `(h, w, 3)` frame; `time` in seconds, by default right after the last."""

    def __call__(self, frame: np.ndarray, time: Fraction | None = None) -> None:
        """Raises ValueError if shape or type differ from the first frame."""


def write_video(path: str | os.PathLike, frames: Iterable[np.ndarray], fps: float) -> int:
    """Writes uint8 `(h, w, 3)` frames of one size as an H.264 file; returns their number.

    See `video_writer`.
    """
    count = 0
    with video_writer(path, fps) as write:
        for frame in frames:
            write(frame)
            count += 1
    return count


@contextmanager
def video_writer(
    path: str | os.PathLike,
    fps: float | Fraction,
    *,
    constant_rate: bool = True,
    pixel_aspect: Fraction = Fraction(1),
    last_duration: Fraction = Fraction(0),
    sound: Sound | None = None,
) -> Iterator[WriteFrame]:
    """Yields a function that appends one uint8 `(h, w, 3)` frame to an H.264 video, `path`.

    Browsers play the file: yuv420p with BT.709 colours, the index first. An odd height or width is
    made even by repeating the last row or column. The complete file appears at `path` only when the
    context ends without an error.

    Args:
        path: the file.
        fps: frames per second.
        constant_rate: round times to whole frames of `fps`; otherwise to 1/90000 s.
        pixel_aspect: pixel width divided by height, by which players stretch the picture.
        last_duration: seconds for which the last frame is shown; 0 for 1/fps.
        sound: of a file, copied into the video (`stsa_jax.media.sound`); None for silence.

    Raises:
        ValueError: frames of different shapes or types, or none at all.
    """
    fps = Fraction(fps).limit_denominator(60000)
    tick = 1 / fps if constant_rate else Fraction(1, _CLOCK)
    last = max(1, round((last_duration or 1 / fps) / tick))
    shape: tuple[int, ...] | None = None
    earliest = following = 0  # ticks

    def write(frame: np.ndarray, time: Fraction | None = None) -> None:
        nonlocal shape, earliest, following
        if shape is None and frame.ndim == 3:
            shape = frame.shape
            stream.height, stream.width = (n + n % 2 for n in shape[:2])
        if frame.dtype != np.uint8 or shape is None or frame.shape != shape:
            raise ValueError(
                f'a frame is {frame.dtype} {frame.shape}; expected uint8 (h, w, 3), '
                f'all of one shape (the first was {shape})'
            )
        even = np.pad(frame, ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0)), mode='edge')
        picture = av.VideoFrame.from_ndarray(even, format='rgb24').reformat(
            format='yuv420p', dst_colorspace='ITU709', dst_color_range='MPEG'
        )
        at = following if time is None else max(earliest, round(time / tick))
        picture.pts, picture.time_base = at, tick
        picture.duration = last  # used only for the last one: others end where the next begins
        earliest, following = at + 1, at + max(1, round(1 / (fps * tick)))
        file.mux(stream.encode(picture))
        append_sound(at * tick)

    with (
        atomic_path(path) as temporary,
        av.open(str(temporary), 'w', format='mp4', options={'movflags': 'faststart'}) as file,
    ):
        # x264's macroblock tree reads memory that nobody set, so that its choices vary by a bit;
        # without it the same frames give the same file, which is no larger.
        options = {'crf': '20', 'preset': 'fast', 'mbtree': '0'}
        if not constant_rate:
            options['bf'] = '0'  # with B-frames MP4 assigns durations to the wrong frames
        stream = file.add_stream('libx264', rate=fps, options=options)
        stream.pix_fmt = 'yuv420p'
        context = stream.codec_context
        context.time_base = tick
        context.sample_aspect_ratio = pixel_aspect
        context.flags |= Flags.frame_duration
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # limited, as players expect
        with soundtrack(sound, file) if sound else nullcontext(_silence) as append_sound:
            yield write
            if shape is None:
                raise ValueError(f'{path}: no frames to write')
            file.mux(stream.encode(None))
            append_sound(None)


@contextmanager
def grey_writer(
    path: str | os.PathLike, fps: float | Fraction, *, pixel_aspect: Fraction = Fraction(1)
) -> Iterator[WriteFrame]:
    """Like `video_writer` for uint8 `(h, w)` frames, which are stored exactly: FFV1 in Matroska.

    Times are rounded to 1/1000 s, Matroska's clock.
    """
    tick = Fraction(1, 1000)
    shape: tuple[int, ...] | None = None
    following = 0

    def write(frame: np.ndarray, time: Fraction | None = None) -> None:
        nonlocal shape, following
        if shape is None:
            shape = frame.shape
            stream.height, stream.width = shape
        if frame.dtype != np.uint8 or frame.shape != shape or len(shape) != 2:
            raise ValueError(f'a frame is {frame.dtype} {frame.shape}; expected uint8 {shape}')
        picture = av.VideoFrame.from_ndarray(frame, format='gray')
        at = following if time is None else max(following, round(time / tick))
        picture.pts, picture.time_base = at, tick
        following = at + 1 if time is not None else at + max(1, round(1 / (fps * tick)))
        file.mux(stream.encode(picture))

    fps = Fraction(fps).limit_denominator(60000)
    same = {'fflags': '+bitexact'}  # no random identifier: the same maps give the same file
    with (
        atomic_path(path) as temporary,
        av.open(str(temporary), 'w', format='matroska', options=same) as file,
    ):
        stream = file.add_stream('ffv1', rate=fps, options={'level': '3', 'g': '1'})
        stream.pix_fmt = 'gray'
        stream.codec_context.time_base = tick
        stream.codec_context.sample_aspect_ratio = pixel_aspect
        yield write
        if shape is None:
            raise ValueError(f'{path}: no frames to write')
        file.mux(stream.encode(None))


def _silence(time: Fraction | None) -> None:
    """Appends no sound."""
