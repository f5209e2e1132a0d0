"""STSA-Net video saliency prediction in JAX.

Importing the package does no work: names are loaded on first use.

    model = stsa_jax.load('STSANet_DHF1K.pth')   # or .safetensors, or a checkpoint directory
    saliency = model(clip)                       # (B, 32, 224, 384, 3) -> (B, 224, 384) in [0, 1]
"""

import importlib

_WHERE = {
    'load': 'pretrained',
    'SaliencyModel': 'pretrained',
    'InputError': 'errors',
    'STSANet': 'stsanet',
    'STSANetConfig': 'stsanet',
    'S3D': 's3d',
    'S3DConfig': 's3d',
    'split': 'functional',
    'apply': 'functional',
}
__all__ = sorted(_WHERE)


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(importlib.import_module(f'stsa_jax.{_WHERE[name]}'), name)
    # Submodules too: `stsa_jax.metrics`, `stsa_jax.losses`, ...
    try:
        return importlib.import_module(f'stsa_jax.{name}')
    except ModuleNotFoundError as error:
        if error.name != f'stsa_jax.{name}':
            raise
        raise AttributeError(f'module stsa_jax has no attribute {name!r}') from None
