"""Unusual but valid video files, and the usable part of damaged ones; made here with PyAV."""

import itertools
import re
import shutil
import struct
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest

from data.copies.sources import Report
from data.copies.video_file import frames_of_video
from stsa_jax.errors import InputError
from stsa_jax.media import video
from stsa_jax.media.display import turn_of_matrix
from tests import data_copies as copies

BASE = 64  # of the code that a frame carries: its number and this
SOUND = {
    '.webm': ('libopus', 'flt', 960),
    '.mkv': ('aac', 'fltp', 1024),
    '.flv': ('aac', 'fltp', 1024),
}


def numbered(count):
    return [copies.frame_of(BASE + number) for number in range(1, count + 1)]


def write(path, frames, codec='libx264', rate=25, times=None, sound=0.0, change=None, **options):
    """Frames at `times` (1/rate s, by default 0, 1, ...), and `sound` seconds of silence."""
    rate = Fraction(rate)
    with av.open(str(path), 'w', options=options) as file:
        # x264's macroblock tree reads memory that nobody set: with it, files differ by chance.
        own = {'mbtree': '0'} if codec == 'libx264' else {}
        stream = file.add_stream(codec, rate=rate, options={'g': '10'} | own)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = 'yuv420p'
        stream.bit_rate = 8_000_000
        stream.codec_context.time_base = 1 / rate
        if change:
            change(stream)
        pictures = list(zip(itertools.count() if times is None else times, frames))
        packets = []
        if sound:
            name, layout, size = SOUND[path.suffix]
            audio = file.add_stream(name, rate=48000, layout='mono')
            for n in range(round(sound * 48000 / size)):
                silence = av.AudioFrame.from_ndarray(
                    np.zeros((1, size), np.float32), layout, 'mono'
                )
                silence.sample_rate, silence.pts = 48000, size * n
                packets += audio.encode(silence)
            packets += audio.encode(None)
        for time, frame in pictures:
            picture = av.VideoFrame.from_ndarray(frame, format='rgb24')
            picture.pts, picture.time_base = time, 1 / rate
            packets += stream.encode(picture)
        packets += stream.encode(None)
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            file.mux(packet)
    return path


def read(path, **options):
    """The video opened, and its frames' numbers, each of which must be that in its pixels."""
    opened = video.open_video(path, **options)
    found = []
    for frame in opened.frames:
        assert copies.number_in(frame.pixels) == BASE + frame.number
        assert frame.name == f'{frame.number:04d}'
        found.append(frame.number)
    return opened, found


def in_dataset(path):
    report = Report()
    return [number for number, _ in frames_of_video(path, report)], report


# How a picture is displayed.

# By their definition, ISO 14496-12: (x, y) of the file goes to (a x + c y, b x + d y).
MATRICES = list(itertools.product([1, -1], [1, -1], [False, True]))


@pytest.mark.parametrize('first, second, swap', MATRICES)
def test_display_matrix(tmp_path, first, second, swap):
    """Rotated and mirrored as the matrix specifies, pixel by pixel."""
    stored = np.full((32, 64, 3), 20, np.uint8)
    stored[:16, :32], stored[:16, 32:], stored[16:, :32] = 230, (0, 160, 0), (0, 0, 200)
    a, b, c, d = (0, first, second, 0) if swap else (first, 0, 0, second)
    height, width = (64, 32) if swap else (32, 64)
    wanted = np.zeros((height, width, 3), int)
    for y, x in np.ndindex(32, 64):
        # The middle of a pixel is half a one from its corner; the picture is moved into view.
        at_x = int(a * (x + 0.5) + c * (y + 0.5) - 0.5 + (width if a + c < 0 else 0))
        at_y = int(b * (x + 0.5) + d * (y + 0.5) - 0.5 + (height if b + d < 0 else 0))
        wanted[at_y, at_x] = stored[y, x]
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    try:
        path = write(
            tmp_path / 'a.mp4', [stored] * 2, change=lambda s: s.set_display_matrix(matrix)
        )
    except AttributeError:
        pytest.skip('this PyAV writes no display matrix')
    info, frames = video.read_frames(path)
    assert (info.height, info.width) == (height, width)
    for frame in frames:
        assert np.abs(frame.astype(int) - wanted).mean() < 6  # a wrong turn: 60 and more
    number, frame = next(frames_of_video(path, Report()))
    assert number == 1 and frame.shape == wanted.shape


