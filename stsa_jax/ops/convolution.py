"""Convolutions that match PyTorch's numbers, on `(B, T, H, W, C)`; no bias."""

import jax
from jax import lax

from stsa_jax.ops import cpu, forms
from stsa_jax.ops.upsampling import upsample_2x

Triple = tuple[int, int, int]


def conv3d(
    x: jax.Array,
    kernel: jax.Array,
    stride: Triple = (1, 1, 1),
    padding: Triple = (0, 0, 0),
    precision: lax.Precision | None = None,
) -> jax.Array:
    """`(B, T, H, W, C)` with kernel `(kt, kh, kw, C, D)` -> `(B, T', H', W', D)`, in x's dtype.

    Args:
        stride, padding: along (T, H, W); pads both sides equally with zeros.
        precision: of the products in float32; None is JAX's default, which on TPU and GPU rounds
            their factors to fewer bits.
    """
    kernel = kernel.astype(x.dtype)
    if forms.for_cpu():
        return cpu.conv3d(x, kernel, stride, padding, precision)
    return lax.conv_general_dilated(
        x,
        kernel,
        stride,
        [(p, p) for p in padding],
        dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'),
        precision=precision,
    )


def conv3d_of_upsampled(
    x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple
) -> jax.Array:
    """`conv3d` of `upsample_2x(x)`."""
    if forms.for_cpu():
        return cpu.conv3d_of_upsampled(x, kernel.astype(x.dtype), stride, padding)
    return conv3d(upsample_2x(x), kernel, stride, padding)
