"""What every saliency model's config says of its clips, and the check that a clip fits.

A config has `frames`, `image_size` (H, W) and `target`, which of the clip's frames the output is a
map of: 'middle' (frame T/2, counted from 1), 'last', or 'all', a map for each of them. A config
class may say in `beginning` what the clips of a video's first frames are made of: 'repeated' (the
default), the first frame as often as needed, or 'reversed', the clip that begins with the frame,
run backwards.
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