def test_an_angle_that_is_not_a_quarter_turn(tmp_path, caplog):
    def tilt(stream):
        stream.set_display_rotation(10)

    frames = numbered(3)
    try:
        path = write(tmp_path / 'a.mp4', frames, change=tilt)
    except AttributeError:
        pytest.skip('this PyAV writes no rotation')
    assert read(path)[1] == [1, 2, 3]
    message = 'rotated by -10.0 degrees, which is not a quarter turn; its frames are used as stored'
    assert caplog.text.count(message) == 1
    assert turn_of_matrix(3, 4, -4, 3) == pytest.approx(53.13, abs=0.01)
    assert turn_of_matrix(0, 0, 0, 0) == turn_of_matrix(1, 0, 0, 1)
    assert turn_of_matrix(2, 0, 0, 2) == turn_of_matrix(1, 0, 0, 1)  # a scale is ignored


@pytest.mark.parametrize('swap', [False, True])
def test_shape_of_pixels(tmp_path, swap):
    """PAL's 16:9, as in DVD and DV; rotated by a quarter turn, the inverse."""

    def change(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(64, 45)
        if swap:
            stream.set_display_rotation(90)

    if swap and not hasattr(av.VideoStream, 'set_display_rotation'):
        pytest.skip('this PyAV writes no rotation')
    opened = video.open_video(write(tmp_path / 'a.mp4', numbered(3), change=change))
    aspect = Fraction(45, 64) if swap else Fraction(64, 45)
    assert opened.pixel_aspect == aspect
    with video.video_writer(tmp_path / 'b.mp4', 25, pixel_aspect=aspect) as out:
        for frame in opened.frames:
            out(frame.pixels)
    with av.open(str(tmp_path / 'b.mp4')) as file:
        assert file.streams.video[0].sample_aspect_ratio == aspect


# What is whole.


@pytest.mark.parametrize('late', [0, 50])
@pytest.mark.parametrize('name', ['a.mkv', 'a.webm', 'a.flv'])
def test_sound_may_outlast_the_picture(tmp_path, name, late):
    codec = 'libvpx' if name == 'a.webm' else 'libx264'
    times = [late + i for i in range(40)]
    path = write(tmp_path / name, numbered(40), codec, times=times, sound=6)
    # Other programs' files have no tag with the length of each stream.
    path.write_bytes(path.read_bytes().replace(b'DURATION', b'DURATIOX'))
    opened, found = read(path)
    assert found == list(range(1, 41)) and opened.info.num_frames == 40
    assert in_dataset(path)[1].problems == []
    whole = path.read_bytes()
    for share in (0.4, 0.9):  # cut, it is told
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputError, match=r'is truncated after \d+ frames|none of its frames'):
            video.read_frames(path)


def test_a_live_stream_states_no_length(tmp_path):
    path = write(tmp_path / 'a.mkv', numbered(40), live='1')
    assert read(path)[1] == list(range(1, 41))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])  # its last block goes beyond the end
    with pytest.raises(InputError, match='is truncated'):
        video.read_frames(path)


def test_a_fragmented_file(tmp_path):
    path = write(tmp_path / 'a.mp4', numbered(40), movflags='frag_keyframe+empty_moov')
    assert read(path)[1] == list(range(1, 41))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match=r'is truncated after \d+ frames'):
        video.read_frames(path)
    _, found = read(path, allow_truncated=True)
    assert 10 < len(found) < 30  # each with its own number, as `read` makes sure


def trim(path, to, start):
    """Copies packets from the key frame before `start` (in frames): players hide those before."""
    with av.open(str(path)) as source, av.open(str(to), 'w') as file:
        stream = source.streams.video[0]
        copy = file.add_stream_from_template(stream)
        source.seek(int(start / stream.average_rate / stream.time_base), stream=stream)
        offset = int(start / stream.average_rate / stream.time_base)
        for packet in source.demux(stream):
            if packet.size:
                packet.pts, packet.dts = packet.pts - offset, packet.dts - offset
                packet.stream = copy
                file.mux(packet)
    return to


