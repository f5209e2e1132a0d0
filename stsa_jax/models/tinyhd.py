"""tinyHD (Hu et al., WACV 2023): a small encoder and three different decoders.

    clip (B, 16, 192, 256, 3)
      encoder   MobileNetV2 inflated to 3-D; its features, concatenated by size:
                    x0 (8, 96, 128)  x1 (4, 48, 64)  x2 (2, 24, 32)  x3 (2 or 1, 12, 16)
      D1        a chain from each of the four to its own map, like HD2S's conspicuity maps
      D2        from coarse to fine, adding the finer features, like a U-Net
      D3        all four at once, each level adding the previous value of the next finer one, as in
                deep layer aggregation
      maps      all six, 4 + 1 + 1, combined by a 1x1 convolution

"S" (`target='last'`) predicts the map of the last frame, `(B, 192, 256)`; "M" (`target='all'`)
those of all 16 frames, `(B, 16, 192, 256)`. In M, D2 and D3 double the time steps when upsampling,
and the four maps of D1 apply to the whole clip.

As released (feiyanhu/tinyHD @ 2657310, `src/quick_start.py`, `src/generate.py`): frames are RGB,
normalised with ImageNet's mean and deviation, resized to 192x256 by bilinear interpolation without
antialiasing. S slides frame by frame, with the first frame repeated before the start; the clips of
M are consecutive, and the last one ends with the video. Maps are min-max scaled to 8 bits, resized
to the video (bicubic), and smoothed with a 5x5 Gaussian filter (`stsa_jax.media.finishing.tinyhd`).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import relu6, sigmoid

from stsa_jax.models.clips import check_clip, refuse_bad_fields
from stsa_jax.models.layers import NO_TAPS, ConvBN, Taps, uniform_conv_weights
from stsa_jax.models.mobilenet import BATCH_NORM_EPS, BATCH_NORM_MOMENTUM, InvertedResidual
from stsa_jax.ops.upsampling import pixel_shuffle, upsample_aligned

# MobileNetV2's blocks: output channels, expansion, stride in space, kernel and stride in time.
ENCODER = (
    (16, 1, 1, 3, 1),
    (24, 6, 2, 3, 1), (24, 6, 1, 3, 1),
    (32, 6, 2, 3, 2), (32, 6, 1, 3, 1), (32, 6, 1, 3, 1),
    (64, 6, 2, 3, 2), (64, 6, 1, 3, 1), (64, 6, 1, 3, 1), (64, 6, 1, 3, 1),
    (96, 6, 1, 3, 1), (96, 6, 1, 3, 1), (96, 6, 1, 3, 1),
    (160, 6, 2, 3, 1), (160, 6, 1, 3, 1), (160, 6, 1, 3, 1), (320, 6, 1, 3, 1),
)  # fmt: skip
# In M the last four merge two time steps into one, then process one at a time.
LAST_OF_M = ((160, 6, 2, 2, 1), (160, 6, 1, 1, 1), (160, 6, 1, 1, 1), (320, 6, 1, 1, 1))
FIRST, LAST = 32, 1280
LEVELS = (
    (0, 1),
    (1, 3),
    (3, 6),
    (6, 13),
    (13, 18),
)  # ranges of blocks whose outputs have the same size
# D1, one chain each: output channels of a block, whether it is upsampled before, whether the block
# halves the time steps.
CHAINS = (
    ((24, False, True), (48, False, False), (24, True, True), (1, False, True)),
    ((56, False, True), (56, True, False), (28, True, True), (1, False, False)),
    ((56, False, True), (56, True, False), (56, True, False), (1, True, False)),
    ((136, True, True), (136, True, False), (136, True, False), (1, True, False)),
)


@dataclass(frozen=True)
class TinyHDConfig:
    """The structure of the network. The defaults are those of `d123s_rc4_rc1T.pth`, tinyHD-S.

    Attributes:
        image_size: (H, W) of the input, multiples of 32.
        frames: length of the clip, 16.
        target: 'last': a map of the last frame (S); 'all': a map of each frame (M).
        reduction: divisor of MobileNetV2's channels: 1, 2 or 4.
        batch_norm_momentum: weight of a batch's statistics in the running ones.
    """

    image_size: tuple[int, int] = (192, 256)
    frames: int = 16
    target: str = 'last'
    reduction: int = 4
    batch_norm_momentum: float = BATCH_NORM_MOMENTUM

    def __post_init__(self):
        object.__setattr__(self, 'image_size', tuple(self.image_size))
        size = self.image_size
        checks = {
            'image_size': (
                len(size) == 2 and all(n >= 32 and n % 32 == 0 for n in size),
                'two multiples of 32, as (192, 256)',
            ),
            'frames': (self.frames == 16, '16: the decoders halve the time steps down to one'),
            'target': (self.target in ('last', 'all'), "'last' (tinyHD-S) or 'all' (tinyHD-M)"),
            'reduction': (self.reduction in (1, 2, 4), '1, 2 or 4'),
            'batch_norm_momentum': (0 < self.batch_norm_momentum <= 1, 'a number in (0, 1]'),
        }
        refuse_bad_fields(self, checks)

    @property
    def level_channels(self) -> tuple[int, int, int, int]:
        """Channels of x0 to x3."""
        out = [channels // self.reduction for channels, *_ in ENCODER] + [LAST // self.reduction]
        first, *rest = (sum(out[slice(*level)]) for level in LEVELS)
        x0, x1, x2, x3 = (channels // 4 for channels in rest)  # after the pixel shuffle
        return first + x0, x1, x2, x3


class Encoder(nnx.Module):
    """MobileNetV2 in three dimensions: a clip -> the features x0 to x3."""

    def __init__(self, config: TinyHDConfig, **options):
        """`options` are those of `ConvBN`."""
        blocks = ENCODER if config.target == 'last' else ENCODER[:-4] + LAST_OF_M
        channels = FIRST // config.reduction
        self.first = ConvBN(3, channels, (3, 3, 3), stride=(2, 2, 2), activation=relu6, **options)
        for i, (out, expansion, space_stride, kernel, stride) in enumerate(blocks, 1):
            out //= config.reduction
            block = InvertedResidual(
                channels,
                out,
                expansion=expansion,
                time=(kernel, stride),
                space_stride=space_stride,
                residual=space_stride == 1 and channels == out,
                **options,
            )
            setattr(self, f'block{i}', block)
            channels = out
        self.last = ConvBN(
            channels, LAST // config.reduction, (1, 1, 1), activation=relu6, **options
        )

    def __call__(
        self, x: jax.Array, *, train: bool = False, taps: Taps = NO_TAPS
    ) -> list[jax.Array]:
        """`(B, 16, H, W, 3)` -> x0 to x3, at H/2, H/4, H/8, H/16."""
        x = self.first(x, train=train)
        features = []
        for i in range(1, len(ENCODER) + 1):
            x = getattr(self, f'block{i}')(x, train=train)
            features.append(x)
        features.append(self.last(x, train=train))
        for i, feature in enumerate(features, 1):
            taps[f'{i}'] = feature
        first, *rest = (jnp.concatenate(features[slice(*level)], -1) for level in LEVELS)
        x0, *others = map(pixel_shuffle, rest)
        return [jnp.concatenate([first, x0], -1), *others]


class Decoder(nnx.Module):
    """The common part of the three decoders: their blocks, and upsampling.

    Without `all_frames` some blocks halve the time steps, down to one. With it none does, and
    upsampling doubles the steps, up to the clip's 16.
    """

    def __init__(self, config: TinyHDConfig, *, all_frames: bool, filters: int, **options):
        """`filters`: temporal kernel of blocks that do not halve; `options`: those of `ConvBN`."""
        self.all_frames, self.filters = all_frames, filters
        self.shuffles = config.reduction == 1  # otherwise the last upsampling interpolates

    def adapter(
        self, features_in: int, features_out: int, halves: bool, **options
    ) -> InvertedResidual:
        """One block; `halves` the time steps unless the decoder keeps them all."""
        halves = halves and not self.all_frames
        time = (3, 2) if halves else (self.filters, 1)
        return InvertedResidual(features_in, features_out, expansion=2, time=time, **options)

    def up(self, x: jax.Array) -> jax.Array:
        """Twice the size, a quarter of the channels."""
        return self.longer(pixel_shuffle(x))

    def last_up(self, x: jax.Array) -> jax.Array:
        """Twice the size; the channels are unchanged if the encoder has few."""
        return self.longer(pixel_shuffle(x) if self.shuffles else upsample_aligned(x, (2, 3)))

    def longer(self, x: jax.Array) -> jax.Array:
        """Twice the time steps, if the decoder outputs all frames."""
        return upsample_aligned(x, (1,)) if self.all_frames else x


class Chains(Decoder):
    """D1: a chain of four blocks from each level to a map."""

    def __init__(self, config: TinyHDConfig, **options):
        last_only = config.target == 'last'
        # It has one map per clip in M too, where x3 already has one step.
        super().__init__(config, all_frames=False, filters=1 if last_only else 3, **options)
        self.interpolates_first = config.reduction == 4
        for level, (chain, channels) in enumerate(zip(CHAINS, config.level_channels)):
            for i, (out, up, halves) in enumerate(chain):
                if up and not (level == 3 and i == 0 and self.interpolates_first):
                    channels //= 4
                halves = halves and (last_only or level < 3)
                setattr(self, f'level{level}_{i}', self.adapter(channels, out, halves, **options))
                channels = out

    def __call__(self, levels: list[jax.Array], *, train: bool = False) -> jax.Array:
        """x0 to x3 -> `(B, 1, H, W, 4)`."""
        maps = []
        for level, (chain, x) in enumerate(zip(CHAINS, levels)):
            for i, (_, up, _) in enumerate(chain):
                if up:
                    first = level == 3 and i == 0 and self.interpolates_first
                    x = upsample_aligned(x, (2, 3)) if first else pixel_shuffle(x)
                x = getattr(self, f'level{level}_{i}')(x, train=train)
            maps.append(x)
        return jnp.concatenate(maps, -1)


class CoarseToFine(Decoder):
    """D2: upsamples from x3, adding the finer level each time."""

    def __init__(self, config: TinyHDConfig, **options):
        all_frames = config.target == 'all'
        super().__init__(config, all_frames=all_frames, filters=3 if all_frames else 1, **options)
        c0, c1, c2, c3 = config.level_channels
        self.up3 = self.adapter(c3, 4 * c2, False, **options)
        self.up2 = self.adapter(c2, 4 * c1, False, **options)
        self.side1 = self.adapter(c1, c1, True, **options)
        self.up1 = self.adapter(c1, 4 * c0, False, **options)
        self.side0_a = self.adapter(c0, c0, True, **options)
        self.side0_b = self.adapter(c0, c0, True, **options)
        self.up0 = self.adapter(c0, c0, True, **options)
        self.map = self.adapter(c0 // 4 if self.shuffles else c0, 1, True, **options)

    def __call__(self, levels: list[jax.Array], *, train: bool = False) -> jax.Array:
        """x0 to x3 -> `(B, 1 or 16, H, W, 1)`."""
        x0, x1, x2, x3 = levels
        x = self.up(self.up3(x3, train=train)) + x2
        x = self.up(self.up2(x, train=train)) + self.side1(x1, train=train)
        side = self.side0_b(self.side0_a(x0, train=train), train=train)
        x = self.up(self.up1(x, train=train)) + side
        return self.map(self.last_up(self.up0(x, train=train)), train=train)


class Aggregation(Decoder):
    """D3: in four rounds each level but the finest is merged into the next finer one."""

    def __init__(self, config: TinyHDConfig, **options):
        all_frames = config.target == 'all'
        super().__init__(config, all_frames=all_frames, filters=3 if all_frames else 1, **options)
        c = config.level_channels
        u = [n // 4 if self.shuffles else n for n in c]  # channels of the upsampled levels
        # By round and level: the blocks from finer levels, and those that are upsampled; which
        # halve.
        for i, halves in enumerate((True, True, False)):
            setattr(self, f'down1_{i}', self.adapter(c[i], u[i + 1], halves, **options))
        for i, (out, halves) in enumerate(((8, False), (32, False), (128, True))):
            setattr(self, f'up2_{i}', self.adapter(u[i + 1], out, halves, **options))
        for i, out in enumerate((2, 8, 32)):
            setattr(self, f'down2_{i}', self.adapter(u[i], out, True, **options))
        for i, channels in enumerate((2, 8)):
            setattr(self, f'down3_{i}', self.adapter(channels, channels, True, **options))
        self.down4_0 = self.adapter(2, 2, True, **options)
        self.map = self.adapter(2, 1, False, **options)

    def __call__(self, levels: list[jax.Array], *, train: bool = False) -> jax.Array:
        """x0 to x3 -> `(B, 1 or 16, H, W, 1)`."""

        def block(name, x):
            return getattr(self, name)(x, train=train)

        first = [self.last_up(x) for x in levels]
        first[1:] = [x + block(f'down1_{i}', levels[i]) for i, x in enumerate(first[1:])]
        grown = [self.up(block(f'up2_{i}', x)) for i, x in enumerate(first[1:])]
        second = [x + block(f'down2_{i}', first[i]) for i, x in enumerate(grown)]
        third = [self.up(x) + block(f'down3_{i}', second[i]) for i, x in enumerate(second[1:])]
        fourth = self.up(third[1]) + block('down4_0', third[0])
        return block('map', fourth)


class Mix(nnx.Module):
    """Combines the six maps: a 2-D 1x1 convolution in S, a 3-D one in M."""

    def __init__(self, config: TinyHDConfig, *, rngs: nnx.Rngs | None):
        dimensions = 2 if config.target == 'last' else 3
        self.kernel, bias = uniform_conv_weights((1,) * dimensions, 6, 1, rngs=rngs)
        assert bias is not None
        self.bias = bias

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(..., 6)` -> `(...,)`."""
        weights = self.kernel[...].reshape(6).astype(x.dtype)
        return jnp.tensordot(x, weights, 1) + self.bias[...].astype(x.dtype)


