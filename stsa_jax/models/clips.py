"""The clip fields of every saliency model's config, and a check of clip shapes.

A config has `frames`, `image_size` (H, W) and `target`, the frames that the output describes:
'middle' (frame T/2, counted from 1), 'last', or 'all', a map for each of them. A config class may
set `beginning`, the clips of a video's first frames: 'repeated' (the default), the first frame is
repeated, or 'reversed', the clip that starts with the frame, reversed.
"""

from typing import Any

import jax

from stsa_jax.errors import InputError


def check_clip(clip: jax.Array, config: Any) -> None:
    """Raises InputError unless `clip` is `(B, T, H, W, 3)` of the config's frames and size."""
    expected = (config.frames, *config.image_size, 3)
    if clip.ndim != 5 or clip.shape[1:] != expected:
        raise InputError(
            f'a clip of shape {clip.shape} does not fit this model: expected (B, '
            f'{", ".join(map(str, expected))}), that is batch, frames, height, width, RGB; '
            'resize and trim the frames, or use a model with another image_size and frames'
        )
