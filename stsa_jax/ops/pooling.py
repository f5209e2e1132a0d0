"""Pooling and bilinear upsampling that give PyTorch's numbers, on `(B, T, H, W, C)`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Triple = tuple[int, int, int]


def max_pool(x: jax.Array, window: Triple, stride: Triple, padding: Triple) -> jax.Array:
    """PyTorch's max_pool3d: padding counts as minus infinity.

    One axis after the other, by comparing strided slices: on ties the first element in
    (t, h, w) order gets the gradient, as in PyTorch, and XLA fuses the comparisons, which is far
    faster than its windowed reduction and the scatter in that one's gradient.
    """
    for axis in (3, 2, 1):  # w first, so that ties resolve in raster order
        x = _max_pool_axis(x, axis, window[axis - 1], stride[axis - 1], padding[axis - 1])
    return x


def _max_pool_axis(x, axis, window, stride, padding):
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


def max_pool_2x2_with_indices(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Spatial max pool 1,2,2 / 1,2,2 keeping where each maximum was.

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


def upsample_2x(x: jax.Array) -> jax.Array:
    """Bilinear in space by 2, half-pixel centres, edges clamped (`align_corners=False`)."""
    return double(double(x, axis=2), axis=3)


def resize(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """`(B, T, h, w, C)` to `size` = (H, W): bilinear, half-pixel centres, edges clamped.

    PyTorch's `interpolate(size=..., align_corners=False)`; at twice the size it is `upsample_2x`.
    """
    if size == (2 * x.shape[2], 2 * x.shape[3]):
        return upsample_2x(x)
    for axis, n in zip((2, 3), size):
        before, after, weight = bilinear_taps(x.shape[axis], n)
        weight = np.expand_dims(weight, [i for i in range(x.ndim) if i != axis]).astype(x.dtype)
        x = (1 - weight) * x.take(before, axis) + weight * x.take(after, axis)
    return x


def bilinear_taps(n: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `wanted` places along an axis of length `n`: two indices, weight of the second.

    Half-pixel centres, edges clamped. A constant stays constant, and at the same length all stays.
    """
    places = np.clip((np.arange(wanted) + 0.5) * n / wanted - 0.5, 0, n - 1)
    before = places.astype(int)
    return before, np.minimum(before + 1, n - 1), places - before


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def double(x: jax.Array, axis: int) -> jax.Array:
    """Bilinear along one axis by 2; see `upsample_2x`."""
    before, after = _before(x, x, axis), _after(x, x, axis)
    pair = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1)
    return pair.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])


def _double_backward(axis, _, dy):
    """One sum, where JAX's own is a sum of arrays padded with zeros, which a CPU is slow at."""
    pair = dy.reshape(*dy.shape[:axis], dy.shape[axis] // 2, 2, *dy.shape[axis + 1 :])
    even, odd = (lax.index_in_dim(pair, i, axis + 1, keepdims=False) for i in (0, 1))
    sides = _before(odd, even, axis) + _after(even, odd, axis)
    return (0.75 * (even + odd) + 0.25 * sides,)


double.defvjp(lambda x, axis: (double(x, axis), None), _double_backward)


def _before(x, edge, axis):
    """`x` moved on by one place along an axis; the first is that of `edge`."""
    n = x.shape[axis]
    parts = lax.slice_in_dim(edge, 0, 1, axis=axis), lax.slice_in_dim(x, 0, n - 1, axis=axis)
    return jnp.concatenate(parts, axis)


def _after(x, edge, axis):
    """`x` moved back by one place along an axis; the last is that of `edge`."""
    n = x.shape[axis]
    parts = lax.slice_in_dim(x, 1, n, axis=axis), lax.slice_in_dim(edge, n - 1, n, axis=axis)
    return jnp.concatenate(parts, axis)
