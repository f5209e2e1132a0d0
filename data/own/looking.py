"""Maps gaze samples to frames and pixels of their video.

A position is in pixels of the video, in fractions of its width and height, or in pixels of a screen
with the video in its centre, enlarged to fit or unscaled. Pixels are rounded, as in the mappings of
DHF1K and DIEM. A time is relative to the start of the video or of the record; a frame is visible
from its own time until that of the next.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data.copies.sources import Report
from data.gaze import Fixations
from data.own.gaze_tables import Samples
from stsa_jax.errors import InputError, ranges

PIXELS, FRACTIONS = 'pixels', 'fractions'
UNITS = {'us': 1e-6, 'ms': 1e-3, 's': 1.0}  # seconds
OFF = 0.5  # fraction of samples outside the picture; with more, positions are misinterpreted
_ROUNDING = 1e-7  # seconds


@dataclasses.dataclass(frozen=True)
class View:
    """How samples map to pixels and frames; see the module docstring.

    `second` is the unit of time in seconds; `clock` 'video', 'record' or '' where the samples show
    it; `first_frame` the number of a video's first frame in the tables, None for the frames' own.
    """

    units: str = PIXELS
    screen: tuple[int, int] | None = None  # (h, w)
    fitted: bool = True
    second: float = 1.0
    clock: str = ''
    first_frame: int | None = None

    def scale(self, size: tuple[int, int]) -> float:
        """Pixels of the screen (of the video, without one) for each pixel of the video."""
        if self.screen is None or not self.fitted:
            return 1.0
        return min(self.screen[0] / size[0], self.screen[1] / size[1])

    def pixels(
        self, x: np.ndarray, y: np.ndarray, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Column and row, int (n,), of positions on a frame of `size` (h, w); may be outside."""
        height, width = size
        if self.units == FRACTIONS and self.screen is not None:
            x, y = x * self.screen[1], y * self.screen[0]
        if self.units == FRACTIONS and self.screen is None:
            # The far edge is of the last pixel.
            columns, rows = np.floor(x * width), np.floor(y * height)
            columns[x == 1], rows[y == 1] = width - 1, height - 1
        else:
            if self.screen is not None:
                scale = self.scale(size)
                x = (x - (self.screen[1] - width * scale) / 2) / scale
                y = (y - (self.screen[0] - height * scale) / 2) / scale
            columns, rows = np.rint(x), np.rint(y)
        far = 2**31 - 1
        return columns.clip(-far, far).astype(int), rows.clip(-far, far).astype(int)


AS_IT_IS = View()


def fixations_of(
    samples: Samples,
    view: View,
    size: tuple[int, int],
    numbers: Sequence[int],
    times: np.ndarray,
    report: Report,
) -> Fixations:
    """The fixations of a video; `frame` has the frame numbers.

    Args:
        size: (h, w) of its frames.
        numbers: of its frames, ascending.
        times: (n + 1,), seconds: when each frame begins, and when the last one ends.

    Samples outside of all frames or of the picture are left out, counted and reported.
    """
    path, lasting = samples.source, samples.lasts > 0
    count = len(numbers)
    keep = np.ones(len(samples.when), bool)
    if samples.in_frames:
        shift = 0 if view.first_frame is None else numbers[0] - view.first_frame
        first = np.rint(samples.when + shift).astype(int)
        last = np.where(lasting, np.ceil(first + samples.lasts).astype(int) - 1, first)
        begin = np.searchsorted(numbers, first, 'left')
        end = np.searchsorted(numbers, last, 'right') - 1
        keep = begin <= end
        if not keep.all():
            stated = np.rint(samples.when[~keep]).astype(int)
            report.add(
                path, f'{np.count_nonzero(~keep)} samples at frames that the video does not have: '
                f'{ranges(set(stated.tolist()))} (it has {ranges(numbers)})',
                'left out; if tables count otherwise, --gaze_first_frame says how',
            )  # fmt: skip
    else:
        seconds, keep = _by_the_videos_clock(samples, view, times, report)
        begin = np.searchsorted(times, seconds + _ROUNDING, 'right') - 1
        stop = seconds + samples.lasts * view.second - _ROUNDING
        end = np.where(lasting, np.searchsorted(times, stop, 'right') - 1, begin)
        inside = (end >= 0) & (begin < count)
        if (gone := keep & ~inside).any():
            report.add(
                path, f'{np.count_nonzero(gone)} samples at times outside of the video, which runs '
                f'from {times[0]:.3f} to {times[-1]:.3f} s', 'left out',
            )  # fmt: skip
        keep &= inside
        keep &= _forwards(samples, seconds, keep, report)
    x, y = view.pixels(samples.x, samples.y, size)
    on = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])
    if off := int(np.count_nonzero(keep & ~on)):
        known = 'that screen' if view.screen else 'pixels of a screen (--gaze_screen=WxH)'
        done = 'left out'
        if off > OFF * np.count_nonzero(keep):
            on[:] = False
            done = f'no sample is used; is it {known}, are x and y in their places?'
        report.add(path, f'{off} of {np.count_nonzero(keep)} samples are off the picture', done)
    used = np.flatnonzero(keep & on)
    begin, end = begin[used].clip(0, count - 1), end[used].clip(0, count - 1)
    many = end - begin + 1
    each = np.repeat(np.arange(len(used)), many)  # once for each of its frames
    frame = begin[each] + np.arange(len(each)) - np.repeat(np.cumsum(many) - many, many)
    return Fixations(np.asarray(numbers)[frame], y[used][each], x[used][each])


