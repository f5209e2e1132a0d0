"""Spatio-temporal self-attention (paper section III-B, equations 1-8).

Features are `(B, 4, H, W, C)`: four time steps. Layer I relates neighbouring steps, in the pairs
(1, 2) and (3, 4); layer II relates the two halves (12, 34). Each member of each pair has its own
query, key and value embeddings. Level 0 attends at half the size, between a max pool that keeps its
indices and the unpooling with them: the spatial bottleneck.

The paper's variants (Table IV) change who attends to whom: `attention='steps'` has every time step
attend to itself alone ("w/o temporal relations"), `'single'` has one matrix over all positions of
all four ("single similarity matrix").

Large inputs have many places, N: where the N x N matrix would be larger than `LARGEST_MATRIX`, it
is made and used in blocks of queries, and again in the gradient, so that it is never there whole.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

from stsa_jax.models.layers import KEEP_PRODUCTS, PRODUCT, Conv, LayerNorm
from stsa_jax.ops.pooling import max_pool_2x2_with_indices, max_unpool_2x2

STEPS = 4  # time steps of every level after its temporal compression
ATTENTION = ('pairs', 'steps', 'single')
# Attention weights held at once, for one example: 128 MiB in float32. At 224x384 the
# largest has 2688 x 2688, a fifth of it; at 448x768 it would be 10752 x 10752.
LARGEST_MATRIX = 2**25


def _softmax_times(logits, value):
    # Of each query the largest logit and the sum are kept: the gradient makes the matrix again.
    largest = checkpoint_name(logits.max(-1, keepdims=True), PRODUCT)
    matrix = jnp.exp(logits - largest)
    matrix = matrix / checkpoint_name(matrix.sum(-1, keepdims=True), PRODUCT)
    return (matrix.astype(value.dtype) @ value).astype(jnp.float32), matrix


@jax.custom_vjp
def _weigh(logits, value):
    """The softmax of `(B, N, M)` times `(B, M, C)`: `(B, N, C)`, float32, and the softmax."""
    return _softmax_times(logits, value)


def _weigh_forward(logits, value):
    out, matrix = _softmax_times(logits.value, value.value)
    out = checkpoint_name(out, PRODUCT)
    return (out, matrix), (matrix, value.value, out)


def _weigh_backward(saved, gradients):
    """JAX's own sums matrix times its gradient over the keys; a sum over C terms gives the same.

    FlashAttention's way (arXiv 2205.14135, B.2). XLA's CPU backend took 75 ms for the former, of a
    2688 x 2688 matrix. It remains for who uses the matrix itself in a loss.
    """
    matrix, value, out = saved
    d_out, used = gradients
    if isinstance(d_out, SymbolicZero):
        d_out = jnp.zeros_like(out)
    shared = (d_out * out).sum(-1, keepdims=True)
    d_out = d_out.astype(value.dtype)
    d_matrix = (d_out @ value.swapaxes(1, 2)).astype(jnp.float32)
    if not isinstance(used, SymbolicZero):
        shared, d_matrix = shared + (matrix * used).sum(-1, keepdims=True), d_matrix + used
    # The large matrix stays as it is; what is turned is small.
    d_value = (d_out.swapaxes(1, 2) @ matrix.astype(value.dtype)).swapaxes(1, 2)
    return matrix * (d_matrix - shared), d_value


_weigh.defvjp(_weigh_forward, _weigh_backward, symbolic_zeros=True)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    keep_matrix: bool = False,
    matrices: int = 1,
) -> tuple[jax.Array, jax.Array | None]:
    """DA(q, k, v) of `(B, N, E)`, `(B, M, E)`, `(B, M, C)`: `(B, N, C)` and the `(B, N, M)` matrix.

    The matrix is the softmax over the key's positions of q . k, without 1/sqrt(d) (equation 1).
    Multiplies in the dtype of its arguments; both results are float32. The matrix is returned if
    `keep_matrix` asks for it, else None; a gradient then keeps the result alone and computes the
    matrix again, and one above `LARGEST_MATRIX` is never there as a whole. `matrices` of them
    belong to one example and count together.
    """
    blocks = -(-matrices * query.shape[1] * key.shape[1] // LARGEST_MATRIX)
    if keep_matrix:
        logits = jnp.einsum('bne,bme->bnm', query, key, preferred_element_type=jnp.float32)
        return _weigh(logits, value)
    block = jax.checkpoint(lambda part: attend(part, key, value, True)[0], policy=KEEP_PRODUCTS)
    if blocks == 1:
        return block(query), None
    (b, n, e), rows = query.shape, -(-query.shape[1] // blocks)
    padded = jnp.pad(query, ((0, 0), (0, rows * blocks - n), (0, 0)))
    parts = padded.reshape(b, blocks, rows, e).swapaxes(0, 1)
    out = jax.lax.map(block, parts)  # (blocks, B, rows, C)
    return out.swapaxes(0, 1).reshape(b, rows * blocks, -1)[:, :n], None


def _attend_within_steps(query, key, value, steps, keep_matrix):
    """`attend` in each of `steps` equal parts of the positions; the matrix is `(B, T, HW, HW)`."""
    b, n, c = value.shape
    parts = (x.reshape(b * steps, n // steps, -1) for x in (query, key, value))
    out, matrix = attend(*parts, keep_matrix, matrices=steps)
    if matrix is not None:
        matrix = matrix.reshape(b, steps, *matrix.shape[1:])
    return out.reshape(b, n, c), matrix


class Embedding(nnx.Module):
    """Query, key and value of one member of a pair (paper figure 3b)."""

    dtype = None  # of the attention's products: that of the input

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
        three = (y.astype(self.dtype or x.dtype) for y in (query, key, value))
        return tuple(y.reshape(y.shape[0], -1, y.shape[-1]) for y in three)


class Pair(nnx.Module):
    """Two groups of time steps that attend to each other (equations 1-4, 6-7)."""

    def __init__(self, channels: int, embed: int, *, within_steps: bool = False, rngs: nnx.Rngs):
        """With `within_steps` each time step attends to itself instead (figure 6a)."""
        self.within_steps = within_steps
        self.a = Embedding(channels, embed, rngs=rngs)
        self.b = Embedding(channels, embed, rngs=rngs)

    def __call__(
        self, a: jax.Array, b: jax.Array, keep_matrices: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Two `(B, T, H, W, C)` -> `(B, 2T, H, W, C)`, and the two matrices.

        DA(q_b, k_a, v_a) takes a's place, DA(q_a, k_b, v_b) takes b's; matrices `(B, THW, THW)`.
        Within steps it is q_a in a's place, q_b in b's, and matrices `(B, T, HW, HW)`.
        """
        query_a, key_a, value_a = self.a(a)
        query_b, key_b, value_b = self.b(b)
        if self.within_steps:
            first, a_to_a = _attend_within_steps(query_a, key_a, value_a, a.shape[1], keep_matrices)
            second, b_to_b = _attend_within_steps(
                query_b, key_b, value_b, b.shape[1], keep_matrices
            )
            matrices = {'a_to_a': a_to_a, 'b_to_b': b_to_b}
        else:
            first, b_to_a = attend(query_b, key_a, value_a, keep_matrices)
            second, a_to_b = attend(query_a, key_b, value_b, keep_matrices)
            matrices = {'b_to_a': b_to_a, 'a_to_b': a_to_b}
        return jnp.concatenate([first.reshape(a.shape), second.reshape(b.shape)], axis=1), matrices


