"""Gaze tables in all variants, mapped to frames; and everything that can be wrong with them."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from data import gaze
from data.copies import images
from data.copies.sources import Report
from data.own.gaze_columns import choose
from data.own.gaze_tables import Samples
from data.own.looking import AS_IT_IS, View, fixations_of, guess_second
from data.own.names import Files, Named
from data.own.options import how_of
from data.own.recordings import How, find_recordings
from data.own.video import Sigma
from data.prepare import parse
from stsa_jax.errors import InputError
from tests import data_copies as copies

SIZE = copies.HEIGHT, copies.WIDTH
TIMES = np.arange(5) / 10  # four frames, of a tenth of a second


def samples(rows, *, in_frames: bool = False, begins=None) -> Samples:
    """rows: (viewer, when, x, y) or (viewer, when, x, y, lasts)."""
    rows = [(*row, 0)[:5] for row in rows]
    viewers = tuple(dict.fromkeys(row[0] for row in rows))
    which, when, *rest = (np.array(column) for column in zip(*rows))
    first = [next(float(w) for v, w in zip(which, when) if v == name) for name in viewers]
    places = np.array([viewers.index(name) for name in which])
    columns = (np.asarray(column, float) for column in (when, *rest))
    return Samples('gaze.csv', viewers, tuple(begins or first), places, *columns, in_frames)


def laid(rows, view: View = AS_IT_IS, **options):
    """[(frame, row, column)], and what is reported."""
    report = Report()
    found = fixations_of(samples(rows, **options), view, SIZE, range(1, 5), TIMES, report)
    return sorted(zip(*(column.tolist() for column in found))), '\n'.join(map(str, report.problems))


def test_a_frame_is_seen_from_its_time_until_the_next():
    rows = [('a', t, 10, 20) for t in (0, 0.0999, 0.1, 0.25, 0.399)]
    assert [f for f, _, _ in laid(rows)[0]] == [1, 1, 2, 3, 4]
    assert laid(rows)[1] == ''


def test_places_in_pixels_fractions_and_on_screens():
    assert laid([('a', 0, 10.4, 20.6)])[0] == [(1, 21, 10)]
    fractions = [('a', 0, 0, 0), ('a', 0, 0.5, 0.5), ('a', 0, 1, 1), ('a', 0, 0.999, 0.001)]
    assert laid(fractions, View('fractions'))[0] == [
        (1, 0, 0),
        (1, 0, 95),
        (1, 24, 48),
        (1, 47, 95),
    ]
    # 96x48 on 240x160: enlarged 2.5 times, with 20 rows above and below.
    fitted = View(screen=(160, 240))
    assert laid([('a', 0, 25, 70), ('a', 0, 0, 20)], fitted)[0] == [(1, 0, 0), (1, 20, 10)]
    # In its own size, with 72 columns and 56 rows around.
    centred = View(screen=(160, 240), fitted=False)
    assert laid([('a', 0, 72, 56), ('a', 0, 82, 76)], centred)[0] == [(1, 0, 0), (1, 20, 10)]
    shown = View('fractions', screen=(160, 240))
    assert laid([('a', 0, 25 / 240, 70 / 160)], shown)[0] == [(1, 20, 10)]


def test_gaze_off_the_picture_is_counted_and_if_it_is_most_none_is_used():
    off = [('a', 0, -1, 5), ('a', 0, 96, 5), ('a', 0, 5, 48)]
    on = [('a', 0, x, 5) for x in range(3)]
    places, told = laid(off + on)
    assert places == [(1, 5, 0), (1, 5, 1), (1, 5, 2)]
    assert '3 of 6 samples are off the picture; left out' in told and '--gaze_' not in told
    places, told = laid(off + on[1:])
    assert places == []
    assert '3 of 5 samples are off the picture; no sample is used' in told
    assert '--gaze_screen=WxH' in told


def test_frames_and_times_that_the_video_does_not_have():
    rows = [('a', n, 5, 5) for n in (0, 1, 4, 5, 6, 9)]
    places, told = laid(rows, in_frames=True)
    assert [f for f, _, _ in places] == [1, 4]
    assert '4 samples at frames that the video does not have: 0, 5-6, 9 (it has 1-4)' in told
    from_0 = View(first_frame=0)
    assert [f for f, _, _ in laid(rows, from_0, in_frames=True)[0]] == [1, 2]
    places, told = laid([('a', t, 5, 5) for t in (0.05, 0.4, 7)])
    assert len(places) == 1
    assert '2 samples at times outside of the video, which runs from 0.000 to 0.400 s' in told


def test_times_that_run_backwards():
    """A sample out of order affects only itself, even if it is far off."""
    times = (0.0, 0.2, 0.1, 0.15, 0.25, 900.0, 0.3)
    places, told = laid([('a', t, i + 1, 1) for i, t in enumerate(times)] + [('b', 0.1, 50, 1)])
    assert [x for _, _, x in places] == [1, 50, 2, 5, 7]
    assert 'times run backwards in 1 records (2 samples of a)' in told
    assert 'give each its own viewer' in told


def test_whole_fixations_count_for_each_frame_that_they_last():
    rows = [
        ('a', 0.05, 1, 0, 0.2),
        ('a', 0.2, 2, 0, 0.1),
        ('a', 0.35, 3, 0, 9),
        ('b', -1, 4, 0, 1.05),
    ]
    places, told = laid(rows)
    assert [(f, x) for f, _, x in places] == [(1, 1), (1, 4), (2, 1), (3, 1), (3, 2), (4, 3)]
    assert told == ''
    frames = [('a', 2, 1, 0, 2), ('a', 4, 2, 0, 5), ('a', 3, 3, 0, 0), ('a', 5, 4, 0, 1)]
    places, told = laid(frames, in_frames=True)
    assert [(f, x) for f, _, x in places] == [(2, 1), (3, 1), (3, 3), (4, 2)]
    assert '1 samples at frames that the video does not have: 5' in told


def test_two_clocks():
    own = [('a', 500.05, 5, 5), ('a', 500.25, 6, 6)]
    # All on separate clocks: each record from its first sample, which may have been lost.
    places, told = laid([*own, ('b', 900.0, 7, 7)], begins=[500.0, 899.9])
    assert places == [(1, 5, 5), (2, 7, 7), (3, 6, 6)]
    assert 'a separate clock' in told and '--gaze_clock=record' in told
    # Some are: those are left out, and named.
    places, told = laid([*own, ('b', 0.1, 7, 7)])
    assert places == [(2, 7, 7)]
    assert 'two clocks: the records of 1 viewers (a)' in told
    assert '--gaze_clock=record takes all' in told
    places, told = laid([*own, ('b', 0.1, 7, 7)], View(clock='record'))
    assert [f for f, _, _ in places] == [1, 1, 3] and told == ''


def test_the_unit_of_times_by_the_length_of_the_video():
    assert guess_second(samples([('a', 5e6, 1, 1), ('a', 29e6, 1, 1)]), 26.1) == 1e-6
    assert guess_second(samples([('a', 0, 1, 1), ('a', 20, 1, 1)]), 26.1) == 1
    with pytest.raises(InputError, match='does not tell the unit'):
        guess_second(samples([('a', 0, 1, 1), ('a', 500, 1, 1)]), 26.1)


# Columns


def test_columns_by_their_usual_names_and_by_option():
    def which(*header, **asked):
        return choose(Path('t.csv'), list(header), asked).which

    assert which('Stimulus', 'Subject_ID', 'Frame Number', 'Gaze X [px]', 'gaze-y (px)') == {
        'video': 0, 'viewer': 1, 'frame': 2, 'x': 3, 'y': 4,
    }  # fmt: skip
    duration = choose(Path('t.csv'), ['t', 'x', 'y', 'Duration'], {})
    assert 'duration' not in duration.which and '--gaze_columns=duration=Duration' in duration.note
    assert which('t', 'x', 'y', 'Duration', duration='Duration')['duration'] == 3
    assert which('t_us', 'A', 'B', x='A', y='B') == {'time': 0, 'x': 1, 'y': 2}
    assert choose(Path('t.csv'), ['t_us', 'x', 'y'], {}).unit == 1e-6
    assert choose(Path('t.csv'), ['Time (s)', 'x', 'y'], {}).unit == 1
    assert choose(Path('t.csv'), ['time', 'x', 'y'], {}).unit is None
    assert choose(Path('t.csv'), ['name', 'fps'], {}) is None
    places = choose(Path('t.csv'), ['1', '2.5', '3'], {'frame': '1', 'x': '2', 'y': '3'})
    assert places.which == {'frame': 0, 'x': 1, 'y': 2} and places.headless


@pytest.mark.parametrize('header, asked, told', [
    (['t', 'left_x', 'left_y', 'right_x', 'right_y'], {}, "x may be any of 'left_x' and 'right_x'"),
    (['x', 'y', 'pupil'], {}, 'no column that is clearly a time or a frame, among x, y, pupil'),
    (['t', 'x', 'y'], {'x': 'GX'}, "has no column 'GX' for x .* its columns are t, x, y"),
    (['1', '2', '3'], {}, 'has no header; .*--gaze_columns=frame=1,x=2,y=3'),
    (['1', '2', '3'], {'frame': '1', 'x': '2', 'y': '9'}, 'has 3 columns, none at 9 for y'),
])  # fmt: skip
def test_ambiguous_columns(header, asked, told):
    with pytest.raises(InputError, match=told):
        choose(Path('t.csv'), header, asked)


def test_the_video_and_the_viewer_in_a_tables_path():
    videos = [Files(name, (name,)) for name in ('001', '002', '012', 'park', 'park_night')]

    def meant(*parts):
        video, viewer = Named(videos).in_path(parts)
        return video and video.name, viewer

    assert meant('gaze', '2') == ('002', 'gaze')
    assert meant('P01', 'P01_Trail002') == ('002', 'P01/P01_Trail')
    assert meant('Park', 'anna') == ('park', 'anna')
    assert meant('diem1s24_park_night') == ('park_night', 'diem1s24_')
    assert meant('parking')[0] is None
    assert meant('001_and_002')[0] is None


def test_videos_as_lists_and_tables_call_them():
    videos = [Files('_'.join(p), p) for p in (('a', 'clip_01'), ('b', 'clip_01'), ('b', 'walk.v2'))]
    named = Named(videos)

    def meant(text):
        return (video := named.get(text)) and video.name

    assert meant('walk.v2') == meant('Walk.V2.mp4') == meant('films\\walk.v2.avi') == 'b_walk.v2'
    assert meant('a/Clip_1.mp4') == meant('a_clip_1') == 'a_clip_01'
    assert meant('clip_01') is None  # either of two
    assert named.in_path(['gaze', 'b', 'clip_01', 'anna']) == (videos[1], 'gaze/anna')


# Whole folders


def folder(root: Path, text: str, *, name: str = 'gaze.csv', videos=('a',)) -> Path:
    for video in videos:
        for n in range(1, 5):
            copies.save(root / 'frames' / video / f'{n}.png', copies.frame_of(n))
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    return root


def understood(root: Path, **how):
    report = Report()
    recordings = find_recordings(root, How(**how), report)
    return recordings, '\n'.join([*recordings.notes, *map(str, report.problems)])


def fixated(video) -> list[tuple[int, int, int]]:
    annotation = video.annotation(Report())
    return [
        (n, int(y), int(x))
        for n in sorted(annotation.numbers)
        for y, x in np.argwhere(annotation.read(n)[1].values)
    ]


def test_blinks_saccades_and_lost_samples(tmp_path):
    text = (
        'video;subject;frame;x;y;event\n'
        'a;P1;1;5;6;Fixation\na;P1;2;5;6;Saccade\na;P1;3;5;6;Blink\na;P2;3;;;Fixation\n'
        'a;P2;3;NaN;3;Fixation\na;P2;3;-1;-1;Fixation\na;P2;3;0;0;Fixation\na;P2;4;7,6;8,2;fix\n'
        'a;P2;what;1;1;Fixation\nz;P2;4;1;1;Fixation\nA.mp4;P3;4;9;9;fixation\n'
    )
    recordings, told = understood(folder(tmp_path, text))
    assert fixated(recordings.videos[0]) == [(1, 6, 5), (4, 8, 8), (4, 9, 9)]
    assert '2 samples are no fixations (1 Saccade, 1 Blink); left out' in told
    assert '4 samples have no place' in told
    assert 'without a place' not in told  # said once, of all tables
    assert '1 of 11 lines have no numbers for time or frame, x and y, such as line 10' in told
    assert '1 samples of videos that are not there (z)' in told


def test_one_viewer_none_and_frames_from_0(tmp_path):
    text = 'frame,x,y\n0,5,6\n3,7,8\n'
    recordings, told = understood(folder(tmp_path, text, name='gaze/a.csv', videos=('a', 'b')))
    assert fixated(recordings.videos[0]) == [(1, 6, 5), (4, 8, 7)]
    assert 'the gaze of one viewer only: 1 of 2 videos (a)' in told
    assert '1 of 2 videos (b) without gaze, fixations or density maps; prepared as not' in told
    assert 'frames are counted from 0' in told
    assert 'every sample counts as a look' in told


def test_one_file_per_viewer(tmp_path):
    root = folder(tmp_path, 'frame\tx\ty\n1\t5\t6\n', name='gaze/a/anna.tsv')
    folder(tmp_path, 'frame,x,y\n1,7,8\n', name='gaze/a/ben.csv')
    (root / 'scores.csv').write_text('name,score\na,3\n')
    recordings, told = understood(root)
    assert fixated(recordings.videos[0]) == [(1, 6, 5), (1, 8, 7)]
    assert recordings.videos[0].samples.viewers == ('anna', 'ben')
    assert 'scores.csv: not a gaze table' in told


@pytest.mark.parametrize('text, told', [
    ('frame,x,y,event\n1,2,3,S\n2,2,3,B\n', "none of the events is a fixation; they are 'S', 'B'"),
    ('time,x,y\n1,2,3\n2000,2,3\n', 'does not tell the unit of its times'),
])  # fmt: skip
def test_tables_that_cannot_be_used(tmp_path, text, told):
    with pytest.raises(InputError, match=told):
        understood(folder(tmp_path, text))


def test_of_several_tables_a_bad_one_is_left_out(tmp_path):
    """A viewer who only blinked, a file that is no text, one with other things in it."""
    root = folder(tmp_path, 'frame,x,y,event\n1,5,6,fixation\n', name='gaze/a/anna.csv')
    (root / 'gaze' / 'a' / 'ben.csv').write_text('frame,x,y,event\n1,,,blink\n2,,,blink\n')
    (root / 'gaze' / 'a' / 'cleo.csv').write_bytes(b'\0\1\2')
    (root / 'gaze' / 'a' / 'dan.csv').write_text('frame,x,y,event\n1,a,b,fixation\n')
    recordings, told = understood(root)
    assert fixated(recordings.videos[0]) == [(1, 6, 5)]
    assert '2 samples are no fixations (2 blink)' in told
    assert 'cleo.csv: ' in told and 'zero bytes' in told
    assert '1 of 1 lines have no numbers' in told and 'are the columns the right ones' in told


def test_a_table_without_a_video_is_named(tmp_path):
    root = folder(tmp_path, 'frame,x,y\n1,5,6\n', name='gaze/c.csv', videos=('a', 'b'))
    assert 'c.csv: names no video, or several; left out' in understood(root)[1]


# Sigma


def how(*arguments):
    return how_of(parse(['folder', '--name=a', '--source=.', *arguments]))


def test_sigma_in_pixels_degrees_and_without():
    assert how('--sigma=7.5').sigma.of((48, 96), View()) == 7.5
    assert how().sigma.of((360, 640), View()) == pytest.approx(gaze.DHF1K_SIGMA)
    one = how('--sigma=1deg', '--viewing_distance=57.3', '--screen_width=48').sigma
    # 57.3 cm away a degree is 1 cm wide: a 48th of the screen.
    assert one.of((48, 96), View()) == pytest.approx(2, rel=1e-3)
    # A screen of 240 pixels shows the video 2.5 times as large: 5 of its pixels are 2 of the video.
    assert one.of((48, 96), View(screen=(160, 240))) == pytest.approx(2, rel=1e-3)
    assert one.of((48, 96), View(screen=(160, 240), fitted=False)) == pytest.approx(5, rel=1e-3)


def test_density_from_fixation_maps_of_another_size(tmp_path):
    """Sigma is of the video's pixels; the maps here have half of them."""
    copies.save(tmp_path / 'frames' / 'a' / '1.png', copies.frame_of(1))
    points = np.zeros((24, 48), np.uint8)
    points[10, 20] = points[3, 40] = 255
    copies.save(tmp_path / 'fixations' / 'a' / '1.png', points)
    recordings, _ = understood(tmp_path, sigma=Sigma(pixels=4))
    density, found = recordings.videos[0].annotation(Report()).read(1)
    assert np.array_equal(found.values, points)
    expected = gaussian_filter((points > 0).astype(float), 2, mode='reflect', truncate=6)
    assert abs(density.values - 255 * expected / expected.max()).max() <= 0.51


