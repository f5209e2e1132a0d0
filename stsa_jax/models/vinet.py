"""ViNet (Jain et al., IROS 2021), the visual model: S3D, and a decoder that joins levels in time.

    clip (B, 32, 224, 384, 3)
      S3D       base1 (16, 56, 96, 192)  base2 (16, 28, 48, 480)
                base3 (8, 14, 24, 832)   base4 (4, 7, 12, 1024)
      decoder   from base4 up: convolution, ReLU, twice the size; then the finer level is put behind
                it in time, 4 + 8, 4 + 16 and 4 + 16 steps, and a kernel as long as its stride
                brings them back to 4
      readout   4 -> 2 steps, twice the size, -> 1 step, -> the map of the last frame, (224, 384)

As released (samyak0210/ViNet @ 2a52666, `generate_result.py`): frames are RGB, normalised with
ImageNet's mean and deviation, resized to 224x384 by Pillow's antialiased bilinear filter. The
window slides frame by frame and its map is of its last frame; for the first 31 frames it runs
backwards from the frame's own. Maps are resized to the video (bilinear), filtered by an 11x11
Gaussian and scaled from their least to their greatest value into 8 bits
(`stsa_jax.media.finishing.vinet`).
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import relu, sigmoid

from stsa_jax.models.clips import check_clip, check_fields
from stsa_jax.models.layers import BATCH_NORM_MOMENTUM, NO_TAPS, Conv, ConvOfUpsampled, Taps
from stsa_jax.models.s3d import S3DBackbone, scale_width, stage_channels
from stsa_jax.ops.upsampling import upsample_2x


@dataclass(frozen=True)
class ViNetConfig:
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


class ViNet(nnx.Module):
    """The whole network (figure 2 of the paper, without audio)."""

    def __init__(self, config: ViNetConfig = ViNetConfig(), *, rngs: nnx.Rngs | None):
        self.config = config
        self.backbone = S3DBackbone(config.width, momentum=config.batch_norm_momentum, rngs=rngs)
        c1, c2, c3, c4 = stage_channels(config.width)
        c64, c32 = scale_width(64, config.width), scale_width(32, config.width)

        def conv(features_in, out, time, kind=Conv):
            """Kernel and stride in time are `time`; 3x3 in space."""
            stride = (time, 1, 1)
            return kind(features_in, out, (time, 3, 3), stride=stride, bias=False, rngs=rngs)

        self.up4, self.up3 = conv(c4, c3, 1), conv(c3, c2, 3)
        self.up2, self.up1 = conv(c2, c1, 5), conv(c1, c64, 5)
        self.reduce = conv(c64, c32, 2, ConvOfUpsampled)
        self.last_step = Conv(c32, c32, (2, 1, 1), stride=(2, 1, 1), bias=False, rngs=rngs)
        self.vinet_map = Conv(c32, 1, rngs=rngs)

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
        taps['up4'] = z = upsample_2x(relu(self.up4(base4)))  # 4, H/16, W/16, 832
        z = jnp.concatenate([z, base3], 1)  # 4 + 8 steps
        taps['up3'] = z = upsample_2x(relu(self.up3(z)))  # 4, H/8, W/8, 480
        z = jnp.concatenate([z, base2], 1)
        taps['up2'] = z = upsample_2x(relu(self.up2(z)))  # 4, H/4, W/4, 192
        z = jnp.concatenate([z, base1], 1)
        z = relu(self.up1(z))  # 4, H/4, W/4, 64
        z = relu(self.reduce(z))  # 2, H/2, W/2, 32
        z = relu(self.last_step(upsample_2x(z)))  # 1, H, W, 32
        return sigmoid(self.vinet_map(z).astype(jnp.float32))[:, 0, :, :, 0]
