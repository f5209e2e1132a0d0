"""Training losses (paper section III-E, equations 12-14): pure, one value per example.

`prediction` and `density` are `(B, H, W)`, non-negative, of any scale; both are divided by their
sums. eps is double precision's, as in the released code.
"""

import jax
import jax.numpy as jnp

EPS = 2.2204e-16


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


def _distribution(x):
    return x / x.sum(axis=(1, 2), keepdims=True)
