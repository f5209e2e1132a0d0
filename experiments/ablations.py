"""The rows of the paper's Tables III to V at a small size: `make ablations`.

    python -m experiments.ablations --workdir=runs/ablations [--rows=full,unet] [--seeds=3]

Trains every row of configs/ablations.py at the small size on the synthetic dataset, with several
seeds, and scores each on the held-out videos, in total and by kind: in *relational* ones the
attended object stands out only by what happened earlier, in *plain* ones in the frames around it.
The same command resumes an interrupted run. Writes to `workdir`

    table.md, ablations.png   mean and standard deviation over the seeds, beside the paper's CC
    still.md                  the full model with and without access to other times, by script
    ROW/SEED/                 each training run, and its scores.json
"""

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

import data
import stsa_jax
from configs import ablations
from data import scenes
from stsa_jax import evaluation, files
from stsa_jax.errors import InputError, exit_cleanly
from stsa_jax.media import visualize
from stsa_jax.ops import cpu
from stsa_jax.training import run_config
from train import train

EVERY = 4  # score every 4th frame of the held-out videos
KINDS = ('all', 'plain', 'relational')
METRICS = ('cc', 'nss', 'sim', 'auc_judd', 'kl')  # the paper's columns
TABLES = {
    '': ablations.FULL,
    'Table III': ablations.TABLE_III,
    'Table IV': ablations.TABLE_IV,
    'Table V': ablations.TABLE_V,
}
PAPER_CC = {
    'full': 0.539,
    'single_stream': 0.506,
    'unet': 0.523,
    'unet_stsa': 0.534,
    'unet_amsf': 0.531,
    'without_temporal_relations': 0.532,
    'single_similarity_matrix': 0.532,
    'without_stsa_layer_1': 0.530,
    'without_stsa_layer_2': 0.533,
    'remove_stsa_1': 0.534,
    'remove_stsa_2': 0.532,
    'remove_stsa_3': 0.535,
    'remove_stsa_4': 0.536,
    'concat_amsf': 0.532,
    'without_weighting': 0.533,
    'without_multi_scale': 0.528,
}  # on DHF1K's validation set

Scores = dict[str, dict[str, float]]  # kind -> metric -> mean over frames


def main() -> int:
    """The command line; returns the exit code."""
    options = command_line(__doc__.splitlines()[0], PAPER_CC, PAPER_CC)
    found = run_all('tiny', options.workdir, options, 'stsa_synthetic', by_kind, table, 'table.md')
    draw(found, options.workdir / 'ablations.png')
    print(table(found))
    if 'full' in found:
        folders = [options.workdir / 'full' / str(seed) for seed in range(options.seeds)]
        files.write_atomic(options.workdir / 'still.md', still_table(folders, options.data_dir))
        print((options.workdir / 'still.md').read_text())
    return 0


def command_line(description: str, default, known) -> argparse.Namespace:
    """Options of this command and of `control`, `rows` a list; InputError for an unknown row."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('--workdir', default='runs/ablations', help='where everything is written')
    parser.add_argument(
        '--rows', default='', help=f'names separated by commas: {",".join(default)}'
    )
    parser.add_argument('--seeds', type=int, default=3, help='runs per row')
    parser.add_argument(
        '--steps', type=int, default=0, help='training steps; default: as configured'
    )
    options = parser.parse_args()
    options.rows = options.rows.split(',') if options.rows else list(default)
    if unknown := [row for row in options.rows if row not in known]:
        raise InputError(f'--rows: {", ".join(unknown)}: unknown; available: {", ".join(known)}')
    options.workdir = files.output_folder(options.workdir)
    options.data_dir = str(options.workdir / 'data')
    return options


def run_all(recipe: str, folder: Path, options, dataset: str, score, table, name: str) -> dict:
    """row -> the result of `score` for each seed; writes `table` to workdir/`name`."""
    # The seeds of a row, and resumed calls, share one compiled program.
    jax.config.update('jax_compilation_cache_dir', str((options.workdir / 'cache').absolute()))
    data.prepare_dataset(dataset, options.data_dir)
    found: dict[str, list] = {row: [] for row in options.rows}
    runs = [(row, seed) for seed in range(options.seeds) for row in options.rows]
    for row, seed in tqdm(runs, 'runs', unit='run', disable=None):
        of_run = folder / row / str(seed)
        scores = run(f'{row},{recipe}', seed, of_run, options.data_dir, score, options.steps)
        found[row].append(scores)
        files.write_atomic(options.workdir / name, table(found))
    return found


def run(name: str, seed: int, folder: Path, data_dir: str, score, steps: int = 0):
    """Trains configs/ablations.py:`name` with one seed, or resumes the training, and scores it.

    Returns the result of `score(model, data_dir)`, JSON values, which are saved in `folder`. Raises
    InputError if the folder is of a run with another config.
    """
    start, kept = time.perf_counter(), folder / 'scores.json'
    config = ablations.get_config(name)
    config.seed, config.data.data_dir = seed, data_dir
    config.num_steps = config.checkpoint_every = steps or config.num_steps
    if kept.exists():
        run_config.write_config(folder, config.to_dict())  # raises for another config
        return json.loads(kept.read_text())
    train(config, str(folder))
    scores = score(stsa_jax.load(folder), data_dir)
    jax.clear_caches()
    files.write_atomic(kept, json.dumps(scores, indent=1) + '\n')
    print(f'{name}, seed {seed}: {time.perf_counter() - start:.0f} s', flush=True)
    return scores


def by_kind(model, data_dir: str) -> Scores:
    """The scores on all held-out videos, and by kind."""
    videos = score({'model': model}, data_dir)['model']
    return {kind: means([v for v in videos if kind in ('all', kind_of(v.video))]) for kind in KINDS}


def score(models: dict, data_dir: str) -> dict[str, list]:
    """name -> the scores of each held-out video."""
    results = evaluation.evaluate(
        [data.open_split('stsa_synthetic', split, data_dir) for split in ('test', 'validation')],
        {
            name: lambda dataset, _, m=m: evaluation.ModelMaps(m, dataset, 8)
            for name, m in models.items()
        },
        every=EVERY,
        references=False,
    )
    return {name: [v for r in results.rows if r.name == name for v in r.videos] for name in models}


class Still:
    """A model that sees only the frame to predict, repeated over the whole clip."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, clips: np.ndarray):
        """`(B, T, H, W, 3)` -> `(B, H, W)`."""
        target = self.model.config.target_index
        return self.model(np.repeat(clips[:, target : target + 1], clips.shape[1], axis=1))


