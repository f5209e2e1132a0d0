"""Saliency metrics and the training loss; conventions in `stsa_jax.metrics.scores`."""

from stsa_jax.metrics.auc import auc_judd, auc_shuffled
from stsa_jax.metrics.scores import EPS, cc, information_gain, kl, nss, sim

__all__ = ['EPS', 'auc_judd', 'auc_shuffled', 'cc', 'information_gain', 'kl', 'nss', 'sim']
