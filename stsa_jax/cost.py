"""What a config costs: see `stsa_jax.inference.cost`.

python -m stsa_jax.cost --config=configs/dhf1k.py
"""

from stsa_jax.errors import exit_cleanly
from stsa_jax.inference.cost import cost, main, multiply_adds, table, total

__all__ = ['cost', 'multiply_adds', 'table', 'total']

if __name__ == '__main__':
    exit_cleanly(main)
