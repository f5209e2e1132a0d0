"""The two AUC metrics, exact and without a threshold for every pixel.

Only the values at the few fixations matter as thresholds: they are extracted and sorted, and every
pixel is located between two of them. See `metrics` for the conventions; both functions are part of
its interface.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from stsa_jax.errors import InputError
from stsa_jax.metrics.maps import as_fixations, as_maps, as_positions, values_at, varies

_UNROLLED = 128  # largest number of thresholds that are compared one by one


def auc_judd(
    prediction: ArrayLike,
    fixations: ArrayLike,
    *,
    ties: str = 'order',
    max_fixations: int | None = None,
) -> jax.Array:
    """Area under the ROC curve of fixated against other pixels `(B, H, W)` -> `(B,)` in [0, 1].

    Exact for any number of values. With thresholds t_i, the fixated values in descending order, the
    curve joins (0, 0), (fp_i, tp_i = i / Nf) and (1, 1) by straight lines, where `fp_i = (#{P >=
    t_i} - i) / (N - Nf)`. `ties` defines the handling of equal values:

    - 'order': the literal definition. All pixels equal to a fixated one count as false alarms.
    - 'expected': the mean over random orders of equal values, in closed form. This is the
      expectation of what the MATLAB code computes when it first adds noise of 1e-7 to an 8-bit map
      ("jitter"): the same score without its randomness.
    - 'half': the probability that a fixated pixel exceeds another one, equal ones counting one half
      (Mann-Whitney; pysaliency's AUC with `nonfixations='unfixated'`). Unlike the two above it does
      not gain from joining few points by straight lines, an effect of up to 1 / (2 Nf).

    `max_fixations` is a static upper bound on Nf for maps of fixations. If None, it is taken from
    the data if they are concrete; under `jit` without it the result is right but ten times slower.
    An example with more fixations than the bound is undefined. Raises InputError on shapes or an
    unknown `ties`.
    """
    if ties not in (*_JUDD_AREA, 'half'):
        raise InputError(f'ties={ties!r}: expected one of {sorted((*_JUDD_AREA, "half"))}')
    (prediction,) = as_maps(prediction=prediction)
    (fixations,) = as_fixations(prediction.shape, fixations=fixations)
    return _auc_judd(prediction, *as_positions(fixations, max_fixations), ties=ties)


def auc_shuffled(
    prediction: ArrayLike,
    fixations: ArrayLike,
    other_fixations: ArrayLike,
    *,
    key: jax.Array | None = None,
    subsets: ArrayLike | None = None,
    num_subsets: int = 100,
    step: float | None = 0.1,
    max_fixations: int | None = None,
    max_other: int | None = None,
) -> jax.Array:
    """AUC of the fixations against `other_fixations` of other frames `(B, H, W)` -> `(B,)`.

    As in the benchmark: P scaled to [0, 1]; thresholds 0 : step : 1; the mean over `num_subsets`
    random subsets of min(Nf, No) of the No other fixations, drawn with the PRNG keys `key` `(B,)`.
    A draw depends only on its example's key and fixations, not on the batch or the bounds.
    Alternatively the caller gives the draw, `subsets` `(B, S, n)`: indices into the row-major list
    of the other fixations, negative for none.

    `step=None` is exact and draws nothing: every other fixation is a negative, every value a
    threshold, ties count one half (pysaliency).

    `max_fixations`, `max_other`: static bounds as in `auc_judd`. Raises InputError on shapes, or if
    a draw is needed and neither `key` nor `subsets` is given.
    """
    (prediction,) = as_maps(prediction=prediction)
    fixations, other = as_fixations(
        prediction.shape, fixations=fixations, other_fixations=other_fixations
    )
    if step is not None and (key is None) == (subsets is None):
        raise InputError('auc_shuffled: give either key= (B,) PRNG keys or subsets= (B, S, n)')
    return _auc_shuffled(
        prediction,
        as_positions(fixations, max_fixations),
        as_positions(other, max_other),
        key if step is not None else None,
        jnp.asarray(subsets, jnp.int32) if subsets is not None else None,
        num_subsets=num_subsets,
        step=step,
    )


@partial(jax.jit, static_argnames='ties')
def _auc_judd(prediction, positions, count, *, ties):
    thresholds = jnp.where(positions >= 0, values_at(prediction, positions), -jnp.inf)
    return jax.vmap(partial(_auc_judd_one, ties=ties))(prediction, thresholds, count)


def _auc_judd_one(prediction, thresholds, count, *, ties):
    """One example of `auc_judd`; (H, W) and the fixated values (n,) -> ()."""
    values, bound = prediction.reshape(-1), thresholds.size
    ascending = jnp.sort(thresholds)
    ok = varies(values) & (count > 0) & (count < values.size) & (count <= bound)
    if ties == 'half':
        return jnp.where(ok, _mann_whitney_area(prediction, ascending, count), jnp.nan)
    thresholds = ascending[::-1]
    # A histogram of the pixels' places gives #{P > t} and #{P = t} for all t in one pass.
    histogram = jnp.zeros(2 * bound + 1, jnp.int32).at[_place(values, ascending)].add(1)
    at_or_above = jnp.cumsum(histogram[::-1])[::-1]
    # The place of a threshold itself, and of the values just above it.
    upper = jnp.searchsorted(ascending, thresholds, side='right')
    lower = jnp.searchsorted(ascending, thresholds, side='left')
    tied = histogram[upper + lower]
    above = at_or_above[jnp.minimum(upper + lower + 1, 2 * bound)]
    above = jnp.where(upper + lower + 1 > 2 * bound, 0, above)
    area = _JUDD_AREA[ties](thresholds, count, above, tied, values.size)
    return jnp.where(ok, area, jnp.nan)


def _place(values, ascending):
    """For each value the number of thresholds <= it plus the number of thresholds < it.

    Even between two thresholds (twice their rank); for a value that equals f of them, the sum of
    the ranks below and above.
    """
    if ascending.size > _UNROLLED:
        upper = jnp.searchsorted(ascending, values, side='right')
        return upper + jnp.searchsorted(ascending, values, side='left')
    place = jnp.zeros(values.shape, jnp.int32)
    for i in range(ascending.size):  # one vectorised pass, five times faster than searching
        place += (values >= ascending[i]).astype(jnp.int32)
        place += (values > ascending[i]).astype(jnp.int32)
    return place


def _judd_area_order(thresholds, count, above, tied, pixels):
    """The trapezoids through (fp_i, tp_i), with all equal values counted at each of them."""
    i = jnp.arange(1, thresholds.size + 1)
    real = i <= count
    tp = i / jnp.maximum(count, 1)
    fp = jnp.where(real, above + tied - i, 0) / jnp.maximum(pixels - count, 1)
    fp_before = jnp.concatenate([jnp.zeros(1, fp.dtype), fp[:-1]])
    trapezoids = (fp - fp_before) * (2 * i - 1) / jnp.maximum(2 * count, 1)
    last = fp[jnp.clip(count - 1, 0, thresholds.size - 1)]
    return jnp.where(real, trapezoids, 0).sum() + (1 - last) * tp[jnp.maximum(count - 1, 0)]


def _judd_area_expected(thresholds, count, above, tied, pixels):
    """The mean over random orders of equal values.

    A non-fixated pixel below `a` of the Nf fixated ones adds (a + 1/2) / Nf to the sum of the
    trapezoids, or 1 if it is below all. Among f equal fixated ones a non-fixated equal pixel is
    below 0..f of them with equal probability, so the sum over it needs no sampling.
    """
    first, group, higher, background, between = _groups(thresholds, count, above, tied)
    lowest = higher + group == count
    # Mean over j = 0..f of (higher + j + 1/2) / Nf; in the lowest group j = f adds 1 instead.
    inside = (higher + group / 2 + 0.5) / jnp.maximum(count, 1)
    inside -= jnp.where(lowest, 0.5 / jnp.maximum(count, 1) / (group + 1), 0)
    outside = (higher + 0.5) / jnp.maximum(count, 1)
    return _per_background(
        first, background * inside + between * outside, above, tied, count, pixels
    )


def _mann_whitney_area(prediction, ascending, count):
    """Ties count half, which needs no histogram: the sum of the places suffices.

    Over all pixels a place sums #{P >= t} + #{P > t} over the thresholds; padding thresholds are
    below every pixel. The fixated pixels compare with each other as count^2 / 2 wins.
    """
    pixels, padding = prediction.size, ascending.size - count
    # Subtract the padding as integers: a float would lose precision with much padding.
    places = (_place(prediction, ascending) - 2 * padding).astype(prediction.dtype)
    # A product with ones sums a row exactly, and fast.
    rows = places @ jnp.ones(places.shape[-1], places.dtype)
    real = count.astype(prediction.dtype)
    not_above = rows.sum() / 2 / jnp.maximum(real, 1)
    return (pixels - not_above - real / 2) / jnp.maximum(pixels - real, 1)


_JUDD_AREA = {
    'order': _judd_area_order,
    'expected': _judd_area_expected,
}


def _groups(thresholds, count, above, tied):
    """Groups of equal thresholds; values are valid at the first of each.

    Returns: whether it is the first; the group's size f; the number of higher fixations; the
    non-fixated pixels equal to it; and those between it and the next higher group.
    """
    i = jnp.arange(thresholds.size)
    before = jnp.concatenate([jnp.full(1, jnp.inf, thresholds.dtype), thresholds[:-1]])
    first = (i < count) & ((thresholds != before) | (i == 0))
    group = jnp.searchsorted(-thresholds, -thresholds, side='right') - i
    background = tied - group
    # Non-fixated pixels at or above the previous group: those above its values plus those equal.
    at_previous = jnp.where(i == 0, 0, jnp.roll(above + tied, 1) - i)
    between = above - i - at_previous
    return first, group, i, background, between


def _per_background(first, terms, above, tied, count, pixels):
    """Mean over the non-fixated pixels: the groups' terms, and 1 for those below every fixation."""
    background = jnp.maximum(pixels - count, 1)
    end = jnp.clip(count - 1, 0, terms.size - 1)
    below = pixels - above[end] - tied[end]
    return (jnp.where(first, terms, 0).sum() + below) / background


@partial(jax.jit, static_argnames=('num_subsets', 'step'))
def _auc_shuffled(prediction, fixations, other, key, subsets, **static):
    (positions, count), (other_positions, other_count) = fixations, other
    positives = jnp.where(positions >= 0, values_at(prediction, positions), -jnp.inf)
    negatives = jnp.where(other_positions >= 0, values_at(prediction, other_positions), -jnp.inf)
    # A None argument has no batch axis and is passed on.
    return jax.vmap(partial(_auc_shuffled_one, **static))(
        prediction, positives, count, negatives, other_count, key, subsets
    )


def _auc_shuffled_one(
    values, positives, count, negatives, other_count, key, subsets, *, num_subsets, step
):
    """One example of `auc_shuffled`; (H, W) and the values at fixations, -inf beyond -> ()."""
    bound, other_bound = positives.size, negatives.size
    ok = varies(values) & (count > 0) & (other_count > 0)
    ok &= (count <= bound) & (other_count <= other_bound)
    if step is None:
        area = _mann_whitney(positives, negatives, count, other_count)
        return jnp.where(ok, area, jnp.nan)
    low, span = values.min(), jnp.where(ok, values.max() - values.min(), 1)
    positives, negatives = (positives - low) / span, (negatives - low) / span
    if subsets is None:
        subsets = _draw(key, count, other_count, num_subsets, bound, other_bound)
    drawn = negatives[jnp.maximum(subsets, 0)]  # (S, n)
    real = subsets >= 0
    thresholds = _threshold_grid(step, values.dtype)  # (T,) descending from 1 to 0
    tp = (positives[:, None] >= thresholds).sum(0) / jnp.maximum(count, 1)
    hits = ((drawn[..., None] >= thresholds) & real[..., None]).sum(1)  # (S, T)
    fp = hits / jnp.maximum(real.sum(1, keepdims=True), 1)
    areas = (jnp.diff(fp, axis=1) * (tp[1:] + tp[:-1]) / 2).sum(1) + fp[:, 0] * tp[0] / 2
    return jnp.where(ok, areas.mean(), jnp.nan)


def _draw(key, count, other_count, num_subsets, bound, other_bound):
    """(S, n) random subsets of min(count, other_count) of the other fixations; -1 pads.

    The noise of candidate m comes from `fold_in(key, m)`, so that the padding does not change it.
    """
    candidates = jnp.arange(other_bound)
    noise = jax.vmap(lambda m: jax.random.uniform(jax.random.fold_in(key, m), (num_subsets,)))(
        candidates
    )
    noise = jnp.where(candidates < other_count, noise.T, -1)
    _, chosen = lax.top_k(noise, min(bound, other_bound))
    wanted = jnp.minimum(count, other_count)
    return jnp.where(jnp.arange(chosen.shape[1]) < wanted, chosen, -1)


def _threshold_grid(step, dtype):
    """1 ... 2 step, step, 0 in `dtype`; comparisons with 8-bit levels give the same as in float64.

    The double 6 * 0.1 is just above 153 / 255, so this level is below it. Rounded to float32 they
    are equal, so the threshold is raised by one unit.
    """
    grid = np.arange(int(np.floor(1 / step + 1e-9)), -1, -1, dtype=np.float64) * step
    rounded = grid.astype(dtype)
    above = grid > np.round(grid, 12)
    return jnp.asarray(np.where(above, np.nextafter(rounded, np.array(2, dtype)), rounded))


def _mann_whitney(positives, negatives, count, other_count):
    """P(positive > negative) + P(equal) / 2; both padded with -inf."""
    ordered = jnp.sort(negatives)
    padding = negatives.size - other_count
    lower = jnp.searchsorted(ordered, positives, side='left') - padding
    upper = jnp.searchsorted(ordered, positives, side='right') - padding
    wins = jnp.where(jnp.arange(positives.size) < count, (lower + upper) / 2, 0).sum()
    return wins / jnp.maximum(count, 1) / jnp.maximum(other_count, 1)
