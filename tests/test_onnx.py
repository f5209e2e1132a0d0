"""ONNX files: the rewritten program, and maps by onnxruntime."""

import types

import jax
import numpy as np
import onnx
import pytest
import test_hub
from jax import lax

from stsa_jax import SaliencyModel
from stsa_jax.errors import InputError
from stsa_jax.inference import onnx_file
from stsa_jax.inference.export import frames_of, from_frames
from stsa_jax.ops import forms
from stsa_jax.ops.convolution import conv3d
from stsa_jax.ops.pooling import max_pool
from stsa_jax.weights import port
from tests import golden_rule, zoo_rule

KERNELS = [  # kernel, stride, padding
    ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    ((3, 1, 1), (1, 1, 1), (1, 0, 0)),
    ((7, 1, 1), (2, 1, 1), (3, 0, 0)),
    ((3, 3, 3), (1, 1, 1), (1, 1, 1)),
    ((4, 1, 1), (4, 1, 1), (0, 0, 0)),
    ((2, 5, 3), (2, 1, 2), (1, 0, 2)),
    ((1, 1, 1), (1, 2, 2), (0, 0, 0)),
]


def primitives(program, found=()):
    names = set(found)
    for equation in program.eqns:
        names.add((equation.primitive.name, len(equation.params.get('window_strides', ()))))
        inner = equation.params.get('jaxpr')
        names |= primitives(inner.jaxpr) if inner is not None else set()
    return names


@pytest.mark.parametrize('kernel, stride, padding', KERNELS)
def test_convolutions_and_pools_over_three_axes(kernel, stride, padding):
    """The same numbers, without a convolution or pool over three axes."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(*kernel, 4, 5)).astype(np.float32)
    x = rng.normal(size=(2, 8, 9, 10, 4)).astype(np.float32)
    for f in (
        lambda x: conv3d(x, weights, stride, padding),
        lambda x: max_pool(
            x, kernel, stride, tuple(min(p, k // 2) for p, k in zip(padding, kernel))
        ),
    ):
        rewritten = onnx_file.rewritten(f)
        np.testing.assert_allclose(rewritten(x), f(x), rtol=1e-5, atol=1e-5)
        left = primitives(jax.make_jaxpr(rewritten)(x).jaxpr)
        assert not {('conv_general_dilated', 3), ('reduce_window_max', 5)} & left


@pytest.mark.parametrize('config', [
    [(0, 0, 0), (1, 2, 1), (0, 0, 2)], [(0, 0, 0), (-1, 2, 1), (3, -2, 1)],
])  # fmt: skip
def test_pads_between_elements(config):
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)

    def f(x):
        return lax.pad(x, np.float32(0.5), config)

    np.testing.assert_array_equal(onnx_file.rewritten(f)(x), f(x))


def test_what_depends_on_weights_alone_is_computed_before():
    weights = np.full((3, 3), 2.0, np.float32)
    program = jax.make_jaxpr(onnx_file.rewritten(lambda x: x @ lax.sqrt(lax.exp(weights))))(weights)
    assert [e.primitive.name for e in program.eqns] == ['dot_general']


class Tiny:
    """A model of one convolution, pool and sigmoid, that fits into onnx_file."""

    kind = 'tiny'
    config = types.SimpleNamespace(frames=4, image_size=(8, 12))


@pytest.fixture
def tiny(monkeypatch):
    weights = np.random.default_rng(0).normal(size=(3, 3, 3, 3, 2)).astype(np.float32)

    def run(frames):
        x = conv3d(frames.astype(np.float32) / 255, weights, (1, 1, 1), (1, 1, 1))
        x = max_pool(x, (4, 1, 1), (4, 1, 1), (0, 0, 0))
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
    with pytest.raises(InputError, match=r'maps differ from ours by .*--format=stablehlo'):
        onnx_file.save(tiny[0], tmp_path / 'a.onnx')
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_converted_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, 'from_frames', lambda model: lambda x: lax.conv_general_dilated(
        x.astype(np.float32), np.ones((1, 1, 1, 3, 3), np.float32), (1, 1, 1), [(0, 0)] * 3,
        lhs_dilation=(2, 1, 1), dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'),
    ))  # fmt: skip
    with pytest.raises(InputError, match=r'jax2onnx .* cannot convert tiny: a 3-D convolution'):
        onnx_file.save(Tiny(), tmp_path / 'a.onnx')
    assert not list(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.parametrize('kind', ['vinet', 'hd2s'])  # of the others see docs/sharing.md
def test_models_of_the_zoo(kind, tmp_path):
    """Maps within 1e-4, for another batch than the one that is checked when writing."""
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
    onnx_file.save(model, tmp_path / 'a.onnx')
    shape = frames_of(model, 2).shape
    frames = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    with forms.use('plain'):
        ours = jax.jit(from_frames(model))(frames)
    assert np.std(ours) > 1e-3
    np.testing.assert_allclose(onnx_file.run(tmp_path / 'a.onnx', frames), ours, atol=1e-4)
