"""Spatio-temporal self-attention (paper section III-B, figure 3, equations 1-8).

Features are `(B, 4, H, W, C)`: four time steps. Layer I relates neighbouring steps, in the pairs
(1, 2) and (3, 4); layer II relates the two halves (12, 34). Each member of each pair has its own
query, key and value embeddings. Level 0 attends at half resolution, between a max pool that stores
its indices and an unpool that uses them: the spatial bottleneck.

The paper's variants (Table IV) change which steps attend to which. With `attention='steps'` every
time step attends only to itself ("w/o temporal relations"); `'single'` has one matrix over all
positions of all four ("single similarity matrix").
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.nn import relu

from stsa_jax.models.layers import NO_TAPS, Conv, LayerNorm, Taps
from stsa_jax.ops.attention import attend
from stsa_jax.ops.pooling import max_pool_2x2_with_indices, max_unpool_2x2

STEPS = 4  # time steps of every level after its temporal compression
ATTENTION = ('pairs', 'steps', 'single')


class Embedding(nnx.Module):
    """Query, key and value of one member of a pair (paper figure 3b)."""

    def __init__(self, channels: int, embed: int, **options):
        """`options` are those of `Conv`."""
        self.query_1 = Conv(channels, embed, **options)
        self.query_2 = Conv(embed, embed, (1, 3, 3), **options)
        self.key_1 = Conv(channels, embed, **options)
        self.key_2 = Conv(embed, embed, (1, 3, 3), **options)
        self.value_1 = Conv(channels, channels, (1, 3, 1), **options)
        self.value_2 = Conv(channels, channels, (1, 1, 3), **options)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`(B, T, H, W, C)` -> query and key `(B, THW, E)`, value `(B, THW, C)`."""
        query = relu(self.query_2(relu(self.query_1(x))))
        key = relu(self.key_2(relu(self.key_1(x))))
        value = relu(self.value_2(relu(self.value_1(x))))
        query, key, value = (y.reshape(y.shape[0], -1, y.shape[-1]) for y in (query, key, value))
        return query, key, value


class Pair(nnx.Module):
    """Two groups of time steps that attend to each other (equations 1-4, 6-7)."""

    def __init__(self, channels: int, embed: int, **options):
        """`options` are those of `Conv`."""
        self.precision = options.get('precision')
        self.a = Embedding(channels, embed, **options)
        self.b = Embedding(channels, embed, **options)

    def __call__(self, a: jax.Array, b: jax.Array, taps: Taps = NO_TAPS) -> jax.Array:
        """Two `(B, T, H, W, C)` -> `(B, 2T, H, W, C)`; taps the two matrices `(B, THW, THW)`.

        DA(q_b, k_a, v_a) replaces a, DA(q_a, k_b, v_b) replaces b.
        """
        query_a, key_a, value_a = self.a(a)
        query_b, key_b, value_b = self.b(b)
        first = _attend(query_b, key_a, value_a, self.precision, taps, 'b_to_a')
        second = _attend(query_a, key_b, value_b, self.precision, taps, 'a_to_b')
        return jnp.concatenate([first.reshape(a.shape), second.reshape(b.shape)], axis=1)


class PairWithinSteps(Pair):
    """The same embeddings, but each time step attends to itself (figure 6a)."""

    def __call__(self, a: jax.Array, b: jax.Array, taps: Taps = NO_TAPS) -> jax.Array:
        """Two `(B, T, H, W, C)` -> `(B, 2T, H, W, C)`; taps the matrices `(B, T, HW, HW)`."""
        batch, t, h, w, _ = a.shape

        def within(embedding, x, name):
            parts = (y.reshape(batch * t, h * w, -1) for y in embedding(x))
            kept = taps.kept is not None
            out, matrix = attend(*parts, keep_matrix=kept, matrices=t, precision=self.precision)
            if matrix is not None:
                taps[name] = matrix.reshape(batch, t, h * w, h * w)
            return out.reshape(x.shape)

        return jnp.concatenate([within(self.a, a, 'a_to_a'), within(self.b, b, 'b_to_b')], axis=1)


