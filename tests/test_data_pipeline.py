"""Training clips: the right frames, the same stream for any workers, resumable, sharded."""

import json
import multiprocessing

import grain
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import data
from data import windows
from data.pipeline import train_clips
from data.videos import VideoInfo
from stsa_jax.errors import InputError
from stsa_jax.media.preprocess import denormalise, normalise
from stsa_jax.models.stsanet import STSANetConfig
from tests import data_copies as copies

LENGTHS = {1: 30, 2: 22, 3: 18, 4: 5, 5: 1, 6: 25, 7: 20}


def code_of(video: str, number: int) -> int:
    return int(video) * 64 % 1024 + number


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pipeline')
    copies.dhf1k(folder / 'copy', LENGTHS, 'annotation')
    data.prepare_dataset('dhf1k', folder / 'out', folder / 'copy', num_workers=1, size=(32, 64))
    return folder / 'out'


def clips(prepared, **options):
    options = {'batch_size': 2, 'image_size': (32, 64), 'frames': 16, 'seed': 3} | options
    return train_clips(['dhf1k'], data_dir=prepared, **options)


def take(iterator, count: int) -> list[dict]:
    return [next(iterator) for _ in range(count)]


def assert_same(a: list[dict], b: list[dict]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b):
        for key in ('clip', 'density', 'video', 'frame'):
            np.testing.assert_array_equal(x[key], y[key])


@pytest.mark.parametrize('target, offset', [('middle', 7), ('last', 15)])
def test_clips_hold_the_frames_around_their_target(prepared, target, offset):
    lengths = {f'{k:04d}': n for k, n in LENGTHS.items()}
    iterator = clips(prepared, target=target)
    for batch in take(iterator, 12):
        copies.check_batch(batch, code_of, lengths, dict.fromkeys(lengths, 1), offset)
        assert batch['clip'].shape == (2, 16, 32, 64, 3) and batch['clip'].dtype == np.float32
        assert batch['density'].shape == (2, 32, 64) and batch['density'].dtype == np.float32
        assert (batch['density'] >= 0).all() and (batch['density'] <= 1).all()


def test_a_density_for_every_frame(prepared):
    """Each frame's own; the last one is the target's."""
    for batch in take(clips(prepared, target='all'), 6):
        assert batch['density'].shape == (2, 16, 32, 64)
        for clip, density in zip(batch['clip'], batch['density']):
            seen = [t for t in range(16) if density[t].any()]
            assert 15 in seen and len(seen) > 8
            assert all(copies.number_in(density[t]) == copies.number_in(clip[t]) for t in seen)


