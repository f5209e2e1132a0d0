"""Errors of our float32 results against PyTorch's float64, beside those of PyTorch's float32.

    python -m benchmarks.fidelity --reference=CHECKOUT [--seeds=10] [--train_seeds=3] [--cache=DIR]

CHECKOUT is a checkout of WZq975/STSANet. Weights and clips are generated from seeds 0, 1, ... by
`tests/golden_rule.py`; full size, on the CPU, in both forms of our program: plain JAX, and the CPU
forms. PyTorch runs in its own process and caches its results in DIR; train mode in float64 takes
about 9 GB.

In eval mode the network is not continuous: where two features of a pooling window differ by less
than rounding, the pool's index flips and one value moves by a pixel. So beside the quantiles of
|difference| the flipped indices of both pools (before level 0's STSA layers I and II) are reported,
and the noise before each: the median of |difference| / |value| over non-zero features. The limit:
no more maps with a pixel beyond 1e-5 than PyTorch's float32 has, plus one.
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.limits import Limits
from benchmarks.released_results import rule, sample
from stsa_jax.distribution import sharding
from stsa_jax.errors import exit_cleanly
from stsa_jax.metrics import losses
from stsa_jax.models import functional
from stsa_jax.models.stsanet import STSANet, STSANetConfig
from stsa_jax.ops import cpu, forms
from stsa_jax.ops.pooling import max_pool_2x2_with_indices
from stsa_jax.training import StepOptions, remat
from stsa_jax.weights import port

NAMES = Path(rule.__file__).parent / 'data' / 'stsanet_state_dict.json'
FAR = 1e-5  # for saliency in [0, 1]
ALLOWED = 1  # how many more such maps than PyTorch's float32
PYTORCH = "PyTorch's float32"
QUANTILES = (50, 99, 99.9, 100)
POOLS = {'1': 'branch0.compress', '2': 'branch0.middle'}  # the input of each, by our taps


class MapErrors(NamedTuple):
    """For one map: quantiles of |difference|, flipped indices and noise of each pool."""

    quantiles: list[float]
    flipped: list[int]
    noise: list[float]

    @property
    def largest(self) -> float:
        return self.quantiles[-1]


class TrainErrors(NamedTuple):
    """For one pass in train mode: the map as above; relative errors of loss and gradient norms."""

    quantiles: list[float]
    loss: float
    gradients: list[float]  # median and largest


def quantiles(found: np.ndarray, exact: np.ndarray) -> list[float]:
    """`QUANTILES` of |found - exact|; the last is the maximum."""
    return np.percentile(np.abs(found.astype(np.float64) - exact), QUANTILES).tolist()


def flipped(found: np.ndarray, exact: np.ndarray) -> int:
    """The number of indices that differ."""
    return int((found != exact).sum())


def noise(found: np.ndarray, exact: np.ndarray) -> float:
    """Median of |found - exact| / |exact|, where `exact` is not zero."""
    there = exact != 0
    return float(np.median(np.abs(found[there] / exact[there] - 1)))


def map_errors(found: dict, exact: dict) -> MapErrors:
    """Errors of eval mode results, as in `benchmarks.released_results` without the dtype."""
    return MapErrors(
        quantiles(found['map'], exact['map']),
        [flipped(found[f'place_{n}'], exact[f'place_{n}']) for n in POOLS],
        [noise(found[f'before_{n}'], exact[f'before_{n}']) for n in POOLS],
    )


def train_errors(found: dict, exact: dict) -> TrainErrors:
    """Errors of train mode results, likewise."""
    gradients = np.abs(found['grad_norm'] / exact['grad_norm'] - 1)
    return TrainErrors(
        quantiles(found['map'], exact['map']),
        abs(float(found['loss'] / exact['loss']) - 1),
        [float(np.median(gradients)), float(gradients.max())],
    )


def weights(seed: int):
    """Our params and batch_stats from the golden rule."""
    shapes = json.loads(NAMES.read_text())
    return port.from_torch({name: rule.tensor(name, shape, seed) for name, shape in shapes.items()})


def evaluation() -> Callable[[int], dict]:
    """A function of a seed that returns our eval mode results."""
    graphdef, *_ = functional.abstract(STSANet, STSANetConfig())

    @jax.jit
    def run(params, batch_stats, clip):
        saliency, taps = functional.apply(
            graphdef, params, batch_stats, clip, return_intermediates=True
        )
        results = {'map': saliency[0]}
        for n, name in POOLS.items():
            results[f'before_{n}'] = taps[name][0]
            results[f'place_{n}'] = max_pool_2x2_with_indices(taps[name])[1][0]
        return results

    def results(seed):
        found = jax.device_get(run(*weights(seed), rule.clip(seed)))
        return {k: sample(a) if k.startswith('before') else a for k, a in found.items()}

    return results


def training(names: list[str]) -> Callable[[int], dict]:
    """A function of a seed that returns our train mode results, for the parameters `names`."""
    graphdef, *_ = functional.abstract(STSANet, STSANetConfig())
    mesh = sharding.make_mesh(devices=jax.devices()[:1])

    keep = StepOptions().keep_for_gradient
    apply = remat.apply(graphdef, keep)

    def loss_fn(params, batch_stats, clip, density):
        saliency, _ = apply(params, batch_stats, clip, train=True)
        return losses.saliency_loss(saliency, density).mean(), saliency[0]

    @functools.partial(jax.jit, compiler_options=cpu.step_options(keep))
    def run(*inputs):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # as in a training step
            return jax.value_and_grad(loss_fn, has_aux=True)(*inputs)

    def results(seed):
        (loss, saliency), gradients = jax.device_get(
            run(*weights(seed), rule.clip(seed), rule.density(seed))
        )
        gradients = port.to_torch(gradients)
        norms = [np.linalg.norm(gradients[name].astype(np.float64)) for name in names]
        return {'map': saliency, 'loss': loss, 'grad_norm': np.array(norms)}

    return results


def row(*cells) -> None:
    """Prints a line of a Markdown table; numbers below 1 with two digits."""
    shown = (f'{c:.1e}' if isinstance(c, float) else str(c) for c in cells)
    print(f'| {" | ".join(shown)} |', flush=True)


def head(*cells) -> None:
    """Prints the head of a Markdown table."""
    row(*cells)
    row(*['---'] * len(cells))


def compare(cache: Path, kind: str, seeds: int, side: str, results, errors) -> list:
    """Prints one side's errors, a row per seed, and returns them.

    `results(seed)` are that side's; with None, PyTorch's float32 ones. `kind` is 'eval' or 'train'.
    """
    rows = []
    for seed in range(seeds):
        of = functools.partial(released, cache, kind, seed)
        rows.append(errors(results(seed) if results else of('float32'), of('float64')))
        cells = (x for part in rows[-1] for x in (part if isinstance(part, list) else [part]))
        row(side, seed, *cells)
    return rows


def released(cache: Path, kind: str, seed: int, dtype: str) -> dict:
    """PyTorch's results in one dtype from the cache."""
    with np.load(cache / f'{kind}_{seed}.npz') as file:
        return {k.removeprefix(f'{dtype}/'): file[k] for k in file if k.startswith(dtype)}


