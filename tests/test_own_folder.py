"""Users' own recordings: every layout, splits, folds, and a dataset that grows."""

import os
from pathlib import Path

import numpy as np
import pytest

import data
import data.inspect
import data.prepare
from data.copies.sources import Report
from data.own import splits
from data.own.recordings import How, find_recordings
from data.pipeline import train_clips
from stsa_jax.errors import InputError
from tests import data_copies as copies

VIDEOS = {'walk': (4, 0), 'Sea_2': (3, 100), 'sea_11': (3, 200)}  # frames, code of number 0


def code_of(video: str, number: int) -> int:
    return VIDEOS[video][1] + number


def frames(folder: Path, video: str) -> None:
    """A folder of frames, numbered from 1."""
    count, base = VIDEOS[video]
    for n in range(1, count + 1):
        copies.save(folder / f'{n:04d}.png', copies.frame_of(base + n))


def film(path: Path, video: str) -> None:
    count, base = VIDEOS[video]
    copies.write_video(path, [copies.frame_of(base + n) for n in range(1, count + 1)])


def maps(folder: Path, video: str, of=copies.density_of) -> None:
    count, base = VIDEOS[video]
    for n in range(1, count + 1):
        copies.save(folder / f'm{n}.png', of(base + n))


def gaze_table(path: Path, videos=VIDEOS, separator: str = ',') -> Path:
    """One viewer per bar, who looks at the bar's point in the middle of each frame."""
    lines = [separator.join(('Video', 'Participant', 'Time [ms]', 'gaze_x', 'gaze_y'))]
    for video in videos:
        count, base = VIDEOS[video]
        for n in range(1, count + 1):
            for y, x in np.argwhere(copies.fixations_of(base + n)):
                when = 1000 * (n - 0.5) / 30
                place = (x + 0.5) / copies.WIDTH, (y + 0.5) / copies.HEIGHT
                lines.append(
                    separator.join((video, f'P{x}', f'{when:.2f}', *(f'{v:.5f}' for v in place)))
                )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n')
    return path


def prepare(tmp_path: Path, *options: str) -> None:
    data.prepare.main(
        ['folder', '--name=mine', f'--source={tmp_path / "copy"}', f'--data_dir={tmp_path / "out"}',
         '--num_workers=1', '--size=32x64', *options]
    )  # fmt: skip


def opened(tmp_path: Path, split: str = 'train') -> data.VideoDataset:
    return data.open_split('mine', split, tmp_path / 'out')


def beside_each_other(root: Path, video: str) -> None:
    film(root / 'videos' / f'{video}.avi', video)
    maps(root / 'Maps' / video, video)
    maps(root / 'fixations' / video, video, copies.fixations_of)


def a_folder_each(root: Path, video: str) -> None:
    film(root / video / 'recording.avi', video)
    maps(root / video / 'maps', video)
    maps(root / video / 'fixation', video, copies.fixations_of)


def film_and_table_each(root: Path, video: str) -> None:
    film(root / 'recordings' / video / 'video' / 'film.avi', video)
    gaze_table(root / 'recordings' / video / 'event_data' / 'all.csv', [video])


def as_dhf1k(root: Path, video: str) -> None:
    """Also in another case and with other zeros."""
    frames(root / 'data' / 'frames' / video / 'images', video)
    other = video.replace('2', '002').upper()
    maps(root / 'data' / 'annotation' / other / 'maps', video)
    maps(root / 'data' / 'annotation' / other / 'fixation', video, copies.fixations_of)


def as_shots(root: Path, video: str) -> None:
    frames(root / 'training' / video / 'images', video)
    maps(root / 'training' / video / 'maps', video)
    maps(root / 'training' / video / 'fixation', video, copies.fixations_of)


@pytest.mark.parametrize('arranged', [beside_each_other, a_folder_each, as_dhf1k, as_shots])
def test_arrangements(tmp_path, arranged, capsys):
    for video in VIDEOS:
        arranged(tmp_path / 'copy', video)
    prepare(tmp_path)
    dataset = opened(tmp_path)
    assert {v.name for v in dataset.videos} == set(VIDEOS)
    assert copies.check_numbers(dataset, code_of) == 10
    out, err = capsys.readouterr()
    assert 'train: 3 videos' in out
    assert ('3 videos whose annotation' in err) == (arranged is as_dhf1k)
    assert ('nothing says which videos are for testing' in out) == (arranged is not as_shots)


def test_videos_in_folders_of_their_sort_keep_their_own_names(tmp_path):
    for part, videos in (('one', ('walk', 'Sea_2')), ('two', ('sea_11',))):
        for video in videos:
            film(tmp_path / 'copy' / part / 'videos' / f'{video}.avi', video)
            maps(tmp_path / 'copy' / part / 'maps' / video, video)
    prepare(tmp_path)
    assert {v.name for v in opened(tmp_path).videos} == {'one_walk', 'one_Sea_2', 'two_sea_11'}


