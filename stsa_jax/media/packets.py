"""Frame numbers, times and damage from a video file's packets, without decoding.

A frame's number is its position in time, from 1. Where a frame repeats the previous one, an AVI or
Ogg file has an empty packet, and other files nothing: that position has no frame, and later frames
keep their numbers. If times do not lie on a regular grid (variable rate), frames are numbered in
display order; if times are missing, they are counted. Packets that a file marks as hidden, such as
those before a cut, are not frames.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition

from stsa_jax.media import truncation

DEFAULT_FPS = Fraction(30)
OFF_GRID = Fraction(1, 8)  # of a frame: largest offset from the grid; containers round times
# In formats whose timestamps may restart within a file, a jump of more seconds than this counts as
# a restart, as in FFmpeg's command.
_CLOCK_STEP = 10
_CLOCK_CHANGES = 0x0200  # AVFMT_TS_DISCONT
_EMPTIEST = 4  # positions per frame; above this the rate is variable
_FASTEST = 1000  # frames per second; a higher rate is that of a clock, not of frames


class NotAVideo(OSError):
    """FFmpeg reads the file, but it has no video."""


class Packet(NamedTuple):
    """One compressed frame. Times are in units of the stream's time base."""

    pts: int | None  # when it is shown
    dts: int | None  # when it is decoded
    duration: int
    is_key: bool
    is_corrupt: bool


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """The file and its video stream: FFmpeg's best one, not a cover picture.

    Raises FFmpegError or OSError, NotAVideo if there is none.
    """
    # Absolute, so that no part of the name is mistaken for a protocol ("a:b.mp4").
    # Tags in another encoding than UTF-8 are of no concern.
    with av.open(str(path.absolute()), metadata_errors='replace') as container:
        pictures = _pictures(container)
        if not pictures:
            raise NotAVideo('has no video stream')
        best = container.streams.best('video')
        index = best.index if best else None
        chosen = next((s for s in pictures if s.index == index), pictures[0])
        if chosen.codec_context is None:
            raise NotAVideo('is encoded in a way that this FFmpeg does not know')
        yield container, chosen


def _pictures(container: InputContainer) -> list[av.VideoStream]:
    cover = Disposition.attached_pic
    return [s for s in container.streams.video if not s.disposition & cover]


