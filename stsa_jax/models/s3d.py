"""S3D (Xie et al., ECCV 2018): the 3D-convolutional backbone, and the Kinetics classifier.

Input `(B, T, H, W, 3)`, T a multiple of 8, H and W of 16. The four stages of the backbone, at width
1 for 32x224x384:

    base1  (16, 56, 96,  192)
    base2  (16, 28, 48,  480)
    base3  ( 8, 14, 24,  832)
    base4  ( 4,  7, 12, 1024)

Every convolution is bias-free and followed by BatchNorm and ReLU. The input range depends on the
weights: see `stsa_jax.media.preprocess`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from stsa_jax.models.layers import Conv, ConvBNReLU
from stsa_jax.ops import stem
from stsa_jax.ops.pooling import max_pool

# block: input channels, b0, b1 (reduce, out), b2 (reduce, out), b3
MIXED = {
    '3b': (192, 64, (96, 128), (16, 32), 32),
    '3c': (256, 128, (128, 192), (32, 96), 64),
    '4b': (480, 192, (96, 208), (16, 48), 64),
    '4c': (512, 160, (112, 224), (24, 64), 64),
    '4d': (512, 128, (128, 256), (24, 64), 64),
    '4e': (512, 112, (144, 288), (32, 64), 64),
    '4f': (528, 256, (160, 320), (32, 128), 128),
    '5b': (832, 256, (160, 320), (32, 128), 128),
    '5c': (832, 384, (192, 384), (48, 128), 128),
}
STAGES = {'base2': ('3b', '3c'), 'base3': ('4b', '4c', '4d', '4e', '4f'), 'base4': ('5b', '5c')}


def scale_width(channels: int, width: float) -> int:
    """`channels` times the width multiplier, rounded to a multiple of 4, at least 4."""
    return channels if width == 1 else max(4, 4 * round(channels * width / 4))


def mixed_out(block: str, width: float) -> int:
    """Output channels of a Mixed block: the sum over its four branches."""
    _, b0, (_, b1), (_, b2), b3 = MIXED[block]
    return sum(scale_width(c, width) for c in (b0, b1, b2, b3))


def stage_channels(width: float = 1.0) -> tuple[int, int, int, int]:
    """Channels of base1 to base4: (192, 480, 832, 1024) at width 1."""
    base2, base3, base4 = (mixed_out(blocks[-1], width) for blocks in STAGES.values())
    return scale_width(192, width), base2, base3, base4


class SepConv(nnx.Module):
    """Spatial (1,k,k), then temporal (k,1,1) convolution, each with BatchNorm and ReLU."""

    spatial_kind = temporal_kind = ConvBNReLU

    def __init__(self, features_in: int, features_out: int, size: int, stride: int = 1, **options):
        """`options` are those of `ConvBNReLU`."""
        k, s, out = size, stride, features_out
        self.spatial = self.spatial_kind(features_in, out, (1, k, k), stride=(1, s, s), **options)
        self.temporal = self.temporal_kind(out, out, (k, 1, 1), stride=(s, 1, 1), **options)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`(B, T, H, W, features_in)` -> `(B, T/s, H/s, W/s, features_out)`."""
        return self.temporal(self.spatial(x, train=train), train=train)


class FirstSpatial(ConvBNReLU):
    """The spatial convolution of a clip; its result is for `FirstTemporal` alone."""

    def _convolve(self, x):
        return stem.of_space(x, self.kernel[...], self.precision)


class FirstTemporal(ConvBNReLU):
    """The temporal convolution after `FirstSpatial`."""

    def _convolve(self, x):
        return stem.of_time(x, self.kernel[...], self.precision)


class FirstSepConv(SepConv):
    """The one of stride 2 that takes the clip."""

    spatial_kind, temporal_kind = FirstSpatial, FirstTemporal


