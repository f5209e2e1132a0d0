"""Decoding and encoding of videos that are written here and then cut, rotated or corrupted."""

import logging
import os
import subprocess
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stsa_jax.errors import InputError
from stsa_jax.media import video

HEIGHT, WIDTH = 48, 80
ROOT = Path(__file__).parents[1]


def ramp(count, height=HEIGHT, width=WIDTH):
    """Frames that codecs keep well, each with its number as its brightness."""
    for number in range(count):
        frame = np.full((height, width, 3), 10 + 8 * (number % 25), np.uint8)
        frame[: height // 2, : width // 2, 0] += 30
        yield frame


def write(path, frames, codec='libx264', times=None, rate=30, rotation=None, **options):
    with av.open(str(path), 'w', options=options) as file:
        stream = file.add_stream(codec, rate=rate, options={'g': '10'})
        stream.pix_fmt = 'yuv420p'
        for number, frame in enumerate(frames):
            if number == 0:
                stream.height, stream.width = frame.shape[:2]
                if rotation:
                    stream.set_display_rotation(rotation)
            picture = av.VideoFrame.from_ndarray(frame, format='rgb24')
            if times:
                picture.time_base, picture.pts = Fraction(1, 30), times[number]
                stream.codec_context.time_base = Fraction(1, 30)
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))
    return path


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def noise(count):
    """Frames of even entropy: a share of the file is that share of the frames."""
    rng = np.random.default_rng(0)
    return (rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8) for _ in range(count))


CODECS = {
    'a.mp4': 'libx264',
    'a.mkv': 'libx264',
    'a.avi': 'mpeg4',
    'a.webm': 'libvpx',
    'a.mpg': 'mpeg2video',
    'a.flv': 'libx264',
    'a.ts': 'libx264',
}


@pytest.mark.parametrize('name', CODECS)
def test_every_frame_in_order(tmp_path, name):
    info, frames = video.read_frames(write(tmp_path / name, ramp(25), CODECS[name]))
    frames = list(frames)
    assert info[1:] == (HEIGHT, WIDTH, 30, 25)
    assert len(frames) == 25
    for frame, original in zip(frames, ramp(25)):
        assert frame.dtype == np.uint8 and frame.shape == original.shape
        # Lossy, but neighbours differ by 8.
        assert abs(frame[-8:].mean() - original[-8:].mean()) < 4


def test_one_frame(tmp_path):
    info, frames = video.read_frames(write(tmp_path / 'a.mp4', ramp(1)))
    assert info.num_frames == 1 and info.fps > 0 and len(list(frames)) == 1


def test_variable_frame_rate(tmp_path):
    times = [0, 1, 2, 10, 11, 40, 41, 90]
    info, frames = video.read_frames(write(tmp_path / 'a.mkv', ramp(8), times=times))
    assert info.num_frames == len(list(frames)) == 8


@pytest.mark.skipif(
    not hasattr(av.VideoStream, 'set_display_rotation'), reason='this PyAV writes no rotation'
)
def test_rotation_is_applied(tmp_path):
    upright = next(ramp(1)).copy()
    upright[-10:, -10:] = 255  # bottom right
    stored = np.ascontiguousarray(np.rot90(upright, 1))  # a camera held sideways
    # FFmpeg's angle is counterclockwise: by 90 degrees to the right the picture stands upright.
    path = write(tmp_path / 'a.mp4', [stored] * 3, rotation=-90)
    info, frames = video.read_frames(path)
    assert (info.height, info.width) == (HEIGHT, WIDTH)
    for frame in frames:
        assert np.abs(frame.astype(int) - upright).mean() < 3


@pytest.mark.parametrize('share', [0.3, 0.8])
@pytest.mark.parametrize('name', ['a.avi', 'a.mkv', 'a.webm', 'a.flv', 'faststart.mp4'])
def test_a_truncated_video(tmp_path, caplog, name, share):
    options = {'movflags': 'faststart'} if name == 'faststart.mp4' else {}
    path = write(tmp_path / name, noise(40), CODECS.get(name, 'libx264'), **options)
    whole = list(video.read_frames(path)[1])
    path = cut(path, share)
    with pytest.raises(InputError, match=r'is truncated after \d+ frames .*--allow_truncated') as e:
        video.read_frames(path)
    assert str(path) in str(e.value)
    info, frames = video.read_frames(path, allow_truncated=True)
    frames = list(frames)
    assert 1 < len(frames) == info.num_frames < 40
    np.testing.assert_array_equal(frames, whole[: len(frames)])
    assert 'is truncated' in caplog.text


