"""Scores saliency models: CC, SIM, NSS, KL, AUC-Judd and shuffled AUC, by a stated protocol.

A trained model, on the datasets of its config:

    stsa-jax evaluate --config=configs/dhf1k.py --workdir=runs/dhf1k

Map files from any model, `<video>/<frame>.png`; several models, side by side:

    stsa-jax evaluate --dataset=dhf1k --split=validation --predictions=ViNet=maps/vinet \\
        --predictions=STSA-Net=maps/stsanet --protocol=dhf1k

Maps against a folder of density maps, fixation maps or gaze, which is not prepared:

    stsa-jax evaluate --truth=recordings --predictions=maps/mine

Prints the table, and writes to --output (default WORKDIR/evaluation, or ./evaluation)

    report.html                            the report, opens in a browser
    table.txt, table.md                    the table
    results.json, results.csv              all numbers, per dataset and per video
    frames.csv                             every frame's scores
    scored/                                finished videos, from which the same command resumes
"""

import re
import sys
from pathlib import Path

from absl import logging

import data
import stsa_jax
from data.own import viewers
from data.own.options import how_of
from data.own.truth import FolderTruth
from data.preparation.registry import BUILDERS
from stsa_jax import evaluation, files, mirror
from stsa_jax.commands.evaluate_options import parser
from stsa_jax.configuration import load_config, parse_size
from stsa_jax.errors import InputError, ranges
from stsa_jax.evaluation.observers import read_viewers
from stsa_jax.evaluation.predictions import Numbering
from stsa_jax.evaluation.selection import select
from stsa_jax.evaluation.submission import DUE, missing_videos, write_submission
from stsa_jax.ops import cpu
from stsa_jax.remote import local


def run() -> None:
    """The command."""
    cpu.set_up()
    main()


def main() -> None:
    """The command line."""
    options, overrides = parser().parse_known_args()
    logging.set_verbosity(logging.ERROR)
    if overrides and not options.config:
        raise InputError(f'{overrides[0]}: not an option; config fields need --config=FILE')
    if options.submission:
        files.refuse_remote(options.submission)
    for folder in filter(None, (options.truth, options.observers)):
        files.refuse_remote(folder, reads=True)
    config = load_config(options.config, overrides) if options.config else None
    models = collect_models(options)
    if not models:
        raise InputError('nothing to evaluate: give --workdir, --checkpoint or --predictions')
    if options.truth:
        names: list[str] = []
        split, data_dir = options.split, None
    else:
        names, split, data_dir = what(options, config)
    parts = [_named(options.workdir[0])[1].rstrip('/')] if options.workdir else []
    output = options.output or '/'.join([*parts, 'evaluation'])
    if options.submission:
        submit(models, names, split, data_dir, options)
        return
    evaluation.get_protocol(options.protocol)
    if options.truth:
        datasets = [folder_truth(options)]
    else:
        datasets = [data.open_split(name, split, data_dir) for name in names]
    with mirror.folder(output, every=mirror.EVERY) as here:
        files.output_folder(here)
        results = evaluation.evaluate(
            datasets,
            models,
            protocol=options.protocol,
            training=lambda dataset: (
                None if options.truth else training_split(dataset, config, data_dir)
            ),
            viewers=lambda dataset: viewers_of(dataset, options),
            sigma=viewers.sigma_of(how_of(options)),
            every=options.every,
            seed=options.seed,
            references=not options.no_references,
            folder=here / 'scored',
            workers=options.workers,
        )
        print(evaluation.text(results, per_video=len(results.rows[0].videos) <= 30), end='')
        evaluation.write_results(results, here)
    print(f'written to {output}')


def collect_models(options) -> dict:
    """Name -> function that creates its source of maps for a dataset and selected videos."""
    models = {}

    def add(name, make):
        if name in models:
            raise InputError(f'two models are called {name}; rename one of them: NAME=PATH')
        models[name] = make

    how = {
        'image_size': options.image_size and parse_size(options.image_size),
        'frames': options.clip_frames,
        'domain': options.domain,
        'allow_nonfinite': options.allow_nonfinite,
    }
    how = {name: value for name, value in how.items() if value}
    loaded = []
    if options.step and not options.workdir:
        raise InputError(f'--step={options.step}: needs a --workdir')
    for given in options.workdir:
        name, workdir = _named(given)
        loaded.append((name, stsa_jax.load(workdir, _step(options.step), **how)))
    for given in options.checkpoint:
        name, path = _named(given)
        loaded.append((name, stsa_jax.load(path, **how)))
    noted = set()

    def maps_of(model, dataset):
        line = dataset.enlarged(model.config.image_size)
        if line and line not in noted:
            noted.add(line)
            print(f'note: {line}', file=sys.stderr)
        return evaluation.ModelMaps(model, dataset, options.batch_size)

    for name, model in loaded:
        add(name, lambda dataset, videos, model=model: maps_of(model, dataset))
    numbering = Numbering(options.first_frame, options.in_order, options.allow_extra)
    if options.first_frame is not None and options.in_order:
        raise InputError('--first_frame and --in_order: use only one of them')
    for given in options.predictions:
        name, path = _named(given)
        folder = local(path)
        add(
            name,
            lambda dataset, videos, folder=folder: evaluation.PredictionFolder(
                folder,
                dataset,
                videos,
                allow_missing=options.allow_missing,
                numbering=numbering,
            ),
        )
    return models


