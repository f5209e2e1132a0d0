"""`python -m stsa_jax predict ...`: the command `stsa-jax`, where it is not installed."""

from stsa_jax.commands.main import console

if __name__ == '__main__':
    console()