def test_damage_inside_a_video(tmp_path, caplog):
    """Complete packets that do not decode: found while decoding, and named by the frame before."""
    path = write(tmp_path / 'a.mp4', noise(40))
    whole = list(video.read_frames(path)[1])
    with av.open(str(path)) as file:
        packets = [(p.pos, p.size, p.is_keyframe) for p in file.demux(video=0) if p.size]
    start, size, _ = packets[20]
    following = next(i for i in range(21, 40) if packets[i][2])  # it and the rest are as they were
    data = bytearray(path.read_bytes())
    data[start : start + size] = b'\xff' * size
    path.write_bytes(data)
    _, frames = video.read_frames(path)
    with pytest.raises(InputError, match=r'a\.mp4: the data after frame \d+ does not decode'):
        list(frames)
    # Every frame that decodes is used, not only those before the damage.
    opened = video.open_video(path, allow_truncated=True)
    frames = list(opened.frames)
    assert len(frames) + len(opened.left_out) == 40
    assert set(opened.left_out) <= set(range(11, following + 1)) and 21 in opened.left_out
    for frame in frames:
        np.testing.assert_array_equal(frame.pixels, whole[frame.number - 1])
    assert f'{len(opened.left_out)} frames are left out' in caplog.text


def test_undecodable_files(tmp_path):
    junk = tmp_path / 'junk.mp4'
    junk.write_bytes(bytes(next(noise(1)))[:2000])
    empty = tmp_path / 'empty.avi'
    empty.write_bytes(b'')
    headless = cut(write(tmp_path / 'headless.mp4', noise(20)), 0.5)  # its index is at the end
    for path in (junk, empty, headless):
        with pytest.raises(InputError, match='FFmpeg cannot read it as a video') as error:
            video.read_frames(path)
        assert str(path) in str(error.value)
    with pytest.raises(InputError, match='no such video'):
        video.read_frames(tmp_path / 'nothing.mp4')


def test_audio_only(tmp_path):
    path = tmp_path / 'sound.wav'
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('pcm_s16le', rate=8000, layout='mono')
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), 's16', 'mono')
        sound.sample_rate = 8000
        file.mux(stream.encode(sound))
    with pytest.raises(InputError, match='no video stream'):
        video.read_frames(path)


def save_images(folder, names, size=(HEIGHT, WIDTH)):
    folder.mkdir(exist_ok=True)
    for value, name in enumerate(names):
        Image.fromarray(np.full((*size, 3), value, np.uint8)).save(folder / name)


def test_folder_in_natural_order(tmp_path, caplog):
    save_images(tmp_path / 'v', ['frame1.png', 'frame2.png', 'frame10.png', 'frame0100.PNG'])
    (tmp_path / 'v' / 'Thumbs.db').write_bytes(b'x')
    (tmp_path / 'v' / '._frame1.png').write_bytes(b'x')
    (tmp_path / 'v' / 'sub.png').mkdir()
    with caplog.at_level(logging.WARNING):
        info, frames = video.read_frames(tmp_path / 'v', folder_fps=25)
    assert [int(f[0, 0, 0]) for f in frames] == [0, 1, 2, 3]
    assert info == (tmp_path / 'v', HEIGHT, WIDTH, 25, 4)
    assert 'Thumbs.db' in caplog.text and 'sub.png' in caplog.text


def test_folder_of_grey_palette_and_turned_images(tmp_path):
    folder = tmp_path / 'v'
    save_images(folder, ['1.png'])
    Image.new('L', (WIDTH, HEIGHT), 7).save(folder / '2.jpg')
    Image.new('P', (WIDTH, HEIGHT)).save(folder / '3.bmp')
    turned = Image.new('RGB', (HEIGHT, WIDTH), 'red')
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / '4.jpg', exif=exif)
    info, frames = video.read_frames(folder)
    assert [f.shape for f in frames] == [(HEIGHT, WIDTH, 3)] * 4
    assert info.fps == 30


def test_folders_that_are_not_videos(tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match=r'empty: a folder without frames.*found nothing'):
        video.read_frames(tmp_path / 'empty')
    (tmp_path / 'empty' / 'notes.txt').write_text('x')
    with pytest.raises(InputError, match=r'found only notes\.txt'):
        video.read_frames(tmp_path / 'empty')
    save_images(tmp_path / 'v', ['1.png', '2.png'])
    save_images(tmp_path / 'v', ['3.png'], size=(20, 30))
    with pytest.raises(InputError, match=r'3\.png: is 30x20 pixels, but 1\.png is 80x48'):
        video.read_frames(tmp_path / 'v')
    (tmp_path / 'v' / '3.png').write_bytes(b'not a PNG')
    with pytest.raises(InputError, match=r'3\.png: is not a readable image'):
        video.read_frames(tmp_path / 'v')
    whole = (tmp_path / 'v' / '2.png').read_bytes()
    (tmp_path / 'v' / '3.png').write_bytes(whole[:-30])  # its header is good: found on the way
    _, frames = video.read_frames(tmp_path / 'v')
    with pytest.raises(InputError, match=r'3\.png: is not a readable image'):
        list(frames)


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_natural_order_is_that_of_the_numbers(numbers):
    names = sorted((f'Frame {n}.png' for n in numbers), key=video.natural_key)
    assert names == [f'Frame {n}.png' for n in sorted(numbers)]


