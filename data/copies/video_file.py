"""The frames of a video file by number, also for a file that repeats frames or is damaged.

Uses the same reader as prediction, `stsa_jax.media.decoding`, so that both number frames alike: a
frame's number is its position in time, from 1. Problems go to a report.
"""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from data.copies.sources import Report
from stsa_jax.errors import ranges
from stsa_jax.media.decoding import FileFrames
from stsa_jax.media.packets import opened, reason


def frames_of_video(path: Path, report: Report) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (number, uint8 RGB (h, w, 3)) of the frames of a video file, in order.

    Frames whose data is damaged, those predicted from them (up to the next key frame), and
    positions without a frame are left out and reported by number.
    """
    try:
        frames = FileFrames(path)  # one process per core is already decoding
    except (FFmpegError, OSError) as error:
        report.add(path, f'is not a readable video ({reason(error)})', 'skipped')
        return
    for frame in frames:
        yield frame.number, frame.pixels
    _tell(frames, report)


def _tell(frames: FileFrames, report: Report) -> None:
    """Reports the problems found while decoding."""
    path, lost, packets = frames.path, frames.lost, frames.packets
    if packets.choice:
        report.add(path, packets.choice)
    if stopped := frames.stopped or packets.stopped:
        what = f'does not decode beyond frame {frames.last}' if frames.last else 'does not decode'
        done = 'earlier frames are used' if frames.last else 'skipped'
        report.add(path, f'{what} ({stopped})', done)
    if lost.damaged:
        what = f'{len(lost.damaged)} damaged frames: {ranges(lost.damaged)}'
        report.add(path, f'{what} ({lost.reason})', 'left out')
    if lost.spoilt:
        what = f'{len(lost.spoilt)} frames predicted from damaged ones: {ranges(lost.spoilt)}'
        report.add(path, what, 'left out')
    if missing := frames.missing:
        report.add(path, f'{len(missing)} frames are not there: {ranges(missing)}', 'left out')
    if stopped:
        return
    if packets.cut:
        last = max([frames.last, *lost.damaged])
        told = f', but its header says {packets.stated}' if packets.stated > last else ''
        what = f'ends after frame {last}{told} ({packets.cut})'
        report.add(path, what, 'used up to the break')


def frames_in_header(path: Path) -> int:
    """The number of frames in a video's header, or from its duration; 0 if it is not a video."""
    try:
        with opened(path) as (container, stream):
            rate, duration = stream.average_rate, container.duration
            return stream.frames or round(float(rate or 0) * (duration or 0) / av.time_base)
    except (FFmpegError, OSError):
        return 0
