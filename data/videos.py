"""Access to a prepared split by video: frames, density and fixation maps in random order.

dataset = open_split('dhf1k', 'validation')
video = dataset.videos[0]
for i in range(video.first_example, video.first_example + video.num_frames):
    dataset.frame(i), dataset.density(i), dataset.fixations(i), dataset.frame_number(i)
"""

import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError

from data.copies import images
from data.preparation.features import parse
from data.preparation.index import RAW, index_split
from data.preparation.registry import default_data_dir, prepare_command
from stsa_jax.errors import InputError
from stsa_jax.remote import is_remote, local


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """One video of a split. Its frames are examples first_example .. first_example+num_frames-1.

    `height, width` are those of its annotation (for a video without one, of the video itself);
    `unusable` are ranges [start, stop), counted from its first frame, of frames that cannot be
    targets of training: without any fixation, or without any density. Without `has_fixations` it
    has only density maps, such as those of another model; fixation maps are black.
    """

    name: str
    first_example: int
    num_frames: int
    height: int
    width: int
    kind: str = ''
    first_number: int = 1
    unusable: tuple[tuple[int, int], ...] = ()
    has_fixations: bool = True

    def usable(self) -> np.ndarray:
        """bool (num_frames,): the frames that can be targets, with a fixation and density."""
        usable = np.ones(self.num_frames, bool)
        for start, stop in self.unusable:
            usable[start:stop] = False
        return usable


