"""Results as CSV, and as JSON with everything."""

import csv
import dataclasses
import io
from collections.abc import Sequence

import numpy as np

from stsa_jax.evaluation import tables
from stsa_jax.evaluation.protocol import LOWER_IS_BETTER, METRICS
from stsa_jax.evaluation.records import Row


def to_csv(results: tables.Results) -> str:
    """One line per row, dataset and video, and one per row and dataset overall."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    intervals = [f'{m}_{end}' for m in METRICS for end in ('low', 'high')]
    writer.writerow(
        [
            *('dataset', 'split', 'row', 'video', *METRICS, *intervals),
            *('frames', 'dropped', 'protocol', 'partial'),
        ]
    )
    for row in results.rows:
        whole = [('', row)]
        whole += [(v.video, dataclasses.replace(row, videos=[v])) for v in row.videos]
        for video, part in whole:
            found = results.estimates(part)
            writer.writerow(
                [
                    row.dataset,
                    row.split,
                    row.name,
                    video,
                    *(_full(found[m].value) for m in METRICS),
                    *(_full(x) for m in METRICS for x in (found[m].low, found[m].high)),
                    part.frames,
                    tables.dropped(part),
                    results.protocol.name,
                    'PARTIAL' if results.partial((row.dataset, row.split)) else '',
                ]
            )
    return out.getvalue()


def to_json(results: tables.Results) -> dict:
    """Everything: the protocol, every row with its videos, differences, problems."""
    return {
        'protocol': dataclasses.asdict(results.protocol),
        'seed': results.seed,
        'metrics': list(METRICS),
        'lower_is_better': list(LOWER_IS_BETTER),
        'notes': results.notes,
        'rows': [
            {
                'dataset': row.dataset,
                'split': row.split,
                'row': row.name,
                'model': row.name in results.models,
                'frames': row.frames,
                'dropped': tables.dropped(row),
                'problems': row.problems(),
                'scores': {m: dataclasses.asdict(e) for m, e in results.estimates(row).items()},
                'videos': [
                    {
                        'video': video.video,
                        'frames': len(video.positions),
                        'scores': {
                            m: e.value
                            for m, e in results.estimates(
                                dataclasses.replace(row, videos=[video])
                            ).items()
                        },
                    }
                    for video in row.videos
                ],
            }
            for row in results.rows
        ],
        'differences': [
            {
                'dataset': name,
                'split': split,
                'a': a,
                'b': b,
                'scores': {
                    m: {**dataclasses.asdict(d), 'real': d.real} for m, d in by_metric.items()
                },
            }
            for name, split in results.datasets
            for a, b, by_metric in results.differences((name, split))
        ],
        'published': [
            {'dataset': name, 'split': split, **dataclasses.asdict(entry)}
            for name, split in results.datasets
            for entry in results.published(name, split)
        ],
    }


def frames_csv(rows: Sequence[Row]) -> str:
    """Every frame's scores; `frame` counts from 1 in its video."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow(['dataset', 'split', 'row', 'video', 'frame', *METRICS, 'problems'])
    for row in rows:
        for video in row.videos:
            for position, scores, problems in zip(video.positions, video.scores, video.problems):
                writer.writerow(
                    [
                        row.dataset,
                        row.split,
                        row.name,
                        video.video,
                        position + 1,
                        *(_full(None if np.isnan(x) else float(x)) for x in scores),
                        '; '.join(problems),
                    ]
                )
    return out.getvalue()


def _full(value: float | None) -> str:
    return '' if value is None else f'{value:.7g}'