def test_a_film_and_its_gaze_in_one_folder_are_named_as_that(tmp_path):
    for video in VIDEOS:
        film_and_table_each(tmp_path / 'copy', video)
    prepare(tmp_path, '--sigma=2')
    dataset = opened(tmp_path)
    assert {v.name for v in dataset.videos} == set(VIDEOS)
    assert copies.check_numbers(dataset, code_of, copies.number_in_points) == 10


def test_gaze_alone_becomes_fixations_and_densities(tmp_path, capsys):
    for video in VIDEOS:
        film(tmp_path / 'copy' / f'{video}.avi', video)
    gaze_table(tmp_path / 'copy' / 'gaze.csv')
    prepare(tmp_path, '--sigma=2')
    dataset = opened(tmp_path)
    assert copies.check_numbers(dataset, code_of, copies.number_in_points) == 10
    fixated = dataset.fixations(0)
    assert np.array_equal(fixated, copies.fixations_of(code_of(dataset.videos[0].name, 1)) > 0)
    out = capsys.readouterr().out
    for told in (
        "video is 'Video', viewer is 'Participant', time is 'Time [ms]'", 'fractions of the video',
        'milliseconds', 'made from gaze: all videos', 'sigma 2 pixels of the video',
    ):  # fmt: skip
        assert told in out
    # It works like any other dataset: inspection and training.
    data.inspect.main(['mine', f'--data_dir={tmp_path / "out"}', f'--output={tmp_path / "s.png"}'])
    clips = train_clips(['mine'], data_dir=tmp_path / 'out', batch_size=3, frames=16,
                        image_size=(32, 64))  # fmt: skip
    lengths = {video: count for video, (count, _) in VIDEOS.items()}
    copies.check_batch(
        next(clips), code_of, lengths, dict.fromkeys(lengths, 1), 7, copies.number_in_points
    )


def test_missing_maps_are_generated(tmp_path):
    """Densities given and fixations from gaze; fixations alone; and their size is another."""
    root = tmp_path / 'copy'
    frames(root / 'frames' / 'walk', 'walk')
    maps(root / 'maps' / 'walk', 'walk')
    gaze_table(root / 'gaze' / 'all.tsv', ['walk'], '\t')
    frames(root / 'frames' / 'Sea_2', 'Sea_2')
    maps(root / 'fixations' / 'Sea_2', 'Sea_2', copies.fixations_of)
    prepare(tmp_path, '--sigma=2')
    dataset = opened(tmp_path)
    sea, walk = dataset.videos
    for video, number_in in ((walk, copies.number_in), (sea, copies.number_in_points)):
        for i in range(video.first_example, video.first_example + video.num_frames):
            code = code_of(video.name, dataset.frame_number(i))
            assert copies.number_in_fixations(dataset.fixations(i)) == code
            assert number_in(dataset.density(i)) == code
    assert walk.usable().all() and sea.usable().all()


