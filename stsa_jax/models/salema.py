"""SalEMA (Linardos et al., BMVC 2019): SalGAN with an exponential moving average over time.

    clip (B, T, 192, 256, 3)
      encoder   VGG16's convolutions of each frame, four pools: (12, 16, 512)
      average   of the decoder's first convolution, before its ReLU: the state s of a frame is
                a y + (1 - a) s of the one before, a = sigmoid(alpha), and y of the first frame
      decoder   VGG16 backwards with upsampling by nearest neighbours: (192, 256, 64), and the map

As released (Linardos/SalEMA @ b491779, `src/inference.py`, `SalEMA30.pt` with -alpha=0.1): frames
are BGR from 0 to 255 less their mean (103.939, 116.779, 123.68), resized to 192x256 by OpenCV's
area interpolation. The state goes on through the whole video. Each map is scaled from its least to
its greatest value into 8 bits, at the model's size (`stsa_jax.media.finishing.min_max`).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.nn import relu, sigmoid

from stsa_jax.models.clips import check_clip, refuse_bad_fields
from stsa_jax.models.layers import NO_TAPS, Conv, Taps
from stsa_jax.models.s3d import scale_width
from stsa_jax.ops.pooling import max_pool

# Output channels of the convolutions between two pools, or two upsamplings.
ENCODER = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
DECODER = ((512, 512, 512), (512, 512, 512), (256, 256, 256), (128, 128), (64, 64))


@dataclass(frozen=True)
class SalEMAConfig:
    """What the network is made of. The defaults are the released model.

    Attributes:
        image_size: (H, W) of the input, multiples of 16.
        frames: length of the clip. A video's clips hand on the state, so it changes no map.
        target: 'all': a map of each frame.
        alpha: see the module docstring; None if it is learnt with the weights.
        dropout: in training, the share of channels in front of the average that are left out.
        width: multiplies all channel counts.
    """

    image_size: tuple[int, int] = (192, 256)
    frames: int = 10
    target: str = 'all'
    alpha: float | None = 0.1
    dropout: float = 0.5
    width: float = 1.0
    recurrent: ClassVar[bool] = True
    step: ClassVar[int] = 1

    def __post_init__(self):
        object.__setattr__(self, 'image_size', tuple(self.image_size))
        size = self.image_size
        checks = {
            'image_size': (
                len(size) == 2 and all(n >= 16 and n % 16 == 0 for n in size),
                'two multiples of 16, such as (192, 256)',
            ),
            'frames': (self.frames > 0, 'a positive number'),
            'target': (self.target == 'all', "'all'"),
            'alpha': (self.alpha is None or 0 <= self.alpha <= 1, 'from 0 to 1, or None'),
            'dropout': (0 <= self.dropout < 1, 'a share from 0 to 1'),
            'width': (self.width > 0, 'a positive number, 1 for the released model'),
        }
        refuse_bad_fields(self, checks)


class SalEMA(nnx.Module):
    """The whole network (figure 1 of the paper)."""

    def __init__(self, config: SalEMAConfig = SalEMAConfig(), *, rngs: nnx.Rngs | None):
        self.config = config
        channels = 3
        for name, levels in (('encoder', ENCODER), ('decoder', DECODER)):
            for level, widths in enumerate(levels):
                for i, out in enumerate(widths):
                    out = scale_width(out, config.width)
                    setattr(self, f'{name}{level}_{i}', Conv(channels, out, (1, 3, 3), rngs=rngs))
                    channels = out
        self.salema_map = Conv(channels, 1, rngs=rngs)
        if config.alpha is None:
            self.alpha = nnx.Param(jnp.full(1, 0.25))

    def __call__(
        self,
        clip: jax.Array,
        *,
        train: bool = False,
        taps: Taps = NO_TAPS,
        state: dict[str, jax.Array] | None = None,
    ) -> jax.Array:
        """`(B, T, H, W, 3)`, RGB in [0, 1] less the mean -> `(B, T, H, W)` in [0, 1].

        `state` is the tap 'state' of the clip before: the average `(B, H/16, W/16, 512)`, and
        whether there is one, `(B,)`; None or zeros at the start of a video. With `train` channels
        are left out by a mask that depends on the clip.
        """
        check_clip(clip, self.config)
        x = 255 * clip[..., ::-1]
        for level, widths in enumerate(ENCODER):
            x = max_pool(x, (1, 2, 2), (1, 2, 2), (0, 0, 0)) if level else x
            x = self._convolved(f'encoder{level}', range(len(widths)), x)
            taps[f'encoder{level}'] = x
        if train and self.config.dropout:
            x = x * self._mask(clip, x.shape[-1]).astype(x.dtype)
        y = self.decoder0_0(x)  # T, H/16, W/16, 512
        averages, taps['state'] = self._averaged(y, state)
        taps['average'] = averages
        x = self._convolved('decoder0', range(1, len(DECODER[0])), relu(averages))
        for level, widths in enumerate(DECODER[1:], 1):
            x = jnp.repeat(jnp.repeat(x, 2, 2), 2, 3)
            taps[f'decoder{level}'] = x = self._convolved(f'decoder{level}', range(len(widths)), x)
        return sigmoid(self.salema_map(x).astype(jnp.float32))[..., 0]

    def _convolved(self, name, places, x):
        for i in places:
            x = relu(getattr(self, f'{name}_{i}')(x))
        return x

    def _averaged(self, y: jax.Array, state: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The averages after each step, `(B, T, h, w, C)`, and the state after the last."""
        alpha = jnp.asarray(self.config.alpha) if self.config.alpha is not None else self.alpha[0]
        weight = sigmoid(alpha).astype(y.dtype)
        if state is None:
            state = {'average': jnp.zeros_like(y[:, 0]), 'seen': jnp.zeros(y.shape[0], y.dtype)}

        def step(state, y):
            share = jnp.where(state['seen'] > 0, weight, 1)[:, None, None, None]
            average = share * y + (1 - share) * state['average']
            return {'average': average, 'seen': jnp.ones_like(state['seen'])}, average

        state, averages = lax.scan(step, state, jnp.moveaxis(y, 1, 0))
        return jnp.moveaxis(averages, 0, 1), state

    def _mask(self, clip: jax.Array, channels: int) -> jax.Array:
        """`(B, T, 1, 1, channels)`: which stay, and are scaled up, drawn from a few pixels."""
        corner = jnp.rint(255 * clip[:, :, ::8, ::8, 0]).astype(jnp.int32)
        key, keep = jax.random.fold_in(jax.random.key(0), corner.sum()), 1 - self.config.dropout
        stays = jax.random.bernoulli(key, keep, (*clip.shape[:2], 1, 1, channels))
        return stays / keep
