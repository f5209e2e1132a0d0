"""Properties of a video before and while its frames are read."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from stsa_jax.media.decoding import Frame
from stsa_jax.media.sound import Sound


class VideoInfo(NamedTuple):
    """Known before decoding: size in pixels as displayed, frames per second, frame count.

    `num_frames` is the number of a file's packets, without hidden ones, and exact for a folder;
    some rare codecs decode to a few more or fewer.
    """

    path: Path
    height: int
    width: int
    fps: Fraction
    num_frames: int


@dataclasses.dataclass
class Video:
    """An open video: `frames` may be iterated over once.

    Attributes:
        info: see `VideoInfo`.
        frames: yields each frame with its number, name and time.
        numbers: the frame numbers, as far as they are known before decoding.
        times: tells when each of them is shown, in seconds, likewise.
        since: `since(i)` yields the frames from index i of `numbers` on, instead of `frames`; in a
            file decoding begins at a key frame before it.
        constant_rate: whether frames are evenly spaced; if not, use their times.
        pixel_aspect: pixel width divided by height, as displayed.
        last_duration: seconds for which the last frame is shown; 0: as long as the others.
        left_out: the numbers of damaged frames; filled in when `frames` has ended.
        sound: of the file, whose time 0 is that of `frames`; None if it has none.
    """

    info: VideoInfo
    frames: Iterator[Frame]
    numbers: Sequence[int]
    times: Callable[[], Sequence[Fraction]]
    since: Callable[[int], Iterator[Frame]]
    constant_rate: bool = True
    pixel_aspect: Fraction = Fraction(1)
    last_duration: Fraction = Fraction(0)
    left_out: list[int] = dataclasses.field(default_factory=list)
    sound: Sound | None = None


def size_text(shape: Sequence[int]) -> str:
    """'640x360' for an array's shape (360, 640, ...)."""
    return f'{shape[1]}x{shape[0]}'
