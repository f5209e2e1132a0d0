"""Frames of a video in a row on the CPU: with shared early features, against clip by clip.

    python -m benchmarks.sliding [--repeats=2] [--size=224,384] [--frames=32] [--width=1]

Both sides predict the same eight windows, one after the other, in each repeat; the ratios of their
best times per frame are printed, the largest difference of their maps, and how many multiply-adds
are kept from the windows before. The ratio of processor times holds on a busy machine too. Weights
are random.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.limits import Limits
from benchmarks.processes import timed
from stsa_jax import STSANetConfig
from stsa_jax.errors import exit_cleanly
from stsa_jax.inference.cost import cost, total
from stsa_jax.inference.sharing import FRAMES, SharingModel
from stsa_jax.inference.windows import Window
from stsa_jax.ops import cpu
from stsa_jax.weights.initial import initial_weights
from stsa_jax.weights.pretrained import SaliencyModel

LIMIT = 0.85  # of a clip's time


def saved(config: STSANetConfig) -> float:
    """Multiply-adds that a window need not repeat, by the inner steps of `models.sliding`."""
    height, width = config.image_size
    steps = config.frames // 2
    area = [height * width // n for n in (4, 16, 64)]  # of conv1, of base1, of base2

    def all_but(inner: int) -> float:
        return (inner - 1) / steps  # one new step a window, and those at the ends

    # name: multiply-adds of one step of the window, the share of them that is kept
    c = config.width
    parts = [
        (2 * area[0] * 49 * 3 * 64 * c, 1 - 1 / config.frames),  # conv1.spatial, two frames
        (area[0] * 7 * 64 * 64 * c * c, all_but(steps - 3)),
        (area[1] * (64 * 64 + 9 * 64 * 192) * c * c, all_but(steps - 3)),
        (area[1] * 3 * 192 * 192 * c * c, all_but(steps - 5)),
    ]
    for (inner, outer), (features, b0, (r1, b1), (r2, b2), b3) in zip(
        ((steps - 5, steps - 7), (steps - 7, steps - 9)),
        ((192, 64, (96, 128), (16, 32), 32), (256, 128, (128, 192), (32, 96), 64)),
    ):
        in_space = features * (b0 + r1 + r2) + 9 * (r1 * b1 + r2 * b2)
        in_time = 3 * (b1 * b1 + b2 * b2) + features * b3
        parts += [(area[2] * in_space * c * c, all_but(inner))]
        parts += [(area[2] * in_time * c * c, all_but(outer))]
    return steps * sum(count * share for count, share in parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeats', type=int, default=2)
    parser.add_argument('--size', default='224,384')
    parser.add_argument('--frames', type=int, default=32)
    parser.add_argument('--width', type=float, default=1.0)
    options = parser.parse_args()
    size = tuple(map(int, options.size.split(',')))
    config = STSANetConfig(image_size=size, frames=options.frames, width=options.width)

    _, params, batch_stats = initial_weights(config)
    model = SaliencyModel(config, params, batch_stats)
    sharing = SharingModel(model)
    rng = np.random.default_rng(0)
    count = config.frames + FRAMES * (options.repeats + 1)
    frames = list(rng.normal(size=(count, *size, 3)).astype(np.float32))
    chosen = [
        Window(tuple(frames[i : i + config.frames]), (0,)) for i in range(count - config.frames)
    ]
    stream = sharing.maps(iter(chosen))
    ours: list[np.ndarray] = []
    theirs: list[np.ndarray] = []

    def shared():
        ours.extend(next(stream) for _ in range(FRAMES))

    def clips():
        for window in chosen[len(theirs) : len(theirs) + FRAMES]:
            theirs.append(np.asarray(model(jnp.asarray(np.stack(window.frames)[None]))[0]))

    shared(), clips()  # compiles, and fills the features of the first window
    runs = {'shared': shared, 'clips': clips}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(options.repeats):
        for name, run in runs.items():
            before = time.process_time()
            seconds = timed(run)
            times[name].append((seconds / FRAMES, (time.process_time() - before) / FRAMES))
    best, busy = ({name: min(t[i] for t in taken) for name, taken in times.items()} for i in (0, 1))
    parts = total(cost(config))
    whole = parts.convolutions + parts.attention
    print(f'device: {jax.devices()[0].device_kind}, {options.frames} frames of {options.size}')
    for title, name in (('clip by clip', 'clips'), ('shared', 'shared')):
        print(f'{title:12} {best[name]:.3f} s a frame, {busy[name]:.3f} s of processors')
    print(f'multiply-adds that are kept: {saved(config) / 1e9:.1f} of {whole / 1e9:.1f} G')
    print(f'largest difference of the maps: {max(abs(a - b).max() for a, b in zip(ours, theirs))}')
    print(f'ratio of processor time: {busy["shared"] / busy["clips"]:.2f}')
    ratio = best['shared'] / best['clips']
    limits = Limits()
    print(f'ratio of time: {ratio:.2f} ({limits.check(f"limit {LIMIT}", ratio <= LIMIT)})')
    return limits.exit_code


if __name__ == '__main__':
    cpu.set_up()
    exit_cleanly(main)
