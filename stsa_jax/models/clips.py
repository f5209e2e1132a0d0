"""The clip fields of every saliency model's config, and a check of clip shapes.

A config has `frames`, `image_size` (H, W) and `target`, the frames that the output describes:
'middle' (frame T/2, counted from 1), 'last', or 'all', a map for each of them. A config class may
set `beginning`, the clips of a video's first frames: 'repeated' (the default), the first frame is
repeated, or 'reversed', the clip that starts with the frame, reversed.

Recurrent models have `recurrent` set, and `step`, the frames of the video from one of the clip to
the next. A video is then `step` sequences of clips, the k-th of frames k, k + step, ..., and each
clip starts from the state that the one before it left (the intermediate 'state'; all zeros at the
start).
"""

from collections.abc import Mapping
from typing import Any

import jax

from stsa_jax.errors import InputError


def target_index(config: Any) -> int:
    """Position in the clip, from 0, of the frame that the output describes; the last of 'all'."""
    return config.frames // 2 - 1 if config.target == 'middle' else config.frames - 1


def check_clip(clip: jax.Array, config: Any) -> None:
    """Raises InputError unless `clip` is `(B, T, H, W, 3)` of the config's frames and size."""
    expected = (config.frames, *config.image_size, 3)
    if clip.ndim != 5 or clip.shape[1:] != expected:
        raise InputError(
            f'a clip of shape {clip.shape} does not fit this model: expected (B, '
            f'{", ".join(map(str, expected))}), that is batch, frames, height, width, RGB; '
            'resize and trim the frames, or use a model with another image_size and frames'
        )


def check_fields(config: Any, frames: int) -> None:
    """Raises InputError for fields that no config of these models with S3D's backbone has."""
    object.__setattr__(config, 'image_size', tuple(config.image_size))
    size = config.image_size
    checks = {
        'image_size': (
            len(size) == 2 and all(n >= 32 and n % 32 == 0 for n in size),
            'two multiples of 32, such as (224, 384)',
        ),
        'frames': (config.frames == frames, f"{frames}: the decoder's kernels are made for them"),
        'target': (config.target == 'last', "'last'"),
        'width': (config.width > 0, 'a positive number, 1 for the released model'),
        'batch_norm_momentum': (0 < config.batch_norm_momentum <= 1, 'a number in (0, 1]'),
    }
    refuse_bad_fields(config, checks)


def refuse_bad_fields(config: Any, checks: Mapping[str, tuple[bool, str]]) -> None:
    """Raises InputError for the first field that is not good; {field: (good, what is expected)}."""
    for field, (good, expected) in checks.items():
        if not good:
            raise InputError(
                f'config.model.{field} is {getattr(config, field)!r}, expected {expected}'
            )
