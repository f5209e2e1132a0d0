"""Metrics against the benchmark's MATLAB numbers, pysaliency, and brute force on small maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pysaliency_reference import metrics as pysaliency_metrics
from pysaliency_reference import pysaliency, roc
from scipy import stats

from stsa_jax import metrics
from stsa_jax.errors import InputError

pytestmark = pytest.mark.usefixtures('quick_compilation')

RNG = np.random.default_rng


@pytest.fixture(scope='module')
def golden(golden_dir):
    """Six 360x640 cases: prediction in 0..255, density in [0, 1], fixations, other fixations."""
    with np.load(golden_dir / 'metrics.npz') as file:
        data = {key: file[key] for key in file}
    data['density'] = data['density'] / 255
    return data


def maps(golden, dtype):
    names = 'prediction', 'density', 'fixations', 'other_fixations'
    return [golden[name].astype(dtype) for name in names]


# float64: 1e-6 absolute, KL being the farthest (1e-7: MATLAB's eps is 2.220446e-16, ours as written
# in the codebases); float32: sums over 230,400 pixels, measured 4e-7.
@pytest.mark.parametrize(('dtype', 'tolerance'), [(np.float64, 1e-6), (np.float32, 1e-5)])
def test_scores_of_the_benchmarks_matlab_code(golden, dtype, tolerance):
    with jax.enable_x64(dtype == np.float64):
        prediction, density, fixations, _ = maps(golden, dtype)
        found = {
            'cc': metrics.cc(prediction, density),
            'sim': metrics.sim(prediction, density),
            'nss': metrics.nss(prediction, fixations),
            'kl': metrics.kl(prediction, density),
            'auc_judd_no_jitter': metrics.auc_judd(prediction, fixations),
        }
        for name, scores in found.items():
            assert scores.dtype == dtype
            np.testing.assert_allclose(
                scores, golden[f'score/{name}'], rtol=0, atol=tolerance, err_msg=name
            )


def judd_with_noise(prediction, fixated, rng):
    """The MATLAB code's AUC-Judd with its noise of 1e-7, written from its definition."""
    noisy = prediction + rng.random(prediction.shape) * 1e-7
    order = np.argsort(-noisy.ravel(), kind='stable')
    places = np.flatnonzero(fixated.ravel()[order]) + 1  # how many pixels are >= each threshold
    count = len(places)
    i = np.arange(1, count + 1)
    fp = np.concatenate([[0], (places - i) / (prediction.size - count), [1]])
    return np.trapezoid(np.concatenate([[0], i / count, [1]]), fp)


def test_jittered_auc_is_the_expectation_over_the_noise(golden):
    with jax.enable_x64(True):
        prediction, _, fixations, _ = maps(golden, np.float64)
        expected = np.asarray(metrics.auc_judd(prediction, fixations, ties='expected'))
    for case in range(len(prediction)):
        rng = RNG(case)
        runs = [judd_with_noise(prediction[case], fixations[case] > 0, rng) for _ in range(16)]
        error = np.std(runs, ddof=1)
        # Golden: the mean of 20 runs. Ours is the mean of infinitely many.
        golden_score = golden['score/auc_judd_jitter_mean20'][case]
        assert abs(expected[case] - golden_score) < 3 * error / np.sqrt(20)
        assert abs(expected[case] - np.mean(runs)) < 4 * error / np.sqrt(16)


def test_shuffled_auc_of_the_benchmarks_matlab_code(golden):
    with jax.enable_x64(True):
        prediction, _, fixations, other = maps(golden, np.float64)
        keys = jax.random.split(jax.random.key(0), len(prediction))
        scores = metrics.auc_shuffled(prediction, fixations, other, key=keys, num_subsets=2000)
    np.testing.assert_allclose(scores, golden['score/sauc_2000_splits'], rtol=0, atol=3e-3)


