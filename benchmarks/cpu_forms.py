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
import numpy as np

from benchmarks.processes import in_own_process, timed
from benchmarks.train_step import step_times
from stsa_jax.configuration import load_config
from stsa_jax.errors import exit_cleanly
from stsa_jax.models.stsanet import STSANetConfig
from stsa_jax.ops import cpu, forms, normalisation, pooling, upsampling
from stsa_jax.ops.convolution import conv3d
from stsa_jax.ops.cpu import convolution, winograd
from stsa_jax.weights.initial import initial_weights
from stsa_jax.weights.pretrained import SaliencyModel

WORTH = 1.03  # times the time with all forms
INFINITE = float('inf')


def _plain(operation):
    """The operation's plain form, within a program of CPU forms."""

    def run(*arguments, **options):
        with forms.use('plain'):
            return operation(*arguments, **options)

    return run


def _conv3d_of_upsampled(x, kernel, stride, padding):
    return cpu.conv3d(cpu.upsample_2x(x), kernel, stride, padding)


def _batch_norm_relu(y, scale, bias, eps):
    return _plain(normalisation.batch_norm)(y, scale, bias, eps=eps)


def _exact_in_one_sum(x, kernel, stride, padding):
    return convolution._plain(x, kernel, stride, padding)


def _kernel_gradient(x, kernel, dy, stride, padding):
    return jax.vjp(lambda k: convolution._plain(x, k, stride, padding), kernel)[1](dy)[0]


# The replacement of each form: (object, attribute, value).
WITHOUT = {
    'two-dimensional convolutions': (cpu, 'conv3d', _plain(conv3d)),
    "Winograd's algorithm": (winograd, 'LARGE', INFINITE),
    'short sums': (convolution, '_in_groups', _exact_in_one_sum),
    'few channels in quarters': (convolution, 'FEW_CHANNELS', 0),
    'one product per tap where kernel = stride': (convolution, '_is_split', lambda *_: False),
    'products before upsampling': (cpu, 'conv3d_of_upsampled', _conv3d_of_upsampled),
    'upsampling by sums of neighbours': (cpu, 'upsample_2x', _plain(upsampling.upsample_2x)),
    'pools of slices': (cpu, 'max_pool', _plain(pooling.max_pool)),
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
    return min(step_times(config, repeats))


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
