"""One training step at full size: time and peak memory, against the released PyTorch code.

    python -m benchmarks.train_step [--reference=CHECKOUT] [--repeats=3] [--batch_size=1]
        [--config.field=value]

A step is forward, backward and Adam. Each side runs in its own process, to measure its own peak
memory; the processes run one after the other, so the ratio is fair only on an idle machine.
CHECKOUT is a checkout of WZq975/STSANet, which supports only the full size; without one, the ratio
is to three times the network's multiply-adds at this machine's matrix-product rate. Weights are
random.
"""

import argparse
import json
import sys

from benchmarks.inference import matrix_product, multiply_adds
from benchmarks.limits import Limits
from benchmarks.processes import in_own_process, peak_memory, timed
from benchmarks.released import example
from stsa_jax.configuration import load_config
from stsa_jax.errors import exit_cleanly
from stsa_jax.models.stsanet import STSANetConfig
from stsa_jax.ops import cpu

TIME_LIMIT, MEMORY_LIMIT = 0.65, 1.0  # times the released code's


def step_times(
    model: STSANetConfig, repeats: int, batch_size: int = 1, remat: bool = False
) -> list[float]:
    """Seconds of each of `repeats` steps after the first, in this process."""
    import jax

    from stsa_jax import training
    from stsa_jax.distribution import sharding
    from stsa_jax.training import compiling, optimizer
    from stsa_jax.weights.initial import initial_weights

    config = optimizer.OptimizerConfig(schedule='constant')
    tx = optimizer.optimizer(config, 1)
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    graphdef, params, batch_stats = initial_weights(model)
    rate = optimizer.learning_rate(config, 1, 1)
    how = training.StepOptions(remat=remat)
    step = training.make_train_step(graphdef, tx, rate, mesh, how)
    clip, density = example(batch_size, model.frames, model.image_size)
    batch = sharding.put_batch(mesh, {'clip': clip, 'density': density})
    abstract = training.abstract_state(mesh, params, batch_stats, tx)
    step = compiling.compiled(step.lower(abstract, batch))
    state = training.create_state(mesh, params, batch_stats, tx)
    del params, batch_stats
    cpu.memory.release()

    def run():
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    return [timed(run) for _ in range(repeats + 1)][1:]


def ours(model: STSANetConfig, options) -> dict:
    """Best time of our step, in this process."""
    times = step_times(model, options.repeats, options.batch_size, options.remat)
    product, adds = matrix_product(options.matrix_size)
    product()
    return {'time': min(times), 'rate': adds / min(timed(product) for _ in range(3))}


def report(mine: dict, theirs: dict | None, floor: float) -> int:
    """Prints the results of both sides; returns the exit code."""
    limits = Limits()
    print(f'ours: {mine["time"]:.2f} s per step, peak memory {mine["peak"] / 1e9:.2f} GB')
    print(f'ratio to the matrix-product floor ({floor:.2f} s): {mine["time"] / floor:.2f}')
    if theirs:
        print(
            f'released code, PyTorch eager: {theirs["time"]:.2f} s per step, peak memory '
            f'{theirs["peak"] / 1e9:.2f} GB'
        )
        for name, what, limit in (('time', 'times', TIME_LIMIT), ('peak', 'peaks', MEMORY_LIMIT)):
            ratio = mine[name] / theirs[name]
            verdict = limits.check(f'limit {limit:g}', ratio <= limit)
            print(f'ratio of the {what}: {ratio:.2f} ({verdict})')
    return limits.exit_code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--reference', help='a checkout of WZq975/STSANet')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--batch_size', type=int, default=1)
    parser.add_argument('--config', default='configs/dhf1k.py')
    parser.add_argument('--matrix_size', type=int, default=4096, help='of the matrix product')
    parser.add_argument('--ours', action='store_true', help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args()
    config = load_config(options.config, overrides)
    model, options.remat = STSANetConfig(**config.model), config.remat
    if options.ours:
        print(json.dumps(ours(model, options) | {'peak': peak_memory()}))
        return 0
    mine, theirs = in_own_process('benchmarks.train_step', [*sys.argv[1:], '--ours']), None
    if options.reference:
        names = ('reference', 'repeats', 'batch_size')
        how = [f'--{name}={getattr(options, name)}' for name in names]
        theirs = in_own_process('benchmarks.released', how)
    floor = 3 * options.batch_size * multiply_adds(model) / mine['rate']
    return report(mine, theirs, floor)


if __name__ == '__main__':
    if '--ours' in sys.argv:
        cpu.set_up()  # as train.py does
    exit_cleanly(main)
