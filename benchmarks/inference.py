"""One clip at full size: our forward pass against the released PyTorch code, or matrix products.

    python -m benchmarks.inference [--reference=CHECKOUT] [--repeats=5] [--batch_size=1]
        [--config.field=value]

    python -m benchmarks.inference --config=configs/vinet.py --reference=CHECKOUT

CHECKOUT is a checkout of WZq975/STSANet, or of the repository of the config's model (tinyHD's and
SalEMA's need torchvision); with it (and PyTorch) the two alternate, each in its own process and
ours with the memory settings of predict.py, on the same clip and threads. The ratio of their best
times is printed, and that of their processor seconds, which is steadier on a busy machine;
`taskset -c 0` in front gives both one core. Without CHECKOUT the ratio is to the time of the
multiply-adds at this machine's matrix-product rate, measured in the same run. Weights are random,
which does not affect the time. STSANet supports only the full size.
"""

import argparse
import contextlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.limits import Limits
from benchmarks.processes import alternating, on_demand, serve
from benchmarks.released import released_map, released_network
from stsa_jax.configuration import load_config
from stsa_jax.errors import exit_cleanly
from stsa_jax.inference import cost
from stsa_jax.ops import cpu
from stsa_jax.training import run_config
from stsa_jax.weights.initial import initial_weights
from stsa_jax.weights.pretrained import SaliencyModel

LIMIT, ZOO_LIMIT = 0.55, 0.8  # of the released code's time, for STSA-Net and the other models


def multiply_adds(config) -> int:
    """Of the convolutions of one clip, as published: 192.75e9 at 32x224x384."""
    return cost.total(cost.cost(config)).convolutions


def matrix_product(size: int):
    """A function that multiplies two square matrices, and its multiply-adds."""
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    return lambda: product(a).block_until_ready(), size**3


def released_run(checkout: str, kind: str, config, clip: np.ndarray):
    """A function that predicts the clip with the released network."""
    import torch

    reference = released_network(checkout, kind, config.target)
    tensor = torch.from_numpy(clip).permute(0, 4, 1, 2, 3).contiguous()

    def run():
        with torch.inference_mode():
            released_map(reference, kind, tensor)

    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--reference', help="a checkout of WZq975/STSANet, or of the model's code")
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--batch_size', type=int, default=1)
    parser.add_argument(
        '--dtype', choices=('float32', 'bfloat16'), help='default: as in the config'
    )
    parser.add_argument('--side', choices=('released',), help=argparse.SUPPRESS)
    parser.add_argument('--config', default='configs/dhf1k.py')
    parser.add_argument('--matrix_size', type=int, default=4096, help='of the matrix product')
    options, overrides = parser.parse_known_args()

    config = load_config(options.config, overrides)
    if options.dtype:
        config.model.dtype = options.dtype
    kind, config = config.kind, run_config.model_of(config)
    clip = np.random.default_rng(0).normal(
        size=(options.batch_size, config.frames, *config.image_size, 3)
    )
    clip = clip.astype(np.float32)
    if options.side:
        serve(released_run(options.reference, kind, config, clip))
        return 0
    with contextlib.ExitStack() as stack:
        released = None
        if options.reference:
            arguments = [*sys.argv[1:], '--side=released']
            released = stack.enter_context(on_demand('benchmarks.inference', arguments))
        return compare(config, clip, released, options)


def compare(config, clip: np.ndarray, released, options) -> int:
    """Alternates both sides and prints the results; returns the exit code."""
    _, params, batch_stats = initial_weights(config)
    model = SaliencyModel(config, params, batch_stats)
    clip = jnp.asarray(clip)
    product, product_adds = matrix_product(options.matrix_size)
    runs = {'ours': lambda: model(clip).block_until_ready(), 'matrix product': product}
    if released:
        runs['released'] = released
    best = alternating(runs, options.repeats)
    ours, adds = best['ours'], options.batch_size * multiply_adds(config)
    floor = adds / (product_adds / best['matrix product'].time)
    dtype = getattr(config, 'dtype', 'float32')
    print(f'device: {jax.devices()[0].device_kind}, {dtype}, batch {options.batch_size}')
    print(f'ours: {ours.time:.2f} s a batch, {options.batch_size / ours.time:.3f} clips/s')
    print(f'ratio to the matrix-product floor ({floor:.2f} s): {ours.time / floor:.2f}')
    limits = Limits()
    if released:
        theirs = best['released']
        print(f'released code, PyTorch eager: {theirs.time:.2f} s')
        ratio = ours.time / theirs.time
        limit = LIMIT if model.kind == 'stsanet' else ZOO_LIMIT
        print(f'ratio to it: {ratio:.2f} ({limits.check(f"limit {limit}", ratio <= limit)})')
        print(
            f'processor seconds: {ours.processor:.2f}, released code {theirs.processor:.2f}, ratio '
            f'{ours.processor / theirs.processor:.2f}'
        )
    return limits.exit_code


if __name__ == '__main__':
    if '--side=released' not in sys.argv:
        cpu.set_up()
    exit_cleanly(main)