def test_every_third_frame_with_its_fixations(prepared):
    """A frame, its density and its fixations belong together; mirrored, they are so together."""
    options = {'frames': 6, 'step': 3, 'target': 'all', 'fixations': True, 'flip': 0.5}
    turned = 0
    for batch in take(clips(prepared, **options), 8):
        assert batch['fixations'].shape == batch['density'].shape == (2, 6, 32, 64)
        for clip, density, marks, video, number in zip(
            *(batch[k] for k in ('clip', 'density', 'fixations', 'video', 'frame'))
        ):
            last = code_of(str(video), int(number))
            if copies.number_in(clip[-1]) != last:
                clip, density, marks = (x[:, :, ::-1] for x in (clip, density, marks))
                turned += 1
            for t in range(6):
                code = code_of(str(video), max(int(number) - 3 * (5 - t), 1))
                assert copies.number_in(clip[t]) == copies.number_in(density[t]) == code
                expected = np.zeros((32, 64))
                for row, column in np.argwhere(copies.fixations_of(code)):
                    expected[row * 32 // copies.HEIGHT, column * 64 // copies.WIDTH] = 1
                np.testing.assert_array_equal(marks[t], expected)
    assert 3 <= turned <= 13
    state = clips(prepared).get_state()
    with pytest.raises(InputError, match='another stream'):
        clips(prepared, step=3).set_state(state)


def test_some_clips_are_mirrored_with_their_densities(prepared):
    mirrored = 0
    for batch in take(clips(prepared, flip=0.5), 8):
        for clip, density, video, number in zip(
            *(batch[k] for k in ('clip', 'density', 'video', 'frame'))
        ):
            expected = [code_of(str(video), int(number))] * 2
            codes = [copies.number_in(x) for x in (density, clip[7])]
            turned = [copies.number_in(x) for x in (density[:, ::-1], clip[7][:, ::-1])]
            assert expected in (codes, turned)
            mirrored += turned == expected != codes
    assert 3 <= mirrored <= 13
    state = clips(prepared).get_state()
    with pytest.raises(InputError, match='another stream'):
        clips(prepared, flip=0.5).set_state(state)


def test_every_epoch_takes_every_video_once_with_new_windows(prepared):
    iterator = clips(prepared, batch_size=7)
    assert iterator.steps_per_epoch == 1
    epochs = take(iterator, 6)
    for batch in epochs:
        assert sorted(map(int, batch['video'])) == sorted(LENGTHS)
    orders = {tuple(batch['video']) for batch in epochs}
    assert len(orders) > 1
    targets = {
        int(n) for batch in epochs for v, n in zip(batch['video'], batch['frame']) if v == '0001'
    }
    assert len(targets) > 2


def test_normalised_clip_is_the_uint8_one_normalised(prepared):
    raw, floats = next(clips(prepared, normalise=False)), next(clips(prepared))
    assert raw['clip'].dtype == np.uint8
    np.testing.assert_array_equal(floats['clip'], normalise(raw['clip']))
    np.testing.assert_array_equal(denormalise(floats['clip']), raw['clip'])


def test_state_resumes_in_the_middle_of_an_epoch(prepared):
    iterator = clips(prepared)
    take(iterator, 5)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = take(iterator, 6)
    fresh = clips(prepared)
    fresh.set_state(state)
    assert_same(take(fresh, 6), expected)
    iterator.set_state(state)  # also backwards, in use
    assert_same(take(iterator, 2), expected[:2])


def test_state_goes_through_grains_checkpointing(prepared, tmp_path):
    iterator = clips(prepared)
    take(iterator, 3)
    handler = grain.checkpoint.CheckpointHandler()
    handler.save(tmp_path, iterator)
    expected = take(iterator, 2)
    fresh = clips(prepared)
    handler.restore(tmp_path, fresh)
    assert_same(take(fresh, 2), expected)


def test_another_seed_gives_another_stream(prepared):
    drawn = [
        [(str(v), int(n)) for b in take(clips(prepared, seed=seed), 4)
         for v, n in zip(b['video'], b['frame'])]
        for seed in (3, 3, 4)
    ]  # fmt: skip
    assert drawn[0] == drawn[1] != drawn[2]
    # The order of the videos differs, and the windows within them too.
    assert [v for v, _ in drawn[0]] != [v for v, _ in drawn[2]]
    windows = [{n for v, n in stream if v == '0001'} for stream in drawn]
    assert windows[0] != windows[2]


@pytest.mark.slow
def test_stream_of_two_datasets_continues_with_workers_and_without(prepared, tmp_path):
    """Process 1 of 3; saved with threads, resumed by processes, and by threads again."""
    shots = {('training', f'Walk-Front-{i:03d}'): (1, 10, 20 * i) for i in range(1, 4)}
    copies.shots(tmp_path / 'copy', shots, copies.ucf_file)
    both = tmp_path / 'both'
    both.mkdir()
    (both / 'dhf1k').symlink_to(prepared / 'dhf1k')
    data.prepare_dataset('ucf_sports', both, tmp_path / 'copy', num_workers=1, size=(32, 64))

    def mixed(**options):
        return train_clips(
            ['dhf1k', 'ucf_sports'], [1, 3], data_dir=both, batch_size=2, image_size=(32, 64),
            frames=16, seed=3, process_index=1, process_count=3, **options,
        )  # fmt: skip

    threads = mixed()
    expected = take(threads, 8)
    names = [str(video) for batch in expected for video in batch['video']]
    assert {name.startswith('Walk') for name in names} == {True, False}
    fresh = mixed()
    take(fresh, 3)
    workers = mixed(num_workers=2)
    workers.set_state(json.loads(json.dumps(fresh.get_state())))
    assert_same(take(workers, 2), expected[3:5])  # one of either, so both have started
    for worker in multiprocessing.active_children():
        worker.terminate()  # as a signal to the whole process group: it is not for them
    assert_same(take(workers, 1), expected[5:6])
    state = workers.get_state()
    workers.close()
    threads.set_state(state)
    assert_same(take(threads, 2), expected[6:])


def test_processes_share_the_global_batches_without_overlap(prepared):
    whole = take(clips(prepared, batch_size=4), 6)
    shares = [
        take(clips(prepared, batch_size=2, process_index=p, process_count=2), 6) for p in (0, 1)
    ]
    for step, batch in enumerate(whole):
        drawn = [list(zip(share[step]['video'], share[step]['frame'])) for share in shares]
        # In order: accumulation takes its parts of a batch by the clips' places.
        assert drawn[0] + drawn[1] == list(zip(batch['video'], batch['frame']))
    # Within an epoch no video is in two processes: 7 videos, the first 6 clips of each 7.
    first = [set(np.concatenate([share[i]['video'] for i in range(1)])) for share in shares]
    assert not first[0] & first[1]


def test_resuming_with_another_number_of_processes_continues_the_same_stream(prepared):
    alone = clips(prepared, batch_size=4)
    take(alone, 3)
    state = alone.get_state()
    expected = next(alone)
    shares = [clips(prepared, batch_size=2, process_index=p, process_count=2) for p in (0, 1)]
    for share in shares:
        share.set_state(state)
    drawn = [video for share in shares for video in next(share)['video']]
    assert drawn == list(expected['video'])


def test_targets_have_fixations_and_what_is_left_out_is_counted(tmp_path):
    copy = copies.dhf1k(tmp_path / 'copy', {1: 20, 2: 6, 3: 4}, 'annotation')
    nobody = np.zeros((copies.HEIGHT, copies.WIDTH), np.uint8)
    for video, numbers in {1: [8, 9, 12], 2: [1], 3: [1, 2, 3, 4]}.items():
        for n in numbers:
            copies.save(copy / f'annotation/{video:04d}/fixation/{n:04d}.png', nobody)
    data.prepare_dataset('dhf1k', tmp_path / 'out', copy, num_workers=1, size=(32, 64))
    iterator = clips(tmp_path / 'out', batch_size=4)
    # Of 20 frames 5 can be the 8th of 16 (8 to 12), of shorter videos all of their frames.
    assert iterator.summary == [
        {
            'dataset': 'dhf1k',
            'videos': 2,
            'videos_without_fixation': 1,
            'windows': 2 + 5,
            'windows_without_fixation': 3 + 1 + 4,
        }
    ]
    seen = {
        (str(v), int(n))
        for batch in take(iterator, 12)
        for v, n in zip(batch['video'], batch['frame'])
    }
    assert seen == {('0001', 10), ('0001', 11)} | {('0002', n) for n in range(2, 7)}


def test_black_density_is_never_a_target(tmp_path):
    """Its loss would be 0/0. Video 2 has no other target inside, so it gives its last frame."""
    copy = copies.dhf1k(tmp_path / 'copy', {1: 20, 2: 18}, 'annotation')
    black = np.zeros((copies.HEIGHT, copies.WIDTH), np.uint8)
    for video, numbers in {1: [8, 9, 12], 2: range(1, 18)}.items():
        for n in numbers:
            copies.save(copy / f'annotation/{video:04d}/maps/{n:04d}.png', black)
    builder = data.prepare_dataset('dhf1k', tmp_path / 'out', copy, num_workers=1, size=(32, 64))
    told = [str(problem) for problem in builder.problems if 'black density' in str(problem)]
    assert [line.split(': ', 1)[1] for line in told] == [
        '3 frames with fixations but black density: 8-9, 12; not used as targets',
        '17 frames with fixations but black density: 1-17; not used as targets',
    ]
    train = data.open_split('dhf1k', 'train', tmp_path / 'out')
    assert train.videos[0].unusable == ((7, 9), (11, 12))
    assert (
        data.videos.index_split(builder, 'train') == dict(builder.info.metadata)['videos']['train']
    )
    iterator = clips(tmp_path / 'out', batch_size=4)
    # Of 20 frames 5 can be the 8th of 16, of which 3 are black; of 18 all 3 are.
    (summary,) = iterator.summary
    assert (summary['windows'], summary['windows_without_fixation']) == (2 + 1, 3 + 3)
    seen = {(str(v), int(n)) for b in take(iterator, 6) for v, n in zip(b['video'], b['frame'])}
    assert seen == {('0001', 10), ('0001', 11), ('0002', 18)}


def test_fallback_targets_of_one_video_do_not_hide_omitted_windows_of_another(tmp_path):
    copy = copies.dhf1k(tmp_path / 'copy', {1: 16, 2: 16}, 'annotation')
    nobody = np.zeros((copies.HEIGHT, copies.WIDTH), np.uint8)
    for video in (1, 2):  # one window each, whose target has no fixation; video 2 has no other
        for n in [8] if video == 1 else range(1, 17):
            copies.save(copy / f'annotation/{video:04d}/fixation/{n:04d}.png', nobody)
    data.prepare_dataset('dhf1k', tmp_path / 'out', copy, num_workers=1, size=(32, 64))
    (summary,) = clips(tmp_path / 'out').summary
    assert (summary['windows'], summary['windows_without_fixation']) == (15, 2)


def test_state_of_another_stream_is_refused(prepared):
    iterator = clips(prepared)
    next(iterator)
    state = iterator.get_state()
    for other in (
        clips(prepared, seed=4),
        clips(prepared, frames=8),
        clips(prepared, target='last'),
    ):
        with pytest.raises(InputError, match='another stream'):
            other.set_state(state)
    with pytest.raises(InputError, match='inside a global batch'):
        clips(prepared, batch_size=4).set_state(state)


def test_bad_requests_are_named(prepared):
    with pytest.raises(InputError, match=r"'hollywood9' is not prepared here.*dhf1k"):
        train_clips(['hollywood9'], data_dir=prepared, batch_size=1)
    with pytest.raises(InputError, match=r'data\.prepare diem --data_dir=\S+ --source=\.\.\.$'):
        data.open_split('diem', 'test', prepared)
    with pytest.raises(InputError, match=r'data\.prepare stsa_synthetic --data_dir=\S+$'):
        data.open_split('stsa_synthetic', 'test', prepared)
    with pytest.raises(InputError, match="no split 'test'; it has train"):
        data.open_split('dhf1k', 'test', prepared)
    with pytest.raises(InputError, match='weights'):
        train_clips(['dhf1k'], [1, 2], data_dir=prepared, batch_size=1)
    with pytest.raises(InputError, match="target 'first'"):
        clips(prepared, target='first')
    with pytest.raises(InputError, match='not the name of a dataset'):
        data.open_split('../dhf1k', 'train', prepared)
    with pytest.raises(InputError, match='batch size 0'):
        clips(prepared, batch_size=0)


def test_damaged_files_are_named(prepared, tmp_path):
    import shutil

    copy = tmp_path / 'copy'
    shutil.copytree(prepared, copy)
    folder = next(copy.glob('dhf1k/*/1.0.0'))
    record = next(folder.glob('*.array_record*'))
    content = record.read_bytes()
    record.write_bytes(content[:1000])  # small files are padded, mostly with zeros
    with pytest.raises(InputError, match='prepare dhf1k again'):
        data.open_split('dhf1k', 'train', copy)
    record.write_bytes(content)
    (folder / 'features.json').write_text('{}')
    with pytest.raises(InputError, match='prepare dhf1k again'):
        data.open_split('dhf1k', 'train', copy)


def test_middle_of_a_window_is_the_target_of_the_network():
    """The 16th of 32 frames, which the network's figures and predictions use as the target."""
    for target, place in (('middle', 15), ('last', 31)):
        config = STSANetConfig(target=target)
        assert windows.target_offset(config.frames, target) == config.target_index == place


@given(
    st.integers(1, 80), st.sampled_from([8, 16, 32]), st.sampled_from(['middle', 'last']),
    st.sets(st.integers(0, 79)), st.sampled_from([1, 2, 5]),
)  # fmt: skip
def test_windows_pad_by_repetition_and_targets_have_fixations(length, frames, target, empty, step):
    offset = windows.target_offset(frames, target)
    unusable = tuple((i, i + 1) for i in sorted(empty) if i < length)
    video = VideoInfo('v', 0, length, 10, 10, unusable=unusable)
    targets = windows.usable_targets(video, frames, offset, step)
    # A video is left out only if none of its frames has a fixation.
    assert (len(targets) == 0) == (len(unusable) == length)
    assert not set(targets) & {i for i, _ in unusable}
    for chosen in targets:
        found = windows.window(chosen, length, frames, offset, step)
        assert len(found) == frames and found[offset] == chosen
        assert found.min() >= 0 and found.max() < length
        steps = np.diff(found)
        assert set(steps) <= set(range(step + 1))  # in order, and repeated only at the two ends
        inner = (found > 0) & (found < length - 1)
        assert (steps[inner[:-1] & inner[1:]] == step).all()
        assert (steps[inner[:-1]] > 0).all()
    span = (frames - 1) * step + 1
    if length >= span and not unusable:
        assert len(targets) == length - span + 1
