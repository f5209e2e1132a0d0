"""2-D convolution on `(N, H, W, C)`, with gradients that a CPU computes fast.

XLA's CPU backend is slow at the gradients of convolutions: of the 60 s of the network's training
step on two cores, the weight gradients took more than 50. With matrix products, one a kernel row,
the step takes 21. GPU and TPU keep XLA's own. The program is chosen where it is lowered, so it can
be exported for another platform. There is no forward-mode derivative.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

Pair = tuple[int, int]

LARGE = 10**9  # multiply-adds from which a spatial kernel's gradient is worth more compile time
LONGEST_SUM = 224  # terms that are added up in one go where the sums are to be short


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv2d(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, short_sums: bool = False
) -> jax.Array:
    """`(N, H, W, C)` with kernel `(kh, kw, C, D)` -> `(N, H', W', D)`; pads both sides alike.

    With `short_sums`, a CPU sums groups of input channels on their own before adding them up, since
    the rounding error of a sum grows with its length. It is for the layers in front of the first
    pool that keeps its indices: noise there decides near-ties, and one flipped index moves the
    network's output by up to 5e-3.
    """
    if not short_sums or x.dtype != jnp.float32:
        return _plain(x, kernel, stride, padding)
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_in_groups, stride=stride, padding=padding),
        default=functools.partial(_plain, stride=stride, padding=padding),
    )


def _forward(x, kernel, stride, padding, short_sums):
    return conv2d(x, kernel, stride, padding, short_sums), (x, kernel)


def _backward(stride, padding, short_sums, saved, dy):
    x, kernel = saved
    plain = functools.partial(_plain, stride=stride, padding=padding)
    if kernel.shape[1] > 1 and math.prod(kernel.shape) * math.prod(dy.shape[:3]) < LARGE:
        return jax.vjp(plain, x, kernel)[1](dy)
    # Two choices rather than one, so that the gradient that nobody needs is left out.
    dx = lax.platform_dependent(
        x,
        kernel,
        dy,
        cpu=functools.partial(_input_gradient, stride=stride, padding=padding),
        default=lambda x, kernel, dy: jax.vjp(lambda x: plain(x, kernel), x)[1](dy)[0],
    )
    dkernel = lax.platform_dependent(
        x,
        kernel,
        dy,
        cpu=functools.partial(_kernel_gradient, stride=stride, padding=padding),
        default=lambda x, kernel, dy: jax.vjp(lambda kernel: plain(x, kernel), kernel)[1](dy)[0],
    )
    return dx, dkernel


conv2d.defvjp(_forward, _backward)


def _plain(x, kernel, stride, padding):
    return _convolution(x, kernel, stride, [(p, p) for p in padding])


def _convolution(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x, kernel, stride, padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )


def _in_groups(x, kernel, stride, padding):
    kh, kw, channels, _ = kernel.shape
    groups = 1
    while kh * kw * channels > groups * LONGEST_SUM and channels % (2 * groups) == 0:
        groups *= 2
    parts = zip(jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-2))
    return sum(_plain(part, weights, stride, padding) for part, weights in parts)


def _input_gradient(x, kernel, dy, stride, padding):
    """A strided kernel falls into one unstrided kernel for each place between the strides."""
    (step, across), (pad, _) = stride, padding
    size = kernel.shape[0]
    if step == 1 or across != 1 or kernel.shape[1] != 1 or step > size:
        plain = functools.partial(_plain, stride=stride, padding=padding)
        return jax.vjp(lambda x: plain(x, kernel), x)[1](dy)[0]
    backwards = jnp.swapaxes(kernel, -1, -2)
    length = -(-(x.shape[1] + 2 * pad) // step)
    phases = []
    for first in range(step):
        taps = backwards[first::step][::-1]
        room = (taps.shape[0] - 1, length - dy.shape[1])
        phases.append(_convolution(dy, taps, (1, 1), [room, (0, 0)]))
    dx = jnp.stack(phases, axis=2).reshape(x.shape[0], length * step, *x.shape[2:])
    return lax.slice_in_dim(dx, pad, pad + x.shape[1], axis=1)


def _kernel_gradient(x, kernel, dy, stride, padding):
    """For each kernel row, the products of the pixels under it with the output's gradient."""
    kh, kw, c, d = kernel.shape
    x = jnp.pad(x, ((0, 0), *((p, p) for p in padding), (0, 0)))
    n, h, w, _ = dy.shape

    def under(i, j):
        last = (n, i + (h - 1) * stride[0] + 1, j + (w - 1) * stride[1] + 1, c)
        return lax.slice(x, (0, i, j, 0), last, (1, *stride, 1))

    rows = []
    for i in range(kh):
        pixels = jnp.concatenate([under(i, j) for j in range(kw)], axis=-1)
        # Two axes each: XLA is slower where it has to sum over three.
        pixels, gradient = pixels.reshape(-1, kw * c), dy.reshape(-1, d)
        product = jnp.matmul(pixels.T, gradient, preferred_element_type=jnp.float32)
        rows.append(product.reshape(kw, c, d))
    return jnp.stack(rows).astype(kernel.dtype)