def shuffled_auc_by_hand(prediction, fixated, other, subsets):
    """The MATLAB code's AUC_shuffled for a given draw, loop by loop."""
    scaled = (prediction - prediction.min()) / (prediction.max() - prediction.min())
    positives, candidates = scaled[fixated > 0], scaled[other > 0]
    areas = []
    for subset in subsets:
        negatives = candidates[subset[subset >= 0]]
        thresholds = np.arange(0, max(positives.max(), negatives.max()) + 1e-12, 0.1)[::-1]
        tp = [0, *[(positives >= t).mean() for t in thresholds], 1]
        fp = [0, *[(negatives >= t).mean() for t in thresholds], 1]
        areas.append(np.trapezoid(tp, fp))
    return np.mean(areas)


@pytest.mark.parametrize('dtype', [np.float64, np.float32])
def test_shuffled_auc_with_the_same_draw(golden, dtype):
    cases = range(3)
    counts = [(golden['fixations'][c].sum(), golden['other_fixations'][c].sum()) for c in cases]
    size = int(max(min(pair) for pair in counts))
    subsets = np.full((3, 50, size), -1)
    for case, (count, other_count) in enumerate(counts):
        for row in subsets[case]:
            row[: min(count, other_count)] = RNG(case).permutation(other_count)[:count]
    with jax.enable_x64(dtype == np.float64):
        prediction, _, fixations, other = (x[:3] for x in maps(golden, dtype))
        scores = metrics.auc_shuffled(prediction, fixations, other, subsets=subsets)
    expected = [
        shuffled_auc_by_hand(
            golden['prediction'][c].astype(float),
            golden['fixations'][c],
            golden['other_fixations'][c],
            subsets[c],
        )
        for c in cases
    ]
    # The same in float32: 8-bit levels that lie on a threshold compare as they do in float64.
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


def test_eight_bit_levels_on_a_threshold_compare_as_in_float64():
    levels = np.arange(256.0).reshape(1, 16, 16)
    on_threshold = np.isin(levels, [51, 102, 153, 204])  # level / 255 is 0.2, 0.4, 0.6, 0.8
    subsets = np.arange(10)[None, None]
    other = levels % 25 == 3
    scores = []
    for x64 in (True, False):
        with jax.enable_x64(x64):
            scores.append(metrics.auc_shuffled(levels, on_threshold, other, subsets=subsets)[0])
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)


def test_a_draw_depends_on_its_own_key_and_fixations_alone():
    rng = RNG(0)
    prediction = rng.random((4, 16, 20)).astype(np.float32)
    fixations = rng.random((4, 16, 20)) < 0.03
    other = rng.random((4, 16, 20)) < 0.2
    keys = jax.random.split(jax.random.key(3), 4)
    together = metrics.auc_shuffled(prediction, fixations, other, key=keys)
    assert len(set(np.asarray(together))) == 4
    order = np.array([3, 2, 0])
    some = metrics.auc_shuffled(
        prediction[order],
        fixations[order],
        other[order],
        key=keys[order],
        max_fixations=64,
        max_other=256,
    )
    np.testing.assert_allclose(some, together[order], rtol=0, atol=1e-7)


def test_pysaliency_agrees_on_its_variants(golden):
    """pysaliency is an independent implementation: std with N, no min-max, tie-aware areas."""
    with jax.enable_x64(True):
        prediction, density, fixations, other = maps(golden, np.float64)
        ours = {
            'cc': metrics.cc(prediction, density),
            'sim': metrics.sim(prediction, density, minmax=False),
            'nss': metrics.nss(prediction, fixations, ddof=0),
            'kl': metrics.kl(prediction, density),
            'auc half': metrics.auc_judd(prediction, fixations, ties='half'),
            'sauc': metrics.auc_shuffled(prediction, fixations, other, step=None),
        }
    for case in range(len(prediction)):
        p, g = prediction[case], density[case]
        ys, xs = np.nonzero(fixations[case])
        positives = p[ys, xs]
        theirs = {
            'cc': pysaliency_metrics.CC(p, g),
            'sim': pysaliency_metrics.SIM(p, g),
            'nss': pysaliency_metrics.NSS(p, xs, ys).mean(),
            'kl': pysaliency_metrics.MIT_KLDiv(p, g),
            'auc half': roc.general_roc(positives, p[fixations[case] == 0])[0],
            'sauc': roc.general_roc(positives, p[other[case] > 0])[0],
        }
        for name, value in theirs.items():
            assert ours[name][case] == pytest.approx(value, abs=1e-9), name


