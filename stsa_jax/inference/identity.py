"""A fingerprint of a model, to recognise its own output."""

import hashlib
from typing import Any

import jax
import numpy as np


def identity_of(model: Any) -> str:
    """A digest of a model's config and, where it has any, its weights."""
    digest = hashlib.sha256(repr(model.config).encode())
    weights = getattr(model, 'params', {}), getattr(model, 'batch_stats', {})
    for leaf in jax.tree.leaves(weights):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:24]
