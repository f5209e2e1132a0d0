"""The training losses under their short names: see `stsa_jax.metrics.losses`."""

from stsa_jax.metrics.losses import cc, kl, kl_of_batch, over_frames, saliency_loss

__all__ = ['cc', 'kl', 'kl_of_batch', 'over_frames', 'saliency_loss']
