"""Fixations of all evaluated frames, read once, and each frame's negatives for sAUC."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from stsa_jax.errors import InputError
from stsa_jax.evaluation.selection import Dataset, Selected


def frame_seed(*parts) -> int:
    """A seed that depends only on the parts, not on the order in which frames are visited."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], 'little')


class GroundTruth:
    """Fixation positions per frame; a few bytes per fixation, so whole datasets fit in memory."""

    def __init__(
        self, dataset: Dataset, videos: Sequence[Selected], *, seed: int, workers: int = 2
    ):
        """Reads the fixation maps of all frames of `videos`.

        Raises InputError if there is no fixation, unless a video has only density maps.
        """
        self.dataset, self.seed = dataset, seed
        self._first = {video.name: video.first_example for video in videos}
        self._size: dict[int, tuple[int, int]] = {}
        self._video: dict[int, str] = {}
        known = {v.name: getattr(v, 'has_fixations', True) for v in dataset.videos}
        self._alone = {v.name for v in videos if not known.get(v.name, True)}
        self._positions: dict[int, np.ndarray] = {}
        for video in videos:
            self._video |= dict.fromkeys(video.examples.tolist(), video.name)
        examples = list(self._video)
        with ThreadPoolExecutor(workers) as pool:
            for example, (size, positions) in zip(
                examples,
                tqdm(
                    pool.map(self._read, examples),
                    total=len(examples),
                    desc=f'{dataset.name}: fixations',
                    unit='frame',
                    disable=None,
                ),
            ):
                self._size[example], self._positions[example] = size, positions
        # Sorted, because negatives must not depend on the order of the videos.
        self._pool = sorted(
            (e for e in examples if len(self._positions[e])), key=lambda e: (self._video[e], e)
        )
        if not self._pool and not self._alone:
            raise InputError(
                f'{dataset.name}, split {dataset.split!r}: has no fixations in the chosen frames, '
                'so nothing can be scored; is it the unannotated test split?'
            )
        self._by_video: dict[str, int] = {}
        for example in self._pool:
            name = self._video[example]
            self._by_video[name] = self._by_video.get(name, 0) + 1

    def _read(self, example: int):
        fixations = self.dataset.fixations(example)
        if fixations is None:
            return (0, 0), np.zeros(0, np.int32)
        return fixations.shape, np.flatnonzero(fixations).astype(np.int32)

    def most_fixations(self, frames: int = 1) -> int:
        """An upper bound on the total fixations of this many frames."""
        counts = sorted((len(positions) for positions in self._positions.values()), reverse=True)
        return sum(counts[:frames])

    def digest(self) -> str:
        """A digest of the fixations of all frames: a frame's negatives come from other frames."""
        digest = hashlib.sha256()
        for example in sorted(self._positions, key=lambda e: (self._video[e], e)):
            digest.update(f'{self._video[example]} {self._size[example]}'.encode())
            digest.update(self._positions[example].tobytes())
        return digest.hexdigest()

    def count(self, example: int) -> int:
        """The number of fixated pixels of frame `example`."""
        return len(self._positions[example])

    def density_alone(self, example: int) -> bool:
        """Whether this frame's video has density maps but no known fixations."""
        return self._video[example] in self._alone

    @property
    def has_fixations(self) -> bool:
        """Whether any frame has fixations."""
        return bool(self._pool)

    def size(self, example: int) -> tuple[int, int]:
        """(h, w) of the annotation of frame `example`; (0, 0) without one."""
        return self._size[example]

    def density(self, example: int) -> np.ndarray:
        """float32 (h, w): the density map of a frame that has fixations."""
        density = self.dataset.density(example)
        assert density is not None, 'an annotated frame has both maps'
        return density

    def positions(self, example: int) -> np.ndarray:
        """Row-major positions of the fixated pixels of frame `example`, ascending, int32 (n,)."""
        return self._positions[example]

    def other_frames(self, example: int, number: int) -> list[int]:
        """`number` frames of other videos, each with fixations, drawn for this frame.

        The draw depends only on the seed, the dataset, the video and the frame. Fewer if the other
        videos have fewer.
        """
        own = self._video[example]
        rng = np.random.default_rng(frame_seed('negatives', self.seed, *self.identity(example)))
        available = len(self._pool) - self._by_video.get(own, 0)
        chosen: dict[int, None] = {}
        while len(chosen) < min(number, available):
            candidate = self._pool[rng.integers(len(self._pool))]
            if self._video[candidate] != own:
                chosen[candidate] = None
        return list(chosen)

    def identity(self, example: int) -> tuple[str, str, int]:
        """Dataset, video and index in the video: the seed of random draws for a frame."""
        video = self._video[example]
        return self.dataset.name, video, example - self._first[video]

    def other_positions(self, example: int, number: int) -> np.ndarray:
        """Fixated pixels of `other_frames`, ascending positions in a map of this frame's size.

        A fixation keeps its relative position: its pixel centre maps to the pixel that contains it.
        """
        height, width = self._size[example]
        found = [np.zeros(0, np.int64)]
        for other in self.other_frames(example, number):
            h, w = self._size[other]
            positions = self._positions[other]
            if (h, w) != (height, width):
                rows, columns = np.divmod(positions, w)
                rows = ((rows + 0.5) * (height / h)).astype(np.int64)
                columns = ((columns + 0.5) * (width / w)).astype(np.int64)
                positions = rows * width + columns
            found.append(positions)
        return np.unique(np.concatenate(found))
