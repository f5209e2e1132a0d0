"""The inter-observer ceiling: half of the viewers predict where the other half looks.

The row's maps are the density maps of one half, with the dataset's blur, scored against the
fixations and density maps of the other half, so no viewer predicts themselves. With half the
viewers both the prediction and the ground truth are noisier than with all, so the row is a
conservative ceiling: a model that reaches it predicts a group as well as another group of that size
does.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stsa_jax.errors import InputError
from stsa_jax.evaluation.selection import Dataset, Selected
from stsa_jax.evaluation.truth import frame_seed

if TYPE_CHECKING:  # the library imports without the datasets
    from data import gaze

NAME = 'inter-observer'


class HalfOfViewers:
    """A dataset with the annotation of only half of its viewers."""

    def __init__(
        self,
        dataset: Dataset,
        viewers: Mapping[str, Sequence[gaze.Fixations]],
        seed: int,
        half: int,
        sigma: Callable[[tuple[int, int]], float] | None = None,
    ):
        """`viewers`: video -> fixations of each viewer; `half`: 0 or 1, of a seeded split.

        `sigma`: size (h, w) -> that of the density maps in pixels; without, see `blur`.
        """
        from data import gaze

        self._sigma = sigma
        self._dataset, self._half = dataset, half
        self.name, self.split, self.folder = dataset.name, dataset.split, dataset.folder
        self.videos = [v for v in dataset.videos if v.name in viewers]
        self._where, self._looks = {}, {}
        for video in self.videos:
            listed = viewers[video.name]
            rng = np.random.default_rng(frame_seed('viewers', seed, dataset.name, video.name))
            chosen = rng.permutation(len(listed))[half::2]
            self._looks[video.name] = gaze.Fixations.together([listed[i] for i in chosen])
            for position in range(video.num_frames):
                self._where[video.first_example + position] = video

    def frame(self, i: int) -> np.ndarray:
        """The dataset's frame."""
        return self._dataset.frame(i)

    def frame_number(self, i: int) -> int:
        """The dataset's frame number."""
        return self._dataset.frame_number(i)

    def fixations(self, i: int) -> np.ndarray:
        """bool (h, w): fixations of this half."""
        video = self._where[i]
        # Records count all positions of a video, some of which may not be stored.
        frame = self._dataset.frame_number(i) - 1
        return self._looks[video.name].map(frame, (video.height, video.width))

    def density(self, i: int) -> np.ndarray:
        """float32 (h, w): fixations of this half, blurred."""
        from data import gaze

        video = self._where[i]
        if self._sigma is not None:
            sigma = self._sigma((video.height, video.width))
        else:
            sigma = blur(self.name, video.width)
        return gaze.density_map(self.fixations(i), sigma).astype(np.float32)

    def maps(self, video: Selected) -> Iterator[np.ndarray]:
        """As a source: this half's density maps."""
        return (self.density(example) for example in video.examples.tolist())

    def identity(self) -> str:
        """A digest of the fixations."""
        digest = hashlib.sha256(str(self._half).encode())
        for name in sorted(self._looks):
            for column in self._looks[name]:
                digest.update(np.ascontiguousarray(column).tobytes())
        return f'viewers {digest.hexdigest()[:24]}'


def blur(dataset: str, width: int) -> float:
    """Standard deviation in pixels of a dataset's density maps, for frames of this width."""
    from data.preparation.registry import EMBEDDED

    if dataset in EMBEDDED:
        from data.synthetic import BLUR

        return BLUR
    from data import gaze

    return gaze.DHF1K_SIGMA * width / gaze.DHF1K_SIZE[1]


def read_viewers(
    dataset: Dataset, root: str | os.PathLike | None = None
) -> dict[str, list[gaze.Fixations]]:
    """Video -> fixations of each viewer, for the videos that have at least two.

    DHF1K: `root` is the copy, or its folder of records, `P01/P01_Trail002.txt`. DIEM: the raw
    dataset, `<video>/event_data/*.txt`. The synthetic datasets render their viewers again. Raises
    InputError if nothing matches.
    """
    from data import gaze
    from data.preparation.registry import EMBEDDED

    if dataset.name in EMBEDDED:
        return _synthetic(dataset)
    if root is None or dataset.name not in ('dhf1k', 'diem'):
        return {}
    if not Path(root).is_dir():
        raise InputError(f"{root}: there is no such folder; expected the viewers' gaze records")
    records = (_dhf1k_records if dataset.name == 'dhf1k' else _diem_records)(Path(root))
    read = gaze.read_dhf1k if dataset.name == 'dhf1k' else gaze.read_diem
    found = {}
    for video in dataset.videos:
        name = re.sub(r'_\d+x\d+$', '', video.name)
        listed = [read(path, (video.height, video.width)) for path in records.get(name, ())]
        if len(listed) > 1:
            found[video.name] = listed
    if not found:
        expected = 'P01/P01_Trail002.txt' if dataset.name == 'dhf1k' else '<video>/event_data/*.txt'
        raise InputError(
            f'{root}: no gaze records of the videos of {dataset.name}, split {dataset.split!r}; '
            f'expected {expected}'
        )
    return found


def _dhf1k_records(root: Path) -> dict[str, list[Path]]:
    """Video -> its records, in `root` itself or in `exportdata_train` of a copy."""
    from data.copies import tree

    inside = (tree.find(root, *at, 'exportdata_train') for at in ((), ('dhf1k',)))
    top = next(filter(None, inside), root)
    records: dict[str, list[Path]] = {}
    for viewer in tree.folders(top, top):
        for path in tree.entries(viewer, top):
            if named := re.fullmatch(r'P\d+_Trail(\d+)\.txt', path.name, re.IGNORECASE):
                records.setdefault(f'{int(named[1]):04d}', []).append(path)
    return records


def _diem_records(root: Path) -> dict[str, list[Path]]:
    """Video, without the size in its folder name -> its gaze files."""
    from data.copies import tree
    from data.copies.sources import Report
    from data.diem import gaze_files

    top = tree.find(root, 'DIEM') or root
    records = {}
    for folder in tree.folders(top, top):
        if events := tree.find(folder, 'event_data'):
            name = re.sub(r'_\d+x\d+$', '', folder.name)
            records[name] = gaze_files(events, top, Report())
    return records


def _synthetic(dataset) -> dict[str, list[gaze.Fixations]]:
    from data import gaze, synthetic

    found: dict[str, list[gaze.Fixations]] = {}
    for video in dataset.videos:
        scene, rng = synthetic.SyntheticVideo.named(video.name).scene()
        places, open_eyes = synthetic.observe(scene, rng)
        found[video.name] = []
        for viewer, seen in zip(places, open_eyes):
            y, x = np.rint(viewer).astype(int).T
            inside = (y >= 0) & (y < video.height) & (x >= 0) & (x < video.width) & seen
            found[video.name].append(gaze.Fixations(np.flatnonzero(inside), y[inside], x[inside]))
    return found
