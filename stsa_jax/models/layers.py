"""Building blocks that give PyTorch's numbers, on channels-last activations `(B, T, H, W, C)`.

Every kernel of the network is spatial (1,k,k), temporal (k,1,1) or has kernel = stride in time, so
each convolution folds into a 2-D one or a matrix product by reshaping; XLA runs those faster than
its 3-D ones. Kernels are stored as `(kt, kh, kw, in, out)`.

Every module takes `rngs`, from which its weights are drawn; with None it has shapes in place of
arrays (`functional.abstract`). Parameters and what passes between modules are float32; a
module with a `dtype` (see `set_compute_dtype`) convolves and multiplies in that.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from stsa_jax.ops.cpu.convolution import conv2d
from stsa_jax.ops.pooling import Triple, double, upsample_2x

BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.001  # of the new value, PyTorch's convention; S3D's choice
LAYER_NORM_EPS = 1e-5


def set_compute_dtype(module: nnx.Module, dtype: jax.typing.DTypeLike | None) -> None:
    """Lets all convolutions and attention inside `module` compute in `dtype`; None: as they come.

    Biases, sums of features, normalisations and softmaxes stay in float32, and so do the results.
    """
    for _, part in nnx.iter_modules(module):
        if hasattr(part, 'dtype'):
            part.dtype = dtype


# Of convolutions' results and what else is dear to compute, for the policies of jax.checkpoint.
PRODUCT = 'product'
KEEP_PRODUCTS = jax.checkpoint_policies.save_only_these_names(PRODUCT)


class BatchStat(nnx.Variable):
    """Running mean or variance of a BatchNorm."""


def conv3d(
    x: jax.Array,
    kernel: jax.Array,
    stride: Triple,
    padding: Triple,
    *,
    short_sums: bool = False,
) -> jax.Array:
    """PyTorch's conv3d without bias: `(B, T, H, W, C)` with kernel `(kt, kh, kw, C, D)`.

    With `short_sums`, a CPU makes about 0.6 of the rounding error: `stsa_jax.ops.cpu.convolution`.

    Its result has the name `PRODUCT` to what decides what a gradient keeps.

    Raises ValueError for a kernel that is large in time and space at once and whose time stride is
    not its time extent: the network has none, and it would not fold into two dimensions.
    """
    y = _folded(x, kernel, stride, padding, short_sums)
    return checkpoint_name(y, PRODUCT)


def _folded(x, kernel, stride, padding, short_sums):
    b, t, h, w, c = x.shape
    kt, kh, kw, _, d = kernel.shape
    kernel = kernel.astype(x.dtype)
    if kt == kh == kw == 1 and stride == (1, 1, 1) and padding == (0, 0, 0):
        return x @ kernel[0, 0, 0]
    if kt == 1 and stride[0] == 1:  # spatial: time joins the batch
        x = x.reshape(b * t, h, w, c)
        y = conv2d(x, kernel[0], stride[1:], padding[1:], short_sums)
        return y.reshape(b, t, *y.shape[1:])
    if (
        kh == kw == 1 and stride[1:] == (1, 1) and padding[1:] == (0, 0)
    ):  # temporal: H, W are one axis
        x = x.reshape(b, t, h * w, c)
        y = conv2d(x, kernel[:, 0], (stride[0], 1), (padding[0], 0), short_sums)
        return y.reshape(b, -1, h, w, d)
    if kt == stride[0] and padding[0] == 0:  # kernel = stride in time: its steps join the channels
        x = x[:, : t // kt * kt].reshape(b * (t // kt), kt, h, w, c)
        x = x.transpose(0, 2, 3, 1, 4).reshape(b * (t // kt), h, w, kt * c)
        kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(kh, kw, kt * c, d)
        y = conv2d(x, kernel, stride[1:], padding[1:], short_sums)
        return y.reshape(b, t // kt, *y.shape[1:])
    raise ValueError(f'a kernel {kernel.shape[:3]} with stride {stride} does not fold into 2-D')


class Conv(nnx.Module):
    """Convolution with PyTorch's default initialisation: uniform in +-1/sqrt(fan_in), bias too."""

    dtype = None  # of the products: that of the input

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kernel: Triple = (1, 1, 1),
        *,
        stride: Triple = (1, 1, 1),
        padding: Triple | None = None,
        bias: bool = True,
        short_sums: bool = False,
        upsampled: bool = False,
        rngs: nnx.Rngs,
    ):
        """`padding` defaults to k // 2 on every axis whose stride is 1 (same size).

        With `upsampled`, it convolves its input upsampled by 2 (3x3 kernels that keep the size).
        """
        self.short_sums, self.upsampled = short_sums, upsampled
        bound = 1 / math.sqrt(features_in * math.prod(kernel))
        shape = (*kernel, features_in, features_out)
        self.kernel = nnx.Param(_uniform(rngs, shape, bound))
        self.bias = nnx.Param(_uniform(rngs, (features_out,), bound)) if bias else None
        self.stride = stride
        self.padding = (
            tuple(k // 2 if s == 1 else 0 for k, s in zip(kernel, stride))
            if padding is None
            else padding
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(B, T, H, W, features_in)` -> `(B, T', H', W', features_out)`."""
        narrow, kernel = x.astype(self.dtype or x.dtype), self.kernel[...]
        if self.upsampled:
            y = conv_of_upsampled(narrow, kernel)
        else:
            y = conv3d(narrow, kernel, self.stride, self.padding, short_sums=self.short_sums)
        y = y.astype(x.dtype)
        return y if self.bias is None else y + self.bias[...]


class ConvBNReLU(nnx.Module):
    """Bias-free convolution, BatchNorm, ReLU: the unit of S3D.

    In eval mode the BatchNorm is folded into the kernel and a bias. Not so with `short_sums`, where
    rounding the folded kernel is noise that counts; the product then joins the pass of the ReLU.
    """

    dtype = None  # of the products: that of the input

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kernel: Triple,
        *,
        stride: Triple = (1, 1, 1),
        momentum: float = BATCH_NORM_MOMENTUM,
        short_sums: bool = False,
        rngs: nnx.Rngs,
    ):
        """Pads by k // 2 on every axis, as S3D does."""
        self.momentum, self.short_sums = momentum, short_sums
        bound = 1 / math.sqrt(features_in * math.prod(kernel))
        self.kernel = nnx.Param(_uniform(rngs, (*kernel, features_in, features_out), bound))
        self.scale = nnx.Param(jnp.ones(features_out))
        self.bias = nnx.Param(jnp.zeros(features_out))
        self.mean = BatchStat(jnp.zeros(features_out))
        self.var = BatchStat(jnp.ones(features_out))
        self.count = BatchStat(jnp.zeros((), jnp.int32))  # batches seen; kept for PyTorch's files
        self.stride = stride
        self.padding = tuple(k // 2 for k in kernel)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`(B, T, H, W, features_in)` -> `(B, T', H', W', features_out)`."""
        return self.activate(self.convolve(x, train=train), train=train)

    def convolve(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """The convolution, with the BatchNorm's factor in its kernel where that is folded."""
        kernel = self.kernel[...]
        if not train and not self.short_sums:
            kernel = kernel * self._factor()
        narrow = x.astype(self.dtype or x.dtype)
        y = conv3d(narrow, kernel, self.stride, self.padding, short_sums=self.short_sums)
        return y.astype(x.dtype)

    def activate(self, y: jax.Array, *, train: bool = False) -> jax.Array:
        """The rest, of what `convolve` gives.

        In train mode normalises with the batch's statistics and updates the running ones.
        """
        if not train:
            factor = self._factor()
            shift = self.bias[...] - self.mean[...] * factor
            return jax.nn.relu((y * factor if self.short_sums else y) + shift)
        out, mean, var = _normalised_relu(y, self.scale[...], self.bias[...])
        # PyTorch normalises with the biased variance but remembers the unbiased one.
        count = math.prod(y.shape[:-1])
        unbiased = var * (count / max(count - 1, 1))
        for running, latest in ((self.mean, mean), (self.var, unbiased)):
            step = self.momentum * (lax.stop_gradient(latest) - running[...])
            running.set_value(running[...] + step)
        self.count.set_value(self.count[...] + 1)
        return out

    def _factor(self):
        return self.scale[...] * lax.rsqrt(self.var[...] + BATCH_NORM_EPS)


def _normalise_relu(y, scale, bias):
    """`(..., C)` normalised over all but C, scaled, shifted, ReLU; and mean and variance `(C,)`.

    The gradient keeps `y` alone: JAX's own would keep the centred features and the sign besides,
    and pass over them more often. It takes the mean and variance for constants outside.
    """
    axes = tuple(range(y.ndim - 1))
    mean = checkpoint_name(y.mean(axes), PRODUCT)
    var = checkpoint_name(jnp.square(y - mean).mean(axes), PRODUCT)
    factor = scale * lax.rsqrt(var + BATCH_NORM_EPS)
    return jax.nn.relu(y * factor + (bias - mean * factor)), mean, var


_normalised_relu = jax.custom_vjp(_normalise_relu)


def _normalised_relu_forward(y, scale, bias):
    out, mean, var = _normalise_relu(y, scale, bias)
    return (out, mean, var), (y, scale, bias, mean, var)


def _normalised_relu_backward(saved, gradients):
    y, scale, bias, mean, var = saved
    inverse = lax.rsqrt(var + BATCH_NORM_EPS)
    factor = scale * inverse
    d = jnp.where(y * factor + (bias - mean * factor) > 0, gradients[0], 0)
    axes, count = tuple(range(y.ndim - 1)), math.prod(y.shape[:-1])
    d_bias = d.sum(axes)
    d_scale = inverse * (d * (y - mean)).sum(axes)
    # factor * (d - d_bias / count - normalised y * d_scale / count) without the normalised y, which
    # a CPU would make an array of for this and the sum.
    slope = factor * inverse * (d_scale / count)
    d_y = factor * d - slope * y - (factor * (d_bias / count) - slope * mean)
    return d_y, d_scale, d_bias


_normalised_relu.defvjp(_normalised_relu_forward, _normalised_relu_backward)


class LayerNorm(nnx.Module):
    """Normalises over all of `(T, H, W, C)` of one example, with scale and bias of that full shape.

    The released code's choice; it ties the weights to the input size. With `size_free`, scale and
    bias are one a channel, `(C,)`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        size_free: bool = False,
        each_step: bool = False,
        rngs: nnx.Rngs,
    ):
        """`shape` is `(T, H, W, C)`. With `each_step` every time step is normalised by itself."""
        self.axes = (2, 3, 4) if each_step else (1, 2, 3, 4)
        shape = tuple(shape)[3 if size_free else 0 :]
        if rngs is None:
            scale = bias = jax.ShapeDtypeStruct(shape, jnp.float32)
        else:
            scale, bias = jnp.ones(shape), jnp.zeros(shape)
        self.scale, self.bias = nnx.Param(scale), nnx.Param(bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(B, T, H, W, C)` -> the same."""
        mean = x.mean(axis=self.axes, keepdims=True)
        var = jnp.square(x - mean).mean(axis=self.axes, keepdims=True)
        return (x - mean) * lax.rsqrt(var + LAYER_NORM_EPS) * self.scale[...] + self.bias[...]


def conv_of_upsampled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv3d` of `upsample_2x(x)` for a 3x3 kernel, at a quarter of the multiply-adds.

    `(B, T, H, W, C)` with kernel `(kt, 3, 3, C, D)` -> `(B, T/kt, 2H, 2W, D)`. Both are linear, so
    the channels are multiplied at the small size, and each tap's product is upsampled and shifted.
    In float32; with fewer digits the products' rounding would count, so there it is the plain way.
    """
    if x.dtype != jnp.float32:
        return conv3d(upsample_2x(x), kernel, (kernel.shape[0], 1, 1), (0, 1, 1))
    kt, _, _, c, d = kernel.shape
    taps = kernel.transpose(0, 3, 1, 2, 4).reshape(kt, 1, 1, c, 9 * d)
    x = conv3d(x, taps, (kt, 1, 1), (0, 0, 0))
    x = x.reshape(*x.shape[:-1], 3, 3, d)  # B, T/kt, H, W, kernel row, kernel column, D
    for axis in (3, 2):
        # Split, not indexed: the gradient puts the parts side by side, else it adds up padded ones.
        parts = (part.squeeze(-2) for part in jnp.split(x, 3, -2))
        x = sum(_shift(double(part, axis), 1 - i, axis) for i, part in enumerate(parts))
    return x


def _shift(x, by, axis):
    """Moves along an axis by one place or none; zeros come in."""
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (by, -by, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), edges)


def _uniform(rngs: nnx.Rngs, shape, bound):
    if rngs is None:  # shapes only
        return jax.ShapeDtypeStruct(shape, jnp.float32)
    key = rngs.params()
    if isinstance(key, jax.core.Tracer):  # inside a compiled function
        return jax.random.uniform(key, shape, minval=-bound, maxval=bound)
    # By NumPy on the host: JAX would compile a program for each of the network's many shapes.
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return jnp.asarray(rng.uniform(-bound, bound, shape).astype(np.float32))
