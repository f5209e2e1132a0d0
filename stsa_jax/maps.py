"""What all metrics do to their maps `(B, H, W)` first: checking, scaling, summing."""

import jax.numpy as jnp
import numpy as np

from stsa_jax.errors import InputError

PIXELS = (-2, -1)


def as_maps(**maps):
    """Float arrays `(B, H, W)` of one shape, or InputError naming the argument that is not."""
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
                'resize the prediction to the size of the ground truth, never the other way'
            )
        if np.issubdtype(getattr(value, 'dtype', np.float32), np.complexfloating):
            raise InputError(f'{name} is complex, expected real values')
        result.append(jnp.asarray(value, dtype=jnp.result_type(float)))
    return result


def total(x):
    """Sum over the pixels, (B, 1, 1)."""
    return x.sum(axis=PIXELS, keepdims=True)


def mean(x):
    """Mean over the pixels, (B, 1, 1)."""
    return total(x) / (x.shape[-2] * x.shape[-1])


def varies(values):
    """Whether all values are finite and not all equal; over all axes."""
    low, high = values.min(), values.max()
    return jnp.isfinite(low) & jnp.isfinite(high) & (high > low)


def minmax_scaled(x):
    """x scaled to [0, 1] and whether it could be, (B, 1, 1): finite and not constant."""
    low = x.min(axis=PIXELS, keepdims=True)
    high = x.max(axis=PIXELS, keepdims=True)
    ok = jnp.isfinite(low) & jnp.isfinite(high) & (high > low) & jnp.isfinite(high - low)
    return jnp.where(ok, x - low, 0) / jnp.where(ok, high - low, 1), ok


def distribution(x, minmax: bool = False):
    """x divided by its sum and whether it could be: finite, not negative, not all zero."""
    if minmax:
        x, ok = minmax_scaled(x)
    else:
        low = x.min(axis=PIXELS, keepdims=True)
        high = x.max(axis=PIXELS, keepdims=True)
        ok = (low >= 0) & (high > 0) & jnp.isfinite(high)
        # By the maximum first: sums of very small or large maps stay within the type's range.
        x = jnp.where(ok, x, 1) / jnp.where(ok, high, 1)
    return x / jnp.where(ok, total(x), 1), ok


def fixated_pixels(fixations):
    """Where pixels are fixated, and how many per example, (B, 1, 1)."""
    fixated = fixations > 0
    return fixated, fixated.sum(axis=PIXELS, keepdims=True)
