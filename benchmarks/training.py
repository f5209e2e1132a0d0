"""The training loop's overhead: a step of train.py against the bare compiled step.

    python -m benchmarks.training [--config=configs/tiny.py] [--steps=128] [--config.field=value]

The loop is train.py's own, with its log, TensorBoard and progress line; its batches are ready in
memory, so that reading data is excluded. Windows of four steps of the loop alternate with windows
of the same bare program, called repeatedly on a batch on the device, and each window of the loop is
compared with the two bare ones around it. The time of a step varies by several per cent between
windows, so the result is the median of many, with its 95 % interval by bootstrap. Processor time
shows the loop's computation regardless of other load; it excludes waiting.
"""

import argparse
import statistics
import tempfile
import time
from unittest import mock

import jax
import numpy as np

import data
import train
from benchmarks.limits import Limits
from stsa_jax import training
from stsa_jax.configuration import load_config
from stsa_jax.distribution import sharding
from stsa_jax.errors import exit_cleanly
from stsa_jax.models.stsanet import STSANetConfig
from stsa_jax.ops import cpu
from stsa_jax.training import optimizer, run
from stsa_jax.weights.initial import initial_weights

LIMIT = 0.03


def clocks() -> np.ndarray:
    """Seconds of wall time, and of processor time over all threads of this process."""
    return np.array([time.perf_counter(), time.process_time()])


class Bare:
    """The compiled step of train.py, called without the loop."""

    def __init__(self, config, step):
        self.config, self.step, self.state = config, step, None

    def lower(self, state, batch):
        rng = np.random.default_rng(0)
        self.lowered, self.arrays = (
            self.step.lower(state, batch),
            {
                name: jax.device_put(
                    rng.integers(0, 256, like.shape).astype(like.dtype), like.sharding
                )
                for name, like in batch.items()
            },
        )
        return self

    def compile(self):
        self.compiled = self.lowered.compile()
        return self.compiled

    def window(self) -> np.ndarray:
        """Seconds of `log_every` steps in both clocks."""
        if self.state is None:
            c = self.config
            tx = optimizer.optimizer(optimizer.OptimizerConfig(**c.optimizer), 100)
            _, params, batch_stats = initial_weights(STSANetConfig(**c.model))
            mesh = sharding.make_mesh(**c.mesh)
            ema = c.ema_decay > 0
            self.state = training.create_state(mesh, params, batch_stats, tx, ema)
            self.state, _ = jax.block_until_ready(self.compiled(self.state, self.arrays))
        start = clocks()
        for _ in range(self.config.log_every):
            self.state, metrics = self.compiled(self.state, self.arrays)
        jax.block_until_ready((self.state, metrics))
        return clocks() - start


class Ready:
    """Batches in memory that replace `data.train_clips`; times the windows of the loop."""

    steps_per_epoch, summary, notes = 100, (), ()
    start: np.ndarray

    def __init__(self, config, bare, *, batch_size, image_size, frames):
        rng = np.random.default_rng(0)
        self.batch = {
            'clip': rng.integers(0, 256, (batch_size, frames, *image_size, 3), np.uint8),
            'density': rng.uniform(size=(batch_size, *image_size)).astype(np.float32),
            'video': np.arange(batch_size),
            'frame': np.arange(batch_size),
            'problems': np.array([''] * batch_size),
        }
        self.config, self.bare, self.step = config, bare, 0
        self.loop_times, self.bare_times = [], []

    def __next__(self):
        if self.step and self.step % self.config.log_every == 0:  # the loop has just waited
            if self.step > self.config.log_every:  # the first window compiles
                self.loop_times.append(clocks() - self.start)
            self.bare_times.append(self.bare[0].window())
            self.start = clocks()
        self.step += 1
        return self.batch

    def get_state(self):
        return {}

    def close(self):
        pass


def overheads(loop_times: list, bare_times: list) -> np.ndarray:
    """(windows, clocks): of each window of the loop over the mean of the bare ones around it."""
    bare = np.array(bare_times)
    return np.array(loop_times) / ((bare[:-1] + bare[1:]) / 2) - 1


def interval(values: np.ndarray, samples: int = 10_000) -> tuple[float, float]:
    """95 % interval of the median, by bootstrap."""
    drawn = np.random.default_rng(0).choice(values, (samples, len(values)))
    return tuple(np.percentile(np.median(drawn, axis=1), [2.5, 97.5]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--config', default='configs/tiny.py')
    parser.add_argument('--steps', type=int, default=128)
    options, overrides = parser.parse_known_args()
    config = load_config(options.config, overrides)
    every = config.log_every = 4  # more often than in any config
    config.num_steps, config.checkpoint_every = options.steps + every + 1, 10**6
    config.validation.every = 0
    made: list[Ready] = []
    bare: list[Bare] = []
    make_train_step = run.make_train_step

    def train_clips(*_, batch_size, image_size, frames, **__):
        shape = {'batch_size': batch_size, 'image_size': image_size, 'frames': frames}
        made.append(Ready(config, bare, **shape))
        return made[0]

    def kept(*arguments):
        bare.append(Bare(config, make_train_step(*arguments)))
        return bare[0]

    with (
        tempfile.TemporaryDirectory() as workdir,
        mock.patch.object(data, 'train_clips', train_clips),
        mock.patch.object(run, 'make_train_step', kept),
    ):
        train.train(config, workdir)
    found = overheads(made[0].loop_times, made[0].bare_times)
    alone = statistics.median(seconds for seconds, _ in made[0].bare_times) / every
    limits, medians = Limits(), np.median(found, axis=0)
    print(f'bare compiled step: {1e3 * alone:.1f} ms')
    verdict = limits.check(f'limit {100 * LIMIT:g} %', medians[0] <= LIMIT)
    print(f'overhead of the loop: {medians[0]:+.1%} ({verdict}), median of {len(found)} windows')
    for name, values, median in zip(('the clock', 'processor time'), found.T, medians):
        low, high = interval(values)
        print(f'  by {name}: {median:+.1%}, 95 % interval {low:+.1%} to {high:+.1%}; windows:')
        print('  ', *(f'{value:+.1%}' for value in values))
        if low <= LIMIT < high:
            print('   the limit lies in this interval: use more steps, or a less busy machine')
    return limits.exit_code


if __name__ == '__main__':
    cpu.set_up()  # as train.py does
    exit_cleanly(main)
