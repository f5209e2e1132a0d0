"""Modelled times of inference and of a training step on a TPU, from its compiler, without a TPU.

    python -m benchmarks.tpu [--topology=v5e:2x2] [--work=inference,training] [--batch=1,8]
        [--dtype=float32,bfloat16] [--top=20] [--json=FILE] [--hlo=FILE] [--config.field=value]
    python -m benchmarks.tpu --model=tinyhd_s,vinet --work=inference --batch=8 --dtype=bfloat16

Compiles for one chip of the topology. This needs libtpu, the TPU compiler, which comes with `pip
install 'jax[tpu]'` (in a separate environment if there is no TPU), but no TPU. At full size each
program takes both of two cores for two minutes or more, and 3 GB.

**Every time here is modelled**, not measured: the sum of the compiler's cycle estimates for each
operation, in sequence, at the chip's clock. Use it to compare two versions of a program, and to
find its expensive operations. Details:

- A loop's body counts once per iteration (loops of unknown length are listed), a fusion as a whole,
  a conditional as its most expensive branch. `benchmarks/hlo_runs.py` does the counting.
- The estimates of a few fusions overflow: these count as their memory traffic at full bandwidth.
- Copies between HBM and on-chip memory that run concurrently with the computation are not counted.
- The fraction of the peak counts the convolutions of the published architecture, by `stsa_jax.cost`
  (three times that for a training step), without attention's products, so it is slightly low. It is
  relative to the dense bfloat16 peak, for float32 too, whose products a TPU computes in bfloat16 by
  default.
- The bytes accessed are XLA's count, which counts a loop's body once and includes on-chip accesses.

Prints a line for each program, and for each the `--top` most expensive operations, with the modules
whose parameters they read and their source locations, innermost first; then the time by kind of
operation and by source location. `--json=FILE` writes all of it; `--hlo=FILE` writes the compiled
program, with the row's name in the file name if there are several. `--model` are names of configs
in configs/, each of which gets a table; a model without a field `dtype` gets clips of that type,
which its activations follow.
"""

import argparse
import itertools
import json
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks import hlo_runs
from benchmarks.gpu import Row, does_not_fit, listed, sizes
from benchmarks.hlo import Frame, Program, parse
from benchmarks.hlo_runs import Run
from benchmarks.topologies import CHIPS, lowered_inference, lowered_step, slice_devices
from stsa_jax.configuration import load_config
from stsa_jax.errors import InputError, exit_cleanly
from stsa_jax.files import write_atomic

ROOT = Path(__file__).parents[1]
HEAD = (
    *('work', 'dtype', 'batch', 'modelled ms per clip', 'of peak', 'GB accessed per clip'),
    *('temporary GB', 'operations', 'compile, s'),
)


def lowered(row: Row, config, device):
    """The lowered program of a row."""
    from stsa_jax import training
    from stsa_jax.distribution import sharding
    from stsa_jax.training import run_config

    config = config.copy_and_resolve_references()
    if 'dtype' in config.model:
        config.model.dtype = row.dtype
    if row.work == 'inference':
        return lowered_inference(run_config.model_of(config), row.batch, device, row.dtype)
    if row.dtype != 'float32' and 'dtype' not in config.model:
        raise InputError(f'--dtype={row.dtype}: {config.kind} is trained in float32 alone')
    mesh = sharding.make_mesh(1, 1, [device])
    return lowered_step(config, mesh, row.batch, training.StepOptions.of(config))[0]


def figures(row: Row, config, device) -> tuple[dict, str]:
    """The row's results by name, all modelled or counted by the compiler, and its program."""
    program = lowered(row, config, device)
    start = time.perf_counter()
    compiled = program.compile()
    seconds, text = time.perf_counter() - start, compiled.as_text()
    program, (clock, bandwidth, _) = parse(text), CHIPS[device.device_kind]
    runs = hlo_runs.runs(program, bandwidth / clock)
    cycles = sum(run.cycles for run in runs)
    timed = [run for run in runs if run.cycles]
    found = {
        'modelled_ms': 1e3 * cycles / clock / row.batch,
        'bytes_accessed': compiled.cost_analysis()['bytes accessed'] / row.batch,
        'temporary_bytes': compiled.memory_analysis().temp_size_in_bytes,
        'operations': len(timed),
        'background': len(runs) - len(timed),
        'compile_seconds': seconds,
        'without_estimate': sorted(run.instruction.name for run in runs if run.assumed),
        'loops_of_unknown_length': sorted({run.loop for run in runs if run.loop}),
    }
    dearest = sorted(timed, key=lambda run: -run.cycles)
    found['operations_by_time'] = [described(program, run, cycles, clock, row) for run in dearest]
    return found, text


