"""Saving and loading training checkpoints; `weights` documents the layout of a folder."""

from stsa_jax.checkpoints.checkpointer import FOLDER, Checkpointer
from stsa_jax.checkpoints.meta import describe
from stsa_jax.checkpoints.weights import Weights, load_weights, save_weights, step_folder

__all__ = [
    'FOLDER',
    'Checkpointer',
    'Weights',
    'describe',
    'load_weights',
    'save_weights',
    'step_folder',
]
