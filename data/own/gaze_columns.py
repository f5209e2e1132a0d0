"""Identifies the columns of a gaze table, by the usual names or as the user specifies."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.copies.text_table import number
from stsa_jax.errors import InputError

# In order of preference, without units, case and punctuation.
NAMES = {
    'video': (
        'video', 'video_name', 'videoname', 'video_id', 'stimulus', 'stimulus_name', 'media',
        'media_name', 'presented_media_name', 'clip', 'clip_name', 'movie', 'film',
    ),
    'viewer': (
        'viewer', 'viewer_id', 'subject', 'subject_id', 'subjectid', 'participant',
        'participant_id', 'participant_name', 'observer', 'observer_id', 'user', 'user_id',
        'person',
    ),
    'time': (
        'time', 't', 'timestamp', 'time_stamp', 'recording_timestamp', 'video_time', 'onset',
        'start_time', 'start',
    ),
    'frame': (
        'frame', 'frame_number', 'frame_no', 'frame_num', 'frame_id', 'frame_index', 'frame_idx',
        'frameno', 'video_frame',
    ),
    'x': (
        'x', 'gaze_x', 'x_gaze', 'gaze_point_x', 'gx', 'pos_x', 'x_pos', 'x_position',
        'fix_x', 'fixation_x', 'x_fixation', 'fixation_point_x', 'por_x', 'l_por_x',
        'r_por_x', 'left_x', 'right_x', 'left_gaze_x', 'right_gaze_x',
    ),
    'y': (
        'y', 'gaze_y', 'y_gaze', 'gaze_point_y', 'gy', 'pos_y', 'y_pos', 'y_position',
        'fix_y', 'fixation_y', 'y_fixation', 'fixation_point_y', 'por_y', 'l_por_y',
        'r_por_y', 'left_y', 'right_y', 'left_gaze_y', 'right_gaze_y',
    ),
    # Only if requested: with samples it is often the duration of the fixation that contains them.
    'duration': (),
    'event': (
        'event', 'event_info', 'l_event_info', 'eye_movement_type', 'eye_movement', 'event_type',
        'category', 'type', 'label',
    ),
}  # fmt: skip
_UNITS = {'us': 1e-6, 'µs': 1e-6, 'microseconds': 1e-6, 'ms': 1e-3, 'msec': 1e-3,
          'milliseconds': 1e-3, 's': 1.0, 'sec': 1.0, 'seconds': 1.0}  # fmt: skip
_UNIT = re.compile(r'(?<=_)(us|ms|msec|s|sec|seconds|milliseconds|microseconds|px|pix|pixels)$')


class Chosen(NamedTuple):
    """`which`: what -> place of its column, from 0. `headless`: the first line is a sample already.

    `note` is a line on what was guessed; `unit`, in seconds, is that of times if a name says it.
    """

    which: dict[str, int]
    headless: bool = False
    note: str = ''
    unit: float | None = None


def choose(path: Path, header: Sequence[str], asked: Mapping[str, str]) -> Chosen | None:
    """The columns of the table `path`; None if it does not look like a table of gaze.

    `asked`: {'x': 'GazeX', ...} by name, or by place, from 1, of a table without header.

    Raises InputError if a column that is asked for is not there, or it is not plain which is meant.
    """
    if asked and all(column.isdecimal() for column in asked.values()):
        which = {what: int(place) - 1 for what, place in asked.items()}
        if bad := [w for w, place in which.items() if not 0 <= place < len(header)]:
            raise InputError(
                f'{path}: has {len(header)} columns, none at {asked[bad[0]]} for {bad[0]} '
                '(--gaze_columns); places count from 1'
            )
        return Chosen(which, all(_is_number(header[which[w]]) for w in 'xy'))
    which, plain = {}, [_plain(name) for name in header]
    for what, known in NAMES.items():
        if (name := asked.get(what)) is not None:
            if name not in header:
                raise InputError(
                    f'{path}: has no column {name!r} for {what} (--gaze_columns); its columns are '
                    f'{", ".join(header)}'
                )
            which[what] = header.index(name)
            continue
        there = [i for i, name in enumerate(plain) if name in known]
        if len(there) > 1 and what in 'xy':
            names = ' and '.join(repr(header[i]) for i in there)
            raise InputError(
                f'{path}: {what} may be any of {names}; choose one: --gaze_columns={what}=...'
            )
        if there:
            which[what] = min(there, key=lambda i: known.index(plain[i]))
    if 'x' not in which or 'y' not in which:
        if len(header) > 2 and all(map(_is_number, header)):
            raise InputError(
                f'{path}: has no header; say what its columns are, counted from 1: '
                '--gaze_columns=frame=1,x=2,y=3'
            )
        return None
    if 'time' not in which and 'frame' not in which:
        raise InputError(
            f'{path}: has no column that is clearly a time or a frame, among {", ".join(header)}; '
            'say which: --gaze_columns=time=... or frame=...'
        )
    return Chosen(which, False, _note(header, which, asked), _time_unit(header, which))


def _note(header: Sequence[str], which: Mapping[str, int], asked: Mapping[str, str]) -> str:
    guessed = [f'{what} is {header[place]!r}' for what, place in which.items() if what not in asked]
    line = f'columns: {", ".join(guessed)}' if guessed else ''
    if 'time' in which and 'frame' in which:
        line += '; frames are used, not times'
    if 'event' not in which:
        line += '; no events, so every sample counts as a look, also between fixations'
    if 'duration' not in which and (lasting := [c for c in header if 'duration' in c.casefold()]):
        line += (
            f'; {lasting[0]!r} is not used: if each line is a whole fixation, '
            f'set --gaze_columns=duration={lasting[0]}'
        )
    return line.removeprefix('; ')


def _time_unit(header: Sequence[str], which: Mapping[str, int]) -> float | None:
    """Seconds that the unit in the name of the times has: of `time [ms]`, `t_us`, `Time (s)`."""
    if 'time' not in which:
        return None
    words = re.findall(r'[a-zµ]+', header[which['time']].casefold())
    return _UNITS.get(words[-1]) if len(words) > 1 else None


def _plain(name: str) -> str:
    """`Gaze point X [px]` -> `gaze_point_x`."""
    name = re.sub(r'[\[(].*?[\])]', '', name).strip().casefold()
    name = re.sub(r'[^a-z0-9µ]+', '_', name).strip('_')
    return _UNIT.sub('', name).strip('_')


def _is_number(cell: str) -> bool:
    try:
        return np.isfinite(number(cell))
    except ValueError:
        return False
