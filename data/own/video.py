"""A user's own video with any annotation; missing maps are generated.

Density maps, fixation maps and gaze are each optional: fixations are made from gaze, density maps
from fixations. A video with only density maps can be used for training, and scored by the metrics
that need no fixations.
"""

import dataclasses
import math
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av.error import FFmpegError

from data import gaze
from data.copies import images, tree
from data.copies.folders import (
    Annotation,
    FolderVideo,
    Map,
    read_fixations,
    read_map,
)
from data.copies.sources import Report
from data.copies.video_file import frames_in_header
from data.own.gaze_tables import Samples
from data.own.looking import AS_IT_IS, View, fixations_of
from stsa_jax.errors import InputError
from stsa_jax.media.packets import Packets

# Relative to the video's width, as in DHF1K's maps.
RELATIVE_SIGMA = gaze.DHF1K_SIGMA / gaze.DHF1K_SIZE[1]
KINDS = (*tree.IMAGES, *tree.MATLAB)


class Sigma(NamedTuple):
    """Of the Gaussians: pixels of the video, or degrees of sight; neither, 2 % of the width.

    For degrees: how far the viewer sat from the screen, and the width of the screen, both in the
    same unit of length.
    """

    pixels: float = 0
    degrees: float = 0
    distance: float = 0
    screen_width: float = 0

    def of(self, size: tuple[int, int], view: View) -> float:
        """In pixels of a video of `size` (h, w)."""
        if self.pixels:
            return self.pixels
        if not self.degrees:
            return RELATIVE_SIGMA * size[1]
        # The screen is as wide as the video, unless its own pixels are given.
        across = view.screen[1] if view.screen else size[1]
        on_screen = math.tan(math.radians(self.degrees)) * self.distance / self.screen_width
        return on_screen * across / view.scale(size)


BY_WIDTH = Sigma()


@dataclasses.dataclass(frozen=True)
class OwnVideo(FolderVideo):
    """See the module's docstring. `fps` is the rate of a folder of frames."""

    samples: Samples | None = None
    view: View = AS_IT_IS
    sigma: Sigma = BY_WIDTH
    fps: float = 30

    @property
    def has_fixations(self) -> bool:
        """Whether there are fixations or gaze; density maps alone do not count."""
        return bool(self.fixations or self.samples is not None or not self.maps)

    def annotation(self, report: Report) -> Annotation:
        """Of the maps that are there; see the module's docstring."""
        if self.fixations and self.maps:
            return super().annotation(report)
        maps, fixations = (
            tree.numbered(Path(folder), Path(self.root), KINDS, report) if folder else {}
            for folder in (self.maps, self.fixations)
        )
        if self.samples is not None and not self.fixations:
            try:
                numbers, times = self.timing()
            except (FFmpegError, OSError):
                return Annotation()  # reading its frames reports the problem
            size = self.size()
            if not numbers or size is None:
                return Annotation()
            looks = fixations_of(self.samples, self.view, size, numbers, times, report)
            return MadeFromGaze(self, looks, size, maps)
        if fixations:
            return MadeFromFixations(self, fixations)
        return DensitiesAlone(maps) if maps else Annotation()

    def size(self) -> tuple[int, int] | None:
        """(h, w) of its first frame; None if none can be read."""
        first = next(iter(self.images(Report())), None)
        return None if first is None else first[1].shape[:2]

    def timing(self) -> tuple[list[int], np.ndarray]:
        """The frames' numbers, and (n + 1,) when each begins and the last one ends, in seconds.

        Raises OSError or FFmpegError if it is a file but not a video.
        """
        source = Path(self.frames_from)
        if source.is_dir():
            numbers = sorted(tree.numbered(source, Path(self.root), tree.IMAGES, Report()))
            return numbers, (np.arange(len(numbers) + 1)) / self.fps
        packets = Packets(source)
        if packets.constant:  # places without a frame have a time, too
            count = max(packets.numbers, default=0)
            numbers = list(range(1, count + 1))
            begins = [packets.time(n, None) for n in numbers]
        else:
            numbers = sorted(packets.numbers)
            begins = packets.times()
        end = (begins[-1] if begins else Fraction(0)) + packets.last_duration()
        return numbers, np.array([float(t) for t in (*begins, end)])

    def expected_frames(self) -> int:
        """As `FolderVideo`'s."""
        if not self.frames_from:
            return 0
        source = Path(self.frames_from)
        return super().expected_frames() if source.is_dir() else frames_in_header(source)


