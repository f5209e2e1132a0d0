"""Gaze tables: the samples of each video by viewer.

Each line has x and y, a time or a frame number, and, if the table has several, the video and the
viewer; a column of events (`Fixation`, `Saccade`, `Blink`) is used if there is one. See
`gaze_columns`.
"""

import array
import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from data.copies.sources import Report
from data.copies.text_table import number, numbered_rows
from data.gaze import LOST
from data.own.gaze_columns import Chosen, choose
from data.own.names import Files, Named
from data.own.places import Place
from stsa_jax.errors import InputError

FIXATING = re.compile(r'(fix\w*|f|1|1\.0|true|yes)', re.IGNORECASE)


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """All samples of one video that may be fixations.

    `when` is in the table's unit of time, or a frame's number if `in_frames`; viewer k is called
    `viewers[k]`, and its record begins at `begins[k]`, lost samples included. `lasts` is for how
    long a sample lasts, in the same unit, if each is a whole fixation; else 0.
    """

    source: str  # the tables
    viewers: tuple[str, ...]
    begins: tuple[float, ...]
    viewer: np.ndarray  # int (n,)
    when: np.ndarray  # float64 (n,)
    x: np.ndarray
    y: np.ndarray
    lasts: np.ndarray
    in_frames: bool

    def __repr__(self) -> str:
        """Changes with any sample: see `VideoSource.identity`."""
        digest = hashlib.sha256(repr((self.viewers, self.begins, self.in_frames)).encode())
        for column in (self.viewer, self.when, self.x, self.y, self.lasts):
            digest.update(column.tobytes())
        return f'Samples({digest.hexdigest()[:24]})'

    def by_viewer(self) -> Iterator['Samples']:
        """Those of each viewer."""
        for k, name in enumerate(self.viewers):
            own = self.viewer == k
            yield Samples(
                self.source, (name,), (self.begins[k],), np.zeros(np.count_nonzero(own), np.int64),
                self.when[own], self.x[own], self.y[own], self.lasts[own], self.in_frames,
            )  # fmt: skip


