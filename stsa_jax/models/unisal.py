"""UNISAL (Droste et al., ECCV 2020): one small recurrent network for videos and pictures.

    clip (B, T, 224, 384, 3), frames `step` apart
      backbone  MobileNetV2 of each frame: x (7, 12, 1280), x2 (14, 24, 160), x4 (28, 48, 64)
      priors    16 learnt Gaussians behind x, and a depthwise separable convolution: 256 channels
      GRU       a convolutional GRU over time, added to x; pictures bypass it
      decoder   from x up, joining x2, then x4: (28, 48, 64)
      readout   1x1 to one channel, 8 times the size (nearest), a learnt 41x41 smoothing filter, and
                a softmax over the pixels

Priors, BatchNorms of the GRU and of the decoder, readout and smoothing exist once for each domain
(dataset): 'dhf1k', 'hollywood', 'ucfsports' and 'salicon', pictures. `config.domain` chooses.

As released (rdroste/unisal @ 0440df7, `unisal/train.py`, `run_inference`): frames are RGB,
normalised with ImageNet's mean and deviation, resized to 224x384 (DHF1K) by Pillow's antialiased
Lanczos filter. Every fifth frame, from the first on, is one sequence through which the GRU's state
goes on to the end of the video; so are those from the second to the fifth (every fourth of
Hollywood-2 and UCF Sports). Their maps together are those of all frames. The logits are resized to
the video (bilinear), and each map is scaled to a maximum of 255
(`stsa_jax.media.finishing.unisal`).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.nn import relu6

from stsa_jax.models.clips import check_clip, refuse_bad_fields
from stsa_jax.models.layers import NO_TAPS, Conv, ConvBN, Taps
from stsa_jax.models.mobilenet import BATCH_NORM_EPS, InvertedResidual
from stsa_jax.models.s3d import scale_width
from stsa_jax.models.steps import GATES, STILLS, ConvGRU, Unit
from stsa_jax.ops.convolution import conv3d
from stsa_jax.ops.upsampling import upsample_2x

# Each domain's size of the frames, and step from one frame of a clip to the next.
AS_RELEASED = {
    'dhf1k': ((224, 384), 5),
    'hollywood': ((224, 416), 4),
    'ucfsports': ((256, 384), 4),
    STILLS: ((288, 384), 1),
}
DOMAINS = tuple(AS_RELEASED)
# MobileNetV2's blocks: output channels, expansion, whether every second row and column is left out
# after the block (the original's stride of 2 is before it).
BLOCKS = (
    (16, 1, False), (24, 6, True), (24, 6, False),
    (32, 6, True), (32, 6, False), (32, 6, False),
    (64, 6, True), (64, 6, False), (64, 6, False), (64, 6, False),
    (96, 6, False), (96, 6, False), (96, 6, False),
    (160, 6, True), (160, 6, False), (160, 6, False), (320, 6, False),
)  # fmt: skip
FIRST, LAST = 32, 1280
BLOCK_X4, BLOCK_X2 = 7, 14  # whose outputs, before rows are left out, go to the decoder
RECURRENT, MIXED_2, MIXED_4 = 256, 128, 64
# The Gaussians' means (y, x) and logs of deviations at first.
PRIORS = tuple(
    [((y, x), (-1.5, -1.5)) for y in (0.25, 0.5, 0.75) for x in (0.25, 0.5, 0.75)]
    + [((0.5, x), (0.0, -1.5)) for x in (0.25, 0.5, 0.75)]
    + [((y, 0.5), (-1.5, 0.0)) for y in (0.25, 0.5, 0.75)]
    + [((0.5, 0.5), (0.0, 0.0))]
)
PRIOR_SCALE = 6
SMOOTHING, SCALE = 41, 8  # the filter's size, and the readout's upsampling before it


def _initial() -> dict[str, np.ndarray]:
    """The parameters that do not start at random, by their names."""
    places = np.linspace(0, 1, SMOOTHING)
    profile = np.exp(-(((places - 0.5) / np.exp(-2.0)) ** 2) / 2)
    plane = profile[:, None] * profile
    smoothing = (plane / plane.sum())[:, :, None, None]
    priors = np.moveaxis(np.array(PRIORS), 1, 2)
    return {'priors': priors.astype(np.float32), 'smoothing': smoothing.astype(np.float32)}


INITIAL = _initial()


@dataclass(frozen=True)
class UNISALConfig:
    """What the network is made of. The defaults are the released model.

    Attributes:
        image_size: (H, W) of the input, multiples of 32.
        frames: length of the clip. A video's clips hand on the state, so it changes no map.
        step: frames of the video from one of the clip to the next.
        target: 'all': a map of each frame.
        domains: the datasets that the weights have parts for.
        domain: the one whose parts are used.
        drop_skip, drop_state: in training, the share of channels of x2 and x4, and of the GRU's
            state, that are left out.
        width: multiplies all channel counts.
        batch_norm_momentum: weight of a batch's statistics in the running ones.
    """

    image_size: tuple[int, int] = (224, 384)
    frames: int = 12
    step: int = 5
    target: str = 'all'
    domains: tuple[str, ...] = DOMAINS
    domain: str = 'dhf1k'
    drop_skip: float = 0.6
    drop_state: float = 0.2
    width: float = 1.0
    batch_norm_momentum: float = 0.01
    recurrent: ClassVar[bool] = True

    def __post_init__(self):
        for field in ('image_size', 'domains'):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        size = self.image_size
        checks = {
            'image_size': (
                len(size) == 2 and all(n >= 32 and n % 32 == 0 for n in size),
                'two multiples of 32, such as (224, 384)',
            ),
            'frames': (self.frames > 0, 'a positive number'),
            'step': (self.step > 0, 'a positive number of frames'),
            'target': (self.target == 'all', "'all'"),
            'domains': (
                bool(self.domains) and set(self.domains) <= set(DOMAINS),
                f'some of {", ".join(DOMAINS)}',
            ),
            'domain': (self.domain in self.domains, f'one of {", ".join(self.domains)}'),
            'drop_skip': (0 <= self.drop_skip < 1, 'a share from 0 to 1'),
            'drop_state': (0 <= self.drop_state < 1, 'a share from 0 to 1'),
            'width': (self.width > 0, 'a positive number, 1 for the released model'),
            'batch_norm_momentum': (0 < self.batch_norm_momentum <= 1, 'a number in (0, 1]'),
        }
        refuse_bad_fields(self, checks)

    def of_domain(self, domain: str) -> 'UNISALConfig':
        """The same network with the parts of `domain`, at its size of the frames and its step."""
        size, step = AS_RELEASED[domain]
        return dataclasses.replace(self, domain=domain, image_size=size, step=step)

    @property
    def still(self) -> bool:
        """Whether frames are seen each on its own, as pictures."""
        return self.domain == STILLS


class Backbone(nnx.Module):
    """MobileNetV2 of each frame; its BatchNorms keep their statistics in training too."""

    def __init__(self, config: UNISALConfig, *, rngs: nnx.Rngs | None):
        options: dict[str, Any] = {'eps': BATCH_NORM_EPS, 'rngs': rngs}
        channels = scale_width(FIRST, config.width)
        self.first = ConvBN(3, channels, (1, 3, 3), stride=(1, 2, 2), activation=relu6, **options)
        for i, (out, expansion, halves) in enumerate(BLOCKS, 1):
            out = scale_width(out, config.width)
            block = InvertedResidual(
                channels,
                out,
                expansion=expansion,
                time=(1, 1),
                residual=channels == out and not halves,
                **options,
            )
            setattr(self, f'block{i}', block)
            channels = out
        out = scale_width(LAST, config.width)
        self.last = ConvBN(channels, out, (1, 1, 1), activation=relu6, **options)

    def __call__(self, clip: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`(B, T, H, W, 3)` -> features at H/32, H/16 and H/8, see the module docstring."""
        x, kept = self.first(clip), {}
        for i, (_, _, halves) in enumerate(BLOCKS, 1):
            kept[i] = x = getattr(self, f'block{i}')(x)
            if halves:
                x = x[:, :, ::2, ::2]
        return self.last(x), kept[BLOCK_X2], kept[BLOCK_X4]


