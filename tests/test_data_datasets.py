"""Hollywood-2, UCF-Sports and DIEM in miniature, with the real names and quirks."""

import numpy as np
import pytest

import data
from data.copies.sources import Report
from data.diem import TEST_II, TEST_III
from data.pipeline import train_clips
from data.preparation.registry import load_builder
from stsa_jax.errors import InputError
from tests import data_copies as copies


def prepare(name, tmp_path, **options):
    return data.prepare_dataset(
        name, tmp_path / 'out', tmp_path / 'copy', num_workers=1, size=(32, 64), **options
    )


def check_clips(name, tmp_path, code_of, lengths, first, number_in_density=copies.number_in):
    """The right frames around the targets; every video is used, however short."""
    clips = train_clips([name], data_dir=tmp_path / 'out', batch_size=len(lengths), frames=16,
                        image_size=(32, 64))  # fmt: skip
    batch = next(clips)
    assert sorted(map(str, batch['video'])) == sorted(lengths)
    for _ in range(3):
        copies.check_batch(batch, code_of, lengths, first, 7, number_in_density)
        batch = next(clips)


def test_hollywood2_frame_numbers_continue_and_no_shot_is_dropped(tmp_path):
    shots = {
        ('training', 'actioncliptrain00001_1'): (1, 20, 0),
        ('training', 'actioncliptrain00001_2'): (21, 3, 0),  # far shorter than a window
        ('training', 'actioncliptrain00002_10'): (118, 30, 1000),
        ('training', 'actioncliptrain00003_1'): (5, 1, 2000),
        ('testing', 'actioncliptest00001_1'): (1, 4, 3000),
        ('testing', 'actioncliptest00001_2'): (5, 6, 3000),
    }
    copies.shots(tmp_path / 'copy', shots, copies.hollywood2_file)
    (tmp_path / 'copy' / 'training').rename(tmp_path / 'copy' / 'Training')
    builder = prepare('hollywood2', tmp_path)
    by_name = {shot: given for (_, shot), given in shots.items()}

    def code_of(shot: str, number: int) -> int:
        return by_name[shot][2] + number

    train = data.open_split('hollywood2', 'train', tmp_path / 'out')
    assert [v.name for v in train.videos] == [s for split, s in shots if split == 'training']
    assert [v.first_number for v in train.videos] == [1, 21, 118, 5]
    assert copies.check_numbers(train, code_of) == 54
    assert (
        copies.check_numbers(data.open_split('hollywood2', 'test', tmp_path / 'out'), code_of) == 10
    )
    report = '\n'.join(map(str, builder.problems))
    assert '3 source videos where 823 are known' in report
    assert '1 source videos where 884 are known' in report
    assert '2 shots where 3558 are known' in report
    lengths = {v.name: v.num_frames for v in train.videos}
    check_clips('hollywood2', tmp_path, code_of, lengths,
                {v.name: v.first_number for v in train.videos})  # fmt: skip