def test_a_trimmed_film(tmp_path):
    """Hidden frames are neither counted nor shown, and do not shift the numbers."""
    whole = write(tmp_path / 'a.mp4', numbered(40), change=lambda s: s.codec_context.max_b_frames)
    path = trim(whole, tmp_path / 'b.mp4', 17)  # from the key frame 11
    with av.open(str(path)) as file:
        hidden = sum(p.is_discard for p in file.demux(video=0))
    opened = video.open_video(path)
    frames = list(opened.frames)
    assert hidden and opened.info.num_frames == len(frames) < 40 - 10
    assert [f.number for f in frames] == list(opened.numbers) == list(range(1, len(frames) + 1))
    for frame in frames:
        assert copies.number_in(frame.pixels) == BASE + 17 + frame.number
    numbers, report = in_dataset(path)
    assert numbers == opened.numbers and report.problems == []


def test_repeated_pictures_of_theora(tmp_path):
    """It stores an empty packet for a repeated picture."""
    frames = [copies.frame_of(BASE + 1 + 10 * (n // 10)) for n in range(31)]
    path = tmp_path / 'a.ogv'
    if 'libtheora' in av.codecs_available:
        write(path, frames, 'libtheora')
    elif ffmpeg := shutil.which('ffmpeg'):
        source = write(tmp_path / 'a.avi', frames, 'ffv1')
        options = ['-c:v', 'libtheora', '-q:v', '10', '-g', '10']
        subprocess.run([ffmpeg, '-v', 'error', '-i', source, *options, path], check=True)
    else:
        pytest.skip('there is nothing here that writes Theora')
    with av.open(str(path)) as file:
        empty = sum(not p.size for p in file.demux(video=0))
    assert empty > 3
    opened = video.open_video(path)
    found = [f.number for f in opened.frames]
    assert {1, 11, 21, 31} <= set(found) and len(found) == opened.info.num_frames
    assert found == in_dataset(path)[0]


def test_avi_that_repeats_pictures_to_its_end(tmp_path):
    """Empty packets; later positions keep their numbers, and the file is complete."""
    times = [n for n in range(37) if n not in (4, 5)]
    frames = [copies.frame_of(BASE + n + 1) for n in times]
    path = write(tmp_path / 'a.avi', frames, 'mpeg4', times=times)
    content = bytearray(path.read_bytes())
    index = content.index(b'idx1')
    movi = content.index(b'movi') - 8
    length = int.from_bytes(content[index + 4 : index + 8], 'little')
    end = index - movi - 8
    content += b''.join(
        b'00dc' + struct.pack('<III', 0, end - 4 + 8 * n, 0) for n in range(3)
    )  # the index is the last of the file
    assert len(content) == index + 8 + length + 3 * 16
    content[index + 4 : index + 8] = struct.pack('<I', length + 3 * 16)
    content[index:index] = b'00dc\0\0\0\0' * 3
    for at, grown in ((4, 3 * 24), (movi + 4, 3 * 8)):
        size = int.from_bytes(content[at : at + 4], 'little')
        content[at : at + 4] = struct.pack('<I', size + grown)
    for at in (content.index(b'avih') + 8 + 16, content.index(b'strh') + 8 + 32):
        assert content[at : at + 4] == struct.pack('<I', 37)
        content[at : at + 4] = struct.pack('<I', 40)
    path.write_bytes(content)
    assert content[: content.index(b'idx1')].count(b'00dc\0\0\0\0') >= 5
    opened, found = read(path)
    assert found == [n + 1 for n in times] and opened.info.num_frames == 35
    numbers, report = in_dataset(path)
    assert numbers == found
    assert [p.what for p in report.problems] == ['2 frames are not there: 5-6']


def test_a_format_without_a_decoder(tmp_path):
    path = write(tmp_path / 'a.avi', numbered(3), 'mpeg4')
    path.write_bytes(path.read_bytes().replace(b'FMP4', b'QzQz'))
    with pytest.raises(InputError, match=r'a\.avi: is encoded in a way that this FFmpeg'):
        read(path)


def test_the_best_of_several_streams(tmp_path, caplog):
    path = tmp_path / 'a.mkv'
    with av.open(str(path), 'w') as file:
        streams = [file.add_stream('libx264', rate=25) for _ in range(2)]
        for stream, scale in zip(streams, (1, 2)):
            stream.height, stream.width = copies.HEIGHT * scale, copies.WIDTH * scale
            stream.pix_fmt = 'yuv420p'
        streams[1].disposition = av.stream.Disposition.default
        for frame in numbered(5):
            for stream, scale in zip(streams, (1, 2)):
                large = np.kron(frame, np.ones((scale, scale, 1), np.uint8))
                file.mux(stream.encode(av.VideoFrame.from_ndarray(large, format='rgb24')))
        for stream in streams:
            file.mux(stream.encode(None))
    with av.open(str(path)) as file:
        best = file.streams.best('video').index
    opened, found = read(path)
    assert found == [1, 2, 3, 4, 5] and opened.info.height == copies.HEIGHT * (1, 2)[best]
    assert f'has 2 video streams; using stream {best} (' in caplog.text
    assert 'has 2 video streams' in in_dataset(path)[1].problems[0].what


@pytest.mark.parametrize('codec', ['libx264', 'mpeg2video'])
@pytest.mark.parametrize('name', ['a.ts', 'a.mkv'])
def test_a_recording_that_begins_between_key_frames(tmp_path, name, codec):
    """Frames that need an earlier key frame are neither counted nor shown."""
    whole = write(tmp_path / 'whole.mkv', numbered(40), codec)
    with av.open(str(whole)) as source, av.open(str(tmp_path / name), 'w') as file:
        copy = file.add_stream_from_template(source.streams.video[0])
        packets = [p for p in source.demux(video=0) if p.size]
        keys = [p.pts for p in packets if p.is_keyframe]
        for packet in packets[4:]:
            packet.stream = copy
            file.mux(packet)
    opened = video.open_video(tmp_path / name)
    frames = list(opened.frames)
    shown = [copies.number_in(frame.pixels) - BASE for frame in frames]
    assert shown == list(range(1 + round(keys[1] * 25 / 1000), 41))
    assert opened.info.num_frames == len(frames)
    assert [f.number for f in frames] == opened.numbers
    assert len({f.number - s for f, s in zip(frames, shown)}) == 1  # all moved by as much
    assert in_dataset(tmp_path / name)[0] == opened.numbers


# Transport streams.


def packets_of(content):
    """Numbers of the 188-byte packets of the video, which carry on a picture begun before."""
    pid = 0x100
    heads = [content[at + 1 : at + 3] for at in range(0, len(content), 188)]
    return [i for i, (a, b) in enumerate(heads) if (a & 0x1F) << 8 | b == pid and not a & 0x40]


@pytest.mark.parametrize('codec', ['libx264', 'mpeg2video'])
@pytest.mark.parametrize('how', ['lost', 'spoiled'])
def test_one_damaged_packet_costs_its_own_frames(tmp_path, caplog, codec, how):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (48, 96, 3)).astype(np.uint8) for _ in range(40)]
    path = write(tmp_path / 'a.ts', noise, codec)
    whole = list(video.read_frames(path)[1])
    content = path.read_bytes()
    carried = packets_of(content)
    # FFmpeg reports the damage of about 19 packets in 20. Which ones depends on the encoder.
    for packet in range(len(carried) // 2, len(carried) // 2 + 60, 10):
        at = 188 * carried[packet]
        rest = b'' if how == 'lost' else content[at : at + 30] + b'\xff' * 158
        path.write_bytes(content[:at] + rest + content[at + 188 :])
        try:
            list(video.read_frames(path)[1])
        except InputError as error:
            found = str(error)
            break
    else:
        pytest.fail('six damaged packets, and none was reported')
    message = r'(the data after frame \d+ does not decode|1 of its frames are damaged).*--allow_tr'
    assert re.search(message, found)
    opened = video.open_video(path, allow_truncated=True)
    frames = list(opened.frames)
    assert 0 < len(opened.left_out) <= 10 and len(frames) == 40 - len(opened.left_out)
    assert frames[-1].number == 40  # what follows is used
    for frame in frames:
        np.testing.assert_array_equal(frame.pixels, whole[frame.number - 1])
    assert f'{len(opened.left_out)} frames are left out' in caplog.text
    assert [f.number for f in frames] == in_dataset(path)[0]


@pytest.mark.parametrize('codec', ['libx264', 'mpeg2video'])
def test_joined_transport_streams(tmp_path, codec):
    """The timestamps restart, and each splice looks like a damaged packet; nothing is lost."""
    first = write(tmp_path / 'a.ts', numbered(40), codec).read_bytes()
    frames = [copies.frame_of(BASE + 40 + n) for n in range(1, 21)]
    second = write(tmp_path / 'b.ts', frames, codec).read_bytes()
    later = write(tmp_path / 'c.ts', frames, codec, times=range(5000, 5020)).read_bytes()
    for end in (second, later):
        (tmp_path / 'joined.ts').write_bytes(first + end)
        opened, found = read(tmp_path / 'joined.ts')
        assert found == list(range(1, 61)) and opened.info.num_frames == 60
        assert in_dataset(tmp_path / 'joined.ts')[0] == found


def test_a_segment_that_is_missing(tmp_path, caplog):
    """As in recordings of HLS: timestamps continue, so later frames keep their positions."""
    parts = []
    for n in (0, 10, 30):
        times = range(n + 9, n + 19)
        part = write(tmp_path / f'{n}.ts', numbered(40)[n : n + 10], times=times)
        parts.append(part.read_bytes())
    (tmp_path / 'a.ts').write_bytes(b''.join(parts))
    opened, found = read(tmp_path / 'a.ts')
    assert found == [*range(1, 21), *range(31, 41)] and opened.info.num_frames == 30
    assert '10 positions have no frame of their own: 21-30' in caplog.text


def test_a_change_of_size_names_the_frame(tmp_path):
    first = write(tmp_path / 'a.ts', numbered(40)).read_bytes()
    small = [frame[:32, :64] for frame in numbered(20)]
    second = write(tmp_path / 'b.ts', small).read_bytes()
    (tmp_path / 'joined.ts').write_bytes(first + second)
    for allow in (False, True):
        frames = video.read_frames(tmp_path / 'joined.ts', allow_truncated=allow)[1]
        with pytest.raises(InputError, match='frame 41 is 64x32 pixels, but the first is 96x48'):
            list(frames)


# Times.


def shown_at(path):
    """When each frame of a file is shown, in seconds, and when the last one ends."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        times = sorted((p.pts, p.duration or 0) for p in file.demux(stream) if p.size)
        seconds = [float(t * stream.time_base) for t, _ in times]
        return seconds, seconds[-1] + float(times[-1][1] * stream.time_base)


TIMES = {
    'held.mkv': [*range(10), 100, 101, 130],
    'uneven.mp4': [0, 1, 3, 4, 9, 20, 21, 22, 40, 41],
    'late.mkv': list(range(50, 60)),
}


@pytest.mark.parametrize('name', TIMES)
def test_frames_are_written_when_the_source_shows_them(tmp_path, name):
    times = TIMES[name]
    sound = 3 if name == 'late.mkv' else 0
    path = write(tmp_path / name, numbered(len(times)), times=times, sound=sound)
    opened = video.open_video(path)
    with video.video_writer(
        tmp_path / 'out.mp4',
        opened.info.fps,
        constant_rate=opened.constant_rate,
        last_duration=opened.last_duration,
    ) as out:
        for frame in opened.frames:
            out(frame.pixels, frame.time)
    written, end = shown_at(tmp_path / 'out.mp4')
    np.testing.assert_allclose(written, np.array(times) / 25, atol=0.002)  # Matroska: 1 ms
    assert end == pytest.approx(written[-1] + float(opened.last_duration), abs=0.002)
    assert [copies.number_in(f) for f in video.read_frames(tmp_path / 'out.mp4')[1]] == [
        BASE + n for n in range(1, len(times) + 1)
    ]


def test_a_held_frame_of_a_gif(tmp_path):
    from PIL import Image

    delays = [40, 40, 5000, 40, 1200]
    pages = [Image.fromarray(frame) for frame in numbered(5)]
    pages[0].save(tmp_path / 'a.gif', save_all=True, append_images=pages[1:], duration=delays)
    opened = video.open_video(tmp_path / 'a.gif')
    times = [float(frame.time) for frame in opened.frames]
    np.testing.assert_allclose(times, np.cumsum([0, *delays[:-1]]) / 1000, atol=1e-6)
    assert float(opened.last_duration) == pytest.approx(1.2)


@pytest.mark.parametrize('rate, height', [(Fraction(30000, 1001), 480), (25, 576)])
def test_rate_of_dv(tmp_path, rate, height):
    frames = [np.full((height, 720, 3), 40 * n, np.uint8) for n in range(3)]
    path = tmp_path / 'a.dv'
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('dvvideo', rate=rate)
        stream.height, stream.width = height, 720
        stream.pix_fmt = 'yuv411p' if height == 480 else 'yuv420p'
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        file.mux(stream.encode(None))
    opened = video.open_video(path)
    assert opened.info.fps == rate
    assert [frame.time for frame in opened.frames] == [0, 1 / Fraction(rate), 2 / Fraction(rate)]
