"""The overlay has the sound of its video, at the same times; read back with FFmpeg."""

import logging
from fractions import Fraction

import av
import numpy as np
import pytest

from stsa_jax.inference import films
from stsa_jax.media import video

RATE = 48000


def tone(seconds, late=0.0):
    """A click, 0.5 s after the start, in silence."""
    samples = np.zeros((1, int(seconds * RATE)), np.float32)
    click = int((0.5 - late) * RATE)
    samples[0, click : click + 480] = np.sin(np.arange(480) * 0.4) * 0.9
    return samples


def film_with_sound(path, codec='aac', seconds=1.6, late=0.0, rate=25):
    """Frames that turn white at 0.5 s, with a click at that time; the sound starts `late`."""
    with av.open(str(path), 'w') as file:
        picture = file.add_stream('libx264', rate=rate, options={'bf': '2', 'g': '10'})
        picture.height, picture.width, picture.pix_fmt = 48, 80, 'yuv420p'
        sound = file.add_stream(codec, rate=RATE, layout='mono')
        for number in range(int(seconds * rate)):
            level = 255 if number / rate >= 0.5 else 0
            frame = av.VideoFrame.from_ndarray(np.full((48, 80, 3), level, np.uint8), 'rgb24')
            frame.pts, frame.time_base = number, Fraction(1, rate)
            file.mux(picture.encode(frame))
        kind = sound.codec_context.format.name
        samples = tone(seconds, late)
        fifo = av.AudioFifo()
        resampler = av.AudioResampler(format=kind, layout='mono', rate=RATE)
        frame = av.AudioFrame.from_ndarray(samples, format='fltp', layout='mono')
        frame.rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        for piece in resampler.resample(frame):
            fifo.write(piece)
        size, at = sound.codec_context.frame_size or 1024, round(late * RATE)
        while (piece := fifo.read(size, partial=True)) is not None:
            piece.pts, piece.time_base = at, Fraction(1, RATE)
            at += piece.samples
            file.mux(sound.encode(piece))
        file.mux(picture.encode(None))
        file.mux(sound.encode(None))
    return path


def overlaid(path, out):
    film = video.open_video(path)
    with films.overlay_writer(out, film) as write:
        for frame in film.frames:
            levels = np.zeros(frame.pixels.shape[:2], np.uint8)
            write(films.Predicted(frame.name, frame.time, frame.pixels, levels, levels))
    return out


def sound_packets(path):
    with av.open(str(path)) as file:
        return [bytes(packet) for packet in file.demux(audio=0) if packet.size]


def click_and_flash(path):
    """When the click is heard and the picture turns white, in seconds from the file's start."""
    with av.open(str(path)) as file:
        start = (file.start_time or 0) / av.time_base
        heard = [(f.time, f.to_ndarray().mean(0)) for f in file.decode(audio=0)]
    with av.open(str(path)) as file:
        seen = [f.time for f in file.decode(video=0) if f.to_ndarray(format='gray').mean() > 128]
    peak = max(np.abs(samples.astype(float)).max() for _, samples in heard)
    for time, samples in heard:
        loud = np.flatnonzero(np.abs(samples.astype(float)) > peak / 2)
        if loud.size:
            return time + loud[0] / RATE - start, seen[0] - start
    raise AssertionError('no click')


@pytest.mark.parametrize(
    ('name', 'codec'),
    [('a.mp4', 'aac'), ('a.mkv', 'ac3'), ('a.mkv', 'flac'), ('a.ts', 'aac'), ('a.mkv', 'libopus')],
)
def test_sound_is_copied_packet_by_packet(tmp_path, name, codec):
    source = film_with_sound(tmp_path / name, codec)
    ours = sound_packets(overlaid(source, tmp_path / 'out.mp4'))
    theirs = sound_packets(source)
    if name.endswith('.ts'):  # there each packet has a header of 7 bytes, which MP4 has once
        theirs = [packet[7:] for packet in theirs]
    # What lies before the first picture, as an encoder's delay, may be left out.
    assert len(theirs) - 1 <= len(ours) and ours == theirs[-len(ours) :]


