"""HD2S (Bellitto et al., IJCV 2021): S3D, and a conspicuity map from each of four levels.

    clip (B, 16, 128, 192, 3)
      S3D       after the pools: level 2 (8, 16, 24, 192)  level 3 (4, 8, 12, 480)
                level 4 (2, 4, 6, 832)   level 5 (2, 4, 6, 1024)
      in time   each level's steps are halved by convolutions until one is left
      decoders  by level: 3x3 convolutions, some of them depthwise, and twice the size, up to a map
      map       the four maps, mixed by a 1x1 convolution

As released (perceivelab/hd2s @ 3289dc1, `test.py`): frames are RGB in [-1, 1], resized to 128x192
by OpenCV's bicubic interpolation without antialiasing. The window slides frame by frame and its map
is of its last frame; for the first 15 frames it runs backwards from the frame's own, and a shorter
video goes on backwards from its end. Maps are cut to 1/255, filtered by a Gaussian of 7 pixels, and
scaled to their greatest value in 8 bits, at 128x192 (`stsa_jax.media.finishing.smoothed`).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import sigmoid

from stsa_jax.models.clips import check_clip, check_fields
from stsa_jax.models.layers import BATCH_NORM_MOMENTUM, NO_TAPS, Conv, ConvBN, Taps
from stsa_jax.models.s3d import S3DBackbone, scale_width, stage_channels
from stsa_jax.ops.pooling import max_pool
from stsa_jax.ops.upsampling import upsample_2x

# By level, from the coarsest: channels after each group of convolutions, each then doubled in size,
# and how many convolutions the groups have.
DECODERS = {
    5: ((512, 3), (256, 3), (128, 2), (64, 2), (3, 2)),
    4: ((512, 3), (256, 3), (128, 2), (64, 2), (3, 2)),
    3: ((256, 2), (128, 2), (64, 2), (3, 2)),
    2: ((128, 2), (64, 2), (3, 2)),
}
HALVINGS = {5: 1, 4: 1, 3: 2, 2: 3}  # of the time steps
SEPARABLE: dict[str, Any] = {
    'eps': 1e-5,
    'momentum': 0.1,
}  # of the BatchNorms there: PyTorch's defaults


@dataclass(frozen=True)
class HD2SConfig:
    """What the network is made of. The defaults are the released model.

    Attributes:
        image_size: (H, W) of the input, multiples of 32.
        frames: length of the clip, 16.
        target: 'last': the map is of the last frame.
        width: multiplies all channel counts.
        batch_norm_momentum: how much of a batch's statistics goes into the running ones.
    """

    image_size: tuple[int, int] = (128, 192)
    frames: int = 16
    target: str = 'last'
    width: float = 1.0
    batch_norm_momentum: float = BATCH_NORM_MOMENTUM
    beginning: ClassVar[str] = 'reversed'

    def __post_init__(self):
        check_fields(self, frames=16)


class Group(nnx.Module):
    """A 3x3 convolution, then separable ones: by channel, then across them."""

    def __init__(self, features_in: int, out: int, count: int, *, momentum: float, rngs):
        self.count = count
        self.first = ConvBN(features_in, out, (1, 3, 3), momentum=momentum, rngs=rngs)
        for i in range(1, count):
            by_channel = ConvBN(out, out, (1, 3, 3), depthwise=True, rngs=rngs, **SEPARABLE)
            setattr(self, f'by_channel{i}', by_channel)
            setattr(self, f'across{i}', ConvBN(out, out, (1, 1, 1), rngs=rngs, **SEPARABLE))

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`(B, 1, H, W, features_in)` -> `(B, 1, H, W, out)`."""
        x = self.first(x, train=train)
        for i in range(1, self.count):
            x = getattr(self, f'by_channel{i}')(x, train=train)
            x = getattr(self, f'across{i}')(x, train=train)
        return x


class Decoder(nnx.Module):
    """A level's features to its conspicuity map."""

    def __init__(self, level: int, channels: int, width: float, **options):
        """`options` are `momentum` and `rngs`."""
        self.halvings, self.groups = HALVINGS[level], len(DECODERS[level])
        for i in range(self.halvings):
            halve = ConvBN(channels, channels, (3, 1, 1), stride=(2, 1, 1), **options)
            setattr(self, f'halve{i}', halve)
        for i, (out, count) in enumerate(DECODERS[level]):
            out = scale_width(out, width) if out > 3 else out
            setattr(self, f'group{i}', Group(channels, out, count, **options))
            channels = out
        self.map = Conv(channels, 1, rngs=options['rngs'])

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`(B, T, h, w, C)` -> `(B, 1, H, W, 1)` in [0, 1]."""
        for i in range(self.halvings):
            x = getattr(self, f'halve{i}')(x, train=train)
        for i in range(self.groups):
            x = upsample_2x(getattr(self, f'group{i}')(x, train=train))
        return sigmoid(self.map(x))


class HD2S(nnx.Module):
    """The whole network (figure 1 of the paper, without domain adaptation)."""

    def __init__(self, config: HD2SConfig = HD2SConfig(), *, rngs: nnx.Rngs | None):
        self.config = config
        options: dict[str, Any] = {'momentum': config.batch_norm_momentum, 'rngs': rngs}
        self.backbone = S3DBackbone(config.width, **options)
        for level, channels in enumerate(stage_channels(config.width), 2):
            setattr(self, f'decoder{level}', Decoder(level, channels, config.width, **options))
        self.hd2s_map = Conv(4, 1, rngs=rngs)

    def __call__(self, clip: jax.Array, *, train: bool = False, taps: Taps = NO_TAPS) -> jax.Array:
        """`(B, 16, H, W, 3)` normalised -> saliency of the last frame `(B, H, W)` in [0, 1].

        With `train`, BatchNorm uses and remembers the batch's statistics. `taps` get the levels'
        features and conspicuity maps, by name.
        """
        check_clip(clip, self.config)
        base1, base2, base3, base4 = self.backbone(clip, train=train)
        levels = {  # pooled as on the way into the next stage
            2: max_pool(base1, (1, 3, 3), (1, 2, 2), (0, 1, 1)),
            3: max_pool(base2, (3, 3, 3), (2, 2, 2), (1, 1, 1)),
            4: max_pool(base3, (2, 2, 2), (2, 2, 2), (0, 0, 0)),
            5: base4,
        }
        for level, feature in levels.items():
            taps[f'level{level}'] = feature
        maps = []
        for level in (5, 4, 3, 2):
            decoded = getattr(self, f'decoder{level}')(levels[level], train=train)
            taps[f'conspicuity{level}'] = decoded
            maps.append(decoded)
        mixed = self.hd2s_map(jnp.concatenate(maps, -1))
        return sigmoid(mixed.astype(jnp.float32))[:, 0, :, :, 0]
