"""MobileNetV2's block (Sandler et al., CVPR 2018), in three dimensions as inflated in tinyHD.

An inverted residual expands its channels with a 1x1x1 convolution, applies a depthwise convolution,
and projects them again; the projection is linear. Every convolution is bias-free and followed by
BatchNorm. With a kernel of one time step it is the block in two dimensions.
"""

from collections.abc import Callable

import jax
from flax import nnx
from jax.nn import relu6

from stsa_jax.models.layers import ConvBN

BATCH_NORM_EPS = 1e-5  # PyTorch's defaults
BATCH_NORM_MOMENTUM = 0.1


class InvertedResidual(nnx.Module):
    """Expansion, depthwise convolution, projection; with a residual if the shapes match."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        *,
        expansion: int,
        time: tuple[int, int] = (3, 1),
        space_stride: int = 1,
        residual: bool = False,
        unit: Callable[..., nnx.Module] = ConvBN,
        **options,
    ):
        """`time` is the depthwise kernel and stride in time; in space it is 3x3.

        `unit` is a convolution with its norm, and `options` are its: `rngs`, `eps` and `momentum`
        of `ConvBN`.
        """
        kernel, stride = time
        hidden = expansion * features_in
        self.expand = (
            unit(features_in, hidden, (1, 1, 1), activation=relu6, **options)
            if expansion > 1
            else None
        )
        self.filter = unit(
            hidden,
            hidden,
            (kernel, 3, 3),
            stride=(stride, space_stride, space_stride),
            depthwise=True,
            activation=relu6,
            **options,
        )
        self.project = unit(hidden, features_out, (1, 1, 1), activation=None, **options)
        self.residual = residual

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`(B, T, H, W, features_in)` -> `(B, T', H', W', features_out)`."""
        y = x if self.expand is None else self.expand(x, train=train)
        y = self.project(self.filter(y, train=train), train=train)
        return x + y if self.residual else y
