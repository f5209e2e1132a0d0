"""Damaged records during training: named, counted, replaced, and never fatal."""

import shutil

import numpy as np
import pytest

import data
from data.held_out import HeldOutClips
from data.pipeline import train_clips
from data.windows import ClipReader, Window, problem_lines
from stsa_jax.errors import InputError
from tests import data_copies as copies

LENGTHS = {1: 20, 2: 18, 3: 5}
FRAMES, OFFSET = 16, 7


def code_of(video: str, number: int) -> int:
    return int(video) * 64 % 1024 + number


@pytest.fixture(scope='module')
def intact(tmp_path_factory):
    folder = tmp_path_factory.mktemp('damage')
    copies.dhf1k(folder / 'copy', LENGTHS, 'annotation')
    data.prepare_dataset('dhf1k', folder / 'out', folder / 'copy', num_workers=1, size=(32, 64))
    return folder / 'out'


def damage(intact, folder, video: int, **places):
    """A copy in which these images of a video are truncated: frame=[3, 4]."""
    shutil.copytree(intact, folder)
    path = sorted(folder.glob('dhf1k/*/1.0.0/*array_record*'))[video - 1]
    copies.damage_records(path, **places)
    return folder


def read(folder, video: int, target: int) -> dict:
    dataset = data.open_split('dhf1k', 'train', folder)
    reader = ClipReader((dataset,), (32, 64), FRAMES, OFFSET, None)
    return reader([Window(0, video - 1, target)])


def numbers_in(batch: dict) -> list[int]:
    return [copies.number_in(frame) for frame in batch['clip'][0]]


def test_damaged_frames_are_replaced_by_their_nearest_neighbours(intact, tmp_path):
    folder = damage(intact, tmp_path / 'copy', 1, frame=[4, 9, 10])
    batch = read(folder, 1, 8)  # places 1 to 16
    expected = list(range(1, 17))
    expected[4 - 1], expected[9 - 1], expected[10 - 1] = 3, 8, 11
    assert numbers_in(batch) == [64 + place + 1 for place in expected]
    np.testing.assert_array_equal(batch['density'], read(intact, 1, 8)['density'])
    lines = problem_lines(batch)
    assert len(lines) == 3
    assert lines[0].startswith('dhf1k, split train, video 0001, frame 5: is damaged (')
    assert [line.split('; ')[1] for line in lines] == [f'frame {n} replaces it' for n in (4, 9, 12)]
    assert problem_lines(read(folder, 2, 8)) == problem_lines(read(intact, 1, 8)) == []


def test_damaged_padding_is_replaced_throughout(intact, tmp_path):
    folder = damage(intact, tmp_path / 'copy', 3, frame=[0, 4])
    batch = read(folder, 3, 2)  # five frames, padded to sixteen
    assert numbers_in(batch) == [192 + n for n in [2] * 7 + [3] + [4] * 8]
    assert len(problem_lines(batch)) == 2


def test_density_is_never_replaced_but_another_target_is_used(intact, tmp_path):
    folder = damage(intact, tmp_path / 'copy', 1, density=[8, 9])
    batch = read(folder, 1, 9)
    assert batch['frame'].tolist() == [11]  # places 9 and 8 are out, 10 is next
    assert copies.number_in(batch['density'][0]) == 64 + 11
    assert numbers_in(batch)[OFFSET] == 64 + 11
    for number, line in zip((10, 9), problem_lines(batch), strict=True):
        assert f'frame {number}: its density map is damaged' in line
        assert line.endswith('; another target is used')


def test_video_without_any_good_frame_gives_way_to_the_next(intact, tmp_path):
    folder = damage(intact, tmp_path / 'copy', 2, frame=range(18))
    batch = read(folder, 2, 8)
    assert batch['video'].tolist() == ['0003']
    assert len(problem_lines(batch)) == 3  # its three windows, each told of once
    assert 'video 0002' in problem_lines(batch)[0]


def test_dataset_without_any_good_frame_is_an_error(intact, tmp_path):
    folder = intact
    for video, length in LENGTHS.items():
        folder = damage(folder, tmp_path / str(video), video, density=range(length))
    with pytest.raises(InputError, match=r'windows in a row of split .* prepare dhf1k again'):
        read(folder, 1, 8)


def test_changed_bytes_on_the_disk_spoil_one_frame(intact, tmp_path):
    """Like a disk error: the record's checksum is wrong, so all of it is lost."""
    shutil.copytree(intact, tmp_path / 'copy')
    path = sorted((tmp_path / 'copy').glob('dhf1k/*/1.0.0/*array_record*'))[0]
    content = bytearray(path.read_bytes())
    middle = content.index(bytes(4096)) // 2  # of the records; behind them it is padded with zeros
    for i in range(8):
        content[middle + i] ^= 0xFF
    path.write_bytes(content)
    dataset = data.open_split('dhf1k', 'train', tmp_path / 'copy')
    unreadable = []
    for i in range(LENGTHS[1]):
        try:
            dataset.example(i)
        except InputError:
            unreadable.append(i)
    (place,) = unreadable
    target = 7 if place >= 10 else 11
    batch = read(tmp_path / 'copy', 1, target)
    expected = [64 + 1 + target - OFFSET + t for t in range(FRAMES)]
    expected[expected.index(64 + 1 + place)] -= 1
    assert numbers_in(batch) == expected
    (line,) = problem_lines(batch)
    assert f'frame {place + 1}: is damaged' in line


@pytest.mark.slow
def test_stream_with_damage_is_reported_and_equal_for_any_number_of_workers(intact, tmp_path):
    folder = damage(intact, tmp_path / 'copy', 1, frame=[9, 10], density=[12])
    options = {'data_dir': folder, 'batch_size': 3, 'image_size': (32, 64), 'frames': FRAMES}
    batches = []
    for workers in (0, 2):
        clips = train_clips(['dhf1k'], num_workers=workers, **options)
        batches.append([next(clips) for _ in range(4)])
        clips.close()
    for one, other in zip(*batches):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])
    # Every epoch of three clips has one of video 1, whose middle is in all of its windows.
    assert all(len(problem_lines(batch)) >= 2 for batch in batches[1])


def test_held_out_clips_report_damage_once(intact, tmp_path):
    folder = damage(intact, tmp_path / 'copy', 1, frame=[9])
    options = {'split': 'train', 'image_size': (32, 64), 'frames': FRAMES, 'data_dir': folder}
    clips = HeldOutClips(['dhf1k'], 3, **options)
    for _ in range(2):
        clips.read(range(len(clips)))
    assert len(clips.problems) == 1 and 'frame 10: is damaged' in clips.problems[0]


def test_random_access_names_the_frame(intact, tmp_path):
    folder = damage(intact, tmp_path / 'copy', 1, frame=[3], density=[4], fixations=[5])
    dataset = data.open_split('dhf1k', 'train', folder)
    for i, name in ((3, 'frame'), (4, 'density'), (5, 'fixations')):
        with pytest.raises(InputError, match=f'video 0001, frame {i + 1}: its {name} cannot be'):
            getattr(dataset, name)(i)
    assert dataset.frame(5).shape == (32, 64, 3)
