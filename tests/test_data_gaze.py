"""Gaze records to maps: the published mappings, against the real annotation and by construction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from data import gaze
from data.copies import images
from stsa_jax.errors import InputError


def cc(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel().astype(float), b.ravel().astype(float))[0, 1])


def test_real_records_give_the_real_annotation(real_data):
    source = real_data / 'dhf1k'
    viewers = sorted(source.glob('exportdata_train/P*/P*_Trail002.txt'))
    assert len(viewers) == 17
    fixations = gaze.Fixations.together([gaze.read_dhf1k(path) for path in viewers])
    equal, worst = 0, 1.0
    numbers = range(1, 784)
    for n in numbers:
        given_map = images.decode_map(
            (source / 'annotation' / '0002' / 'fixation' / f'{n:04d}.png').read_bytes()
        )
        found = fixations.map(n - 1, (360, 640))
        equal += np.array_equal(found, given_map > 0)
        # One point of 52,681 differs: its coordinate lies exactly between two pixels.
        assert np.count_nonzero(found != (given_map > 0)) <= 1
        if n % 87 == 1:
            density = images.decode_map(
                (source / 'annotation' / '0002' / 'maps' / f'{n:04d}.png').read_bytes()
            )
            worst = min(worst, cc(gaze.density_map(found, gaze.DHF1K_SIGMA), density))
    assert equal >= len(numbers) - 1
    assert worst > 0.999


def test_real_diem_files_are_read(real_data):
    folder = real_data / 'diem' / '50_people_brooklyn_1280x720' / 'event_data'
    viewers = [gaze.read_diem(path, (720, 1280)) for path in sorted(folder.glob('*.txt'))]
    assert len(viewers) == 6
    # The second file's first line has lost one eye; its first fixation comes later.
    for viewer in viewers:
        assert len(viewer.frame) > 100 and viewer.frame.min() >= 0
        assert viewer.x.max() < 1280 and viewer.y.max() < 720
        assert len(set(viewer.frame)) == len(viewer.frame)  # one sample a frame
    first = viewers[0]
    # 589.6, 472.2 and 614.9, 469.3: their mean, less the 120 rows above a 720-row video.
    assert (first.frame[0], first.x[0], first.y[0]) == (0, 602, 351)


def test_dhf1k_mapping(tmp_path):
    header = (
        'Time\tType\tTrial\tL Dia X [px]\tL Dia Y [px]\tL POR X [px]\tL POR Y [px]\tL Event Info'
    )
    lines = [
        (5_000_000, 720.0, 450.0, 'Fixation'),  # the screen's centre
        (5_034_000, 0.0, 45.0, 'Fixation'),  # 34 ms later: the second frame; its upper left corner
        (5_034_000, 720.0, 450.0, 'Saccade'),
        (5_034_000, 720.0, 20.0, 'Fixation'),  # above the video
        (5_099_000, 1438.0, 853.0, 'Fixation'),  # before 100 ms: still the third frame
    ]
    rows = [f'{t}\tSMP\t1\t0\t0\t{x}\t{y}\t{event}' for t, x, y, event in lines]
    path = tmp_path / 'P01_Trail001.txt'
    path.write_text('\n'.join([header, *rows, '']))
    found = gaze.read_dhf1k(path)
    assert list(zip(found.frame, found.y, found.x)) == [(0, 180, 320), (1, 0, 0), (2, 359, 639)]


def test_diem_needs_both_eyes(tmp_path):
    rows = [
        '1\t640\t480\t9\t1\t642\t482\t9\t1',
        '2\t640\t480\t9\t1\t640\t480\t9\t0',
        '3\t640\t480\t9\t0\t640\t480\t9\t1',
        '4\t100\t480\t9\t1\t100\t480\t9\t1',  # left of a video 640 wide
    ]
    path = tmp_path / 'viewer.txt'
    path.write_text('\n'.join(rows) + '\n')
    found = gaze.read_diem(path, (480, 640))
    assert list(zip(found.frame, found.y, found.x)) == [(0, 241, 321)]


@pytest.mark.parametrize('content', ['', 'a\tb\n', 'Time\tType\nx', '\x00\xff'])
def test_files_that_are_not_records_are_named(tmp_path, content):
    path = tmp_path / 'notes.txt'
    path.write_bytes(content.encode('latin1'))
    with pytest.raises(InputError, match=r'notes\.txt'):
        gaze.read_dhf1k(path)
    if content:
        with pytest.raises(InputError, match=r'notes\.txt'):
            gaze.read_diem(path, (480, 640))


@given(
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 59)), min_size=1, max_size=8),
    st.floats(1.5, 8),
)
def test_density_is_scipys_gaussian_with_reflected_edges(points, sigma):
    fixations = np.zeros((40, 60), bool)
    fixations[tuple(np.transpose(points))] = True
    found = gaze.density_map(fixations, sigma)
    expected = gaussian_filter(fixations.astype(float), sigma, mode='reflect', truncate=6)
    # What SciPy cuts off beyond six sigma is 1e-8 of a kernel's height; one reflection suffices.
    np.testing.assert_allclose(found, expected / expected.max(), atol=1e-5)
    assert found.max() == 1
    assert not gaze.density_map(np.zeros((4, 5), bool), sigma).any()


def decimal_commas(text):
    return text.replace('.', ',')


HABITS = {
    'as it is': lambda text: text.encode(),
    'byte-order mark': lambda text: b'\xef\xbb\xbf' + text.encode(),
    'UTF-16': lambda text: text.encode('utf-16'),
    'Latin-1': lambda text: text.replace('[px]', '[px]').encode('latin-1') + b'# 20 \xb5s\n',
    'Windows line ends': lambda text: text.replace('\n', '\r\n').encode(),
    'old Mac line ends': lambda text: text.replace('\n', '\r').encode(),
    'decimal commas': lambda text: decimal_commas(text).encode(),
    'semicolons': lambda text: text.replace('\t', ';').encode(),
    'semicolons, decimal commas': lambda text: decimal_commas(text).replace('\t', ';').encode(),
    'commas': lambda text: text.replace('\t', ',').encode(),
    'blanks around': lambda text: text.replace('\t', ' \t ').replace('\n', ' \n\n').encode(),
    'quotes': lambda text: '\n'.join(
        '\t'.join(f'"{cell}"' for cell in line.split('\t')) for line in text.splitlines()
    ).encode(),
    'byte-order mark, Windows, commas': lambda text: (
        b'\xef\xbb\xbf' + decimal_commas(text).replace('\n', '\r\n').encode()
    ),
}
RECORD = (
    'Time\tType\tTrial\tL Dia X [px]\tL Dia Y [px]\tL POR X [px]\tL POR Y [px]\tL Event Info\n'
    '5000000\tSMP\t1\t16.38\t16.38\t720.25\t450.5\tFixation\n'
    '5034000\tSMP\t1\t16.38\t16.38\t0.75\t45.5\tFixation\n'
    '5040000\tMSG\t1\t# Message: 002.AVI\n'
    '5068000\tSMP\t1\t16.38\t16.38\t100.25\t450.25\tSaccade\n'
)
GAZE = (
    '1\t640.5\t480.25\t1622.0\t1\t642.5\t482.25\t1355.0\t1\n'
    '2\t640.5\t480.25\t1622.0\t1\t640.5\t480.25\t1355.0\t0\n'
    '3\t700.5\t500.25\t1622.0\t1\t700.5\t500.25\t1355.0\t1\n'
)


@pytest.mark.parametrize('habit', HABITS)
def test_all_variants_of_a_record_are_read_alike(tmp_path, habit):
    path = tmp_path / 'P01_Trail001.txt'
    path.write_bytes(HABITS[habit](RECORD))
    found = gaze.read_dhf1k(path)
    assert list(zip(found.frame, found.y, found.x)) == [(0, 180, 320), (1, 0, 0)]
    path.write_bytes(HABITS[habit](GAZE))
    found = gaze.read_diem(path, (480, 640))
    assert list(zip(found.frame, found.y, found.x)) == [(0, 241, 322), (2, 260, 380)]


def test_spaces_between_the_numbers_of_a_gaze_file(tmp_path):
    path = tmp_path / 'viewer.txt'
    for text in (GAZE.replace('\t', '  '), decimal_commas(GAZE).replace('\t', ' ')):
        path.write_text(text)
        found = gaze.read_diem(path, (480, 640))
        assert list(zip(found.frame, found.y, found.x)) == [(0, 241, 322), (2, 260, 380)]


@pytest.mark.parametrize('missing', ['.', 'NaN', 'nan', '-1', '-1.0', '', '-', 'NA', 'null'])
def test_a_lost_sample_is_no_fixation_and_no_error(tmp_path, missing):
    path = tmp_path / 'P01_Trail001.txt'
    lost = RECORD + (
        f'5100000\tSMP\t1\t{missing}\t{missing}\t{missing}\t{missing}\tFixation\n'
        f'5100000\tSMP\t1\t16.38\t16.38\t{missing}\t450.5\tFixation\n'
        f'5100000\tSMP\t1\t16.38\t16.38\t720.25\t{missing}\tFixation\n'
    )
    path.write_text(lost)
    found = gaze.read_dhf1k(path)
    assert list(zip(found.frame, found.y, found.x)) == [(0, 180, 320), (1, 0, 0)]
    path.write_text(
        f'0\t{missing}\t{missing}\t{missing}\t1\t{missing}\t{missing}\t{missing}\t1\n'
        + GAZE
        + f'4\t{missing}\t480.25\t1622.0\t1\t640.5\t480.25\t1355.0\t1\n'
        f'5\t640.5\t480.25\t1622.0\t1\t640.5\t{missing}\t1355.0\t1\n'
    )
    found = gaze.read_diem(path, (480, 1280))
    assert found.frame.tolist() == [0, 2]


def test_columns_are_found_by_their_names(tmp_path):
    """As exports with more of them have it."""
    rows = [line.split('\t') for line in RECORD.splitlines() if 'MSG' not in line]
    path = tmp_path / 'P01_Trail001.txt'
    path.write_text('\n'.join('\t'.join([*r[:3], '9', r[7], *r[3:7]]) for r in rows) + '\n')
    found = gaze.read_dhf1k(path)
    assert list(zip(found.frame, found.y, found.x)) == [(0, 180, 320), (1, 0, 0)]
    names = 'frame\tx\ty\tp\te\tx\ty\tp\te\n'
    path.write_text(names + GAZE)
    assert gaze.read_diem(path, (480, 640)).frame.tolist() == [0, 2]
