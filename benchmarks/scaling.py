"""Communication of a training step, and the expected efficiency on 1 to 1024 devices.

    python -m benchmarks.scaling [--clips=3] [--devices=8] [--config=configs/dhf1k.py]
    python -m benchmarks.scaling --topology=v5e:2x4    # compiled for TPUs

Compiles the config's step, data parallel, for eight devices that XLA simulates on this host, and
reads its collectives from the compiled program. With other numbers of devices the program differs
only in the size of the groups (see `--devices=64`), which determines the bytes. Prints a Markdown
table of the bytes that a device sends and of the efficiency, the speed of a device relative to one
that works alone. Then it compiles the step with the state sharded over all of these devices (fsdp),
and compares the bytes of the two programs' arguments on a device, without the batch: parameters,
BatchNorm's statistics and optimizer state (`--no-fsdp` skips this).

With `--topology` it uses the TPU compiler, for a slice of that name. This needs libtpu, which comes
with `pip install 'jax[tpu]'`, but no TPU. It then also prints the modelled time of a clip, the
memory that a chip needs, and which collectives run beside the computation.

The model of the time:

- A device computes at a fraction of its peak of bfloat16 products; a step has three times the
  operations of the forward pass, for `clips` clips per device. With `--topology` the fraction is
  that of the compiled program, by the compiler's own estimates (`benchmarks/tpu.py`), for all TPUs;
  otherwise, and for GPUs, it is assumed to be UTILISATION.
- An all-reduce of V bytes over N devices sends 2 (N - 1) / N V from each, as in a ring; no
  algorithm sends less. It takes the time of a device's outgoing link, plus two latencies for each
  doubling of N. Beyond a group of devices with fast links, each device exchanges its part of V with
  the other groups.
- Lower efficiency: no overlap of communication and computation. Upper efficiency: the gradients'
  all-reduce overlaps the backward pass, two thirds of the step. BatchNorm's sums, which the next
  layer waits for, never overlap.
"""

import argparse
import math
import os
import re
import sys
from typing import NamedTuple

from benchmarks import hlo, hlo_runs
from benchmarks.limits import Limits
from benchmarks.topologies import CHIPS, lowered_step, slice_devices
from stsa_jax.configuration import load_config
from stsa_jax.errors import exit_cleanly