def _forwards(
    samples: Samples, seconds: np.ndarray, keep: np.ndarray, report: Report
) -> np.ndarray:
    """Which of the samples kept are not earlier than one before them in their record."""
    forwards, backwards = np.ones(len(seconds), bool), {}
    for k, name in enumerate(samples.viewers):
        own = np.flatnonzero((samples.viewer == k) & keep)
        if not len(own):
            continue
        behind = seconds[own] < np.maximum.accumulate(seconds[own])
        if behind.any():
            backwards[name or '(unnamed)'] = np.count_nonzero(behind)
            forwards[own[behind]] = False
    if backwards:
        shown = ', '.join(f'{count} samples of {who}' for who, count in [*backwards.items()][:3])
        report.add(
            samples.source, f'times run backwards in {len(backwards)} records ({shown})',
            'those are left out; if several viewings follow each other, give each its own viewer',
        )  # fmt: skip
    return forwards


def _by_the_videos_clock(
    samples: Samples, view: View, times: np.ndarray, report: Report
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds from the video's beginning, and which samples are by a clock that can be used."""
    seconds = samples.when * view.second
    begins = np.asarray(samples.begins) * view.second
    usable = np.ones(len(seconds), bool)
    if view.clock == 'record':
        return seconds - begins[samples.viewer], usable
    if view.clock == 'video':
        return seconds, usable
    # Samples of a record that starts after the video's end are by the tracker's own clock.
    foreign = begins >= times[-1]
    counted = np.bincount(samples.viewer[usable], minlength=len(foreign)) > 0
    if not foreign[counted].any():
        return seconds, usable
    if foreign[counted].all():
        report.add(
            samples.source, 'times are on a separate clock, beyond the end of the video',
            "each record is counted from its first sample, as with --gaze_clock=record",
        )  # fmt: skip
        return seconds - begins[samples.viewer], usable
    names = [samples.viewers[k] for k in np.flatnonzero(foreign & counted)]
    report.add(
        samples.source, f'two clocks: the records of {len(names)} viewers ({", ".join(names[:3])}) '
        'begin after the end of the video, the others do not',
        'left out; if each record begins with the video, --gaze_clock=record takes all of them',
    )  # fmt: skip
    return seconds, usable & ~foreign[samples.viewer]


def guess_units(samples: Sequence[Samples]) -> str:
    """'fractions' if nearly all places lie between 0 and 1, else 'pixels'."""
    inside, total = 0, 0
    for each in samples:
        for values in (each.x, each.y):
            inside += int(np.count_nonzero((values > -0.5) & (values < 1.5)))
            total += len(values)
    return FRACTIONS if total and inside > 0.99 * total else PIXELS


def guess_second(samples: Samples, duration: float) -> float:
    """The unit of time, in seconds, in which the longest record is about as long as the video.

    Raises InputError if that does not tell.
    """
    longest = 0.0
    for k in range(len(samples.viewers)):
        own = samples.when[samples.viewer == k]
        longest = max(longest, float(np.ptp(own)) if len(own) else 0)
    fitting = [u for u, second in UNITS.items() if 0.1 < longest * second / duration < 1.5]
    if len(fitting) != 1:
        raise InputError(
            f'{samples.source}: its records are up to {longest:g} long, and the video {duration:g} '
            's, which does not tell the unit of its times; give --gaze_time=s, ms or us'
        )
    return UNITS[fitting[0]]
