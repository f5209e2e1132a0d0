"""TASED-Net (Min and Corso, ICCV 2019): S3D, and a decoder that unpools to where the maxima were.

    clip (B, 32, 224, 384, 3)
      S3D       base1 (16, 56, 96, 192)  base2 (16, 28, 48, 480)
                base3 (8, 14, 24, 832)   base4 (4, 7, 12, 1024)
      switches  of base1 to base3, pooled to 4 steps in time: where a pool's maxima are in space
      decoder   from base4 up, by transposed convolutions and BatchNorm; three times unpooled: each
                value goes to the place of the maximum, and there are zeros elsewhere
      readout   twice the size, 4 -> 2 -> 1 steps, twice the size -> the map of the last frame

As released (MichiganCOG/TASED-Net @ 0cf47b7, `run_example.py`): frames are RGB in [-1, 1], resized
to 224x384 by OpenCV's bilinear interpolation without antialiasing. The window slides frame by frame
and its map is of its last frame; for the first 31 frames it runs backwards from the frame's own.
Maps are cut to 1/255, filtered by a Gaussian of 7 pixels, and scaled to their greatest value in 8
bits, at 224x384 (`stsa_jax.media.finishing.smoothed`).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import sigmoid

from stsa_jax.models.clips import check_clip, check_fields
from stsa_jax.models.layers import (
    BATCH_NORM_MOMENTUM,
    NO_TAPS,
    Conv,
    ConvBN,
    Taps,
    TransposedConvBN,
)
from stsa_jax.models.s3d import S3DBackbone, scale_width, stage_channels
from stsa_jax.ops.pooling import (
    max_indices_3x3,
    max_pool,
    max_pool_2x2_with_indices,
    max_unpool_2x2,
    max_unpool_3x3,
)


@dataclass(frozen=True)
class TASEDConfig:
    """What the network is made of. The defaults are the released model.

    Attributes:
        image_size: (H, W) of the input, multiples of 32.
        frames: length of the clip, 32.
        target: 'last': the map is of the last frame.
        width: multiplies all channel counts.
        batch_norm_momentum: how much of a batch's statistics goes into the running ones.
    """

    image_size: tuple[int, int] = (224, 384)
    frames: int = 32
    target: str = 'last'
    width: float = 1.0
    batch_norm_momentum: float = BATCH_NORM_MOMENTUM
    beginning: ClassVar[str] = 'reversed'

    def __post_init__(self):
        check_fields(self, frames=32)


class TASED(nnx.Module):
    """The whole network (figure 2 of the paper)."""

    def __init__(self, config: TASEDConfig = TASEDConfig(), *, rngs: nnx.Rngs | None):
        self.config = config
        options: dict[str, Any] = {'momentum': config.batch_norm_momentum, 'rngs': rngs}
        self.backbone = S3DBackbone(config.width, **options)
        c1, c2, c3, c4 = stage_channels(config.width)
        c64 = scale_width(64, config.width)
        in_time: dict[str, Any] = {'stride': (2, 1, 1), 'padding': (0, 0, 0), **options}
        self.mix4 = ConvBN(c4, c4, (1, 1, 1), **options)
        self.up4 = TransposedConvBN(c4, c3, 3, **options)
        self.up3 = TransposedConvBN(c3, c2, 3, **options)
        self.up2 = TransposedConvBN(c2, c1, 3, **options)
        self.up1 = TransposedConvBN(c1, c64, 4, **options)
        self.steps_2 = ConvBN(c64, c64, (2, 1, 1), **in_time)
        self.narrow = TransposedConvBN(c64, 4, 1, **options)
        self.steps_1 = ConvBN(4, 4, (2, 1, 1), **in_time)
        self.up0 = TransposedConvBN(4, 4, 4, norm=False, **options)
        self.tased_map = Conv(4, 1, rngs=rngs)

    def __call__(self, clip: jax.Array, *, train: bool = False, taps: Taps = NO_TAPS) -> jax.Array:
        """`(B, 32, H, W, 3)` normalised -> saliency of the last frame `(B, H, W)` in [0, 1].

        With `train`, BatchNorm uses and remembers the batch's statistics. `taps` get the features
        by name.
        """
        check_clip(clip, self.config)
        stages = self.backbone(clip, train=train)
        for i, stage in enumerate(stages, 1):
            taps[f'backbone.base{i}'] = stage
        base1, base2, base3, base4 = stages
        # Their gradient does not pass: only where the maxima are is used.
        switch1 = max_indices_3x3(max_pool(base1, (4, 1, 1), (4, 1, 1), (0, 0, 0)))
        switch2 = max_indices_3x3(max_pool(base2, (4, 1, 1), (4, 1, 1), (0, 0, 0)))
        in_time = max_pool(base3, (2, 1, 1), (2, 1, 1), (0, 0, 0))
        _, switch3 = max_pool_2x2_with_indices(in_time)
        z = self.up4(self.mix4(base4, train=train), train=train)  # 4, H/32, W/32, 832
        taps['up4'] = z
        z = self.up3(max_unpool_2x2(z, switch3), train=train)  # 4, H/16, W/16, 480
        taps['up3'] = z
        z = self.up2(max_unpool_3x3(z, switch2), train=train)  # 4, H/8, W/8, 192
        taps['up2'] = z
        z = self.up1(max_unpool_3x3(z, switch1), train=train)  # 4, H/2, W/2, 64
        z = self.steps_2(z, train=train)
        z = self.steps_1(self.narrow(z, train=train), train=train)  # 1, H/2, W/2, 4
        z = self.tased_map(self.up0(z, train=train))  # 1, H, W, 1
        return sigmoid(z.astype(jnp.float32))[:, 0, :, :, 0]
