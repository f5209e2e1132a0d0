"""Results as a table: text for the terminal, and Markdown. See `exports` for CSV and JSON."""

import dataclasses
import math

import numpy as np

from stsa_jax.evaluation import observers, published, statistics
from stsa_jax.evaluation.protocol import LABELS, METRICS, Protocol
from stsa_jax.evaluation.records import Row
from stsa_jax.evaluation.scoring import PREDICTION_PROBLEMS, TRUTH_PROBLEMS


@dataclasses.dataclass
class Results:
    """All rows of an evaluation: `rows` by dataset, in the order of the table.

    models: names of the rows that are models (the others are references).
    notes: lines that must accompany the table, such as that it is partial.
    sources: (dataset, split) -> (dataset, name of row -> source), for images of frames.
    """

    protocol: Protocol
    seed: int
    rows: list[Row]
    models: list[str]
    notes: list[str] = dataclasses.field(default_factory=list)
    sources: dict = dataclasses.field(default_factory=dict, repr=False)

    @property
    def datasets(self) -> list[tuple[str, str]]:
        """(dataset, split) in order."""
        return list(dict.fromkeys((row.dataset, row.split) for row in self.rows))

    def of(self, dataset: tuple[str, str]) -> list[Row]:
        """The rows of a dataset."""
        return [row for row in self.rows if (row.dataset, row.split) == dataset]

    def partial(self, dataset: tuple[str, str]) -> str:
        """' (PARTIAL)' if maps were missing, to append to the dataset's name; else ''."""
        name, split = dataset
        there = any(note.startswith(f'PARTIAL: {name}, {split}:') for note in self.notes)
        return ' (PARTIAL)' if there else ''

    def published(self, dataset: str, split: str) -> list[published.Published]:
        """The published scores on a dataset."""
        return published.entries(dataset, split)

    def estimates(self, row: Row) -> dict[str, statistics.Estimate]:
        """Metric -> mean with interval."""
        return {
            metric: statistics.estimate(row, i, self.protocol.average, self.seed)
            for i, metric in enumerate(METRICS)
        }

    def differences(
        self, dataset: tuple[str, str]
    ) -> list[tuple[str, str, dict[str, statistics.Difference]]]:
        """(A, B, metric -> A minus B) for all pairs of models, and models against references.

        Not against the viewers, whose row has its own ground truth. Then, for each model with float
        maps, these in 8 bits against themselves.
        """
        rows = [row for row in self.of(dataset) if row.name != observers.NAME]
        pairs = [
            (a, b)
            for i, a in enumerate(rows)
            for b in rows[i + 1 :]
            if a.name in self.models or b.name in self.models
        ]
        return [
            (
                a.name,
                b.name,
                {
                    metric: statistics.difference(a, b, i, self.protocol.average, self.seed)
                    for i, metric in enumerate(METRICS)
                },
            )
            for a, b in pairs
        ] + [
            (f'{row.name} in 8 bits', f'{row.name} in float', effect)
            for row in rows
            if (effect := self.quantisation(row))
        ]

    def quantisation(self, row: Row) -> dict[str, statistics.Difference]:
        """Metric -> scores of the row's maps in 8 bits minus in float; {} without float maps."""
        found = {
            metric: statistics.quantisation(row, i, self.protocol.average, self.seed)
            for i, metric in enumerate(METRICS)
        }
        return {metric: effect for metric, effect in found.items() if effect}


def means(results: Results) -> list[dict]:
    """One flat dict per row: dataset, split, row, metrics, frames, dropped."""
    listed = []
    for row in results.rows:
        values = {m: e.value for m, e in results.estimates(row).items()}
        listed.append(
            {
                'dataset': row.dataset,
                'split': row.split,
                'row': row.name,
                **values,
                'videos': len(row.videos),
                'frames': row.frames,
                'dropped': dropped(row),
            }
        )
    return listed


def counted(row: Row) -> str:
    """The number of videos and frames of a row, in words."""
    return f'{_many(len(row.videos), "video")}, {_many(row.frames, "frame")}'


def _many(number: int, what: str) -> str:
    return f'{number} {what}' if number == 1 else f'{number} {what}s'


def dropped(row: Row) -> int:
    """The number of frames without any defined metric."""
    return sum(int(np.isnan(video.scores).all(axis=1).sum()) for video in row.videos)


def problem_lines(results: Results) -> list[str]:
    """Problems of frames, in words."""
    lines = []
    for row in results.rows:
        counts = row.problems()
        for problem in TRUTH_PROBLEMS:
            if counts.get(problem):
                lines.append(
                    f'{row.dataset} / {row.name}: {counts[problem]} of {row.frames} frames: '
                    f'{problem}; undefined scores are dropped'
                )
        for problem in PREDICTION_PROBLEMS:
            if counts.get(problem):
                dropping = results.protocol.unusable == 'drop'
                outcome = (
                    'KL is dropped'
                    if problem == 'negative prediction'
                    else 'DROPPED by the protocol, so the mean may be too good'
                    if dropping
                    else 'scored as a uniform map'
                )
                lines.append(
                    f'{row.dataset} / {row.name}: {counts[problem]} of {row.frames} frames: '
                    f'{problem}; {outcome}'
                )
    return lines


