"""The first two convolutions of a clip, two frames and 2x2 pixels at a time.

A TPU multiplies matrices of 128 columns, and pads arrays to as many channels: with the three of a
clip, or 64, most of it is idle. So pixels and frames are laid side by side as channels, and the
kernels get zeros where a block reaches farther than they do. All other products are the same.

    clip        (B, T, H, W, 3)
    of_space    (B, T/2, H/2, W/2, 2 C)    the channels of two frames, one after the other
    of_time     (B, T/2, H/2, W/2, D)

This is the plain form; in the others `of_space` gives `(B, T, H/2, W/2, C)`. `of_time` takes what
`of_space` gives, and the BatchNorm between them either (`ops.normalisation`).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from stsa_jax.ops import forms
from stsa_jax.ops.convolution import conv3d, convolve

EXAMPLES = 8  # rows of a TPU's registers


def of_space(
    clip: jax.Array, kernel: jax.Array, precision: lax.Precision | None = None
) -> jax.Array:
    """Convolution of every frame, stride 2, padded by k // 2, with kernel `(1, k, k, 3, C)`."""
    reach = kernel.shape[1] // 2
    if not forms.plain():
        return conv3d(clip, kernel, (1, 2, 2), (0, reach, reach), precision)
    before, after = -(-reach // 2), reach // 2  # blocks
    # (1, rows, columns, 3, C), from the first row of the first block to the last of the last one
    rest = (2 * before - reach, 2 * after + 1 - reach)
    kernel = _padded(kernel, {1: rest, 2: rest})
    blocks = before + 1 + after
    kernel = kernel.reshape(blocks, 2, blocks, 2, *kernel.shape[3:])
    kernel = kernel.transpose(0, 2, 3, 1, 4, 5)  # as `_in_blocks` has the pixels: columns, rows
    kernel = kernel.reshape(1, blocks, blocks, -1, kernel.shape[-1])
    kernel = jnp.kron(np.eye(2, dtype=kernel.dtype), kernel)  # a frame with itself alone
    pads = ((0, 0), (before, after), (before, after))
    x = _in_blocks(clip)
    # A TPU wants eight examples or more: if there are fewer, frames are taken as examples.
    b, t = x.shape[:2]
    few = isinstance(b, int) and b < EXAMPLES  # of an exported program it may be a symbol
    as_examples = x.reshape(b * t, 1, *x.shape[2:]) if few else x
    y = convolve(as_examples, kernel, pads=pads, precision=precision)
    return y.reshape(b, t, *y.shape[2:])


def of_time(x: jax.Array, kernel: jax.Array, precision: lax.Precision | None = None) -> jax.Array:
    """Convolution in time, stride 2, padded by k // 2, with kernel `(k, 1, 1, C, D)`."""
    reach = kernel.shape[0] // 2
    if not forms.plain():
        return conv3d(x, kernel, (2, 1, 1), (reach, 0, 0), precision)
    before, after = -(-reach // 2), reach // 2  # pairs of frames
    rest = (2 * before - reach, 2 * after + 1 - reach)
    kernel = _padded(kernel, {0: rest})
    kernel = kernel.reshape(before + 1 + after, 1, 1, -1, kernel.shape[-1])
    return convolve(x, kernel, pads=((before, after), (0, 0), (0, 0)), precision=precision)


def _padded(kernel, rests):
    """With zeros, so many before and after along each axis of `rests`."""
    pads = [(*rests.get(axis, (0, 0)), 0) for axis in range(kernel.ndim)]
    return lax.pad(kernel, jnp.zeros((), kernel.dtype), pads)


def _in_blocks(clip):
    """`(B, T, H, W, C)` -> `(B, T/2, H/2, W/2, 8 C)`, a copy an axis: a TPU does them faster."""
    b, t, h, w, c = clip.shape
    x = clip.reshape(b, t, h // 2, 2, w, c).swapaxes(3, 4)  # B, T, H/2, W, row, C
    x = x.reshape(b, t // 2, 2, h // 2, w // 2, 4 * c)  # column, row and C are together
    return jnp.moveaxis(x, 2, 4).reshape(b, t // 2, h // 2, w // 2, 8 * c)
