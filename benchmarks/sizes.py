"""Runs every input size and clip length of the docs with a very narrow model.

    python -m benchmarks.sizes [--memory]

Weights of 224x384 and 32 frames, at 1/16 of the width, are written to a file and loaded for each of
four sizes and three lengths, which resamples them; each model predicts a random clip. Then one
gradient is computed in train mode at the largest size. With --memory one clip at full width is also
compiled, without running it, for XLA's memory analysis. The narrow model is compiled without
optimisation, because its speed does not matter.
"""

import argparse
import dataclasses
import functools
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util
from tqdm import tqdm

import stsa_jax
from stsa_jax import STSANet, STSANetConfig
from stsa_jax.checkpoints.weights import Weights
from stsa_jax.inference import cost
from stsa_jax.media.preprocess import IMAGENET
from stsa_jax.metrics import losses
from stsa_jax.models import functional
from stsa_jax.ops import cpu
from stsa_jax.weights import pretrained
from stsa_jax.weights.initial import random_weights

SIZES = ((112, 192), (224, 384), (288, 512), (448, 768))
LENGTHS = (16, 32, 64)
NARROW = STSANetConfig(width=0.0625)
QUICK = {'xla_backend_optimization_level': 0}  # halves the compile time


def write_weights(folder) -> Path:
    """A weight file of NARROW; its LayerNorms are not constant, so that resampling matters."""
    params, batch_stats = random_weights(*functional.abstract(STSANet, NARROW)[1:])
    rng = np.random.default_rng(0)
    flat = traverse_util.flatten_dict(params)
    for path in [path for path in flat if path[-2] == 'norm']:
        flat[path] = rng.uniform(0.5, 1.5, flat[path].shape).astype(np.float32)
    params = traverse_util.unflatten_dict(flat)
    file = Path(folder) / 'narrow.safetensors'
    weights = Weights('stsanet', dataclasses.asdict(NARROW), params, batch_stats, IMAGENET)
    pretrained.save(file, weights)
    return file


def inputs(config: STSANetConfig) -> tuple[np.ndarray, np.ndarray]:
    """A random clip `(1, T, H, W, 3)` and a density map `(1, H, W)`."""
    rng = np.random.default_rng(0)
    clip = rng.normal(size=(1, config.frames, *config.image_size, 3)).astype(np.float32)
    return clip, rng.random((1, *config.image_size), np.float32)


def predict(file, image_size: tuple[int, int], frames: int) -> np.ndarray:
    """The map `(1, H, W)` of a random clip, with the weights of `file`, resampled on loading."""
    model = stsa_jax.load(file, image_size=image_size, frames=frames)
    arguments = model.params, model.batch_stats, inputs(model.config)[0]
    run = jax.jit(functools.partial(functional.apply, model.graphdef))
    return np.asarray(run.lower(*arguments).compile(compiler_options=QUICK)(*arguments))


def gradient(file, image_size: tuple[int, int], frames: int) -> dict[tuple, np.ndarray]:
    """The gradient of the loss of a random clip in train mode, by the names of the parameters."""
    model = stsa_jax.load(file, image_size=image_size, frames=frames)
    clip, density = inputs(model.config)

    def loss(params):
        saliency, _ = functional.apply(model.graphdef, params, model.batch_stats, clip, train=True)
        return losses.saliency_loss(saliency, density).mean()

    run = jax.jit(jax.grad(loss)).lower(model.params).compile(compiler_options=QUICK)
    return traverse_util.flatten_dict(jax.device_get(run(model.params)))


def main() -> None:
    """The command line; fails if a map or the gradient is not finite, or a map is constant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--memory', action='store_true', help="also XLA's memory analysis at full width"
    )
    options = parser.parse_args()
    every = [(size, frames) for size in SIZES for frames in LENGTHS]
    with tempfile.TemporaryDirectory() as folder:
        file = write_weights(folder)
        for size, frames in every:
            start = time.perf_counter()
            found = predict(file, size, frames)
            assert found.shape == (1, *size) and np.isfinite(found).all(), (size, frames)
            assert np.ptp(found) > 1e-3, (size, frames)
            seconds = time.perf_counter() - start
            print(
                f'{size[0]}x{size[1]}x{frames}: a map from {found.min():.3f} to {found.max():.3f}, '
                f'{seconds:.0f} s with compiling',
                flush=True,
            )
        start = time.perf_counter()
        grads = gradient(file, *every[-1])
    assert all(np.isfinite(g).all() for g in grads.values())
    norm = np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in grads.values()))
    seconds = time.perf_counter() - start
    print(f'gradient at the last: norm {norm:.3g}, {seconds:.0f} s with compiling', flush=True)
    assert norm > 0
    if options.memory:
        print('one clip at full width, GB: weights, temporaries')
        for size, frames in tqdm(every, disable=None):
            plan = cost.compiled_step(STSANetConfig(image_size=size, frames=frames))
            analysis = plan.memory_analysis()
            weights, temporary = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
            print(
                f'{size[0]}x{size[1]}x{frames}: {weights / 1e9:.2f}, {temporary / 1e9:.2f}',
                flush=True,
            )


if __name__ == '__main__':
    cpu.set_up()
    main()
