"""The complete evaluation of datasets times rows, including references, and its output files."""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stsa_jax.errors import InputError
from stsa_jax.evaluation import exports, observers, report, tables
from stsa_jax.evaluation.protocol import Protocol, get_protocol
from stsa_jax.evaluation.records import Row
from stsa_jax.evaluation.runner import score_source
from stsa_jax.evaluation.selection import CLIP, clip_step, select
from stsa_jax.evaluation.sources import FixedMap, ShuffledMaps, Source, centre_prior
from stsa_jax.evaluation.truth import GroundTruth
from stsa_jax.files import output_folder, write_atomic

CENTRE_PRIOR, SHUFFLED_MAPS = 'centre prior', 'shuffled maps'


def evaluate(
    datasets: Sequence[Any],
    models: Mapping[str, Callable[..., Source]],
    *,
    protocol: str | Protocol = 'dhf1k',
    training: Callable[[Any], Any | None] = lambda dataset: None,
    viewers: Callable[[Any], Mapping[str, Any]] = lambda dataset: {},
    sigma: Callable[[tuple[int, int]], float] | None = None,
    every: int | str = 1,
    seed: int = 0,
    references: bool = True,
    folder: str | os.PathLike | None = None,
    workers: int = 0,
) -> tables.Results:
    """Scores every model on every dataset.

    Args:
        datasets: `data.VideoDataset`s with annotation.
        models: name -> function of a dataset and its selected videos that returns a
            `sources.Source`. A source with its own `videos` (an incomplete folder of
            predictions) determines the frames that all rows are scored on. If it has `notes`, lines
            about its maps, they are printed under the table.
        protocol: a name in PROTOCOLS, or a Protocol.
        training: dataset -> the split whose mean density map is the centre prior, or None.
        viewers: dataset -> video -> each viewer's fixations, for the inter-observer row.
        sigma: of the inter-observer row's maps, see `observers.HalfOfViewers`.
        every: which frames, see `selection.select`.
        seed: of sAUC's negatives and draws, the shuffled maps and the bootstrap.
        references: whether to add the baselines: centre prior and shuffled maps.
        folder: where finished videos are stored, so that the same call can resume.
        workers: scoring threads; 0 for one per core.

    Raises InputError for anything about the data or the maps that cannot be used.
    """
    protocol = get_protocol(protocol) if isinstance(protocol, str) else protocol
    taken = {CENTRE_PRIOR, SHUFFLED_MAPS, observers.NAME} & set(models)
    if taken:
        raise InputError(
            f'{", ".join(taken)}: the name of a reference row; choose another name for the model'
        )
    results = tables.Results(protocol, seed, [], list(models))
    for dataset in datasets:
        looks = viewers(dataset) if references else {}  # first, to report errors at once
        videos = select(dataset, every=every)
        sources = {name: make(dataset, videos) for name, make in models.items()}
        for name, source in sources.items():
            own = getattr(source, 'notes', ())
            results.notes += [f'{dataset.name}: {name}: {line}' for line in own]
        whole = sum(len(v.positions) for v in videos)
        videos = _common(videos, sources.values())
        scored = sum(len(v.positions) for v in videos)
        if scored < whole:
            results.notes.append(
                f'PARTIAL: {dataset.name}, {dataset.split}: {scored} of {whole} frames, because '
                'maps are missing'
            )
        if every == CLIP:
            left_out = len(dataset.videos) - len(videos)
            results.notes.append(
                f'{dataset.name}: the 16th frame of windows of 32 that start every '
                f'{clip_step(dataset.name)} frames, as in the released code ({left_out} '
                'videos are too short for one)'
            )
        elif isinstance(every, int) and every > 1:
            results.notes.append(f'{dataset.name}: every {every}-th frame of each video')
        truth = GroundTruth(dataset, videos, seed=seed, workers=workers or os.cpu_count() or 1)
        if references:
            train = training(dataset)
            if train is None:
                results.notes.append(
                    f'{dataset.name}: no training split here, so the centre prior is a Gaussian'
                )
            elif train.split == dataset.split:
                results.notes.append(
                    f'{dataset.name}: the centre prior is the mean of the same split that is '
                    'scored, so its scores are too good'
                )
            sources[CENTRE_PRIOR] = FixedMap(centre_prior(train))
            if len(videos) > 1 and truth.has_fixations:
                sources[SHUFFLED_MAPS] = ShuffledMaps(truth)
        own = getattr(dataset, 'notes', ())  # of a folder that is scored against as it lies
        results.notes += [f'{dataset.name}: {line}' for line in own]
        results.sources[dataset.name, dataset.split] = dataset, sources
        for name, source in sources.items():
            kept = _kept(folder, dataset, name)
            results.rows.append(
                score_source(
                    name,
                    source,
                    truth,
                    videos,
                    protocol,
                    folder=kept,
                    workers=workers,
                    quantisation=name in models,
                )
            )
        if looks:
            results.rows.append(_ceiling(dataset, looks, videos, results, folder, workers, sigma))
    return results


def _ceiling(dataset, looks, videos, results, folder, workers, sigma) -> Row:
    """The inter-observer row, over the videos with viewers."""
    there = [v for v in videos if v.name in looks]
    half, other = (observers.HalfOfViewers(dataset, looks, results.seed, i, sigma) for i in (0, 1))
    truth = GroundTruth(other, there, seed=results.seed, workers=workers or os.cpu_count() or 1)
    results.notes.append(
        f'{dataset.name}: {observers.NAME}: half of the viewers predict the other half, '
        f'{len(there)} of {len(videos)} videos'
    )
    kept = _kept(folder, dataset, observers.NAME)
    return score_source(
        observers.NAME, half, truth, there, results.protocol, folder=kept, workers=workers
    )


def write_results(results: tables.Results, folder: str | os.PathLike) -> list[Path]:
    """Writes the tables, all numbers and the report, each file atomically; returns their paths."""
    folder = output_folder(folder)
    files = {
        'results.json': json.dumps(exports.to_json(results), indent=1, allow_nan=False) + '\n',
        'results.csv': exports.to_csv(results),
        'frames.csv': exports.frames_csv(results.rows),
        'table.md': tables.markdown(results),
        'table.txt': tables.text(results, per_video=True),
        'report.html': report.page(results),
    }
    for name, content in files.items():
        write_atomic(folder / name, content)
    return [folder / name for name in files]


def _common(videos, sources):
    """The videos and frames that all sources have."""
    for source in sources:
        there = getattr(source, 'videos', None)
        if there is None:
            continue
        positions = {v.name: v.positions for v in there}
        videos = [
            dataclasses.replace(v, positions=np.intersect1d(v.positions, positions[v.name]))
            for v in videos
            if v.name in positions
        ]
        videos = [v for v in videos if len(v.positions)]
    if not videos:
        raise InputError('the models have no frame in common, so nothing can be compared')
    return videos


def _kept(folder, dataset, row: str) -> Path | None:
    """Where the finished videos of a row are stored."""
    return Path(folder) / f'{dataset.name}-{dataset.split}' / _plain(row) if folder else None


def _plain(name: str) -> str:
    return re.sub(r'[^A-Za-z0-9._-]', '_', name)[:80]


__all__ = ['Row', 'evaluate', 'write_results']
