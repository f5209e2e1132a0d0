"""Max pooling by comparing slices, which XLA fuses on CPUs.

This is far faster there than a windowed reduction and the scatter in its gradient.
"""

import jax
import jax.numpy as jnp
from jax import lax

Triple = tuple[int, int, int]


def max_pool(x: jax.Array, window: Triple, stride: Triple, padding: Triple) -> jax.Array:
    """`stsa_jax.ops.pooling.max_pool`, one axis after the other."""
    for axis in (3, 2, 1):  # w first, so that ties resolve in raster order
        x = _along(x, axis, window[axis - 1], stride[axis - 1], padding[axis - 1])
    return x


def max_unpool_2x2(x: jax.Array, index: jax.Array) -> jax.Array:
    """`stsa_jax.ops.pooling.max_unpool_2x2`, by comparing each value's index with its places."""
    b, t, h, w, c = x.shape
    places = jnp.arange(4, dtype=jnp.int8).reshape(2, 1, 2, 1)
    spread = jnp.where(index[:, :, :, None, :, None] == places, x[:, :, :, None, :, None], 0)
    return spread.reshape(b, t, 2 * h, 2 * w, c)


def _along(x, axis, window, stride, padding):
    if window == 1 and stride == 1:
        return x
    length = (x.shape[axis] + 2 * padding - window) // stride + 1
    if padding:
        widths = [(0, 0)] * x.ndim
        widths[axis] = (padding, padding)
        x = jnp.pad(x, widths, constant_values=-jnp.inf)
    best = None
    for offset in range(window):
        stop = offset + (length - 1) * stride + 1
        part = lax.slice_in_dim(x, offset, stop, stride, axis)
        best = part if best is None else jnp.where(part > best, part, best)
    return best
