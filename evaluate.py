"""Scores saliency models: `stsa-jax evaluate`, from a checkout.

    python evaluate.py --config=configs/dhf1k.py --workdir=runs/dhf1k

The code, more uses, and the files that it writes: stsa_jax/commands/evaluate.py.
"""

from stsa_jax.commands.evaluate import run
from stsa_jax.errors import exit_cleanly

if __name__ == '__main__':
    exit_cleanly(run)
