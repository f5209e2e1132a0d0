"""Convolutions that match PyTorch's numbers, on `(B, T, H, W, C)`; no bias."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from stsa_jax.ops import cpu, forms

Triple = tuple[int, int, int]
DEPTHWISE = 'depthwise'  # named scope of its products


def conv3d(
    x: jax.Array,
    kernel: jax.Array,
    stride: Triple = (1, 1, 1),
    padding: Triple = (0, 0, 0),
    precision: lax.Precision | None = None,
) -> jax.Array:
    """`(B, T, H, W, C)` with kernel `(kt, kh, kw, C, D)` -> `(B, T', H', W', D)`, in x's dtype.

    Args:
        stride, padding: along (T, H, W); pads both sides alike, with zeros.
        precision: of the products in float32; None is JAX's default, which on TPU and GPU rounds
            their factors to fewer digits.
    """
    if forms.for_cpu():
        return cpu.conv3d(x, kernel.astype(x.dtype), stride, padding, precision)
    return convolve(x, kernel, stride, [(p, p) for p in padding], precision)


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    stride: Triple = (1, 1, 1),
    pads: Sequence[tuple[int, int]] = ((0, 0), (0, 0), (0, 0)),
    precision: lax.Precision | None = None,
) -> jax.Array:
    """`conv3d` as JAX has it, with `pads` (before, after) along (T, H, W)."""
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        stride,
        pads,
        dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'),
        precision=precision,
    )


def depthwise_conv3d(x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple) -> jax.Array:
    """`conv3d` with one kernel per channel: `(kt, kh, kw, 1, C)`.

    Computed as the sum of the taps' products, which compiles to one pass over the features. XLA's
    CPU backend takes fifty times as long for a grouped convolution, and a TPU about twice as long:
    modelled for a v5e, bfloat16, at tinyHD's largest size, 0.37 ms a clip here and 0.74 there.
    """
    x = jnp.pad(x, ((0, 0), *((p, p) for p in padding), (0, 0)))
    kernel = kernel.astype(x.dtype)
    if forms.for_cpu():
        return cpu.depthwise_conv3d(_sum_of_taps, x, kernel, stride)
    return _sum_of_taps(x, kernel, stride)


def _sum_of_taps(x, kernel, stride):
    """Each tap times the positions of `x` that it covers; no padding."""
    taps = kernel.shape[:3]
    lengths = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:4], taps, stride)]
    total = jnp.zeros((), x.dtype)
    for tap in itertools.product(*map(range, taps)):
        last = [i + (n - 1) * s + 1 for i, n, s in zip(tap, lengths, stride)]
        part = lax.slice(x, (0, *tap, 0), (x.shape[0], *last, x.shape[4]), (1, *stride, 1))
        with jax.named_scope(DEPTHWISE):
            total = total + part * kernel[tap]
    return total


def conv3d_transposed_2x(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """PyTorch's ConvTranspose3d, kernel (1,4,4), stride (1,2,2), padding (0,1,1).

    `(B, T, H, W, C)` with kernel `(1, 4, 4, C, D)` -> `(B, T, 2H, 2W, D)`. Of two neighbours of an
    output along an axis each meets every other tap, so that the output's even and odd rows and
    columns are four 2x2 convolutions.
    """
    b, t, h, w, c = x.shape
    kernel = kernel[0].astype(x.dtype)
    x = x.reshape(b * t, h, w, c)
    taps, room = ((3, 1), (2, 0)), ((1, 0), (0, 1))  # of even and of odd outputs
    rows = []
    for row in (0, 1):
        columns = []
        for column in (0, 1):
            part = kernel[np.array(taps[row])][:, np.array(taps[column])]
            y = lax.conv_general_dilated(
                x,
                part,
                (1, 1),
                [room[row], room[column]],
                dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
            )
            columns.append(y)
        rows.append(jnp.stack(columns, 3))  # N, H, W, column, D
    return jnp.stack(rows, 2).reshape(b, t, 2 * h, 2 * w, -1)
