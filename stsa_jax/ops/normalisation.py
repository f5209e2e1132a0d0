"""Normalisation with statistics in at least float32; results have the dtype of the features."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from stsa_jax.ops import cpu, forms
from stsa_jax.ops.names import PRODUCT

BATCH_NORM_EPS = 1e-3  # of all BatchNorms of S3D
LAYER_NORM_EPS = 1e-5


def batch_norm(
    y: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    expected_mean: jax.Array | float = 0.0,
    eps: float = BATCH_NORM_EPS,
    activation: Callable | None = jax.nn.relu,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """BatchNorm with the batch's statistics, then the activation.

    `(..., C)` -> the same, and the mean and (biased) variance over all axes but C, `(C,)` float32.
    In `(..., n C)` the channels are there n times (`ops.stem`): the statistics are of all n. The
    nearer `expected_mean`, `(C,)`, is to the mean, the less is the variance rounded.
    """
    if forms.for_cpu() and y.dtype == jnp.float32 and activation is jax.nn.relu:
        return cpu.batch_norm_relu(y, scale, bias, eps)
    around = lax.stop_gradient(jnp.broadcast_to(expected_mean, scale.shape))
    around = jnp.tile(around, y.shape[-1] // scale.size)
    mean, var = _moments(y, tuple(range(y.ndim - 1)), around)
    means, variances = mean.reshape(-1, scale.size), var.reshape(-1, scale.size)
    mean = means.mean(0)
    var = (variances + jnp.square(means - mean)).mean(0)
    mean, var = checkpoint_name(mean, PRODUCT), checkpoint_name(var, PRODUCT)
    out = scale_shift(y, scale, bias, mean, var, eps=eps, activation=activation)
    return out, mean, var


def scale_shift(
    y: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    *,
    eps: float = BATCH_NORM_EPS,
    activation: Callable | None = jax.nn.relu,
) -> jax.Array:
    """BatchNorm of `(..., n C)` with given statistics, all `(C,)`, then the activation."""
    factor = scale * lax.rsqrt(var + eps)
    shift = bias - mean * factor
    factor, shift = (jnp.tile(x, y.shape[-1] // x.size) for x in (factor, shift))
    z = y * factor + shift
    return (z if activation is None else activation(z)).astype(y.dtype)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, axes: Sequence[int]) -> jax.Array:
    """Normalises `x`, of any shape, over `axes`; then scale and bias, which broadcast against it.

    As PyTorch's LayerNorm: the biased variance, and eps 1e-5.
    """
    # In float32 as PyTorch computes them: rounding moves the indices of the max pool that follows.
    moments = _moments_of_deviations if x.dtype == jnp.float32 else _moments
    mean, var = moments(x, tuple(axes))
    return ((x - mean) * lax.rsqrt(var + LAYER_NORM_EPS) * scale + bias).astype(x.dtype)


def _moments(x, axes, around=0.0):
    """Mean and variance in one pass over x, which convolutions can do while they write it."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32)) - around
    mean, square = x.mean(axes, keepdims=True), jnp.square(x).mean(axes, keepdims=True)
    return mean + around, jnp.maximum(square - jnp.square(mean), 0)


def _moments_of_deviations(x, axes):
    mean = x.mean(axes, keepdims=True)
    return mean, jnp.square(x - mean).mean(axes, keepdims=True)
