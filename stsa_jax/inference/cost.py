"""Cost of a config: parameters, model size, multiply-adds by part, memory and time of a clip.

    python -m stsa_jax.cost --config=configs/dhf1k.py [--memory] [--time] [--config.model.frames=64]
    python -m stsa_jax.cost --checkpoint=d123s_rc4_rc1T.pth [--memory] [--time]

The multiply-adds are counted in the traced program of one clip in eval mode, without computing
anything: each convolution and matrix product, by its shapes, is assigned to its module. The FLOPs
of the paper's Table I are those of the convolutions, 193.3 G; the two products of attention are
additional. Parts are named as in the code: `branch1.stsa.layer_2`.

The count is that of the published architecture. The plain forms (`stsa_jax.ops.forms`) also
multiply by zeros, which lets a TPU work on more at once; the CPU forms run fewer.
"""

import argparse
import dataclasses
import functools
import math
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util
from jax.extend.core import Jaxpr

from stsa_jax.configuration import load_config
from stsa_jax.errors import InputError, command
from stsa_jax.models import functional
from stsa_jax.ops import forms
from stsa_jax.ops.convolution import DEPTHWISE
from stsa_jax.ops.upsampling import RESIZE
from stsa_jax.weights import known
from stsa_jax.weights.files import config_from, read_weights
from stsa_jax.weights.initial import random_weights

