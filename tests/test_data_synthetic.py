"""The synthetic dataset: determined by a seed, with attention where the scripts put it."""

import numpy as np
import pytest

import data
from data import scenes, synthetic
from data.copies import images
from data.copies.sources import Report
from data.synthetic import SyntheticVideo
from stsa_jax.evaluation.observers import read_viewers


@pytest.fixture(scope='module')
def cycle() -> list:
    """The frames of twelve training videos, one of each script or two."""
    return [list(SyntheticVideo.at('train', i).frames(Report())) for i in range(12)]


def test_rendering_is_a_function_of_split_and_index(cycle):
    again = list(SyntheticVideo.at('train', 3).frames(Report()))
    other = list(SyntheticVideo.at('test', 3).frames(Report()))
    for a, b, c in zip(cycle[3], again, other):
        np.testing.assert_array_equal(a.image, b.image)
        assert a.density == b.density and a.fixations == b.fixations
        assert a.density != c.density
    assert abs(cycle[3][0].image.astype(int) - other[0].image).mean() > 5


def test_one_in_three_videos_is_relational_in_every_split():
    for split, count in synthetic.VIDEOS.items():
        kinds = [SyntheticVideo.at(split, i).kind for i in range(count)]
        assert kinds.count('relational') * 3 == count and count % 3 == 0


def test_observers_follow_the_attended_object():
    rng = np.random.default_rng(5)
    scene = scenes.mover(rng)
    gaze, open_eyes = synthetic.observe(scene, rng)
    late = [t for t in range(8, 24)]  # the first object is attended, any lag is over
    attended = scene.centre[scene.attended[late], np.array(late) - 3]
    distance = np.linalg.norm(gaze[:, late] - attended, axis=-1)
    # 85 in 100 looks go to it, within scatter, tremor and a lag of a frame more or less.
    assert np.mean(distance < 15) > 0.6
    assert 0.9 < open_eyes.mean() <= 1


def test_observers_have_a_centre_bias(monkeypatch):
    """Nearly all start at the centre, and of the shifts of attention 15 in 100 go back there."""
    for name in ('SCATTER', 'TREMOR', 'CENTRE_SPREAD'):
        monkeypatch.setattr(synthetic, name, 0 * np.array(getattr(synthetic, name)))
    centre = np.array([scenes.HEIGHT, scenes.WIDTH]) / 2
    starts, at_centre = [], []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        scene = scenes.CYCLE[seed % len(scenes.CYCLE)](rng)
        gaze, _ = synthetic.observe(scene, rng)
        there = np.linalg.norm(gaze - centre, axis=-1) < 1e-9
        starts.append(there[:, :2].mean())
        late = [t for t in range(8, scenes.FRAMES) if (scene.attended[t - 4 : t - 1] >= 0).all()]
        at_centre.append(there[:, late].mean())
    assert np.mean(starts) > 0.9  # 6 in 100 look at something else
    # Of some 1,700 shifts: a standard deviation of 0.009.
    assert 0.1 < np.mean(at_centre) < 0.2, np.mean(at_centre)


def test_no_two_videos_are_alike():
    counts = synthetic.VIDEOS.items()
    videos = [SyntheticVideo.at(split, i) for split, count in counts for i in range(count)]
    first = [next(video.frames(Report())).image.tobytes() for video in videos]
    assert len(set(first)) == len(videos)


@pytest.mark.parametrize('script', scenes.RELATIONAL, ids=lambda s: s.__name__)
def test_relational_scenes_look_alike_at_the_time_and_differ_by_the_past(script):
    """A frame does not reveal what is attended later: objects are identical, or all different."""
    scene = script(np.random.default_rng(7))
    assert len(set(scene.shape)) == 1 and np.ptp(scene.radius) == 0
    attended = [t for t in range(scenes.FRAMES) if scene.attended[t] >= 0]
    assert len(attended) > 45
    if script is not scenes.changed:
        assert len(np.unique(scene.colour.reshape(-1, 3), axis=0)) == 1
    changes = np.zeros(scenes.FRAMES, int)
    for t in range(1, scenes.FRAMES):
        differs = [
            not np.allclose(values[:, t], values[:, t - 1])
            for values in (scene.centre, scene.colour, scene.visible)
        ]
        changes[t] = sum(differs)
    quiet = [t for t in attended if not changes[max(t - 1, 0) : t + 2].any()]
    assert len(quiet) > 15  # nothing happens around most frames, yet one object is attended