class Whole(nnx.Module):
    """All time steps at once, one similarity matrix over all their positions (figure 6b)."""

    def __init__(self, channels: int, embed: int, *, rngs: nnx.Rngs):
        self.embedding = Embedding(channels, embed, rngs=rngs)

    def __call__(
        self, x: jax.Array, keep_matrices: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """`(B, T, H, W, C)` -> the same, and the matrix `(B, THW, THW)`."""
        out, matrix = attend(*self.embedding(x), keep_matrices)
        return out.reshape(x.shape), {'all_to_all': matrix}


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
        attention: str = 'pairs',
        rngs: nnx.Rngs,
    ):
        """`pairs` is 2 for layer I, 1 for layer II; `shape` is the features' `(T, H, W, C)`."""
        self.bottleneck = bottleneck
        self.pairs = 0 if attention == 'single' else pairs
        within_steps = attention == 'steps'
        for i in range(self.pairs):
            setattr(self, f'pair{i}', Pair(shape[-1], embed, within_steps=within_steps, rngs=rngs))
        if attention == 'single':
            self.whole = Whole(shape[-1], embed, rngs=rngs)
        # Statistics over all steps would relate them.
        self.norm = LayerNorm(shape, size_free=size_free, each_step=within_steps, rngs=rngs)

    def __call__(self, x: jax.Array, taps: dict | None = None, name: str = '') -> jax.Array:
        """`(B, 4, H, W, C)` -> the same. Fills `taps` with the attention matrices and the norm."""
        features, index = max_pool_2x2_with_indices(x) if self.bottleneck else (x, None)
        attended = self.attend(features, taps, name)
        if self.bottleneck:
            attended = max_unpool_2x2(attended, index)
        update = self.norm(attended)
        if taps is not None:
            taps[f'{name}.norm'] = update
        return x + update

    def attend(self, x: jax.Array, taps: dict | None = None, name: str = '') -> jax.Array:
        """The attention alone: `(B, 4, H, W, C)` -> the same."""
        groups = jnp.split(x, 2 * self.pairs, axis=1) if self.pairs else ()
        inputs = {f'pair{i}': groups[2 * i : 2 * i + 2] for i in range(self.pairs)}
        attended = []
        for part, group in (inputs or {'whole': (x,)}).items():
            out, matrices = getattr(self, part)(*group, taps is not None)
            attended.append(out)
            if taps is not None:
                taps.update({f'{name}.{part}.{key}': m for key, m in matrices.items()})
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
        rngs: nnx.Rngs,
        **options,
    ):
        """`channels` and `embed` are those of layer I and II; `options` those of `STSALayer`.

        `layers` are the ones that are there; without any, only the convolution is left.
        """
        shapes = [(STEPS, *size, c) for c in channels]
        options['rngs'] = rngs
        self.layer_1 = STSALayer(2, shapes[0], embed[0], **options) if 1 in layers else None
        self.middle = Conv(*channels, (1, 3, 3), rngs=rngs)
        self.layer_2 = STSALayer(1, shapes[1], embed[1], **options) if 2 in layers else None

    def __call__(self, x: jax.Array, taps: dict | None = None, name: str = '') -> jax.Array:
        """`(B, 4, H, W, C_I)` -> `(B, 4, H, W, C_II)`."""
        if self.layer_1 is not None:
            x = self.layer_1(x, taps, f'{name}.layer_1')
        x = jax.nn.relu(self.middle(x))
        if taps is not None:
            taps[f'{name}.middle'] = x
        return x if self.layer_2 is None else self.layer_2(x, taps, f'{name}.layer_2')