def test_the_real_records_of_dhf1k_give_its_annotation(tmp_path, real_data):
    """As with the reader of that dataset, one of 52,681 points differs."""
    (tmp_path / 'videos').mkdir()
    film = (real_data / 'dhf1k' / 'video' / '002.AVI').read_bytes()
    (tmp_path / 'videos' / '002.avi').write_bytes(film)
    records = tmp_path / 'gaze'
    for path in (real_data / 'dhf1k' / 'exportdata_train').glob('*/*_Trail002.txt'):
        (records / path.parent.name).mkdir(parents=True)
        (records / path.parent.name / path.name).write_bytes(path.read_bytes())
    recordings, told = understood(tmp_path, screen=(900, 1440), clock='record')
    assert 'pixels of the screen' in told and 'microseconds' in told
    (video,) = recordings.videos
    assert len(video.samples.viewers) == 17
    report = Report()
    numbers, times = video.timing()
    looks = fixations_of(video.samples, video.view, (360, 640), numbers, times, report)
    ours = {point for point in zip(*(column.tolist() for column in looks))}
    theirs = set()
    for n in range(1, 784, 9):
        path = real_data / 'dhf1k' / 'annotation' / '0002' / 'fixation' / f'{n:04d}.png'
        theirs |= {(n, *p) for p in np.argwhere(images.decode_map(path.read_bytes())).tolist()}
    assert len(theirs) > 5000
    assert len(theirs ^ {point for point in ours if point[0] % 9 == 1}) <= 2
    assert math.isclose(times[-1], 26.1)