@pytest.fixture(scope='module')
def matches() -> list[scenes.Scene]:
    return [scenes.matched(np.random.default_rng(seed)) for seed in range(120)]


def test_only_the_sample_reveals_a_match(matches):
    """Three objects that differ only in colour, one of which was the sample's."""
    chosen = []
    for scene in matches:
        sample, match = scene.attended[0], scene.attended[-1]
        seen = scene.visible.T
        assert (seen[: scenes.SAMPLE] == (np.arange(4) == sample)).all()
        assert not seen[scenes.SAMPLE : scenes.CHOICE].any()
        assert (seen[scenes.CHOICE :] == (np.arange(4) != sample)).all()
        times = np.repeat([sample, -1, match], [4, 4, 8])
        assert (scene.attended == times).all()
        assert len(set(scene.shape)) == 1 and np.ptp(scene.radius) == 0
        for values in (scene.centre, scene.colour):  # nothing moves or changes
            assert (values == values[:, :1]).all()
        places = scene.centre[:, 0]
        apart = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e3 * np.eye(4)
        assert apart.min() > 2 * scene.radius.max()
        # The coarsest features have 2x3 places, and each object one of its own.
        assert len(set(map(tuple, places // (scenes.HEIGHT / 2, scenes.WIDTH / 3)))) == 4
        unlike = abs(scene.colour[:, 0] - scene.colour[sample, 0]).max(axis=1)
        assert unlike[match] <= 30 and (np.delete(unlike, [sample, match]) > 100).all()
        chosen.append((match, scene.colour[match, 0].argmax()))
    # Neither the place in the list nor the colour is a hint: 40 each, a standard deviation of 5.
    for values in np.transpose(chosen):
        assert np.bincount(values, minlength=3).min() > 20


def test_a_contrast_needs_no_sample(matches):
    """The same trials but for the colours: one of three is vivid, and the sample is unlike it."""
    vivid = lambda colours: np.ptp(colours, axis=-1) > 100  # noqa: E731
    for seed, match in enumerate(matches):
        scene = scenes.contrasted(np.random.default_rng(seed))
        for name in ('shape', 'centre', 'radius', 'visible', 'attended'):
            np.testing.assert_array_equal(getattr(scene, name), getattr(match, name))
        assert (scene.colour == scene.colour[:, :1]).all()
        sample, attended = scene.attended[0], scene.attended[-1]
        assert (vivid(scene.colour[:, 0]) == np.isin(np.arange(4), [sample, attended])).all()
        assert abs(scene.colour[sample, 0] - scene.colour[attended, 0]).max() > 100


def test_a_map_singles_out_the_attended_object_or_does_not(matches):
    y, x = np.mgrid[:64, :96]
    for scene in matches[:10]:
        maps = [
            np.exp(-((y - 0.5 * cy) ** 2 + (x - 0.5 * cx) ** 2) / 50)
            for cy, cx in scene.centre[:3, 15]
        ]
        found = [scenes.singled_out(each, scene, 15) for each in maps]
        assert found == [k == scene.attended[15] for k in range(3)]
        assert scenes.singled_out(np.ones((64, 96)), scene, 15) is False
        # Not all observers have seen the choice yet.
        assert scenes.singled_out(maps[0], scene, 11) is None
    scene = scenes.mover(np.random.default_rng(0))
    scene.attended[:] = -1
    assert scenes.singled_out(maps[0], scene, 20) is None


@pytest.mark.parametrize(
    ('dataset', 'scripts', 'kind'),
    [
        ('stsa_matching', scenes.MATCHING, 'relational'),
        ('stsa_contrast', scenes.CONTRAST, 'plain'),
    ],
)
def test_a_trial_is_one_clip_of_the_tiny_model(tmp_path, monkeypatch, dataset, scripts, kind):
    monkeypatch.setattr(synthetic.StsaMatching, 'COUNTS', {'train': 2, 'test': 1})
    data.prepare_dataset(dataset, tmp_path, num_workers=1)
    train = data.open_split(dataset, 'train', tmp_path)
    names = [f'train_00{i}_{scripts[0].__name__}' for i in (0, 1)]
    assert [(v.name, v.num_frames, v.kind) for v in train.videos] == [(n, 16, kind) for n in names]
    video = SyntheticVideo.at('train', 1, scripts)
    assert SyntheticVideo.named(train.videos[1].name) == video
    scene, _ = video.scene()
    assert scenes.singled_out(train.density(16 + 15), scene, 15)
    viewers = read_viewers(train)
    assert list(viewers) == names
    assert all(len(listed) == synthetic.OBSERVERS for listed in viewers.values())


def test_density_is_the_blurred_fixations(cycle):
    from scipy.ndimage import gaussian_filter

    for frame in (cycle[0][20], cycle[5][40]):
        fixations = images.decode_map(frame.fixations) > 0
        expected = gaussian_filter(
            fixations.astype(float), synthetic.BLUR, mode='reflect', truncate=6
        )
        found = images.decode_map(frame.density)
        # Quantised to 1/255 of the maximum; SciPy's kernel ends at six sigma.
        np.testing.assert_allclose(found / 255, expected / expected.max(), atol=0.006)
        assert found.max() == 255 and fixations.sum() == frame.num_fixations


def test_centre_prior_explains_little(cycle):
    """Attention is spread, so that a model must use the video: the mean map explains few frames."""
    maps = np.array(
        [images.decode_map(f.density) for video in cycle for f in video if f.num_fixations]
    )
    prior = maps[: len(maps) // 2].mean(axis=0)
    held_out = maps[len(maps) // 2 :: 5]
    cc = [np.corrcoef(prior.ravel(), m.ravel())[0, 1] for m in held_out]
    assert -0.1 < np.mean(cc) < 0.35


def test_prepared_without_tensorflow_in_parallel_and_as_tfds_reads_it(tmp_path, monkeypatch):
    import sys

    # Worker processes import the module afresh, so the splits are cut down through find_videos.
    monkeypatch.setattr(
        synthetic.StsaSynthetic,
        'find_videos',
        lambda *_: {
            'train': [SyntheticVideo.at('train', i) for i in range(3)],
            'test': [SyntheticVideo.at('test', 2)],
        },
    )
    builder = data.prepare_dataset('stsa_synthetic', tmp_path, num_workers=2)
    assert 'tensorflow' not in sys.modules
    train = data.open_split('stsa_synthetic', 'train', tmp_path)
    assert [v.name for v in train.videos] == [
        'train_000_mover', 'train_001_onset', 'train_002_changed',
    ]  # fmt: skip
    assert [v.kind for v in train.videos] == ['plain', 'plain', 'relational']
    assert [train.frame_number(i) for i in (0, 55, 56)] == [1, 56, 1]
    frames = list(SyntheticVideo.at('train', 1).frames(Report()))
    np.testing.assert_array_equal(
        train.density(56 + 30) * 255, images.decode_map(frames[30].density)
    )
    # Through TFDS's own reader too.
    example = builder.as_data_source('train')[56 + 30]
    np.testing.assert_array_equal(example['density'][..., 0], images.decode_map(frames[30].density))
    assert example['video'] == b'train_001_onset' and example['frame_number'] == 31
    # The index that preparation stored is the one that reading everything gives.
    from data.videos import index_split

    assert index_split(builder, 'train') == dict(builder.info.metadata)['videos']['train']
