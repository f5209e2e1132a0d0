"""The training loss under its short name: see `stsa_jax.metrics.losses`."""

from stsa_jax.metrics.losses import cc, kl, saliency_loss

__all__ = ['cc', 'kl', 'saliency_loss']
