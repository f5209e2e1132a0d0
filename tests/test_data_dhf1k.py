"""DHF1K: every layout in circulation, imperfect copies, and the real sample."""

import shutil

import av
import numpy as np
import pytest
from PIL import Image

import data
from data.copies import images
from data.copies.folders import FolderVideo
from data.copies.sources import Report
from data.copies.video_file import frames_of_video
from data.dhf1k import Dhf1k
from data.pipeline import train_clips
from stsa_jax.errors import InputError
from tests import data_copies as copies


def code_of(video: str, number: int) -> int:
    return int(video) * 64 % 1024 + number


@pytest.mark.parametrize(
    'layout, matlab, told',
    [
        ('videos', 'both', 'video/001.AVI'),
        ('frames', False, 'frames/0001/images'),
        ('annotation', True, 'annotation/0001/images'),
        ('video', False, 'video/0001'),
        ('train_val', True, 'train/0001/images'),
    ],
)
def test_every_layout_carries_frames_maps_and_fixations_of_the_same_number(
    tmp_path, layout, matlab, told
):
    lengths = {3: 40, 5: 9, 601: 6}
    copies.dhf1k(tmp_path / 'copy', lengths, layout, matlab)
    builder = data.prepare_dataset(
        'dhf1k', tmp_path / 'out', tmp_path / 'copy', num_workers=1, size=(32, 64)
    )
    assert told in builder.layout
    assert not [p for p in builder.problems if 'are not there' not in str(p)]
    train = data.open_split('dhf1k', 'train', tmp_path / 'out')
    assert [(v.name, v.num_frames) for v in train.videos] == [('0003', 40), ('0005', 9)]
    assert copies.check_numbers(train, code_of) == 49
    assert (
        copies.check_numbers(data.open_split('dhf1k', 'validation', tmp_path / 'out'), code_of) == 6
    )

    clips = train_clips(['dhf1k'], data_dir=tmp_path / 'out', batch_size=4, image_size=(32, 64),
                        frames=16)  # fmt: skip
    names = {f'{k:04d}': n for k, n in lengths.items()}
    first = dict.fromkeys(names, 1)
    seen = set()
    for _ in range(4):
        batch = next(clips)
        copies.check_batch(batch, code_of, names, first, offset=7)
        seen |= set(batch['video'])
    assert seen == {'0003', '0005'}  # the short one is padded, not dropped


def test_videos_without_annotation_are_kept_for_prediction(tmp_path):
    copies.dhf1k(tmp_path / 'copy', {701: 5, 3: 20})
    data.prepare_dataset('dhf1k', tmp_path / 'out', tmp_path / 'copy', num_workers=1)
    test = data.open_split('dhf1k', 'test', tmp_path / 'out')
    assert test.density(0) is None and test.fixations(0) is None
    assert test.frame(4).shape == (224, 384, 3)
    assert (test.videos[0].height, test.videos[0].width) == (copies.HEIGHT, copies.WIDTH)
    with pytest.raises(InputError, match='no frame of split test has a fixation'):
        train_clips(['dhf1k'], split='test', data_dir=tmp_path / 'out', batch_size=1)


