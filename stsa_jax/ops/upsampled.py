"""The convolution of features that are upsampled by 2 in space, on `(B, T, H, W, C)`.

With a 3x3 kernel a result reads three places of the small features along each axis, with weights
that are sums of the kernel's. So one convolution of the small features gives all results, 2x2 at
each place, side by side as channels; the upsampled features, which are large, are never made. At
the edges upsampling clamps, and the convolution pads what is upsampled with zeros: there the
weights are others.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from stsa_jax.ops import cpu, forms
from stsa_jax.ops.convolution import Triple, conv3d, convolve
from stsa_jax.ops.upsampling import matrix, upsample_2x


class Part(NamedTuple):
    """Some of the results along an axis. At each place of x there are two."""

    taps: np.ndarray  # (places of x, taps of the kernel, 2 results): the weights of upsampling
    places: slice  # of x that are read
    pads: tuple[int, int] = (0, 0)
    start: int = 0  # the first place whose results these are


def _taps(place: int, seen: slice) -> np.ndarray:
    padded = np.pad(matrix(4, 8), ((0, 0), (1, 1)))  # of an axis of four places, 0 to 3
    return np.stack([padded[seen, n : n + 3] for n in (2 * place, 2 * place + 1)], -1)


INNER = Part(_taps(1, slice(0, 3)), slice(None), (1, 1))
FIRST = Part(_taps(0, slice(0, 2)), slice(0, 2))
LAST = Part(_taps(3, slice(2, 4)), slice(-2, None), start=-1)


def conv3d_of_upsampled(
    x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple
) -> jax.Array:
    """`conv3d` of `upsample_2x(x)`."""
    if forms.for_cpu():
        return cpu.conv3d_of_upsampled(x, kernel.astype(x.dtype), stride, padding)
    of_3x3 = (*kernel.shape[1:3], *stride[1:], *padding) == (3, 3, 1, 1, 0, 1, 1)
    if forms.plain() and of_3x3:
        return _conv3d_of_upsampled(x, kernel, stride)
    return conv3d(upsample_2x(x), kernel, stride, padding)


def _conv3d_of_upsampled(x, kernel, stride):
    y = _results(x, kernel, stride, INNER, INNER)  # wrong at the edges, which come after
    b, t, h, w, c = y.shape  # c: row, column, D
    for rows, columns in itertools.product((INNER, FIRST, LAST), repeat=2):
        if rows is not INNER or columns is not INNER:
            edge = _results(x, kernel, stride, rows, columns)
            y = lax.dynamic_update_slice(y, edge, (0, 0, rows.start % h, columns.start % w, 0))
    y = y.reshape(b, t, h, w, 2, 2, c // 4).swapaxes(3, 4)
    return y.reshape(b, t, 2 * h, 2 * w, c // 4)


def _results(x, kernel, stride, rows, columns):
    """Those of a part along each axis: `(B, T', rows, columns, 4 D)`."""
    taps = jnp.einsum(
        'hkp,wlq,tklcd->thwcpqd',
        rows.taps,
        columns.taps,
        kernel,
        precision=lax.Precision.HIGHEST,
    )
    taps = taps.reshape(*taps.shape[:4], -1)
    whole, x = x, x[:, :, rows.places, columns.places]
    pads = ((0, 0), rows.pads, columns.pads)
    if len(taps) > 1 or x.shape == whole.shape:
        return convolve(x, taps, stride, pads)
    # Frames as examples: the compiler for TPUs would take the slice into a convolution in 3-D, and
    # compute most of `whole` again.
    b, t, *size = x.shape
    y = convolve(x.reshape(b * t, 1, *size), taps, pads=pads)
    return y.reshape(b, t, *y.shape[2:])