def test_pysaliencys_models_agree_on_whole_data_sets(golden):
    """Through pysaliency's own data classes: its AUC_Judd without noise, and its sAUC."""
    size = golden['prediction'].shape[1:]
    stimuli = pysaliency.Stimuli([np.full((*size, 3), i, np.uint8) for i in range(3)])
    where = [np.nonzero(golden['fixations'][i]) for i in range(3)]
    fixations = pysaliency.FixationTrains.from_fixation_trains(
        xs=[[x] for _, xs in where for x in xs],
        ys=[[y] for ys, _ in where for y in ys],
        ts=[[0] for ys, _ in where for _ in ys],
        ns=[n for n, (ys, _) in enumerate(where) for _ in ys],
        subjects=[0 for ys, _ in where for _ in ys],
    )
    # Without equal values, which AUC_Judd counts differently from the MATLAB code.
    predictions = golden['prediction'][:3] + RNG(0).random((3, *size))

    class Model(pysaliency.SaliencyMapModel):
        def _saliency_map(self, stimulus):
            return predictions[stimulus[0, 0, 0]]

    others = np.stack(
        [sum(golden['fixations'][j] for j in range(3) if j != i) > 0 for i in range(3)]
    )
    with jax.enable_x64(True):
        judd = np.asarray(metrics.auc_judd(predictions, golden['fixations'][:3]))
        shuffled = np.asarray(
            metrics.auc_shuffled(predictions, golden['fixations'][:3], others, step=None)
        )
    model = Model()
    assert judd.mean() == pytest.approx(model.AUC_Judd(stimuli, fixations, jitter=False), abs=1e-9)
    assert shuffled.mean() == pytest.approx(
        model.AUC(stimuli, fixations, nonfixations='shuffled', average='image'), abs=1e-9
    )


# --- brute force on small maps ---------------------------------------------------------------


@st.composite
def small_cases(draw):
    """A map with many ties, a density, and at least one fixated and one free pixel."""
    height, width = draw(st.sampled_from([(1, 2), (4, 5)]))  # each shape compiles once
    rng = RNG(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([2, 3, 8, 1000]))
    prediction = rng.integers(0, levels, (height, width)).astype(float)
    prediction.flat[rng.integers(prediction.size)] = levels + 1  # not constant
    density = rng.random((height, width)) ** 4
    fixated = np.zeros(prediction.size, bool)
    fixated[: draw(st.integers(1, prediction.size - 1))] = True
    return prediction, density, rng.permutation(fixated).reshape(prediction.shape), rng


def judd_by_hand(prediction, fixated):
    values = np.sort(prediction[fixated])[::-1]
    count, pixels = len(values), prediction.size
    tp, fp = [0.0], [0.0]
    for i, threshold in enumerate(values, start=1):
        tp.append(i / count)
        fp.append(((prediction >= threshold).sum() - i) / (pixels - count))
    return np.trapezoid([*tp, 1], [*fp, 1])


@settings(deadline=None, max_examples=25)
@given(small_cases())
def test_brute_force(case):
    prediction, density, fixated, rng = case
    with jax.enable_x64(True):
        p, g, f = prediction[None], density[None], fixated[None]
        positives, negatives = prediction[fixated], prediction[~fixated]
        pairs = positives[:, None] - negatives
        half = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
        found = metrics.auc_judd(p, f, ties='half', max_fixations=f.size)[0]
        assert found == pytest.approx(half, abs=1e-12)
        found = metrics.auc_judd(p, f, max_fixations=f.size)[0]
        assert found == pytest.approx(judd_by_hand(prediction, fixated), abs=1e-12)
        assert metrics.cc(p, g)[0] == pytest.approx(
            stats.pearsonr(prediction.ravel(), density.ravel())[0], abs=1e-9
        )
        z = stats.zscore(prediction, axis=None, ddof=1)
        assert metrics.nss(p, f)[0] == pytest.approx(z[fixated].mean(), abs=1e-9)
        positive = prediction + 0.5
        assert metrics.kl(positive[None], g)[0] == pytest.approx(
            stats.entropy(density.ravel(), positive.ravel()), abs=1e-9
        )
        other = rng.random(prediction.shape) < 0.5
        if other.any():
            pairs = positives[:, None] - prediction[other]
            half = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
            found = metrics.auc_shuffled(p, f, other[None], step=None)[0]
            assert found == pytest.approx(half, abs=1e-12)