DEPTH = {'backbone': 2, 'branch': 3}  # path components that name a part; 1 for the others


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the network: its parameters, and multiply-adds for one clip."""

    parameters: int = 0
    convolutions: int = 0  # matrix products with weights are convolutions of size 1
    attention: int = 0  # products of features with features: q . k and the weighting of v

    def __add__(self, other: 'Part') -> 'Part':
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other))
        return Part(*(a + b for a, b in pairs))


def cost(config: Any) -> dict[str, Part]:
    """The parts of the network as published, in order, by name."""
    parameters: Counter[str] = Counter()
    for path, array in traverse_util.flatten_dict(_abstract(config)[1]).items():
        parameters[_part(path[:-1])] += math.prod(array.shape)
    with forms.use('published'):
        convolutions, attention = multiply_adds(config)
    names = [*convolutions, *(parameters.keys() - convolutions.keys())]
    return {name: Part(parameters[name], convolutions[name], attention[name]) for name in names}


def multiply_adds(config: Any) -> tuple[Counter, Counter]:
    """Multiply-adds of the convolutions and of attention, by part, in the program of `config`."""
    graphdef, *weights = _abstract(config)

    def run(params, batch_stats, clip):
        model = nnx.merge(graphdef, params, batch_stats)
        for path, module in list(nnx.iter_modules(model)):
            if path:
                module.__class__ = _named(type(module), path[-1])
        return model(clip)

    program = jax.make_jaxpr(run)(*weights, _clips(config, 2))  # one clip has no batch axis
    convolutions: Counter[str] = Counter()
    attention: Counter[str] = Counter()
    for equation, path, times in equations(program.jaxpr):
        if RESIZE in path:
            continue
        if equation.primitive.name == 'conv_general_dilated':
            counted, shape = convolutions, equation.invars[1].aval.shape
            summed = equation.params['dimension_numbers'].rhs_spec[1:]
        elif equation.primitive.name == 'dot_general':
            (summed, _), (batch, _) = equation.params['dimension_numbers']
            shape = equation.invars[0].aval.shape
            counted = attention if batch else convolutions  # kernels are the same in all examples
        elif equation.primitive.name == 'mul' and DEPTHWISE in path:  # one a tap and channel
            counted, shape, summed = convolutions, (1,), ()
        else:
            continue
        outputs = times * math.prod(equation.outvars[0].aval.shape)
        counted[_part(path)] += outputs * math.prod(shape[i] for i in summed) // 2
    return convolutions, attention


def equations(jaxpr: Jaxpr, path: tuple[str, ...] = (), times: int = 1) -> Iterator[tuple]:
    """Each equation of a program and its inner ones: (equation, scopes, times it runs)."""
    for equation in jaxpr.eqns:
        scopes = [name for name in str(equation.source_info.name_stack).split('/') if name]
        here = (*path, *scopes)
        inner = equation.params.get('branches', [equation.params.get('jaxpr')])[-1]
        inner = inner or equation.params.get('call_jaxpr')
        if inner is None:
            yield equation, here, times
        else:
            repeats = equation.params['length'] if equation.primitive.name == 'scan' else 1
            yield from equations(getattr(inner, 'jaxpr', inner), here, times * repeats)


def table(parts: dict[str, Part]) -> str:
    """The parts as lines of text, with their sum."""
    lines = [f'{"":24}{"parameters":>12}{"convolutions":>14}{"attention":>12}']
    lines.append(f'{"part":24}{"M":>12}{"G":>14}{"G":>12}')
    for name, part in {**parts, 'total': total(parts)}.items():
        lines.append(
            f'{name:24}{part.parameters / 1e6:12.2f}{part.convolutions / 1e9:14.2f}'
            f'{part.attention / 1e9:12.2f}'
        )
    return '\n'.join(lines)


def total(parts: dict[str, Part]) -> Part:
    """The sum of all parts."""
    return sum(parts.values(), Part())


def compiled_step(config: Any) -> jax.stages.Compiled:
    """The compiled eval step of one clip: `(params, batch_stats, clip)` -> saliency."""
    graphdef, *weights = _abstract(config)
    run = jax.jit(functools.partial(functional.apply, graphdef))
    return run.lower(*weights, _clips(config, 1)).compile()


def seconds_per_clip(config: Any, compiled: jax.stages.Compiled, repeats: int = 3) -> float:
    """The best time of `repeats` runs on the default device, with random weights."""
    _, params, batch_stats = _abstract(config)
    clip = np.random.default_rng(0).normal(size=_clips(config, 1).shape).astype(np.float32)
    inputs = jax.device_put((*random_weights(params, batch_stats), clip))
    times = []
    for _ in range(repeats + 1):  # the first is a warm-up
        start = time.perf_counter()
        jax.block_until_ready(compiled(*inputs))
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=command('python -m stsa_jax.cost'),
        description='Parameters, multiply-adds, memory and time of a config.',
        epilog='Any field can be changed: --config.model.image_size=448,768',
        allow_abbrev=False,
    )
    of_what = parser.add_mutually_exclusive_group(required=True)
    of_what.add_argument('--config', help='a config file, as configs/dhf1k.py')
    of_what.add_argument('--checkpoint', help='weights of any model that stsa_jax.load reads')
    parser.add_argument('--memory', action='store_true', help='of activations; compiles (minutes)')
    parser.add_argument('--time', action='store_true', help='of one clip; compiles and runs it')
    options, overrides = parser.parse_known_args()
    if options.config:
        chosen = load_config(options.config, overrides)
        config = config_from(chosen.get('kind', 'stsanet'), chosen.model, options.config)
    elif overrides:
        raise InputError(f'{overrides[0]}: not a flag beside --checkpoint')
    else:
        weights = read_weights(options.checkpoint)
        config = config_from(weights.kind, weights.model_config, options.checkpoint)
    parts = cost(config)
    whole = total(parts)
    run = sum(multiply_adds(config)[0].values())
    height, width = config.image_size
    digits = 0 if whole.convolutions > 20e9 else 2
    of_width = f', width {config.width:g}' if hasattr(config, 'width') else ''
    print(f'clips of {config.frames} frames of {height}x{width}{of_width}')
    print(f'parameters      {whole.parameters / 1e6:.2f} M ({whole.parameters:,})')
    print(f'model size      {4 * whole.parameters / 1e6:.0f} MB (float32)')
    print(
        f'multiply-adds   {whole.convolutions / 1e9:.{digits}f} G in convolutions, and '
        f'{whole.attention / 1e9:.0f} G in attention'
    )
    dtype = getattr(config, 'dtype', 'float32')
    print(f'                our program for {dtype} runs {run / 1e9:.3g} G in convolutions')
    if options.memory or options.time:
        compiled = compiled_step(config)
        device = jax.devices()[0].device_kind
    if options.memory:
        plan = compiled.memory_analysis()
        print(f'activations     {plan.temp_size_in_bytes / 1e9:.3g} GB (XLA on {device})')
    if options.time:
        print(f'time per clip   {seconds_per_clip(config, compiled):.3g} s ({device})')
    print(f'\n{table(parts)}')


def _abstract(config: Any):
    return functional.abstract(known.of_config(config).module, config)


def _clips(config: Any, count: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((count, config.frames, *config.image_size, 3), jnp.float32)


def _part(path: tuple[str, ...]) -> str:
    path = path or ('between the modules',)
    return '.'.join(path[: DEPTH.get(path[0].rstrip('0123456789'), 1)])


def _named(module_class: type, name: str) -> type:
    """`module_class` whose calls are traced under `name`."""

    def __call__(self, *inputs, **options):
        with jax.named_scope(name):
            return module_class.__call__(self, *inputs, **options)

    return type(module_class.__name__, (module_class,), {'__call__': __call__})