class Packets:
    """The packets of a file's video stream, in the file's order, read once without decoding.

    Attributes:
        numbers: the frame number of each packet; all are different.
        damaged: numbers of packets that the container marks as incomplete.
        rate: frames per second, the average if it varies.
        constant: whether frames are evenly spaced, apart from empty positions.
        pixel_aspect: pixel width divided by height, as stored.
        choice: a line about the stream chosen among several, or ''.
        headless: numbers before the first key frame, which cannot be decoded.
        stopped: why reading ended early, or ''.
        cut: how the file shows that its end is missing, or ''.
        stated: the number of frames in the header, 0 if it has none.
        has_sound: whether the file has any sound.
    """

    def __init__(self, path: Path) -> None:
        """Raises FFmpegError or OSError if the file is no video."""
        packets: list[Packet] = []
        repeated, hidden_key = 0, False
        self.stopped = ''
        with opened(path) as (container, stream):
            try:
                for packet in container.demux(stream):
                    repeated += bool(not packet.size and packet.dts is not None)
                    hidden_key |= packet.is_discard and packet.is_keyframe
                    if packet.size and not packet.is_discard:
                        packets.append(_packet(packet))
            except FFmpegError as error:
                self.stopped = reason(error)
            self.choice = _choice(container, stream)
            self.cut = truncation.breaks_off(path, stream)
            self.stated = stream.frames
            self.has_sound = bool(container.streams.audio)
            self.pixel_aspect = Fraction(stream.sample_aspect_ratio or 1)
            self._time_base = stream.time_base or Fraction(1, av.time_base)
            # A damaged packet does not look like a key frame, but the file's index lists it.
            keys = {entry.timestamp for entry in stream.index_entries if entry.is_keyframe}
            self._is_key = [p.is_key or p.dts in keys for p in packets]
            self._marked = [i for i, p in enumerate(packets) if p.is_key and not p.is_corrupt]
            sections = _sections(container, packets, self._time_base)
            one_clock = len(sections) <= 1
            self._grid = _grid(container, stream, packets, repeated) if one_clock else None
            self._lag = _lag(container, packets, self._time_base)
            self._set_numbers(packets, sections)
            self.rate = self._grid.rate if self._grid else self._average_rate(stream, packets)
            # In an AVI key frames are marked by the index, which many programs write incorrectly.
            told = not hidden_key and container.format.name != 'avi'
            self.headless = self._before_first_key() if told else set()
        self.constant = self._grid is not None or not self._rank
        self.damaged = self._damaged(packets, transport=container.format.name == 'mpegts')
        last = max(packets, key=lambda p: p.pts or 0, default=None)
        self._last_duration = last.duration if last else 0
        self._index = {number: i for i, number in enumerate(self.numbers)}
        self._settled_by = self._dependence()

    def _set_numbers(self, packets: list[Packet], sections: list[int]) -> None:
        """Sets `numbers`, and the rank of times if they are not on a grid."""
        times = [(section, p.pts) for section, p in zip(_repeat(sections), packets)]
        order = sorted(times, key=lambda at: (at[0], at[1] or 0))
        whole = bool(packets) and None not in [t for _, t in times] and len({*times}) == len(times)
        rank = {at: i for i, at in enumerate(order, 1)}
        self._rank: dict[int, int] = {}
        if self._grid is not None:
            self.numbers = [self._grid.number(p.pts or 0) for p in packets]
        elif whole:
            self.numbers = [rank[at] for at in times]
            if len(sections) == 1:
                self._rank = {pts: number for (_, pts), number in rank.items() if pts is not None}
        else:
            # Use the order of packets, though B-frames change it slightly.
            self.numbers = list(range(1, len(packets) + 1))

    def number(self, pts: int | None) -> int | None:
        """The number of the frame shown at `pts`; None if times are missing."""
        if pts is None:
            return None
        return self._grid.number(pts) if self._grid else self._rank.get(pts)

    def time(self, number: int, pts: int | None) -> Fraction:
        """When this frame is shown, in seconds from the start of the file."""
        if self._rank and pts is not None:
            return self._lag + (pts - min(self._rank)) * self._time_base
        # A late start is rounded to whole frames, so that the rate stays exact.
        return (int(self._lag * self.rate) + number - 1) / self.rate

    @property
    def drift(self) -> Fraction:
        """Seconds by which `time` is earlier than the file says, so that the rate stays exact."""
        return Fraction(0) if self._rank else self._lag - int(self._lag * self.rate) / self.rate

    def times(self, numbers: Sequence[int] | None = None) -> list[Fraction]:
        """When each frame that has a packet, or each of `numbers`, is shown, as `time` tells it."""
        pts_of = {number: pts for pts, number in self._rank.items()}
        numbers = sorted(self.numbers) if numbers is None else numbers
        return [self.time(number, pts_of.get(number)) for number in numbers]

    def last_duration(self) -> Fraction:
        """Seconds for which the last frame is shown; the average if the file does not say."""
        return self._last_duration * self._time_base or 1 / self.rate

    def settled_by(self, number: int) -> int:
        """The number up to which frames must be decoded to know that this one is undamaged.

        A frame between two others may be predicted from the later one, which is decoded first.
        """
        return self._settled_by.get(number, number)

    def spoilt_by(self, number: int) -> range:
        """The frames that cannot be right if this one is not: up to the next key frame."""
        if number not in self._index:
            return range(number, number + 1)
        at, count = self._index[number], len(self.numbers)
        stop = next((i for i in range(at + 1, count) if self._is_key[i]), count)
        # Frames shown earlier, but predicted from this one, come after it in the file.
        group = self.numbers[at:stop]
        end = self.numbers[stop] if stop < count else max(group) + 1
        return range(min(group), end)

    def decoded_from(self, number: int) -> int:
        """The index of the packet from which to decode, to get this frame and all later ones.

        The key frame before the last one: some streams are refreshed over several frames after a
        mark of a key frame. 0 if frames are counted, not numbered by their times.
        """
        if not self._grid and not self._rank:
            return 0
        keys = [i for i in self._marked if self.numbers[i] <= number]
        return keys[-2] if len(keys) > 1 else 0

    def _before_first_key(self) -> set[int]:
        """The frames before the first key frame, as in a recording that starts between two."""
        if True not in self._is_key:
            return set()
        first = self._is_key.index(True)
        key = self.numbers[first]
        return {n for i, n in enumerate(self.numbers) if i < first or n < key}

    def _damaged(self, packets: list[Packet], transport: bool) -> list[int]:
        """The damaged packets. In a transport stream FFmpeg's parser marks one packet too early.

        It also marks splices, where the packet after the next is a key frame; there the decoder
        shows whether the one between is undamaged.
        """
        places = [i for i, packet in enumerate(packets) if packet.is_corrupt]
        if transport:
            last = len(packets) - 1
            places = [min(i + 1, last) for i in places if i + 2 > last or not self._is_key[i + 2]]
        return sorted({self.numbers[i] for i in places} - self.headless)

    def _dependence(self) -> dict[int, int]:
        result, highest = {}, 0
        for number, is_key in zip(self.numbers, self._is_key):
            highest = number if is_key else max(highest, number)
            if highest > number:
                result[number] = highest
        return result

    def _average_rate(self, stream: av.VideoStream, packets: list[Packet]) -> Fraction:
        if self._rank and len(self._rank) > 1:
            span = (max(self._rank) - min(self._rank)) * self._time_base
            return ((len(self._rank) - 1) / span).limit_denominator(60000)
        rates = [stream.guessed_rate, stream.average_rate]
        return next((Fraction(r) for r in rates if r and r <= _FASTEST), DEFAULT_FPS)


