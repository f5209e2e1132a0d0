"""Clips per second and fraction of peak on an accelerator: inference and training.

    python -m benchmarks.gpu [--reference=CHECKOUT] [--inference=1,8] [--training=1,2,4,8,16,32]
        [--dtypes=float32,bfloat16] [--repeats=10] [--config.field=value]

Prints one Markdown table. Inference is the forward pass of a batch of clips on the device, beside
PyTorch eager and torch.compile if CHECKOUT, a checkout of WZq975/STSANet, and PyTorch with CUDA are
available. Training is a step with Adam on a batch on the device; `--config.remat=true` and the
other fields of a step apply. Weights are random. It runs on any JAX device, including a CPU
(`--config=configs/tiny.py`).

Each row runs in its own process, to measure its own peak memory. It warms up, then waits for the
result of each of `repeats` runs; the best and the median time are reported. If a batch does not
fit, larger ones of its kind are skipped.

The fraction of peak has two columns: the operations of the compiled program as XLA counts them, and
two for each multiply-add of the network (`stsa_jax.cost`; three times that for a training step),
over the dense bfloat16 peak of the device's data sheet, for float32 too. PyTorch's float32 products
may use TF32, as XLA's do by default. If JAX's share of the device's memory is not enough, set
XLA_PYTHON_CLIENT_MEM_FRACTION.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
from typing import NamedTuple

from benchmarks.processes import in_own_process, timed
from benchmarks.released import example, released_model
from stsa_jax.configuration import load_config
from stsa_jax.errors import exit_cleanly
from stsa_jax.media.preprocess import normalise

WARM_UP = 2
TORCH = {'torch': 'PyTorch eager', 'torch_compile': 'torch.compile'}
HEAD = (
    *('work', 'dtype', 'batch', 'best ms', 'median ms', 'clips/s'),
    *('of peak (XLA)', 'of peak (products)', 'peak memory, GB', *TORCH.values()),
)


class Row(NamedTuple):
    """One measurement; `side` is 'jax', 'torch' or 'torch_compile'."""

    work: str  # 'inference' or 'training'
    dtype: str
    batch: int
    side: str = 'jax'
    platform: str = ''  # of JAX, for PyTorch to take the same

    def __str__(self):
        return ','.join(map(str, self))


def parse_row(text: str) -> Row:
    """The inverse of `str(row)`."""
    work, dtype, batch, side, platform = text.split(',')
    return Row(work, dtype, int(batch), side, platform)


def times(run, repeats: int) -> dict:
    """Best and median seconds of `run()`, which waits for its result."""
    for _ in range(WARM_UP):
        run()
    found = [timed(run) for _ in range(repeats)]
    return {'best': min(found), 'median': statistics.median(found)}


def ours(row: Row, config, repeats: int) -> dict:
    """Times of our program, its operations, and the device's memory and peak."""
    import jax

    from stsa_jax import training
    from stsa_jax.distribution import sharding
    from stsa_jax.inference import cost
    from stsa_jax.models import functional
    from stsa_jax.models.stsanet import STSANetConfig
    from stsa_jax.training import meter, optimizer
    from stsa_jax.weights.initial import initial_weights

    model = STSANetConfig(**{**config.model, 'dtype': row.dtype})
    device = jax.devices()[0]
    graphdef, params, batch_stats = initial_weights(model)
    clip, density = example(row.batch, model.frames, model.image_size)
    if row.work == 'inference':
        inputs = jax.device_put((params, batch_stats, normalise(clip)), device)
        compiled = jax.jit(functools.partial(functional.apply, graphdef)).lower(*inputs).compile()

        def run():
            jax.block_until_ready(compiled(*inputs))

    else:
        mesh = sharding.make_mesh(1, 1, [device])
        settings = optimizer.OptimizerConfig(**config.optimizer)
        tx = optimizer.optimizer(settings, 200)
        ema = config.ema_decay > 0
        state = training.create_state(mesh, params, batch_stats, tx, ema)
        options = training.StepOptions.of(config)
        rate = optimizer.learning_rate(settings, 200, 6000)
        step = training.make_train_step(graphdef, tx, rate, mesh, options)
        batch = sharding.put_batch(mesh, {'clip': clip, 'density': density})
        compiled = step.lower(state, batch).compile()

        def run():
            nonlocal state
            state, metrics = compiled(state, batch)
            jax.block_until_ready((state, metrics))

    found = times(run, repeats)
    memory = (device.memory_stats() or {}).get('peak_bytes_in_use', training.memory(compiled))
    products = sum(sum(kind.values()) for kind in cost.multiply_adds(model))
    return found | {
        'device': device.device_kind,
        'platform': device.platform,
        'flops': training.flops(compiled),
        'products': 2 * products * row.batch * (3 if row.work == 'training' else 1),
        'memory': memory,
        'peak': meter.peak_flops(device.device_kind),
    }


