"""The index of a split: metadata of its videos, available without reading their frames."""

import tensorflow_datasets as tfds

from data.copies import images
from data.preparation.features import parse

RAW = tfds.decode.DeserializeMethod.RAW_BYTES


class VideoIndex:
    """Collects the metadata of one video."""

    def __init__(self, name: str, kind: str):
        self.name, self.kind, self.num_frames = name, kind, 0
        self.size, self.first_number = (0, 0), 0
        self.unusable: list[list[int]] = []
        self.has_fixations = True

    def add(
        self, size: tuple[int, int], number: int, usable: bool, density_alone: bool = False
    ) -> None:
        """Counts one more frame, with its annotation's size and whether it can be a target.

        `density_alone`: it has a density map, but its fixations are unknown.
        """
        self.has_fixations &= not density_alone
        if not self.num_frames:
            self.size, self.first_number = size, number
        if not usable:
            if self.unusable and self.unusable[-1][1] == self.num_frames:
                self.unusable[-1][1] += 1
            else:
                self.unusable.append([self.num_frames, self.num_frames + 1])
        self.num_frames += 1

    def as_dict(self) -> dict:
        """For JSON. `unusable`: ranges [start, stop) of frames that cannot be targets."""
        alone = {} if self.has_fixations else {'has_fixations': False}
        return {
            **alone,
            'name': self.name,
            'kind': self.kind,
            'num_frames': self.num_frames,
            'height': self.size[0],
            'width': self.size[1],
            'first_number': self.first_number,
            'unusable': self.unusable,
        }


def index_split(builder: tfds.core.DatasetBuilder, split: str) -> list[dict]:
    """The index of a split's videos, from reading all of it."""
    indexes: list[VideoIndex] = []
    for record in builder.as_data_source(split, deserialize_method=RAW):
        example = parse(record)
        if not indexes or indexes[-1].name != example['video']:
            indexes.append(VideoIndex(example['video'], example['kind']))
        fixations = images.decode_map(example['fixations'])
        usable = fixations.any() and not images.is_black(example['density'])
        indexes[-1].add(fixations.shape, example['frame_number'], bool(usable))
    return [index.as_dict() for index in indexes]