class Tables:
    """The samples of all tables: `samples` by video; `unit`, seconds, if a column's name says it.

    `notes` are lines about how the tables were interpreted.
    """

    def __init__(self, columns: Mapping[str, str]):
        """`columns`: {'x': 'GazeX', ...}, the user's names; or places from 1, without a header."""
        self.columns = columns
        self.notes: list[str] = []
        self.unit: float | None = None
        self._found: dict[str, _Gathered] = {}
        self._lost = self._fixating = 0
        self._other: Counter[str] = Counter()

    @property
    def samples(self) -> dict[str, Samples]:
        """By the video's name."""
        return {name: gathered.samples() for name, gathered in self._found.items()}

    def left_out(self) -> list[str]:
        """Lines about samples that are not used: blinks, saccades."""
        lines = []
        if self._other:
            shown = ', '.join(f'{count} {event}' for event, count in self._other.most_common(5))
            lines.append(f'{sum(self._other.values())} samples are no fixations ({shown})')
        if self._lost:
            lines.append(f'{self._lost} samples have no place (empty, NaN, -1, 0 and 0)')
        return [f'gaze: {line}; left out' for line in lines]

    def read(self, places: Sequence[Place], videos: Sequence[Files], report: Report) -> None:
        """Reads every table; lines that are not samples of a video are counted and reported.

        Raises InputError for a table of a video whose columns cannot be identified, and if no table
        has any fixation. Of several tables one that cannot be read is left out and reported.
        """
        named = Named(videos)
        for place in places:
            video, viewer = named.in_path(place.parts)
            video = video or (videos[0] if len(videos) == 1 else None)
            try:
                rows = numbered_rows(place.path)
                header = next(rows, (0, []))[1]
            except (InputError, OSError) as error:
                if len(places) == 1:
                    raise
                report.add(str(place.path), _reason(error, place.path), 'left out')
                continue
            try:
                chosen = choose(place.path, header, self.columns)
            except InputError as error:
                if video is not None:
                    raise
                report.add(str(place.path), _reason(error, place.path),
                           'left out; its name is that of no video')  # fmt: skip
                continue
            if chosen is None:
                report.add(
                    str(place.path), 'not a gaze table (no columns that are clearly x and y)',
                    'skipped; if it is one, set --gaze_columns=x=...,y=...',
                )  # fmt: skip
                continue
            self._note(place.path, chosen)
            if 'video' not in chosen.which and video is None:
                report.add(
                    str(place.path), 'names no video, or several',
                    'left out; name it as the video is, or give it a column of videos',
                )  # fmt: skip
                continue
            if chosen.headless:
                rows = numbered_rows(place.path)
            self._read(place.path, rows, chosen.which, video, viewer, named, report)
        if self._other and not self._fixating:
            events = ', '.join(repr(event) for event, _ in self._other.most_common(6))
            raise InputError(
                f'{places[0].path}: none of the events is a fixation; they are {events}. Name the '
                'column that has fixations (--gaze_columns=event=...), or take that column out'
            )

    def _note(self, path: Path, chosen: Chosen) -> None:
        if chosen.note and not any(chosen.note in note for note in self.notes):
            self.notes.append(f'{path.name}: {chosen.note}')
        if chosen.unit and self.unit not in (None, chosen.unit):
            raise InputError(
                f'{path}: its times are in another unit than those of the other tables; convert '
                'them to one'
            )
        self.unit = chosen.unit or self.unit

    def _read(self, path, rows, which, video, viewer, named, report) -> None:
        when_column = which.get('frame', which.get('time'))
        last = max(which.values())
        no_number: list[int] = []
        unknown: Counter[str] = Counter()
        total = 0
        for line, cells in rows:
            total += 1
            if len(cells) <= last:
                no_number.append(line)
                continue
            if 'video' in which:
                video = named.get(cells[which['video']])
                if video is None:
                    unknown[cells[which['video']]] += 1
                    continue
            try:
                when = number(cells[when_column])
                x, y = number(cells[which['x']]), number(cells[which['y']])
                lasts = number(cells[which['duration']]) if 'duration' in which else 0.0
            except ValueError:
                no_number.append(line)
                continue
            who = cells[which['viewer']] if 'viewer' in which else viewer
            gathered = self._found.get(video.name)
            if gathered is None:
                gathered = self._found[video.name] = _Gathered('frame' in which)
            elif gathered.in_frames != ('frame' in which):
                raise InputError(
                    f'{path}: has {"frames" if "frame" in which else "times"}, but another table '
                    f'of the video {video.name} has not; use one of the two in all'
                )
            of = gathered.record(who, when, str(path))
            event = cells[which['event']] if 'event' in which else 'fixation'
            if not FIXATING.fullmatch(event):
                self._other[event or '(empty)'] += 1
                continue
            self._fixating += 1
            if not np.isfinite((when, x, y, lasts)).all() or (x, y) in ((LOST, LOST), (0, 0)):
                self._lost += 1
            else:
                gathered.add(of, when, x, y, lasts)
        if no_number:
            what = f'{len(no_number)} of {total} lines have no numbers for time or frame, x and y'
            done = 'left out'
            if len(no_number) > total / 2:
                done += '; are the columns the right ones (--gaze_columns)?'
            report.add(str(path), f'{what}, such as line {no_number[0]}', done)
        if unknown:
            shown = ', '.join(list(unknown)[:3]) + (' ...' if len(unknown) > 3 else '')
            what = f'{sum(unknown.values())} samples of videos that are not there ({shown})'
            report.add(str(path), what, 'left out; are the videos named so?')


def _reason(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f'{path}: ')


class _Gathered:
    """Accumulates the samples of one video."""

    def __init__(self, in_frames: bool):
        self.in_frames = in_frames
        self._sources: dict[str, None] = {}
        self._viewers: dict[str, int] = {}
        self._begins: list[float] = []
        self._viewer = array.array('q')
        self._columns = tuple(array.array('d') for _ in range(4))

    def record(self, viewer: str, when: float, source: str) -> int:
        """The number of this viewer; notes where the record begins."""
        self._sources[source] = None
        known = self._viewers.setdefault(viewer, len(self._viewers))
        if known == len(self._begins):
            self._begins.append(when)
        elif not np.isfinite(self._begins[known]):
            self._begins[known] = when
        return known

    def add(self, viewer: int, *values: float) -> None:
        """Adds a sample: when, x, y, lasts."""
        self._viewer.append(viewer)
        for column, value in zip(self._columns, values):
            column.append(value)

    def samples(self) -> Samples:
        """The accumulated samples."""
        when, x, y, lasts = (np.array(column, np.float64) for column in self._columns)
        viewer = np.array(self._viewer, np.int64)
        first, *more = self._sources or ('',)
        return Samples(
            first + (f' and {len(more)} more' if more else ''), tuple(self._viewers),
            tuple(self._begins), viewer, when, x, y, lasts, self.in_frames,
        )  # fmt: skip