@pytest.mark.parametrize(
    ('name', 'codec', 'late'),
    [('a.avi', 'pcm_s16le', 0.0), ('a.mkv', 'pcm_s16le', 0.2), ('a.mp4', 'aac', 0.2)],
)
def test_click_and_flash_stay_together(tmp_path, name, codec, late):
    source = film_with_sound(tmp_path / name, codec, late=late)
    out = overlaid(source, tmp_path / 'out.mp4')
    before, after = click_and_flash(source), click_and_flash(out)
    assert after[0] - after[1] == pytest.approx(before[0] - before[1], abs=0.003)
    with av.open(str(out)) as file:
        assert file.streams.audio[0].codec_context.codec.canonical_name == 'aac'


def test_a_part_of_the_sound(tmp_path):
    source = film_with_sound(tmp_path / 'a.mp4')
    film = video.open_video(source)
    sound = film.sound._replace(since=Fraction(2, 5), until=Fraction(1))
    with video.video_writer(tmp_path / 'out.mp4', 25, sound=sound) as write:
        for frame in film.since(10):
            if frame.time < 1:
                write(frame.pixels, frame.time - Fraction(2, 5))
    heard, seen = click_and_flash(tmp_path / 'out.mp4')
    assert heard == pytest.approx(0.1, abs=0.003) and seen == pytest.approx(0.12, abs=0.001)
    with av.open(str(tmp_path / 'out.mp4')) as file:
        assert float(file.duration / av.time_base) == pytest.approx(0.6, abs=0.03)


def test_damaged_sound_costs_nothing_else(tmp_path, caplog):
    source = film_with_sound(tmp_path / 'a.mkv', 'libopus')
    content = bytearray(source.read_bytes())
    for packet in sound_packets(source)[10:]:
        at = content.find(packet)
        if len(packet) > 20 and at > 0:
            content[at + 1 : at + len(packet)] = bytes(len(packet) - 1)
    source.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        out = overlaid(source, tmp_path / 'out.mp4')
    assert len(list(video.read_frames(out)[1])) == 40


def test_a_silent_video_has_no_sound(tmp_path):
    path = tmp_path / 'a.mp4'
    video.write_video(path, np.zeros((3, 48, 80, 3), np.uint8), 25)
    assert video.open_video(path).sound is None
    with av.open(str(overlaid(path, tmp_path / 'out.mp4'))) as file:
        assert not file.streams.audio


def test_frames_from_the_middle_are_those_of_the_whole_video(tmp_path):
    """Decoding starts at a key frame; groups of pictures that refer to earlier ones too."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (60, 6, 10, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    for name, codec, options in (
        ('a.mp4', 'libx264', {'x264-params': 'keyint=8:open-gop=1:bframes=3:scenecut=0'}),
        ('b.mp4', 'libx264', {'x264-params': 'keyint=8:intra-refresh=1'}),
        ('c.mpg', 'mpeg2video', {'bf': '2', 'g': '8'}),
        ('d.avi', 'mpeg4', {'bf': '2', 'g': '8'}),
    ):
        path = tmp_path / name
        with av.open(str(path), 'w') as file:
            stream = file.add_stream(codec, rate=25, options=options)
            stream.height, stream.width, stream.pix_fmt = 48, 80, 'yuv420p'
            for picture in pictures:
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, 'rgb24')))
            file.mux(stream.encode(None))
        film = video.open_video(path)
        frames = list(film.frames)
        assert [f.time for f in frames] == list(film.times())
        for first in (0, 1, 20, 33, len(frames) - 1):
            later = list(video.open_video(path).since(first))
            assert [f.number for f in later] == [f.number for f in frames[first:]], (name, first)
            for ours, whole in zip(later, frames[first:]):
                np.testing.assert_array_equal(ours.pixels, whole.pixels)
