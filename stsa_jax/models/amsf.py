"""Attentional multi-scale fusion of two neighbouring levels (section III-C, figure 4, eq. 9-11).

`high` and `low` are `(B, 4, H, W, C)`; the result is `(B, 4, H, W, C')`, to be upsampled by 2.

The paper's variants (Tables III and V) leave parts out. Without the weighting the two are added.
Without the multi-scale structure a plain 3x3 convolution replaces it. Without both this is a step
of a UNet-like decoder. With `concat` the two are concatenated instead of added.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import relu, sigmoid

from stsa_jax.models.layers import NO_TAPS, Conv, LayerNorm, Taps
from stsa_jax.models.stsa import STEPS
from stsa_jax.ops.pooling import max_pool


class AttentionWeighting(nnx.Module):
    """Spatial weights (W_m), then channel weights of each level (W_h, W_l)."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs | None):
        self.spatial = Conv(2 * channels, 1, rngs=rngs)
        self.squeeze = Conv(2 * channels, channels // 2, rngs=rngs)
        self.norm = LayerNorm((STEPS, 1, 1, channels // 2), rngs=rngs)
        self.excite = Conv(channels // 2, 2 * channels, rngs=rngs)

    def __call__(
        self, high: jax.Array, low: jax.Array | None, taps: Taps = NO_TAPS
    ) -> tuple[jax.Array, jax.Array]:
        """F_h W_h and F_l W_l of equations 9-11; Norm before ReLU, as in (10) and the code."""
        both = jnp.concatenate([high, low], axis=-1)
        where = sigmoid(self.spatial(both))  # (B, 4, H, W, 1)
        pooled = [jnp.einsum('bthwc,bthw->btc', x, where[..., 0]) for x in (high, low)]
        pooled = jnp.concatenate(pooled, axis=-1) / (high.shape[2] * high.shape[3])
        pooled = pooled[:, :, None, None]  # (B, 4, 1, 1, 2C): per time step
        weights = sigmoid(self.excite(relu(self.norm(self.squeeze(pooled)))))
        taps['spatial'], taps['channel'] = where, weights
        weight_high, weight_low = jnp.split(weights, 2, axis=-1)
        return high * weight_high, low * weight_low


class MultiScale(nnx.Module):
    """The sum of four receptive fields in space and time, to C' channels."""

    def __init__(self, channels: int, out: int, *, rngs: nnx.Rngs | None):
        self.point = Conv(channels, out, rngs=rngs)
        self.time_1 = Conv(channels, out, (3, 1, 1), rngs=rngs)
        self.space_1 = Conv(out, out, (1, 3, 3), rngs=rngs)
        self.time_2 = Conv(channels, out, (3, 1, 1), rngs=rngs)
        self.space_2 = Conv(out, out, (1, 5, 5), rngs=rngs)
        self.pool = Conv(channels, out, rngs=rngs)

    def __call__(self, x: jax.Array, taps: Taps = NO_TAPS) -> jax.Array:
        """`(B, 4, H, W, C)` -> `(B, 4, H, W, C')`, before the ReLU."""
        branches = (
            self.point(x),
            self.space_1(relu(self.time_1(x))),
            self.space_2(relu(self.time_2(x))),
            self.pool(max_pool(x, (3, 3, 3), (1, 1, 1), (1, 1, 1))),
        )
        for i, branch in enumerate(branches):
            taps[f'scale{i}'] = branch
        return sum(branches[1:], branches[0])


class AMSF(nnx.Module):
    """Attention weighting, then the multi-scale structure."""

    def __init__(
        self,
        channels: int,
        out: int,
        *,
        weighting: bool = True,
        multi_scale: bool = True,
        concat: bool = False,
        rngs: nnx.Rngs | None,
    ):
        self.concat = concat
        self.weighting = AttentionWeighting(channels, rngs=rngs) if weighting else None
        fused = 2 * channels if concat else channels
        self.multi_scale = MultiScale(fused, out, rngs=rngs) if multi_scale else None
        self.plain = None if multi_scale else Conv(fused, out, (1, 3, 3), rngs=rngs)

    def __call__(
        self, high: jax.Array, low: jax.Array | None = None, taps: Taps = NO_TAPS
    ) -> jax.Array:
        """Two `(B, 4, H, W, C)` -> `(B, 4, H, W, C')`; `low` is None in a single stream."""
        if self.weighting is not None:
            high, low = self.weighting(high, low, taps)
        if low is None:
            fused = high
        else:
            fused = jnp.concatenate([high, low], axis=-1) if self.concat else high + low
        if self.multi_scale is not None:
            return relu(self.multi_scale(fused, taps))
        assert self.plain is not None  # the configuration has one of the two
        return relu(self.plain(fused))
