"""Trains a model: `stsa-jax train`, from a checkout.

    python train.py --config=configs/dhf1k.py --workdir=runs/dhf1k [--config.batch_size=8]

The same command resumes an interrupted run, exactly as if it had not been interrupted. The code and
the files that it writes: stsa_jax/commands/train.py.
"""

from stsa_jax.commands.train import main, train
from stsa_jax.errors import exit_cleanly

__all__ = ['main', 'train']

if __name__ == '__main__':
    exit_cleanly(main)
