"""One clip at full size: our forward pass beside the released PyTorch code, or the arithmetic.

    python -m benchmarks.inference [--reference=CHECKOUT] [--repeats=5] [--batch_size=1]

CHECKOUT is a checkout of WZq975/STSANet; with it (and PyTorch) the two run in turns in this
process, on the same clip and threads, and the ratio of their best times is printed. Without one,
it is to the time that the multiply-adds take at this machine's matrix-product rate, measured in the
same run. Weights are random: they change no time.
"""

import argparse
import importlib.util
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stsa_jax import STSANet, STSANetConfig
from stsa_jax.functional import split
from stsa_jax.pretrained import SaliencyModel

MULTIPLY_ADDS = 192.75e9  # of the convolutions of one clip at 32x224x384


def timed(run) -> float:
    """Seconds that `run()` takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def matrix_product(size: int = 4096):
    """A function that multiplies two square matrices, and its multiply-adds."""
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    return lambda: product(a).block_until_ready(), size**3


def released_model(checkout: str):
    """The released network from its checkout, in eval mode."""
    spec = importlib.util.spec_from_file_location('released', Path(checkout) / 'STSA_model.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.STSANet().eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--reference', help='a checkout of WZq975/STSANet')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--batch_size', type=int, default=1)
    parser.add_argument('--dtype', default='float32', choices=('float32', 'bfloat16'))
    options = parser.parse_args()

    config = STSANetConfig(dtype=options.dtype)
    _, params, batch_stats = split(STSANet(config, rngs=nnx.Rngs(0)))
    model = SaliencyModel(config, params, batch_stats)
    clip = np.random.default_rng(0).normal(size=(options.batch_size, 32, 224, 384, 3))
    clip = jnp.asarray(clip, jnp.float32)
    product, product_adds = matrix_product()
    runs = {'ours': lambda: model(clip).block_until_ready(), 'matrix product': product}
    if options.reference:
        import torch

        reference, tensor = released_model(options.reference), torch.from_numpy(np.array(clip))
        tensor = tensor.permute(0, 4, 1, 2, 3).contiguous()

        def run_reference():
            with torch.inference_mode():
                reference(tensor)

        runs['released'] = run_reference

    for run in runs.values():
        run()  # compiles, warms up
    times = {name: [] for name in runs}
    for _ in range(options.repeats):  # in turns, so that all meet the same load
        for name, run in runs.items():
            times[name].append(timed(run))
    best = {name: min(t) for name, t in times.items()}
    floor = options.batch_size * MULTIPLY_ADDS / (product_adds / best['matrix product'])
    print(f'device: {jax.devices()[0].device_kind}, {options.dtype}, batch {options.batch_size}')
    print(f'ours: {best["ours"]:.2f} s a batch, {options.batch_size / best["ours"]:.3f} clips/s')
    print(f'ratio to the matrix-product floor ({floor:.2f} s): {best["ours"] / floor:.2f}')
    if options.reference:
        print(f'released code, PyTorch eager: {best["released"]:.2f} s')
        print(f'ratio to it: {best["ours"] / best["released"]:.2f} (limit 0.6)')


if __name__ == '__main__':
    sys.exit(main())
