"""Winograd's convolution along one axis: 3 taps at half the multiplications, 5 at two fifths.

For a tile of `m` neighbouring outputs and `k` taps, the `n = m + k - 1` inputs are combined into
`n` values, as are the taps, and the outputs are combinations of the `n` products (Winograd 1980;
Lavin and Gray, arXiv 1509.09308). Sums over the channels and the other axis's taps are linear, so
each of the `n` products is an ordinary convolution of an image that is `m` times smaller along the
axis, with the kernel of the remaining axis. The kernel's gradient is computed in the same way: the
gradients of the products are combinations of the output's gradient.

The relative root mean square error is 1.0e-6 with 3 taps and 1.7e-6 with 5, against 0.4e-6 for the
plain convolution. Using both axes would save more and lose another digit.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Pair = tuple[int, int]
# Evaluation points of the polynomials for n values; infinity is the last point. Among sets of small
# powers of two these have the least error: 0, 1, -1, 2, -2 has 1.3 times as much.
PLACES = {4: (0, 1, -1), 6: (0, 1, -1, 0.5, -2), 8: (0, 1, -1, 2, -2, 0.5, -0.5)}
TAPS = (3, 5)
# The least number of multiplications, in total and per value moved, from which it is faster;
# measured on two cores with AVX-512. The kernel's gradient gains at smaller sizes too.
LARGE, LARGE_GRADIENT, WORTH = 1.6e9, 0.4e9, 90


@functools.cache
def matrices(m: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A `(m, n)`, G `(n, k)` and B `(n, n)`, float64: `A @ ((G @ taps) * (B @ inputs))`.

    This is the correlation of `n = m + k - 1` inputs with `k` taps, the transpose of the Toom-Cook
    product of two polynomials: evaluate, multiply, interpolate (Lagrange). A and B are exact in
    binary.
    """
    places = np.array(PLACES[m + k - 1], float)
    others = [np.delete(places, i) for i in range(len(places))]
    infinity = np.eye(m + k - 1)[-1]
    a = [*(p ** np.arange(m) for p in places), infinity[-m:]]
    g = [*(p ** np.arange(k) / np.prod(p - o) for p, o in zip(places, others)), infinity[-k:]]
    b = [*(np.append(np.poly(o)[::-1], 0) for o in others), np.poly(places)[::-1]]
    return np.array(a).T, np.array(g), np.array(b)


def chosen_axis(
    shape: Sequence[int], kernel: Sequence[int], stride: Pair, large: float
) -> int | None:
    """The axis of `(N, H, W, C)`, 1 or 2, along which this is faster, or None.

    `large` is the least number of multiplications (`LARGE` or `LARGE_GRADIENT`).
    """
    if stride != (1, 1) or math.prod(shape[:3]) * math.prod(kernel) < large:
        return None
    for axis in (1, 2):
        if kernel[axis - 1] in TAPS and shape[axis] >= 2:
            c, d = kernel[2:]
            return axis if kernel[2 - axis] * c * d >= WORTH * (c + d) else None
    return None


def convolution(
    x: jax.Array, kernel: jax.Array, padding: Pair, axis: int, convolve: Callable
) -> jax.Array:
    """`(N, H, W, C)` with kernel `(kh, kw, C, D)`, stride 1 -> `(N, H', W', D)`.

    `convolve(x, kernel, padding)` computes the remaining convolutions.
    """
    k = kernel.shape[axis - 1]
    length = x.shape[axis] + 2 * padding[axis - 1] - k + 1
    m = _tile(length)
    a, g, b = matrices(m, k)
    inputs = _inputs(x, padding, axis, length, m, k)
    taps = [lax.index_in_dim(kernel, i, axis - 1) for i in range(k)]
    left = _without(padding, axis)
    products = [convolve(_combine(r, inputs), _combine(q, taps), left) for r, q in zip(b, g)]
    results = jnp.stack([_combine(row, products) for row in a], axis + 1)
    shape = list(products[0].shape)
    shape[axis] *= m
    return lax.slice_in_dim(results.reshape(shape), 0, length, axis=axis)


def kernel_gradient(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, padding: Pair, axis: int, gradient: Callable
) -> jax.Array:
    """Kernel gradient of `convolution`, `(kh, kw, C, D)`, for the output's `dy`, `(N, H', W', D)`.

    `gradient(x, kernel, dy, padding)` computes those of the remaining convolutions; its `kernel` is
    only a shape and dtype.
    """
    k, length = kernel.shape[axis - 1], dy.shape[axis]
    m = _tile(length)
    a, g, b = matrices(m, k)
    inputs = _inputs(x, padding, axis, length, m, k)
    outputs = _every(_pad(dy, axis, 0, -length % m), axis, m, m)
    shape = list(kernel.shape)
    shape[axis - 1] = 1
    one, left = jax.ShapeDtypeStruct(shape, kernel.dtype), _without(padding, axis)
    parts = [
        gradient(_combine(row, inputs), one, _combine(column, outputs), left)
        for row, column in zip(b, a.T)
    ]
    return jnp.concatenate([_combine(column, parts) for column in g.T], axis - 1)


def _tile(length):
    return 4 if length > 2 else 2


def _without(padding, axis):
    return (0, padding[1]) if axis == 1 else (padding[0], 0)


def _inputs(x, padding, axis, length, m, k):
    """The 1st, 2nd, ... (m + k - 1)th input of every tile."""
    before = padding[axis - 1]
    after = -(-length // m) * m + k - 1 - x.shape[axis] - before
    return _every(_pad(x, axis, before, after), axis, m, m + k - 1)


def _pad(x, axis, before, after):
    if before == after == 0:
        return x
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (before, after, 0)
    # The barrier makes XLA pad once instead of in every combination of slices.
    return lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), edges))


def _every(x, axis, m, count):
    """`count` strided slices: every `m`th element from 0, from 1, ...; all as long as the last."""
    last = (x.shape[axis] - count) // m * m
    return [lax.slice_in_dim(x, i, i + last + 1, m, axis) for i in range(count)]


def _combine(weights, parts):
    terms = (part if w == 1 else float(w) * part for w, part in zip(weights, parts) if w)
    return functools.reduce(operator.add, terms)
