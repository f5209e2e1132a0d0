"""Memory and time of a training step with and without rematerialisation.

    python -m benchmarks.rematerialisation [--batch_size=1] [--repeats=3] [--config.field=value]

The memory is that of temporaries by XLA's analysis of the compiled step: activations, scratch, and
the gradients, which exist in both cases; the ratio excludes them. `--repeats=0` skips the times.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.limits import Limits
from stsa_jax import training
from stsa_jax.configuration import load_config
from stsa_jax.distribution import sharding
from stsa_jax.errors import exit_cleanly
from stsa_jax.models import functional
from stsa_jax.models.stsanet import STSANet, STSANetConfig
from stsa_jax.ops import cpu
from stsa_jax.training import optimizer
from stsa_jax.weights.initial import random_weights

MEMORY_LIMIT, TIME_LIMIT = 0.5, 1.35


def measured(config, batch_size: int, remat: bool, repeats: int) -> tuple[int, int, float]:
    """(bytes of temporaries, of the gradients among them, best time of a step)."""
    model = STSANetConfig(**config.model)
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    graphdef, params, batch_stats = functional.abstract(STSANet, model)
    settings = optimizer.OptimizerConfig(**config.optimizer)
    tx = optimizer.optimizer(settings, 200)
    state = training.abstract_state(mesh, params, batch_stats, tx)
    gradients = sharding.bytes_per_device(state.params)  # the same size as the parameters
    place = sharding.batch_sharding(mesh)
    clip = (batch_size, model.frames, *model.image_size, 3)
    batch = {
        'clip': jax.ShapeDtypeStruct(clip, jnp.uint8, sharding=place),
        'density': jax.ShapeDtypeStruct(
            (batch_size, *model.image_size), jnp.float32, sharding=place
        ),
    }
    rate = optimizer.learning_rate(settings, 200, 6000)
    options = training.StepOptions(remat=remat)
    step = training.make_train_step(graphdef, tx, rate, mesh, options)
    step = step.lower(state, batch).compile()
    temporary = step.memory_analysis().temp_size_in_bytes
    times = [float('nan')]
    if repeats:
        rng = np.random.default_rng(0)
        arrays = {
            'clip': rng.integers(0, 256, clip, np.uint8),
            'density': rng.uniform(size=batch['density'].shape).astype(np.float32),
        }
        arrays = sharding.put_batch(mesh, arrays)
        state = training.create_state(mesh, *random_weights(params, batch_stats), tx)
        state, _ = jax.block_until_ready(step(state, arrays))
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, arrays))
            times.append(time.perf_counter() - start)
    return temporary, gradients, min(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--config', default='configs/dhf1k.py')
    parser.add_argument('--batch_size', type=int, default=1)
    parser.add_argument('--repeats', type=int, default=3)
    options, overrides = parser.parse_known_args()
    config = load_config(options.config, overrides)
    results = []
    for remat in (False, True):
        results.append(measured(config, options.batch_size, remat, options.repeats))
        memory, _, seconds = results[-1]
        print(
            f'remat={remat}: {memory / 1e9:.2f} GB of temporaries, {seconds:.2f} s per step',
            flush=True,
        )
    (memory, gradients, seconds), (less, _, longer) = results
    limits, slower = Limits(), longer / seconds
    ratio = (less - gradients) / (memory - gradients)
    verdict = limits.check(f'limit {MEMORY_LIMIT}', ratio <= MEMORY_LIMIT)
    print(f'ratio without the {gradients / 1e9:.2f} GB of gradients: {ratio:.2f} ({verdict})')
    if options.repeats:
        verdict = limits.check(f'limit {TIME_LIMIT}', slower <= TIME_LIMIT)
        print(f'ratio of the times: {slower:.2f} ({verdict})')
    return limits.exit_code


if __name__ == '__main__':
    cpu.set_up()
    exit_cleanly(main)
