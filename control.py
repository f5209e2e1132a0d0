"""Do relations between times matter, and to which rows? The second part of `make ablations`.

    python control.py --workdir=runs/ablations [--rows=full,single_stream] [--seeds=3]

Trains a few rows of configs/ablations.py on `stsa_matching`, where the attended object is told from
the others by its relation to one that was alone somewhere else some time before, and by nothing
else, and says how often they single it out in held-out videos; by chance, one time in three. Where
no such relation is needed is the first part (ablations.py), on the plain videos. The same command
again goes on where it stopped. Writes

    workdir/control.md, control.png     mean and standard deviation over the seeds
    workdir/control/ROW/SEED/           each training run, and its scores.json
"""

import numpy as np

import data
from ablations import command_line, run_all
from configs import ablations
from data import scenes
from data.synthetic import SyntheticVideo
from stsa_jax import evaluation, visualize
from stsa_jax.errors import exit_cleanly

NAME = 'stsa_matching'
ROWS = ('full', 'without_temporal_relations', 'unet_amsf', 'single_stream')

Scores = dict[str, float]  # 'cc', 'right' -> mean over videos


def main() -> int:
    """The command line; returns the exit code."""
    options = command_line(__doc__.splitlines()[0], ROWS, ablations.ROWS)
    folder = options.workdir / 'control'
    found = run_all('matching', folder, options, NAME, score, table, 'control.md')
    right = {row: [scores['right'] for scores in runs] for row, runs in found.items()}
    visualize.dot_figure(
        options.workdir / 'control.png', {NAME: right}, 'match singled out of three'
    )
    print(table(found))
    return 0


class Choices(evaluation.ModelMaps):
    """A model's maps, with notes whether each singles out the attended object."""

    def __init__(self, *args):
        super().__init__(*args)
        self.right: list[bool | None] = []

    def maps(self, video):
        """As those of the model."""
        scene, _ = SyntheticVideo.named(video.name).scene()
        for position, saliency in zip(video.positions.tolist(), super().maps(video)):
            self.right.append(scenes.singled_out(saliency, scene, position))
            yield saliency


def score(model, data_dir: str) -> Scores:
    """CC, and how often the match is singled out, at the last frame of the held-out videos."""
    datasets = [data.open_split(NAME, split, data_dir) for split in ('test', 'validation')]
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


def table(found: dict[str, list[Scores]]) -> str:
    """Markdown: a line a row, mean ± standard deviation over the seeds, and each seed."""
    lines = ['| row | seeds | CC | match singled out | of each seed |', '|---' * 5 + '|']
    for row, runs in found.items():
        if runs:
            values = [np.array([run[measure] for run in runs]) for measure in ('cc', 'right')]
            cells = [f'{v.mean():.3f} ± {v.std(ddof=len(v) > 1):.3f}' for v in values]
            each = ', '.join(f'{right:.2f}' for right in values[1])
            lines.append(f'| {row} | {len(runs)} | {" | ".join(cells)} | {each} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    exit_cleanly(main)
