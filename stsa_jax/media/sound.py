"""Copies the sound of a video file into a video that is being written, packet by packet.

Packets are copied unchanged where MP4 has a place for their codec that players read; other sound
(PCM, Vorbis, WMA, ...) is decoded and encoded again as AAC.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
from av.container import OutputContainer
from av.error import FFmpegError

from stsa_jax.media.packets import reason

COPIED = ('aac', 'ac3', 'alac', 'eac3', 'flac', 'mp2', 'mp3', 'opus')
_log = logging.getLogger(__name__)


class Sound(NamedTuple):
    """A part of a file's sound.

    `since` is the time in the file, in seconds from its start, that becomes time 0; `until` the
    time at which the sound ends, None for the end of the file.
    """

    path: Path
    since: Fraction = Fraction(0)
    until: Fraction | None = None


@contextmanager
def soundtrack(sound: Sound, file: OutputContainer) -> Iterator[Callable[[Fraction | None], None]]:
    """Adds the streams of `sound` to `file`; yields a function that appends its packets.

    The function takes the time up to which to append, in seconds from `since`, None for all of the
    rest, so that sound and pictures lie side by side in the file. Sound that cannot be read is left
    out from there on, and a line in the log says so.
    """
    with av.open(str(sound.path.absolute()), metadata_errors='replace') as source:
        tracks = {s.index: track for s in source.streams.audio if (track := _track(s, file, sound))}
        packets = source.demux(*(source.streams[index] for index in tracks)) if tracks else iter(())
        at, ended = Fraction(0), not tracks

        def append(time: Fraction | None) -> None:
            nonlocal at, ended
            while not ended and (time is None or at <= time):
                try:
                    packet = next(packets, None)
                except (FFmpegError, OSError) as error:
                    _log.warning(
                        '%s: its sound cannot be read beyond %.2f s (%s); the overlay has none '
                        'from there on',
                        sound.path,
                        at + sound.since,
                        reason(error),
                    )
                    packet = None
                ended = packet is None
                if packet is None or packet.dts is None:
                    continue
                start = _origin(source)
                begins = packet.dts * packet.time_base - start - sound.since
                at = max(at, begins)
                length = (packet.duration or 0) * packet.time_base
                if begins + length > 0 and (sound.until is None or at < sound.until - sound.since):
                    tracks[packet.stream.index](packet, start + sound.since)
            if ended:
                for finish in tracks.values():
                    finish(None, Fraction(0))
                tracks.clear()

        yield append


def _origin(source: Any) -> Fraction:
    return Fraction(source.start_time or 0, av.time_base)


Track = Callable[[av.Packet | None, Fraction], None]


def _track(stream: av.AudioStream, file: OutputContainer, sound: Sound) -> Track | None:
    """A function that appends a packet, moved to the front by some seconds; None ends the track."""
    context = stream.codec_context
    name = context.codec.canonical_name if context else None  # not that of the decoder
    if name is None:
        _log.warning('%s: FFmpeg does not know the codec of its sound; left out', sound.path)
        return None
    try:
        return _copied(stream, file) if name in COPIED else _encoded(stream, file)
    except (FFmpegError, ValueError) as error:
        _log.warning('%s: its sound (%s) is left out: %s', sound.path, name, reason(error))
        return None


def _copied(stream: av.AudioStream, file: OutputContainer) -> Track:
    copy = file.add_stream_from_template(stream)
    latest: int | None = None

    def append(packet: av.Packet | None, shift: Fraction) -> None:
        nonlocal latest
        if packet is None or not packet.size or (latest is not None and packet.dts <= latest):
            return
        latest = packet.dts
        ticks = round(shift / packet.time_base)
        packet.dts -= ticks
        packet.pts = packet.dts  # the same for sound
        packet.stream = copy
        file.mux(packet)

    return append


def _encoded(stream: av.AudioStream, file: OutputContainer) -> Track:
    rate = stream.rate if stream.rate in _AAC_RATES else 48000
    layout = 'mono' if stream.channels == 1 else 'stereo'
    encoder = cast(av.AudioStream, file.add_stream('aac', rate=rate, layout=layout))
    resample = av.AudioResampler(format='fltp', layout=layout, rate=rate)
    following: int | None = None  # samples are appended without gaps from the first one on

    def encode(frame: av.AudioFrame | None, shift: Fraction) -> None:
        nonlocal following
        for piece in resample.resample(frame):
            if following is None:
                time = (frame.time if frame and frame.time is not None else 0.0) - float(shift)
                following = round(time * rate)
            piece.pts, piece.time_base = following, Fraction(1, rate)
            following += piece.samples
            file.mux(encoder.encode(piece))

    def append(packet: av.Packet | None, shift: Fraction) -> None:
        if packet is None:
            if following is not None:
                encode(None, shift)
                file.mux(encoder.encode(None))
            return
        try:
            frames = packet.decode()
        except FFmpegError:
            return  # a damaged packet is silence
        for frame in frames:
            encode(cast(av.AudioFrame, frame), shift)

    return append


_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
