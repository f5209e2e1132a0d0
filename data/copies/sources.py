"""The interface of layouts and builder: videos that yield their frames, and a report of problems.

A source is small and picklable, and reads nothing before `frames` is called, so that any process
can prepare any video.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Problem:
    """A problem in a copy: the file or folder, the problem, and how it was handled."""

    path: str
    what: str
    done: str = ''

    def __str__(self) -> str:
        return f'{self.path}: {self.what}' + (f'; {self.done}' if self.done else '')


class Report:
    """Collects problems; the caller decides how to react."""

    def __init__(self):
        self.problems: list[Problem] = []

    def add(self, path: str | os.PathLike, what: str, done: str = '') -> None:
        """Records problem `what` of `path`, and how it was handled (`done`)."""
        self.problems.append(Problem(str(path), what, done))


class Frame(NamedTuple):
    """One frame of a dataset, before it is stored."""

    number: int  # in the dataset's numbering
    image: np.ndarray  # uint8 RGB (h, w, 3), any size
    density: bytes | None  # an image file's content, one 8-bit channel
    fixations: bytes | None  # the same, 255 at fixated pixels
    num_fixations: int  # fixated pixels
    size: tuple[int, int]  # (h, w) of the annotation, or of the video if there is none
    blank: bool = False  # the density map is 0 everywhere, with or without fixations
    density_alone: bool = False  # there is a density map, but fixations are unknown

    @property
    def usable(self) -> bool:
        """Whether it can be a target of training."""
        return (self.num_fixations > 0 or self.density_alone) and not self.blank


@dataclasses.dataclass(frozen=True)
class VideoSource:
    """One video of a dataset. Subclasses define how its frames and annotation are read."""

    name: str

    @property
    def kind(self) -> str:
        """The kind of video, if the dataset distinguishes kinds; else empty."""
        return ''

    def paths(self) -> tuple[Path, ...]:
        """The files and folders it is read from; if they change, it is prepared again."""
        return ()

    def frames(self, report: Report) -> Iterator[Frame]:
        """Yields every frame in order; reports unusable ones to `report`."""
        raise NotImplementedError

    def expected_frames(self) -> int | None:
        """The approximate number of frames, without reading them; None if unknown."""
        return None

    def identity(self) -> str:
        """A string that changes when the output of `frames` may change."""
        return f'{self!r} {[_state(path) for path in self.paths()]}'


def _state(path: Path) -> str:
    """A digest that changes with the file, or with any file directly in the folder.

    A folder's own time does not change when a file in it is overwritten.
    """
    digest = hashlib.sha256(str(path).encode())
    try:
        stats = [('', path.stat())]
        if path.is_dir():
            with os.scandir(path) as found:
                # A link counts with its target, or by itself if that is missing.
                stats += sorted(
                    (e.name, e.stat(follow_symlinks=os.path.exists(e.path))) for e in found
                )
    except OSError as error:
        stats = []
        digest.update(type(error).__name__.encode())
    for name, stat in stats:
        digest.update(f'{name}\0{stat.st_size} {stat.st_mtime_ns}\0'.encode())
    return digest.hexdigest()
