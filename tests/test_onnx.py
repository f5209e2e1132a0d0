"""ONNX files: each operation, whole models, and maps by onnxruntime."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
import test_hub
from jax import lax

from stsa_jax import SaliencyModel
from stsa_jax.errors import InputError
from stsa_jax.inference import onnx_file, onnx_program
from stsa_jax.inference.export import frames_of, from_frames
from stsa_jax.models.tinyhd import TinyHDConfig
from stsa_jax.ops import attention, pooling, upsampled, upsampling
from stsa_jax.ops.convolution import conv3d, conv3d_transposed_2x, depthwise_conv3d
from stsa_jax.weights import port
from tests import golden_rule, zoo_rule

SHAPE = (4, 6, 8, 4)  # (T, H, W, C) of the small features


def weights(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def loop(x):
    """A loop over the steps of time, backwards, with a sum that it carries."""

    def step(total, frame):
        return total + frame, total * frame

    last, steps = lax.scan(step, x[:, 0] * 0, jnp.moveaxis(x, 1, 0), reverse=True)
    return jnp.concatenate([last[:, None], jnp.moveaxis(steps, 0, 1)], 1)


def unpooled(x):
    return pooling.max_unpool_2x2(*pooling.max_pool_2x2_with_indices(x))


def unpooled_3x3(x):
    highest = pooling.max_pool(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    return pooling.max_unpool_3x3(highest, pooling.max_indices_3x3(x))


def attended(x):
    places = x.reshape(x.shape[0], -1, 4)
    return attention.attend(places, places[:, 40:], places[:, 40:])[0]


OPERATIONS = {
    'a convolution in space': lambda x: conv3d(x, weights(1, 3, 3, 4, 5), (1, 2, 2), (0, 1, 1)),
    'in time': lambda x: conv3d(x, weights(4, 1, 1, 4, 5), (2, 1, 1), (1, 0, 0)),
    'in both': lambda x: conv3d(x, weights(2, 5, 3, 4, 5), (2, 1, 2), (1, 0, 2)),
    'depthwise': lambda x: depthwise_conv3d(x, weights(3, 3, 3, 1, 4), (2, 1, 2), (1, 1, 1)),
    'transposed': lambda x: conv3d_transposed_2x(x, weights(1, 4, 4, 4, 3)),
    'of what is upsampled': lambda x: upsampled.conv3d_of_upsampled(
        x, weights(1, 3, 3, 4, 2), (1, 1, 1), (0, 1, 1)
    ),
    'a pool': lambda x: pooling.max_pool(x, (3, 3, 2), (1, 2, 2), (1, 1, 0)),
    'unpooling': unpooled,
    'unpooling of overlapping windows': unpooled_3x3,
    'resizing': lambda x: upsampling.resize(x, (9, 20)),
    'upsampling with aligned corners': lambda x: upsampling.upsample_aligned(x, (1, 2)),
    'a pixel shuffle': upsampling.pixel_shuffle,
    'attention': attended,
    'a loop': loop,
    'moments': lambda x: (x - x.mean((1, 2), keepdims=True)) / x.std(-1).max(1)[:, None, ..., None],
    'places': lambda x: x[:, np.array([3, 0, 0])][:, :, ::-1, 1] + jnp.arange(4.0),
    'places on two axes': lambda x: x[:, :, np.array([[5], [0]]), np.array([1, 3])],
    'pads between elements': lambda x: lax.pad(
        x, np.float32(0.5), [(0, 0, 0), (-1, 2, 1), (3, -2, 1), (0, 0, 0), (1, 0, 2)]
    ),
    'a slice put in': lambda x: lax.dynamic_update_slice(x, x[:, :2, 1:3] * 2, (0, 1, 0, 0, 0)),
    'a number for every element': lambda x: jnp.broadcast_to(jnp.arange(3.0), (x.shape[0], 3)),
    'a choice': lambda x: jnp.where(x > 0, jnp.exp(-x), lax.rsqrt(x * x + 1) ** 2),
    'bounds': lambda x: jax.nn.relu6(7 * x) + jnp.clip(x, -1, 1) + lax.clamp(0.1, x, 0.2),
}  # fmt: skip


@pytest.mark.parametrize('name', OPERATIONS)
def test_operations(name):
    """By onnxruntime as by JAX, for two batch sizes."""
    f = OPERATIONS[name]
    (batch,) = jax.export.symbolic_shape('b')
    shape = jax.ShapeDtypeStruct((batch, *SHAPE), jnp.float32)
    made = onnx_program.to_model(f, shape, ('x', 'y'))
    onnx.checker.check_model(made, full_check=True)
    session = onnxruntime.InferenceSession(made.SerializeToString())
    x = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    ours = jax.jit(f)(x)
    for size in (1, 3):
        (y,) = session.run(None, {'x': x[:size]})
        np.testing.assert_allclose(y, ours[:size], rtol=1e-4, atol=1e-5)


def test_what_depends_on_weights_alone_is_computed_before():
    def f(x):
        return x @ lax.sqrt(lax.exp(weights(4, 4)))

    made = onnx_program.to_model(f, jax.ShapeDtypeStruct((3, 4), jnp.float32), ('x', 'y'))
    kinds = {node.op_type for node in made.graph.node}
    assert kinds == {'MatMul', 'Identity'} and len(made.graph.initializer) == 1


class Tiny:
    """A model of one convolution, pool and sigmoid, that fits into onnx_file."""

    kind = 'tiny'
    config = types.SimpleNamespace(frames=4, image_size=(8, 12))


@pytest.fixture
def tiny(monkeypatch):
    weights = np.random.default_rng(0).normal(size=(3, 3, 3, 3, 2)).astype(np.float32)

    def run(frames):
        x = conv3d(frames.astype(np.float32) / 255, weights, (1, 1, 1), (1, 1, 1))
        x = pooling.max_pool(x, (4, 1, 1), (4, 1, 1), (0, 0, 0))
        return jax.nn.sigmoid(x[:, 0].mean(-1))

    monkeypatch.setattr(onnx_file, 'from_frames', lambda model: run)
    return Tiny(), run


@pytest.mark.long
def test_a_small_program_with_any_batch(tiny, tmp_path):
    model, run = tiny
    told = onnx_file.save(model, tmp_path / 'a.onnx')
    assert 'opset' in told and 'of ours' in told
    onnx.checker.check_model(tmp_path / 'a.onnx')
    for batch in (1, 3):
        shape = (batch, 4, 8, 12, 3)
        frames = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
        np.testing.assert_allclose(
            onnx_file.run(tmp_path / 'a.onnx', frames), run(frames), atol=1e-5
        )


@pytest.mark.long
def test_a_file_that_differs_is_not_kept(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, 'TOLERANCE', -1.0)
    with pytest.raises(InputError, match=r'maps of 5 clips differ .*--format=stablehlo'):
        onnx_file.save(tiny[0], tmp_path / 'a.onnx')
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_clip_of_a_near_tie_does_not_condemn_a_file(tiny, tmp_path, monkeypatch):
    """Rounding may choose another index of a pool; a wrong program is wrong for every clip."""
    run, clips = onnx_file.run, []

    def of_ties(path, frames):
        clips.append(frames)
        maps = run(path, frames)
        maps[0, 0] += 3e-3 * (len(clips) < 3)
        return maps

    monkeypatch.setattr(onnx_file, 'run', of_ties)
    onnx_file.save(tiny[0], tmp_path / 'a.onnx')
    assert (tmp_path / 'a.onnx').is_file() and len(clips) == 3
    assert not np.array_equal(clips[0], clips[1])


def test_what_cannot_be_converted_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, 'from_frames', lambda model: lambda x: jnp.sort(x, 1))
    with pytest.raises(InputError, match=r'tiny has the operation sort, .*--format=stablehlo'):
        onnx_file.save(Tiny(), tmp_path / 'a.onnx')
    assert not list(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.parametrize(
    'name', ['stsanet', 'vinet', 'tased', 'hd2s', 'tinyhd_s', 'tinyhd_m', 'unisal', 'salema']
)
@pytest.mark.usefixtures('quick_compilation')  # optimizing tinyHD takes minutes
def test_models_of_the_zoo(name, tmp_path, monkeypatch):
    """Maps within 1e-4, for two batch sizes."""
    kind = name.partition('_')[0]
    if name == 'tinyhd_s':
        monkeypatch.setitem(test_hub.SMALL, kind, TinyHDConfig(image_size=(32, 64)))
    model = test_hub.small_model(kind)
    shapes = {
        name: array.shape for name, array in port.to_torch(model.params, model.batch_stats).items()
    }
    ruled = {  # weights of which the maps are not flat
        name: golden_rule.tensor(name, shape, 1)
        if kind == 'stsanet'
        else zoo_rule.tensor(name, shape, 1, kind)
        for name, shape in shapes.items()
    }
    model = SaliencyModel(model.config, *port.from_torch(ruled, model.config), model.normalisation)
    onnx_file.save(model, tmp_path / 'a.onnx', check=False)
    onnx.checker.check_model(tmp_path / 'a.onnx', full_check=True)
    shape = frames_of(model, 2).shape
    frames = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    ours = jax.jit(from_frames(model))(frames)
    assert np.std(ours) > 1e-3
    for size in (1, 2):
        found = onnx_file.run(tmp_path / 'a.onnx', frames[:size])
        np.testing.assert_allclose(found, ours[:size], atol=1e-4)
