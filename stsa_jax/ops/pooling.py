"""Max pooling, with and without indices, and unpooling, on `(B, T, H, W, C)`."""

import jax
import jax.numpy as jnp
from jax import lax

from stsa_jax.ops import cpu, forms
from stsa_jax.ops.convolution import Triple


def max_pool(x: jax.Array, window: Triple, stride: Triple, padding: Triple) -> jax.Array:
    """PyTorch's max_pool3d, `(B, T, H, W, C)` -> `(B, T', H', W', C)`; padding is minus infinity.

    `window`, `stride` and `padding` are along (T, H, W), in steps and pixels. On ties the first
    element in (t, h, w) order gets the gradient, as in PyTorch.
    """
    if forms.for_cpu():
        return cpu.max_pool(x, window, stride, padding)
    pads = [(0, 0), *((p, p) for p in padding), (0, 0)]
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *stride, 1), pads)


def max_pool_2x2_with_indices(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Spatial max pool 1,2,2 / 1,2,2 that also returns the position of each maximum.

    `(B, T, H, W, C)` -> values `(B, T, H/2, W/2, C)` and indices of the same shape, int8: 2 * row +
    column inside the window, of the first maximum in (row, column) order on ties, as in PyTorch.
    """
    parts = [x[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    best, index = parts[0], jnp.zeros(parts[0].shape, jnp.int8)
    for k in (1, 2, 3):
        larger = parts[k] > best
        best, index = jnp.where(larger, parts[k], best), jnp.where(larger, jnp.int8(k), index)
    return best, index


def max_unpool_2x2(x: jax.Array, index: jax.Array) -> jax.Array:
    """Puts each value back where its maximum was, zeros elsewhere.

    Values `(B, T, H, W, C)`, and the indices of `max_pool_2x2_with_indices`, of the same shape ->
    `(B, T, 2H, 2W, C)`: PyTorch's max_unpool3d.
    """
    if forms.for_cpu():
        return cpu.max_unpool_2x2(x, index)
    zero = jnp.zeros((), x.dtype)
    parts = []
    for k in range(4):
        row, column = divmod(k, 2)
        pads = [(0, 0, 0), (0, 0, 0), (row, 1 - row, 1), (column, 1 - column, 1), (0, 0, 0)]
        parts.append(lax.pad(jnp.where(index == k, x, zero), zero, pads))
    return sum(parts[1:], parts[0])


def max_indices_3x3(x: jax.Array) -> jax.Array:
    """Where the maxima of a spatial pool 1,3,3 / 1,2,2 with padding 0,1,1 are.

    `(B, T, H, W, C)` of even H and W -> int8 `(B, T, H/2, W/2, C)`: 3 * row + column inside the
    window, of the first maximum in (row, column) order on ties, as in PyTorch.
    """
    h, w = x.shape[2:4]
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    best = index = None
    for k in range(9):
        row, column = divmod(k, 3)
        part = x[:, :, row : row + h - 1 : 2, column : column + w - 1 : 2]
        if best is None:
            best, index = part, jnp.zeros(part.shape, jnp.int8)
        else:
            larger = part > best
            best, index = jnp.where(larger, part, best), jnp.where(larger, jnp.int8(k), index)
    return index


def max_unpool_3x3(x: jax.Array, index: jax.Array) -> jax.Array:
    """Puts each value where its maximum was, zeros elsewhere.

    Values `(B, T, H, W, C)`, and the indices of `max_indices_3x3`, of the same shape ->
    `(B, T, 2H, 2W, C)`. Windows overlap: where two have their maximum in one place, the later one's
    value stays, as in PyTorch on a CPU. Their derivatives are PyTorch's too: both take part in that
    of the place.
    """
    b, t, h, w, c = x.shape
    room = ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0))
    values, places = jnp.pad(x, room), jnp.pad(index, room, constant_values=-1)

    def plane(row, column):
        """Of one parity of rows and columns: what the windows beside it put there."""
        last = total = jnp.zeros((), x.dtype)
        for down in range(row + 1):  # 0: the window of that number, 1: the next
            for right in range(column + 1):
                place = 3 * (1 + row - 2 * down) + 1 + column - 2 * right
                at = (slice(None), slice(None), slice(down, down + h), slice(right, right + w))
                here = places[at] == place
                last = jnp.where(here, values[at], last)
                total = total + jnp.where(here, values[at], 0)
        return lax.stop_gradient(last) + (total - lax.stop_gradient(total))

    rows = [jnp.stack([plane(row, 0), plane(row, 1)], 4) for row in (0, 1)]
    return jnp.stack(rows, 3).reshape(b, t, 2 * h, 2 * w, c)