def test_imperfect_copy_is_reported_by_file_and_only_the_unusable_skipped(tmp_path):
    copy = copies.dhf1k(tmp_path / 'copy', {1: 12, 2: 6, 3: 6}, 'videos')
    notes = copy / 'annotation' / '0001'
    (notes / 'maps' / '0003.png').unlink()  # a missing map
    copies.save(notes / 'maps' / '0013.png', copies.density_of(5))  # a map too many
    copies.save(notes / 'fixation' / '0013.png', copies.fixations_of(5))
    copies.save(notes / 'fixation' / '0004.png', np.zeros((48, 96), np.uint8))  # nobody looked
    copies.save(notes / 'maps' / '0005.png', np.repeat(copies.density_of(69)[..., None], 3, -1))
    content = (notes / 'maps' / '0006.png').read_bytes()
    (notes / 'maps' / '0006.png').write_bytes(content[: len(content) // 2])  # a broken file
    copies.save(notes / 'fixation' / '0007.png', np.zeros((20, 30), np.uint8))  # another size
    (notes / 'maps' / 'Thumbs.db').write_bytes(b'litter')
    (notes / 'maps' / '._0008.png').write_bytes(b'litter')
    (copy / 'video' / '002.AVI').write_bytes(b'no video')
    (copy / 'annotation' / '0003').rename(copy / 'annotation' / '0003x')

    builder = data.prepare_dataset('dhf1k', tmp_path / 'out', copy, num_workers=1)
    report = '\n'.join(map(str, builder.problems))
    for told in (
        '001.AVI: 1 frames without both maps: 3',
        '001.AVI: 1 maps without frame: 13',
        '001.AVI: 1 frames without any fixation: 4',
        '001.AVI: 1 maps of several channels: 5',
        '0006.png: its maps cannot be used',
        '0007.png: its maps cannot be used (density 96x48, fixations 30x20, should be equal)',
        'maps: 2 stray files (._0008.png, Thumbs.db)',
        '002.AVI: is not a readable video',
        '003.AVI: there is no annotation/0003 with maps and fixation',
        '597 of 600 videos of split train are not there: 4-600',
    ):
        assert told in report, f'{told!r} not in:\n{report}'
    stored = dict(data.videos.prepared_builder('dhf1k', tmp_path / 'out').info.metadata)['problems']
    assert stored == [str(problem) for problem in builder.problems]

    train = data.open_split('dhf1k', 'train', tmp_path / 'out')
    assert [(v.name, v.num_frames) for v in train.videos] == [('0001', 12), ('0003', 6)]
    assert train.videos[0].unusable == ((2, 4), (5, 7))
    assert copies.number_in(train.density(4)) == 69

    with pytest.raises(InputError, match='this copy has'):
        data.prepare_dataset('dhf1k', tmp_path / 'strict', copy, num_workers=1, strict=True)
    assert not list((tmp_path / 'strict').glob('dhf1k/*/1.0.0'))


def test_fixation_maps_of_another_size_are_moved_as_points(tmp_path):
    """Annotated at twice and at half the size of the density maps."""
    copy = copies.dhf1k(tmp_path / 'copy', {1: 3}, 'annotation')
    folder, points = copy / 'annotation' / '0001' / 'fixation', copies.fixations_of(66)
    large = np.zeros((2 * copies.HEIGHT, 2 * copies.WIDTH), np.uint8)
    large[1::2, ::2] = points
    copies.save(folder / '0002.png', large)
    close = np.zeros_like(large)
    close[30:32, 50:53] = close[95, 191] = 255  # 2x3 points become 1x2
    copies.save(folder / '0003.png', close)
    small = np.zeros((copies.HEIGHT // 2, copies.WIDTH // 2), np.uint8)
    small[[3, 23], [0, 47]] = 255
    copies.save(folder / '0001.png', small)
    builder = data.prepare_dataset('dhf1k', tmp_path / 'out', copy, num_workers=1)
    train = data.open_split('dhf1k', 'train', tmp_path / 'out')
    assert np.argwhere(train.fixations(0)).tolist() == [[7, 1], [47, 95]]
    np.testing.assert_array_equal(train.fixations(1), points > 0)
    assert np.argwhere(train.fixations(2)).tolist() == [[15, 25], [15, 26], [47, 95]]
    assert not train.videos[0].unusable
    told = [str(p).split(': ', 1)[1] for p in builder.problems if 'another size' in str(p)]
    assert told == [
        "3 fixation maps of another size than their density: 1-3; points moved to the density's "
        'size, where 4 fall on another one and count as one with it'
    ]


def test_a_wrong_folder_error_says_what_was_expected_and_found(tmp_path):
    (tmp_path / 'holidays' / 'rome').mkdir(parents=True)
    with pytest.raises(InputError, match=r'(?s)video/001.AVI.*Found:.*rome/'):
        data.prepare_dataset('dhf1k', tmp_path / 'out', tmp_path / 'holidays')
    with pytest.raises(InputError, match='no such folder'):
        data.prepare_dataset('dhf1k', tmp_path / 'out', tmp_path / 'nowhere')


def test_links_out_of_the_dataset_are_not_followed(tmp_path):
    copy = copies.dhf1k(tmp_path / 'copy', {1: 5}, 'annotation')
    secret = tmp_path / 'elsewhere' / 'secret.png'
    copies.save(secret, copies.frame_of(99))
    (copy / 'annotation' / '0001' / 'images' / '0006.png').symlink_to(secret)
    builder = data.prepare_dataset('dhf1k', tmp_path / 'out', copy, num_workers=1)
    assert any("links to outside of the dataset's folder" in str(p) for p in builder.problems)
    assert len(data.open_split('dhf1k', 'train', tmp_path / 'out')) == 5


def test_a_truncated_video_is_used_up_to_the_break(tmp_path):
    copy = copies.dhf1k(tmp_path / 'copy', {1: 40})
    # A header, an index at the end that the cut takes away, and data enough to cut within.
    copies.write_video(
        copy / 'video' / '001.AVI', [copies.frame_of(64 + n) for n in range(1, 41)], 'mjpeg'
    )
    path = copy / 'video' / '001.AVI'
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    builder = data.prepare_dataset('dhf1k', tmp_path / 'out', copy, num_workers=1)
    train = data.open_split('dhf1k', 'train', tmp_path / 'out')
    assert 10 <= train.videos[0].num_frames < 40
    assert copies.check_numbers(train, code_of) == train.videos[0].num_frames
    assert any('maps without frame' in str(p) for p in builder.problems)


def test_interrupted_preparation_resumes(tmp_path, monkeypatch):
    from data.preparation import shards

    copies.dhf1k(tmp_path / 'copy', {1: 5, 2: 6, 3: 7})
    write, written = shards.write_shard, []

    def interrupted(task, advance):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(task.path)
        return write(task, advance)

    monkeypatch.setattr(shards, 'write_shard', interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.prepare_dataset('dhf1k', tmp_path / 'out', tmp_path / 'copy', num_workers=1)
    # A source that has changed since is prepared again, an unchanged one is reused.
    copies.save(
        tmp_path / 'copy' / 'annotation' / '0002' / 'maps' / '0007.png', copies.density_of(1)
    )
    monkeypatch.setattr(shards, 'write_shard', write)
    read = []
    frames = FolderVideo.frames
    monkeypatch.setattr(
        FolderVideo,
        'frames',
        lambda self, report: (read.append(self.name), frames(self, report))[1],
    )
    data.prepare_dataset('dhf1k', tmp_path / 'out', tmp_path / 'copy', num_workers=1)
    assert read == ['0002', '0003']
    train = data.open_split('dhf1k', 'train', tmp_path / 'out')
    assert [v.num_frames for v in train.videos] == [5, 6, 7]
    assert not list((tmp_path / 'out' / 'dhf1k' / '224x384').glob('.*'))


@pytest.mark.parametrize('size', [(34, 50), (48, 96), (20, 30)])
def test_frames_of_a_video_match_pyav(tmp_path, size):
    """Rows of any width, and frames that are still kept when later ones are decoded."""
    path, rng = tmp_path / 'film.avi', np.random.default_rng(0)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('mjpeg', rate=30)
        stream.height, stream.width, stream.pix_fmt = *size, 'yuvj420p'
        for _ in range(9):
            frame = rng.integers(0, 255, (*size, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        expected = [f.to_ndarray(format='rgb24') for f in container.decode(video=0)]
    found = list(frames_of_video(path, Report()))
    assert [number for number, _ in found] == list(range(1, 10))
    np.testing.assert_array_equal([frame for _, frame in found], expected)
    video = FolderVideo('film', str(tmp_path), str(path))
    assert video.expected_frames() == 9


def test_known_numbers_of_frames_are_checked(tmp_path, monkeypatch):
    copies.dhf1k(tmp_path / 'copy', {601: 5, 602: 4}, 'annotation')
    monkeypatch.setattr(Dhf1k, 'KNOWN_FRAMES', {'validation': (2, 10), 'train': (600, 7)})
    builder = data.prepare_dataset('dhf1k', tmp_path / 'out', tmp_path / 'copy', num_workers=1)
    told = [str(p) for p in builder.problems if 'are known' in str(p)]
    assert told == ['split validation: 9 frames where 10 are known']


def test_lossless_and_original_size_on_request(tmp_path):
    copy = copies.dhf1k(tmp_path / 'copy', {1: 3}, 'annotation')
    data.prepare_dataset('dhf1k', tmp_path / 'out', copy, num_workers=1, size=None, encoding='png')
    train = data.open_split('dhf1k/original_png', 'train', tmp_path / 'out')
    np.testing.assert_array_equal(train.frame(1), copies.frame_of(66))
    data.prepare_dataset('dhf1k', tmp_path / 'out', copy, num_workers=1, encoding='png')
    small = data.open_split('dhf1k/224x384_png', 'train', tmp_path / 'out')
    pillow = Image.fromarray(copies.frame_of(66)).resize((384, 224), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(small.frame(1), np.asarray(pillow))


def test_real_sample(tmp_path, real_data):
    """The real video, with annotation of only its first 60 frames."""
    source, copy = real_data / 'dhf1k', tmp_path / 'copy'
    (copy / 'video').mkdir(parents=True)
    shutil.copy(source / 'video' / '002.AVI', copy / 'video')
    for kind in ('maps', 'fixation'):
        (copy / 'annotation' / '0002' / kind).mkdir(parents=True)
        for n in range(1, 61):
            path = f'annotation/0002/{kind}/{n:04d}.png'
            shutil.copy(source / path, copy / path)
    builder = data.prepare_dataset('dhf1k', tmp_path / 'out', copy, num_workers=1)
    assert 'video/001.AVI' in builder.layout
    train = data.open_split('dhf1k', 'train', tmp_path / 'out')
    (video,) = train.videos
    assert (video.num_frames, video.height, video.width) == (783, 360, 640)
    assert video.unusable == ((60, 783),)
    decoded = {}
    with av.open(str(source / 'video' / '002.AVI')) as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i in (0, 31, 59, 782):
                decoded[i] = Image.fromarray(frame.to_ndarray(format='rgb24'))
    assert i == 782
    for i, large in decoded.items():
        small = np.asarray(large.resize((384, 224), Image.Resampling.BILINEAR))
        error = np.mean((train.frame(i).astype(float) - small) ** 2)
        assert 10 * np.log10(255**2 / error) > 40  # dB; 46.8 was measured over the video
        assert train.frame_number(i) == i + 1
    for i in (0, 31, 59):
        name, annotation = f'{i + 1:04d}.png', source / 'annotation' / '0002'
        np.testing.assert_array_equal(
            train.density(i) * 255, images.decode_map((annotation / 'maps' / name).read_bytes())
        )
        np.testing.assert_array_equal(
            train.fixations(i), images.decode_map((annotation / 'fixation' / name).read_bytes()) > 0
        )