def summary(sides: dict[str, list[MapErrors]]) -> int:
    """Prints the number of maps beyond FAR of each side, and the limits; returns the exit code."""
    limits, far = Limits(), {}
    for side, rows in sides.items():
        far[side] = sum(one.largest > FAR for one in rows)
        flips = sum(sum(one.flipped) for one in rows)
        verdict = ''
        if side != PYTORCH:
            allowed = far[PYTORCH] + ALLOWED
            verdict = f' ({limits.check(f"limit {allowed}", far[side] <= allowed)})'
        print(
            f'{side}: {far[side]} of {len(rows)} maps beyond {FAR:g} somewhere{verdict}, '
            f'{flips} flipped indices, median of the largest differences '
            f'{np.median([one.largest for one in rows]):.1e}'
        )
    return limits.exit_code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--reference', required=True, help='a checkout of WZq975/STSANet')
    parser.add_argument('--seeds', type=int, default=10, help='in eval mode')
    parser.add_argument('--train_seeds', type=int, default=3, help='in train mode')
    parser.add_argument('--cache', help="a folder for PyTorch's results; default: a temporary one")
    options = parser.parse_args()
    jax.config.update('jax_platforms', 'cpu')  # where PyTorch's side computes
    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(options.cache or temporary)
        arguments = [f'--reference={options.reference}', f'--cache={cache}']
        arguments += [f'--seeds={options.seeds}', f'--train_seeds={options.train_seeds}']
        command = [sys.executable, '-m', 'benchmarks.released_results', *arguments]
        subprocess.run(command, check=True)
        return report(cache, options.seeds, options.train_seeds)


def report(cache: Path, seeds: int, train_seeds: int) -> int:
    """Runs our sides, prints both tables; returns the exit code."""
    shares = [f'{q:g} %' if q < 100 else 'largest' for q in QUANTILES]
    of_pools = [f'{what} {"I" * int(n)}' for what in ('flipped', 'noise') for n in POOLS]
    head('eval mode', 'seed', *shares, *of_pools)
    sides = {PYTORCH: compare(cache, 'eval', seeds, PYTORCH, None, map_errors)}
    for form in forms.FORMS:
        side = f'ours, {form}'
        with forms.use(form):
            sides[side] = compare(cache, 'eval', seeds, side, evaluation(), map_errors)
    print()
    exit_code = summary(sides)
    if train_seeds:
        print()
        head('train mode', 'seed', *shares, 'loss', 'gradients, median', 'gradients, largest')
        compare(cache, 'train', train_seeds, PYTORCH, None, train_errors)
        with np.load(cache / 'train_0.npz') as file:
            names = file['names'].tolist()
        for form in forms.FORMS:
            side = f'ours, {form}'
            with forms.use(form):
                compare(cache, 'train', train_seeds, side, training(names), train_errors)
    return exit_code


if __name__ == '__main__':
    exit_cleanly(main)