class TinyHD(nnx.Module):
    """The whole network (figure 2 of the paper)."""

    def __init__(self, config: TinyHDConfig = TinyHDConfig(), *, rngs: nnx.Rngs | None):
        self.config = config
        options = {'eps': BATCH_NORM_EPS, 'momentum': config.batch_norm_momentum, 'rngs': rngs}
        self.backbone = Encoder(config, **options)
        self.d1 = Chains(config, **options)
        self.d2 = CoarseToFine(config, **options)
        self.d3 = Aggregation(config, **options)
        self.mix = Mix(config, rngs=rngs)

    def __call__(self, clip: jax.Array, *, train: bool = False, taps: Taps = NO_TAPS) -> jax.Array:
        """`(B, 16, H, W, 3)` normalised -> `(B, H, W)` in S, `(B, 16, H, W)` in M, in [0, 1].

        With `train`, BatchNorm uses the batch's statistics and updates the running ones. `taps`
        collect the features and the decoders' maps by name.
        """
        check_clip(clip, self.config)
        levels = self.backbone(clip, train=train, taps=taps.at('backbone'))
        maps = []
        for name in ('d1', 'd2', 'd3'):
            taps[name] = decoded = sigmoid(getattr(self, name)(levels, train=train))
            maps.append(decoded)
        steps = max(x.shape[1] for x in maps)
        maps = [jnp.broadcast_to(x, (x.shape[0], steps, *x.shape[2:])) for x in maps]
        saliency = sigmoid(self.mix(jnp.concatenate(maps, -1)).astype(jnp.float32))
        return saliency if self.config.target == 'all' else saliency[:, 0]
