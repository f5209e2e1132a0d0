"""Depthwise convolution with a gradient that compiles quickly.

JAX's own gradient of the sum of taps has one padded sum and one reduction per tap in each layer: a
network of these takes minutes to compile.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

Triple = tuple[int, int, int]


def depthwise_conv3d(sum_of_taps, x: jax.Array, kernel: jax.Array, stride: Triple) -> jax.Array:
    """`sum_of_taps(x, kernel, stride)` for padded `x`; see `stsa_jax.ops.convolution`."""
    return _depthwise(x, kernel, sum_of_taps, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(x, kernel, sum_of_taps, stride):
    return sum_of_taps(x, kernel, stride)


def _forward(x, kernel, sum_of_taps, stride):
    return sum_of_taps(x, kernel, stride), (x, kernel)


def _backward(sum_of_taps, stride, saved, dy):
    x, kernel = saved
    taps, lengths = kernel.shape[:3], dy.shape[1:4]
    # The input's gradient: the same sum over `dy` with zeros between the strides and around it.
    spread = [(n - 1) * s + 1 for n, s in zip(lengths, stride)]
    room = [
        (k - 1, size - length, s - 1)
        for k, size, length, s in zip(taps, x.shape[1:4], spread, stride)
    ]
    wide = lax.pad(dy, jnp.zeros((), dy.dtype), [(0, 0, 0), *room, (0, 0, 0)])
    dx = sum_of_taps(wide, kernel[::-1, ::-1, ::-1], (1, 1, 1))

    def of_tap(tap):
        i, (j, k) = tap // (taps[1] * taps[2]), jnp.divmod(tap % (taps[1] * taps[2]), taps[2])
        size = (x.shape[0], *spread, x.shape[4])
        pixels = lax.dynamic_slice(x, (0, i, j, k, 0), size)
        pixels = lax.slice(pixels, (0,) * 5, pixels.shape, (1, *stride, 1))
        return jnp.einsum('bthwc,bthwc->c', pixels, dy)

    dkernel = lax.map(of_tap, jnp.arange(taps[0] * taps[1] * taps[2]))
    return dx, dkernel.reshape(kernel.shape)


_depthwise.defvjp(_forward, _backward)
