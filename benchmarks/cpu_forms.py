"""The benefit of each CPU form: the time without it, relative to the time with all forms.

    python -m benchmarks.cpu_forms [--work=clip,step] [--repeats=5] [--only=NAME,...]
        [--config.field=value]

Each measurement runs in a separate process. Every fourth has all forms; the ratio is to the mean of
the two around it. A form that saves less than 3 % of both is not worth its code. Run it on an idle
machine.
"""

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.processes import in_own_process, timed
from benchmarks.released import example
from stsa_jax import training
from stsa_jax.configuration import load_config
from stsa_jax.distribution import sharding
from stsa_jax.errors import exit_cleanly
from stsa_jax.models.stsanet import STSANetConfig
from stsa_jax.ops import cpu, forms, normalisation, upsampling
from stsa_jax.ops.cpu import convolution, winograd
from stsa_jax.training import compiling, optimizer
from stsa_jax.weights.initial import initial_weights
from stsa_jax.weights.pretrained import SaliencyModel

WORTH = 1.03  # times the time with all forms
INFINITE = float('inf')


def _conv3d(x, kernel, stride, padding, precision=None):
    return lax.conv_general_dilated(
        x,
        kernel,
        stride,
        [(p, p) for p in padding],
        dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'),
        precision=precision,
    )


def _conv3d_of_upsampled(x, kernel, stride, padding):
    return cpu.conv3d(cpu.upsample_2x(x), kernel, stride, padding)


def _upsample_2x(x):
    for axis in (2, 3):
        matrix = upsampling._matrix(x.shape[axis], 2 * x.shape[axis])
        x = jnp.moveaxis(jnp.tensordot(x, matrix, (axis, 0)), -1, axis)
    return x


def _max_pool(x, window, stride, padding):
    pads = [(0, 0), *((p, p) for p in padding), (0, 0)]
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *stride, 1), pads)


def _batch_norm_relu(y, scale, bias, eps):
    mean, var = normalisation._moments(y, tuple(range(y.ndim - 1)))
    return normalisation.scale_shift_relu(y, scale, bias, mean, var), mean, var


def _exact_in_one_sum(x, kernel, stride, padding):
    return convolution._plain(x, kernel, stride, padding)


def _kernel_gradient(x, kernel, dy, stride, padding):
    return jax.vjp(lambda k: convolution._plain(x, k, stride, padding), kernel)[1](dy)[0]


# The replacement of each form: (object, attribute, value).
WITHOUT = {
    'two-dimensional convolutions': (cpu, 'conv3d', _conv3d),
    "Winograd's algorithm": (winograd, 'LARGE', INFINITE),
    'short sums': (convolution, '_in_groups', _exact_in_one_sum),
    'few channels in quarters': (convolution, 'FEW_CHANNELS', 0),
    'one product per tap where kernel = stride': (convolution, '_is_split', lambda *_: False),
    'products before upsampling': (cpu, 'conv3d_of_upsampled', _conv3d_of_upsampled),
    'upsampling by sums of neighbours': (cpu, 'upsample_2x', _upsample_2x),
    'pools of slices': (cpu, 'max_pool', _max_pool),
    'kept memory': (cpu.memory, 'keep', lambda: False),
}
WITHOUT_IN_GRADIENT = {
    "BatchNorm's gradient": (cpu, 'batch_norm_relu', _batch_norm_relu),
    "Winograd's kernel gradient": (winograd, 'LARGE_GRADIENT', INFINITE),
    'kernel gradients as products': (convolution, '_kernel_gradient', _kernel_gradient),
    'kernel gradients in blocks': (convolution, 'ROWS', INFINITE),
}


def clip_time(config, repeats: int) -> float:
    model = SaliencyModel(config, *initial_weights(config)[1:])
    rng = np.random.default_rng(0)
    clip = rng.normal(size=(1, config.frames, *config.image_size, 3)).astype(np.float32)
    return min(timed(lambda: np.asarray(model(clip))) for _ in range(repeats + 1))


def step_time(config, repeats: int) -> float:
    settings = optimizer.OptimizerConfig(schedule='constant')
    tx = optimizer.optimizer(settings, 1)
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    graphdef, params, batch_stats = initial_weights(config)
    rate = optimizer.learning_rate(settings, 1, 1)
    step = training.make_train_step(graphdef, tx, rate, mesh)
    clip, density = example(1, config.frames, config.image_size)
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

    return min(timed(run) for _ in range(repeats + 1))


WORKS = {'clip': clip_time, 'step': step_time}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work', default='clip,step')
    parser.add_argument('--only', default='', help='names of forms, separated by commas')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--config', default='configs/dhf1k.py')
    parser.add_argument('--without', help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args()
    if options.without is not None:
        config = STSANetConfig(**load_config(options.config, overrides).model)
        if options.without:
            setattr(*(WITHOUT | WITHOUT_IN_GRADIENT)[options.without])
        cpu.set_up()
        forms.set_default('cpu')
        print(json.dumps(WORKS[options.work](config, options.repeats)))
        return 0

    def measure(work, name):
        own = [*overrides, f'--work={work}', f'--without={name}', f'--repeats={options.repeats}']
        return in_own_process('benchmarks.cpu_forms', [*own, f'--config={options.config}'])

    for work in options.work.split(','):
        names = [*WITHOUT, *(WITHOUT_IN_GRADIENT if work == 'step' else ())]
        names = [name for name in names if not options.only or name in options.only.split(',')]
        before = measure(work, '')
        print(f'{work} with all forms: {before:.2f} s', flush=True)
        for first in range(0, len(names), 3):
            times = {name: measure(work, name) for name in names[first : first + 3]}
            after = measure(work, '')
            for name, without in times.items():
                ratio = 2 * without / (before + after)
                verdict = '' if ratio >= WORTH else '   saves less than 3 %'
                print(f'  without {name}: {ratio:.3f}{verdict}', flush=True)
            before = after
    return 0


if __name__ == '__main__':
    exit_cleanly(main)
