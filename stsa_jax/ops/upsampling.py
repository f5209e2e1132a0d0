"""Resampling that matches PyTorch's numbers, on `(B, T, H, W, C)`."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from stsa_jax.ops import cpu, forms

RESIZE = 'resize'  # named scope of its products, which involve no parameters


def upsample_2x(x: jax.Array) -> jax.Array:
    """`(B, T, H, W, C)` -> `(B, T, 2H, 2W, C)`, bilinear: `resize` to twice the size."""
    return resize(x, (2 * x.shape[2], 2 * x.shape[3]))


def resize(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """`(B, T, h, w, C)` to `size` = (H, W): bilinear, half-pixel centres, edges clamped.

    PyTorch's `interpolate(size=..., align_corners=False)`, as products with two interpolation
    matrices.
    """
    if forms.for_cpu() and size == (2 * x.shape[2], 2 * x.shape[3]):
        return cpu.upsample_2x(x)
    rows, columns = (matrix(n, m).astype(x.dtype) for n, m in zip(x.shape[2:4], size))
    exact = lax.Precision.HIGHEST  # so that neither the weights nor x are rounded
    with jax.named_scope(RESIZE):
        x = jnp.einsum('bthwc,hH->btHwc', x, rows, precision=exact)
        return jnp.einsum('bthwc,wW->bthWc', x, columns, precision=exact)


def upsample_aligned(x: jax.Array, axes: Sequence[int], factor: int = 2) -> jax.Array:
    """Linear upsampling along each of `axes` by `factor`; the end points are fixed.

    PyTorch's `Upsample(mode='trilinear', align_corners=True)`.
    """
    if factor == 2 and forms.for_cpu():
        for axis in axes:
            x = cpu.double_aligned(x, axis)
        return x
    for axis in axes:
        n = x.shape[axis]
        places = np.linspace(0, n - 1, factor * n)
        table = jnp.asarray(_weights(n, np.minimum(places.astype(int), n - 1), places), x.dtype)
        with jax.named_scope(RESIZE):
            x = jnp.moveaxis(
                jnp.tensordot(x, table, ((axis,), (0,)), precision=lax.Precision.HIGHEST),
                -1,
                axis,
            )
    return x


def pixel_shuffle(x: jax.Array) -> jax.Array:
    """`(B, T, H, W, 4C)` -> `(B, T, 2H, 2W, C)`: four channels become 2x2 pixels of one."""
    *batch, h, w, channels = x.shape
    x = x.reshape(math.prod(batch), h, w, channels // 4, 2, 2)
    x = x.transpose(0, 1, 4, 2, 5, 3)  # N, H, row, W, column, C
    return x.reshape(*batch, 2 * h, 2 * w, channels // 4)


def matrix(n: int, wanted: int) -> np.ndarray:
    """`(n, wanted)`: the weights that interpolate `n` positions to `wanted`."""
    before, after, weight = bilinear_taps(n, wanted)
    identity = np.eye(n, dtype=np.float32)
    return identity[:, before] * (1 - weight) + identity[:, after] * weight


def _weights(n: int, before: np.ndarray, places: np.ndarray) -> np.ndarray:
    """`(n, len(places))`: the weights of the two neighbours of each position."""
    after, weight = np.minimum(before + 1, n - 1), places - before
    identity = np.eye(n)
    return identity[:, before] * (1 - weight) + identity[:, after] * weight


def bilinear_taps(n: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `wanted` positions on an axis of length `n`: two indices, weight of the second.

    Half-pixel centres, edges clamped. Constants are preserved; at the same length nothing changes.
    """
    places = np.clip((np.arange(wanted) + 0.5) * n / wanted - 0.5, 0, n - 1)
    before = places.astype(int)
    return before, np.minimum(before + 1, n - 1), places - before
