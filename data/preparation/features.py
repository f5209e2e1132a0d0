"""The features of one example, the same for every dataset: one frame with its annotation.

    frame         image (H, W, 3)   RGB at training size (or at the video's own), JPEG or PNG
    density       image (h, w, 1)   uint8 at the annotation's own size, PNG; black if there is none
    fixations     image (h, w, 1)   255 at fixated pixels, 0 elsewhere, PNG; black if there is none
    annotated     bool              whether density and fixations were given for this frame
    video         text              the video's name in the dataset
    kind          text              the kind of video, if the dataset has kinds
    frame_number  int32             in the dataset's numbering

Examples are in the order of the videos, and within a video in the order of its frames.
"""

import dataclasses

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from data.copies import images

TRAINING_SIZE = (224, 384)  # (H, W), the paper's
IMAGES = ('frame', 'density', 'fixations')


@dataclasses.dataclass(kw_only=True)
class FrameStorage(tfds.core.BuilderConfig):
    """How frames are stored: `size` (H, W), or None for the video's own; 'jpeg' or 'png'."""

    size: tuple[int, int] | None = TRAINING_SIZE
    encoding: str = 'jpeg'


def storage(size: tuple[int, int] | None, encoding: str = 'jpeg') -> FrameStorage:
    """The FrameStorage of this size and encoding, with the name of its folder."""
    name = 'original' if size is None else f'{size[0]}x{size[1]}'
    quality = f', quality {images.JPEG_QUALITY}' if encoding == 'jpeg' else ''
    return FrameStorage(
        name=name if encoding == 'jpeg' else f'{name}_{encoding}',
        description=f'Frames at {name} size as {encoding.upper()}{quality}.',
        size=size,
        encoding=encoding,
    )


TRAINING_JPEG = storage(TRAINING_SIZE)
TRAINING_PNG = storage(TRAINING_SIZE, 'png')
ORIGINAL_PNG = storage(None, 'png')
ORIGINAL_JPEG = storage(None)


def frame_features(encoding: str = 'jpeg') -> tfds.features.FeaturesDict:
    """The TFDS features of one example, see the module's docstring."""
    one_channel = {'shape': (None, None, 1), 'dtype': np.uint8, 'encoding_format': 'png'}
    return tfds.features.FeaturesDict(
        {
            'frame': tfds.features.Image(shape=(None, None, 3), encoding_format=encoding),
            'density': tfds.features.Image(**one_channel),
            'fixations': tfds.features.Image(**one_channel),
            'annotated': tfds.features.Scalar(np.bool_),
            'video': tfds.features.Text(),
            'kind': tfds.features.Text(),
            'frame_number': tfds.features.Scalar(np.int32),
        }
    )


def serialise(example: dict) -> bytes:
    """The record of an example whose images are the bytes of their files; `parse` is the inverse.

    The same record as TFDS's own serialisation of `frame_features`, in a tenth of its time.
    """
    record = tf_example_pb2.Example()
    feature = record.features.feature
    for name in IMAGES:
        feature[name].bytes_list.value.append(example[name])
    for name in ('video', 'kind'):
        feature[name].bytes_list.value.append(example[name].encode())
    for name in ('annotated', 'frame_number'):
        feature[name].int64_list.value.append(int(example[name]))
    return record.SerializeToString()


def parse(record: bytes) -> dict:
    """A record to an example with its images left as the bytes of their files.

    TFDS's own parser takes several times as long, holds Python's lock, and decodes every image,
    though only the target's maps are used. Raises ValueError or DecodeError if the record is
    damaged.
    """
    feature = tf_example_pb2.Example.FromString(record).features.feature
    example = {name: feature[name].bytes_list.value[0] for name in IMAGES}
    for name in ('video', 'kind'):
        example[name] = feature[name].bytes_list.value[0].decode()
    example['annotated'] = bool(feature['annotated'].int64_list.value[0])
    example['frame_number'] = feature['frame_number'].int64_list.value[0]
    return example