@settings(deadline=None, max_examples=15)
@given(small_cases())
def test_expected_ties_is_the_mean_over_orders(case):
    prediction, _, fixated, rng = case
    with jax.enable_x64(True):
        expected = metrics.auc_judd(prediction[None], fixated[None], ties='expected')[0]
    runs = [
        judd_by_hand(prediction + 0.5 * rng.random(prediction.shape), fixated) for _ in range(400)
    ]
    # 4.5 standard errors: 30 examples of a nearly normal mean, one failure in 5,000 runs of these.
    assert abs(expected - np.mean(runs)) <= 4.5 * np.std(runs) / 20 + 1e-12


@jax.jit
def five(p, g, f):
    scores = metrics.cc(p, g), metrics.sim(p, g), metrics.kl(p, g), metrics.nss(p, f)
    return jnp.stack([*scores, metrics.auc_judd(p, f)])


@settings(deadline=None, max_examples=15)
@given(small_cases(), st.floats(0.01, 100))
def test_scale_and_range(case, scale):
    """Scores do not change with the scale of a map, stay in their range, and reward perfection."""
    prediction, density, fixated, _ = case
    p, g, f = prediction[None], density[None], fixated[None]
    np.testing.assert_allclose(five(p, g, f), five(p * scale, g, f), rtol=2e-3, atol=2e-4)
    assert -1.0001 <= metrics.cc(p, g)[0] <= 1.0001
    assert 0 <= metrics.sim(p, g)[0] <= 1.0001
    assert metrics.kl(g, g)[0] == pytest.approx(0, abs=1e-5)
    assert metrics.sim(g, g)[0] == pytest.approx(1, abs=1e-5)
    assert metrics.auc_judd(f.astype(float), f, ties='half')[0] == pytest.approx(1)
    assert metrics.auc_judd(1 - f.astype(float), f, ties='half')[0] == pytest.approx(0, abs=1e-6)


# --- undefined scores ------------------------------------------------------------------------


@jax.jit
def all_scores(prediction, density, fixations, other):
    bound = {'max_fixations': prediction[0].size}  # one compilation for all cases
    key = jax.random.split(jax.random.key(0), len(prediction))
    return {
        'cc': metrics.cc(prediction, density),
        'sim': metrics.sim(prediction, density),
        'nss': metrics.nss(prediction, fixations),
        'kl': metrics.kl(prediction, density),
        'auc_judd': metrics.auc_judd(prediction, fixations, **bound),
        'auc_expected': metrics.auc_judd(prediction, fixations, ties='expected', **bound),
        'sauc': metrics.auc_shuffled(prediction, fixations, other, key=key, **bound),
        'ig': metrics.information_gain(prediction, fixations, jnp.ones_like(prediction)),
    }


EVERY = {'cc', 'sim', 'nss', 'kl', 'auc_judd', 'auc_expected', 'sauc', 'ig'}
DEGENERATE = {
    'constant prediction': EVERY - {'kl', 'ig'},
    'zero prediction': EVERY,
    'NaN in the prediction': EVERY,
    'infinity in the prediction': EVERY,
    'negative prediction': {'kl', 'ig'},
    'no fixation': {'nss', 'auc_judd', 'auc_expected', 'sauc', 'ig'},
    'every pixel fixated': {'auc_judd', 'auc_expected'},
    'zero density': {'cc', 'sim', 'kl'},
    'constant density': {'cc', 'sim'},
    'no other fixation': {'sauc'},
}


