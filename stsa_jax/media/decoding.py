"""The frames of a video file in order, each with its number, time and pixels.

Damaged frames, and those predicted from them, up to the next key frame, are left out; all others
are decoded. Decoding uses FFmpeg, through PyAV.
"""

import logging
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.error import FFmpegError

from stsa_jax.media.display import AS_STORED, Pixels, Turn, turn_of
from stsa_jax.media.packets import Packets, opened, reason

_log = logging.getLogger(__name__)


class Frame(NamedTuple):
    """One frame of a video.

    `number` is its position in the video, from 1, or the number in its file's name; `name` is the
    name of its map, such as '0021'. `time` is in seconds from the start of the video. `pixels` are
    uint8 RGB `(h, w, 3)`, as displayed.
    """

    number: int
    name: str
    time: Fraction
    pixels: np.ndarray


class Lost:
    """The numbers of frames that cannot be used, and why."""

    def __init__(self, packets: Packets) -> None:
        self._packets = packets
        self.undecodable = 0  # packets that yield no frame
        self.damaged: set[int] = set()
        self.spoilt: set[int] = set()  # predicted from a damaged one
        self.reason = ''  # of the first one
        for number in packets.damaged:
            self.add(number, 'its data are incomplete')

    def __contains__(self, number: int) -> bool:
        return number in self.damaged or number in self.spoilt

    def add(self, number: int, why: str) -> None:
        """Records that this frame is damaged."""
        self.damaged.add(number)
        self.spoilt.update(self._packets.spoilt_by(number))
        self.spoilt -= self.damaged
        self.reason = self.reason or why


class FileFrames:
    """Iterates over the usable frames of a video file in display order.

    Attributes:
        packets: the file's packets, read without decoding.
        lost: the frames that are left out; complete when the iteration has ended.
        missing: positions without a frame, likewise.
        last: the number of the last frame seen, usable or not.
        stopped: why decoding ended before the end of the file, or ''.
    """

    def __init__(self, path: Path) -> None:
        """Raises FFmpegError or OSError if the file is no video."""
        self.path, self.packets = path, Packets(path)
        self._turn: Turn | None = None
        self._angle: float = 0
        self._begin()

    def _begin(self, number: int = 0) -> None:
        self.lost = Lost(self.packets)
        self._seen: set[int] = set()
        self._wanted = max(number, 1)
        self._first_packet = self.packets.decoded_from(number) if number else 0
        # Frames shown before that packet's, but decoded after it, need earlier ones.
        self._earliest = self.packets.numbers[self._first_packet] if self._first_packet else 1
        self.last = self._earliest - 1
        self.stopped = ''

    @property
    def turn(self) -> Turn:
        """How frames are rotated for display; known from the first frame on."""
        return self._turn or AS_STORED

    @property
    def missing(self) -> set[int]:
        """The numbers up to the last one that have no frame, damaged or not."""
        last = max([self.last, *self.lost.damaged])
        return (
            set(range(self._wanted, last + 1)) - self._seen - self.lost.damaged - self.lost.spoilt
        )

    def __iter__(self) -> Iterator[Frame]:
        self._begin()
        yield from self._frames()

    def since(self, number: int) -> Iterator[Frame]:
        """The frames from `number` on, without decoding the file from its start if possible."""
        self._begin(number)
        frames = (frame for frame in self._frames() if frame.number >= number)
        first = next(frames, None)
        if self._first_packet and (first is None or first.number != number):
            frames = (frame for frame in self if frame.number >= number)  # no true key frame
        elif first is not None:
            yield first
        yield from frames

    def _frames(self) -> Iterator[Frame]:
        pixels, packets = Pixels(), self.packets
        held: deque[tuple[int, av.VideoFrame]] = deque()  # not yet known to be undamaged
        numbered: Iterator[tuple[int, av.VideoFrame]] | None = self._numbered()
        while held or numbered is not None:
            found = next(numbered, None) if numbered is not None else None
            if found is None:
                numbered = None
            else:
                held.append(found)
            while held and (not numbered or packets.settled_by(held[0][0]) <= self.last):
                number, frame = held.popleft()
                if number not in self.lost:
                    picture = self._turned(frame, pixels(frame))
                    yield Frame(number, f'{number:04d}', packets.time(number, frame.pts), picture)

    def _turned(self, frame: av.VideoFrame, pixels: np.ndarray) -> np.ndarray:
        # Reading a frame's side data creates a reference cycle, which delays freeing the frame. So
        # it is read only for the first frame, and when the angle changes.
        if self._turn is None or frame.rotation != self._angle:
            self._angle, turn = frame.rotation, turn_of(frame)
            if not isinstance(turn, Turn):
                _log.warning(
                    '%s: is marked to be rotated by %.1f degrees, which is not a quarter turn; its '
                    'frames are used as stored',
                    self.path,
                    turn,
                )
                turn = AS_STORED
            self._turn = turn
        return self._turn.apply(pixels)

    def _numbered(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """All frames in display order; partly decoded ones are recorded as lost."""
        for count, frame in enumerate(self._decoded(), 1):
            number = self.packets.number(frame.pts)
            if number is None:
                number = max(self.last + 1, count + self.lost.undecodable)
            if number <= self.last:
                continue  # after damage some decoders output a frame too late; or see `_begin`
            self.last = number
            self._seen.add(number)
            if frame.is_corrupt:
                self.lost.add(number, 'only a part can be decoded')
            yield number, frame

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """The decoder's output; packets that do not decode go to `lost`."""
        ffmpeg_error = FFmpegError  # an unfinished generator may end after modules are unloaded
        numbers = enumerate(self.packets.numbers)
        started = not self._first_packet
        try:
            with opened(self.path) as (container, stream):
                # With several threads, FFmpeg sometimes does not report that a frame is damaged.
                stream.codec_context.thread_count = 1
                for packet in container.demux(stream):
                    if not packet.size:
                        continue  # a repeated frame; to the decoder it would mean the end
                    hidden = packet.is_discard
                    place, number = (None, None) if hidden else next(numbers, (None, None))
                    if number in self.packets.headless:
                        continue  # some decoders output grey frames for it
                    before = place is not None and place < self._first_packet
                    if before or (hidden and not started):
                        continue
                    started = True
                    try:
                        yield from stream.decode(packet)
                    except ffmpeg_error as error:
                        if number is not None and number < self._earliest:
                            continue
                        self.lost.undecodable += 1
                        if number is not None:
                            self.lost.add(number, reason(error))
                yield from stream.decode(None)
        except (ffmpeg_error, OSError) as error:
            self.stopped = reason(error)
