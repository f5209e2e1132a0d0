"""Layers of networks that see one frame after another: BatchNorm of a time step, and a ConvGRU.

The released UNISAL runs each layer once for each frame. So its BatchNorms, when training, have the
statistics of one time step of the batch, and update the running ones once a step. Parts of the
network exist once for each domain (dataset): `Norms` has a BatchNorm for each and uses one.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.nn import relu6, sigmoid, tanh

from stsa_jax.models.layers import BatchStat, unbiased, uniform_conv_weights
from stsa_jax.ops.convolution import Triple, conv3d, depthwise_conv3d
from stsa_jax.ops.names import PRODUCT
from stsa_jax.ops.normalisation import batch_norm, scale_shift

EPS = 1e-5  # PyTorch's default
STILLS, STILL_MOMENTUM = 'salicon', 0.1  # the domain of pictures, whose batches are larger
Moments = tuple[jax.Array, jax.Array]


class StepNorm(nnx.Module):
    """BatchNorm over `(B, H, W)` of each time step."""

    def __init__(self, features: int, momentum: float, rngs: nnx.Rngs | None):
        """`rngs` is not used: scales are 1 and shifts 0 at first."""
        self.scale, self.bias = nnx.Param(jnp.ones(features)), nnx.Param(jnp.zeros(features))
        self.mean, self.var = BatchStat(jnp.zeros(features)), BatchStat(jnp.ones(features))
        self.count = BatchStat(jnp.zeros((), jnp.int32))
        self.momentum = momentum

    def running(self, y: jax.Array, activation) -> jax.Array:
        """`(..., C)`, normalised with the running statistics."""
        statistics = self.mean[...], self.var[...]
        return scale_shift(
            y, self.scale[...], self.bias[...], *statistics, eps=EPS, activation=activation
        )

    def of_step(self, y: jax.Array, activation) -> tuple[jax.Array, Moments]:
        """One time step `(B, H, W, C)` -> the same normalised, and its mean and variance `(C,)`."""
        out, mean, var = batch_norm(
            y,
            self.scale[...],
            self.bias[...],
            expected_mean=self.mean[...],
            eps=EPS,
            activation=activation,
        )
        return out, (mean, unbiased(var, y))

    def remember(self, moments: Moments) -> None:
        """Moves the running statistics towards those of each step, `(T, C)`, one after another."""
        steps = len(moments[0])
        keep = 1 - self.momentum
        weights = self.momentum * keep ** jnp.arange(steps - 1, -1, -1.0)
        for running, latest in zip((self.mean, self.var), moments):
            new = jnp.einsum('t,tc->c', weights, lax.stop_gradient(latest))
            running.set_value(keep**steps * running[...] + new)
        self.count.set_value(self.count[...] + steps)


class Unit(nnx.Module):
    """Convolution in the plane of the frame, BatchNorm by time step, activation."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kernel: Triple = (1, 1, 1),
        *,
        stride: Triple = (1, 1, 1),
        depthwise: bool = False,
        biased: bool = False,
        activation=relu6,
        momentum: float,
        domains: tuple[str, ...] = (),
        domain: str = '',
        rngs: nnx.Rngs | None,
    ):
        """With `domains` there is a norm for each, and that of `domain` is used.

        `biased`: whether the convolution has a bias, in front of the norm.
        """
        inputs = 1 if depthwise else features_in
        self.kernel, self.offset = uniform_conv_weights(
            kernel, inputs, features_out, bias=biased, rngs=rngs
        )
        self.norm = norms(features_out, momentum, domains, rngs)
        t, h, w = kernel
        self.stride, self.padding = stride, ((t - 1) // 2, (h - 1) // 2, (w - 1) // 2)
        self.depthwise, self.activation, self.domain = depthwise, activation, domain

    @property
    def used_norm(self) -> StepNorm:
        """The norm of the domain."""
        return getattr(self.norm, self.domain) if self.domain else self.norm

    def convolved(self, x: jax.Array) -> jax.Array:
        """`(B, T, H, W, features_in)` -> `(B, T, H', W', features_out)`, without the norm."""
        convolve = depthwise_conv3d if self.depthwise else conv3d
        y = checkpoint_name(convolve(x, self.kernel[...], self.stride, self.padding), PRODUCT)
        return y if self.offset is None else y + self.offset[...].astype(y.dtype)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`(B, T, H, W, features_in)` -> `(B, T, H', W', features_out)`."""
        y = self.convolved(x)
        if not train:
            return self.used_norm.running(y, self.activation)
        of_step = lambda y: self.used_norm.of_step(y, self.activation)  # noqa: E731
        out, moments = jax.vmap(of_step, 1, (1, 0))(y)
        self.used_norm.remember(moments)
        return out

    def of_step(self, x: jax.Array) -> tuple[jax.Array, Moments]:
        """`__call__` in training of one step `(B, H, W, C)`; its moments are not remembered."""
        return self.used_norm.of_step(self.convolved(x[:, None])[:, 0], self.activation)


class Norms(nnx.Module):
    """A `StepNorm` for each domain, by its name."""


def norms(
    features: int, momentum: float, domains: tuple[str, ...], rngs: nnx.Rngs | None
) -> nnx.Module:
    """One norm, or one for each of `domains`."""
    if not domains:
        return StepNorm(features, momentum, rngs)
    found = Norms()
    for domain in domains:
        own = STILL_MOMENTUM if domain == STILLS else momentum
        setattr(found, domain, StepNorm(features, own, rngs))
    return found


class Separable(nnx.Module):
    """A depthwise 3x3 convolution and a 1x1 one, each with its norm; then a scale by channel."""

    def __init__(self, features_in: int, features_out: int, **options):
        """`options` are those of `Unit`."""
        self.depth = Unit(features_in, features_in, (1, 3, 3), depthwise=True, **options)
        self.point = Unit(features_in, features_out, activation=None, **options)
        self.scale = nnx.Param(jnp.ones((1, 1, features_out)))

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`(B, T, H, W, features_in)` -> `(B, T, H, W, features_out)`."""
        return self._scaled(self.point(self.depth(x, train=train), train=train))

    def of_step(self, x: jax.Array) -> tuple[jax.Array, tuple[Moments, Moments]]:
        """In training, of one step; see `Unit.of_step`."""
        x, first = self.depth.of_step(x)
        x, second = self.point.of_step(x)
        return self._scaled(x), (first, second)

    def remember(self, moments: tuple[Moments, Moments]) -> None:
        """The moments of all steps, `(T, C)` each."""
        for unit, each in zip((self.depth, self.point), moments):
            unit.used_norm.remember(each)

    def _scaled(self, x):
        return x * self.scale[...].astype(x.dtype)


GATES = ('reset', 'update', 'candidate')


class ConvGRU(nnx.Module):
    """Gated recurrent unit of separable convolutions (UNISAL, section 3.3).

    reset r, update z and candidate c, of the input x and the state h before, each a convolution
    with norm, scale and shift; c = tanh(x part + r * h part); h = (1 - z) h + z c.
    """

    def __init__(self, features_in: int, features: int, *, rngs: nnx.Rngs | None, **options):
        """`options` are those of `Unit`."""
        for gate in GATES:
            setattr(self, f'{gate}_input', Separable(features_in, features, rngs=rngs, **options))
            setattr(self, f'{gate}_state', Separable(features, features, rngs=rngs, **options))
            setattr(self, f'{gate}_shift', nnx.Param(jnp.zeros((1, 1, features))))
        # The latest mask of the state's dropout, which the released files keep. It has no effect.
        self.drop_mask = BatchStat(jnp.ones((len(GATES), features)))

    def __call__(
        self,
        x: jax.Array,
        state: jax.Array | None = None,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """`(B, T, H, W, C)` and the state before, `(B, H, W, D)` or None for zeros.

        Returns the states of all steps `(B, T, H, W, D)`, and the last one. `mask`, `(3, D)`,
        multiplies the state in front of each gate's convolution.
        """
        of_input = [
            getattr(self, f'{gate}_input')(x, train=train)
            + getattr(self, f'{gate}_shift')[...].astype(x.dtype)
            for gate in GATES
        ]
        convolutions = [getattr(self, f'{gate}_state') for gate in GATES]
        if state is None:
            shape = *x.shape[:1], *x.shape[2:4], of_input[0].shape[-1]
            state = jnp.zeros(shape, x.dtype)

        def step(state, of_input):
            of_state, moments = [], []
            for i, convolution in enumerate(convolutions):
                h = state if mask is None else state * mask[i].astype(state.dtype)
                if train:
                    h, found = convolution.of_step(h)
                    moments.append(found)
                else:
                    h = convolution(h[:, None])[:, 0]
                of_state.append(h)
            reset, update = (sigmoid(a + b) for a, b in zip(of_input[:2], of_state[:2]))
            candidate = tanh(of_input[2] + reset * of_state[2])
            state = (1 - update) * state + update * candidate
            return state, (state, moments)

        steps = [jnp.moveaxis(part, 1, 0) for part in of_input]
        state, (states, moments) = lax.scan(step, state, steps)
        for convolution, found in zip(convolutions, moments):
            convolution.remember(found)
        return jnp.moveaxis(states, 0, 1), state
