"""STSA-Net (Wang et al., IEEE TMM; paper section III): a clip in, the saliency of one frame out.

Input `(B, 32, 224, 384, 3)`, RGB normalised with ImageNet's mean and standard deviation
(`stsa_jax.media.preprocess`). Output `(B, 224, 384)` in [0, 1]: the saliency of the 16th frame, or
of the 32nd for weights trained "last-supervised" (Table VI).

Shapes at the default config, `(T, H, W, C)`:

    level   backbone          compressed        STSA layer I -> II
    0       16, 56, 96, 192   4, 56, 96, 192    192 -> 192, attention at 28x48
    1       16, 28, 48, 480   4, 28, 48, 480    480 -> 240
    2        8, 14, 24, 832   4, 14, 24, 832    832 -> 416
    3        4,  7, 12, 1024  unchanged         1024 -> 512 -> 416, upsampled to 14x24

    AMSF (3, 2) -> 4, 14, 24, 240;  upsampled, with 1 -> 4, 28, 48, 192;  with 0 -> 4, 56, 96, 192
    readout     -> 4, 112, 192, 64 -> 2, 224, 384, 32 -> 1, 224, 384, 32 -> 224, 384

Sizes are multiples of 16. At a size that is not a multiple of 32, level 3 has `H // 32` rows, as
the pool gives, and is resized to level 2's size instead of doubled.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.nn import relu, sigmoid

from stsa_jax.models.amsf import AMSF
from stsa_jax.models.clips import check_clip, refuse_bad_fields, target_index
from stsa_jax.models.layers import BATCH_NORM_MOMENTUM, NO_TAPS, Conv, ConvOfUpsampled, Taps
from stsa_jax.models.s3d import S3DBackbone, scale_width, stage_channels
from stsa_jax.models.stsa import ATTENTION, STEPS, STSAModule
from stsa_jax.ops.upsampling import resize, upsample_2x

TIME_STRIDES = (2, 2, 4, 8)  # of the backbone's stages
SPACE_STRIDES = (4, 8, 16, 32)
# STSA layer I and II at width 1: the released code's embeddings are not always half the channels,
# and level 0's middle convolution keeps its channels where the paper says that it halves them.
STSA_OUT = (192, 240, 416, 512)
STSA_EMBED = ((96, 96), (224, 128), (416, 208), (512, 256))
AMSF_OUT = (240, 192, 192)
# The dtypes of level 0, whose max pools store their indices, and of the rest.
DTYPES = {
    'float32': (jnp.float32, jnp.float32),
    'mixed': (jnp.float32, jnp.bfloat16),
    'bfloat16': (jnp.bfloat16, jnp.bfloat16),
}
# Precision of the float32 products in base1 and branch 0.
EXACT = lax.Precision.HIGHEST
STRUCTURE = (
    'levels',
    'stsa_levels',
    'stsa_layers',
    'attention',
    'amsf_weighting',
    'amsf_multi_scale',
    'amsf_concat',
)


@dataclass(frozen=True)
class STSANetConfig:
    """The structure and size of the network. The defaults are the paper's model.

    Attributes:
        image_size: (H, W) of the input, multiples of 16, at least 32.
        frames: length of the clip, a multiple of 8, at least 16.
        width: multiplies all channel counts.
        target: the frame that the output describes: 'middle' (frame T/2) or 'last'.
        norm: 'full': STSA's LayerNorms have a scale and bias of the features' shape, as in the
            published weights. 'size_free': one per channel, so that weights fit every input size.
        batch_norm_momentum: weight of a batch's statistics in the running ones. The default suits
            a pre-trained backbone; use about 0.1 to train from scratch.
        dtype: of activations and products, 'float32' or 'bfloat16'; parameters, statistics and
            the softmax are always float32. 'mixed' is bfloat16 except level 0, from base1 to the
            readout, because rounding moves the indices of its max pools.
        levels: of the backbone that are used, counted from 0. Level 3, where the decoder starts, is
            required. The paper's single-stream row uses only 3.
        stsa_levels: those that have an STSA module. The paper's STSA_n is level n - 1. Other levels
            keep their temporal compression and the convolution that sets their channels.
        stsa_layers: of each STSA module, I and II.
        attention: 'pairs' of groups of time steps; 'steps': each step attends to itself ("w/o
            temporal relations"); 'single': all positions of all steps to each other, in layer I
            only ("single similarity matrix").
        amsf_weighting: attention weighting in the fusion, else plain addition.
        amsf_multi_scale: the multi-scale structure in the fusion, else a 3x3 convolution.
        amsf_concat: the fusion concatenates the levels' channels instead of adding them.
    """

    image_size: tuple[int, int] = (224, 384)
    frames: int = 32
    width: float = 1.0
    target: str = 'middle'
    norm: str = 'full'
    batch_norm_momentum: float = BATCH_NORM_MOMENTUM
    dtype: str = 'float32'
    levels: tuple[int, ...] = (0, 1, 2, 3)
    stsa_levels: tuple[int, ...] = (0, 1, 2, 3)
    stsa_layers: tuple[int, ...] = (1, 2)
    attention: str = 'pairs'
    amsf_weighting: bool = True
    amsf_multi_scale: bool = True
    amsf_concat: bool = False

    def __post_init__(self):
        for field in ('image_size', 'levels', 'stsa_levels', 'stsa_layers'):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        layers = (1,) if self.attention == 'single' else (1, 2)
        checks = {
            'image_size': (
                len(self.image_size) == 2 and all(n >= 32 and n % 16 == 0 for n in self.image_size),
                'two multiples of 16, at least 32, such as (224, 384)',
            ),
            'frames': (self.frames >= 16 and self.frames % 8 == 0, 'a multiple of 8, at least 16'),
            'width': (self.width > 0, 'a positive number, 1 for the paper'),
            'target': (self.target in ('middle', 'last'), "'middle' or 'last'"),
            'norm': (self.norm in ('full', 'size_free'), "'full' or 'size_free'"),
            'batch_norm_momentum': (0 < self.batch_norm_momentum <= 1, 'a number in (0, 1]'),
            'dtype': (self.dtype in DTYPES, "'float32', 'mixed' or 'bfloat16'"),
            'levels': (
                _some_of(self.levels, range(4)) and 3 in self.levels,
                'a subset of (0, 1, 2, 3) that includes 3, where the decoder starts',
            ),
            'stsa_levels': (
                _some_of(self.stsa_levels, self.levels),
                f'a subset of the levels that are used, {self.levels}, or () for none',
            ),
            'attention': (self.attention in ATTENTION, f'one of {", ".join(ATTENTION)}'),
            'stsa_layers': (
                self.stsa_layers != () and _some_of(self.stsa_layers, layers),
                f'a subset of {layers} with attention={self.attention!r}'
                + ', whose one matrix relates all steps' * (len(layers) == 1)
                + '; for no STSA at all set stsa_levels=()',
            ),
            'amsf_weighting': (
                self.levels != (3,) or not self.amsf_weighting,
                'False for a single stream: it has no two levels to weigh',
            ),
            'amsf_concat': (
                self.levels != (3,) or not self.amsf_concat,
                'False for a single stream: it has no two levels to concatenate',
            ),
        }
        refuse_bad_fields(self, checks)

    @property
    def structure(self) -> dict:
        """The fields that determine which parts exist, without their sizes."""
        return {field: getattr(self, field) for field in STRUCTURE}

    @property
    def target_index(self) -> int:
        """Position of the target frame in the clip, from 0: 15 of 32 for 'middle'."""
        return target_index(self)


def _some_of(chosen: tuple, known) -> bool:
    """Whether `chosen` are distinct members of `known`, in order."""
    return list(chosen) == [k for k in known if k in chosen]


class Branch(nnx.Module):
    """One level: temporal compression to four steps, then its STSA module.

    If four does not divide the steps, they are repeated evenly up to the next multiple of four.
    Level 3 is compressed only if it has more than four.
    """

    def __init__(self, level: int, config: STSANetConfig, *, rngs: nnx.Rngs | None):
        width, channels = config.width, stage_channels(config.width)[level]
        precision = EXACT if level == 0 else None
        self.steps = config.frames // TIME_STRIDES[level]
        k = -(-self.steps // STEPS)
        self.filled = k * STEPS
        kernel = (k, 1, 1)
        self.compress = (
            Conv(channels, channels, kernel, stride=kernel, precision=precision, rngs=rngs)
            if k > 1 or level < 3
            else None
        )
        height, wide = (n // SPACE_STRIDES[level] for n in config.image_size)
        first, second = STSA_EMBED[level]
        self.stsa = STSAModule(
            (height, wide),
            (channels, scale_width(STSA_OUT[level], width)),
            (scale_width(first, width), scale_width(second, width)),
            bottleneck=level == 0,
            layers=config.stsa_layers if level in config.stsa_levels else (),
            attention=config.attention,
            size_free=config.norm == 'size_free',
            precision=precision,
            rngs=rngs,
        )

    def __call__(self, x: jax.Array, taps: Taps = NO_TAPS) -> jax.Array:
        """`(B, T, H, W, C_I)` -> `(B, 4, H, W, C_II)`."""
        if self.steps < self.filled:
            x = x[:, np.arange(self.filled) * self.steps // self.filled]
        if self.compress is not None:
            x = relu(self.compress(x))
            taps['compress'] = x
        return self.stsa(x, taps)


class Readout(nnx.Module):
    """Fused features to one map: `(B, 4, H/4, W/4, C)` -> `(B, H, W)` float32."""

    def __init__(self, channels: int, width: float, *, rngs: nnx.Rngs | None):
        c64, c32 = scale_width(64, width), scale_width(32, width)
        self.reduce = ConvOfUpsampled(channels, c64, (1, 3, 3), rngs=rngs)
        self.time_1 = ConvOfUpsampled(c64, c32, (2, 3, 3), stride=(2, 1, 1), rngs=rngs)
        self.time_2 = Conv(c32, c32, (2, 1, 1), stride=(2, 1, 1), bias=False, rngs=rngs)
        self.map = Conv(c32, 1, (1, 3, 3), rngs=rngs)

    def __call__(self, x: jax.Array, taps: Taps = NO_TAPS) -> jax.Array:
        """See above."""
        x = relu(self.reduce(x))  # 4, H/2, W/2, 64
        if taps.kept is not None:
            taps['reduce'] = upsample_2x(x)
        x = relu(self.time_1(x))  # 2, H, W, 32
        x = relu(self.time_2(x))  # 1, H, W, 32
        return sigmoid(self.map(x).astype(jnp.float32))[:, 0, :, :, 0]


class STSANet(nnx.Module):
    """The whole network (figure 2)."""

    def __init__(self, config: STSANetConfig = STSANetConfig(), *, rngs: nnx.Rngs | None):
        """Uses PyTorch's default initialisation. `split` the module for training (`functional`)."""
        self.config = config
        out = [scale_width(c, config.width) for c in STSA_OUT]
        fused = [scale_width(c, config.width) for c in AMSF_OUT]
        momentum = config.batch_norm_momentum
        self.backbone = S3DBackbone(
            config.width, stem_precision=EXACT, momentum=momentum, rngs=rngs
        )
        for level in config.levels:
            setattr(self, f'branch{level}', Branch(level, config, rngs=rngs))
        self.lateral = Conv(out[3], out[2], (1, 3, 3), rngs=rngs)
        for i, channels in enumerate((out[2], *fused[:2])):
            low = 2 - i in config.levels
            amsf = AMSF(
                channels,
                fused[i],
                weighting=config.amsf_weighting and low,
                multi_scale=config.amsf_multi_scale,
                concat=config.amsf_concat and low,
                rngs=rngs,
            )
            setattr(self, f'amsf{i}', amsf)
        self.readout = Readout(fused[2], config.width, rngs=rngs)

    def __call__(self, clip: jax.Array, *, train: bool = False, taps: Taps = NO_TAPS) -> jax.Array:
        """`(B, T, H, W, 3)` normalised -> saliency `(B, H, W)` float32 in [0, 1].

        With `train`, BatchNorm uses the batch's statistics and updates the running ones. `taps`
        collect the stage features and attention matrices by name.
        """
        check_clip(clip, self.config)
        exact, dtype = DTYPES[self.config.dtype]
        return self.of_stages(self.backbone(clip.astype(exact), train=train, dtype=dtype), taps)

    def of_stages(self, stages: tuple[jax.Array, ...], taps: Taps = NO_TAPS) -> jax.Array:
        """The backbone's four stages -> saliency, as for a clip."""
        exact, _ = DTYPES[self.config.dtype]
        for i, stage in enumerate(stages):
            taps[f'backbone.base{i + 1}'] = stage
        levels: list[jax.Array | None] = [None] * 4  # None: not used, in a single stream
        for i in self.config.levels:
            levels[i] = getattr(self, f'branch{i}')(stages[i], taps.at(f'branch{i}'))
        x = resize(relu(self.lateral(levels[3])), stages[2].shape[2:4])
        taps['lateral'] = x
        x = self.amsf0(x, levels[2], taps.at('amsf0'))
        x = self.amsf1(upsample_2x(x), levels[1], taps.at('amsf1'))
        x = self.amsf2(upsample_2x(x).astype(exact), levels[0], taps.at('amsf2'))
        return self.readout(x, taps.at('readout'))  # which upsamples to full size
