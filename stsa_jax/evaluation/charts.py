"""The report's charts as SVG text: per-video distributions and score over time. No JavaScript."""

import html
from collections.abc import Mapping, Sequence

import numpy as np

from stsa_jax.evaluation.records import Row
from stsa_jax.evaluation.statistics import Estimate

COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#999999')
_WIDTH, _LEFT, _RIGHT = 400, 112, 14
POINTS = 100  # of a line over time


def colour(index: int) -> str:
    """The colour of the row at this index of the table; rows beyond the palette are grey."""
    return COLOURS[min(index, len(COLOURS) - 1)]


def distribution(
    label: str, rows: Sequence[Row], metric: int, estimates: Sequence[Estimate]
) -> str:
    """One dot per video, one line of dots per row; below each the mean with its interval."""
    by_row = [_video_means(row, metric) for row in rows]
    values = [x for one in by_row for x in one.values()]
    if not values:
        return ''
    axis = _Axis(values)
    height = 34 * len(rows) + 44
    parts = [_title(label), *axis.ticks(height - 24)]
    for i, (row, means, found) in enumerate(zip(rows, by_row, estimates)):
        y = 40 + 34 * i
        parts.append(_text(_LEFT - 8, y + 4, _short(row.name), 'end'))
        for video, value in means.items():
            spread = (hash_place(video) - 0.5) * 10
            parts.append(
                f'<circle cx="{axis.at(value):.1f}" cy="{y - 4 + spread:.1f}" r="2.6" '
                f'fill="{colour(i)}" fill-opacity=".55"><title>{html.escape(video)}: {value:.4f}'
                '</title></circle>'
            )
        if found.value is not None:
            x = axis.at(found.value)
            if found.low is not None and found.high is not None:
                parts.append(_line(axis.at(found.low), y + 9, axis.at(found.high), y + 9, '#222'))
            parts.append(_line(x, y + 4, x, y + 14, '#222'))
    return _svg(height, label, parts)


def over_time(label: str, rows: Sequence[Row], metric: int) -> str:
    """The mean over videos at each position in the video, in at most POINTS steps."""
    lines = [mean_over_time(row, metric) for row in rows]
    return line_chart(label, {row.name: line for row, line in zip(rows, lines)})


def mean_over_time(row: Row, metric: int) -> tuple[np.ndarray, np.ndarray]:
    """(frame numbers, means) over the videos that long, in bins of equal width."""
    positions = np.concatenate([v.positions for v in row.videos])
    scores = np.concatenate([v.scores[:, metric] for v in row.videos])
    return binned(positions, scores)


def binned(positions: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means in at most POINTS bins of positions, without bins that have no defined score."""
    defined = np.isfinite(scores)
    positions, scores = positions[defined], scores[defined]
    if not len(positions):
        return np.zeros(0), np.zeros(0)
    distinct = np.unique(positions)
    edges = distinct if len(distinct) <= POINTS else np.linspace(0, positions.max(), POINTS + 1)
    bins = np.searchsorted(edges, positions, side='right') - 1
    counts, sums = np.bincount(bins), np.bincount(bins, scores)
    there = counts > 0
    centres = np.bincount(bins, positions)[there] / counts[there] + 1
    return centres, sums[there] / counts[there]


def line_chart(label: str, lines: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Lines over the frame number, one per row, in the rows' colours."""
    values = np.concatenate([y for _, y in lines.values()])
    if not len(values):
        return ''
    last = max((float(x.max()) for x, _ in lines.values() if len(x)), default=1)
    height, top, bottom = 190, 30, 158
    low, high = float(values.min()), float(values.max())
    span = (high - low) or 1
    left = 52

    def place(x, y):
        across = left + (_WIDTH - left - _RIGHT) * (x - 1) / max(last - 1, 1)
        return f'{across:.1f},{bottom - (bottom - top) * (y - low) / span:.1f}'

    parts = [_title(label)]
    for value in (low, (low + high) / 2, high):
        y = bottom - (bottom - top) * (value - low) / span
        parts.append(_line(left, y, _WIDTH - _RIGHT, y, '#e4e4e4'))
        parts.append(_text(left - 6, y + 4, _tick(value), 'end'))
    for number in (1, (1 + last) / 2, last):
        x = float(place(number, low).split(',')[0])
        anchor = 'end' if number == last else 'middle'
        parts.append(_text(x, bottom + 16, f'{number:.0f}', anchor))
    parts.append(_text(_WIDTH / 2, height - 2, 'frame', 'middle'))
    for i, (name, (numbers, means)) in enumerate(lines.items()):
        points = ' '.join(place(a, b) for a, b in zip(numbers, means))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour(i)}" stroke-width="1.6">'
            f'<title>{html.escape(name)}</title></polyline>'
        )
    return _svg(height, label, parts)


def legend(rows: Sequence[Row]) -> str:
    """The rows' names in their colours, as HTML."""
    items = (
        f'<span><i style="background:{colour(i)}"></i>{html.escape(row.name)}</span>'
        for i, row in enumerate(rows)
    )
    return f'<p class="legend">{"".join(items)}</p>'


def hash_place(text: str) -> float:
    """A number in [0, 1) from a name, so that dots of equal value do not hide each other."""
    return (sum((i + 1) * ord(c) for i, c in enumerate(text)) * 0.6180339887) % 1


def _video_means(row: Row, metric: int) -> dict[str, float]:
    means = {}
    for video in row.videos:
        scores = video.scores[:, metric]
        if np.isfinite(scores).any():
            means[video.video] = float(np.nanmean(scores))
    return means


class _Axis:
    """A horizontal scale from the smallest to the largest value."""

    def __init__(self, values):
        self.low, self.high = min(values), max(values)
        if self.low == self.high:
            self.low, self.high = self.low - 0.5, self.high + 0.5

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * share

    def ticks(self, bottom: float) -> list[str]:
        parts = []
        for value, anchor in zip(np.linspace(self.low, self.high, 3), ('start', 'middle', 'end')):
            x = self.at(value)
            parts.append(_line(x, 24, x, bottom, '#e4e4e4'))
            parts.append(_text(x, bottom + 15, _tick(value), anchor))
        return parts


def _svg(height: float, label: str, parts: list[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{html.escape(label)}">'
        + ''.join(parts)
        + '</svg>'
    )


def _title(label: str) -> str:
    return f'<text x="4" y="15" font-weight="600">{html.escape(label)}</text>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" '
        'stroke-width="1.4"/>'
    )


def _tick(value: float) -> str:
    return f'{value:.2f}' if abs(value) < 10 else f'{value:.1f}'


def _short(name: str) -> str:
    return name if len(name) <= 17 else f'{name[:16]}…'
