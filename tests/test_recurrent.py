"""Recurrent models: a state that goes on through a video, and what only these models have."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import test_hub
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import stsa_jax
from stsa_jax import SaliencyModel, checkpoints
from stsa_jax.commands import evaluate, predict_options
from stsa_jax.errors import InputError
from stsa_jax.inference.windows import needed, predict_frames, predict_some
from stsa_jax.media import finishing, preprocess
from stsa_jax.metrics import losses
from stsa_jax.models import steps, unisal
from stsa_jax.models.unisal import UNISALConfig
from stsa_jax.weights import port
from tests import zoo_rule


class Sums:
    """The map of a frame is the sum of the sequence so far; the state is the latest sum."""

    def __init__(self, frames, step):
        self.config = SimpleNamespace(
            frames=frames, step=step, target='all', recurrent=True, image_size=(1, 1)
        )

    def preprocess(self, frames):
        return frames[:, :1, :1].astype(np.float32)

    def carry(self, clips, state):
        assert clips.shape[:2] == (self.config.step, self.config.frames)
        sums = np.cumsum(clips[..., 0], 1) + (0 if state is None else state)
        return sums, sums[:, -1:]


def numbered(count):
    return [np.full((2, 3, 3), i, np.uint8) for i in range(count)]


@pytest.mark.parametrize(('frames', 'step'), [(4, 1), (3, 5), (1, 2)])
@pytest.mark.parametrize('count', [1, 4, 15, 23])
def test_the_state_goes_on_in_every_sequence(frames, step, count):
    found = [float(m[0, 0]) for m in predict_frames(Sums(frames, step), numbered(count))]
    assert found == [sum(range(i % step, i + 1, step)) for i in range(count)]


def test_maps_that_are_not_wanted_are_computed_all_the_same():
    pairs = predict_some(Sums(2, 2), numbered(12), {9, 11}.__contains__)
    found = {int(frame[0, 0, 0]): saliency for frame, saliency in pairs}
    assert list(found) == list(range(12))
    assert {i: float(m[0, 0]) for i, m in found.items() if m is not None} == {9: 25, 11: 36}
    assert needed(Sums(2, 2).config, 9, 11, 40) == (0, 11)


@pytest.fixture(scope='module')
def small():
    return test_hub.small_model('unisal')


@pytest.mark.long
@pytest.mark.parametrize('kind', ['unisal', 'salema'])
def test_a_video_in_clips_is_one_sequence(kind):
    """As the network sees it at once; `step` sequences, and a last clip that is not full."""
    small = test_hub.small_model(kind)
    names = port.to_torch(small.params, small.batch_stats)
    arrays = {name: zoo_rule.tensor(name, a.shape, 1, kind) for name, a in names.items()}
    weights = port.from_torch(arrays, small.config)
    small = SaliencyModel(small.config, *weights, small.normalisation)
    step = small.config.step
    assert small.config.frames == 2
    frames = np.random.default_rng(0).integers(0, 256, (8, 32, 64, 3), np.uint8)
    found = np.stack(list(predict_frames(small, list(frames))))
    length = -(-8 // step)
    config = dataclasses.replace(small.config, frames=length)
    whole = SaliencyModel(config, *weights, small.normalisation)
    padded = np.concatenate([frames, frames[-1:].repeat(length * step - 8, 0)])
    clips = small.preprocess(padded).reshape(length, step, 32, 64, 3).swapaxes(0, 1)
    expected = np.asarray(whole(clips)).swapaxes(0, 1).reshape(-1, 32, 64)[:8]
    # Another program, whose float32 rounds otherwise; UNISAL's has an error of 4e-5.
    np.testing.assert_allclose(found, expected, atol=5e-5)
    assert np.ptp(found[:, 5, 5]) > 1e-3


def test_domains(small):
    fields = vars(small.config)
    with pytest.raises(InputError, match=r"model\.domain is 'mit', expected one of dhf1k"):
        UNISALConfig(**{**fields, 'domain': 'mit'})
    with pytest.raises(InputError, match=r'model\.domains is .*expected some of dhf1k'):
        UNISALConfig(**{**fields, 'domains': ('mit',)})
    assert UNISALConfig(domain='salicon').still


def test_another_domain_of_a_file(small, tmp_path):
    small.save_pretrained(tmp_path / 'unisal')
    found = stsa_jax.load(tmp_path / 'unisal', domain='hollywood').config
    assert (found.domain, found.step, found.image_size) == ('hollywood', 4, (224, 416))
    assert dataclasses.replace(found, domain='dhf1k', step=3, image_size=(32, 64)) == small.config
    sized = stsa_jax.load(tmp_path / 'unisal', domain='ucfsports', image_size=(32, 32)).config
    assert (sized.domain, sized.image_size) == ('ucfsports', (32, 32))
    assert small.config.of_domain('salicon').still
    with pytest.raises(InputError, match=r"unisal: no domain 'mit': holds dhf1k, hollywood, "):
        stsa_jax.load(tmp_path / 'unisal', domain='mit')


def test_domain_on_the_command_line(tmp_path, small, monkeypatch):
    small.save_pretrained(tmp_path / 'unisal')
    test_hub.small_model('hd2s').save_pretrained(tmp_path / 'hd2s')
    flags = ['--video=film.mp4', f'--output={tmp_path / "out"}', '--domain=ucfsports']
    options = predict_options.parse([f'--checkpoint={tmp_path / "unisal"}', *flags], '')
    assert predict_options.load_model(options).config.domain == 'ucfsports'
    loaded = []
    monkeypatch.setattr(
        evaluate.evaluation, 'ModelMaps', lambda model, *_: loaded.append(model.config.domain)
    )
    given = [f'--checkpoint=a={tmp_path / "unisal"}', '--domain=hollywood']
    models = evaluate.collect_models(evaluate.parser().parse_args(given))
    models['a'](SimpleNamespace(enlarged=lambda size: ''), None)
    assert loaded == ['hollywood']
    options = predict_options.parse([f'--checkpoint={tmp_path / "hd2s"}', *flags], '')
    with pytest.raises(InputError, match="no domain 'ucfsports': holds HD2S, which has no"):
        predict_options.load_model(options)


def test_norms_of_each_step_are_pytorchs():
    """Run once for each time step, as the released code does."""
    torch = pytest.importorskip('torch')
    x = np.random.default_rng(0).normal(1, 2, (3, 4, 5, 6, 7)).astype(np.float32)
    unit = steps.Unit(7, 7, activation=None, momentum=0.3, rngs=nnx.Rngs(0))
    unit.kernel.set_value(np.eye(7, dtype=np.float32)[None, None, None])
    norm = torch.nn.BatchNorm2d(7, momentum=0.3)
    expected = [norm(torch.from_numpy(x[:, t]).permute(0, 3, 1, 2)) for t in range(4)]
    expected = torch.stack(expected, 1).permute(0, 1, 3, 4, 2).detach()
    np.testing.assert_allclose(unit(x, train=True), expected, atol=1e-5)
    np.testing.assert_allclose(unit.norm.mean[...], norm.running_mean, rtol=1e-5)
    np.testing.assert_allclose(unit.norm.var[...], norm.running_var, rtol=1e-5)
    assert int(unit.norm.count[...]) == int(norm.num_batches_tracked) == 4
    with torch.no_grad():
        expected = norm.eval()(torch.from_numpy(x[:, 0]).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(unit(x)[:, 0], expected, atol=1e-5)


def test_smoothing_of_the_upsampled_map_is_pytorchs():
    torch = pytest.importorskip('torch')
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 2, 3, 5, 1)).astype(np.float32)
    kernel = rng.uniform(size=(41, 41, 1, 1)).astype(np.float32) / 41**2
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(x).reshape(4, 1, 3, 5), size=(24, 40), mode='nearest'
    )
    theirs = torch.nn.functional.pad(theirs, [20] * 4, mode='replicate')
    expected = torch.nn.functional.conv2d(theirs, torch.from_numpy(kernel).reshape(1, 1, 41, 41))
    found = unisal.smoothed_8x(x, kernel)
    np.testing.assert_allclose(found, expected.reshape(2, 2, 24, 40), atol=1e-5)


def test_channels_that_are_left_out_change_with_every_step(small):
    model = nnx.merge(small.graphdef, small.params, small.batch_stats)
    model.config = UNISALConfig(**{**vars(small.config), 'drop_skip': 0.5, 'drop_state': 0.25})
    masks = model._masks((2, 3))
    assert masks[0].shape[:2] == masks[1].shape[:2] == (2, 3) and masks[2].shape[0] == 3
    assert set(np.unique(masks[0])) == {0, 2}
    assert np.mean([np.asarray(m).mean() for m in masks]) == pytest.approx(1, abs=0.2)
    again = model._masks((2, 3))
    model.unisal_input.filter.norm.count.set_value(jax.numpy.int32(1))
    for a, b, c in zip(masks, again, model._masks((2, 3))):
        assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_unisals_maps_in_8_bits():
    """The softmax of resized logits, its maximum 255."""
    torch = pytest.importorskip('torch')
    logits = np.random.default_rng(0).normal(0, 3, (9, 14)).astype(np.float32)
    saliency = np.exp(logits - logits.max())
    large = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None, None], (36, 64), mode='bilinear', align_corners=False
    )
    theirs = large.flatten().softmax(0).reshape(36, 64).numpy()
    expected = (theirs / theirs.max() * 255).astype(np.uint8)
    found = finishing.unisal(saliency, (36, 64))
    assert found.dtype == np.uint8 and found.max() == 255
    assert np.abs(found.astype(int) - expected).max() <= 1 and (found == expected).mean() > 0.99
    assert (finishing.unisal(np.zeros((4, 4)), (8, 8)) == 255).all()


def test_nss_in_the_loss():
    """By hand: three pixels of deviation sqrt(n / (n - 1)) from the mean."""
    rng = np.random.default_rng(0)
    s, g = rng.uniform(0.1, 1, (2, 3, 4, 5)).astype(np.float32)
    marks = np.zeros_like(s)
    marks[0, 1, 2] = marks[0, 3, 4] = marks[1, 0, 0] = 1
    normal = (s - s.mean((1, 2), keepdims=True)) / s.std((1, 2), keepdims=True, ddof=1)
    expected = [normal[0][[1, 3], [2, 4]].mean(), normal[1, 0, 0], 0]
    np.testing.assert_allclose(losses.nss(s, marks), expected, rtol=1e-4, atol=1e-6)
    both = losses.kl_nss_cc(s, g, marks)
    rest = losses.kl(s, g) - 0.1 * losses.cc(s, g)
    np.testing.assert_allclose(both, rest - 0.1 * np.array(expected), rtol=1e-4)
    gradient = jax.grad(lambda s: losses.kl_nss_cc(s, g, marks).sum())(np.ones_like(s))
    assert np.isfinite(gradient).all()


def test_moving_average():
    """By hand: the first frame as it is, then a share of sigmoid(alpha) of each further one."""
    model = test_hub.small_model('salema')
    network = nnx.merge(model.graphdef, model.params, model.batch_stats)
    y = np.random.default_rng(0).normal(size=(2, 5, 3, 4, 6)).astype(np.float32)
    share = 1 / (1 + np.exp(-0.1))
    expected = [y[:, 0]]
    for t in range(1, 5):
        expected.append(share * y[:, t] + (1 - share) * expected[-1])
    found, state = network._averaged(y[:, :3], None)
    more, state = network._averaged(y[:, 3:], state)
    np.testing.assert_allclose(
        np.concatenate([found, more], 1), np.stack(expected, 1), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(state['average'], more[:, -1])


def test_resizing_by_areas():
    """By hand: 3 pixels to 2, each of one and a half."""
    frame = np.array([[0, 30, 90]] * 2, np.uint8)[..., None].repeat(3, 2)
    found = preprocess.resample_area(frame, (2, 2))
    assert found[..., 0].tolist() == [[10, 70]] * 2 and found.shape == (2, 2, 3)
    noise = np.random.default_rng(0).integers(0, 256, (36, 64, 3), np.uint8)
    halves = noise.reshape(18, 2, 32, 2, 3).mean((1, 3))
    np.testing.assert_array_equal(preprocess.resample_area(noise, (18, 32)), np.rint(halves))
    assert preprocess.resample_area(noise, (72, 32)).shape == (72, 32, 3)


@settings(max_examples=50)
@given(
    st.tuples(*[st.integers(1, 20)] * 2), st.tuples(*[st.integers(1, 20)] * 2), st.integers(0, 9)
)
def test_areas_are_box_integrals(size, other, seed):
    """Each pixel is the mean of the `n` by `m` equal parts of the frame's pixels below it."""
    (h, w), (height, width) = (tuple(f(a, b) for a, b in zip(size, other)) for f in (max, min))
    frame = np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)
    # A pixel of the frame in `height` equal rows, of the result in `h`: exact in whole numbers.
    parts = frame.repeat(height, 0).repeat(width, 1).astype(np.int64)
    sums = parts.reshape(height, h, width, w, 3).sum((1, 3))
    found = preprocess.resample_area(frame, (height, width))
    assert found.shape == (height, width, 3)
    # Whole levels, the nearest ones; of two that are equally near, either.
    assert np.abs(found - sums / (h * w)).max() <= 0.5 + 1e-4 and (found == np.rint(found)).all()


def test_cross_entropy_is_pytorchs():
    torch = pytest.importorskip('torch')
    rng = np.random.default_rng(0)
    s, g = rng.uniform(size=(2, 3, 8, 9)).astype(np.float32)
    s[0, 0], s[0, 1] = 0, 1  # whose logarithms are cut
    g = (g - g.min((1, 2), keepdims=True)) / np.ptp(g, (1, 2), keepdims=True)
    for i in range(3):
        expected = torch.nn.BCELoss()(torch.from_numpy(s[i]), torch.from_numpy(g[i]))
        assert float(losses.bce(s, g)[i]) == pytest.approx(float(expected), rel=1e-5)


def test_a_model_without_batch_norm_has_checkpoints(tmp_path):
    model = test_hub.small_model('salema')
    assert not model.batch_stats
    model_config = dataclasses.asdict(model.config)
    checkpoints.save_weights(
        tmp_path / 'a', model.kind, model_config, model.params, {}, model.normalisation
    )
    loaded = stsa_jax.load(tmp_path / 'a')
    assert loaded.config == model.config and loaded.batch_stats == {}
    jax.tree.map(np.testing.assert_array_equal, loaded.params, model.params)