class Domain(nnx.Module):
    """The parts of one domain besides its BatchNorms: priors, readout and smoothing."""

    def __init__(self, features: int, *, rngs: nnx.Rngs | None):
        self.priors = nnx.Param(INITIAL['priors'])  # 16, (y, x), (mean, log of deviation)
        self.readout = Conv(features, 1, rngs=rngs)
        self.smoothing = nnx.Param(INITIAL['smoothing'])

    def prior_maps(self, height: int, width: int) -> jax.Array:
        """`(height, width, 16)`."""
        profiles = []
        for axis, length in enumerate((height, width)):
            mean, log_deviation = jnp.moveaxis(self.priors[...][:, axis], -1, 0)
            places = jnp.linspace(0, 1, length)[:, None]
            profiles.append(jnp.exp(-(((places - mean) / jnp.exp(log_deviation)) ** 2) / 2))
        return PRIOR_SCALE * profiles[0][:, None] * profiles[1][None]

    def logits(self, x: jax.Array) -> jax.Array:
        """`(B, T, h, w, C)` -> `(B, T, 8h, 8w)`, upsampled and smoothed."""
        return smoothed_8x(self.readout(x).astype(jnp.float32), self.smoothing[...])


class UNISAL(nnx.Module):
    """The whole network (figure 2 of the paper)."""

    def __init__(self, config: UNISALConfig = UNISALConfig(), *, rngs: nnx.Rngs | None):
        self.config = config
        width = lambda channels: scale_width(channels, config.width)  # noqa: E731
        options: dict[str, Any] = {'momentum': config.batch_norm_momentum, 'rngs': rngs}
        own: dict[str, Any] = {**options, 'domains': config.domains, 'domain': config.domain}
        features, f2, f4 = width(RECURRENT), width(MIXED_2), width(MIXED_4)
        c2, c4 = width(BLOCKS[BLOCK_X2 - 1][0]), width(BLOCKS[BLOCK_X4 - 1][0])

        def mixed(channels, out, expansion, **options):
            return InvertedResidual(
                channels, out, expansion=expansion, time=(1, 1), unit=Unit, **options
            )

        self.backbone = Backbone(config, rngs=rngs)
        self.unisal_input = mixed(width(LAST) + len(PRIORS), features, 1, **options)
        self.gru = ConvGRU(features, features, **own)
        self.gru_output = Unit(features, features, **own)
        self.skip2_wide = Unit(c2, 2 * c2, **own)
        self.skip2 = Unit(2 * c2, f2, biased=True, activation=None, **own)
        self.skip4_wide = Unit(c4, 2 * c4, **own)
        self.skip4 = Unit(2 * c4, f4, biased=True, activation=None, **own)
        self.mix2 = mixed(features + f2, f2, 2, **own)
        self.mix4 = mixed(f2 + f4, f4, 2, **own)
        for domain in config.domains:
            setattr(self, domain, Domain(f4, rngs=rngs))

    def __call__(
        self,
        clip: jax.Array,
        *,
        train: bool = False,
        taps: Taps = NO_TAPS,
        state: jax.Array | None = None,
    ) -> jax.Array:
        """`(B, T, H, W, 3)` normalised -> `(B, T, H, W)` in [0, 1], each with a maximum of 1.

        A map divided by its sum is the softmax that the released network gives. `state` is the tap
        'state' of the clip before, `(B, H/32, W/32, 256)`; None or zeros at the start of a video.
        With `train`, BatchNorms (but the backbone's) use and remember the batch's statistics, and
        channels are left out by a mask that depends on the number of steps seen.
        """
        check_clip(clip, self.config)
        config, own = self.config, getattr(self, self.config.domain)
        keep2, keep4, keep_state = self._masks(clip.shape[:2]) if train else (None, None, None)
        x, x2, x4 = self.backbone(clip)
        taps['x'], taps['x2'], taps['x4'] = x, x2, x4
        priors = own.prior_maps(*x.shape[2:4]).astype(x.dtype)
        x = jnp.concatenate([x, jnp.broadcast_to(priors, (*x.shape[:4], len(PRIORS)))], -1)
        taps['input'] = x = self.unisal_input(x, train=train)  # T, H/32, W/32, 256
        if config.still:
            taps['state'] = jnp.zeros((x.shape[0], 0))
        else:
            states, last = self.gru(x, state, train=train, mask=keep_state)
            taps['gru'], taps['state'] = states, last
            x = x + self.gru_output(states, train=train)
        x2 = self._skip(self.skip2_wide, self.skip2, x2, keep2, train)
        x = jnp.concatenate([upsample_2x(x), x2], -1)  # T, H/16, W/16, 256 + 128
        taps['mix2'] = x = self.mix2(x, train=train)
        x4 = self._skip(self.skip4_wide, self.skip4, x4, keep4, train)
        x = jnp.concatenate([upsample_2x(x), x4], -1)  # T, H/8, W/8, 128 + 64
        taps['mix4'] = x = self.mix4(x, train=train)
        logits = own.logits(x)  # T, H, W
        # The largest is 1 by definition; no loss depends on the scale of a map.
        return jnp.exp(logits - lax.stop_gradient(logits.max((2, 3), keepdims=True)))

    @staticmethod
    def _skip(wide, narrow, x, mask, train):
        x = wide(x, train=train)
        return narrow(x if mask is None else x * mask.astype(x.dtype), train=train)

    def _masks(self, batch: tuple[int, ...]) -> tuple[jax.Array | None, ...]:
        """Which channels stay, for x2, x4 and the GRU's state; those are scaled up."""
        seen = self.unisal_input.filter.norm.count[...]
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), seen), 3)
        features = self.gru.drop_mask[...].shape[1]
        shapes = [
            (*batch, 1, 1, self.skip2.kernel[...].shape[3]),
            (*batch, 1, 1, self.skip4.kernel[...].shape[3]),
            (len(GATES), features),
        ]
        shares = self.config.drop_skip, self.config.drop_skip, self.config.drop_state
        return tuple(
            jax.random.bernoulli(key, 1 - share, shape) / (1 - share) if share else None
            for key, share, shape in zip(keys, shares, shapes)
        )