@pytest.mark.parametrize('name', DEGENERATE)
def test_undefined_scores_are_nan_and_leave_the_rest_of_the_batch_alone(name):
    rng = RNG(0)
    prediction, density = rng.random((2, 3, 6, 8)).astype(np.float32)
    fixations, other = (rng.random((2, 3, 6, 8)) < 0.2).astype(np.float32)
    before = all_scores(prediction, density, fixations, other)
    match name:
        case 'constant prediction':
            prediction[1] = 0.3  # not a power of two: its mean is not exact
        case 'zero prediction':
            prediction[1] = 0
        case 'NaN in the prediction':
            prediction[1, 2, 3] = np.nan
        case 'infinity in the prediction':
            prediction[1, 2, 3] = np.inf
        case 'negative prediction':
            prediction[1, 2, 3] = -1
        case 'no fixation':
            fixations[1] = 0
        case 'every pixel fixated':
            fixations[1] = 1
        case 'zero density':
            density[1] = 0
        case 'constant density':
            density[1] = 0.3
        case 'no other fixation':
            other[1] = 0
    scores = all_scores(prediction, density, fixations, other)
    assert {key for key, score in scores.items() if np.isnan(score[1])} == DEGENERATE[name]
    for key, score in scores.items():
        np.testing.assert_array_equal(score[::2], before[key][::2], err_msg=key)


def test_one_pixel():
    scores = all_scores(*np.ones((4, 1, 1, 1), np.float32))
    assert {name for name, score in scores.items() if np.isnan(score[0])} == EVERY - {'kl', 'ig'}


def test_many_fixations_take_another_path_to_the_same_scores(golden):
    """Up to 128 thresholds are compared with one by one, more are searched."""
    prediction, _, fixations, _ = (x[:2] for x in maps(golden, np.float32))
    for ties in ('order', 'expected', 'half'):
        few = metrics.auc_judd(prediction, fixations, ties=ties)
        many = metrics.auc_judd(prediction, fixations, ties=ties, max_fixations=256)
        np.testing.assert_allclose(few, many, rtol=0, atol=1e-6)


def test_more_fixations_than_the_static_bound_is_undefined_not_wrong():
    rng = RNG(0)
    prediction = rng.random((1, 8, 8))
    fixations = np.zeros((1, 8, 8))
    fixations[0, :5] = 1
    assert np.isnan(metrics.auc_judd(prediction, fixations, max_fixations=16)[0])
    assert not np.isnan(metrics.auc_judd(prediction, fixations, max_fixations=40)[0])


def test_gradients():
    """Against finite differences in float64; an undefined example's gradient is zero."""
    rng = RNG(1)
    with jax.enable_x64(True):
        prediction, density = rng.random((2, 2, 5, 7))
        fixations = (rng.random((2, 5, 7)) < 0.2).astype(float)
        baseline = rng.random((2, 5, 7)) + 0.1
        direction = rng.normal(size=prediction.shape)
        functions = (
            lambda p: metrics.cc(p, density),
            lambda p: metrics.sim(p, density),
            lambda p: metrics.nss(p, fixations),
            lambda p: metrics.kl(p, density),
            lambda p: metrics.information_gain(p, fixations, baseline),
        )

        @jax.jit
        def values_and_gradients(p):
            """Of each score: its sum over the examples that have it, and the gradient."""
            return [jax.value_and_grad(lambda p, s=s: jnp.nansum(s(p)))(p) for s in functions]

        h = 1e-6
        ahead, behind = (values_and_gradients(prediction + t * direction) for t in (h, -h))
        broken = np.array(prediction)
        broken[1] = 0
        for (_, gradient), (above, _), (below, _), (_, beside) in zip(
            values_and_gradients(prediction), ahead, behind, values_and_gradients(broken)
        ):
            numeric = (above - below) / (2 * h)
            assert (gradient * direction).sum() == pytest.approx(float(numeric), rel=1e-5)
            assert np.isfinite(beside).all()
            assert (beside[0] != 0).any()
            assert (beside[1] == 0).all()


def test_under_jit_without_bounds():
    rng = RNG(2)
    prediction = rng.integers(0, 9, (2, 4, 5)).astype(np.float32)
    fixations = (rng.random((2, 4, 5)) < 0.3).astype(np.float32)
    jitted = jax.jit(metrics.auc_judd)(prediction, fixations)
    np.testing.assert_allclose(metrics.auc_judd(prediction, fixations), jitted, atol=1e-7)