def still_table(folders: list[Path], data_dir: str) -> str:
    """Markdown: CC by script of trained models on clips, and on clips of one repeated frame."""
    found: dict[str, list[list[float]]] = {}  # script -> (CC of the clip, of the frame) by model
    for folder in folders:
        model = stsa_jax.load(folder)
        scores = score({'clip': model, 'still': Still(model)}, data_dir)
        for script in (s.__name__ for s in (*scenes.PLAIN, *scenes.RELATIONAL)):
            both = [
                means([v for v in videos if script_of(v.video) == script])['cc']
                for videos in scores.values()
            ]
            found.setdefault(script, []).append(both)
        jax.clear_caches()
    lines = ['| script | kind | CC of the clip | CC of the repeated frame |', '|---' * 4 + '|']
    for script, runs in found.items():
        clip, still = np.mean(runs, axis=0)
        lines.append(f'| {script} | {kind_of(script)} | {clip:.3f} | {still:.3f} |')
    return '\n'.join(lines) + '\n'


def script_of(video: str) -> str:
    """The script in a video's name."""
    return video.rsplit('_', 1)[-1]


def kind_of(video: str) -> str:
    """'plain' or 'relational', from the script in a video's name."""
    known = {script.__name__ for script in scenes.RELATIONAL}
    return 'relational' if script_of(video) in known else 'plain'


def means(videos: list) -> dict[str, float]:
    """Means over the frames with a defined score."""
    scores = np.concatenate([video.scores for video in videos])
    columns = [evaluation.METRICS.index(metric) for metric in METRICS]
    return dict(zip(METRICS, np.nanmean(scores[:, columns], axis=0).tolist()))


def table(found: dict[str, list[Scores]]) -> str:
    """Markdown: one line per row, mean ± standard deviation over the seeds."""
    columns = [('all', metric) for metric in METRICS] + [('plain', 'cc'), ('relational', 'cc')]
    heads = ['CC', 'NSS', 'SIM', 'AUC-J', 'KL', 'CC, plain', 'CC, relational']
    lines = [
        f'| | row | seeds | {" | ".join(heads)} | paper: CC |',
        '|---' * (len(heads) + 4) + '|',
    ]
    for name, rows in TABLES.items():
        for row in rows:
            if runs := found.get(row):
                values = [np.array([run[kind][metric] for run in runs]) for kind, metric in columns]
                cells = [f'{v.mean():.3f} ± {v.std(ddof=len(v) > 1):.3f}' for v in values]
                cells = [name, row, str(len(runs)), *cells, f'{PAPER_CC[row]:.3f}']
                lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def draw(found: dict[str, list[Scores]], path: Path) -> None:
    """CC of each row by kind of video: a dot per seed, a bar for the mean."""
    values = {
        kind: {row: [run[kind]['cc'] for run in runs] for row, runs in found.items() if runs}
        for kind in KINDS[1:]
    }
    visualize.dot_figure(path, values, 'CC on held-out videos')


if __name__ == '__main__':
    cpu.set_up()
    exit_cleanly(main)
