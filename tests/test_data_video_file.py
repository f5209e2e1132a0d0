"""Numbers of the frames of video files: repeated frames, offsets, variable rates, damage."""

import itertools
from fractions import Fraction

import av
import pytest

import data
from data.copies.sources import Report
from data.copies.video_file import frames_of_video
from stsa_jax.media.packets import Packets
from tests import data_copies as copies

BASE = 64  # of the code that a frame carries: its number and this


def write(path, codec='mpeg4', count=40, without=(), rate=30, offset=0, times=None, options=None):
    """A video of `count` frames; the positions in `without` (from 1) have no frame of their own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=rate, options={'g': '12', **(options or {})})
        stream.width, stream.height = copies.WIDTH, copies.HEIGHT
        stream.pix_fmt = 'yuvj420p' if codec == 'mjpeg' else 'yuv420p'
        stream.bit_rate = 8_000_000
        for number in range(1, count + 1):
            if number in without:
                continue
            frame = av.VideoFrame.from_ndarray(copies.frame_of(BASE + number), format='rgb24')
            frame.pts = times[number - 1] if times else number - 1 + offset
            frame.time_base = 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def overwrite_packets(path, *numbers) -> None:
    """Corrupts the data of these packets (from 1, in the file's order), not the container."""
    with av.open(str(path)) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
    content = path.read_bytes()
    for number in numbers:
        body = packets[number - 1]
        assert content.count(body) == 1
        content = content.replace(body, b'\xff' * len(body))
    path.write_bytes(content)


def read(path) -> tuple[list[int], list[str]]:
    """The frames' numbers, each of which must be that in its pixels; and the report's lines."""
    report, numbers = Report(), []
    for number, frame in frames_of_video(path, report):
        assert copies.number_in(frame) == BASE + number
        numbers.append(number)
    for problem in report.problems:
        assert problem.path == str(path)
    return numbers, [f'{problem.what}; {problem.done}' for problem in report.problems]


@pytest.mark.parametrize(
    'name, codec, options',
    [
        ('a.avi', 'mpeg4', {'rate': 30}),
        ('a.avi', 'mjpeg', {'rate': 25}),
        ('b.avi', 'mpeg4', {'options': {'bf': '2'}}),  # frames are shown in another order
        ('a.mp4', 'libx264', {'rate': 30, 'offset': 7}),
        ('a.mkv', 'libx264', {'rate': Fraction(30000, 1001), 'offset': 7}),  # whole milliseconds
    ],
)
def test_frames_after_a_repeated_one_keep_their_numbers(tmp_path, name, codec, options):
    path = write(tmp_path / name, codec, without=(20, 21), **options)
    numbers, report = read(path)
    assert numbers == [n for n in range(1, 41) if n not in (20, 21)]
    assert report == ['2 frames are not there: 20-21; left out']


@pytest.mark.parametrize('each', [3, 8])
def test_an_avi_that_repeats_most_frames(tmp_path, each):
    """As in a film with few frames per second; each empty packet is a position."""
    kept = range(1, 41, each)
    path = write(tmp_path / 'a.avi', without=set(range(1, 41)) - set(kept))
    assert read(path)[0] == list(kept)


def test_frames_of_a_variable_rate_are_counted(tmp_path):
    times = [round(1.37 * n + (n % 3) / 4) * 3 for n in range(40)]
    path = write(tmp_path / 'a.mkv', 'libx264', times=times, rate=100)
    assert read(path) == (list(range(1, 41)), [])


@pytest.mark.parametrize(
    'name, codec, packet, left_out, told',
    [
        ('a.avi', 'mjpeg', 11, [11], '1 damaged frames: 11 (Invalid data'),
        ('a.avi', 'mpeg4', 6, range(6, 13), '6 frames predicted from damaged ones: 7-12'),
        ('a.mp4', 'libx264', 1, range(1, 13), '1 damaged frames: 1 (Invalid data'),
        ('a.avi', 'mpeg4', 25, range(25, 37), '11 frames predicted from damaged ones: 26-36'),
    ],
)
def test_one_damaged_packet_affects_only_dependent_frames(
    tmp_path, name, codec, packet, left_out, told
):
    path = write(tmp_path / name, codec)
    overwrite_packets(path, packet)
    numbers, report = read(path)
    assert numbers == [n for n in range(1, 41) if n not in left_out]
    assert any(line.startswith(told) for line in report), report


def test_a_frame_decoded_in_part_is_left_out(tmp_path):
    path = write(tmp_path / 'a.avi')
    with av.open(str(path)) as container:
        body = bytes([p for p in container.demux(video=0) if p.size][24])
    half = body[: len(body) // 2] + bytes(range(256))[: len(body) - len(body) // 2]
    path.write_bytes(path.read_bytes().replace(body, half.ljust(len(body), b'\xff')))
    numbers, report = read(path)
    assert not set(numbers) & set(range(25, 37)) and numbers[-1] == 40
    assert '1 damaged frames: 25' in report[0]


def test_truncated_video_is_reported(tmp_path):
    path = write(tmp_path / 'a.avi', 'mjpeg')
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    numbers, report = read(path)
    assert 10 <= len(numbers) < 40
    assert report[-1].startswith('ends after frame') and 'its header says 40' in report[-1]


def test_file_that_is_not_a_video_is_reported(tmp_path):
    (tmp_path / 'a.avi').write_bytes(b'no video')
    numbers, report = read(tmp_path / 'a.avi')
    assert numbers == [] and report[0].startswith('is not a readable video')


def test_annotation_goes_with_its_frame_beyond_a_repeated_and_a_damaged_one(tmp_path):
    copy = copies.dhf1k(tmp_path / 'copy', {1: 40})
    path = write(copy / 'video' / '001.AVI', without=(20,))
    overwrite_packets(path, 6)
    builder = data.prepare_dataset('dhf1k', tmp_path / 'out', copy, num_workers=1)
    train = data.open_split('dhf1k', 'train', tmp_path / 'out')
    checked = copies.check_numbers(train, lambda video, number: BASE + number)
    assert checked == 32 and all(train.density(i) is not None for i in range(32))
    report = '\n'.join(map(str, builder.problems))
    assert '001.AVI: 1 damaged frames: 6 ' in report
    assert '001.AVI: 1 frames are not there: 20;' in report
    assert '001.AVI: 8 maps without frame: 6-12, 20;' in report


@pytest.mark.parametrize(
    'name, count', [('dhf1k/video/002.AVI', 783), ('videos/dhf1k_068.avi', 540)]
)
def test_real_videos_keep_their_numbers(real_data, name, count):
    assert Packets(real_data / name).numbers == list(range(1, count + 1))
    found = itertools.islice(frames_of_video(real_data / name, Report()), 20)
    assert [number for number, _ in found] == list(range(1, 21))
