"""Eye-tracker records to fixations, and fixations to density maps, by the published mappings.

DHF1K's exports (one file per viewer and video): time in microseconds and the point of regard in
pixels of a 1440x900 screen, on which the video fills the width:

    x' = x 640/1440,  y' = (y - 45) 640/1440,  frame = floor(30 t),  t from the record's first line

DIEM's gaze files (one per viewer): for each frame both eyes' positions on a 1280x960 screen with
the video in the centre: x' = x - (1280 - W)/2, y' = y - (960 - H)/2; a fixation is a frame in which
both eyes have event 1, at the mean of their positions.

All usual variants of text tables are accepted (`data.copies.text_table`). A sample whose position
is missing, NaN or -1 is no fixation.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.copies.sources import Report
from data.copies.text_table import number, read_rows
from stsa_jax.errors import InputError

DHF1K_SIZE, DHF1K_SCREEN, DHF1K_FPS = (360, 640), (900, 1440), 30
DHF1K_SIGMA = 12.74  # pixels: full width 30 at half height, and 30 / (2 sqrt(2 ln 2)) = 12.74
DIEM_SCREEN = (960, 1280)
LOST = -1  # a coordinate that the tracker could not measure, if it is not left empty


class Fixations(NamedTuple):
    """Fixated points of a video: frame index (from 0) and pixel row and column, (n,) each."""

    frame: np.ndarray
    y: np.ndarray
    x: np.ndarray

    @classmethod
    def together(cls, parts: Iterable['Fixations']) -> 'Fixations':
        """The fixations of several viewers."""
        return cls(*(np.concatenate(columns) for columns in zip(*parts)))

    def map(self, frame: int, size: tuple[int, int]) -> np.ndarray:
        """bool (h, w): the pixels fixated during this frame."""
        here = self.frame == frame
        result = np.zeros(size, bool)
        result[self.y[here], self.x[here]] = True
        return result


def density_map(fixations: np.ndarray, sigma: float) -> np.ndarray:
    """bool (h, w) -> float64 (h, w) with maximum 1: a Gaussian of `sigma` pixels at each fixation.

    The map is reflected at the edges, so that no mass is lost, as in the published maps. All zero
    if there is no fixation.
    """
    height, width = fixations.shape
    y, x = np.nonzero(fixations)
    if not len(y):
        return np.zeros((height, width))
    density = _reflected(y, height, sigma) @ _reflected(x, width, sigma).T
    return density / density.max()


def _reflected(centres: np.ndarray, length: int, sigma: float) -> np.ndarray:
    """(length, n): Gaussians along one axis, reflected at the edges."""
    positions = np.arange(length)[:, None]
    images = (centres, -1 - centres, 2 * length - 1 - centres)
    return sum(np.exp(-((positions - c) ** 2) / (2 * sigma**2)) for c in images)


def read_dhf1k(
    path: Path,
    size: tuple[int, int] = DHF1K_SIZE,
    screen: tuple[int, int] = DHF1K_SCREEN,
    fps: float = DHF1K_FPS,
) -> Fixations:
    """The fixations of one record of DHF1K's `exportdata_train`, on frames of `size` (h, w).

    Samples outside the frame are left out. Raises InputError if it is not such a record.
    """
    rows = read_rows(path)
    if not rows or len(rows[0]) < 8 or not rows[0][0].lower().startswith('time'):
        raise InputError(
            f'{path}: not a DHF1K record: a tab-separated table was expected, with a header '
            "'Time, Type, Trial, ..., L POR X [px], L POR Y [px], L Event Info'"
        )
    time, kind, at_x, at_y, event = _columns(rows[0])
    last = max(time, kind, at_x, at_y, event)
    samples = [row for row in rows[1:] if len(row) > last and row[kind] == 'SMP']
    try:
        table = np.array(
            [[number(row[i]) for i in (time, at_x, at_y)] for row in samples], np.float64
        )
    except ValueError as error:
        raise InputError(
            f'{path}: a number cannot be read ({error}); is the file damaged?'
        ) from error
    if not len(table):
        return _none()
    scale = size[1] / screen[1]  # the video fills the screen's width
    margin = (screen[0] - size[0] / scale) / 2
    fixating = np.array([row[event].casefold() == 'fixation' for row in samples])
    there = np.isfinite(table).all(axis=1) & ~(table[:, 1:] == LOST).any(axis=1)
    if not there.any():
        return _none()
    start = table[np.isfinite(table[:, 0]), 0][0]
    table = np.where(there[:, None], table, start)  # lost samples are no fixations, see below
    frame = np.floor((table[:, 0] - start) * 1e-6 * fps).astype(int)
    x = np.rint(table[:, 1] * scale).astype(int)
    y = np.rint((table[:, 2] - margin) * scale).astype(int)
    return _inside(frame, y, x, fixating & there, size)


def _columns(header: list[str]) -> tuple[int, ...]:
    """The columns of time, type, x, y and event, by name, else in DHF1K's positions."""
    names = [name.casefold() for name in header]
    usual = {'time': 0, 'type': 1, 'l por x [px]': 5, 'l por y [px]': 6, 'l event info': 7}
    return tuple(names.index(name) if name in names else at for name, at in usual.items())


def read_diem(
    path: Path, size: tuple[int, int], screen: tuple[int, int] = DIEM_SCREEN
) -> Fixations:
    """The fixations of one DIEM gaze file, on frames of `size` (h, w).

    Samples outside the frame are left out. Raises InputError if it is not such a file.
    """
    rows = read_rows(path, spaces_separate=True)
    if len(rows) > 1 and len(rows[0]) >= 9 and not any(map(_is_number, rows[0])):
        rows = rows[1:]  # a header that somebody added
    try:
        table = np.array([[number(cell) for cell in row[:9]] for row in rows], np.float64)
        table = table.reshape(len(rows), 9)
    except ValueError as error:
        raise InputError(
            f'{path}: not a DIEM gaze file: nine tab-separated numbers per line were expected '
            f'(frame, then x, y, pupil, event of either eye); {error}'
        ) from error
    places = table[:, [0, 1, 2, 5, 6]]
    there = np.isfinite(places).all(axis=1) & ~(places[:, 1:] == LOST).any(axis=1)
    fixating = there & (table[:, 4] == 1) & (table[:, 8] == 1)
    table = np.where(there[:, None], table, 0)  # lost samples are no fixations
    top, left = (screen[0] - size[0]) / 2, (screen[1] - size[1]) / 2
    x = np.rint((table[:, 1] + table[:, 5]) / 2 - left).astype(int)
    y = np.rint((table[:, 2] + table[:, 6]) / 2 - top).astype(int)
    return _inside(table[:, 0].astype(int) - 1, y, x, fixating, size)


def _is_number(cell: str) -> bool:
    try:
        return np.isfinite(number(cell))
    except ValueError:
        return False


def read_all(
    paths: Iterable[Path], read: Callable[[Path], Fixations], report: Report
) -> list[Fixations]:
    """`read(path)` for every viewer's file; unreadable ones are left out and reported."""
    viewers = []
    for path in paths:
        try:
            viewers.append(read(path))
        except (InputError, OSError) as error:
            report.add(path, str(error).removeprefix(f'{path}: '), 'this viewer is left out')
    return viewers


def _inside(frame, y, x, fixating, size) -> Fixations:
    keep = fixating & (frame >= 0) & (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
    return Fixations(frame[keep], y[keep], x[keep])


def _none() -> Fixations:
    return Fixations(*(np.zeros(0, int) for _ in range(3)))