def smoothed_8x(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`(B, T, h, w, 1)`, 8 times the size by nearest neighbours, filtered: `(B, T, 8h, 8w)`.

    `kernel` is `(41, 41, 1, 1)`; edges are repeated. Of the 41 taps along an axis, those that
    fall on the same small pixel are added up: at most 7 remain, which ones depends on the place in
    the 8x8 pixels. So the filter is one of 7x7 with 64 outputs, with 1/34 of the multiply-adds.
    """
    b, t, h, w, _ = x.shape
    reach = -(-(SMOOTHING // 2) // SCALE)
    place, tap = jnp.arange(SCALE)[:, None], jnp.arange(SMOOTHING)
    lands = (place + tap - SMOOTHING // 2) // SCALE + reach  # (place, tap)
    table = jax.nn.one_hot(lands, 2 * reach + 1, axis=1)  # (place, small pixel, tap)
    exact = lax.Precision.HIGHEST
    filters = jnp.einsum('apj,bqi,ji->pqab', table, table, kernel[:, :, 0, 0], precision=exact)
    filters = filters.reshape(1, 2 * reach + 1, 2 * reach + 1, 1, SCALE * SCALE)
    x = jnp.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach), (0, 0)), mode='edge')
    y = conv3d(x, filters, precision=exact).reshape(b * t, h, w, SCALE, SCALE)
    return y.transpose(0, 1, 3, 2, 4).reshape(b, t, SCALE * h, SCALE * w)
