"""Attention between two sets of positions: paper equation 1, without 1/sqrt(d).

Large inputs have many positions, N: where the N x N matrix would be larger than `LARGEST_MATRIX`,
it is made and used in blocks of queries, and again in the gradient: it is never there whole.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from stsa_jax.ops import cpu, forms
from stsa_jax.ops.names import PRODUCT

# Attention weights held at once, for one example: 128 MiB in float32. At 224x384 the
# largest has 2688 x 2688, a fifth of it; at 448x768 it would be 10752 x 10752.
LARGEST_MATRIX = 2**25


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    keep_matrix: bool = False,
    matrices: int = 1,
    precision: lax.Precision | None = None,
) -> tuple[jax.Array, jax.Array | None]:
    """DA(q, k, v) of `(B, N, E)`, `(B, M, E)`, `(B, M, C)`: `(B, N, C)` and the `(B, N, M)` matrix.

    The matrix is the softmax over the key's positions of q . k, in float32; it is returned if
    `keep_matrix` asks for it, else None. `matrices` of them belong to one example and count
    together against `LARGEST_MATRIX`.
    """
    softmax_product = cpu.softmax_product if forms.for_cpu() else _softmax_product

    def whole(query):
        logits = jnp.einsum(
            'bne,bme->bnm',
            query,
            key,
            precision=precision,
            preferred_element_type=jnp.promote_types(query.dtype, jnp.float32),
        )
        return softmax_product(logits, value, precision)

    blocks = -(-matrices * query.shape[1] * key.shape[1] // LARGEST_MATRIX)
    if keep_matrix:
        return whole(query)
    if blocks == 1:
        return whole(query)[0], None
    return _in_blocks(lambda part: whole(part)[0], query, blocks), None


def _softmax_product(logits, value, precision):
    matrix = jax.nn.softmax(logits)
    out = jnp.einsum('bnm,bmc->bnc', matrix.astype(value.dtype), value, precision=precision)
    return checkpoint_name(out, PRODUCT), matrix


def _in_blocks(f, query, blocks):
    """`f` of the queries block by block; a gradient keeps nothing of a block but its queries."""
    (b, n, e), rows = query.shape, -(-query.shape[1] // blocks)
    padded = jnp.pad(query, ((0, 0), (0, rows * blocks - n), (0, 0)))
    parts = padded.reshape(b, blocks, rows, e).swapaxes(0, 1)
    out = lax.map(jax.checkpoint(f), parts)  # (blocks, B, rows, C)
    return out.swapaxes(0, 1).reshape(b, rows * blocks, -1)[:, :n]
