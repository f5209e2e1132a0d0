"""bfloat16 and mixed against float32: the held-out CC after the same training.

    python -m benchmarks.bfloat16 --workdir=DIR [--steps=200] [--config=configs/tiny.py]

Trains the tiny config on the synthetic dataset three times, from the same weights on the same
clips, and compares the CC on 64 held-out clips. The same command resumes an interrupted run.
"""

import argparse
from pathlib import Path

import data
from benchmarks.limits import Limits
from stsa_jax.configuration import load_config
from stsa_jax.errors import exit_cleanly
from stsa_jax.ops import cpu
from train import train

LIMIT = 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--workdir', required=True)
    parser.add_argument('--config', default='configs/tiny.py')
    parser.add_argument('--steps', type=int, default=200)
    options, overrides = parser.parse_known_args()
    workdir = Path(options.workdir)
    data.prepare_dataset('stsa_synthetic', workdir / 'data')
    scores = {}
    for dtype in ('float32', 'bfloat16', 'mixed'):
        config = load_config(options.config, overrides)
        config.data.data_dir, config.model.dtype = str(workdir / 'data'), dtype
        config.num_steps, config.checkpoint_every = options.steps, 20
        config.validation.every = options.steps
        history = train(config, str(workdir / dtype))
        if history[-1]['step'] < options.steps:
            print('stopped before the end: run the same command to resume')
            return 1
        scores[dtype] = next(e['cc'] for e in history[::-1] if e['kind'] == 'validation')
    print(', '.join(f'{dtype}: held-out CC {cc:.4f}' for dtype, cc in scores.items()))
    limits = Limits()
    for dtype in ('bfloat16', 'mixed'):
        ratio = scores[dtype] / scores['float32']
        verdict = limits.check(f'limit {1 - LIMIT} to {1 + LIMIT}', abs(ratio - 1) <= LIMIT)
        print(f'{dtype}: ratio {ratio:.4f} ({verdict})')
    return limits.exit_code


if __name__ == '__main__':
    cpu.set_up()
    exit_cleanly(main)