def text(results: Results, per_video: bool = False) -> str:
    """The table for a terminal."""
    lines = []
    for dataset in results.datasets:
        rows = results.of(dataset)
        name, split = dataset
        lines.append(f'{name}, {split}: {counted(rows[0])}{results.partial(dataset)}')
        grid = [['', *LABELS, 'dropped']]
        for row in rows:
            found = results.estimates(row)
            grid.append([row.name, *(_number(found[m].value) for m in METRICS), str(dropped(row))])
            if any(e.low is not None for e in found.values()):
                grid.append(['  95 % interval', *(_range(found[m]) for m in METRICS), ''])
        for entry in results.published(name, split):
            values = [_number(entry.scores.get(m)) for m in METRICS]
            grid.append([f'{entry.model} (published)', *values, ''])
        lines += _aligned(grid)
        if per_video:
            for row in (r for r in rows if r.name in results.models):
                grid = [[f'{row.name}, by video', *LABELS, 'dropped']]
                for video in row.videos:
                    one = dataclasses.replace(row, videos=[video])
                    found = results.estimates(one)
                    grid.append(
                        [
                            video.video,
                            *(_number(found[m].value) for m in METRICS),
                            str(dropped(one)),
                        ]
                    )
                lines += ['', *_aligned(grid)]
        lines += [*difference_lines(results, dataset), '']
    lines += protocol_lines(results)
    return '\n'.join(lines) + '\n'


def difference_lines(results: Results, dataset: tuple[str, str]) -> list[str]:
    """The comparisons of a dataset's rows in words, with a star if significant."""
    lines = []
    for a, b, by_metric in results.differences(dataset):
        words = [
            f'{label} {signed(d)}{_stars(d)}'
            for label, d in zip(LABELS, by_metric.values())
            if d.value is not None
        ]
        if words:
            lines.append(f'{a} minus {b}: {", ".join(words)}')
    return lines


def signed(d: statistics.Difference) -> str:
    """`+0.0123`; with more digits if a significant difference needs them."""
    value = 0 if d.value is None else d.value
    return f'{round(value, digits(d)) + 0:+.{digits(d)}f}'


def digits(d: statistics.Difference) -> int:
    """Decimal places: four, or two significant digits of a smaller significant difference."""
    if not d.real or not d.value or abs(d.value) >= 5e-5:
        return 4
    return 1 - math.floor(math.log10(abs(d.value)))


def protocol_lines(results: Results) -> list[str]:
    """The description of the numbers, under every table."""
    protocol = results.protocol
    return [
        f'protocol {protocol.name}: {protocol.about} (seed {results.seed})',
        *(f'  {line}' for line in protocol.describe()),
        f'intervals and differences: {100 * statistics.LEVEL:.0f} %, bootstrap over videos '
        f'({statistics.RESAMPLES} draws); * (bold in the report): a significant difference, '
        f'its interval excludes zero and p < {1 - statistics.LEVEL:.2f} by sign flips of videos',
        *few_videos_lines(results),
        'KL, in nat: lower is better; the others: higher',
        *problem_lines(results),
        *results.notes,
    ]


def few_videos_lines(results: Results) -> list[str]:
    """Lines about unreliable intervals."""
    counts = {dataset: len(results.of(dataset)[0].videos) for dataset in results.datasets}
    return [
        f'{name}, {split}: {_many(count, "video")}, too few for intervals (too narrow, or none)'
        for (name, split), count in counts.items()
        if count < statistics.TRUSTED
    ]


def markdown(results: Results) -> str:
    """The table in Markdown."""
    lines = []
    for name, split in results.datasets:
        lines += [f'### {name}, {split}{results.partial((name, split))}', '']
        lines += [counted(results.of((name, split))[0]), '']
        lines.append(f'| | {" | ".join(LABELS)} | dropped |')
        lines.append('|---|' + '---:|' * (len(LABELS) + 1))
        for row in results.of((name, split)):
            found = results.estimates(row)
            cells = [
                _number(e.value) + (f' ({_range(e)})' if e.low is not None else '')
                for e in found.values()
            ]
            lines.append(f'| {_escape(row.name)} | {" | ".join(cells)} | {dropped(row)} |')
        for entry in results.published(name, split):
            cells = [_number(entry.scores.get(m)) for m in METRICS]
            lines.append(f'| {entry.model} (published) | {" | ".join(cells)} | |')
        lines += ['', *(f'- {_escape(x)}' for x in difference_lines(results, (name, split))), '']
    return '\n'.join([*lines, *(f'- {line.strip()}' for line in protocol_lines(results))]) + '\n'


def _number(value: float | None) -> str:
    return '-' if value is None else f'{round(value, 4) + 0:.4f}'


def _range(e: statistics.Estimate) -> str:
    if e.low is None or e.high is None:
        return ''
    return f'{round(e.low, 3) + 0:.3f}..{round(e.high, 3) + 0:.3f}'


def _stars(d: statistics.Difference) -> str:
    return '*' if d.real else ''


def _escape(name: str) -> str:
    return name.replace('|', '\\|')


def _aligned(grid: list[list[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in grid) for i in range(len(grid[0]))]
    return [
        '  '.join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:]))])
        for line in grid
    ]
