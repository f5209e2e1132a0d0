"""STSA-Net video saliency prediction in JAX.

Importing the package is cheap: names are loaded on first use.

    model = stsa_jax.load('STSANet_DHF1K.pth')   # or .safetensors, or a checkpoint directory
    saliency = model(clip)                       # (B, 32, 224, 384, 3) -> (B, 224, 384) in [0, 1]

The packages, bottom up; each imports only from those above it in this list. `make lint` checks
this, and docs/architecture.md lists the packages of the whole project.

    errors, lock, files, remote, mirror, configuration   the basis of all others
    ops            operations in plain JAX that match PyTorch's numbers; ops.cpu, their CPU forms
    models         the networks, as pure functions of parameters
    metrics        saliency scores, and the training loss
    media          video files, frames and images; no model
    distribution   the device mesh, and several processes
    checkpoints    what training saves
    weights        PyTorch's names and files -> parameters -> a model ready to use
    training       the run: step, optimizer, validation, reports
    inference      windows over a video, attention maps, classification, cost
    evaluation     protocols, scoring, tables
    serving        a web server that predicts videos
    commands       `stsa-jax predict`, `train`, ...: what reads a command line
"""

import importlib

__version__ = '0.2.0'  # the one source: pyproject.toml and the command read it here

_WHERE = {
    'load': 'weights.pretrained',
    'SaliencyModel': 'weights.pretrained',
    'InputError': 'errors',
    'STSANet': 'models.stsanet',
    'STSANetConfig': 'models.stsanet',
    'S3D': 'models.s3d',
    'S3DConfig': 'models.s3d',
    'split': 'models.functional',
    'apply': 'models.functional',
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
        if name == 'data':  # part of the package in a wheel only, see setup.py
            return importlib.import_module(name)
        raise AttributeError(f'module stsa_jax has no attribute {name!r}') from None