class Mixed(nnx.Module):
    """Inception block: four branches, concatenated along the channels."""

    def __init__(self, block: str, features_in: int, width: float, **options):
        """`options` are those of `ConvBNReLU`."""
        _, b0, (r1, b1), (r2, b2), b3 = MIXED[block]
        b0, r1, b1, r2, b2, b3 = (scale_width(c, width) for c in (b0, r1, b1, r2, b2, b3))

        def pointwise(out):
            return ConvBNReLU(features_in, out, (1, 1, 1), **options)

        self.branch0 = pointwise(b0)
        self.branch1_reduce, self.branch1 = pointwise(r1), SepConv(r1, b1, 3, **options)
        self.branch2_reduce, self.branch2 = pointwise(r2), SepConv(r2, b2, 3, **options)
        self.branch3 = pointwise(b3)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`(B, T, H, W, C)` -> `(B, T, H, W, b0 + b1 + b2 + b3)`."""
        b0 = self.branch0(x, train=train)
        b1 = self.branch1(self.branch1_reduce(x, train=train), train=train)
        b2 = self.branch2(self.branch2_reduce(x, train=train), train=train)
        b3 = self.branch3(max_pool(x, (3, 3, 3), (1, 1, 1), (1, 1, 1)), train=train)
        return jnp.concatenate([b0, b1, b2, b3], axis=-1)


class Stem(nnx.Module):
    """The first stage, up to 1/4 of the size and 1/2 of the frames."""

    def __init__(self, width: float, **options):
        """`options` are those of `ConvBNReLU`."""
        c64, c192 = scale_width(64, width), scale_width(192, width)
        self.conv1 = FirstSepConv(3, c64, 7, 2, **options)
        self.conv2 = ConvBNReLU(c64, c64, (1, 1, 1), **options)
        self.conv3 = SepConv(c64, c192, 3, **options)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`(B, T, H, W, 3)` -> `(B, T/2, H/4, W/4, 192)`."""
        x = self.conv1(x, train=train)  # T/2, H/2, W/2, 64
        x = max_pool(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))  # T/2, H/4, W/4, 64
        return self.conv3(self.conv2(x, train=train), train=train)


class Stage(nnx.Module):
    """A sequence of Mixed blocks."""

    def __init__(self, name: str, features_in: int, width: float, **options):
        """`options` are those of `ConvBNReLU`."""
        self.blocks = STAGES[name]
        for block in self.blocks:
            setattr(self, f'mixed_{block}', Mixed(block, features_in, width, **options))
            features_in = mixed_out(block, width)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`(B, T, H, W, C)` -> `(B, T, H, W, D)`."""
        for block in self.blocks:
            x = getattr(self, f'mixed_{block}')(x, train=train)
        return x


class S3DBackbone(nnx.Module):
    """The fully convolutional part: a clip -> the features of its four stages."""

    def __init__(
        self, width: float = 1.0, *, stem_precision: lax.Precision | None = None, **options
    ):
        """`options` are those of `ConvBNReLU`: `rngs`, and `momentum` of the running statistics."""
        c1, c2, c3, _ = stage_channels(width)
        self.base1 = Stem(width, precision=stem_precision, **options)
        self.base2 = Stage('base2', c1, width, **options)
        self.base3 = Stage('base3', c2, width, **options)
        self.base4 = Stage('base4', c3, width, **options)

    def __call__(
        self, clip: jax.Array, *, train: bool = False, dtype: DTypeLike | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """`(B, T, H, W, 3)` -> base1 to base4; shapes in the module docstring.

        base1 has the dtype of the clip, the others `dtype` if it is given.
        """
        base1 = self.base1(clip, train=train)
        x = max_pool(base1, (1, 3, 3), (1, 2, 2), (0, 1, 1)).astype(dtype or clip.dtype)
        base2 = self.base2(x, train=train)
        return base1, base2, *self.later_stages(base2, train=train)

    def later_stages(self, base2: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """base3 and base4."""
        base3 = self.base3(max_pool(base2, (3, 3, 3), (2, 2, 2), (1, 1, 1)), train=train)
        return base3, self.base4(max_pool(base3, (2, 2, 2), (2, 2, 2), (0, 0, 0)), train=train)


@dataclass(frozen=True)
class S3DConfig:
    """The Kinetics classifier: the number of classes, and the width multiplier of all channels."""

    num_classes: int = 400
    width: float = 1.0


class S3D(nnx.Module):
    """S3D's Kinetics classifier: `(B, T, H, W, 3)` -> logits `(B, num_classes)`."""

    def __init__(self, config: S3DConfig = S3DConfig(), *, rngs: nnx.Rngs | None):
        self.config = config
        self.backbone = S3DBackbone(config.width, rngs=rngs)
        self.classifier = Conv(stage_channels(config.width)[3], config.num_classes, rngs=rngs)

    def __call__(self, clip: jax.Array, *, train: bool = False) -> jax.Array:
        """`(B, T, H, W, 3)` -> logits `(B, num_classes)`; T at least 16."""
        *_, x = self.backbone(clip, train=train)  # (B, T/8, H/32, W/32, 1024)
        x = x.mean(axis=(2, 3), keepdims=True)
        x = (x[:, :-1] + x[:, 1:]) / 2  # average pool over 2 time steps, stride 1
        return self.classifier(x).mean(axis=(1, 2, 3))
