"""Attention between two sets of positions: paper equation 1, without 1/sqrt(d).

For large inputs, where the N x N matrix over the N positions would exceed `LARGEST_MATRIX`, it is
computed in blocks of queries and recomputed in the gradient. It is never materialised as a whole.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from stsa_jax.ops import forms
from stsa_jax.ops.names import PRODUCT

# Attention weights in memory at once, for one example: 128 MiB in float32. At 224x384 the largest
# matrix is 2688 x 2688, a fifth of this; at 448x768 it would be 10752 x 10752.
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

    The matrix is the softmax of q . k over the key positions, in float32; it is returned only with
    `keep_matrix`, else None. `matrices` is the number of matrices per example, which count together
    against `LARGEST_MATRIX`.
    """
    whole_matrix = keep_matrix or forms.published()
    softmax_product = _softmax_and_product if whole_matrix else _softmax_product

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
    """Without the matrix. A column of ones beside the values gives its sums with the product."""
    matrix = jnp.exp(logits - lax.stop_gradient(logits.max(-1, keepdims=True)))
    ones = jnp.ones((*value.shape[:-1], 1), value.dtype)
    out = jnp.einsum(
        'bnm,bmc->bnc',
        matrix.astype(value.dtype),
        jnp.concatenate([value, ones], -1),
        precision=precision,
        preferred_element_type=logits.dtype,
    )
    out = checkpoint_name(out, PRODUCT)
    return (out[..., :-1] / out[..., -1:]).astype(value.dtype), None


def _softmax_and_product(logits, value, precision):
    matrix = jax.nn.softmax(logits)
    out = jnp.einsum('bnm,bmc->bnc', matrix.astype(value.dtype), value, precision=precision)
    return checkpoint_name(out, PRODUCT), matrix


def _in_blocks(f, query, blocks):
    """Applies `f` to the queries block by block; only the queries are saved for the gradient."""
    (b, n, e), rows = query.shape, -(-query.shape[1] // blocks)
    padded = jnp.pad(query, ((0, 0), (0, rows * blocks - n), (0, 0)))
    parts = padded.reshape(b, blocks, rows, e).swapaxes(0, 1)
    out = lax.map(jax.checkpoint(f), parts)  # (blocks, B, rows, C)
    return out.swapaxes(0, 1).reshape(b, rows * blocks, -1)[:, :n]
