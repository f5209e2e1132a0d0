"""Selects the frames of a prepared split to evaluate."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from stsa_jax.errors import InputError

CLIP = 'clip'
_CLIP_FRAMES, _CLIP_TARGET = 32, 15
# Frames between the starts of the released code's windows; 32 for other datasets.
_CLIP_STEP = {'hollywood2': 64, 'ucf_sports': 4}


class Dataset(Protocol):
    """A prepared split video by video, such as `data.open_split` gives (data.VideoDataset)."""

    name: str
    split: str
    folder: str
    videos: list[Any]

    def frame(self, i: int) -> np.ndarray:
        """Frame of example i: uint8 RGB (h, w, 3)."""

    def density(self, i: int) -> np.ndarray | None:
        """Density map of example i: float32 (h, w); None without annotation."""

    def fixations(self, i: int) -> np.ndarray | None:
        """Fixation map of example i: bool (h, w); None without annotation."""

    def frame_number(self, i: int) -> int:
        """The frame's number in the dataset's numbering."""


@dataclasses.dataclass(frozen=True)
class Selected:
    """A video and its frames to evaluate, counted from 0."""

    name: str
    first_example: int
    num_frames: int
    height: int
    width: int
    positions: np.ndarray

    @property
    def examples(self) -> np.ndarray:
        """Their indices in the dataset."""
        return self.first_example + self.positions


def select(dataset: Dataset, *, every: int | str = 1, videos: Sequence[str] = ()) -> list[Selected]:
    """The evaluated frames of `dataset`, in the order of its videos.

    Args:
        dataset: a `data.VideoDataset`.
        every: selects frames 1, 1 + every, ... of each video; or 'clip': the 16th of each window
            of 32 frames on which the released code validates, see `clip_step`; shorter videos have
            none.
        videos: names to select; all if empty.

    Raises InputError for a video that does not exist, or if nothing is selected.
    """
    if every != CLIP and (not isinstance(every, int) or every < 1):
        raise InputError(f"every {every}-th frame: expected 1 or more, or '{CLIP}'")
    there = {v.name: v for v in dataset.videos}
    missing = [name for name in videos if name not in there]
    if missing:
        raise InputError(
            f'{dataset.name}, split {dataset.split!r}: has no video {", ".join(missing)} '
            f'(it has {len(there)}: {", ".join(sorted(there)[:5])}, ...)'
        )
    chosen = [there[name] for name in videos] if videos else dataset.videos
    if not chosen:
        raise InputError(f'{dataset.name}, split {dataset.split!r}: has no videos')
    selected = [
        Selected(
            v.name, v.first_example, v.num_frames, v.height, v.width,
            _positions(v.num_frames, every, dataset.name),
        )
        for v in chosen
    ]  # fmt: skip
    selected = [v for v in selected if len(v.positions)]
    if not selected:
        raise InputError(
            f'{dataset.name}, split {dataset.split!r}: no video has {_CLIP_FRAMES} frames, so '
            f"'{CLIP}' selects none; use every frame"
        )
    return selected


def clip_step(dataset: str) -> int:
    """Frames from one window of the released code's validation to the next."""
    return _CLIP_STEP.get(dataset, _CLIP_FRAMES)


def _positions(frames: int, every: int | str, dataset: str) -> np.ndarray:
    if every == CLIP:
        # The released UCF loader omits a window that ends with the video.
        end = frames - _CLIP_FRAMES + (dataset != 'ucf_sports')
        return np.arange(0, end, clip_step(dataset)) + _CLIP_TARGET
    return np.arange(0, frames, int(every))
