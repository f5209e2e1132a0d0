"""Recognition of datasets, and of every file in a copy that does not belong to it."""

import shutil

import pytest

from data.copies.sources import Report
from data.preparation.registry import load_builder
from stsa_jax.errors import InputError
from tests import data_copies as copies

EXPECTED = {
    'dhf1k': 'annotation/0001/maps/0001.png',
    'hollywood2': 'training/actioncliptrain00001_1/images/actioncliptrain00001_00001.png',
    'ucf_sports': 'training/Diving-Side-001/images/Diving-Side_001_001.png',
    'diem': 'annotations/DIEM/<name>/fixMap_00001.mat',
}
DIEM_RAW = f'one_show_{copies.WIDTH}x{copies.HEIGHT}'


def make(name: str, root):
    """One or two tiny videos; `name` is a dataset, or a layout of one."""
    if name == 'dhf1k':
        return copies.dhf1k(root, {1: 1})
    if name == 'dhf1k_frames':
        return copies.dhf1k(root, {1: 1}, 'frames')
    if name == 'hollywood2':
        shot = ('training', 'actioncliptrain00001_1')
        return copies.shots(root, {shot: (1, 1, 0)}, copies.hollywood2_file)
    if name == 'ucf_sports':
        return copies.shots(root, {('training', 'Walk-Front-001'): (1, 1, 0)}, copies.ucf_file)
    maker = copies.diem_raw if name == 'diem' else copies.diem_prepared
    return maker(root, {'one_show': (1, 0)})


def find(name: str, root):
    """The videos that are found, and the report's lines with paths relative to `root`."""
    report = Report()
    builder = load_builder(name.split('_frames')[0].split('_prepared')[0], root.parent / 'out')
    found = builder.find_videos(root, report)
    names = [video.name for videos in found.values() for video in videos]
    return names, [str(p).replace(str(root), '.') for p in report.problems]


@pytest.mark.parametrize('name', EXPECTED)
@pytest.mark.parametrize('there', [False, True])
def test_another_folder_error_says_what_was_expected_and_found(tmp_path, name, there):
    (tmp_path / 'holidays' / 'rome').mkdir(parents=True)
    (tmp_path / 'holidays' / 'rome' / '001.jpg').touch()
    with pytest.raises(InputError) as error:
        find(name, tmp_path / ('holidays' if there else 'nowhere'))
    assert EXPECTED[name] in str(error.value)
    found = str(error.value).split('Found')[1]
    assert ('rome/' in found and '001.jpg' in found) if there else 'holidays/' in found


@pytest.mark.parametrize(
    'given, asked', [('ucf_sports', 'hollywood2'), ('hollywood2', 'ucf_sports')]
)
def test_one_set_of_shots_is_not_mistaken_for_the_other(tmp_path, given, asked):
    with pytest.raises(InputError) as error:
        find(asked, make(given, tmp_path / 'copy'))
    assert EXPECTED[asked] in str(error.value) and 'is not named as a shot' in str(error.value)
    shot = 'Walk-Front-001/' if given == 'ucf_sports' else 'actioncliptrain00001_1/'
    assert shot in str(error.value).split('Found')[1]


def touch(*names):
    def spoil(root):
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    return spoil


def copy_of(source, target):
    return lambda root: shutil.copytree(root / source, root / target)


def without(name):
    return lambda root: shutil.rmtree(root / name)