def test_a_dataset_grows_without_preparing_the_rest_again(tmp_path, capsys):
    root, out = tmp_path / 'copy', tmp_path / 'out' / 'mine' / '32x64' / '1.0.0'
    for video in ('walk', 'Sea_2'):
        beside_each_other(root, video)
    prepare(tmp_path, '--split=0.5,0,0.5')
    before = {path.stat().st_ino for path in out.glob('*array_record*')}
    placed = {v.name: s for s in ('train', 'test') for v in opened(tmp_path, s).videos}
    assert len(before) == 2 and set(placed) == {'walk', 'Sea_2'}
    prepare(tmp_path, '--split=0.5,0,0.5')
    assert 'is prepared already' in capsys.readouterr().out
    assert not (out.parents[1] / '.growing').exists()

    beside_each_other(root, 'sea_11')
    prepare(tmp_path, '--split=0.5,0,0.5')
    assert 'videos: 1 new (sea_11); the rest stays' in capsys.readouterr().out
    after = {path.stat().st_ino for path in out.glob('*array_record*')}
    assert len(after) == 3 and before < after  # the very files
    now = {v.name: s for s in ('train', 'test') for v in opened(tmp_path, s).videos}
    assert now == {**placed, 'sea_11': now['sea_11']}
    for split in ('train', 'test'):
        copies.check_numbers(opened(tmp_path, split), code_of)
    assert [path.name for path in out.parent.iterdir()] == ['1.0.0']
    assert not (out.parents[1] / '.growing').exists()

    # One changes, one goes.
    maps(root / 'Maps' / 'walk', 'walk', lambda code: copies.density_of(code) // 2)
    for path in (root / 'videos').glob('Sea_2*'):
        path.unlink()
    prepare(tmp_path, '--split=0.5,0,0.5')
    told = capsys.readouterr().out
    assert '1 changed (walk), 1 no longer there (Sea_2)' in told
    assert {p.stat().st_ino for p in out.glob('*array_record*')} & after == {
        p for p in after - before
    }


def test_several_datasets_with_weights_and_one_of_ones_own(tmp_path):
    for video in VIDEOS:
        beside_each_other(tmp_path / 'copy', video)
    prepare(tmp_path)
    copies.diem_prepared(tmp_path / 'diem', {'video': (5, 500)})
    data.prepare_dataset('diem', tmp_path / 'out', tmp_path / 'diem', num_workers=1, size=(32, 64))
    batch = next(train_clips(['mine', 'diem'], [3, 1], data_dir=tmp_path / 'out', batch_size=8,
                             frames=8, image_size=(32, 64)))  # fmt: skip
    assert list(batch['video']).count('video') == 2


# Splits


def found(root: Path, **how):
    report = Report()
    return find_recordings(root, How(**how), report), '\n'.join(map(str, report.problems))


def empty_videos(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def test_splits_by_folders_in_any_words(tmp_path):
    empty_videos(tmp_path, 'Training/a.mp4', 'val/b.mp4', 'testing/c.mp4', 'd.mp4')
    recordings, told = found(tmp_path)
    assert recordings.splits == {'a': 'train', 'b': 'validation', 'c': 'test', 'd': 'train'}
    assert '1 videos are in no split (d)' in told


def test_splits_by_a_list(tmp_path):
    empty_videos(tmp_path / 'videos', 'Clip_01.mp4', 'b.mp4', 'c.mp4')
    listed = tmp_path / 'videos' / 'mine.csv'
    listed.write_text('video,split\nclip_1.mp4,train\nb,Test\n')
    recordings, told = found(tmp_path, split=str(listed))
    assert recordings.splits == {'Clip_01': 'train', 'b': 'test'}
    assert 'does not name 1 videos (c)' in told and 'clip_1 for Clip_01' in told
    assert [v.name for v in recordings.by_split()['test']] == ['b']


@pytest.mark.parametrize('lines, told', [
    ('a,train\nA,test\n', 'a is named for train and for test. A video in two splits leaks'),
    ('a,train\nz,test\n', 'names 1 videos that are not there: z'),
    ('a,learning\n', "'train', 'val' or 'test' expected"),
    ('a\nb\n', 'two columns were expected'),
])  # fmt: skip
def test_lists_that_cannot_be_used(tmp_path, lines, told):
    empty_videos(tmp_path, 'a.mp4', 'b.mp4')
    (tmp_path / 'list.txt').write_text(lines)
    with pytest.raises(InputError, match=told):
        found(tmp_path, split=str(tmp_path / 'list.txt'))


def test_splits_by_shares_are_seeded_exact_and_kept(tmp_path):
    names = [f'v{n}.mp4' for n in range(20)]
    empty_videos(tmp_path, *names)

    def drawn(seed=0, shares='0.7,0.1,0.2', earlier=None):
        how = How(split=shares, seed=seed)
        return find_recordings(tmp_path, how, Report(), earlier=earlier).splits

    first = drawn()
    count = list(first.values()).count
    assert (count('train'), count('validation'), count('test')) == (14, 2, 4)
    assert drawn() == first != drawn(seed=1)
    empty_videos(tmp_path, *(f'w{n}.mp4' for n in range(10)))
    more = drawn(earlier=first)
    assert {name: more[name] for name in first} == first
    assert [list(more.values()).count(s) for s in splits.SHARED] == [21, 3, 6]
    for wrong in ('0.8,0.2', '0.8,0.1,0.2', 'nothing.csv', '1.2,-0.1,-0.1'):
        with pytest.raises(InputError, match='together are 1'):
            drawn(shares=wrong)


@pytest.mark.parametrize('names, told', [
    (['train/a.mp4', 'test/A.mp4'], r'(?s)a is in split train.*in test.*leaks'),
    (['clip1.mp4', 'clip01.mp4'], 'differ only in case or in zeros'),
    (['x/a_b.mp4', 'x_a/b.mp4', 'y/c.mp4'], 'are both called x_a_b'),
])  # fmt: skip
def test_ambiguous_videos(tmp_path, names, told):
    empty_videos(tmp_path, *names)
    with pytest.raises(InputError, match=told):
        found(tmp_path)


def test_the_same_file_in_two_splits_is_reported(tmp_path):
    empty_videos(tmp_path, 'train/a.mp4', 'test/b.mp4', 'test/c.mp4')
    (tmp_path / 'test' / 'b.mp4').write_bytes((tmp_path / 'train' / 'a.mp4').read_bytes())
    _, told = found(tmp_path)
    assert told.count('is identical to') == 1 and 'leaks into training' in told


# The arrangement of STAViS


def stavis(root: Path) -> None:
    import scipy.io

    for chosen in ('AVAD', 'ETMD_av'):
        for video in VIDEOS:
            own = root / 'annotations' / chosen / video
            frames(root / 'video_frames' / chosen / video, video)
            maps(own / 'maps', video)
            for n in range(1, VIDEOS[video][0] + 1):
                scipy.io.savemat(
                    own / f'fixMap_{n:05d}.mat',
                    {'eyeMap': copies.fixations_of(code_of(video, n)).astype(float) / 255},
                )
    lists = root / 'fold_lists'
    lists.mkdir()
    for k, tested in enumerate(VIDEOS, 1):
        trained = [video for video in VIDEOS if video != tested]
        for word, listed in (('train', trained), ('test', [tested])):
            lines = ''.join(f'{video} {VIDEOS[video][0]} 25.00\n' for video in listed)
            (lists / f'AVAD_list_{word}_{k}_fps.txt').write_text(lines)


def test_stavis_with_its_folds(tmp_path, capsys):
    stavis(tmp_path / 'copy')
    with pytest.raises(InputError, match=r'2 sets, AVAD, ETMD_av.*--set=AVAD'):
        prepare(tmp_path)
    prepare(tmp_path, '--set=avad')
    assert 'folds: 3 videos' in capsys.readouterr().out
    for k, tested in enumerate(VIDEOS, 1):
        train, test = opened(tmp_path, f'train_{k}'), opened(tmp_path, f'test_{k}')
        assert [v.name for v in test.videos] == [tested]
        assert {v.name for v in train.videos} == set(VIDEOS) - {tested}
        assert copies.check_numbers(train, code_of) + copies.check_numbers(test, code_of)
    assert [v.name for v in opened(tmp_path, 'test').videos] == ['walk']
    with pytest.raises(InputError, match="no split 'validation'"):
        opened(tmp_path, 'validation')


def test_folds_that_leak_or_lack_videos(tmp_path):
    stavis(tmp_path)
    listed = tmp_path / 'fold_lists' / 'AVAD_list_test_2_fps.txt'
    listed.write_text('Sea_2 3 25\nnobody 3 25\n')
    _, told = found(tmp_path, chosen_set='AVAD')
    assert '1 of its 2 videos are not there (nobody)' in told
    listed.write_text('Sea_2 3 25\nwalk 4 25\n')
    with pytest.raises(InputError, match='train_2 and test_2 of AVAD both have walk'):
        found(tmp_path, chosen_set='AVAD')
    with pytest.raises(InputError, match='--set=DIEM'):
        found(tmp_path, chosen_set='DIEM')


# What the command refuses


@pytest.mark.parametrize('arguments, told', [
    (['folder', '--name=mine'], '--name=NAME and --source=DIR'),
    (['folder', '--name=dhf1k', '--source=.'], 'is the name of a known dataset'),
    (['folder', '--name=My-Set', '--source=.'], 'small letters'),
    (['folder', '--name=mine', '--source=/no/such/place'], 'no such folder'),
    (['folder', '--name=mine', '--source=gs://bucket/rec'], 'not from object storage; copy it'),
    (['dhf1k', '--source=gs://bucket/DHF1K'], 'gs://bucket/DHF1K: this is read from a folder'),
    (['dhf1k', '--name=mine', '--source=.'], 'are for folder'),
    (['folder', '--name=mine', '--source=.', '--sigma=1deg'], 'viewing distance'),
    (['folder', '--name=mine', '--source=.', '--sigma=big'], 'a number of pixels'),
    (['folder', '--name=mine', '--source=.', '--gaze_columns=z=4'], 'x=GazeX'),
    (['folder', '--name=mine', '--source=.', '--gaze_columns=x=4,y=Y'], 'position of every column'),
    (['folder', '--name=mine', '--source=.', '--gaze_screen=wide'], 'WIDTHxHEIGHT'),
])  # fmt: skip
def test_options_that_cannot_be_used(tmp_path, arguments, told):
    with pytest.raises(InputError, match=told):
        data.prepare.main([*arguments, f'--data_dir={tmp_path}'])


def test_a_folder_without_anything_shows_what_is_expected(tmp_path):
    (tmp_path / 'copy' / 'notes').mkdir(parents=True)
    (tmp_path / 'copy' / 'notes' / 'readme.md').write_text('')
    with pytest.raises(InputError, match=r'(?s)videos/<video>.mp4.*Found:.*readme.md'):
        prepare(tmp_path)
    assert os.listdir(tmp_path) == ['copy']
