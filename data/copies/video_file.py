"""The frames of a video file by number, also of a file that repeats frames or is damaged.

A frame's number is its place in time, from 1. Where a frame repeats the one before, an AVI has an
empty packet, and other files nothing: that place has no frame, and those after it keep their
numbers. If times are missing, or on no grid of frames (a variable rate), frames are counted.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from data.copies import tree
from data.copies.sources import Report

OFF_GRID = Fraction(1, 8)  # of a frame: how far from the grid a time may be; containers round it


def frames_of_video(path: Path, report: Report) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (number, uint8 RGB (h, w, 3)) of the frames of a video file, in order.

    Left out, and reported by number, are frames whose data is damaged, those built upon them (up to
    the next key frame), and places without a frame.
    """
    lost, seen, last, stated = _Lost(), set(), 0, 0
    convert = av.video.reformatter.VideoReformatter().reformat
    try:
        places = _Places(path)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stated = stream.frames
            for count, frame in enumerate(_decoded(container, stream, places, lost), 1):
                number = places.number(frame.pts)
                if number is None:
                    number = max(last + 1, count + lost.packets)
                if number <= last:
                    continue  # after damage some decoders give a frame too late
                last = number
                seen.add(number)
                if frame.is_corrupt:
                    lost.add(places, number, 'only a part can be decoded')
                if number not in lost:
                    yield number, _pixels(convert(frame, format='rgb24'))
    except (av.FFmpegError, OSError, IndexError) as error:
        what = f'does not decode beyond frame {last}' if last else 'is not a readable video'
        done = 'what precedes is used' if last else 'skipped'
        report.add(path, f'{what} ({_reason(error)})', done)
        stated = 0
    lost.tell(path, report)
    last = max([last, *lost.damaged])
    if missing := set(range(1, last + 1)) - seen - lost.damaged - lost.spoilt:
        report.add(path, f'{len(missing)} frames are not there: {tree.ranges(missing)}', 'left out')
    if stated > last:
        report.add(
            path, f'ends after frame {last}, but its header says {stated}', 'used as far as it goes'
        )


def frames_in_header(path: Path) -> int:
    """How many frames a video file says it has, or as its duration tells; 0 of what is no video."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate, duration = stream.average_rate, container.duration
            return stream.frames or round(float(rate or 0) * (duration or 0) / av.time_base)
    except (av.FFmpegError, OSError, IndexError):
        return 0


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    is_key: bool


class _Places:
    """The numbers of a file's frames, by its packets, which are read once without decoding."""

    def __init__(self, path: Path):
        with av.open(str(path)) as container:
            stream, packets = container.streams.video[0], []
            try:
                for packet in container.demux(stream):
                    if packet.size and not packet.is_discard:
                        packets.append(_Packet(packet.pts, packet.dts, packet.is_keyframe))
            except av.FFmpegError:
                pass  # which is met again when frames are decoded
            # A damaged packet does not look like a key frame, but the file's index knows.
            keys = {entry.timestamp for entry in stream.index_entries if entry.is_keyframe}
            self._grid = _grid(container, stream, packets)
        # Where frames are counted, the order of packets serves, though B-frames change it a little.
        self.numbers = [self.number(p.pts) or i for i, p in enumerate(packets, 1)]
        self._keys = {n for n, p in zip(self.numbers, packets) if p.is_key or p.dts in keys}

    def number(self, pts: int | None) -> int | None:
        """The number of the frame shown at `pts`; None if times do not tell."""
        if self._grid is None or pts is None:
            return None
        origin, frames_per_tick = self._grid
        return 1 + round((pts - origin) * frames_per_tick)

    def spoilt_by(self, number: int) -> range:
        """The frames that cannot be right if this one is not: up to the next key frame."""
        if number not in self.numbers:
            return range(number, number + 1)
        at = self.numbers.index(number)
        rest = range(at + 1, len(self.numbers))
        stop = next((i for i in rest if self.numbers[i] in self._keys), len(self.numbers))
        # Frames shown earlier, but built upon this one, come after it in the file.
        group = self.numbers[at:stop]
        end = self.numbers[stop] if stop < len(self.numbers) else max(group) + 1
        return range(min(group), end)


def _grid(container, stream, packets: list[_Packet]) -> tuple[int, Fraction] | None:
    """(time of frame 1, frames per unit of time); None if times are missing or on no grid."""
    times = [p.pts for p in packets]
    if not times or None in times:
        return None
    origin = min(times)
    if container.format.name == 'avi':
        if stream.codec_context.has_b_frames and times == sorted(times):
            return None  # times of decoding, which is all that AVI has
        # They count from 0, so that a first frame that is not there is noticed.
        origin -= min(p.dts for p in packets if p.dts is not None)
    rates = {stream.average_rate, stream.guessed_rate, stream.base_rate} - {None, 0}
    for rate in sorted(rates):
        frames_per_tick = Fraction(rate) * stream.time_base
        places = [(time - origin) * frames_per_tick for time in times]
        distinct = len({round(place) for place in places}) == len(places)
        if distinct and all(abs(place - round(place)) < OFF_GRID for place in places):
            return origin, frames_per_tick
    return None


class _Lost:
    """The numbers of frames that cannot be used, and why."""

    def __init__(self):
        self.packets = 0
        self.damaged: set[int] = set()
        self.spoilt: set[int] = set()
        self._reason = ''

    def __contains__(self, number: int) -> bool:
        return number in self.damaged or number in self.spoilt

    def add(self, places: _Places, number: int, reason: str) -> None:
        """Notes that this frame is damaged."""
        self.damaged.add(number)
        self.spoilt.update(places.spoilt_by(number))
        self._reason = self._reason or reason

    def tell(self, path: Path, report: Report) -> None:
        """Reports them."""
        if self.damaged:
            what = f'{len(self.damaged)} damaged frames: {tree.ranges(self.damaged)}'
            report.add(path, f'{what} ({self._reason})', 'left out')
        if spoilt := self.spoilt - self.damaged:
            what = f'{len(spoilt)} frames built upon a damaged one: {tree.ranges(spoilt)}'
            report.add(path, what, 'left out')


def _decoded(container, stream, places: _Places, lost: _Lost) -> Iterator[av.VideoFrame]:
    """All frames in the order they are shown in; packets that do not decode go to `lost`."""
    # One process a core decodes already, and threads cost more than they give.
    stream.codec_context.thread_count = 1
    numbers = iter(places.numbers)
    for packet in container.demux(stream):
        if not packet.size:
            continue  # to the decoder it would mean the end
        number = None if packet.is_discard else next(numbers, None)
        try:
            if packet.is_corrupt:
                raise av.InvalidDataError(0, 'incomplete')
            frames = stream.decode(packet)
        except av.FFmpegError as error:
            lost.packets += 1
            if number is not None:
                lost.add(places, number, _reason(error))
            continue
        yield from frames
    yield from stream.decode(None)


def _pixels(frame: av.VideoFrame) -> np.ndarray:
    """The pixels of an RGB frame of PyAV without the copy that its `to_ndarray` makes."""
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    used = rows[: frame.height, : 3 * frame.width]  # rows may be padded
    return used.reshape(frame.height, frame.width, 3)


def _reason(error: Exception) -> str:
    return getattr(error, 'strerror', None) or str(error)
