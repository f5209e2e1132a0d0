"""Which rows need relations between times? The second part of `make ablations`.

    python -m experiments.control --workdir=runs/ablations [--rows=full,single_stream] [--seeds=3]

Trains a few rows of configs/ablations.py on two datasets of the same trials, an object alone and
then three others: in `stsa_contrast` the attended one stands out from the others, in
`stsa_matching` only its relation to the first object distinguishes it. Reports how often each row
singles out the attended object in held-out videos; chance is one in three. The same command resumes
an interrupted run. Writes

    workdir/control.md, control.png          mean and standard deviation over the seeds
    workdir/control/TRIALS/ROW/SEED/         each training run, and its scores.json
"""

import functools

import numpy as np

import data
from configs import ablations
from data import scenes
from data.synthetic import SyntheticVideo
from experiments.ablations import command_line, run_all
from stsa_jax import evaluation
from stsa_jax.errors import exit_cleanly
from stsa_jax.media import visualize
from stsa_jax.ops import cpu

ROWS = ('full', 'single_stream', 'without_temporal_relations')

Scores = dict[str, float]  # 'cc', 'right' -> mean over videos
Found = dict[str, list[Scores]]  # row -> the scores of each seed


def main() -> int:
    """The command line; returns the exit code."""
    options = command_line(__doc__.splitlines()[0], ROWS, ablations.ROWS)
    found: dict[str, Found] = {}
    for trials in ('contrast', 'matching'):
        name, folder = f'stsa_{trials}', options.workdir / 'control' / trials
        of_dataset = functools.partial(score, name)
        so_far = lambda runs, t=trials: table(found | {t: runs})  # noqa: E731
        found[trials] = run_all(trials, folder, options, name, of_dataset, so_far, 'control.md')
    right = {
        trials: {row: [scores['right'] for scores in runs] for row, runs in rows.items()}
        for trials, rows in found.items()
    }
    visualize.dot_figure(options.workdir / 'control.png', right, 'singled out of three')
    print(table(found))
    return 0


class Choices(evaluation.ModelMaps):
    """A model's maps; records whether each singles out the attended object."""

    def __init__(self, *args):
        super().__init__(*args)
        self.right: list[bool | None] = []

    def maps(self, video):
        """The model's maps."""
        scene, _ = SyntheticVideo.named(video.name).scene()
        for position, saliency in zip(video.positions.tolist(), super().maps(video)):
            self.right.append(scenes.singled_out(saliency, scene, position))
            yield saliency


def score(name: str, model, data_dir: str) -> Scores:
    """CC, and how often the attended object is singled out, at the held-out videos' last frame."""
    datasets = [data.open_split(name, split, data_dir) for split in ('test', 'validation')]
    sources = {dataset.split: Choices(model, dataset, 2) for dataset in datasets}
    results = evaluation.evaluate(
        datasets,
        {'model': lambda dataset, _: sources[dataset.split]},
        every=scenes.TRIAL - 1,  # the first and the last
        references=False,
    )
    videos = [video for row in results.rows for video in row.videos]
    last = np.array([video.scores[-1] for video in videos])
    right = [right for source in sources.values() for right in source.right]
    return {
        'cc': float(np.nanmean(last[:, evaluation.METRICS.index('cc')])),
        'right': float(np.mean([r for r in right if r is not None])),
    }


def table(found: dict[str, Found]) -> str:
    """Markdown: one line per row and kind of trials, mean ± standard deviation over the seeds."""
    lines = ['| trials | row | seeds | CC | fraction singled out | per seed |', '|---' * 6 + '|']
    for trials, rows in found.items():
        for row, runs in rows.items():
            if runs:
                values = [np.array([run[measure] for run in runs]) for measure in ('cc', 'right')]
                cells = [f'{v.mean():.3f} ± {v.std(ddof=len(v) > 1):.3f}' for v in values]
                each = ', '.join(f'{right:.2f}' for right in values[1])
                lines.append(f'| {trials} | {row} | {len(runs)} | {" | ".join(cells)} | {each} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    cpu.set_up()
    exit_cleanly(main)
