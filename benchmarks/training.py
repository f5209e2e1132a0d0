"""The training loop's own time: a step of train.py beside the bare compiled step.

    python -m benchmarks.training [--config=configs/tiny.py] [--steps=40] [--config.field=value]

The loop is train.py's own, with its log, TensorBoard and progress line; its batches lie ready in
memory, so that reading data is not part of it. The bare step is the same compiled program, called
again and again on a batch that lies on the device. The best window of `log_every` steps counts.
"""

import argparse
import tempfile
import time

import jax
import numpy as np

import data
import train
from stsa_jax import optimizer, sharding, training
from stsa_jax.configuration import load_config
from stsa_jax.errors import exit_cleanly
from stsa_jax.initial import initial_weights
from stsa_jax.stsanet import STSANetConfig

LIMIT = 0.03


class Ready:
    """Batches in memory, in the place of `data.train_clips`."""

    def __init__(self, *_, batch_size, image_size, frames, **__):
        rng = np.random.default_rng(0)
        clip = rng.integers(0, 256, (batch_size, frames, *image_size, 3), np.uint8)
        density = rng.uniform(size=(batch_size, *image_size)).astype(np.float32)
        numbers = np.arange(batch_size)
        self.batch = {'clip': clip, 'density': density, 'video': numbers, 'frame': numbers}
        self.steps_per_epoch = 100

    def __next__(self):
        return self.batch

    def get_state(self):
        return {}

    def close(self):
        pass


class Kept:
    """A step function that keeps what it was compiled to."""

    def __init__(self, step):
        self.step, self.compiled = step, None

    def lower(self, *arguments):
        self.lowered = self.step.lower(*arguments)
        return self

    def compile(self):
        self.compiled = self.lowered.compile()
        return self.compiled


def bare(compiled, config, steps: int) -> float:
    """Best time of a step, over windows as long as the log's: the program alone."""
    model_config = STSANetConfig(**config.model)
    mesh = sharding.make_mesh(**config.mesh)
    _, *weights = initial_weights(model_config)
    tx = optimizer.optimizer(optimizer.OptimizerConfig(**config.optimizer), 100)
    state = training.create_state(mesh, *weights, tx, ema=config.ema_decay > 0)
    ready = Ready(
        batch_size=config.batch_size, image_size=model_config.image_size, frames=model_config.frames
    )
    arrays = sharding.put_batch(mesh, {k: ready.batch[k] for k in ('clip', 'density')})
    state, _ = jax.block_until_ready(compiled(state, arrays))
    times = []
    for _ in range(steps // config.log_every):
        start = time.perf_counter()
        for _ in range(config.log_every):
            state, metrics = compiled(state, arrays)
        jax.block_until_ready((state, metrics))
        times.append((time.perf_counter() - start) / config.log_every)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--config', default='configs/tiny.py')
    parser.add_argument('--steps', type=int, default=40)
    options, overrides = parser.parse_known_args()
    config = load_config(options.config, overrides)
    config.num_steps, config.checkpoint_every, config.validation.every = options.steps, 10**6, 0
    steps = []
    make_train_step = training.make_train_step
    training.make_train_step = lambda *a: steps.append(Kept(make_train_step(*a))) or steps[-1]
    data.train_clips = Ready
    with tempfile.TemporaryDirectory() as workdir:
        history = train.train(config, workdir)
    loop = min(entry['step_seconds'] for entry in history)
    alone = bare(steps[0].compiled, config, options.steps)
    print(f'bare compiled step: {1e3 * alone:.1f} ms; in the loop: {1e3 * loop:.1f} ms')
    print(f'overhead of the loop: {loop / alone - 1:+.2%} (limit {LIMIT:.0%})')


if __name__ == '__main__':
    exit_cleanly(main)