STRAYS = [
    ('dhf1k', touch('Thumbs.db', 'read.me'), '.: 2 stray files (read.me, Thumbs.db)'),
    ('dhf1k', touch('video/.DS_Store', 'video/a.txt'), './video: 2 stray files (.DS_Store, a.txt)'),
    ('dhf1k', touch('annotation/notes.doc'), './annotation: 1 stray files (notes.doc)'),
    ('dhf1k', touch('annotation/0001/x.db'), './annotation/0001: 1 stray files (x.db)'),
    ('dhf1k', touch('video/1.mp4'), './video/1.mp4: has the same number as ./video/001.AVI'),
    (
        'dhf1k', copy_of('annotation/0001', 'annotation/0002'),
        './annotation/0002: is the annotation of a video that is not there',
    ),
    ('dhf1k', touch('annotation/old/a.png'), './annotation/old: is not named as a video'),
    (
        'dhf1k_frames', copy_of('frames/0001', 'frames/01'),
        './frames/01: has the same number as ./frames/0001/images',
    ),
    ('dhf1k_frames', touch('frames/0002/a.txt'), './frames/0002: has no frames'),
    ('ucf_sports', touch('Thumbs.db'), '.: 1 stray files (Thumbs.db)'),
    (
        'ucf_sports', touch('training/.DS_Store', 'training/notes.doc'),
        './training: 2 stray files (.DS_Store, notes.doc)',
    ),
    (
        'hollywood2', touch('training/actioncliptrain00001_1/Thumbs.db'),
        './training/actioncliptrain00001_1: 1 stray files (Thumbs.db)',
    ),
    ('hollywood2', touch('training/new/a.png'), './training/new: is not named as a shot'),
    ('diem', touch('read.me'), '.: 1 stray files (read.me)'),
    ('diem', touch(f'{DIEM_RAW}/a.db'), f'./{DIEM_RAW}: 1 stray files (a.db)'),
    ('diem', touch(f'{DIEM_RAW}/video/a.db'), f'./{DIEM_RAW}/video: 1 stray files (a.db)'),
    (
        'diem', touch(f'{DIEM_RAW}/video/z.avi'),
        f'./{DIEM_RAW}/video/z.avi: is a second video beside one_show.MP4',
    ),
    (
        'diem', touch('DIY_SOS_96x48/video/a.avi'),
        './DIY_SOS_96x48: has no folder event_data; skipped',
    ),
    (
        'diem_prepared', touch('video_frames/DIEM/.DS_Store'),
        './video_frames/DIEM: 1 stray files (.DS_Store)',
    ),
    (
        'diem_prepared', copy_of('annotations/DIEM/one_show', 'annotations/DIEM/other'),
        './annotations/DIEM/other: is the annotation of a video that is not there',
    ),
    (
        'diem_prepared', without('annotations/DIEM/one_show'),
        './video_frames/DIEM/one_show: has no annotation; prepared as not annotated',
    ),
    (
        'ucf_sports', without('training/Walk-Front-001/maps'),
        './training/Walk-Front-001: has no folder maps',
    ),
    (
        'ucf_sports', without('training/Walk-Front-001/fixation'),
        './training/Walk-Front-001: has no folder fixation',
    ),
    ('dhf1k', touch('video/1001.AVI'), './video/1001.AVI: is none of the videos 1 to 1000'),
]  # fmt: skip


@pytest.mark.parametrize('name, spoil, told', STRAYS)
def test_stray_entries_are_reported_by_path(tmp_path, name, spoil, told):
    root = make(name, tmp_path / 'copy')
    names, before = find(name, root)
    spoil(root)
    found, lines = find(name, root)
    new = [line for line in lines if line not in before]
    assert len(new) == 1 and new[0].startswith(told), new
    assert found == names


def test_gaze_folder_reports_other_files(tmp_path):
    root = make('diem', tmp_path / 'copy')
    (root / DIEM_RAW / 'event_data' / 'read.me').touch()
    report = Report()
    video = load_builder('diem', tmp_path / 'out').find_videos(root, report)['test'][0]
    assert not any('event_data' in str(problem) for problem in report.problems)
    video.annotation(report)
    assert str(report.problems[-1]).endswith('event_data: 1 stray files (read.me); skipped')


@pytest.mark.parametrize('linked', ['annotation/0001/maps', 'annotation/0001', 'annotation'])
def test_links_to_outside_are_named_and_not_read(tmp_path, linked):
    root = make('dhf1k', tmp_path / 'copy')
    outside = tmp_path / 'elsewhere'
    shutil.move(root / linked, outside)
    (root / linked).symlink_to(outside)
    report = Report()
    video = load_builder('dhf1k', tmp_path / 'out').find_videos(root, report)['train'][0]
    lines = [str(problem) for problem in report.problems]
    assert any(
        line.startswith(f"{root / linked}: links to outside of the dataset's folder")
        for line in lines
    ), lines
    frames = list(video.frames(report))
    assert [frame.density for frame in frames] == [None]
