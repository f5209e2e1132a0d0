"""The whole pipeline on the synthetic dataset: `make demo`.

    python demo.py --workdir=runs/demo

Builds the dataset, trains the small model of configs/tiny.py, evaluates it on held-out videos
against a centre prior, and draws figures. Takes three to four minutes on two CPU cores. Writes to
`workdir`

    metrics/table.txt, .md, results.csv, results.json, report.html     the scores
    training_curves.png                                     loss, KL and CC against the step
    overlay.mp4                                             a held-out video with both maps
    frames.png                                              some of its frames
    model/                                                  the training run; train.py can resume it

Exits with code 1 unless the model is better than the centre prior in CC, NSS, SIM and KL, with at
least 1.5 times its CC.
"""

import argparse
import time
from pathlib import Path

from tqdm import tqdm

import data
import stsa_jax
from configs import tiny
from stsa_jax import evaluation, files
from stsa_jax.errors import exit_cleanly
from stsa_jax.inference.windows import predict_video
from stsa_jax.media import visualize
from stsa_jax.media.video import write_video
from stsa_jax.ops import cpu
from train import train

MARGIN = 1.5  # times the centre prior's CC
HIGHER_IS_BETTER = {'cc': True, 'nss': True, 'sim': True, 'kl': False}


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--workdir', default='runs/demo', help='where everything is written')
    parser.add_argument(
        '--steps', type=int, default=0, help='training steps; default: as configured'
    )
    options = parser.parse_args()
    start = time.perf_counter()
    workdir = files.output_folder(options.workdir)
    config = tiny.get_config()
    config.data.data_dir = str(workdir / 'data')
    if options.steps:
        config.num_steps = options.steps

    print('[1/4] building the synthetic dataset')
    data.prepare_dataset('stsa_synthetic', config.data.data_dir)
    print(f'[2/4] training for {config.num_steps} steps')
    history = train(config, str(workdir / 'model'))
    visualize.training_curves(
        workdir / 'training_curves.png',
        [line for line in history if line['kind'] == 'train'],
        [line for line in history if line['kind'] == 'validation'],
        'the small model on the synthetic dataset',
    )
    print('[3/4] evaluating on held-out videos')
    model = stsa_jax.load(workdir / 'model')
    test = data.open_split('stsa_synthetic', 'test', config.data.data_dir)
    results = evaluate(model, test, config.data.data_dir)
    evaluation.write_results(results, workdir / 'metrics')
    print('[4/4] drawing a held-out video')
    draw(model, test, workdir)

    print()
    print(evaluation.text(results, per_video=False), end='')
    minutes = (time.perf_counter() - start) / 60
    print(f'\ndone in {minutes:.1f} minutes; in {workdir}: metrics/report.html, overlay.mp4,')
    print('training_curves.png, frames.png')
    return verdict(results)


def evaluate(model, test, data_dir: str) -> evaluation.Results:
    """Every second frame of the test videos: the model, the centre prior and shuffled maps."""
    return evaluation.evaluate(
        [test],
        {'STSA-Net (small)': lambda dataset, _: evaluation.ModelMaps(model, dataset, 8)},
        training=lambda dataset: data.open_split(dataset.name, 'train', data_dir),
        every=2,
    )


def verdict(results: evaluation.Results) -> int:
    """Prints the model's lead over the centre prior; returns 1 if it is too small.

    Also prints which differences are significant, which the table marks with a star.
    """
    ours, prior = (
        next(m for m in evaluation.means(results) if m['row'].startswith(row))
        for row in ('STSA-Net', 'centre prior')
    )
    ratio = ours['cc'] / prior['cc']
    better = {
        metric: (ours[metric] > prior[metric]) == higher
        for metric, higher in HIGHER_IS_BETTER.items()
    }
    good = ratio >= MARGIN and all(better.values())
    found = next(
        by_metric
        for a, b, by_metric in results.differences(results.datasets[0])
        if (a, b) == (ours['row'], prior['row'])
    )
    sure = [metric for metric in HIGHER_IS_BETTER if better[metric] and found[metric].real]
    print(
        f"CC is {ratio:.1f} times the centre prior's (at least {MARGIN}); better in "
        f'{", ".join(m.upper() for m, b in better.items() if b) or "nothing"}: '
        f'{"as expected" if good else "NOT as expected"}'
    )
    print(f'significantly better in {", ".join(m.upper() for m in sure) or "nothing"}')
    return 0 if good else 1


def draw(model, test, workdir: Path) -> None:
    """An overlay video of one held-out video, and a figure of some of its frames."""
    video = test.videos[0]
    first, count = video.first_example, video.num_frames
    frames = (test.frame(first + i) for i in range(count))
    pairs = tqdm(predict_video(model, frames, 8), 'overlay', count, unit='frame', disable=None)
    shown, predictions = map(list, zip(*pairs))
    densities = [test.density(first + i) for i in range(count)]
    pictures = (
        visualize.side_by_side(shown[i], predictions[i], densities[i], test.fixations(first + i))
        for i in range(count)
    )
    write_video(workdir / 'overlay.mp4', pictures, fps=10)
    picked = [round(count * (i + 0.5) / 6) for i in range(6)]
    visualize.frames_figure(
        workdir / 'frames.png',
        [shown[i] for i in picked],
        {
            'ground truth': [densities[i] for i in picked],
            'prediction': [predictions[i] for i in picked],
        },
        [f'frame {i + 1}' for i in picked],
    )


if __name__ == '__main__':
    cpu.set_up()
    exit_cleanly(main)
