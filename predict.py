"""Predicts where people look in a video: `stsa-jax predict`, from a checkout.

    python predict.py --checkpoint=STSANet_DHF1K.pth --video=film.mp4 --output=runs/film

The code and the description of the options: stsa_jax/commands/predict.py.
"""

from stsa_jax.commands.predict import run
from stsa_jax.errors import exit_cleanly

if __name__ == '__main__':
    exit_cleanly(run)
