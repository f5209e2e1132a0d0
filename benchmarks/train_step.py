"""One training step at full size: time and peak memory, beside the released PyTorch code.

    python -m benchmarks.train_step [--reference=CHECKOUT] [--repeats=3] [--batch_size=1]

A step is forward, backward and Adam. Each side runs in a process of its own, so that the peak
memory is its own; the processes run one after the other, with nothing else on the machine the ratio
is fair. CHECKOUT is a checkout of WZq975/STSANet; without one, the ratio is to three times the
network's multiply-adds at this machine's matrix-product rate. Weights are random.
"""

import argparse
import json
import resource
import subprocess
import sys

import numpy as np

from benchmarks.inference import MULTIPLY_ADDS, matrix_product, released_model, timed


def ours(batch_size: int, repeats: int) -> dict:
    """Best time of our step, in this process."""
    import jax
    from flax import nnx

    from stsa_jax import STSANet, STSANetConfig, optimizer, sharding, training
    from stsa_jax.functional import split

    config = optimizer.OptimizerConfig(schedule='constant')
    tx = optimizer.optimizer(config, 1)
    mesh = sharding.make_mesh(1, 1)
    graphdef, params, batch_stats = split(STSANet(STSANetConfig(), rngs=nnx.Rngs(0)))
    state = training.create_state(mesh, params, batch_stats, tx)
    del params, batch_stats
    rate = optimizer.learning_rate(config, 1, 1)
    step = training.make_train_step(graphdef, tx, rate, mesh)
    clip, density = example(batch_size)
    batch = sharding.put_batch(mesh, {'clip': clip, 'density': density})
    step = step.lower(state, batch).compile()
    times = []
    for _ in range(repeats + 1):

        def run():
            nonlocal state
            state, metrics = step(state, batch)
            jax.block_until_ready((state, metrics))

        times.append(timed(run))
    product, adds = matrix_product()
    product()
    return {'time': min(times[1:]), 'rate': adds / min(timed(product) for _ in range(3))}


def released(batch_size: int, repeats: int, checkout: str) -> dict:
    """Best time of the released network's step, in this process."""
    import torch

    model = released_model(checkout).train()
    adam = torch.optim.Adam(model.parameters(), lr=1e-4)
    clip, density = example(batch_size)
    clip = torch.from_numpy(clip.astype(np.float32) / 64 - 2).permute(0, 4, 1, 2, 3).contiguous()
    density = torch.from_numpy(density)

    def run():
        s, g = model(clip), density
        p, q = s / s.sum((1, 2), keepdim=True), g / g.sum((1, 2), keepdim=True)
        kl = (q * torch.log(2.2204e-16 + q / (p + 2.2204e-16))).sum((1, 2))
        a, b = s - s.mean((1, 2), keepdim=True), g - g.mean((1, 2), keepdim=True)
        cc = (a * b).sum((1, 2)) / ((a * a).sum((1, 2)) * (b * b).sum((1, 2))).sqrt()
        adam.zero_grad()
        (kl - cc).mean().backward()
        adam.step()

    return {'time': min([timed(run) for _ in range(repeats + 1)][1:])}


def example(batch_size: int):
    """A uint8 clip and a density map, as the training loop has them."""
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (batch_size, 32, 224, 384, 3), np.uint8)
    return clip, rng.uniform(size=(batch_size, 224, 384)).astype(np.float32)


def measured(side: str, options) -> dict:
    """Runs one side in a process of its own; its times, and its peak memory in bytes."""
    command = [sys.executable, '-m', 'benchmarks.train_step', f'--side={side}']
    command += [f'--repeats={options.repeats}', f'--batch_size={options.batch_size}']
    command += [f'--reference={options.reference}'] if options.reference else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--reference', help='a checkout of WZq975/STSANet')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--batch_size', type=int, default=1)
    parser.add_argument('--side', choices=('ours', 'released'), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        arguments = (options.batch_size, options.repeats)
        result = (
            ours(*arguments) if options.side == 'ours' else released(*arguments, options.reference)
        )
        result['peak'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(result))
        return
    mine = measured('ours', options)
    floor = 3 * options.batch_size * MULTIPLY_ADDS / mine['rate']
    print(f'ours: {mine["time"]:.2f} s a step, peak memory {mine["peak"] / 1e9:.2f} GB')
    print(f'ratio to the matrix-product floor ({floor:.2f} s): {mine["time"] / floor:.2f}')
    if options.reference:
        theirs = measured('released', options)
        print(
            f'released code, PyTorch eager: {theirs["time"]:.2f} s a step, peak memory '
            f'{theirs["peak"] / 1e9:.2f} GB'
        )
        print(f'ratio of the times: {mine["time"] / theirs["time"]:.2f} (limit 0.7)')
        print(f'ratio of the peaks: {mine["peak"] / theirs["peak"]:.2f} (limit 1)')


if __name__ == '__main__':
    main()