def reason(error: Exception) -> str:
    """The text of an FFmpeg or operating-system error, without numbers and names."""
    return getattr(error, 'strerror', None) or str(error)


def _packet(packet: av.Packet) -> Packet:
    return Packet(
        packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, packet.is_corrupt
    )


def _choice(container: InputContainer, stream: av.VideoStream) -> str:
    count = len(_pictures(container))
    if count == 1:
        return ''
    return (
        f'has {count} video streams; using stream {stream.index} '
        f'({stream.width}x{stream.height}), which FFmpeg considers best'
    )


def _sections(container: InputContainer, packets: list[Packet], time_base: Fraction) -> list[int]:
    """The lengths, in packets, of the parts of the file with continuous timestamps."""
    starts = [0]
    changes = container.format.flags & _CLOCK_CHANGES
    times = [(i, p.dts) for i, p in enumerate(packets) if p.dts is not None]
    for (_, before), (i, now) in itertools.pairwise(times):
        if now < before or (changes and (now - before) * time_base > _CLOCK_STEP):
            starts.append(i)
    return [b - a for a, b in itertools.pairwise([*starts, len(packets)])]


def _repeat(sections: list[int]) -> Iterator[int]:
    return itertools.chain.from_iterable(itertools.repeat(i, n) for i, n in enumerate(sections))


def _lag(container: InputContainer, packets: list[Packet], time_base: Fraction) -> Fraction:
    """Seconds from the start of the file to its first frame."""
    times = [p.pts for p in packets if p.pts is not None]
    if not times or container.start_time is None:
        return Fraction(0)
    return max(Fraction(0), min(times) * time_base - Fraction(container.start_time, av.time_base))


class _Grid(NamedTuple):
    """Times of evenly spaced frames."""

    origin: int  # the time of frame 1
    rate: Fraction  # frames per second
    frames_per_tick: Fraction

    def number(self, pts: int) -> int:
        return 1 + round((pts - self.origin) * self.frames_per_tick)


def _grid(
    container: InputContainer, stream: av.VideoStream, packets: list[Packet], repeated: int
) -> _Grid | None:
    """The grid of the times; None if times are missing or not on a grid."""
    times = [p.pts for p in packets if p.pts is not None]
    if not times or len(times) < len(packets):
        return None
    origin = min(times)
    avi = container.format.name == 'avi'
    if avi:
        if stream.codec_context.has_b_frames and times == sorted(times):
            return None  # decoding times, the only ones in an AVI
        # They start at 0, which reveals a missing first frame.
        origin -= min((p.dts for p in packets if p.dts is not None), default=0)
    rates = {stream.average_rate, stream.guessed_rate, stream.base_rate}
    for rate in sorted(Fraction(r) for r in rates if r):
        frames_per_tick = rate * (stream.time_base or 0)
        places = [(time - origin) * frames_per_tick for time in times]
        distinct = len({round(place) for place in places}) == len(places)
        # Frames at a variable rate also fit a fine grid, on which most positions are empty. In an
        # AVI each position has a packet, though FFmpeg does not return the empty ones.
        dense = avi or max(places) < _EMPTIEST * (len(places) + repeated)
        if distinct and dense and all(abs(place - round(place)) < OFF_GRID for place in places):
            return _Grid(origin, rate, frames_per_tick)
    return None
