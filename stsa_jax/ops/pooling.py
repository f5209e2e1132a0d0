"""Max pooling, with and without indices, and unpooling, on `(B, T, H, W, C)`."""

import jax
import jax.numpy as jnp
from jax import lax

from stsa_jax.ops import cpu, forms
from stsa_jax.ops.convolution import Triple


def max_pool(x: jax.Array, window: Triple, stride: Triple, padding: Triple) -> jax.Array:
    """PyTorch's max_pool3d: padding counts as minus infinity.

    On ties the first element in (t, h, w) order gets the gradient, as in PyTorch.
    """
    if forms.for_cpu():
        return cpu.max_pool(x, window, stride, padding)
    pads = [(0, 0), *((p, p) for p in padding), (0, 0)]
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *stride, 1), pads)


def max_pool_2x2_with_indices(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Spatial max pool 1,2,2 / 1,2,2 that also returns the position of each maximum.

    `(B, T, H, W, C)` -> values `(B, T, H/2, W/2, C)` and indices of the same shape, int8: 2 * row +
    column inside the window, of the first maximum in (row, column) order on ties, as in PyTorch.
    """
    parts = [x[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    best, index = parts[0], jnp.zeros(parts[0].shape, jnp.int8)
    for k in (1, 2, 3):
        larger = parts[k] > best
        best, index = jnp.where(larger, parts[k], best), jnp.where(larger, jnp.int8(k), index)
    return best, index


def max_unpool_2x2(x: jax.Array, index: jax.Array) -> jax.Array:
    """Puts each value back where its maximum was, zeros elsewhere; H and W double."""
    b, t, h, w, c = x.shape
    places = jnp.arange(4, dtype=jnp.int8).reshape(2, 1, 2, 1)
    spread = jnp.where(index[:, :, :, None, :, None] == places, x[:, :, :, None, :, None], 0)
    return spread.reshape(b, t, 2 * h, 2 * w, c)