def test_lists_of_fixated_pixels_are_as_good_as_maps():
    """Also under jit, where a list needs no bound; in any order, padded anywhere."""
    rng = RNG(3)
    prediction = rng.integers(1, 30, (2, 16, 20)).astype(np.float32)
    drawn = [rng.random((2, 16, 20)) < share for share in (0.04, 0.1)]
    keys = jax.random.split(jax.random.key(0), 2)
    lists = []
    for fixated in drawn:
        listed = np.full((2, 64), -1)
        for row, one in zip(listed, fixated):
            found = rng.permutation(np.flatnonzero(one))
            row[rng.permutation(64)[: len(found)]] = found
        lists.append(listed)

    def scores(p, f, o):
        return (
            metrics.nss(p, f),
            metrics.information_gain(p, f, jnp.ones_like(p)),
            metrics.auc_judd(p, f, ties='expected'),
            metrics.auc_shuffled(p, f, o, step=None),
            metrics.auc_shuffled(p, f, o, key=keys),
        )

    expected = scores(prediction, *drawn)
    for found in (scores(prediction, *lists), jax.jit(scores)(prediction, *lists)):
        for score, wanted in zip(found, expected, strict=True):
            # float32 sums in another order.
            np.testing.assert_allclose(score, wanted, atol=2e-6)
    gradients = [
        jax.grad(lambda p, f=f: metrics.nss(p, f).sum())(jnp.asarray(prediction))
        for f in (drawn[0], lists[0])
    ]
    np.testing.assert_allclose(*gradients, atol=1e-6)
    none = np.full((2, 64), -1)
    assert np.isnan(metrics.nss(prediction, none)).all()
    assert np.isnan(metrics.auc_judd(prediction, none, ties='expected')).all()


def test_information_gain_is_the_log_ratio_at_the_fixations():
    prediction = np.array([[[1.0, 3.0], [2.0, 2.0]]])
    baseline = np.ones((1, 2, 2))
    fixations = np.array([[[0, 1], [0, 1]]])
    gain = metrics.information_gain(prediction, fixations, baseline)[0]
    assert gain == pytest.approx((np.log2(3 / 8 * 4) + np.log2(2 / 8 * 4)) / 2, abs=1e-6)
    none = metrics.information_gain(baseline, fixations, baseline)[0]
    assert none == pytest.approx(0, abs=1e-6)
    assert np.isnan(metrics.information_gain(baseline, fixations, baseline, minmax=True)[0])


@pytest.mark.parametrize(
    ('shapes', 'words'),
    [
        (((4, 5), (1, 4, 5)), r'prediction has shape \(4, 5\), expected \(batch, height, width\)'),
        (((1, 4, 5), (1, 5, 4)), r'density has shape \(1, 5, 4\), prediction has \(1, 4, 5\)'),
        (((0, 4, 5), (0, 4, 5)), 'none of them 0'),
    ],
)
def test_wrong_shapes_are_named(shapes, words):
    with pytest.raises(InputError, match=words):
        metrics.cc(*(np.ones(shape) for shape in shapes))


def test_wrong_choices_are_named():
    ones = np.ones((1, 4, 5))
    with pytest.raises(InputError, match=r"ties='fair'.*expected.*half.*order"):
        metrics.auc_judd(ones, ones, ties='fair')
    with pytest.raises(InputError, match=r'key=.*subsets='):
        metrics.auc_shuffled(ones, ones, ones)
    with pytest.raises(InputError, match=r'positions of type float.., expected integers'):
        metrics.nss(ones, ones[0][:1])
    with pytest.raises(
        InputError, match=r'fixations has shape \(2, 3\), prediction has \(1, 4, 5\)'
    ):
        metrics.auc_judd(ones, np.zeros((2, 3), int))
    with pytest.raises(InputError, match='complex'):
        metrics.cc(ones * 1j, ones)


def test_half_ties_are_exact_beside_a_bound_of_all_pixels():
    rng = np.random.default_rng(0)
    prediction = rng.integers(0, 64, (1, 240, 400)).astype(np.float32)
    fixations = np.zeros((1, 240, 400), bool)
    fixations.flat[rng.choice(fixations.size, 5, replace=False)] = True
    traced = jax.jit(lambda p, f: metrics.auc_judd(p, f, ties='half'))(prediction, fixations)
    hit, other = prediction[fixations], prediction[~fixations]
    wins = (hit[:, None] > other).mean() + (hit[:, None] == other).mean() / 2
    np.testing.assert_allclose(traced, wins, atol=1e-6)
