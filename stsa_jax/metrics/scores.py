"""Saliency metrics: pure, batched, exact JAX functions of whole maps.

Shapes: `prediction` P, `density` G, `fixations` F and `other_fixations` O are `(B, H, W)`, of one
size; every function returns `(B,)`. Any real type is accepted and computed in JAX's default float
(float32, or float64 under `jax.enable_x64`). Maps may have any positive scale (0..1, 0..255): every
score is invariant to it. A pixel of F or O is fixated, once, where it is > 0. F and O may also be
lists of the fixated pixels, integer `(B, n)`: distinct row-major positions, negative for none. This
is faster and needs no static bound under `jax.jit`.

The defaults match the DHF1K benchmark's MATLAB code (N pixels, Nf fixated):

    cc                Pearson correlation of P and G
    sim               sum of min(P', G'), each scaled to [0, 1], then divided by its sum
    nss               mean over F of (P - mean) / std, std with N - 1
    kl                sum of G' log(eps + G' / (P' + eps)), maps divided by their sums
    auc_judd          area under the ROC curve, thresholds at the fixated values; by sorting
    auc_shuffled      the same against fixations of other frames, thresholds 0 : 0.1 : 1
    information_gain  mean over F of log2 of P' against a baseline's, in bit

All but the two AUCs, which depend only on the order of values, are differentiable in P (sim almost
everywhere).

Undefined scores are NaN, for that example only, for the caller to drop and count; they are never
replaced by a value:

    any NaN or infinity in a map                     every score that uses the map
    constant prediction (one pixel is constant)      cc, sim, nss, auc_judd, auc_shuffled
    constant density                                 cc, sim
    negative values, or all zero                     kl, information_gain; sim with minmax=False
    no fixation                                      nss, auc_judd, auc_shuffled, information_gain
    every pixel fixated                              auc_judd
    no fixation in the other frames                  auc_shuffled

Gradients of an undefined score are zero, so that one such example does not spoil the batch.

Sources: Bylinskii et al., "What do different evaluation metrics tell us about saliency models?",
TPAMI 2019, and its MATLAB code, which the DHF1K benchmark (Wang et al., TPAMI 2021) uses.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stsa_jax.metrics.auc import auc_judd, auc_shuffled
from stsa_jax.metrics.maps import (
    as_fixations,
    as_maps,
    distribution,
    fixated_sum,
    mean,
    minmax_scaled,
    total,
)

__all__ = ['auc_judd', 'auc_shuffled', 'cc', 'information_gain', 'kl', 'nss', 'sim']

EPS = 2.2204e-16  # as the MATLAB and the released STSA-Net code write it


@jax.jit
def cc(prediction: ArrayLike, density: ArrayLike) -> jax.Array:
    """Linear correlation coefficient of prediction and density `(B, H, W)` -> `(B,)` in [-1, 1].

    Higher is better. NaN where a map is constant or not finite. Raises InputError on shapes.
    """
    prediction, density = as_maps(prediction=prediction, density=density)
    p, p_ok = minmax_scaled(prediction)
    g, g_ok = minmax_scaled(density)
    p, g = p - mean(p), g - mean(g)
    ok = p_ok & g_ok
    norm = jnp.where(ok, total(p * p) * total(g * g), 1)
    return jnp.where(ok, total(p * g) / jnp.sqrt(norm), jnp.nan)[:, 0, 0]


@partial(jax.jit, static_argnames='minmax')
def sim(prediction: ArrayLike, density: ArrayLike, *, minmax: bool = True) -> jax.Array:
    """Similarity (histogram intersection) of two maps `(B, H, W)` -> `(B,)` in [0, 1].

    `minmax=True` scales each map to [0, 1] before dividing by its sum, as in the benchmark; False
    only divides, as in pysaliency. Higher is better. Raises InputError on shapes.
    """
    prediction, density = as_maps(prediction=prediction, density=density)
    p, p_ok = distribution(prediction, minmax)
    g, g_ok = distribution(density, minmax)
    return jnp.where(p_ok & g_ok, total(jnp.minimum(p, g)), jnp.nan)[:, 0, 0]


@partial(jax.jit, static_argnames='ddof')
def nss(prediction: ArrayLike, fixations: ArrayLike, *, ddof: int = 1) -> jax.Array:
    """Normalised scanpath saliency: mean standardised prediction over the fixations -> `(B,)`.

    `ddof=1` uses the standard deviation with N - 1 (benchmark), 0 with N (pysaliency); the ratio is
    sqrt(N / (N - 1)). Higher is better, 0 is chance. Raises InputError on shapes.
    """
    (prediction,) = as_maps(prediction=prediction)
    (fixations,) = as_fixations(prediction.shape, fixations=fixations)
    p, ok = minmax_scaled(prediction)
    p = p - mean(p)
    at_fixations, count = fixated_sum(p, fixations)
    ok = ok & (count > 0)
    variance = jnp.where(ok, total(p * p) / max(p[0].size - ddof, 1), 1)
    return jnp.where(ok, at_fixations / jnp.maximum(count, 1) / jnp.sqrt(variance), jnp.nan)[
        :, 0, 0
    ]


@jax.jit
def kl(prediction: ArrayLike, density: ArrayLike, *, eps: float = EPS) -> jax.Array:
    """Kullback-Leibler divergence of the density from the prediction `(B, H, W)` -> `(B,)`, in nat.

    Lower is better, 0 is perfect (up to eps). Raises InputError on shapes.
    """
    prediction, density = as_maps(prediction=prediction, density=density)
    p, p_ok = distribution(prediction)
    g, g_ok = distribution(density)
    return jnp.where(p_ok & g_ok, total(g * jnp.log(eps + g / (p + eps))), jnp.nan)[:, 0, 0]


@partial(jax.jit, static_argnames='minmax')
def information_gain(
    prediction: ArrayLike,
    fixations: ArrayLike,
    baseline: ArrayLike,
    *,
    eps: float = EPS,
    minmax: bool = False,
) -> jax.Array:
    """Mean log-likelihood gain over `baseline` at the fixations `(B, H, W)` -> `(B,)`, bit.

    Prediction and baseline are divided by their sums; `minmax=True` first scales each to [0, 1], as
    in the MATLAB code (then a map's minimum has probability 0 and a fixation there costs 52 bit).
    Higher is better, 0 is the baseline. Raises InputError on shapes.
    """
    prediction, baseline = as_maps(prediction=prediction, baseline=baseline)
    (fixations,) = as_fixations(prediction.shape, fixations=fixations)
    p, p_ok = distribution(prediction, minmax)
    b, b_ok = distribution(baseline, minmax)
    gain, count = fixated_sum(jnp.log2(eps + p) - jnp.log2(eps + b), fixations)
    ok = p_ok & b_ok & (count > 0)
    return jnp.where(ok, gain / jnp.maximum(count, 1), jnp.nan)[:, 0, 0]
