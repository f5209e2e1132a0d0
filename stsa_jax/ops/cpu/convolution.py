"""Convolutions folded into two dimensions, with gradients that are fast on a CPU.

Nearly every kernel of the networks is spatial (1,k,k), temporal (k,1,1) or has kernel = stride in
time, so that each convolution can be reshaped into a 2-D one or a matrix product, which XLA's CPU
backend runs much faster than a 3-D convolution. Large ones use Winograd's algorithm (`winograd`),
except where `precision` asks for accuracy.

The backend is slow at gradients of convolutions: weight gradients took more than 50 of the 60 s of
the network's training step on two cores. Here they are matrix products of the pixels under groups
of taps with the output's gradient. On one device the pixels are processed in blocks that fit a
core's cache. Against one product per kernel row this reduced the time, in ms: 458 -> 200 for the
stem's first kernel, 599 -> 300 for its second, 211 -> 125 for its fourth, 400 -> 310 for the
largest 5x5. On several devices each block would need its own all-reduce, so there is one block. The
mesh is that of `jax.sharding.use_abstract_mesh`, which the training step sets. Without one, there
must be a single device.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from stsa_jax.ops.cpu import winograd

Pair = tuple[int, int]
Triple = tuple[int, int, int]

# Pixels under the taps of a kernel are multiplied 2 MiB at a time, to stay in a core's cache.
COLUMNS, ROWS = 256, 2048
LONGEST_SUM = 224  # terms added at once where sums must be short
# XLA convolves few channels in one thread, so the batch is split into quarters, one thread each.
FEW_CHANNELS, QUARTERS = 32, 4


def conv3d(
    x: jax.Array,
    kernel: jax.Array,
    stride: Triple,
    padding: Triple,
    precision: lax.Precision | None = None,
) -> jax.Array:
    """`stsa_jax.ops.convolution.conv3d`, for x and kernel of one dtype.

    With `precision=HIGHEST` sums are short and Winograd's algorithm is not used.
    """
    exact = precision == lax.Precision.HIGHEST
    b, t, h, w, c = x.shape
    kt, kh, kw, _, d = kernel.shape
    if kt == kh == kw == 1 and stride == (1, 1, 1) and padding == (0, 0, 0):
        return x @ kernel[0, 0, 0]
    if kt == 1 and stride[0] == 1 and padding[0] == 0:  # spatial: time joins the batch
        x = x.reshape(b * t, h, w, c)
        y = conv2d(x, kernel[0], stride[1:], padding[1:], exact)
        return y.reshape(b, t, *y.shape[1:])
    if kh == kw == 1 and stride[1:] == (1, 1) and padding[1:] == (0, 0):
        x = x.reshape(b, t, h * w, c)  # temporal: H, W are one axis
        y = conv2d(x, kernel[:, 0], (stride[0], 1), (padding[0], 0), exact)
        return y.reshape(b, -1, h, w, d)
    if kt == stride[0] and padding[0] == 0:  # kernel = stride in time: its steps join the channels
        x = x[:, : t // kt * kt].reshape(b * (t // kt), kt, h, w, c)
        x = x.transpose(0, 2, 3, 1, 4).reshape(b * (t // kt), h, w, kt * c)
        kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(kh, kw, kt * c, d)
        y = conv2d(x, kernel, stride[1:], padding[1:], exact)
        return y.reshape(b, t // kt, *y.shape[1:])
    # Otherwise the steps under the kernel join the channels, as copies.
    x = jnp.pad(x, ((0, 0), (padding[0],) * 2, (0, 0), (0, 0), (0, 0)))
    steps = (x.shape[1] - kt) // stride[0] + 1
    last = (steps - 1) * stride[0] + 1
    x = jnp.concatenate([x[:, i : i + last : stride[0]] for i in range(kt)], -1)
    kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(kh, kw, kt * c, d)
    y = conv2d(x.reshape(b * steps, h, w, kt * c), kernel, stride[1:], padding[1:], exact)
    return y.reshape(b, steps, *y.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv2d(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, exact: bool = False
) -> jax.Array:
    """`(N, H, W, C)` with kernel `(kh, kw, C, D)` -> `(N, H', W', D)`; pads both sides equally.

    If `exact`, groups of input channels are summed separately and then added, because the rounding
    error of a sum grows with its length.
    """
    if x.dtype != jnp.float32:
        return _plain(x, kernel, stride, padding)
    if exact:
        return _in_groups(x, kernel, stride, padding)
    if _is_split(kernel, stride, padding):
        return _of_split(x, kernel)
    axis = _winograd_axis(x, kernel, stride, winograd.LARGE)
    if axis is None:
        return _plain(x, kernel, stride, padding)
    return winograd.convolution(x, kernel, padding, axis, _rest)


def _forward(x, kernel, stride, padding, exact):
    """The residuals include which gradients are wanted: () if so, else None."""
    wanted = [() if array.perturbed else None for array in (x, kernel)]
    x, kernel = x.value, kernel.value
    return conv2d(x, kernel, stride, padding, exact), (x, kernel, wanted)


def _backward(stride, padding, exact, saved, dy):
    x, kernel, wanted = saved
    for_x, for_kernel = (one is not None for one in wanted)
    if isinstance(dy, SymbolicZero):
        dy = jnp.zeros(dy.shape, dy.dtype)
    dx = dkernel = None
    if for_kernel:
        dkernel = _kernel_gradient(x, kernel, dy, stride, padding)
    if for_x:
        # After the kernel's gradient, so that `x` can be freed before. Not on several devices,
        # where the kernel's gradient is all-reduced together with other layers'.
        if _on_one_device():
            dkernel, dy = lax.optimization_barrier((dkernel, dy))
        dx = _input_gradient(x, kernel, dy, stride, padding)
    return dx, dkernel


conv2d.defvjp(_forward, _backward, symbolic_zeros=True)


def _plain(x, kernel, stride, padding):
    return _with_pads(x, kernel, stride, [(p, p) for p in padding])


def _with_pads(x, kernel, stride, pads):
    numbers = ('NHWC', 'HWIO', 'NHWC')
    return lax.conv_general_dilated(x, kernel, stride, pads, dimension_numbers=numbers)


def _is_split(kernel, stride, padding):
    kh, kw = kernel.shape[:2]
    return kw == 1 < kh and stride == (kh, 1) and padding == (0, 0)


def _of_split(x, kernel):
    """Kernel = stride along one axis: one product per tap is faster than a convolution."""
    n, h, w, c = x.shape
    taps = len(kernel)
    parts = x[:, : h // taps * taps].reshape(n, h // taps, taps, w, c)
    return sum(parts[:, :, i] @ kernel[i, 0] for i in range(taps))


def _winograd_axis(x, kernel, stride, large):
    if x.dtype != jnp.float32:  # at lower precision Winograd's rounding errors are too large
        return None
    return winograd.chosen_axis(x.shape, kernel.shape, stride, large)


def _rest(x, kernel, padding):
    if kernel.shape[:2] == (1, 1):
        return x @ kernel[0, 0]
    return _plain(x, kernel, (1, 1), padding)


def _in_groups(x, kernel, stride, padding):
    kh, kw, channels, _ = kernel.shape
    groups = 1
    while kh * kw * channels > groups * LONGEST_SUM and channels % (2 * groups) == 0:
        groups *= 2
    kernels = jnp.split(kernel, groups, axis=-2)

    def convolve(x):
        parts = jnp.split(x, groups, axis=-1)
        return sum(_plain(*both, stride, padding) for both in zip(parts, kernels))

    if channels // groups < FEW_CHANNELS and len(x) % QUARTERS == 0 and _on_one_device():
        y = jnp.concatenate([convolve(part) for part in jnp.split(x, QUARTERS)])
    else:
        y = convolve(x)
    return lax.optimization_barrier(y)  # so that the gradient saves y, not its parts


def _input_gradient(x, kernel, dy, stride, padding):
    backwards = jnp.swapaxes(kernel, -1, -2)
    if kernel.shape[1] == stride[1] == 1 < stride[0] and padding[1] == 0:
        return _input_gradient_of_strided(x, backwards, dy, stride[0], padding[0])
    axis = _winograd_axis(dy, backwards, stride, winograd.LARGE)
    if axis is None:
        return jax.vjp(lambda x: _plain(x, kernel, stride, padding), x)[1](dy)[0]
    room = tuple(k - 1 - p for k, p in zip(kernel.shape, padding))
    return winograd.convolution(
        dy, lax.optimization_barrier(backwards[::-1, ::-1]), room, axis, _rest
    )


def _input_gradient_of_strided(x, backwards, dy, stride, padding):
    """For every `stride`-th row of `x` in turn, from the taps that reach it.

    XLA would put zeros between the rows of `dy` and multiply those too.
    """
    rows = -(-x.shape[1] // stride)
    parts = []
    for row in range(stride):
        taps = backwards[(row + padding) % stride :: stride][::-1]
        last = (row + padding) // stride  # the row of `dy` that the last of these taps multiplies
        room = ((len(taps) - 1 - last, rows + last - dy.shape[1]), (0, 0))
        if len(taps):
            part = _with_pads(dy, taps, (1, 1), room)
        else:
            part = jnp.zeros((len(dy), rows, *x.shape[2:]), dy.dtype)
        parts.append(part)
    dx = jnp.stack(parts, axis=2).reshape(len(dy), rows * stride, *x.shape[2:])
    return dx[:, : x.shape[1]]


def _kernel_gradient(x, kernel, dy, stride, padding):
    axis = _winograd_axis(x, kernel, stride, winograd.LARGE_GRADIENT)
    if axis is None:
        return _plain_kernel_gradient(x, kernel, dy, stride, padding)
    x, dy = lax.optimization_barrier((x, dy))  # so as not to save combinations of x
    return winograd.kernel_gradient(x, kernel, dy, padding, axis, _kernel_gradient_of_rest)


def _kernel_gradient_of_rest(x, kernel, dy, padding):
    return _plain_kernel_gradient(x, kernel, dy, (1, 1), padding)


def _plain_kernel_gradient(x, kernel, dy, stride, padding):
    """The products of the output's gradient with the pixels under the kernel's taps.

    On one device, block by block along an axis; see the module docstring.
    """
    kh, kw, *_ = kernel.shape
    axis = 2 if kw == 1 else 1
    room = ((0, 0), *((p, p) for p in padding), (0, 0))
    length = dy.shape[axis]
    if _on_one_device():
        rows = math.prod(dy.shape[:3]) // length
        fits = [n for n in range(1, length + 1) if length % n == 0 and n * rows <= ROWS]
        size = max(fits, default=1)
    else:
        size = length
    # If blocks do not overlap, each pads itself; a padded copy of all of `x` would be large.
    inside = size < length and padding[axis - 1] == 0
    # Without it, values that depend only on `x` would be computed before `dy` and kept in memory,
    # or recomputed by each block.
    x, dy = lax.optimization_barrier((x, dy))
    x = x if inside else lax.optimization_barrier(jnp.pad(x, room))
    if size == length:
        products = _products(x, dy, (kh, kw), stride)
    else:
        step, taps = stride[axis - 1], kernel.shape[axis - 1]

        def block(i):
            pixels = lax.dynamic_slice_in_dim(x, i * size * step, (size - 1) * step + taps, axis)
            pixels = lax.optimization_barrier(jnp.pad(pixels, room)) if inside else pixels
            gradient = lax.dynamic_slice_in_dim(dy, i * size, size, axis)
            return _products(pixels, gradient, (kh, kw), stride, in_cache=True)

        zeros = [jnp.zeros(part.shape, part.dtype) for part in jax.eval_shape(block, 0)]
        add = lambda i, total: jax.tree.map(jnp.add, total, block(i))  # noqa: E731
        products = lax.fori_loop(0, length // size, add, zeros)
    return jnp.concatenate([part.T for part in products]).reshape(kernel.shape).astype(kernel.dtype)


def _on_one_device():
    size = jax.sharding.get_abstract_mesh().size  # 0: no mesh is set
    return size == 1 or (size == 0 and jax.device_count() == 1)


def _products(x, dy, shape, stride, in_cache=False):
    """For each group of taps `(D, taps C)`; `x` is padded, `shape` the kernel's (kh, kw)."""
    (n, h, w, d), c = dy.shape, x.shape[3]
    taps = list(itertools.product(*map(range, shape)))
    columns = max(COLUMNS, COLUMNS * ROWS // (n * h * w))
    groups = -(-len(taps) // max(columns // c, 1))
    each = -(-len(taps) // groups)  # taps in a group

    def under(i, j):
        last = (n, i + (h - 1) * stride[0] + 1, j + (w - 1) * stride[1] + 1, c)
        return lax.slice(x, (0, i, j, 0), last, (1, *stride, 1))

    gradient = dy.reshape(-1, d).T
    if in_cache:  # transposing is cheap in cache, and the products are 1.3 to 1.5 times as fast
        gradient = lax.optimization_barrier(gradient)
    products = []
    for first in range(0, len(taps), each):
        pixels = jnp.concatenate([under(*tap) for tap in taps[first : first + each]], axis=-1)
        # Two axes each: XLA is slower where it has to sum over three.
        pixels = pixels.reshape(n * h * w, -1)
        products.append(jnp.matmul(gradient, pixels, preferred_element_type=jnp.float32))
    return products
