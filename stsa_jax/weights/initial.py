"""The initial weights of a training run.

New weights follow PyTorch's default initialisation, as in the reference: kernels and biases of
convolutions uniform in +-1/sqrt(fan_in), normalisation scales one and biases zero, running
variances one. They are drawn with numpy on the host. The model's constructor draws the same
distributions with one compiled program per shape, which takes minutes for the hundreds of shapes of
STSA-Net.
"""

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from stsa_jax.errors import InputError
from stsa_jax.models import functional
from stsa_jax.models.unisal import INITIAL
from stsa_jax.remote import local
from stsa_jax.weights import known


def initial_weights(config: Any, seed: int = 0, init_from: str = '') -> tuple:
    """(graphdef, params, batch_stats) of a model to train, the arrays as numpy on the host.

    Args:
        config: STSANetConfig, or another model's.
        seed: of the random weights; each array depends only on the seed and its name.
        init_from: '' for random weights, or a path: S3D's weights fill the backbone, the model's
            own the whole of it; a .pth, .pt or .safetensors file, or a folder with checkpoints.

    Raises InputError if `init_from` does not exist, is damaged, or does not fit the config.
    """
    graphdef, params, batch_stats = functional.abstract(known.of_config(config).module, config)
    if init_from:
        from stsa_jax.weights import pretrained

        init_from = str(Path(local(init_from)).expanduser())
        if not Path(init_from).exists():
            raise InputError(
                f'config.init_from={init_from}: there is no such file or folder. The recipes start '
                "from S3D's weights trained on Kinetics-400 (S3D_kinetics400.pt, from "
                "https://github.com/kylemin/S3D; torchvision's work too) or, to fine-tune, from a "
                "run of configs/dhf1k.py or STSA-Net's released weights. Give their path with "
                '--config.init_from=PATH, or train from random weights with --config.init_from= '
                '--config.model.batch_norm_momentum=0.1'
            )
        return graphdef, *pretrained.initialise(init_from, config, seed)
    return graphdef, *random_weights(params, batch_stats, seed)


def random_weights(params: dict, batch_stats: dict, seed: int = 0) -> tuple[dict, dict]:
    """Draws weights for the shapes of `params` and `batch_stats`."""
    shapes = traverse_util.flatten_dict(params)
    drawn = {path: _draw(path, array.shape, shapes, seed) for path, array in shapes.items()}
    statistics = {
        path: np.full(array.shape, path[-1] == 'var', array.dtype)
        for path, array in traverse_util.flatten_dict(batch_stats).items()
    }
    return traverse_util.unflatten_dict(drawn), traverse_util.unflatten_dict(statistics)


def _draw(path: tuple, shape: tuple, shapes: dict, seed: int) -> np.ndarray:
    if path[-1] in INITIAL:
        return INITIAL[path[-1]]
    normalised = (*path[:-1], 'scale') in shapes  # the bias then belongs to the normalisation
    if path[-1] == 'kernel' or (path[-1] == 'bias' and not normalised):
        kernel = shapes[(*path[:-1], 'kernel')].shape  # (kt, kh, kw, in, out)
        bound = 1 / math.sqrt(math.prod(kernel[:-1]))
        rng = np.random.default_rng([seed, zlib.crc32('/'.join(path).encode())])
        return ((2 * rng.random(shape, np.float32) - 1) * np.float32(bound)).astype(np.float32)
    return np.full(shape, path[-1] == 'scale', np.float32)