class Whole(nnx.Module):
    """All time steps at once, one similarity matrix over all their positions (figure 6b)."""

    def __init__(self, channels: int, embed: int, **options):
        """`options` are those of `Conv`."""
        self.precision = options.get('precision')
        self.embedding = Embedding(channels, embed, **options)

    def __call__(self, x: jax.Array, taps: Taps = NO_TAPS) -> jax.Array:
        """`(B, T, H, W, C)` -> the same; taps the matrix `(B, THW, THW)`."""
        return _attend(*self.embedding(x), self.precision, taps, 'all_to_all').reshape(x.shape)


def _attend(query, key, value, precision, taps, name):
    kept = taps.kept is not None
    out, matrix = attend(query, key, value, keep_matrix=kept, precision=precision)
    if matrix is not None:
        taps[name] = matrix
    return out


class STSALayer(nnx.Module):
    """Pairwise attention between groups of time steps, LayerNorm, shortcut (equations 5 and 8)."""

    def __init__(
        self,
        pairs: int,
        shape: tuple[int, int, int, int],
        embed: int,
        *,
        bottleneck: bool,
        size_free: bool = False,
        attention: str = 'pairs',
        rngs: nnx.Rngs | None,
        precision: lax.Precision | None = None,
    ):
        """`pairs` is 2 for layer I, 1 for layer II; `shape` is the features' `(T, H, W, C)`."""
        self.bottleneck = bottleneck
        self.pairs = 0 if attention == 'single' else pairs
        options = {'precision': precision, 'rngs': rngs}
        kind = PairWithinSteps if attention == 'steps' else Pair
        for i in range(self.pairs):
            setattr(self, f'pair{i}', kind(shape[-1], embed, **options))
        if attention == 'single':
            self.whole = Whole(shape[-1], embed, **options)
        # Statistics over all steps would relate them.
        each_step = attention == 'steps'
        self.norm = LayerNorm(shape, size_free=size_free, each_step=each_step, rngs=rngs)

    def __call__(self, x: jax.Array, taps: Taps = NO_TAPS) -> jax.Array:
        """`(B, 4, H, W, C)` -> the same; taps the attention matrices and the update added to x."""
        if self.bottleneck:
            features, index = max_pool_2x2_with_indices(x)
            attended = max_unpool_2x2(self.attend(features, taps), index)
        else:
            attended = self.attend(x, taps)
        update = self.norm(attended)
        taps['norm'] = update
        return x + update

    def attend(self, x: jax.Array, taps: Taps = NO_TAPS) -> jax.Array:
        """Only the attention: `(B, 4, H, W, C)` -> the same."""
        if not self.pairs:
            return self.whole(x, taps.at('whole'))
        groups = jnp.split(x, 2 * self.pairs, axis=1)
        attended = [
            getattr(self, f'pair{i}')(*groups[2 * i : 2 * i + 2], taps.at(f'pair{i}'))
            for i in range(self.pairs)
        ]
        return jnp.concatenate(attended, axis=1)


class STSAModule(nnx.Module):
    """Layer I, a spatial convolution that sets the channels of what follows, layer II."""

    def __init__(
        self,
        size: tuple[int, int],
        channels: tuple[int, int],
        embed: tuple[int, int],
        *,
        layers: tuple[int, ...] = (1, 2),
        precision: lax.Precision | None = None,
        rngs: nnx.Rngs | None,
        **options,
    ):
        """`channels` and `embed` are those of layer I and II; `options` those of `STSALayer`.

        `layers` are the layers to build; with none, only the convolution is left. `precision` is
        that of the convolutions before layer II's pool.
        """
        shapes = [(STEPS, *size, c) for c in channels]
        exact: dict[str, Any] = {'precision': precision, 'rngs': rngs}
        self.layer_1 = (
            STSALayer(2, shapes[0], embed[0], **options, **exact) if 1 in layers else None
        )
        self.middle = Conv(*channels, (1, 3, 3), **exact)
        self.layer_2 = (
            STSALayer(1, shapes[1], embed[1], **options, rngs=rngs) if 2 in layers else None
        )

    def __call__(self, x: jax.Array, taps: Taps = NO_TAPS) -> jax.Array:
        """`(B, 4, H, W, C_I)` -> `(B, 4, H, W, C_II)`."""
        if self.layer_1 is not None:
            x = self.layer_1(x, taps.at('layer_1'))
        x = relu(self.middle(x))
        taps['middle'] = x
        return x if self.layer_2 is None else self.layer_2(x, taps.at('layer_2'))