class MadeFromGaze(Annotation):
    """Fixation maps from samples; density maps from files where they are, else from fixations."""

    expected = True

    def __init__(
        self, video: OwnVideo, looks: gaze.Fixations, size: tuple[int, int], maps: dict[int, Path]
    ):
        self.looks, self._size, self._maps = looks, size, maps
        self._sigma = video.sigma.of(size, video.view)
        self._source = video.samples.source if video.samples else ''
        order = np.argsort(looks.frame, kind='stable')
        self._frames = looks.frame[order]
        self._y, self._x = looks.y[order], looks.x[order]
        looked_at = range(int(self._frames[0]), int(self._frames[-1]) + 1) if len(order) else ()
        self.numbers = frozenset(maps or looked_at)

    def path(self, number: int) -> str:
        """The density map's file, or the table."""
        return str(self._maps.get(number, self._source))

    def read(self, number: int) -> tuple[Map, Map]:
        """See Annotation."""
        start, stop = np.searchsorted(self._frames, [number, number + 1])
        fixated = np.zeros(self._size, bool)
        fixated[self._y[start:stop], self._x[start:stop]] = True
        if not self._maps:
            return _blurred(fixated, self._sigma), Map.of(fixated.astype(np.uint8) * 255)
        density = read_map(self._maps[number], '')
        if density.size != self._size:
            fixated = images.move_points(fixated, density.size)
        return density, Map.of(fixated.astype(np.uint8) * 255)


class MadeFromFixations(Annotation):
    """Fixation maps from files, density maps from them."""

    expected = True

    def __init__(self, video: OwnVideo, fixations: dict[int, Path]):
        self._video, self._fixations = video, fixations
        self._width: int | None = None
        self.numbers = frozenset(fixations)

    def path(self, number: int) -> str:
        """The fixation map's file."""
        return str(self._fixations[number])

    def read(self, number: int) -> tuple[Map, Map]:
        """See Annotation. A sigma in pixels is in those of the video, not of the map."""
        fixations = read_fixations(self._fixations[number], '')
        if self._width is None:
            size = self._video.size() if self._video.frames_from else None
            self._width = fixations.size[1] if size is None else size[1]
        height, width = fixations.size
        size = (round(height * self._width / width), self._width)
        sigma = self._video.sigma.of(size, self._video.view) * width / self._width
        return _blurred(fixations.values > 0, sigma), fixations


class DensitiesAlone(Annotation):
    """Density maps from files; fixations are unknown, which does not mean that there are none."""

    expected = True
    densities_alone = True

    def __init__(self, maps: dict[int, Path]):
        self._maps = maps
        self.numbers = frozenset(maps)

    def path(self, number: int) -> str:
        """The density map's file."""
        return str(self._maps[number])

    def read(self, number: int) -> tuple[Map, Map]:
        """See Annotation; the fixation map is black."""
        density = read_map(self._maps[number], '')
        return density, Map.of(np.zeros(density.size, np.uint8))


def _blurred(fixated: np.ndarray, sigma: float) -> Map:
    return Map.of(images.rescale_to_uint8(gaze.density_map(fixated, sigma)))


def check_sigma(sigma: Sigma) -> None:
    """Raises InputError for a sigma that says too little or is not positive."""
    if sigma.degrees and not (sigma.distance > 0 and sigma.screen_width > 0):
        raise InputError(
            f'--sigma={sigma.degrees:g}deg: to be pixels it needs the viewing distance and the '
            "screen's width, in one unit: --viewing_distance=60 --screen_width=52"
        )
    if min(sigma) < 0:
        raise InputError('--sigma, --viewing_distance, --screen_width: positive numbers expected')
