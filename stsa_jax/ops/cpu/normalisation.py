"""BatchNorm and ReLU with a gradient that makes fewer passes over the features."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from stsa_jax.ops.names import PRODUCT


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm_relu(
    y: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`stsa_jax.ops.normalisation.batch_norm` with ReLU: `(..., C)` -> the same, mean, variance.

    Only `y` is saved for the gradient. JAX's own would also save the centred features and the sign,
    and make more passes over them. The returned mean and variance have no gradient.
    """
    axes = tuple(range(y.ndim - 1))
    mean = checkpoint_name(y.mean(axes), PRODUCT)
    var = checkpoint_name(jnp.square(y - mean).mean(axes), PRODUCT)
    factor = scale * lax.rsqrt(var + eps)
    return jax.nn.relu(y * factor + (bias - mean * factor)), mean, var


def _forward(y, scale, bias, eps):
    out, mean, var = batch_norm_relu(y, scale, bias, eps)
    return (out, mean, var), (y, scale, bias, mean, var)


def _backward(eps, saved, gradients):
    y, scale, bias, mean, var = saved
    inverse = lax.rsqrt(var + eps)
    factor = scale * inverse
    d = jnp.where(y * factor + (bias - mean * factor) > 0, gradients[0], 0)
    axes, count = tuple(range(y.ndim - 1)), math.prod(y.shape[:-1])
    d_bias = d.sum(axes)
    d_scale = inverse * (d * (y - mean)).sum(axes)
    # factor * (d - d_bias / count - normalised y * d_scale / count), without the normalised y, for
    # which a CPU would materialise an array.
    slope = factor * inverse * (d_scale / count)
    d_y = factor * d - slope * y - (factor * (d_bias / count) - slope * mean)
    return d_y, d_scale, d_bias


batch_norm_relu.defvjp(_forward, _backward)
