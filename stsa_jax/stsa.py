"""Spatio-temporal self-attention (paper section III-B, equations 1-8).

Features are `(B, 4, H, W, C)`: four time steps. Layer I relates neighbouring steps, in the pairs
(1, 2) and (3, 4); layer II relates the two halves (12, 34). Each member of each pair has its own
query, key and value embeddings. Level 0 attends at half the size, between a max pool that keeps its
indices and the unpooling with them: the spatial bottleneck.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from stsa_jax.layers import Conv, LayerNorm, max_pool_2x2_with_indices, max_unpool_2x2

STEPS = 4  # time steps of every level after its temporal compression


def attention_matrix(query: jax.Array, key: jax.Array) -> jax.Array:
    """Softmax over the key's positions of q . k, without 1/sqrt(d) (equation 1).

    `(B, N, E)` and `(B, M, E)` -> `(B, N, M)`, float32 whatever the inputs are.
    """
    logits = jnp.einsum('bne,bme->bnm', query, key, preferred_element_type=jnp.float32)
    return jax.nn.softmax(logits, axis=-1)


class Embedding(nnx.Module):
    """Query, key and value of one member of a pair (paper figure 3b)."""

    def __init__(self, channels: int, embed: int, *, rngs: nnx.Rngs):
        self.query_1 = Conv(channels, embed, rngs=rngs)
        self.query_2 = Conv(embed, embed, (1, 3, 3), rngs=rngs)
        self.key_1 = Conv(channels, embed, rngs=rngs)
        self.key_2 = Conv(embed, embed, (1, 3, 3), rngs=rngs)
        self.value_1 = Conv(channels, channels, (1, 3, 1), rngs=rngs)
        self.value_2 = Conv(channels, channels, (1, 1, 3), rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`(B, T, H, W, C)` -> query and key `(B, THW, E)`, value `(B, THW, C)`."""
        relu = jax.nn.relu
        query = relu(self.query_2(relu(self.query_1(x))))
        key = relu(self.key_2(relu(self.key_1(x))))
        value = relu(self.value_2(relu(self.value_1(x))))
        return tuple(y.reshape(y.shape[0], -1, y.shape[-1]) for y in (query, key, value))


class Pair(nnx.Module):
    """Two groups of time steps that attend to each other (equations 1-4, 6-7)."""

    def __init__(self, channels: int, embed: int, *, rngs: nnx.Rngs):
        self.a = Embedding(channels, embed, rngs=rngs)
        self.b = Embedding(channels, embed, rngs=rngs)

    def __call__(self, a: jax.Array, b: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Two `(B, T, H, W, C)` -> `(B, 2T, H, W, C)`, and the two matrices `(B, THW, THW)`.

        DA(q_b, k_a, v_a) takes a's place, DA(q_a, k_b, v_b) takes b's.
        """
        query_a, key_a, value_a = self.a(a)
        query_b, key_b, value_b = self.b(b)
        b_to_a, a_to_b = attention_matrix(query_b, key_a), attention_matrix(query_a, key_b)
        first = (b_to_a.astype(value_a.dtype) @ value_a).reshape(a.shape)
        second = (a_to_b.astype(value_b.dtype) @ value_b).reshape(b.shape)
        return jnp.concatenate([first, second], axis=1), {'b_to_a': b_to_a, 'a_to_b': a_to_b}


class STSALayer(nnx.Module):
    """Pairwise attention between groups of time steps, LayerNorm, shortcut (equations 5 and 8)."""

    def __init__(self, pairs: int, shape, embed: int, *, bottleneck: bool, rngs: nnx.Rngs):
        """`pairs` is 2 for layer I, 1 for layer II; `shape` is the features' `(T, H, W, C)`."""
        self.pairs, self.bottleneck = pairs, bottleneck
        for i in range(pairs):
            setattr(self, f'pair{i}', Pair(shape[-1], embed, rngs=rngs))
        self.norm = LayerNorm(shape, rngs=rngs)

    def __call__(self, x: jax.Array, taps: dict | None = None, name: str = '') -> jax.Array:
        """`(B, 4, H, W, C)` -> the same. Fills `taps` with the attention matrices and the norm."""
        features, index = max_pool_2x2_with_indices(x) if self.bottleneck else (x, None)
        groups = jnp.split(features, 2 * self.pairs, axis=1)
        attended = []
        for i in range(self.pairs):
            out, matrices = getattr(self, f'pair{i}')(groups[2 * i], groups[2 * i + 1])
            attended.append(out)
            if taps is not None:
                taps.update({f'{name}.pair{i}.{key}': m for key, m in matrices.items()})
        attended = jnp.concatenate(attended, axis=1)
        if self.bottleneck:
            attended = max_unpool_2x2(attended, index)
        update = self.norm(attended)
        if taps is not None:
            taps[f'{name}.norm'] = update
        return x + update


class STSAModule(nnx.Module):
    """Layer I, a spatial convolution that sets the channels of what follows, layer II."""

    def __init__(
        self,
        size: tuple[int, int],
        channels: tuple[int, int],
        embed: tuple[int, int],
        *,
        bottleneck: bool,
        rngs: nnx.Rngs,
    ):
        """`channels` and `embed` are those of layer I and of layer II."""
        shapes = [(STEPS, *size, c) for c in channels]
        self.layer_1 = STSALayer(2, shapes[0], embed[0], bottleneck=bottleneck, rngs=rngs)
        self.middle = Conv(*channels, (1, 3, 3), rngs=rngs)
        self.layer_2 = STSALayer(1, shapes[1], embed[1], bottleneck=bottleneck, rngs=rngs)

    def __call__(self, x: jax.Array, taps: dict | None = None, name: str = '') -> jax.Array:
        """`(B, 4, H, W, C_I)` -> `(B, 4, H, W, C_II)`."""
        x = self.layer_1(x, taps, f'{name}.layer_1')
        x = jax.nn.relu(self.middle(x))
        if taps is not None:
            taps[f'{name}.middle'] = x
        return self.layer_2(x, taps, f'{name}.layer_2')
