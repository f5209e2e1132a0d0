"""A folder of recordings as ground truth for scoring maps, without preparation."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.copies.folders import Annotation, Map
from data.copies.sources import Report
from data.own.recordings import How, find_recordings
from data.own.video import OwnVideo
from data.videos import VideoInfo
from stsa_jax.errors import InputError

GREY = 128  # stands for a frame that is not there
SHOWN = 10  # notes


class FolderTruth:
    """The annotated frames of a folder, with the attributes and methods of a VideoDataset.

    Frames without annotation are not included. `notes` are lines for the user.
    """

    def __init__(self, root: Path, how: How, split: str = ''):
        """`split`: of those that the folder has; all videos without.

        Raises InputError if there is nothing to score against.
        """
        report = Report()
        found = find_recordings(root, how, report, framed=False)
        self.folder = str(root)
        self.name, self.split = root.resolve().name, split or 'all'
        chosen = found.videos
        if split in found.subsets:
            listed = found.subsets[split]['videos']
            chosen = [video for video in chosen if video.name in listed]
        elif split:
            chosen = [video for video in chosen if found.splits.get(video.name) == split]
            if not chosen:
                there = ', '.join(sorted({*found.splits.values(), *found.subsets}))
                raise InputError(f'{root}: no video is in split {split!r}; there are {there}')
        self.videos: list[VideoInfo] = []
        self._numbers: list[list[int]] = []
        self._annotations: list[Annotation] = []
        self._sources: list[OwnVideo] = []
        first = 0
        for video in chosen:
            annotation = video.annotation(report)
            numbers = sorted(annotation.numbers)
            size = _size(annotation, numbers)
            if size is None:
                report.add(video.frames_from or video.name, 'has no annotation', 'not scored')
                continue
            self.videos.append(
                VideoInfo(
                    video.name, first, len(numbers), *size, first_number=numbers[0],
                    has_fixations=video.has_fixations,
                )
            )  # fmt: skip
            self._numbers.append(numbers)
            self._annotations.append(annotation)
            self._sources.append(video)
            first += len(numbers)
        if not self.videos:
            raise InputError(
                f'{root}: nothing to score against; of its {len(chosen)} videos none has density '
                'maps, fixation maps or gaze'
                + ''.join(f'\n  {problem}' for problem in report.problems[:5])
            )
        self._firsts = np.array([video.first_example for video in self.videos])
        self._total = first
        self._reading: tuple[int, Iterator[tuple[int, np.ndarray]]] | None = None
        self._last: tuple[int, np.ndarray] = 0, np.zeros((1, 1, 3), np.uint8)
        lines = [str(problem) for problem in report.problems]
        more = [f'{len(lines) - SHOWN} more notes on the folder'] if len(lines) > SHOWN else []
        self.notes = [*found.notes, *lines[:SHOWN], *more]

    def __len__(self) -> int:
        return self._total

    def frame_number(self, i: int) -> int:
        """The number of example i."""
        video, place = self._at(i)
        return self._numbers[video][place]

    def density(self, i: int) -> np.ndarray | None:
        """Density map of example i: float32 (h, w) in [0, 1]; None if it cannot be read."""
        maps = self._maps(i)
        return None if maps is None else maps[0].values.astype(np.float32) / 255

    def fixations(self, i: int) -> np.ndarray | None:
        """Fixation map of example i: bool (h, w); None if it cannot be read."""
        maps = self._maps(i)
        return None if maps is None else maps[1].values > 0

    def frame(self, i: int) -> np.ndarray:
        """Frame of example i: uint8 RGB (h, w, 3); grey if it is missing. Fast in order."""
        video, _ = self._at(i)
        number, source = self.frame_number(i), self._sources[video]
        if source.frames_from:
            if self._reading is None or self._reading[0] != video or self._last[0] > number:
                self._reading = video, source.images(Report())
                self._last = 0, self._last[1]
            if self._last[0] != number:
                before = itertools.dropwhile(lambda item: item[0] < number, self._reading[1])
                self._last = next(before, (number + 1, self._last[1]))
            if self._last[0] == number:
                return self._last[1]
        info = self.videos[video]
        return np.full((info.height, info.width, 3), GREY, np.uint8)

    def _at(self, i: int) -> tuple[int, int]:
        if not 0 <= i < self._total:
            raise IndexError(f'example {i} of {self._total} of {self.folder}')
        video = int(np.searchsorted(self._firsts, i, 'right')) - 1
        return video, i - int(self._firsts[video])

    def _maps(self, i: int) -> tuple[Map, Map] | None:
        video, place = self._at(i)
        try:
            return self._annotations[video].read(self._numbers[video][place])
        except (OSError, ValueError):
            return None


def _size(annotation: Annotation, numbers: list[int]) -> tuple[int, int] | None:
    """(h, w) of the first density map that can be read."""
    for number in numbers:
        try:
            return annotation.read(number)[0].size
        except (OSError, ValueError):
            continue
    return None
