"""The networks' layers, on channels-last activations `(B, T, H, W, C)`.

They compute in the dtype of their input and return that dtype; parameters, sums and statistics are
float32. Kernels are stored as `(kt, kh, kw, in, out)`.

Every module draws its weights from `rngs`; with None it has shapes instead of arrays
(`functional.abstract`).
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from stsa_jax.ops.convolution import Triple, conv3d, conv3d_transposed_2x, depthwise_conv3d
from stsa_jax.ops.names import PRODUCT
from stsa_jax.ops.normalisation import BATCH_NORM_EPS, batch_norm, layer_norm, scale_shift
from stsa_jax.ops.upsampled import conv3d_of_upsampled

BATCH_NORM_MOMENTUM = 0.001  # weight of the new value (PyTorch's convention); S3D's value


class BatchStat(nnx.Variable):
    """Running mean or variance of a BatchNorm."""


class Conv(nnx.Module):
    """Convolution with PyTorch's default initialisation: uniform in +-1/sqrt(fan_in), bias too."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kernel: Triple = (1, 1, 1),
        *,
        stride: Triple = (1, 1, 1),
        bias: bool = True,
        precision: lax.Precision | None = None,
        rngs: nnx.Rngs | None,
    ):
        """Pads by k // 2 on every axis whose stride is 1 (same size)."""
        self.kernel, self.bias = uniform_conv_weights(
            kernel, features_in, features_out, bias=bias, rngs=rngs
        )
        t, h, w = (k // 2 if s == 1 else 0 for k, s in zip(kernel, stride))
        self.stride, self.padding, self.precision = stride, (t, h, w), precision

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(B, T, H, W, features_in)` -> `(B, T', H', W', features_out)`."""
        y = checkpoint_name(self._convolve(x), PRODUCT)
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)

    def _convolve(self, x):
        return conv3d(x, self.kernel[...], self.stride, self.padding, self.precision)


class ConvOfUpsampled(Conv):
    """Upsamples its input by 2 in space, then convolves."""

    def _convolve(self, x):
        return conv3d_of_upsampled(x, self.kernel[...], self.stride, self.padding)


class ConvBN(nnx.Module):
    """Bias-free convolution, BatchNorm, activation: the unit of most backbones."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kernel: Triple,
        *,
        stride: Triple = (1, 1, 1),
        padding: Triple | None = None,
        depthwise: bool = False,
        activation: Callable | None = jax.nn.relu,
        eps: float = BATCH_NORM_EPS,
        momentum: float = BATCH_NORM_MOMENTUM,
        precision: lax.Precision | None = None,
        rngs: nnx.Rngs | None,
    ):
        """Pads by (k - 1) // 2 on every axis, unless `padding` says otherwise.

        With `depthwise` each channel is filtered separately.
        """
        inputs = 1 if depthwise else features_in
        bound = 1 / math.sqrt(inputs * math.prod(kernel))
        self.kernel = nnx.Param(_uniform(rngs, (*kernel, inputs, features_out), bound))
        self.scale = nnx.Param(jnp.ones(features_out))
        self.bias = nnx.Param(jnp.zeros(features_out))
        self.mean = BatchStat(jnp.zeros(features_out))
        self.var = BatchStat(jnp.ones(features_out))
        self.count = BatchStat(jnp.zeros((), jnp.int32))  # batches seen; stored in PyTorch's files
        t, h, w = kernel
        self.stride = stride
        self.padding = padding or ((t - 1) // 2, (h - 1) // 2, (w - 1) // 2)
        self.depthwise, self.activation = depthwise, activation
        self.eps, self.momentum, self.precision = eps, momentum, precision

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`(B, T, H, W, features_in)` -> `(B, T', H', W', features_out)`.

        In train mode normalises with the batch's statistics and updates the running ones.
        """
        y = checkpoint_name(self._convolve(x), PRODUCT)
        scale, bias = self.scale[...], self.bias[...]
        if not train:
            mean, var = self.mean[...], self.var[...]
            return scale_shift(y, scale, bias, mean, var, eps=self.eps, activation=self.activation)
        out, mean, var = batch_norm(
            y,
            scale,
            bias,
            expected_mean=self.mean[...],
            eps=self.eps,
            activation=self.activation,
        )
        for running, latest in ((self.mean, mean), (self.var, unbiased(var, y))):
            step = self.momentum * (lax.stop_gradient(latest) - running[...])
            running.set_value(running[...] + step)
        self.count.set_value(self.count[...] + 1)
        return out

    def _convolve(self, x):
        if self.depthwise:
            return depthwise_conv3d(x, self.kernel[...], self.stride, self.padding)
        return conv3d(x, self.kernel[...], self.stride, self.padding, self.precision)


def unbiased(var: jax.Array, y: jax.Array) -> jax.Array:
    """The variance `(C,)` of a batch `(..., C)` as BatchNorm stores it.

    PyTorch normalises with the biased variance but stores the unbiased one.
    """
    count = y.size // var.size
    return var * (count / max(count - 1, 1))


class ConvBNReLU(ConvBN):
    """Bias-free convolution, BatchNorm, ReLU: the unit of S3D."""


class TransposedConvBN(ConvBN):
    """Transposed convolution in space, then BatchNorm and ReLU unless `norm` is False.

    A kernel of 4 doubles the size, smaller ones keep it.
    """

    def __init__(
        self, features_in: int, features_out: int, size: int, *, norm: bool = True, **options
    ):
        """Kernel `(1, size, size)`; `options` are those of `ConvBN`."""
        super().__init__(features_in, features_out, (1, size, size), **options)
        self.norm = norm
        if not norm:
            del self.scale, self.bias, self.mean, self.var, self.count

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`(B, T, H, W, features_in)` -> `(B, T, H, W, features_out)`, or twice H and W."""
        if self.norm:
            return super().__call__(x, train=train)
        return checkpoint_name(self._convolve(x), PRODUCT)

    def _convolve(self, x):
        kernel = self.kernel[...]
        if kernel.shape[1] == 4:
            return conv3d_transposed_2x(x, kernel)
        return conv3d(x, kernel[:, ::-1, ::-1], padding=self.padding)


class LayerNorm(nnx.Module):
    """Normalises over all of `(T, H, W, C)` of one example, with scale and bias of that full shape.

    The released code's choice; it ties the weights to the input size. With `size_free`, scale and
    bias are per channel, `(C,)`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        size_free: bool = False,
        each_step: bool = False,
        rngs: nnx.Rngs | None,
    ):
        """`shape` is `(T, H, W, C)`. With `each_step` every time step is normalised separately."""
        self.axes = (2, 3, 4) if each_step else (1, 2, 3, 4)
        shape = tuple(shape)[3 if size_free else 0 :]
        if rngs is None:
            scale = bias = jax.ShapeDtypeStruct(shape, jnp.float32)
        else:
            scale, bias = jnp.ones(shape), jnp.zeros(shape)
        self.scale, self.bias = nnx.Param(scale), nnx.Param(bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(B, T, H, W, C)` -> the same."""
        return layer_norm(x, self.scale[...], self.bias[...], self.axes)


class Taps:
    """Collects intermediate results by name.

    `taps['norm'] = x` stores x under the prefix of the module, which `taps.at(...)` extends;
    `NO_TAPS` stores nothing.
    """

    def __init__(self, kept: dict[str, jax.Array] | None = None, prefix: str = ''):
        self.kept, self.prefix = kept, prefix

    def at(self, name: str) -> 'Taps':
        """The taps of the submodule `name`."""
        return Taps(self.kept, f'{self.prefix}{name}.')

    def __setitem__(self, name: str, value: jax.Array) -> None:
        if self.kept is not None:
            self.kept[self.prefix + name] = value


NO_TAPS = Taps()


def uniform_conv_weights(
    kernel: Sequence[int],
    features_in: int,
    features_out: int,
    *,
    bias: bool = True,
    rngs: nnx.Rngs | None,
) -> tuple[nnx.Param, nnx.Param | None]:
    """Kernel `(*kernel, in, out)` and bias of a convolution, initialised as in PyTorch."""
    bound = 1 / math.sqrt(features_in * math.prod(kernel))
    weights = nnx.Param(_uniform(rngs, (*kernel, features_in, features_out), bound))
    return weights, nnx.Param(_uniform(rngs, (features_out,), bound)) if bias else None


def _uniform(rngs: nnx.Rngs | None, shape, bound):
    if rngs is None:  # shapes only
        return jax.ShapeDtypeStruct(shape, jnp.float32)
    key = rngs.params()
    if isinstance(key, jax.core.Tracer):  # inside a compiled function
        return jax.random.uniform(key, shape, minval=-bound, maxval=bound)
    # NumPy on the host: JAX would compile a program for each of the network's many shapes.
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return jnp.asarray(rng.uniform(-bound, bound, shape).astype(np.float32))
