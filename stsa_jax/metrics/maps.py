"""Operations on maps `(B, H, W)` shared by all metrics: checks, scaling, sums."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from stsa_jax.errors import InputError

PIXELS = (-2, -1)


def as_maps(**maps: ArrayLike) -> list[jax.Array]:
    """Float arrays `(B, H, W)` of one shape; raises InputError that names an invalid argument."""
    first_name, first = None, None
    result = []
    for name, value in maps.items():
        shape = np.shape(value)
        if len(shape) != 3 or 0 in shape:
            raise InputError(
                f'{name} has shape {shape}, expected (batch, height, width), none of them 0; '
                'add the batch axis with x[None]'
            )
        if first is None:
            first_name, first = name, shape
        elif shape != first:
            raise InputError(
                f'{name} has shape {shape}, {first_name} has {first}: they must be equal; '
                'resize the prediction to the size of the ground truth, never the reverse'
            )
        if np.issubdtype(getattr(value, 'dtype', np.float32), np.complexfloating):
            raise InputError(f'{name} is complex, expected real values')
        result.append(jnp.asarray(value, dtype=jnp.result_type(float)))
    return result


def total(x: jax.Array) -> jax.Array:
    """Sum over the pixels, (B, 1, 1)."""
    return x.sum(axis=PIXELS, keepdims=True)


def mean(x: jax.Array) -> jax.Array:
    """Mean over the pixels, (B, 1, 1)."""
    return total(x) / (x.shape[-2] * x.shape[-1])


def varies(values: jax.Array) -> jax.Array:
    """Whether all values are finite and not all equal; over all axes."""
    low, high = values.min(), values.max()
    return jnp.isfinite(low) & jnp.isfinite(high) & (high > low)


def minmax_scaled(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x scaled to [0, 1], and whether that is possible, (B, 1, 1): finite and not constant."""
    low = x.min(axis=PIXELS, keepdims=True)
    high = x.max(axis=PIXELS, keepdims=True)
    ok = jnp.isfinite(low) & jnp.isfinite(high) & (high > low) & jnp.isfinite(high - low)
    return jnp.where(ok, x - low, 0) / jnp.where(ok, high - low, 1), ok


def distribution(x: jax.Array, minmax: bool = False) -> tuple[jax.Array, jax.Array]:
    """x divided by its sum, and whether that is possible: finite, not negative, not all zero."""
    if minmax:
        x, ok = minmax_scaled(x)
    else:
        low = x.min(axis=PIXELS, keepdims=True)
        high = x.max(axis=PIXELS, keepdims=True)
        ok = (low >= 0) & (high > 0) & jnp.isfinite(high)
        # By the maximum first, so that sums of very small or large maps stay in range.
        x = jnp.where(ok, x, 1) / jnp.where(ok, high, 1)
    return x / jnp.where(ok, total(x), 1), ok


def as_fixations(shape: tuple[int, ...], **fixations: ArrayLike) -> list[jax.Array]:
    """Each as bool `(B, H, W)` or int32 `(B, n)`; InputError that names an invalid argument."""
    result = []
    for name, value in fixations.items():
        value = value if isinstance(value, jax.Array) else np.asarray(value)
        found, dtype = value.shape, value.dtype
        positions = len(found) == 2 and found[0] == shape[0] and found[1] > 0
        if positions and not np.issubdtype(dtype, np.integer):
            raise InputError(f'{name} are positions of type {dtype}, expected integers')
        if not positions and found != shape:
            raise InputError(
                f'{name} has shape {found}, prediction has {shape}: expected a map of that '
                f'shape, or integer row-major positions ({shape[0]}, n), negative ones for none'
            )
        result.append(jnp.asarray(value, jnp.int32) if positions else value > 0)
    return result


def fixated_sum(x: jax.Array, fixations: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum of maps x over the fixated pixels, and their number; (B, 1, 1) each."""
    if fixations.ndim == 3:
        return total(jnp.where(fixations, x, 0)), fixations.sum(axis=PIXELS, keepdims=True)
    real = fixations >= 0
    values = jnp.where(real, values_at(x, fixations), 0)
    return values.sum(1)[:, None, None], real.sum(1)[:, None, None]


def values_at(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Values of maps x at row-major `positions` (B, n); undefined where they are negative."""
    return jnp.take_along_axis(x.reshape(len(x), -1), jnp.maximum(positions, 0), axis=1)


def as_positions(fixations: jax.Array, bound: int | None) -> tuple[ArrayLike, ArrayLike]:
    """Fixations as ascending positions (B, n), -1 beyond their number, and their number (B,).

    For a concrete map they are found on the host, and n is `bound` or as large as needed. Under a
    trace they are found on the device, and n is `bound` or the number of pixels.
    """
    if fixations.ndim == 2:
        last = jnp.iinfo(jnp.int32).max
        ordered = jnp.sort(jnp.where(fixations >= 0, fixations, last), axis=1)
        return jnp.where(ordered < last, ordered, -1), (fixations >= 0).sum(1)
    pixels = fixations.shape[1] * fixations.shape[2]
    flat = fixations.reshape(-1, pixels)
    if isinstance(flat, jax.core.Tracer):
        bound = min(bound or pixels, pixels)
        count = flat.sum(1)
        # top_k is fast for floats only; positions are exact in float32 up to 2^24 pixels.
        order = -jnp.arange(pixels, dtype=jnp.float32 if pixels < 2**24 else jnp.float64)
        found = lax.top_k(jnp.where(flat, order, -jnp.inf), bound)[1]
        return jnp.where(jnp.arange(bound) < count[:, None], found, -1), count
    listed = [np.flatnonzero(one) for one in np.asarray(flat)]
    return pad_positions(listed, bound), np.array([len(one) for one in listed])


def pad_positions(listed: Sequence[np.ndarray], bound: int | None = None) -> np.ndarray:
    """Lists of positions as int32 (B, n): n is `bound`, or the next power of two, at least 16.

    Padded with negative values. Powers of two keep the number of compilations small.
    """
    n = bound or power_of_two(max(map(len, listed)))
    result = np.full((len(listed), n), -1, np.int32)
    for row, one in zip(result, listed):
        row[: len(one)] = one[:n]
    return result


def power_of_two(number: int) -> int:
    """The next power of two, at least 16."""
    return 1 << (max(number, 16) - 1).bit_length()
