"""The released network's results in float32 and float64, with the weights of the golden rule.

    python -m benchmarks.released_results --reference=CHECKOUT --cache=DIR [--seeds=10]
        [--train_seeds=3]

writes the references for `benchmarks.fidelity`, DIR/eval_SEED.npz and DIR/train_SEED.npz, unless
they exist: use one DIR per checkout and PyTorch version. Weights, clips and density maps are those
of `tests/golden_rule.py`. A float64 training pass takes about 9 GB. Does not import JAX.

Keys of both are `DTYPE/map` `(H, W)` with DTYPE float32 or float64. Eval mode adds, for the two max
pools with indices, N = 1 and 2 (before level 0's STSA layers I and II): the indices
`DTYPE/place_N`, int8 `(4, H/8, W/8, C)`, 2 * row + column inside the window, and a sample of the
input features, `DTYPE/before_N`. Train mode adds `DTYPE/loss`, and `DTYPE/grad_norm` in the order
of `names`.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.released import released_model, saliency_loss
from stsa_jax.files import atomic_path

sys.path.append(str(Path(__file__).parents[1] / 'tests'))
import golden_rule as rule

DTYPES = ('float32', 'float64')
EVERY = 61  # the sample has every 61st element of a feature map: prime, to cover all channels


def sample(features: np.ndarray) -> np.ndarray:
    """Evenly spread elements of features `(T, H, W, C)`."""
    return features.ravel()[::EVERY]


def window_places(flat: np.ndarray, width: int) -> np.ndarray:
    """PyTorch's indices of a 2x2 max pool, into `(T, H, W)`, as 2 * row + column in the window."""
    return (2 * (flat // width % 2) + flat % width % 2).astype(np.int8)


def evaluated(network, clip) -> dict[str, np.ndarray]:
    """The map, and the inputs and indices of the two pools, of one pass in eval mode."""
    import torch

    results: dict[str, np.ndarray] = {}

    def look(pool, inputs, outputs):
        n = 1 + sum(name.startswith('place') for name in results)
        features, flat = (x[0].permute(1, 2, 3, 0).numpy() for x in (inputs[0], outputs[1]))
        results[f'before_{n}'] = sample(features)
        results[f'place_{n}'] = window_places(flat, features.shape[2])

    hook = network.pool_2.register_forward_hook(look)
    with torch.inference_mode():
        results['map'] = network.eval()(clip)[0].numpy()
    hook.remove()
    return results


def trained(network, clip, density) -> dict[str, np.ndarray]:
    """Map, loss and the norm of each parameter's gradient, of one pass in train mode."""
    saliency = network.train()(clip)
    loss = saliency_loss(saliency, density).mean()
    loss.backward()
    norms = [float(p.grad.double().norm()) for p in network.parameters()]
    network.zero_grad()
    result = {'map': saliency.detach()[0].numpy(), 'loss': loss.detach().numpy()}
    return result | {'grad_norm': np.array(norms)}


def write(path: Path, network, run, *inputs: np.ndarray) -> None:
    """Writes the results of `run(network, *inputs)` in both dtypes; `network` has the weights."""
    import torch

    results: dict[str, Any] = {'names': [name for name, _ in network.named_parameters()]}
    for dtype in (getattr(torch, name) for name in DTYPES):
        found = run(network.to(dtype), *(torch.from_numpy(x).to(dtype) for x in inputs))
        results |= {f'{str(dtype).removeprefix("torch.")}/{name}': a for name, a in found.items()}
    with atomic_path(path) as part:
        np.savez_compressed(part, **results)
    print(f'wrote {path}', file=sys.stderr, flush=True)


def main() -> int:
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--reference', required=True, help='a checkout of WZq975/STSANet')
    parser.add_argument('--cache', required=True, help='the folder for the results')
    parser.add_argument(
        '--seeds', type=int, default=10, help='number of seeds, 0, 1, ..., in eval mode'
    )
    parser.add_argument('--train_seeds', type=int, default=3, help='and in train mode')
    options = parser.parse_args()
    network, folder = released_model(options.reference), Path(options.cache)
    folder.mkdir(parents=True, exist_ok=True)
    work: list[tuple[Path, int, Callable]]
    work = [(folder / f'eval_{seed}.npz', seed, evaluated) for seed in range(options.seeds)]
    work += [(folder / f'train_{seed}.npz', seed, trained) for seed in range(options.train_seeds)]
    for path, seed, run in work:
        if path.exists():
            continue
        network.float().load_state_dict(
            {
                name: torch.from_numpy(rule.tensor(name, tuple(tensor.shape), seed))
                for name, tensor in network.state_dict().items()
            }
        )
        clip = rule.clip(seed).transpose(0, 4, 1, 2, 3).copy()
        write(path, network, run, clip, *([rule.density(seed)] if run is trained else []))
    return 0


if __name__ == '__main__':
    main()