def released(row: Row, config, repeats: int, checkout: str) -> dict:
    """Times of the released network's forward pass."""
    import torch

    from stsa_jax.models.stsanet import STSANetConfig

    cuda = row.platform in ('gpu', 'cuda')
    if row.platform != 'cpu' and not (cuda and torch.cuda.is_available()):
        return {'error': f'PyTorch has no device for {row.platform}'}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    place = torch.device('cuda' if cuda else 'cpu')
    network = released_model(checkout).to(place)
    if row.side == 'torch_compile':
        network = torch.compile(network)
    model = STSANetConfig(**config.model)
    clip, _ = example(row.batch, model.frames, model.image_size)
    clip = torch.from_numpy(normalise(clip)).permute(0, 4, 1, 2, 3).contiguous().to(place)
    lower = row.dtype == 'bfloat16'
    precision = functools.partial(torch.autocast, place.type, dtype=torch.bfloat16, enabled=lower)

    def run():
        with torch.inference_mode(), precision():
            network(clip)
        if cuda:
            torch.cuda.synchronize()

    return times(run, repeats)


def measure(row: Row, options, config) -> dict:
    """The results of a row, in this process; {'error': why} for a batch that does not fit."""
    try:
        if row.side == 'jax':
            return ours(row, config, options.repeats)
        return released(row, config, options.repeats, options.reference)
    except (RuntimeError, MemoryError) as error:  # JAX's and PyTorch's errors are RuntimeErrors
        if does_not_fit(error):
            return {'error': 'does not fit'}
        raise


def does_not_fit(error: Exception) -> bool:
    """Whether JAX or PyTorch reports that memory is exhausted."""
    told = f'{type(error).__name__} {error}'.lower()
    return any(words in told for words in ('memoryerror', 'resource_exhausted', 'out of memory'))


def in_process_of_its_own(row: Row, *_) -> dict:
    """The same from another process; a row that fails does not end the others."""
    try:
        return in_own_process('benchmarks.gpu', [*sys.argv[1:], f'--row={row}'])
    except subprocess.CalledProcessError as error:
        return {'error': f'failed (exit code {error.returncode})'}


def measure_all(measure, options, config) -> list[tuple[Row, dict, dict]]:
    """(row, our results, PyTorch's by side) for all requested rows."""
    found = []
    for work, batches in (('inference', options.inference), ('training', options.training)):
        for dtype in options.dtypes:
            fits = True
            for batch in sorted(batches):
                row, theirs = Row(work, dtype, batch), {}
                mine = measure(row, options, config) if fits else {'error': 'does not fit'}
                fits = mine.get('error') != 'does not fit'
                platform = mine.get('platform')
                if work == 'inference' and options.reference and platform:
                    # On a CPU torch.compile needs a C++ compiler, and is not of interest here.
                    for side in TORCH if platform != 'cpu' else ('torch',):
                        other = row._replace(side=side, platform=platform)
                        theirs[side] = measure(other, options, config)
                found.append((row, mine, theirs))
                print(cells(*found[-1]), file=sys.stderr, flush=True)
    return found


def cells(row: Row, mine: dict, theirs: dict) -> str:
    """A line of the table."""
    line = [row.work, row.dtype, str(row.batch)]
    if 'error' in mine:
        line += [mine['error'], *[''] * 5]
    else:
        line += [f'{1e3 * mine[name]:.2f}' for name in ('best', 'median')]
        line.append(f'{row.batch / mine["best"]:.4g}')
        line += [
            f'{mine[count] / mine["best"] / mine["peak"]:.1%}' if mine['peak'] else 'not known'
            for count in ('flops', 'products')
        ]
        line.append(f'{mine["memory"] / 1e9:.3g}')
    for side in TORCH:
        figures = theirs.get(side, {})
        rate = f'{row.batch / figures["best"]:.4g} clips/s' if 'best' in figures else ''
        line.append(rate or figures.get('error', ''))
    return f'| {" | ".join(line)} |'


def listed(text: str) -> list[str]:
    return [part for part in text.split(',') if part]


def sizes(text: str) -> list[int]:
    return [int(part) for part in listed(text)]


def main(measure_row=in_process_of_its_own) -> None:
    """`measure_row` is `measure` to stay in this process, whose peak memory then grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--reference', help='a checkout of WZq975/STSANet')
    parser.add_argument('--inference', type=sizes, default=[1, 8], help='batch sizes')
    parser.add_argument('--training', type=sizes, default=[1, 2, 4, 8, 16, 32], help='batch sizes')
    parser.add_argument('--dtypes', type=listed, default=['float32', 'bfloat16'])
    parser.add_argument('--repeats', type=int, default=10)
    parser.add_argument('--config', default='configs/dhf1k.py')
    parser.add_argument('--row', type=parse_row, help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args()
    config = load_config(options.config, overrides)
    if options.row:
        print(json.dumps(measure(options.row, options, config)))
        return
    found = measure_all(measure_row, options, config)
    devices = dict.fromkeys(mine['device'] for _, mine, _ in found if 'device' in mine)
    height, width = config.model.image_size
    print(f'{", ".join(devices) or "no device"}: clips of {config.model.frames}x{height}x{width}\n')
    print(f'| {" | ".join(HEAD)} |\n{"|---" * len(HEAD)}|')
    print(*(cells(*each) for each in found), sep='\n')


if __name__ == '__main__':
    exit_cleanly(main)
