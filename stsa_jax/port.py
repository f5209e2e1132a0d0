"""Weights between PyTorch, safetensors and our checkpoints, in any direction.

    python -m stsa_jax.port SOURCE DEST
    python -m stsa_jax.port --explain FILE
    python -m stsa_jax.port --compare A B

As a library, `from_torch` and `to_torch`: see `stsa_jax.weights.port`.
"""

from stsa_jax.errors import exit_cleanly
from stsa_jax.weights.port import from_torch, infer_config, parameter_count, recognise, to_torch
from stsa_jax.weights.port_command import main

__all__ = ['from_torch', 'infer_config', 'parameter_count', 'recognise', 'to_torch']

if __name__ == '__main__':
    exit_cleanly(main)
