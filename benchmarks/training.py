"""The training loop's own time: a step of train.py beside the bare compiled step.

    python -m benchmarks.training [--config=configs/tiny.py] [--steps=64] [--config.field=value]

The loop is train.py's own, with its log, TensorBoard and progress line; its batches lie ready in
memory, so that reading data is not part of it. Windows of four steps of the loop and of the
bare program, the same one, called again and again on a batch on the device, take turns: the time of
a step varies by several per cent from one window to the next, so it takes the median of many.
"""

import argparse
import statistics
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


class Bare:
    """The step that train.py compiles, called with nothing around it."""

    def __init__(self, config, step):
        self.config, self.step, self.state = config, step, None

    def lower(self, state, arrays):
        self.lowered, self.arrays = self.step.lower(state, arrays), arrays
        return self

    def compile(self):
        self.compiled = self.lowered.compile()
        return self.compiled

    def window(self) -> float:
        """Seconds of `log_every` steps."""
        if self.state is None:
            c = self.config
            tx = optimizer.optimizer(optimizer.OptimizerConfig(**c.optimizer), 100)
            _, *weights = initial_weights(STSANetConfig(**c.model))
            mesh = sharding.make_mesh(**c.mesh)
            self.state = training.create_state(mesh, *weights, tx, ema=c.ema_decay > 0)
            self.state, _ = jax.block_until_ready(self.compiled(self.state, self.arrays))
        start = time.perf_counter()
        for _ in range(self.config.log_every):
            self.state, metrics = self.compiled(self.state, self.arrays)
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - start


class Ready:
    """Batches in memory, in the place of `data.train_clips`; times the windows of the loop."""

    steps_per_epoch = 100

    def __init__(self, config, bare, *, batch_size, image_size, frames):
        rng = np.random.default_rng(0)
        clip = rng.integers(0, 256, (batch_size, frames, *image_size, 3), np.uint8)
        density = rng.uniform(size=(batch_size, *image_size)).astype(np.float32)
        numbers = np.arange(batch_size)
        self.batch = {'clip': clip, 'density': density, 'video': numbers, 'frame': numbers}
        self.config, self.bare, self.step = config, bare, 0
        self.loop_times, self.bare_times = [], []

    def __next__(self):
        if self.step and self.step % self.config.log_every == 0:  # the loop has just waited
            if self.step > self.config.log_every:  # the first window compiles
                self.loop_times.append(time.perf_counter() - self.start)
            self.bare_times.append(self.bare[0].window())
            self.start = time.perf_counter()
        self.step += 1
        return self.batch

    def get_state(self):
        return {}

    def close(self):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--config', default='configs/tiny.py')
    parser.add_argument('--steps', type=int, default=64)
    options, overrides = parser.parse_known_args()
    config = load_config(options.config, overrides)
    every = config.log_every = 4  # more often than in any config
    config.num_steps, config.checkpoint_every = options.steps + every + 1, 10**6
    config.validation.every = 0
    made, bare, make_train_step = [], [], training.make_train_step

    def train_clips(*_, batch_size, image_size, frames, **__):
        shape = {'batch_size': batch_size, 'image_size': image_size, 'frames': frames}
        made.append(Ready(config, bare, **shape))
        return made[0]

    def kept(*arguments):
        bare.append(Bare(config, make_train_step(*arguments)))
        return bare[0]

    data.train_clips, training.make_train_step = train_clips, kept
    with tempfile.TemporaryDirectory() as workdir:
        train.train(config, workdir)
    pairs = list(zip(made[0].loop_times, made[0].bare_times))
    overhead = statistics.median(loop / alone - 1 for loop, alone in pairs)
    alone = statistics.median(made[0].bare_times) / every
    print(f'bare compiled step: {1e3 * alone:.1f} ms')
    print(
        f'overhead of the loop: {overhead:+.1%} (limit {LIMIT:.0%}), median of {len(pairs)} pairs:'
    )
    print(*(f'{loop / alone - 1:+.1%}' for loop, alone in pairs))


if __name__ == '__main__':
    exit_cleanly(main)
