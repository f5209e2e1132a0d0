"""Windows in a row with shared early features: the same features, and maps, as clip by clip."""

import sys

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from test_evaluation_paths import Brightness

from benchmarks import sliding as benchmark
from stsa_jax.evaluation.selection import Selected
from stsa_jax.evaluation.sources import ModelMaps
from stsa_jax.inference import sharing
from stsa_jax.inference.devices import SpreadModel
from stsa_jax.inference.teacher import Lesson, write_maps
from stsa_jax.inference.windows import predict_video
from stsa_jax.media.visualize import to_8bit
from stsa_jax.models import sliding
from stsa_jax.models.stsanet import STSANet, STSANetConfig
from stsa_jax.ops.pooling import max_pool
from stsa_jax.weights.initial import initial_weights
from stsa_jax.weights.pretrained import SaliencyModel

CONFIG = STSANetConfig(image_size=(32, 32), frames=24, width=0.125)


@pytest.fixture(scope='module')
def model():
    _, params, batch_stats = initial_weights(CONFIG)
    # Statistics of their own, so that a forgotten BatchNorm shows; small variances, because the
    # features of these random weights fade.
    rng = np.random.default_rng(0)
    ranges = {'mean': (-0.02, 0.02), 'var': (0.02, 0.2), 'count': (0, 1)}
    batch_stats = jax.tree.map_with_path(
        lambda path, x: rng.uniform(*ranges[path[-1].key], x.shape).astype(x.dtype), batch_stats
    )
    return SaliencyModel(CONFIG, params, batch_stats)


def frames(count):
    return list(np.random.default_rng(1).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8))


def test_early_features_of_windows_in_a_row(model, monkeypatch):
    """base1 and base2, for windows at both ends of a video and between, in incomplete groups."""

    def features(network: STSANet, state, place):
        base1, base2 = sliding.window_stages(network, state, place)
        return jax.numpy.concatenate([base1.ravel(), base2.ravel()])[None]

    monkeypatch.setattr(sliding, 'window_map', features)
    ours = [f for _, f in predict_video(sharing.SharingModel(model), frames(19))]

    @jax.jit
    def whole(params, batch_stats, clips):
        backbone = nnx.merge(model.graphdef, params, batch_stats).backbone
        base1 = backbone.base1(clips)
        base2 = backbone.base2(max_pool(base1, (1, 3, 3), (1, 2, 2), (0, 1, 1)))
        return jax.numpy.concatenate([base1.ravel(), base2.ravel()])[None, None]

    class Early:
        config, preprocess = CONFIG, model.preprocess

        def __call__(self, clips):
            return whole(model.params, model.batch_stats, clips)

    theirs = [f for _, f in predict_video(Early(), frames(19))]
    assert len(ours) == len(theirs) == 19
    assert np.abs(theirs[3] - theirs[12]).mean() > 0.01  # windows do differ
    for one, other in zip(ours, theirs):
        # The same products, added in another order where XLA divides arrays of other sizes in other
        # ways: some float32 roundings of the largest sums.
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * other.max())


class Film:
    """A dataset of one video."""

    frame = staticmethod(frames(30).__getitem__)

    @staticmethod
    def selected(positions):
        return Selected('film', 0, 30, 32, 32, np.array(positions))


@pytest.fixture
def one_device(monkeypatch):
    monkeypatch.setattr(jax, 'local_devices', lambda: jax.devices()[:1])


@pytest.mark.long
def test_maps_of_a_video(model, one_device, tmp_path):
    """Of prediction, of evaluation, and of a teacher, as clip by clip."""
    ours = [m for _, m in predict_video(sharing.sharing(model), frames(30))]
    theirs = [m for _, m in predict_video(model, frames(30))]
    assert sharing.sharing(model) is sharing.sharing(model)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    for positions in (range(30), range(5, 25)):
        found = list(ModelMaps(model, Film).maps(Film.selected(positions)))
        np.testing.assert_allclose(found, [theirs[i] for i in positions], rtol=1e-5, atol=1e-6)
    source = tmp_path / 'film'
    source.mkdir()
    for i, frame in enumerate(frames(30)):
        Image.fromarray(frame).save(source / f'{i:04d}.png')
    assert not write_maps(model, [Lesson('film', source, '')], tmp_path / 'out')
    written = sorted((tmp_path / 'out' / 'film' / 'maps').iterdir())
    assert len(written) == 30
    for path, saliency in zip(written, theirs):
        levels = np.asarray(Image.open(path)).astype(int)
        assert np.abs(levels - to_8bit(saliency, (32, 32))).max() <= 1  # of 255, by rounding


def test_where_windows_are_in_a_row_they_share(one_device, monkeypatch, tmp_path):
    counts = []

    class Clips(Brightness):
        def __call__(self, clips):
            return clips.mean((1, 4))

    class Shared(Clips):
        def maps(self, chosen):
            chosen = list(chosen)
            counts.append(len(chosen))
            return iter(np.zeros((len(chosen), 32, 32), np.float32))

    def for_windows(model, count):
        counts.append(count)
        return Shared()

    monkeypatch.setattr(sharing, 'for_windows', for_windows)
    source = ModelMaps(Clips(), Film, 8)
    assert len(list(source.maps(Film.selected(range(3, 23))))) == 20
    assert counts == [20, 20]
    assert len(list(source.maps(Film.selected(range(0, 30, 3))))) == 10  # not in a row
    assert counts == [20, 20]
    (tmp_path / 'film').mkdir()
    for i, frame in enumerate(frames(30)):
        Image.fromarray(frame).save(tmp_path / 'film' / f'{i:04d}.png')
    write_maps(Clips(), [Lesson('film', tmp_path / 'film', '')], tmp_path / 'out')
    assert counts == [20, 20, 30, 30]


@pytest.mark.long
def test_the_benchmark(monkeypatch, capsys):
    small = ['--size=32,32', '--frames=24', '--width=0.125', '--repeats=1']
    monkeypatch.setattr(sys, 'argv', ['benchmark', *small])
    code, printed = benchmark.main(), capsys.readouterr().out
    assert code == int('missed' in printed) and 'ratio of processor time' in printed


def test_what_is_shared(model):
    assert sharing.shares(model, 100) and not sharing.shares(model, 10)
    short = STSANetConfig(image_size=(32, 32), frames=16, width=0.125)
    assert sliding.can_share(CONFIG) and not sliding.can_share(short)
    assert not sharing.shares(object(), 100)
    assert not sharing.shares(SpreadModel(model, jax.devices()[:2]), 100)
