"""Do relations between times matter, and to which rows? The second part of `make ablations`.

    python control.py --workdir=runs/ablations [--rows=full,single_stream] [--seeds=3]

Trains a few rows of configs/ablations.py on two datasets in equal parts, and scores them on
held-out videos of both: *plain* ones of `stsa_synthetic`, where the attended object stands out in
the frames around it, and *matching* ones of `stsa_matching`, where it does so only by its relation
to an object that was alone somewhere else before. The same command again goes on where it stopped.
Writes

    workdir/control.md, control.png     mean and standard deviation over the seeds
    workdir/control/ROW/SEED/           each training run, and its scores.json
"""

import argparse

import jax
import numpy as np
from tqdm import tqdm

import data
from ablations import EVERY, run
from configs import ablations
from data import scenes
from data.registry import EMBEDDED
from data.synthetic import SyntheticVideo
from stsa_jax import evaluation, files, visualize
from stsa_jax.errors import InputError, exit_cleanly

ROWS = ('full', 'without_temporal_relations', 'single_stream')
KINDS = ('plain', 'matching')
MIDDLE = 7  # the one frame of a match whose window of 16 frames lies in the video

Scores = dict[str, dict[str, float]]  # kind -> 'cc', 'right' -> mean over frames


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--workdir', default='runs/ablations', help='where everything is written')
    parser.add_argument('--rows', default=','.join(ROWS), help='names separated by commas')
    parser.add_argument('--seeds', type=int, default=3, help='runs a row')
    parser.add_argument('--steps', type=int, default=0, help='of training; default: as configured')
    options = parser.parse_args()
    rows = options.rows.split(',')
    if unknown := [row for row in rows if row not in ablations.ROWS]:
        known = ', '.join(ablations.ROWS)
        raise InputError(f'--rows: {", ".join(unknown)}: unknown; there are: {known}')
    workdir = files.output_folder(options.workdir)
    jax.config.update('jax_compilation_cache_dir', str((workdir / 'cache').absolute()))
    data_dir = str(workdir / 'data')
    for name in EMBEDDED:
        data.prepare_dataset(name, data_dir)
    found: dict[str, list[Scores]] = {row: [] for row in rows}
    runs = [(row, seed) for seed in range(options.seeds) for row in rows]
    for row, seed in tqdm(runs, 'runs', unit='run', disable=None):
        folder = workdir / 'control' / row / str(seed)
        found[row].append(run(f'{row},control', seed, folder, data_dir, score, options.steps))
        files.write_atomic(workdir / 'control.md', table(found))
    values = {
        kind: {row: [scores[kind]['right'] for scores in of] for row, of in found.items()}
        for kind in KINDS
    }
    visualize.dot_figure(workdir / 'control.png', values, 'attended object singled out')
    print(table(found))
    return 0


class Choices(evaluation.ModelMaps):
    """A model's maps, with a note for each whether it singles out the attended object."""

    def __init__(self, *args):
        super().__init__(*args)
        self.right: dict[tuple[str, int], bool | None] = {}

    def maps(self, video):
        """As those of the model."""
        scene, _ = SyntheticVideo.named(video.name).scene()
        for position, saliency in zip(video.positions.tolist(), super().maps(video)):
            self.right[video.name, position] = scenes.singled_out(saliency, scene, position)
            yield saliency


def score(model, data_dir: str) -> Scores:
    """CC, and how often the attended object is singled out of those seen, on held-out videos."""
    cc, right = {kind: [] for kind in KINDS}, {kind: [] for kind in KINDS}
    for name, every in zip(EMBEDDED, (EVERY, MIDDLE)):
        datasets = [data.open_split(name, split, data_dir) for split in ('test', 'validation')]
        sources = {dataset.split: Choices(model, dataset, 8) for dataset in datasets}
        results = evaluation.evaluate(
            datasets,
            {'model': lambda dataset, _, sources=sources: sources[dataset.split]},
            every=every,
            references=False,
        )
        for row in results.rows:
            for video in row.videos:
                for position, scores in zip(video.positions.tolist(), video.scores):
                    kind = kind_of_frame(video.video, position)
                    if kind is not None:
                        cc[kind].append(scores[evaluation.METRICS.index('cc')])
                        right[kind].append(sources[row.split].right[video.video, position])
    return {
        kind: {
            'cc': float(np.nanmean(cc[kind])),
            'right': float(np.mean([r for r in right[kind] if r is not None])),
        }
        for kind in KINDS
    }


def kind_of_frame(video: str, position: int) -> str | None:
    """'plain', 'matching', or None for a frame that is not scored."""
    script = SyntheticVideo.named(video).script
    if script in scenes.MATCHING:
        return 'matching' if position == MIDDLE else None
    return 'plain' if script in scenes.PLAIN else None


def table(found: dict[str, list[Scores]]) -> str:
    """Markdown: a line a row, mean ± standard deviation over the seeds."""
    columns = [(kind, measure) for kind in KINDS for measure in ('cc', 'right')]
    heads = [f'{kind}: {head}' for kind in KINDS for head in ('CC', 'singled out')]
    lines = [f'| row | seeds | {" | ".join(heads)} |', '|---' * (len(heads) + 2) + '|']
    for row, runs in found.items():
        if runs:
            values = [np.array([run[kind][measure] for run in runs]) for kind, measure in columns]
            cells = [f'{v.mean():.3f} ± {v.std(ddof=len(v) > 1):.3f}' for v in values]
            lines.append(f'| {" | ".join([row, str(len(runs)), *cells])} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    exit_cleanly(main)