def figures_or_error(row: Row, config, device) -> tuple[dict, str]:
    """The same; {'error': why} and '' for a program that does not fit the chip's memory."""
    try:
        return figures(row, config, device)
    except RuntimeError as error:  # as JAX's errors are
        if does_not_fit(error):
            return {'error': 'does not fit'}, ''
        raise


def described(program: Program, run: Run, cycles: int, clock: float, row: Row) -> dict:
    """An operation as a dict, for printing and for JSON."""
    instruction = run.instruction
    operands = program.computations[run.computation].instructions
    return {
        'name': instruction.name,
        'modelled_ms': 1e3 * run.cycles / clock / row.batch,
        'share': run.cycles / cycles,
        'times': run.times,
        'kind': hlo_runs.kind(program, instruction),
        'result': instruction.shape,
        'operands': [operands[name].shape for name in instruction.operands if name in operands],
        'source': own_places(hlo_runs.stack(program, run)),
        'weights': hlo_runs.weights(program, run),
        'op_name': instruction.op_name,
    }


def own_places(stack: list[Frame]) -> list[str]:
    """'file:line' of the project's own frames, innermost first, files from the project's root."""
    places = []
    for frame in stack:
        path = Path(frame.file)
        if (
            path.is_relative_to(ROOT)
            and 'site-packages' not in path.parts
            and path != Path(__file__)
        ):
            places.append(f'{path.relative_to(ROOT)}:{frame.line}')
    return places


def place(operation: dict, depth: int = 3) -> str:
    """The source location of an operation for a table, with its callers in other files."""
    by_file = itertools.groupby(operation['source'], key=lambda place: place.split(':')[0])
    places = [next(places) for _, places in by_file]
    return ' < '.join(places[:depth]) or operation['op_name'] or 'the compiler'


def layer(operation: dict) -> str:
    """The modules whose parameters an operation reads; the first of many."""
    modules = list(dict.fromkeys(name.rpartition('.')[0] for name in operation['weights']))
    return ''.join(modules[:1]) + (f' and {len(modules) - 1} more' if modules[1:] else '')


def cells(row: Row, found: dict) -> str:
    """A line of the table."""
    line = [row.work, row.dtype, str(row.batch)]
    if 'error' in found:
        return f'| {" | ".join([*line, found["error"], *[""] * 5])} |'
    line += [
        f'{found["modelled_ms"]:.4g}',
        f'{found["of_peak"]:.1%}',
        f'{found["bytes_accessed"] / 1e9:.3g}',
        f'{found["temporary_bytes"] / 1e9:.3g}',
        str(found['operations']),
        f'{found["compile_seconds"]:.0f}',
    ]
    return f'| {" | ".join(line)} |'


def print_details(row: Row, found: dict, top: int) -> None:
    """Prints the most expensive operations, kinds and source locations of a row."""
    operations = found['operations_by_time']
    print(f'\n{row.work}, {row.dtype}, batch {row.batch}: where the modelled time goes\n')
    if loops := found['loops_of_unknown_length']:
        print(f'Loops of unknown length, counted once: {", ".join(loops)}.\n')
    if names := found['without_estimate']:
        print(f'Without an estimate, counted as their memory traffic: {", ".join(names)}.\n')
    print('| modelled ms per clip | share | times | kind | result | operands | layer | source |')
    print('|---' * 8 + '|')
    for each in operations[:top]:
        counted = Counter(short(shape) for shape in each['operands'])
        operands = ', '.join(f'{n} x {x}' if n > 1 else x for x, n in counted.items())
        print(
            f'| {each["modelled_ms"]:.3f} | {each["share"]:.1%} | {each["times"]} '
            f'| {each["kind"]} | {short(each["result"])} | {operands} '
            f'| {layer(each)} | {place(each)} |'
        )
    for title, key in (
        ('kind', lambda each: each['kind']),
        ('source', place),
    ):
        times: Counter = Counter()
        numbers: Counter = Counter()
        for each in operations:
            times[key(each)] += each['modelled_ms']
            numbers[key(each)] += 1
        print(f'\n| {title} | modelled ms per clip | share | operations |\n|---|---|---|---|')
        for name, milliseconds in times.most_common(top):
            share = milliseconds / found['modelled_ms']
            print(f'| {name} | {milliseconds:.3f} | {share:.1%} | {numbers[name]} |')


