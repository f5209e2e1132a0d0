"""A fixed set of clips of a split, for validation during training."""

from collections.abc import Sequence

import numpy as np

from data.videos import open_split
from data.windows import ClipReader, Resize, Window, problem_lines, target_offset, usable_targets
from stsa_jax.errors import InputError
from stsa_jax.media.preprocess import IMAGENET, Normalisation, resize_frame


class HeldOutClips:
    """`count` clips spread evenly over the videos and over each video's time.

    Every video contributes one clip before any contributes two. `len(clips)` is their number, and
    `clips.read(indices)` reads some of them as a batch, see data.windows.ClipReader.
    `clips.problems` are lines about what could not be read so far, without repetitions.
    """

    def __init__(
        self,
        datasets: Sequence[str],
        count: int,
        *,
        split: str = 'validation',
        data_dir: str | None = None,
        image_size: tuple[int, int] = (224, 384),
        frames: int = 32,
        target: str = 'middle',
        normalisation: Normalisation | None = IMAGENET,
        resize: Resize = resize_frame,
        step: int = 1,
    ):
        """Raises InputError if a dataset or its split is missing, or has no fixations."""
        opened = tuple(open_split(name, split, data_dir) for name in datasets)
        offset = target_offset(frames, target)
        height, width = image_size
        self._reader = ClipReader(
            opened, (height, width), frames, offset, normalisation, target == 'all', resize, step
        )
        videos = [
            (d, v, targets)
            for d, dataset in enumerate(opened)
            for v, video in enumerate(dataset.videos)
            if len(targets := usable_targets(video, frames, offset, step))
        ]
        if not videos or count < 1:
            raise InputError(
                f'no held-out clips in split {split!r} of {", ".join(datasets)}: its videos have '
                f'no fixations, or the number of clips, {count}, is not positive'
            )
        chosen = np.linspace(0, len(videos), min(count, len(videos)), endpoint=False).astype(int)
        self._windows = []
        self.problems: list[str] = []
        for i, (d, v, targets) in enumerate(videos[j] for j in chosen):
            share = len(range(i, count, len(chosen)))  # this video's clips
            at = (np.arange(share) + 0.5) / share * len(targets)
            places = sorted(set(at.astype(int)))
            self._windows += [Window(d, v, int(targets[place])) for place in places]

    def __len__(self) -> int:
        return len(self._windows)

    def read(self, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """A batch of the clips with these indices."""
        batch = self._reader([self._windows[i] for i in indices])
        self.problems = list(dict.fromkeys([*self.problems, *problem_lines(batch)]))
        return batch