@given(st.lists(st.text('aB1²0٣_.', max_size=5)))
def test_natural_order_takes_any_name(names):
    assert len(sorted(names, key=video.natural_key)) == len(names)


def test_reading_takes_constant_memory(tmp_path):
    path = write(tmp_path / 'a.mp4', ramp(70))
    tracemalloc.start()
    for _ in video.read_frames(path)[1]:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 15 * HEIGHT * WIDTH * 3


@pytest.mark.parametrize('size', [(48, 80), (47, 81), (1, 1)])
def test_written_video_is_one_that_browsers_play(tmp_path, size):
    path = tmp_path / 'new' / 'a.mp4'
    original = list(ramp(10, *size))
    assert video.write_video(path, original, Fraction(30000, 1001)) == 10
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ('h264', 'yuv420p')
        assert stream.average_rate == Fraction(30000, 1001)
        assert stream.width % 2 == stream.height % 2 == 0
    data = path.read_bytes()
    assert data.index(b'moov') < data.index(b'mdat')  # plays while it loads
    _, frames = video.read_frames(path)
    for frame, wanted in zip(frames, original, strict=True):
        assert np.abs(frame[: size[0], : size[1]].astype(int) - wanted).mean() < 4
    assert [p.name for p in path.parent.iterdir()] == ['a.mp4']


WRITE = """
import sys
import numpy as np
from stsa_jax.media.video import write_video
tiles = np.random.default_rng(0).integers(0, 256, (12, 14, 3), np.uint8)
scene = np.kron(tiles, np.ones((8, 8, 1), np.uint8))
write_video(sys.argv[1], [scene[:, 2 * i : 2 * i + 80] for i in range(17)], 25)
"""


def test_the_same_frames_give_the_same_file(tmp_path):
    """Whatever the memory held that the encoder was given."""
    for byte in ('0', '85', '170'):
        environment = {**os.environ, 'MALLOC_PERTURB_': byte}  # glibc fills new memory with it
        command = [sys.executable, '-c', WRITE, str(tmp_path / f'{byte}.mp4')]
        subprocess.run(command, check=True, env=environment, cwd=ROOT)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_colours_survive(tmp_path):
    """Encoded and decoded with one and the same colour matrix: pure colours come back."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (200, 100, 50)]
    frames = [np.full((64, 64, 3), c, np.uint8) for c in colours]
    video.write_video(tmp_path / 'a.mp4', frames, 30)
    for frame, wanted in zip(video.read_frames(tmp_path / 'a.mp4')[1], colours):
        # The wrong matrix (BT.601 for 709) is off by 20 and more; lossy coding by a few.
        assert np.abs(frame.reshape(-1, 3).mean(0) - wanted).max() < 6


def test_no_partial_file_is_left(tmp_path):
    path = tmp_path / 'a.mp4'
    path.write_bytes(b'old')

    def broken():
        yield from ramp(30)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        video.write_video(path, broken(), 30)
    with pytest.raises(ValueError, match='no frames'):
        video.write_video(path, [], 30)
    with pytest.raises(ValueError, match='one shape'):
        video.write_video(path, [next(ramp(1)), next(ramp(1, 20, 20))], 30)
    assert path.read_bytes() == b'old'
    assert [p.name for p in tmp_path.iterdir()] == ['a.mp4']


def test_a_disk_that_fills_up(tmp_path):
    """A file-size limit simulates a full disk; the error is the operating system's."""
    code = (
        'import resource, signal, sys, numpy as np; from stsa_jax.media import video\n'
        'signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n'
        'noise = np.random.default_rng(0).integers(0, 256, (40, 96, 160, 3)).astype(np.uint8)\n'
        'try: video.write_video(sys.argv[1], noise, 30)\n'
        'except OSError as error: print(error.filename)'
    )
    command = [sys.executable, '-c', code, str(tmp_path / 'a.mp4')]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == f'{tmp_path / "a.mp4"}\n', done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_real_video(real_data):
    info, frames = video.read_frames(real_data / 'videos' / 'dhf1k_068.avi')
    assert info[1:] == (360, 640, 30, 540)
    assert sum(frame.shape == (360, 640, 3) for frame in frames) == 540


def test_metadata_in_another_encoding(tmp_path):
    """Old programs write titles in Latin-1, which is not UTF-8."""
    path = tmp_path / 'a.avi'
    with av.open(str(path), 'w') as file:
        file.metadata['title'] = 'Cafe of the video'
        stream = file.add_stream('mpeg4', rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 80, 'yuv420p'
        picture = av.VideoFrame.from_ndarray(np.zeros((48, 80, 3), np.uint8), 'rgb24')
        file.mux(stream.encode(picture))
        file.mux(stream.encode(None))
    content = path.read_bytes()
    assert content.count(b'Cafe of') == 1
    path.write_bytes(content.replace(b'Cafe of', b'Caf\xe9 of'))
    assert len(list(video.read_frames(path)[1])) == 1
