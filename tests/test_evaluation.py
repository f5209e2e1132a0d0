"""The whole evaluation, on small videos with known ground truth: rows, records, tables."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from stsa_jax import evaluation, metrics
from stsa_jax.errors import InputError
from stsa_jax.evaluation import (
    exports,
    predictions,
    records,
    report,
    runner,
    scoring,
    statistics,
    tables,
)
from stsa_jax.evaluation.protocol import METRICS, PROTOCOLS
from stsa_jax.evaluation.selection import select
from stsa_jax.evaluation.submission import verify, write_submission
from stsa_jax.evaluation.truth import GroundTruth


@dataclasses.dataclass(frozen=True)
class Video:
    name: str
    first_example: int
    num_frames: int
    height: int
    width: int


class Frames:
    """Videos in memory with the interface of `data.VideoDataset`."""

    def __init__(self, videos, name='small', split='validation'):
        """`videos`: name -> (density (n, h, w), fixations (n, h, w))."""
        self.name, self.split, self.folder, self.videos = name, split, 'in memory', []
        self._densities, self._fixations, self._numbers = [], [], []
        for video, (density, fixations) in videos.items():
            first = len(self._densities)
            self.videos.append(Video(video, first, len(density), *density.shape[1:]))
            self._densities += list(density)
            self._fixations += list(fixations)
            self._numbers += range(1, len(density) + 1)

    def __len__(self):
        return len(self._densities)

    def frame(self, i):
        return np.repeat((self._densities[i] * 255).astype(np.uint8)[..., None], 3, axis=2)

    def density(self, i):
        return self._densities[i]

    def fixations(self, i):
        return self._fixations[i]

    def frame_number(self, i):
        return self._numbers[i]


class Given:
    """A source of maps held in memory: video -> list of maps for all its frames."""

    def __init__(self, maps, name='given'):
        self.by_video, self.name, self.calls = maps, name, []

    def maps(self, video):
        self.calls.append(video.name)
        there = self.by_video[video.name]
        return (there[i] for i in video.positions if i < len(there))

    def identity(self):
        return self.name


def make_videos(names=('0001', '0002', '0003'), frames=6, size=(18, 32), seed=0):
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    videos = {}
    for name in names:
        density, fixations = [], []
        for _ in range(frames):
            y, x = rng.uniform(0, size[0]), rng.uniform(0, size[1])
            blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 18)
            density.append((blob / blob.max()).astype(np.float32))
            fixations.append(rng.random(size) < 0.06 * density[-1] + 0.004)
            fixations[-1][int(y), int(x)] = True
        videos[name] = np.stack(density), np.stack(fixations)
    return videos


@pytest.fixture(scope='module')
def dataset():
    return Frames(make_videos())


@pytest.fixture(scope='module')
def noisy(dataset):
    """Float maps: the density and noise, one for every frame."""
    rng = np.random.default_rng(5)
    return {
        v.name: [
            dataset.density(e) + 0.5 * rng.random((v.height, v.width)).astype(np.float32)
            for e in range(v.first_example, v.first_example + v.num_frames)
        ]
        for v in dataset.videos
    }


def run(dataset, maps, name='model', **options):
    return evaluation.evaluate([dataset], {name: lambda d, v: Given(maps)}, **options)


def test_rows_are_the_metrics_of_the_maps(dataset, noisy):
    results = run(dataset, noisy, protocol='paper')
    row = results.rows[0]
    assert [r.name for r in results.rows] == ['model', 'centre prior', 'shuffled maps']
    for video, scores in zip(dataset.videos, row.videos):
        p = np.stack(noisy[video.name])
        g = np.stack([dataset.density(video.first_example + i) for i in range(6)])
        f = np.stack([dataset.fixations(video.first_example + i) for i in range(6)])
        expected = metrics.cc(p, g), metrics.sim(p, g), metrics.nss(p, f), metrics.kl(p, g)
        np.testing.assert_allclose(scores.scores[:, :4], np.stack(expected, 1), atol=2e-5)
        expected = metrics.auc_judd(p, f, ties='expected')
        np.testing.assert_allclose(scores.scores[:, 4], expected, atol=1e-6)
    whole = np.concatenate([v.scores for v in row.videos])
    for i, metric in enumerate(METRICS):
        assert results.estimates(row)[metric].value == pytest.approx(whole[:, i].mean())


def test_the_truth_itself_beats_the_references(dataset):
    truth = {
        v.name: [dataset.density(v.first_example + i) for i in range(6)] for v in dataset.videos
    }
    results = run(dataset, truth)
    model, prior, shuffled = (results.estimates(row) for row in results.rows)
    assert model['cc'].value == pytest.approx(1, abs=1e-3)
    for metric in METRICS:
        sign = -1 if metric == 'kl' else 1
        for reference in (prior, shuffled):
            assert sign * model[metric].value > sign * reference[metric].value
    assert 0.3 < shuffled['auc_shuffled'].value < 0.7


def test_shuffled_auc_does_not_depend_on_order_threads_or_a_second_video(dataset, noisy):
    def scores(ordered, workers):
        videos = select(ordered)
        truth = GroundTruth(ordered, videos, seed=7, workers=workers)
        row = runner.score_source(
            'x', Given(noisy), truth, videos, PROTOCOLS['dhf1k'], workers=workers
        )
        return {v.video: v.scores for v in row.videos}

    content = make_videos()
    turned = Frames({name: content[name] for name in reversed(content)})
    first, second = scores(dataset, 1), scores(turned, 3)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    # Frame by frame, in any order.
    truth = GroundTruth(dataset, select(dataset), seed=7)
    scorer = scoring.Scorer(truth, PROTOCOLS['dhf1k'])
    for number in np.random.default_rng(0).permutation(18).tolist():
        video, position = dataset.videos[number // 6].name, number % 6
        alone = scorer.score(number, noisy[video][position]).scores
        np.testing.assert_array_equal(alone, first[video][position])


def test_negatives_come_from_other_videos_scaled_to_this_ones_size():
    content = make_videos(('a', 'b'), size=(18, 32)) | make_videos(('c',), size=(9, 64), seed=1)
    for _, fixations in content.values():
        fixations[:] = False
    content['a'][1][:, 17, 31] = content['b'][1][:, 0, 0] = content['c'][1][:, 4, 63] = True
    dataset = Frames(content)
    truth = GroundTruth(dataset, select(dataset), seed=0)
    for video in dataset.videos:
        negatives = truth.other_positions(video.first_example, 12)
        assert (np.diff(negatives) > 0).all()
        where = {divmod(x, video.width) for x in negatives.tolist()}
        # All 12 frames of the two other videos, at the same relative place.
        expected = {
            'a': {(0, 0), (9, 31)},
            'b': {(17, 31), (9, 31)},
            'c': {(8, 63), (0, 1)},
        }[video.name]
        assert where == expected
        assert len(truth.other_frames(video.first_example, 5)) == 5


def test_protocols_differ_where_they_say(dataset, noisy):
    rows = {name: run(dataset, noisy, protocol=name, references=False) for name in PROTOCOLS}
    found = {name: r.estimates(r.rows[0]) for name, r in rows.items()}
    ratio = found['pysaliency']['nss'].value / found['paper']['nss'].value
    assert ratio == pytest.approx(np.sqrt(18 * 32 / (18 * 32 - 1)), rel=1e-5)
    assert found['pysaliency']['sim'].value != pytest.approx(found['paper']['sim'].value, abs=1e-4)
    assert found['pysaliency']['auc_judd'].value < found['paper']['auc_judd'].value
    # Eight bits move the scores a little, and only a little.
    for metric in METRICS:
        change = abs(found['dhf1k'][metric].value - found['paper'][metric].value)
        assert 0 < change < 0.02, metric


def test_diem_averages_per_video_first():
    content = make_videos(('long', 'short'), frames=6)
    content['short'] = tuple(x[:2] for x in content['short'])
    dataset = Frames(content)
    rng = np.random.default_rng(0)
    maps = {name: [rng.random((18, 32)) for _ in x[0]] for name, x in content.items()}
    results = run(dataset, maps, protocol='diem', references=False)
    long, short = (v.scores[:, 0].mean() for v in results.rows[0].videos)
    assert results.estimates(results.rows[0])['cc'].value == pytest.approx((long + short) / 2)


def test_every_nth_frame(dataset, noisy):
    whole = run(dataset, noisy, references=False, protocol='paper')
    some = run(dataset, noisy, references=False, protocol='paper', every=4)
    for a, b in zip(whole.rows[0].videos, some.rows[0].videos):
        assert b.positions.tolist() == [0, 4]
        np.testing.assert_array_equal(a.scores[[0, 4], :5], b.scores[:, :5])
    assert any('every 4-th' in note for note in some.notes)
    with pytest.raises(InputError, match='every 0-th frame'):
        run(dataset, noisy, every=0)
    with pytest.raises(InputError, match="no video has 32 frames, so 'clip' selects none"):
        run(dataset, noisy, every='clip')


@pytest.mark.parametrize('length', [32, 63, 64, 186])
def test_every_clip_takes_the_frames_where_the_released_code_validates(length):
    dataset = Frames({'a': (np.ones((length, 1, 1)),) * 2, 'short': (np.ones((31, 1, 1)),) * 2})
    (video,) = select(dataset, every='clip')
    # Its windows start at 0, 32, ...; the target is the file numbered start + 32 - 16, from 1.
    targets = [start + 32 - 16 for start in range(0, length - 32 + 1, 32)]
    assert (video.positions + 1).tolist() == targets
    # In its loaders of the two other datasets at 0, 64, ... and 0, 4, ..., the last left out.
    for name, starts in (
        ('hollywood2', range(0, length - 32 + 1, 64)),
        ('ucf_sports', range(0, length - 32, 4)),
    ):
        dataset.name = name
        found = select(dataset, every='clip') if starts else []
        assert [(v.positions - 15).tolist() for v in found] == ([[*starts]] if starts else [])


# --- degenerate frames -----------------------------------------------------------------------

UNIFORM = (0.0, 0.0, 0.5, 0.5)  # cc, nss and the areas of a map that says nothing


@pytest.mark.parametrize('protocol', ['dhf1k', 'diem'])
@pytest.mark.parametrize(
    ('bad', 'problem'),
    [
        (np.full((18, 32), 0.3, np.float32), scoring.CONSTANT),
        (np.zeros((5, 7), np.uint8), scoring.CONSTANT),
        (np.full((18, 32), np.nan, np.float32), scoring.NOT_FINITE),
        (np.where(np.eye(18, 32) > 0, np.inf, 0).astype(np.float32), scoring.NOT_FINITE),
        (np.ones((1, 1), np.float32), scoring.CONSTANT),
    ],
)
def test_unusable_predictions_are_counted_and_never_help(dataset, noisy, protocol, bad, problem):
    maps = {name: list(x) for name, x in noisy.items()}
    maps['0002'][3] = bad
    results = run(dataset, maps, protocol=protocol, references=False)
    row = results.rows[0]
    assert row.problems() == {problem: 1}
    scores = row.videos[1].scores[3]
    if protocol == 'dhf1k':
        assert np.isnan(scores).all()
        assert tables.dropped(row) == 1
    else:
        assert tuple(scores[[0, 2, 4, 5]]) == UNIFORM
        density = dataset.density(dataset.videos[1].first_example + 3)
        assert scores[3] == pytest.approx(
            float(metrics.kl(np.ones((1, 18, 32)), density[None])[0]), rel=1e-5
        )
    written = evaluation.text(results)
    assert f'1 of 18 frames: {problem}' in written
    assert 'nan' not in written


def test_negative_values_leave_only_the_divergence_undefined(dataset, noisy):
    maps = {name: [m - 0.2 for m in x] for name, x in noisy.items()}
    row = run(dataset, maps, protocol='paper', references=False).rows[0]
    assert row.problems() == {scoring.NEGATIVE: 18}
    for video in row.videos:
        assert np.isnan(video.scores[:, 3]).all()
        assert np.isfinite(np.delete(video.scores, 3, axis=1)).all()


def test_frames_without_truth_are_dropped_and_counted(noisy):
    content = make_videos()
    content['0001'][1][2] = False
    content['0003'][0][1] = 0
    results = run(Frames(content), noisy, references=False)
    row = results.rows[0]
    assert row.problems() == {scoring.NO_FIXATION: 1, scoring.NO_DENSITY: 1}
    assert np.isnan(row.videos[0].scores[2]).all()
    assert np.isnan(row.videos[2].scores[1, [0, 1, 3]]).all()
    assert np.isfinite(row.videos[2].scores[1, [2, 4, 5]]).all()
    assert results.estimates(row)['nss'].count == 17
    json.dumps(exports.to_json(results), allow_nan=False)


def test_one_video_has_no_negatives_and_no_interval(noisy):
    dataset = Frames({'0001': make_videos()['0001']})
    results = run(dataset, noisy)
    found = results.estimates(results.rows[0])
    assert found['auc_shuffled'].value is None
    assert found['cc'].value is not None
    assert found['cc'].low is None
    assert [row.name for row in results.rows] == ['model', 'centre prior']


def test_nothing_annotated_is_an_error(noisy):
    content = make_videos()
    for _, fixations in content.values():
        fixations[:] = False
    with pytest.raises(InputError, match='no fixations in the chosen frames'):
        run(Frames(content), noisy)


# --- resuming --------------- -----------------------------------------------------------------


class Stopping(Given):
    """Ends with an error before the last video."""

    def maps(self, video):
        if video.name == '0003':
            raise KeyboardInterrupt
        return super().maps(video)


def test_an_interrupted_evaluation_resumes(dataset, noisy, tmp_path):
    whole = run(dataset, noisy, references=False)
    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate(
            [dataset], {'model': lambda d, v: Stopping(noisy)}, references=False, folder=tmp_path
        )
    source = Given(noisy)
    results = evaluation.evaluate(
        [dataset], {'model': lambda d, v: source}, references=False, folder=tmp_path
    )
    assert source.calls == ['0003']
    for a, b in zip(whole.rows[0].videos, results.rows[0].videos):
        np.testing.assert_array_equal(a.scores, b.scores)
        np.testing.assert_array_equal(a.quantisation, b.quantisation)
    # Other maps, another protocol or seed: scored anew. A damaged record too.
    for change in ({'protocol': 'paper'}, {'seed': 1}, {}):
        other = Given(noisy, 'given' if change else 'others')
        evaluation.evaluate(
            [dataset],
            {'model': lambda d, v, s=other: s},
            references=False,
            folder=tmp_path,
            **change,
        )
        assert len(other.calls) == 3
    (next(tmp_path.rglob('0001-*.json'))).write_text('{"fingerprint": ')
    again = Given(noisy, 'others')
    evaluation.evaluate([dataset], {'model': lambda d, v: again}, references=False, folder=tmp_path)
    assert again.calls == ['0001']


# --- intervals -----------------------------------------------------------------------------------


def make_row(name, values, first=0):
    """A row of videos whose scores are all `values[i]` in every metric."""
    videos = [
        records.VideoScores(
            f'v{first + i}', np.arange(len(v)), np.repeat(np.array(v)[:, None], 6, 1), [()] * len(v)
        )
        for i, v in enumerate(values)
    ]
    return records.Row(name, 'small', 'validation', videos)


def test_interval_of_the_mean_over_videos():
    """Against the normal approximation of a mean of 60 independent videos."""
    rng = np.random.default_rng(0)
    means = rng.normal(0.5, 0.1, 60)
    row = make_row('a', [[m, m] for m in means])
    found = statistics.estimate(row, 0, 'frames')
    error = means.std(ddof=1) / np.sqrt(60)
    assert found.value == pytest.approx(means.mean())
    # 10 %: the quantiles of 2000 draws vary by 4 %, and the bootstrap's width has the factor 59/60.
    assert found.high - found.value == pytest.approx(1.96 * error, rel=0.1)
    assert found.value - found.low == pytest.approx(1.96 * error, rel=0.1)


def test_intervals_cover_the_truth():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        row = make_row('a', [[x] for x in rng.normal(0.3, 1, 40)])
        found = statistics.estimate(row, 0, 'frames', seed=int(rng.integers(1e9)))
        hits += found.low < 0.3 < found.high
    assert 0.89 <= hits / 200 <= 0.98  # 95 % nominal, 1.5 % standard error, slightly narrow at 40


def test_paired_comparison_sees_what_separate_intervals_hide():
    rng = np.random.default_rng(2)
    level = rng.normal(0.5, 0.2, 30)
    a = make_row('a', [[x + 0.02, x + 0.03] for x in level])
    b = make_row('b', [[x + e, x + e] for x, e in zip(level, rng.normal(0, 0.01, 30))])
    alone = statistics.estimate(a, 0, 'frames'), statistics.estimate(b, 0, 'frames')
    assert alone[0].low < alone[1].high  # they overlap widely
    found = statistics.difference(a, b, 0, 'frames')
    assert found.real
    assert found.p < 0.01
    assert found.value == pytest.approx(0.025, abs=0.006)
    assert found.p == pytest.approx(1 / 2001, abs=1e-9)  # none of the random flips is as far
    same = statistics.difference(
        b, make_row('c', [list(v.scores[:, 0]) for v in b.videos]), 0, 'frames'
    )
    assert (same.value, same.real, same.p) == (0, False, 1)


@pytest.mark.parametrize('average', ['frames', 'videos'])
def test_no_difference_is_significant_on_fewer_than_six_videos(average):
    """All differences of one sign: by chance in 2 of 2^n cases, so p cannot be less."""
    for n in range(2, 9):
        rng = np.random.default_rng(n)
        a = make_row('a', [[x, x + 0.1][: 1 + i % 2] for i, x in enumerate(rng.uniform(1, 2, n))])
        b = make_row('b', [[0.0] * len(v.positions) for v in a.videos])
        found = statistics.difference(a, b, 0, average)
        assert found.low > 0.9  # the bootstrap alone would call all of these real
        assert found.p == pytest.approx(2 / 2**n)
        assert found.real == (n >= 6)


def test_equally_good_rows_seldom_differ_significantly():
    rng = np.random.default_rng(4)
    by_interval = real = 0
    for _ in range(400):
        noise = rng.normal(0, 1, (2, 6))
        a, b = (make_row(name, x[:, None]) for name, x in zip('ab', noise))
        found = statistics.difference(a, b, 0, 'frames')
        by_interval += found.low > 0 or found.high < 0
        real += found.real
    assert real / 400 < 0.07  # 5 % at most, standard error 1.1 %
    assert by_interval / 400 > 0.09  # what the bootstrap of 6 videos alone would say


def test_differences_are_over_the_frames_that_both_have():
    a = make_row('a', [[1, np.nan, 3], [1, 1, 1]])
    b = make_row('b', [[0, 5, np.nan], [0, 0, 0]])
    found = statistics.difference(a, b, 0, 'frames')
    assert (found.value, found.count, found.videos) == (1, 4, 2)
    empty = statistics.difference(a, make_row('c', [[1]], first=9), 0, 'frames')
    assert (empty.value, empty.count, empty.real) == (None, 0, False)


def test_a_significant_difference_is_never_shown_as_zero(tmp_path):
    tiny = [[3e-6 + 9e-8 * i] * 4 for i in range(12)]
    for scores, shown in ((tiny, '+0.0000035*'), ([[0.25 + x for x, *_ in tiny]], '+0.2500')):
        a, b = make_row('a', scores), make_row('b', np.zeros_like(scores))
        d = statistics.difference(a, b, 0, 'frames')
        assert tables.signed(d) + tables._stars(d) == shown
    chance = make_row('c', [[1e-6 * (-1) ** i] * 4 for i in range(12)])
    d = statistics.difference(chance, make_row('b', np.zeros((12, 4))), 0, 'frames')
    assert not d.real and tables.signed(d) == '+0.0000'


# --- maps from files -----------------------------------------------------------------------------


def write_maps(folder, maps, name='{:04d}.png'):
    for video, listed in maps.items():
        (folder / video).mkdir(parents=True)
        for i, saliency in enumerate(listed, 1):
            scaled = np.clip(saliency / saliency.max() * 255, 0, 255)
            Image.fromarray(np.rint(scaled).astype(np.uint8)).save(folder / video / name.format(i))


def from_folder(folder, dataset, **options):
    return evaluation.evaluate(
        [dataset],
        {'files': lambda d, v: evaluation.PredictionFolder(folder, d, v, **options)},
        references=False,
    )


def test_maps_from_files_score_as_the_direct_path(dataset, noisy, tmp_path):
    """Bit for bit under a protocol of 8-bit maps: the same quantisation happens on both paths."""
    write_maps(tmp_path / 'maps', noisy)
    files, direct = from_folder(tmp_path / 'maps', dataset), run(dataset, noisy, references=False)
    for a, b in zip(files.rows[0].videos, direct.rows[0].videos):
        np.testing.assert_array_equal(a.scores, b.scores)


@pytest.mark.parametrize(
    ('videos', 'name'),
    [
        ({'1': '0001', '002': '0002', '0003': '0003'}, '{}.png'),
        ({'0001': '0001', '0002': '0002', '0003': '0003'}, 'clip_0001_{:05d}.png'),
    ],
)
def test_names_in_circulation(dataset, noisy, tmp_path, videos, name):
    write_maps(tmp_path, {folder: noisy[video] for folder, video in videos.items()}, name)
    (tmp_path / 'Thumbs.db').write_bytes(b'')
    assert from_folder(tmp_path, dataset).rows[0].frames == 18


def damage(folder, kind):
    image = Image.new('L', (32, 18), 7)
    first, second = folder / '0001' / '0001.png', folder / '0002'
    match kind:
        case 'missing frames':
            first.unlink()
            (folder / '0001' / '0002.png').unlink()
        case 'missing video':
            second.rename(folder.parent / 'elsewhere')
        case 'extra video':
            (folder / '0099').mkdir()
        case 'extra frames':
            image.save(folder / '0001' / '0007.png')
        case 'stray file beside the videos':
            (folder / 'notes.txt').write_text('x')
        case 'stray file':
            (folder / '0001' / 'notes.txt').write_text('x')
        case 'duplicate frame':
            image.save(folder / '0001' / '1.png')
        case 'duplicate video':
            (folder / '1').mkdir()
        case 'not an image':
            first.write_bytes(b'not a PNG')
        case 'cut off':
            first.write_bytes(first.read_bytes()[:60])
        case '16 bits':
            Image.fromarray(np.arange(576, dtype=np.uint16).reshape(18, 32)).save(first)
        case 'colour':
            Image.fromarray(np.arange(1728, dtype=np.uint8).reshape(18, 32, 3)).save(first)


@pytest.mark.parametrize(
    ('kind', 'words'),
    [
        ('missing frames', r'2 of 18 maps .* are missing:\n  0001: 2 maps missing, of frames 1-2'),
        ('missing video', r'0002: no folder, 6 maps missing'),
        ('extra video', r'0099: no such video in small validation'),
        ('extra frames', r'0001: 1 extra maps, of frames 7; the video has 6 frames, 1 to 6'),
        ('stray file', r'notes.txt: not a map'),
        ('stray file beside the videos', r'notes.txt: not the folder of a video'),
        ('duplicate frame', r'the same frame as'),
        ('duplicate video', r'the same video as'),
        ('not an image', r'0001.png: not a readable image'),
        ('cut off', r'0001.png: not a readable image'),
        ('colour', r'0001.png: a colour image'),
    ],
)
def test_folders_that_do_not_fit_are_named(dataset, noisy, tmp_path, kind, words):
    write_maps(tmp_path / 'maps', noisy)
    damage(tmp_path / 'maps', kind)
    with pytest.raises(InputError, match=words):
        from_folder(tmp_path / 'maps', dataset)


@pytest.mark.parametrize(
    ('make', 'words'),
    [
        (lambda p: None, 'there is no such folder'),
        (lambda p: p.write_text('x'), 'is a file'),
        (lambda p: p.mkdir(), 'is empty'),
        (lambda p: (p.mkdir(), (p / '0001.png').write_text('x')), 'but no folders'),
    ],
)
def test_no_folder_of_maps(dataset, tmp_path, make, words):
    make(tmp_path / 'maps')
    with pytest.raises(InputError, match=words):
        from_folder(tmp_path / 'maps', dataset)


def test_incomplete_maps_are_scored_as_partial(dataset, noisy, tmp_path):
    write_maps(tmp_path / 'maps', noisy)
    damage(tmp_path / 'maps', 'missing frames')
    results = from_folder(tmp_path / 'maps', dataset, allow_missing=True)
    assert results.rows[0].frames == 16
    assert results.rows[0].videos[0].positions.tolist() == [2, 3, 4, 5]
    for written in (evaluation.text(results), tables.markdown(results)):
        assert 'PARTIAL: small, validation: 16 of 18 frames' in written
        assert 'small, validation: 3 videos, 16 frames (PARTIAL)' in evaluation.text(results)
    assert all(line.endswith(',dhf1k,PARTIAL') for line in exports.to_csv(results).split()[1:])
    assert '(PARTIAL)</h2>' in report.page(results)
    assert 'PARTIAL' in exports.to_json(results)['notes'][0]


def test_grey_in_three_channels_is_grey(tmp_path):
    grey = np.arange(0, 240, dtype=np.uint8).reshape(12, 20)
    Image.fromarray(np.repeat(grey[..., None], 3, 2)).save(tmp_path / 'rgb.png')
    Image.fromarray(grey > 99).save(tmp_path / 'bit.png')
    np.testing.assert_array_equal(predictions.read_map(tmp_path / 'rgb.png'), grey)
    np.testing.assert_array_equal(predictions.read_map(tmp_path / 'bit.png'), (grey > 99) * 255)


# --- tables --------------------------------------------------------------------------------------


def test_all_tables_say_the_same(dataset, noisy, tmp_path):
    results = evaluation.evaluate(
        [dataset],
        {'a|b': lambda d, v: Given(noisy), 'c': lambda d, v: Given(noisy)},
        protocol='paper',
    )
    files = {p.name: p for p in evaluation.write_results(results, tmp_path)}
    record = json.loads(files['results.json'].read_text())
    assert record['protocol']['name'] == 'paper'
    row = record['rows'][0]
    cc = row['scores']['cc']
    assert cc['low'] < cc['value'] < cc['high']
    assert len(row['videos']) == 3
    assert f'{cc["value"]:.4f}' in files['table.txt'].read_text()
    assert f'| a\\|b | {cc["value"]:.4f} (' in files['table.md'].read_text()
    line = files['results.csv'].read_text().splitlines()[1].split(',')
    assert float(line[4]) == pytest.approx(cc['value'], rel=1e-6)
    assert len(files['results.csv'].read_text().splitlines()) == 1 + 4 * 4
    assert len(files['frames.csv'].read_text().splitlines()) == 1 + 4 * 18
    pair = record['differences'][0]
    assert (pair['a'], pair['b']) == ('a|b', 'c')
    assert pair['scores']['cc']['value'] == 0
    assert not pair['scores']['cc']['real']
    for text in ('protocol paper', 'thresholds in steps of 0.1', 'AUC-J'):
        assert text in files['table.txt'].read_text()
    assert tables.means(results)[0]['cc'] == pytest.approx(cc['value'])


def test_published_numbers_are_listed_beside_ours(noisy):
    results = run(Frames(make_videos(), 'dhf1k', 'test'), noisy, references=False)
    assert 'STSA-Net (published)' in evaluation.text(results)
    assert '0.5290' in evaluation.text(results)
    assert exports.to_json(results)['published'][-1]['scores']['nss'] == 3.354


def test_wrong_names(dataset, noisy):
    with pytest.raises(InputError, match="no protocol 'mine'; available: dhf1k, paper, diem"):
        run(dataset, noisy, protocol='mine')
    with pytest.raises(InputError, match='name of a reference row'):
        run(dataset, noisy, name='centre prior')
    with pytest.raises(InputError, match='5 maps for its 6 selected frames'):
        run(dataset, noisy | {'0001': noisy['0001'][:5]})


# --- submissions ---------------------------------------------------------------------------------


def test_submission_is_verified_before_it_appears(dataset, noisy, tmp_path):
    target = tmp_path / 'method'
    with pytest.raises(KeyboardInterrupt):
        write_submission(Stopping(noisy), dataset, target)
    assert not target.exists()
    source = Given(noisy)
    assert write_submission(source, dataset, target) == {'videos': 3, 'frames': 18}
    assert source.calls == ['0003']
    assert sorted(p.name for p in target.iterdir()) == ['0001', '0002', '0003']
    with Image.open(target / '0002' / '0006.png') as image:
        assert (image.mode, image.size, image.getextrema()[1]) == ('L', (32, 18), 255)
    with pytest.raises(InputError, match='already exists'):
        write_submission(source, dataset, target)
    for kind, words in [
        ('missing frames', '0001.png: missing'),
        ('extra frames', '0007.png: not a frame'),
        ('extra video', '0099: not a video'),
        ('16 bits', 'mode I;16, expected 8-bit'),
        ('cut off', 'cannot be read'),
    ]:
        copy = tmp_path / kind.replace(' ', '')
        write_maps(copy, noisy)
        damage(copy, kind)
        with pytest.raises(InputError, match=words):
            verify(copy, dataset)
    with pytest.raises(InputError, match='started with another model'):
        (tmp_path / 'other.unfinished').mkdir()
        (tmp_path / 'other.unfinished' / '.source').write_text('another')
        write_submission(source, dataset, tmp_path / 'other')


def test_submission_of_a_copy_that_lacks_videos_is_refused(tmp_path):
    tiny = np.eye(3, 4)[None].repeat(2, 0).astype(np.float32)
    whole = Frames({f'{n:04d}': (tiny, tiny > 0) for n in range(701, 1001)}, 'dhf1k', 'test')
    maps = Given({v.name: list(tiny) for v in whole.videos})
    assert write_submission(maps, whole, tmp_path / 'a') == {'videos': 300, 'frames': 600}
    lacking = Frames({f'{n:04d}': (tiny, tiny > 0) for n in (701, 704, 1000)}, 'dhf1k', 'test')
    with pytest.raises(
        InputError, match=r'297 of the videos .* not in this copy: 702-703, 705-999'
    ):
        write_submission(maps, lacking, tmp_path / 'b')
    assert not list(tmp_path.glob('b*'))
    found = write_submission(maps, lacking, tmp_path / 'b', allow_missing=True)
    assert found == {'videos': 3, 'frames': 6}


def test_submission_keeps_the_bytes_of_maps_that_were_files(dataset, tmp_path):
    dim = np.arange(18 * 32, dtype=np.uint8).reshape(18, 32) // 3
    source = Given({v.name: [dim] * 6 for v in dataset.videos})
    write_submission(source, dataset, tmp_path / 'maps')
    np.testing.assert_array_equal(predictions.read_map(tmp_path / 'maps/0001/0001.png'), dim)
