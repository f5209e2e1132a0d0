"""Spatio-temporal self-attention (paper section III-B, equations 1-8).

Features are `(B, 4, H, W, C)`: four time steps. Layer I relates neighbouring steps, in the pairs
(1, 2) and (3, 4); layer II relates the two halves (12, 34). Each member of each pair has its own
query, key and value embeddings. Level 0 attends at half the size, between a max pool that keeps its
indices and the unpooling with them: the spatial bottleneck.

Large inputs have many places, N: where the N x N matrix would be larger than `LARGEST_MATRIX`, it
is made and used in blocks of queries, and again in the gradient, so that it is never there whole.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from stsa_jax.layers import Conv, LayerNorm, max_pool_2x2_with_indices, max_unpool_2x2

STEPS = 4  # time steps of every level after its temporal compression
# Weights of one attention matrix held at once, for one example: 128 MiB in float32. At 224x384 the
# largest has 2688 x 2688, a fifth of it; at 448x768 it would be 10752 x 10752.
LARGEST_MATRIX = 2**25


def attention_matrix(query: jax.Array, key: jax.Array) -> jax.Array:
    """Softmax over the key's positions of q . k, without 1/sqrt(d) (equation 1).

    `(B, N, E)` and `(B, M, E)` -> `(B, N, M)`, float32 whatever the inputs are.
    """
    logits = jnp.einsum('bne,bme->bnm', query, key, preferred_element_type=jnp.float32)
    return jax.nn.softmax(logits, axis=-1)


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, keep_matrix: bool = False
) -> tuple[jax.Array, jax.Array | None]:
    """DA(q, k, v) of `(B, N, E)`, `(B, M, E)`, `(B, M, C)`: `(B, N, C)` and the `(B, N, M)` matrix.

    A matrix above `LARGEST_MATRIX` is never there as a whole, and None is returned in its place,
    unless `keep_matrix` asks for it.
    """
    blocks = -(-query.shape[1] * key.shape[1] // LARGEST_MATRIX)
    if blocks == 1 or keep_matrix:
        matrix = attention_matrix(query, key)
        return matrix.astype(value.dtype) @ value, matrix
    (b, n, e), rows = query.shape, -(-query.shape[1] // blocks)
    padded = jnp.pad(query, ((0, 0), (0, rows * blocks - n), (0, 0)))
    parts = padded.reshape(b, blocks, rows, e).swapaxes(0, 1)
    # With the checkpoint, a gradient computes each block's matrix again instead of keeping it.
    block = jax.checkpoint(lambda part: attend(part, key, value, True)[0])
    out = jax.lax.map(block, parts)  # (blocks, B, rows, C)
    return out.swapaxes(0, 1).reshape(b, rows * blocks, -1)[:, :n], None


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

    def __call__(
        self, a: jax.Array, b: jax.Array, keep_matrices: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Two `(B, T, H, W, C)` -> `(B, 2T, H, W, C)`, and the two matrices `(B, THW, THW)`.

        DA(q_b, k_a, v_a) takes a's place, DA(q_a, k_b, v_b) takes b's.
        """
        query_a, key_a, value_a = self.a(a)
        query_b, key_b, value_b = self.b(b)
        first, b_to_a = attend(query_b, key_a, value_a, keep_matrices)
        second, a_to_b = attend(query_a, key_b, value_b, keep_matrices)
        out = jnp.concatenate([first.reshape(a.shape), second.reshape(b.shape)], axis=1)
        return out, {'b_to_a': b_to_a, 'a_to_b': a_to_b}


class STSALayer(nnx.Module):
    """Pairwise attention between groups of time steps, LayerNorm, shortcut (equations 5 and 8)."""

    def __init__(
        self,
        pairs: int,
        shape,
        embed: int,
        *,
        bottleneck: bool,
        size_free: bool = False,
        rngs: nnx.Rngs,
    ):
        """`pairs` is 2 for layer I, 1 for layer II; `shape` is the features' `(T, H, W, C)`."""
        self.pairs, self.bottleneck = pairs, bottleneck
        for i in range(pairs):
            setattr(self, f'pair{i}', Pair(shape[-1], embed, rngs=rngs))
        self.norm = LayerNorm(shape, size_free=size_free, rngs=rngs)

    def __call__(self, x: jax.Array, taps: dict | None = None, name: str = '') -> jax.Array:
        """`(B, 4, H, W, C)` -> the same. Fills `taps` with the attention matrices and the norm."""
        features, index = max_pool_2x2_with_indices(x) if self.bottleneck else (x, None)
        groups = jnp.split(features, 2 * self.pairs, axis=1)
        attended = []
        for i in range(self.pairs):
            pair = getattr(self, f'pair{i}')
            out, matrices = pair(groups[2 * i], groups[2 * i + 1], taps is not None)
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
        rngs: nnx.Rngs,
        **options,
    ):
        """`channels` and `embed` are those of layer I and II; `options` those of `STSALayer`."""
        shapes = [(STEPS, *size, c) for c in channels]
        self.layer_1 = STSALayer(2, shapes[0], embed[0], rngs=rngs, **options)
        self.middle = Conv(*channels, (1, 3, 3), rngs=rngs)
        self.layer_2 = STSALayer(1, shapes[1], embed[1], rngs=rngs, **options)

    def __call__(self, x: jax.Array, taps: dict | None = None, name: str = '') -> jax.Array:
        """`(B, 4, H, W, C_I)` -> `(B, 4, H, W, C_II)`."""
        x = self.layer_1(x, taps, f'{name}.layer_1')
        x = jax.nn.relu(self.middle(x))
        if taps is not None:
            taps[f'{name}.middle'] = x
        return self.layer_2(x, taps, f'{name}.layer_2')
