"""The softmax and its product with the values, with FlashAttention's gradient.

JAX's own gradient sums the matrix times its gradient over the keys; a sum over C terms gives the
same (arXiv 2205.14135, B.2). The former took 75 ms for a 2688 x 2688 matrix in XLA's CPU backend.
It is still used if the matrix itself enters a loss.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

from stsa_jax.ops.names import PRODUCT


def softmax_product(
    logits: jax.Array, value: jax.Array, precision: jax.lax.Precision | None
) -> tuple[jax.Array, jax.Array]:
    """The softmax of `(B, N, M)` times `(B, M, C)`: `(B, N, C)`, and the softmax in float32."""
    del precision  # CPU products are always in full precision
    return _weigh(logits, value)


def _softmax_times(logits, value):
    # Only each query's largest logit and sum are saved; the gradient recomputes the matrix.
    largest = checkpoint_name(logits.max(-1, keepdims=True), PRODUCT)
    matrix = jnp.exp(logits - largest)
    matrix = matrix / checkpoint_name(matrix.sum(-1, keepdims=True), PRODUCT)
    return matrix.astype(value.dtype) @ value, matrix


@jax.custom_vjp
def _weigh(logits, value):
    out, matrix = _softmax_times(logits, value)
    return checkpoint_name(out, PRODUCT), matrix


def _forward(logits, value):
    out, matrix = _softmax_times(logits.value, value.value)
    out = checkpoint_name(out, PRODUCT)
    return (out, matrix), (matrix, value.value, out)


def _backward(saved, gradients):
    matrix, value, out = saved
    d_out, used = gradients
    if isinstance(d_out, SymbolicZero):
        d_out = jnp.zeros_like(out)
    shared = (d_out.astype(jnp.float32) * out).sum(-1, keepdims=True)
    d_matrix = (d_out @ value.swapaxes(1, 2)).astype(jnp.float32)
    if not isinstance(used, SymbolicZero):
        shared, d_matrix = shared + (matrix * used).sum(-1, keepdims=True), d_matrix + used
    # Transpose the small arrays instead of the large matrix.
    d_value = (d_out.swapaxes(1, 2) @ matrix.astype(value.dtype)).swapaxes(1, 2)
    return matrix * (d_matrix - shared), d_value


_weigh.defvjp(_forward, _backward, symbolic_zeros=True)
