"""The frames of a video file by number, also of a file that repeats frames or is damaged.

The reader is that of the predictions, `stsa_jax.media.decoding`, so that both number alike: a
frame's number is its place in time, from 1. Here what is wrong goes to a report.
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

    Left out, and reported by number, are frames whose data is damaged, those built upon them (up to
    the next key frame), and places without a frame.
    """
    try:
        frames = FileFrames(path)  # one process a core decodes already
    except (FFmpegError, OSError) as error:
        report.add(path, f'is not a readable video ({reason(error)})', 'skipped')
        return
    for frame in frames:
        yield frame.number, frame.pixels
    _tell(frames, report)


def _tell(frames: FileFrames, report: Report) -> None:
    """Reports what was found on the way."""
    path, lost, packets = frames.path, frames.lost, frames.packets
    if packets.choice:
        report.add(path, packets.choice)
    if stopped := frames.stopped or packets.stopped:
        what = f'does not decode beyond frame {frames.last}' if frames.last else 'does not decode'
        done = 'what precedes is used' if frames.last else 'skipped'
        report.add(path, f'{what} ({stopped})', done)
    if lost.damaged:
        what = f'{len(lost.damaged)} damaged frames: {ranges(lost.damaged)}'
        report.add(path, f'{what} ({lost.reason})', 'left out')
    if lost.spoilt:
        what = f'{len(lost.spoilt)} frames built upon a damaged one: {ranges(lost.spoilt)}'
        report.add(path, what, 'left out')
    if missing := frames.missing:
        report.add(path, f'{len(missing)} frames are not there: {ranges(missing)}', 'left out')
    if stopped:
        return
    if packets.cut:
        last = max([frames.last, *lost.damaged])
        told = f', but its header says {packets.stated}' if packets.stated > last else ''
        what = f'ends after frame {last}{told} ({packets.cut})'
        report.add(path, what, 'used as far as it goes')


def frames_in_header(path: Path) -> int:
    """How many frames a video file says it has, or as its duration tells; 0 of what is no video."""
    try:
        with opened(path) as (container, stream):
            rate, duration = stream.average_rate, container.duration
            return stream.frames or round(float(rate or 0) * (duration or 0) / av.time_base)
    except (FFmpegError, OSError):
        return 0