def test_ucf_sports(tmp_path):
    shots = {
        ('training', 'Diving-Side-001'): (1, 18, 0),
        ('training', 'Golf-Swing-Back-004'): (1, 9, 100),
        ('testing', 'Walk-Front-021'): (1, 6, 200),
    }
    copy = copies.shots(tmp_path / 'copy', shots, copies.ucf_file)
    assert (copy / 'training' / 'Diving-Side-001' / 'maps' / 'Diving-Side_001_001.png').exists()
    # Quirks: upper-case extensions, three-channel maps with values 0 and 1 in the fixations.
    for path in (copy / 'training' / 'Golf-Swing-Back-004' / 'images').iterdir():
        path.rename(path.with_suffix('.PNG'))
    for n in range(1, 10):
        path = (
            copy
            / 'training'
            / 'Golf-Swing-Back-004'
            / 'fixation'
            / f'Golf-Swing-Back_004_{n:03d}.png'
        )
        copies.save(path, np.repeat(copies.fixations_of(100 + n)[..., None] // 255, 3, axis=-1))
    (copy / 'testing' / 'Thumbs.db').write_bytes(b'')
    builder = prepare('ucf_sports', tmp_path)
    base = {shot: given[2] for (_, shot), given in shots.items()}

    def code_of(video: str, number: int) -> int:
        return base[video] + number

    train = data.open_split('ucf_sports', 'train', tmp_path / 'out')
    assert copies.check_numbers(train, code_of) == 27
    assert (
        copies.check_numbers(data.open_split('ucf_sports', 'test', tmp_path / 'out'), code_of) == 6
    )
    assert any('9 maps of several channels' in str(p) for p in builder.problems)
    check_clips('ucf_sports', tmp_path, code_of, {'Diving-Side-001': 18, 'Golf-Swing-Back-004': 9},
                {'Diving-Side-001': 1, 'Golf-Swing-Back-004': 1})  # fmt: skip


DIEM = {
    'one_show': (20, 0),
    'diy_sos': (4, 100),  # in another case than published
    'ami_ib4010_left': (6, 200),
    'home_movie_Charlie_bit_my_finger_again': (21, 300),
    'game_trailer_lego_indiana_jones': (7, 700),
}


@pytest.mark.parametrize('layout', ['raw', 'prepared'])
def test_diem_and_its_three_test_sets(tmp_path, layout):
    make = copies.diem_raw if layout == 'raw' else copies.diem_prepared
    make(tmp_path / 'copy' / 'DIEM' if layout == 'raw' else tmp_path / 'copy', DIEM)
    builder = prepare('diem', tmp_path)
    assert layout in builder.layout
    suffix = f'_{copies.WIDTH}x{copies.HEIGHT}' if layout == 'raw' else ''

    def code_of(video: str, number: int) -> int:
        return DIEM[video.removesuffix(suffix)][1] + number

    sets = {
        split: data.open_split('diem', split, tmp_path / 'out')
        for split in ('train', 'test', 'test_i', 'test_ii', 'test_iii')
    }
    names = {split: {v.name.removesuffix(suffix) for v in s.videos} for split, s in sets.items()}
    assert names['train'] == set(list(DIEM)[3:])
    assert names['test_ii'] == {'one_show', 'diy_sos'}
    assert (
        names['test_i']
        == names['test_iii']
        == names['test']
        == names['test_ii'] | {'ami_ib4010_left'}
    )
    # Raw DIEM has no density maps: ours have a blob at every bar's point.
    number_in_density = copies.number_in_points if layout == 'raw' else copies.number_in
    for split, count in (('train', 28), ('test', 30)):
        assert copies.check_numbers(sets[split], code_of, number_in_density) == count
    lengths = {v.name: v.num_frames for v in sets['train'].videos}
    check_clips('diem', tmp_path, code_of, lengths, dict.fromkeys(lengths, 1), number_in_density)
    report = '\n'.join(map(str, builder.problems))
    assert '2 training videos of 64' in report and '17 of 20 test videos are not there' in report


def touch(*paths) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_complete_copies_have_the_published_splits(tmp_path):
    """Copies of empty files with all names; no wrong counts are reported."""
    touch(*(tmp_path / 'dhf1k' / 'video' / f'{n:03d}.AVI' for n in range(1, 1001)))
    # 3558 test shots of 884 videos: four each, and 22 more of the last.
    shots = [f'testing/actioncliptest{n:05d}_{s}' for n in range(1, 885) for s in range(1, 5)]
    shots += [f'testing/actioncliptest00884_{s}' for s in range(5, 27)]
    shots += [f'training/actioncliptrain{n:05d}_1' for n in range(1, 824)]
    ucf = [f'training/Walk-Front-{n:03d}' for n in range(1, 104)]
    ucf += [f'testing/Diving-Side-{n:03d}' for n in range(1, 48)]
    for root, folders in (('hollywood2', shots), ('ucf_sports', ucf)):
        for folder in folders:
            for kind in ('images', 'maps', 'fixation'):
                (tmp_path / root / folder / kind).mkdir(parents=True)
    for name in [*TEST_III, *(f'home_movie_{n}' for n in range(64))]:
        (tmp_path / 'diem' / 'video_frames' / 'DIEM' / name).mkdir(parents=True)
        (tmp_path / 'diem' / 'annotations' / 'DIEM' / name / 'maps').mkdir(parents=True)
    expected = {
        'dhf1k': {'train': 600, 'validation': 100, 'test': 300},
        'hollywood2': {'train': 823, 'test': 3558},
        'ucf_sports': {'train': 103, 'test': 47},
        'diem': {'train': 64, 'test': 20},
    }
    for name, counts in expected.items():
        report = Report()
        found = load_builder(name, tmp_path / 'out').find_videos(tmp_path / name, report)
        assert {split: len(videos) for split, videos in found.items()} == counts
        told = [str(p) for p in report.problems if 'there is no annotation' not in str(p)]
        assert told == []
        if name == 'dhf1k':
            ends = {split: (v[0].name, v[-1].name) for split, v in found.items()}
            assert ends == {
                'train': ('0001', '0600'),
                'validation': ('0601', '0700'),
                'test': ('0701', '1000'),
            }


def test_diem_test_sets_of_long_videos_with_their_size_in_the_name(tmp_path):
    """As in prepared copies; test set i has the first 300 frames of each video."""
    videos = {
        'one_show_96x48': (305, 0),
        'ami_ib4010_left_96x48': (2, 400),
        'other_96x48': (2, 500),
    }
    copies.diem_prepared(tmp_path / 'copy', videos)
    prepare('diem', tmp_path)
    sets = {
        split: data.open_split('diem', split, tmp_path / 'out').videos
        for split in ('train', 'test', 'test_i', 'test_ii', 'test_iii')
    }
    long, short = ('one_show_96x48', 305), ('ami_ib4010_left_96x48', 2)
    found = {split: [(v.name, v.num_frames) for v in videos] for split, videos in sets.items()}
    assert found == {
        'train': [('other_96x48', 2)],
        'test': [short, long],
        'test_i': [short, ('one_show_96x48', 300)],
        'test_ii': [long],
        'test_iii': [short, long],
    }


def test_diem_test_sets_have_the_published_names():
    ii = (
        'BBC_life_in_cold_blood', 'BBC_wildlife_serpent', 'DIY_SOS', 'advert_bbc4_bees',
        'advert_bbc4_library', 'advert_iphone', 'harry_potter_6_trailer', 'music_gummybear',
        'music_trailer_nine_inch_nails', 'nightlife_in_mozambique', 'one_show',
        'pingpong_angle_shot', 'pingpong_no_bodies', 'sport_scramblers',
        'sport_wimbledon_federer_final', 'tv_uni_challenge_final',
        'university_forum_construction_ionic',
    )  # fmt: skip
    iii = [*ii, 'ami_ib4010_closeup', 'ami_ib4010_left', 'news_tony_blair_resignation']
    assert sorted(TEST_II) == sorted(ii) and sorted(TEST_III) == sorted(iii)
    assert (len(ii), len(iii)) == (17, 20)


def test_diem_test_set_i_also_cuts_unusable_ranges():
    from data.videos import VideoInfo, _part_of

    long = VideoInfo('a', 0, 400, 10, 10, unusable=((2, 5), (290, 310), (350, 360)))
    short = VideoInfo('b', 400, 20, 10, 10)
    part = _part_of([long, short], {'split': 'test', 'first_frames': 300})
    assert [(v.first_example, v.num_frames) for v in part] == [(0, 300), (400, 20)]
    assert part[0].unusable == ((2, 5), (290, 300))


def test_unreadable_gaze_file_is_left_out_and_named(tmp_path):
    copies.diem_raw(tmp_path / 'copy', {'one_show': (4, 0)})
    folder = tmp_path / 'copy' / f'one_show_{copies.WIDTH}x{copies.HEIGHT}' / 'event_data'
    (folder / 'diem99_one_show.txt').write_text('this is no gaze')
    builder = prepare('diem', tmp_path)
    assert any('diem99_one_show.txt: not a DIEM gaze file' in str(p) for p in builder.problems)
    assert len(data.open_split('diem', 'test', tmp_path / 'out')) == 4


def test_gaze_files_without_their_video_are_reported(tmp_path):
    copies.diem_raw(tmp_path / 'copy', {'one_show': (4, 0)})
    for path in tmp_path.glob('copy/*/video/*'):
        path.unlink()
    with pytest.raises(InputError, match=r'(?s)event_data.*Noticed:.*has gaze files but no video'):
        prepare('diem', tmp_path)


def test_several_datasets_are_mixed_by_their_weights(tmp_path):
    copies.shots(
        tmp_path / 'copy',
        {('training', f'Walk-Front-{i:03d}'): (1, 10, 0) for i in range(1, 4)},
        copies.ucf_file,
    )
    prepare('ucf_sports', tmp_path)
    copies.diem_prepared(tmp_path / 'copy2', {'video': (12, 500)})
    data.prepare_dataset('diem', tmp_path / 'out', tmp_path / 'copy2', num_workers=1, size=(32, 64))
    options = {'data_dir': tmp_path / 'out', 'image_size': (32, 64), 'frames': 8}
    clips = train_clips(['ucf_sports', 'diem'], [1, 3], batch_size=40, **options)
    batch = next(clips)
    assert list(batch['video']).count('video') == 30
    for video, clip, number in zip(batch['video'], batch['clip'], batch['frame']):
        assert copies.number_in(clip[3]) == (500 if video == 'video' else 0) + number
    assert clips.steps_per_epoch == 1
    # By default in proportion to the numbers of videos.
    batch = next(train_clips(['ucf_sports', 'diem'], batch_size=40, **options))
    assert list(batch['video']).count('video') == 10
    with pytest.raises(InputError, match='one positive number for each of the 2'):
        train_clips(['ucf_sports', 'diem'], [1, 0], batch_size=1, **options)