class VideoDataset:
    """Random access to the frames of a prepared split. Picklable."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, part: dict | None = None):
        """`part` restricts the videos to some names, or each video to its `first_frames`."""
        self.name, self.split = builder.name, split
        self.folder = str(builder.data_dir)
        self._source = builder.as_data_source(split, deserialize_method=RAW)
        indexed = dict(builder.info.metadata or {}).get('videos', {}).get(split)
        self.videos: list[VideoInfo] = []
        first = 0
        for entry in indexed if indexed is not None else index_split(builder, split):
            unusable = tuple(tuple(pair) for pair in entry['unusable'])
            entry = {**entry, 'unusable': unusable}
            self.videos.append(VideoInfo(first_example=first, **entry))
            first += self.videos[-1].num_frames
        if first != len(self._source):
            raise InputError(
                f'{self.folder}: its index counts {first} frames in split {split}, but the files '
                f'hold {len(self._source)}; prepare {self.name} again'
            )
        # Opens each file, to detect truncation here and not during training. If only its first
        # example is damaged, its last one is intact.
        ends = np.cumsum([0, *builder.info.splits[split].shard_lengths]).tolist()
        for first, end in itertools.pairwise(ends):
            try:
                self.example(first)
            except InputError:
                self.example(end - 1)
        if part:
            self.videos = _part_of(self.videos, part)

    def __len__(self) -> int:
        return len(self._source)

    def frame(self, i: int) -> np.ndarray:
        """Frame of example i: uint8 RGB (h, w, 3) at its stored size."""
        return self._decoded(self.example(i), 'frame', images.decode_frame)

    def density(self, i: int) -> np.ndarray | None:
        """Density map of example i: float32 (h, w) in [0, 1] at its original size, or None."""
        density = self._map(i, 'density')
        return None if density is None else density.astype(np.float32) / 255

    def fixations(self, i: int) -> np.ndarray | None:
        """Fixation map of example i: bool (h, w) at its original size, None without annotation."""
        fixations = self._map(i, 'fixations')
        return None if fixations is None else fixations > 0

    def enlarged(self, image_size: tuple[int, int]) -> str:
        """A line for the user if frames are stored smaller than `image_size` (H, W), else ''.

        Frames stored at their video's own size cannot be improved, and give no line.
        """
        stored = re.match(r'(\d+)x(\d+)', Path(self.folder).parent.name)
        if not stored or all(int(n) >= wanted for n, wanted in zip(stored.groups(), image_size)):
            return ''
        size = f'{image_size[0]}x{image_size[1]}'
        return (
            f'{self.name}: its frames are stored at {stored[0]} and enlarged to {size}; for sharp '
            f'ones, {prepare_command(self.name, f"--size={size}")}, and then name the dataset '
            f'{self.name}/{size}'
        )

    def frame_number(self, i: int) -> int:
        """The frame's number in the dataset's numbering."""
        return self.example(i)['frame_number']

    def example(self, i: int) -> dict:
        """Example i as stored, images as the bytes of their files."""
        if not 0 <= i < len(self):
            raise IndexError(f'example {i} of {len(self)} of {self.name}, split {self.split}')
        return self.examples([i])[0]

    def examples(self, indices: Iterable[int]) -> list[dict]:
        """Several examples as stored. Raises InputError if one cannot be read."""
        try:
            return [parse(self._source[i]) for i in indices]
        except (OSError, ValueError, RuntimeError, IndexError, DecodeError) as error:
            raise InputError(
                f'{self.folder}: damaged, split {self.split!r} cannot be read ({error}); remove '
                f'this folder and prepare {self.name} again'
            ) from error

    def _map(self, i: int, name: str) -> np.ndarray | None:
        """A map of example i; None if it is not annotated."""
        example = self.example(i)
        return self._decoded(example, name, images.decode_map) if example['annotated'] else None

    def _decoded(self, example: dict, name: str, decode: Callable) -> np.ndarray:
        try:
            return decode(example[name])
        except OSError as error:
            raise InputError(
                f'{self.folder}: damaged, split {self.split!r}, video {example["video"]}, frame '
                f'{example["frame_number"]}: its {name} cannot be read ({error}); remove this '
                f'folder and prepare {self.name} again'
            ) from error


def _part_of(videos: list[VideoInfo], part: dict) -> list[VideoInfo]:
    names, most = part.get('videos'), part.get('first_frames')
    chosen = [v for v in videos if names is None or v.name in names]
    if most is None:
        return chosen
    return [
        dataclasses.replace(
            v,
            num_frames=min(v.num_frames, most),
            unusable=tuple((a, min(b, most)) for a, b in v.unusable if a < most),
        )
        for v in chosen
    ]


def open_split(name: str, split: str, data_dir: str | os.PathLike | None = None) -> VideoDataset:
    """Opens a prepared split.

    Args:
      name: `dhf1k`, or with the version of its frames, `dhf1k/224x384_png`. The name alone means
        the only prepared version, or the default one among several.
      split: `train`, `validation` or `test`, as the dataset has them; also DIEM's test sets,
        `test_i`, `test_ii`, `test_iii`.
      data_dir: where datasets were prepared; by default TFDS's own folder. In object storage
        (gs://, s3://), see `stsa_jax.remote`.

    Raises InputError if the dataset or the split does not exist.
    """
    builder = prepared_builder(name, data_dir)
    parts = dict(builder.info.metadata or {}).get('subsets', {})
    asked, part = split, parts.get(split)
    if part is not None and part['split'] in builder.info.splits:
        split = part['split']
    if split not in builder.info.splits:
        there = ', '.join(sorted({*builder.info.splits, *parts}))
        raise InputError(f'{builder.data_dir}: no split {split!r}; it has {there}')
    try:
        dataset = VideoDataset(builder, split, part)
        dataset.split = asked
        return dataset
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f'{builder.data_dir}: damaged, its split {split!r} cannot be read ({error}); '
            f'remove this folder and prepare {name} again'
        ) from error


def prepared_builder(
    name: str, data_dir: str | os.PathLike | None = None
) -> tfds.core.DatasetBuilder:
    """A builder that reads the prepared dataset `name`, see `open_split`."""
    dataset, _, config = name.partition('/')
    if any(part in ('', '.', '..') for part in name.split('/')) or os.path.isabs(name):
        raise InputError(f'{name!r} is not the name of a dataset')
    if data_dir and is_remote(data_dir):
        root = Path(local(f'{str(data_dir).rstrip("/")}/{dataset}')).parent
    else:
        root = Path(data_dir).expanduser() if data_dir else default_data_dir()
    pattern = f'{dataset}/{config or "*"}/*/dataset_info.json'
    # Unfinished preparations have folders too, `1.0.0.incomplete...`.
    found = sorted(
        path.parent for path in root.glob(pattern) if re.fullmatch(r'[\d.]+', path.parent.name)
    )
    if not found:
        there = sorted({path.parts[-4] for path in root.glob('*/*/*/dataset_info.json')})
        raise InputError(
            f'{root}: dataset {name!r} is not prepared here (found: {", ".join(there) or "none"}); '
            f'prepare it with: {prepare_command(dataset, f"--data_dir={root}")}'
        )
    folder = found[-1]
    if len({path.parent.name for path in found}) > 1:
        preferred = [p for p in found if p.parent.name in ('224x384', 'original')]
        folder = preferred[0] if preferred else found[0]
    try:
        return tfds.builder_from_directory(folder)
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise InputError(
            f'{folder}: not a readable TFDS dataset ({error}); remove it and prepare {name} again'
        ) from error