def what(options, config) -> tuple[list[str], str, str | None]:
    """Names of the datasets, their split, and their folder."""
    names, split, data_dir = options.dataset, options.split, options.data_dir
    if config is not None:
        names = names or list(config.data.eval_datasets or config.data.datasets)
        split = split or config.data.eval_split
        data_dir = data_dir or config.data.data_dir or None
    if not names:
        raise InputError('no dataset: give --dataset=NAME, or a --config that names some')
    if len(set(names)) < len(names):
        raise InputError(f'{", ".join(names)}: a dataset is listed twice; list each once')
    return names, split or 'validation', data_dir


def folder_truth(options) -> FolderTruth:
    """The folder of --truth. Raises InputError for options that do not go with it."""
    if options.dataset or options.config or options.submission or options.observers:
        raise InputError(
            f'--truth={options.truth}: goes without --dataset, --config, --submission, --observers'
        )
    if options.workdir or options.checkpoint:
        raise InputError(
            f'--truth={options.truth}: scores maps, of --predictions. For a model, prepare the '
            f'folder first: python -m data.prepare folder --name=mine --source={options.truth}'
        )
    return FolderTruth(Path(options.truth), how_of(options), options.split or '')


def viewers_of(dataset, options) -> dict:
    """Video -> fixations of each viewer, for the inter-observer row; {} where none are known."""
    own = options.truth or (dataset.name not in BUILDERS and options.observers)
    if not own:
        return read_viewers(dataset, options.observers)
    needed = bool(options.observers)
    return viewers.read_viewers(Path(own), how_of(options), dataset.videos, needed=needed)


def submit(models: dict, names: list[str], split: str, data_dir, options) -> None:
    """Writes the maps of one model on one dataset for a benchmark server."""
    if len(models) != 1 or len(names) != 1:
        raise InputError(f'--submission takes one model and one dataset, not {[*models]}, {names}')
    dataset = data.open_split(names[0], split, data_dir)
    (make,) = models.values()
    counts = write_submission(
        make(dataset, select(dataset)),
        dataset,
        options.submission,
        allow_missing=options.allow_missing,
    )
    print(
        f'{options.submission}: {counts["frames"]} maps of {counts["videos"]} videos of '
        f'{dataset.name} {dataset.split}, verified: complete, of the right sizes, 8-bit grey'
    )
    if lacking := missing_videos(dataset):
        print(f'PARTIAL: the benchmark expects {len(lacking)} more videos: {ranges(lacking)}')
    _, due = DUE.get((dataset.name, dataset.split), ((), counts['frames']))
    if counts['frames'] != due:
        print(f'NOTE: this copy has {counts["frames"]:,} frames, the published dataset {due:,}')


def training_split(dataset, config, data_dir) -> 'data.VideoDataset | None':
    """The training split of the same dataset, if it is here; of a fold that of the same fold."""
    name = config.data.train_split if config else 'train'
    fold = re.fullmatch(r'(?:test|validation)_(\d+)', dataset.split)
    for split in ([f'train_{fold[1]}'] if fold else []) + [name]:
        try:
            return data.open_split(dataset.name, split, data_dir)
        except InputError:
            continue
    return None


def _step(given: str | None) -> int | str | None:
    if given is None or given == 'best':
        return given
    if not given.isdecimal():
        raise InputError(f"--step={given}: expected a number or 'best'")
    return int(given)


def _named(given: str) -> tuple[str, str]:
    """`NAME=PATH`, or a path named by its last component."""
    name, equals, path = given.partition('=')
    if equals and name and '/' not in name:
        return name, path
    return _last(given), given


def _last(path: str) -> str:
    whole = Path(path).resolve()
    return (whole.stem if whole.is_file() else whole.name) or str(whole)