def short(shape: str) -> str:
    """A shape with the order of its axes in memory, innermost first, without tiles."""
    return re.sub(r'/\*.*?\*/', '', re.sub(r':[^{}]*\}', '}', shape))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--topology', default='v5e:2x2', help='of a TPU slice, for its chip')
    parser.add_argument('--work', type=listed, default=['inference', 'training'])
    parser.add_argument('--batch', type=sizes, default=[1, 8], help='clips')
    parser.add_argument('--dtype', type=listed, default=['float32', 'bfloat16'])
    parser.add_argument('--top', type=int, default=20, help='number of operations to list')
    parser.add_argument('--json', type=Path, help='a file for all numbers')
    parser.add_argument('--hlo', type=Path, help='a file for the compiled program')
    parser.add_argument('--config', default='configs/dhf1k.py')
    parser.add_argument('--model', type=listed, default=[], help='names of configs, for --config')
    options, overrides = parser.parse_known_args()
    files = [f'{ROOT}/configs/{name}.py' for name in options.model] or [options.config]
    configs = [load_config(file, overrides) for file in files]
    if options.json and configs[1:]:
        raise InputError('--json is for one model at a time')
    if unknown := set(options.work) - {'inference', 'training'}:
        raise InputError(f'--work={unknown.pop()}: expected inference, training or both')
    # Without the compilation cache, because compiling is timed.
    os.environ |= {'JAX_PLATFORMS': 'cpu', 'JAX_ENABLE_COMPILATION_CACHE': 'false'}
    device = slice_devices(options.topology)[0]
    kind = device.device_kind
    if kind not in CHIPS:
        raise InputError(
            f'--topology={options.topology}: the clock of a {kind} is not known here; expected '
            f'one of {", ".join(CHIPS)} (v5e:2x2), or add it to CHIPS in benchmarks/tpu.py'
        )
    for config in configs:
        report(config, device, options)


def report(config, device, options) -> None:
    """Compiles the programs of a model and prints its table."""
    import jax

    from stsa_jax.inference import cost
    from stsa_jax.training import meter, run_config

    kind = device.device_kind
    flops = 2 * cost.total(cost.cost(run_config.model_of(config))).convolutions
    peak = meter.peak_flops(kind)
    rows = [
        Row(work, dtype, batch, platform='tpu')
        for work in options.work
        for batch in options.batch
        for dtype in options.dtype
    ]
    results = []
    for row in rows:
        found, text = figures_or_error(row, config, device)
        if text:
            work = flops * (3 if row.work == 'training' else 1)
            found['of_peak'] = work / (1e-3 * found['modelled_ms']) / peak
        results.append((row, found))
        print(cells(row, found), file=sys.stderr, flush=True)
        if options.hlo and text:
            name = f'{options.hlo.stem}-{row.work}-{row.dtype}-{row.batch}{options.hlo.suffix}'
            write_atomic(options.hlo.with_name(name) if rows[1:] else options.hlo, text)
    height, width = config.model.image_size
    _, bandwidth, memory = CHIPS[kind]
    print(
        f'{config.kind}, modelled, not measured: one {kind} ({peak / 1e12:.0f} TFLOP/s bfloat16, '
        f'{bandwidth / 1e9:.0f} GB/s, {memory / 1e9:.0f} GB), clips of '
        f'{config.model.frames}x{height}x{width}, {flops / 1e9:.1f} GFLOP forward\n'
    )
    print(f'| {" | ".join(HEAD)} |\n{"|---" * len(HEAD)}|')
    print(*(cells(*each) for each in results), sep='\n')
    for row, found in results:
        if 'error' not in found and options.top:
            print_details(row, found, options.top)
    if options.json:
        programs = [
            {'work': row.work, 'dtype': row.dtype, 'batch': row.batch, **found}
            for row, found in results
        ]
        content = {
            'modelled': True,
            'device': kind,
            'jax': jax.__version__,
            'config': config.to_dict(),
            'flops_of_a_clip': flops,
            'programs': programs,
        }
        write_atomic(options.json, json.dumps(content, indent=1) + '\n')


if __name__ == '__main__':
    exit_cleanly(main)
