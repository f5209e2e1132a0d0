"""Training losses: pure, one value per example.

`prediction` and `density` are `(B, H, W)`, non-negative, of any scale; both are divided by their
sums. eps is double precision's, as in the released code. KL - CC is STSA-Net's loss (paper section
III-E, equations 12-14); ViNet, HD2S and tinyHD are trained with KL, TASED-Net with KL of a batch,
UNISAL with KL, NSS and CC, SalEMA with binary cross entropy. The losses of `NEED_FIXATIONS` take
fixation maps as a third argument, `(B, H, W)` with 1 where somebody looked.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

EPS = 2.2204e-16
TINY = 1e-37


def kl(prediction: jax.Array, density: jax.Array) -> jax.Array:
    """Kullback-Leibler divergence (equation 13): sum of G log(eps + G / (S + eps)), `(B,)`."""
    s, g = _distribution(prediction), _distribution(density)
    return (g * jnp.log(EPS + g / (s + EPS))).sum(axis=(1, 2))


def cc(prediction: jax.Array, density: jax.Array) -> jax.Array:
    """Linear correlation (equation 14), `(B,)`; 0 where either map is constant."""
    s, g = (x - x.mean(axis=(1, 2), keepdims=True) for x in (prediction, density))
    covariance = (s * g).sum(axis=(1, 2))
    power = (s * s).sum(axis=(1, 2)) * (g * g).sum(axis=(1, 2))
    return jnp.where(power > 0, covariance / jnp.sqrt(jnp.where(power > 0, power, 1)), 0)


def saliency_loss(prediction: jax.Array, density: jax.Array) -> jax.Array:
    """KL - CC (equation 12), `(B,)`."""
    return kl(prediction, density) - cc(prediction, density)


def kl_of_batch(prediction: jax.Array, density: jax.Array) -> jax.Array:
    """KL divergence of a batch taken as one distribution, `(B,)`: each example's part, times B.

    Their mean is the loss of TASED-Net's released code (`loss.py`), whose sums run over the maps of
    the whole batch, so that an example with more density counts more.
    """
    s, g = prediction / prediction.sum(), density / density.sum()
    return len(g) * (g * jnp.log(EPS + g / (s + EPS))).sum(axis=(1, 2))


def nss(prediction: jax.Array, fixations: jax.Array) -> jax.Array:
    """Mean at the fixations of the map with mean 0 and deviation 1, `(B,)`; 0 without fixations."""
    axes = (1, 2)
    s = prediction - prediction.mean(axes, keepdims=True)
    pixels = s[0].size
    variance = (s * s).sum(axes) / (pixels - 1)
    count = fixations.sum(axes)
    seen = (s * fixations).sum(axes) / jnp.maximum(count, 1)
    good = (variance > 0) & (count > 0)
    return jnp.where(good, seen / jnp.sqrt(jnp.where(good, variance, 1)), 0)


def kl_nss_cc(prediction: jax.Array, density: jax.Array, fixations: jax.Array) -> jax.Array:
    """KL - 0.1 NSS - 0.1 CC, `(B,)`: UNISAL's (its `Trainer`, `loss_weights`)."""
    likeness = nss(prediction, fixations) + cc(prediction, density)
    return kl(prediction, density) - 0.1 * likeness


def bce(prediction: jax.Array, density: jax.Array) -> jax.Array:
    """Binary cross entropy of a map in [0, 1] and the density from 0 to 1, `(B,)`: SalEMA's.

    Logarithms are at least -100, as in PyTorch.
    """
    axes = (1, 2)
    low, high = (f(density, axes, keepdims=True) for f in (jnp.min, jnp.max))
    g = (density - low) / jnp.where(high > low, high - low, 1)
    log = lambda x: jnp.where(x > TINY, jnp.log(jnp.maximum(x, TINY)), -100)  # noqa: E731
    return -(g * log(prediction) + (1 - g) * log(1 - prediction)).mean(axes)


Loss = Callable[..., jax.Array]
# By their names in a training config.
NAMED: dict[str, Loss] = {
    'kl_cc': saliency_loss,
    'kl': kl,
    'kl_of_batch': kl_of_batch,
    'kl_nss_cc': kl_nss_cc,
    'bce': bce,
}
NEED_FIXATIONS = frozenset({'kl_nss_cc'})


def over_frames(
    loss: Loss, prediction: jax.Array, density: jax.Array, *fixations: jax.Array
) -> jax.Array:
    """`loss` of maps `(B, H, W)`, or its mean over the frames of `(B, T, H, W)`; `(B,)`.

    Frames without any density, which have no viewer, do not count. `fixations`: one array of the
    shape of `density`, for a loss that needs it.
    """
    if prediction.ndim == 3:
        return loss(prediction, density, *fixations)
    b, t, h, w = prediction.shape
    maps = density.reshape(b * t, h, w)
    seen = (maps > 0).any(axis=(1, 2))
    maps = jnp.where(seen[:, None, None], maps, 1)
    marks = [x.reshape(b * t, h, w) for x in fixations]
    values = jnp.where(seen, loss(prediction.reshape(b * t, h, w), maps, *marks), 0)
    return values.reshape(b, t).sum(1) / jnp.maximum(seen.reshape(b, t).sum(1), 1)


def _distribution(x):
    return x / x.sum(axis=(1, 2), keepdims=True)
