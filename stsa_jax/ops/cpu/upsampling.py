"""Bilinear upsampling by 2 as sums of neighbours, and convolutions of upsampled inputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from stsa_jax.ops.cpu.convolution import Triple, conv3d


def upsample_2x(x: jax.Array) -> jax.Array:
    """`stsa_jax.ops.upsampling.upsample_2x`."""
    return double(double(x, axis=2), axis=3)


def conv3d_of_upsampled(
    x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple
) -> jax.Array:
    """`conv3d` of `upsample_2x(x)`; for 3x3 kernels at a quarter of the multiply-adds.

    `(B, T, H, W, C)` with kernel `(kt, 3, 3, C, D)` -> `(B, T/kt, 2H, 2W, D)`. Both are linear, so
    the channel products are computed at the small size, and each tap's product is upsampled and
    shifted. Only in float32; at lower precision the rounding of the products would matter.
    """
    kt, kh, kw, c, d = kernel.shape
    if x.dtype != jnp.float32 or (kh, kw, stride, padding) != (3, 3, (kt, 1, 1), (0, 1, 1)):
        return conv3d(upsample_2x(x), kernel, stride, padding)
    taps = kernel.transpose(0, 3, 1, 2, 4).reshape(kt, 1, 1, c, 9 * d)
    x = conv3d(x, taps, (kt, 1, 1), (0, 0, 0))
    x = x.reshape(*x.shape[:-1], 3, 3, d)  # B, T/kt, H, W, kernel row, kernel column, D
    for axis in (3, 2):
        # Split, not indexed: the gradient of a split concatenates, that of indexing adds padded
        # arrays.
        parts = (part.squeeze(-2) for part in jnp.split(x, 3, -2))
        x = sum(_shift(double(part, axis), 1 - i, axis) for i, part in enumerate(parts))
    return x


def _shift(x, by, axis):
    """Shifts along an axis by at most one position, filling with zeros."""
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (by, -by, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), edges)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def double(x: jax.Array, axis: int) -> jax.Array:
    """Bilinear upsampling along one axis by 2; half-pixel centres, edges clamped."""
    before, after = _before(x, x, axis), _after(x, x, axis)
    pair = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1)
    return pair.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])


def _double_backward(axis, _, dy):
    """One sum; JAX's own gradient adds zero-padded arrays, which is slow on a CPU."""
    pair = dy.reshape(*dy.shape[:axis], dy.shape[axis] // 2, 2, *dy.shape[axis + 1 :])
    even, odd = (lax.index_in_dim(pair, i, axis + 1, keepdims=False) for i in (0, 1))
    sides = _before(odd, even, axis) + _after(even, odd, axis)
    return (0.75 * (even + odd) + 0.25 * sides,)


double.defvjp(lambda x, axis: (double(x, axis), None), _double_backward)


def double_aligned(x: jax.Array, axis: int) -> jax.Array:
    """Linear upsampling along one axis by 2 with the end points fixed.

    With n positions, output 2k lies k / (2n - 1) before position k, and output 2k + 1 lies
    (n - 1 - k) / (2n - 1) behind it.
    """
    n = x.shape[axis]
    shape = [n if a == axis else 1 for a in range(x.ndim)]
    before = (np.arange(n) / (2 * n - 1)).reshape(shape)
    after = np.flip(before, axis)
    before, after = (jnp.asarray(weight, x.dtype) for weight in (before, after))
    even = (1 - before) * x + before * _before(x, x, axis)
    odd = (1 - after) * x + after * _after(x, x, axis)
    pair = jnp.stack([even, odd], axis + 1)
    return pair.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])


def _before(x, edge, axis):
    """`x` shifted forward by one along an axis; the first element is that of `edge`."""
    n = x.shape[axis]
    parts = lax.slice_in_dim(edge, 0, 1, axis=axis), lax.slice_in_dim(x, 0, n - 1, axis=axis)
    return jnp.concatenate(parts, axis)


def _after(x, edge, axis):
    """`x` shifted back by one along an axis; the last element is that of `edge`."""
    n = x.shape[axis]
    parts = lax.slice_in_dim(x, 1, n, axis=axis), lax.slice_in_dim(edge, n - 1, n, axis=axis)
    return jnp.concatenate(parts, axis)