COUNTS = [2**k for k in range(11)]
LARGE = 2**20  # bytes; BatchNorm's sums are far smaller, and combined gradients larger
UTILISATION = 0.4
FORWARD = 2 * 192.75e9  # operations of one clip, see benchmarks/inference.py
COLLECTIVE = 'all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute'
_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'f16': 2, 'bf16': 2}
_BYTES |= {'s32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8}


class Device(NamedTuple):
    """Data-sheet numbers: outgoing bandwidths of one device, in bytes per second."""

    peak: float  # bfloat16 operations per second
    near: float  # between the devices of one group
    group: int  # the number of devices in a group
    far: float  # between groups
    near_latency: float  # seconds per hop
    far_latency: float


# TPU: torus links of 45 (v5e, 4 of them) and 90 (v5p, 6) GB/s, half of which a ring over all axes
# can use where a slice is too small to wrap around. Slices of v5e end at 256 chips; beyond, a host
# of 4 chips has 25 GB/s. H100, H200: NVLink of 450 GB/s among 8, then 400 Gbit/s for each GPU.
DEVICES = {
    'TPU v5e': Device(197e12, 90e9, 256, 6.25e9, 1e-6, 2e-5),
    'TPU v5p': Device(459e12, 270e9, 8960, 6.25e9, 1e-6, 2e-5),
    'H100, H200': Device(989e12, 450e9, 8, 50e9, 2e-6, 5e-6),
}


class Collective(NamedTuple):
    """A collective operation of a compiled program; `size` is the bytes of its whole array."""

    kind: str
    size: int
    group: int  # the number of participating devices
    beside: bool = False  # whether it runs beside the computation, from a start to a done

    def sent(self, group: int | None = None) -> float:
        """Bytes that each device sends, in a ring."""
        n = group or self.group
        if self.kind == 'collective-permute':
            return self.size
        return (2 if self.kind == 'all-reduce' else 1) * (n - 1) / n * self.size


def collectives(text: str) -> list[Collective]:
    """The collectives of a compiled program's text (HLO), by `compiled.as_text()`.

    The TPU compiler may turn a reduce-scatter or an all-gather into a ring of permutations in a
    loop with its matrix product, or a reduce-scatter into a fusion of an all-reduce. They are
    counted as the original collectives.
    """
    found, inside, rings = [], '', set()
    pattern = re.compile(rf'= (.*?) ({COLLECTIVE})(-start)?\((.*)')
    for line in text.splitlines():
        if head := re.match(r'\s*(?:ENTRY )?(%\S+) \(.*\{$', line):
            inside = head[1]
            continue
        if not (match := pattern.search(line)):
            continue
        result, kind, start, rest = match.groups()
        group = _group_size(rest)
        sizes = [
            _BYTES[dtype] * math.prod(int(n) for n in shape.split(',') if n)
            for dtype, shape in re.findall(r'\b(\w+)\[([\d,]*)\]', result)
        ]
        size = sum(sizes)
        if kind == 'reduce-scatter':
            size *= group
        elif kind == 'all-reduce' and inside.startswith('%all-reduce-scatter'):
            kind = 'reduce-scatter'
        elif kind == 'all-gather' and start:  # its result names the operand as well
            size = size * group // (group + 1)
        elif kind == 'collective-permute':
            size = sizes[0]  # after `-start`, the operand, the result and two counters
            if ring := re.search(r'windowed_dot_general_body_(rs|ag)', inside):
                if inside in rings:
                    continue
                rings.add(inside)
                kind = {'rs': 'reduce-scatter', 'ag': 'all-gather'}[ring[1]]
                size *= group
        found.append(Collective(kind, size, group, bool(start) or 'async' in inside))
    return found


def _group_size(text: str) -> int:
    if iota := re.search(r'replica_groups=\[\d+,(\d+)\]', text):
        return int(iota[1])
    if listed := re.search(r'replica_groups=\{\{([\d,]+)\}', text):
        return listed[1].count(',') + 1
    if named := re.search(r'replica_groups=mesh\[(.*?)\][^{]*\{(.*?)\}', text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    if pairs := re.search(r'source_target_pairs=\{(\{[\d,{}]+\})\}', text):
        following = dict(re.findall(r'(\d+),(\d+)', pairs[1]))
        ring = list(following)[:1]
        while (place := following.get(ring[-1])) and place not in ring:
            ring.append(place)
        return len(ring)
    return 1


def seconds(device: Device, size: float, n: int) -> float:
    """Time of an all-reduce of `size` bytes over n devices."""
    near = min(n, device.group)
    far = n // near
    time = 2 * (near - 1) / near * size / device.near
    time += 2 * math.log2(near) * device.near_latency
    time += 2 * (far - 1) / far * size / near / device.far
    return time + 2 * math.log2(far) * device.far_latency


def efficiency(
    device: Device, sizes: list[int], n: int, clips: int, utilisation: float = UTILISATION
) -> tuple[float, float]:
    """(no overlap, gradients overlapped as far as possible) for n devices."""
    compute = 3 * FORWARD * clips / (utilisation * device.peak)
    large = sum(seconds(device, size, n) for size in sizes if size >= LARGE)
    small = sum(seconds(device, size, n) for size in sizes if size < LARGE)
    hidden = compute + small + max(0.0, large - compute * 2 / 3)
    return compute / (compute + small + large), compute / hidden


def compiled_step(config, devices: list, clips: int, fsdp: int = 1):
    """(the step's program for these devices, bytes of a device's part of the batch)."""
    from stsa_jax.distribution import sharding

    mesh = sharding.make_mesh(len(devices) // fsdp, fsdp, devices)
    lowered, batch = lowered_step(config, mesh, len(devices) * clips)
    # On a CPU only the communication matters, not the machine code.
    cheap = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}
    on_cpu = devices[0].platform == 'cpu'
    compiled = lowered.compile(compiler_options=cheap if on_cpu else None)
    return compiled, sharding.bytes_per_device(batch)


def state_bytes(compiled, batch_bytes: int) -> int:
    """The bytes of the program's arguments on a device without the batch, by XLA's analysis."""
    return compiled.memory_analysis().argument_size_in_bytes - batch_bytes


def describe(found: list[Collective]):
    """Prints the collectives by kind, on standard error."""
    for kind in sorted({c.kind for c in found}):
        of_kind = [c for c in found if c.kind == kind]
        groups = sorted({c.group for c in of_kind})
        print(
            f'  {len(of_kind)} {kind} of {sum(c.size for c in of_kind) / 1e6:.1f} MB in all, '
            f'{sum(c.size >= LARGE for c in of_kind)} of them over 1 MB, '
            f'{sum(c.beside for c in of_kind)} beside the computation; groups of {groups}',
            file=sys.stderr,
        )


def describe_chip(compiled, clips: int) -> float:
    """Prints a TPU program's modelled time and memory; returns the fraction of the peak."""
    name, (clock, bandwidth, memory) = next(iter(CHIPS.items()))
    runs = hlo_runs.runs(hlo.parse(compiled.as_text()), bandwidth / clock)
    computing = (run for run in runs if not re.match(COLLECTIVE, run.instruction.opcode))
    seconds = sum(run.cycles for run in computing) / clock / clips
    plan = compiled.memory_analysis()
    held = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    print(
        f'  modelled, {name}: {1e3 * seconds:.1f} ms per clip without communication; memory '
        f'{held / 1e9:.2f} GB of arguments and {plan.temp_size_in_bytes / 1e9:.2f} GB of '
        f'temporaries, of {memory / 1e9:.0f}',
        file=sys.stderr,
    )
    return 3 * FORWARD / seconds / DEVICES['TPU v5e'].peak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--config', default='configs/dhf1k.py')
    parser.add_argument('--clips', type=int, default=3, help='a device')
    parser.add_argument('--devices', type=int, default=8, help='to compile the program for')
    parser.add_argument('--topology', help='a TPU slice to compile for instead, such as v5e:2x4')
    parser.add_argument('--fsdp', action=argparse.BooleanOptionalAction, default=True)
    options, overrides = parser.parse_known_args()
    os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count={options.devices}'
    os.environ['JAX_PLATFORMS'] = 'cpu'
    import jax

    config = load_config(options.config, overrides)
    if options.topology:
        devices = slice_devices(options.topology)
    else:
        devices = jax.devices()[: options.devices]
    n = len(devices)
    compiled, batch_bytes = compiled_step(config, devices, options.clips)
    found, whole = collectives(compiled.as_text()), state_bytes(compiled, batch_bytes)
    others = {c.kind for c in found} - {'all-reduce'}
    kind = devices[0].device_kind
    print(f'compiled for {n} devices ({kind}), {options.clips} clips each:', file=sys.stderr)
    describe(found)
    of_tpus = describe_chip(compiled, options.clips) if kind in CHIPS else UTILISATION
    sizes = [c.size for c in found]
    print(f'| devices | clips per step | MB sent per device | {" | ".join(DEVICES)} |')
    print('|---' * (3 + len(DEVICES)) + '|')
    for count in COUNTS:
        sent = sum(c.sent(count) for c in found) / 1e6
        cells = [
            '{:.0%} to {:.0%}'.format(
                *efficiency(
                    device,
                    sizes,
                    count,
                    options.clips,
                    of_tpus if name.startswith('TPU') else UTILISATION,
                )
            )
            for name, device in DEVICES.items()
        ]
        print(f'| {count} | {count * options.clips} | {sent:.0f} | {" | ".join(cells)} |')
    if others:
        print(f'(also in the program: {", ".join(sorted(others))})', file=sys.stderr)
    limits = Limits()
    if options.fsdp:
        compiled, batch_bytes = compiled_step(config, devices, options.clips, fsdp=n)
        held = state_bytes(compiled, batch_bytes)
        print(f'with fsdp={n}:', file=sys.stderr)
        describe(collectives(compiled.as_text()))
        if kind in CHIPS:
            describe_chip(compiled, options.clips)
        verdict = limits.check(f'limit {n - 1}', whole / held >= n - 1)
        print(f'state on a device: {whole / 1e6:.1f} MB, with fsdp={n} {held / 1e6:.1f} MB')
        print(f'ratio: {whole / held:.2f} ({verdict})')
    return limits.exit_code


if __name__ == '__main__':
    exit_cleanly(main)
