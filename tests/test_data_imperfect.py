"""Each imperfection of a copy separately: the report's line, and the remaining frames."""

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from PIL import Image
from scipy.ndimage import gaussian_filter

from data.copies.folders import FolderVideo
from data.copies.images import decode_map
from data.copies.sources import Report
from tests import data_copies as copies


@pytest.fixture
def copy(tmp_path):
    """A folder of six frames with their maps."""
    for n in range(1, 7):
        copies.save(tmp_path / 'images' / f'{n:04d}.png', copies.frame_of(n))
        copies.save(tmp_path / 'maps' / f'{n:04d}.png', copies.density_of(n))
        copies.save(tmp_path / 'fixation' / f'{n:04d}.png', copies.fixations_of(n))
    return tmp_path


def truncate(path):
    path.write_bytes(path.read_bytes()[:100])


def damaged_frame(copy):
    truncate(copy / 'images' / '0003.png')


def gap(copy):
    (copy / 'images' / '0003.png').unlink()


def same_number(copy):
    copies.save(copy / 'images' / '3.png', copies.frame_of(99))


def no_frames(copy):
    for path in (copy / 'images').iterdir():
        path.unlink()


def other_size(copy):
    path = copy / 'images' / '0003.png'
    with Image.open(path) as image:
        small = image.resize((copies.WIDTH * 2, copies.HEIGHT * 2))
    small.save(path)


def replace_fixations(copy, write):
    (copy / 'fixation' / '0003.png').unlink()
    write(copy / 'fixation' / '0003.mat')


def damaged_matlab(copy):
    replace_fixations(copy, lambda path: path.write_bytes(b'MATLAB 5.0 MAT-file' + bytes(200)))


def matlab_73(copy):
    header = b'MATLAB 7.3 MAT-file'.ljust(124) + b'\x00\x02IM'
    replace_fixations(copy, lambda path: path.write_bytes(header + bytes(512)))


def matlab_of_other_variables(copy):
    maps = {'a': np.ones((48, 96)), 'b': np.ones((48, 96))}
    replace_fixations(copy, lambda path: scipy.io.savemat(path, maps))


def matlab_of_another_name(copy):
    maps = {'other': copies.fixations_of(3)}
    replace_fixations(copy, lambda path: scipy.io.savemat(path, maps))


def sparse_matlab(copy):
    for n in range(1, 7):
        fixations = scipy.sparse.csc_matrix(copies.fixations_of(n) > 0)
        (copy / 'fixation' / f'{n:04d}.png').unlink()
        scipy.io.savemat(copy / 'fixation' / f'{n:04d}.mat', {'I': fixations})


def blurred(copy):
    path = copy / 'fixation' / '0003.png'
    spread = gaussian_filter(copies.fixations_of(3).astype(float), 5)
    copies.save(path, np.rint(255 * spread / spread.max()).astype(np.uint8))


def through_jpeg(copy):
    for path in (copy / 'fixation').iterdir():
        with Image.open(path) as image:
            image.save(copy / 'noisy.jpg', quality=75)
        with Image.open(copy / 'noisy.jpg') as image:
            assert len(np.unique(np.asarray(image))) > 5  # it is noisy
            image.save(path)
    (copy / 'noisy.jpg').unlink()


def one_frame_more(copy):
    for kind in ('maps', 'fixation'):
        (copy / kind / '0006.png').unlink()


ALL, FIVE = [1, 2, 3, 4, 5, 6], [1, 2, 4, 5, 6]


@pytest.mark.parametrize(
    'spoil, told, frames, annotated',
    [
        (damaged_frame, 'images/0003.png: is not a readable image', FIVE, FIVE),
        (gap, 'images: 1 frames are not there: 3; left out', FIVE, FIVE),
        (same_number, '3.png: has the same frame number as', ALL, ALL),
        (no_frames, 'images: has no frames; skipped', [], []),
        (other_size, 'frames of different sizes: 96x48 from frame 1, 192x96', ALL, ALL),
        (
            damaged_matlab,
            'fixation/0003.mat: its maps cannot be used (damaged',
            ALL,
            FIVE,
        ),
        (matlab_73, "its maps cannot be used (MATLAB's format 7.3", ALL, FIVE),
        (matlab_of_other_variables, "no variable 'I' in it, but ['a', 'b']", ALL, FIVE),
        (matlab_of_another_name, '', ALL, ALL),
        (sparse_matlab, '', ALL, ALL),
        (blurred, 'fixation/0003.png: its maps cannot be used (its ', ALL, FIVE),
        (through_jpeg, '6 fixation maps with noise around the points, as after JPEG', ALL, ALL),
        (one_frame_more, 'images: 1 frames without both maps: 6', ALL, ALL[:5]),
    ],
)
def test_reports_and_remaining_frames(copy, spoil, told, frames, annotated):
    spoil(copy)
    folders = (str(copy / kind) for kind in ('images', 'maps', 'fixation'))
    report = Report()
    found = list(FolderVideo('v', str(copy), *folders).frames(report))
    assert [frame.number for frame in found] == frames
    assert [frame.number for frame in found if frame.density is not None] == annotated
    for frame in found:
        assert copies.number_in(frame.image) == frame.number
        if frame.density is not None:
            assert copies.number_in(decode_map(frame.density)) == frame.number
            assert copies.number_in_fixations(decode_map(frame.fixations)) == frame.number
    lines = [str(problem) for problem in report.problems]
    assert any(told in line for line in lines) if told else not lines, lines


def test_faint_noise_in_fixations_stored_as_jpeg_is_no_fixation(copy):
    for path in (copy / 'fixation').iterdir():
        with Image.open(path) as image:
            values = np.maximum(np.asarray(image), 100)  # below half of the range
        Image.fromarray(values).save(path.with_suffix('.jpg'), quality=100)
        path.unlink()
    folders = (str(copy / kind) for kind in ('images', 'maps', 'fixation'))
    found = list(FolderVideo('v', str(copy), *folders).frames(Report()))
    numbers = [copies.number_in_fixations(decode_map(frame.fixations)) for frame in found]
    assert numbers == ALL
    assert [frame.num_fixations for frame in found] == [1 + n.bit_count() for n in ALL]
