"""The network as a module: configs, shapes, invariants. Its numbers are in test_parity.py."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from stsa_jax import InputError, STSANet, STSANetConfig
from stsa_jax.inference import cost
from stsa_jax.metrics import losses
from stsa_jax.models import functional, layers, stsa, stsanet
from stsa_jax.ops import attention, forms
from stsa_jax.ops.pooling import max_pool_2x2_with_indices, max_unpool_2x2

pytestmark = pytest.mark.usefixtures('quick_compilation')

TINY = STSANetConfig(image_size=(32, 64), frames=16, width=0.125)


@pytest.fixture(scope='module')
def tiny():
    return functional.split(STSANet(TINY, rngs=nnx.Rngs(0)))


@pytest.fixture(scope='module')
def clips():
    return np.random.default_rng(0).normal(size=(2, 16, 32, 64, 3)).astype(np.float32)


@pytest.fixture(scope='module')
def run(tiny):
    """Eval mode with intermediates: clips -> saliency, intermediates."""
    graphdef, params, batch_stats = tiny
    compiled = jax.jit(
        lambda p, s, c: functional.apply(graphdef, p, s, c, return_intermediates=True)
    )
    return lambda clips: compiled(params, batch_stats, clips)


@pytest.fixture(scope='module')
def outputs(run, clips):
    return run(clips)


@pytest.mark.parametrize(
    'field,value',
    [
        ('image_size', (224, 376)),
        ('image_size', (16, 32)),
        ('image_size', (224,)),
        ('frames', 12),
        ('frames', 8),
        ('width', 0.0),
        ('target', 'first'),
        ('norm', 'batch'),
        ('dtype', 'float16'),
    ],
)
def test_config_names_the_field(field, value):
    with pytest.raises(InputError, match=f'config.model.{field} is .* expected'):
        STSANetConfig(**{field: value})


def test_target_frame():
    assert STSANetConfig().target_index == 15  # the 16th of 32
    assert STSANetConfig(target='last').target_index == 31


@pytest.mark.parametrize(
    'frames,image_size',
    [
        (16, (32, 32)),
        (24, (48, 112)),
        (40, (80, 32)),
        *itertools.product((16, 32, 64), ((112, 192), (224, 384), (288, 512), (448, 768))),
    ],
)
def test_every_size_gives_a_map_of_the_input_size(frames, image_size):
    config = STSANetConfig(image_size=image_size, frames=frames, width=0.125)
    graphdef, params, batch_stats = functional.abstract(STSANet, config)
    clip = jax.ShapeDtypeStruct((2, frames, *image_size, 3), jnp.float32)
    run = lambda *args: functional.apply(graphdef, *args)  # noqa: E731
    saliency = jax.eval_shape(run, params, batch_stats, clip)
    assert saliency.shape == (2, *image_size) and saliency.dtype == jnp.float32


@pytest.mark.parametrize(
    'frames,kernels', [(16, [2, 2, 1, None]), (32, [4, 4, 2, None]), (64, [8, 8, 4, 2])]
)
def test_compression_to_four_steps(frames, kernels):
    params = functional.abstract(STSANet, STSANetConfig(frames=frames))[1]
    branches = [params[f'branch{level}'] for level in range(4)]
    found = [b['compress']['kernel'].shape[0] if 'compress' in b else None for b in branches]
    assert found == kernels


@pytest.mark.parametrize(
    'frames,steps', [(16, [0, 0, 1, 1]), (24, [0, 0, 1, 2]), (32, [0, 1, 2, 3])]
)
def test_short_clips_repeat_the_steps_of_level_3(frames, steps):
    config = STSANetConfig(image_size=(32, 32), frames=frames, width=0.125)
    branch = stsanet.Branch(3, config, rngs=nnx.Rngs(0))
    branch.stsa = lambda x, *_: x
    x = jnp.arange(frames // 8, dtype=float).reshape(1, -1, 1, 1, 1)
    np.testing.assert_array_equal(branch(x).ravel(), steps)


def test_a_clip_of_another_shape_is_refused(tiny):
    with pytest.raises(InputError, match=r'\(1, 16, 32, 32, 3\) does not fit .* 16, 32, 64, 3'):
        jax.eval_shape(lambda c: functional.apply(*tiny, c), jnp.zeros((1, 16, 32, 32, 3)))


def test_output_and_intermediates(outputs, clips):
    saliency, taps = outputs
    assert saliency.shape == (2, 32, 64)
    assert float(saliency.min()) >= 0 and float(saliency.max()) <= 1
    assert taps['backbone.base1'].shape == (2, 8, 8, 16, 24)
    matrices = {name: m for name, m in taps.items() if '_to_' in name}
    assert len(matrices) == 24
    for name, matrix in matrices.items():
        np.testing.assert_allclose(matrix.sum(-1), 1, atol=1e-5, err_msg=name)


def test_examples_do_not_influence_each_other_in_eval_mode(run, outputs, clips):
    changed = np.stack([clips[0], -clips[1]])
    saliency, _ = run(changed)
    np.testing.assert_array_equal(saliency[0], outputs[0][0])
    assert np.abs(saliency[1] - outputs[0][1]).max() > 1e-4


def test_apply_does_not_modify_its_arguments(tiny, clips):
    graphdef, params, batch_stats = tiny
    before = jax.device_get(batch_stats)

    def run(params, batch_stats, clip):
        return functional.apply(graphdef, params, batch_stats, clip, train=True)

    _, new = jax.eval_shape(run, params, batch_stats, clips)
    assert jax.tree.structure(new) == jax.tree.structure(batch_stats)
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(batch_stats))


def test_a_pair_attends_to_the_other_member():
    """Equations 1 and 2, spelt out for one pair with NumPy."""
    pair = stsa.Pair(4, 3, rngs=nnx.Rngs(0))
    a, b = np.random.default_rng(1).normal(size=(2, 1, 1, 3, 5, 4)).astype(np.float32)
    matrices = {}
    found = pair(a, b, layers.Taps(matrices))
    (qa, ka, va), (qb, kb, vb) = (
        [np.asarray(x)[0] for x in e(y)] for e, y in ((pair.a, a), (pair.b, b))
    )

    def attend(query, key, value):
        logits = query @ key.T
        weights = np.exp(logits - logits.max(1, keepdims=True))
        return (weights / weights.sum(1, keepdims=True)) @ value

    expected = np.stack([attend(qb, ka, va), attend(qa, kb, vb)]).reshape(1, 2, 3, 5, 4)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert matrices['b_to_a'].shape == (1, 15, 15)


def test_which_steps_a_layer_relates():
    """Layer I mixes the steps of a pair only; layer II the halves.

    In layer II a step's place attends over the keys and values of all of its own half, with the
    query of the same step of the other half.
    """
    x = np.random.default_rng(0).normal(size=(1, 4, 2, 3, 8)).astype(np.float32)

    def relations(pairs):
        layer = stsa.STSALayer(pairs, (4, 2, 3, 8), 16, bottleneck=False, rngs=nnx.Rngs(0))

        # Before the norm, which mixes everything.
        jacobian = jax.jit(jax.jacobian(layer.attend))(x)  # output's axes, then the input's
        return np.abs(jacobian).sum(axis=(0, 2, 3, 4, 5, 7, 8, 9)) > 0

    halves = [[1, 1, 1, 0], [1, 1, 0, 1], [1, 0, 1, 1], [0, 1, 1, 1]]
    np.testing.assert_array_equal(relations(1), halves)
    np.testing.assert_array_equal(relations(2), np.kron(np.eye(2), np.ones((2, 2))))


def attention_inputs(n=37, m=29, e=5, c=4):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(2, *shape)).astype(np.float32) for shape in ((n, e), (m, e), (m, c))]


@pytest.mark.parametrize('form', forms.FORMS)
@pytest.mark.parametrize('rows', [1, 8, 13, 36])
def test_blocks_of_queries_give_the_same_numbers(monkeypatch, rows, form):
    """Forward and gradient; the number of queries is not a multiple of the blocks' rows."""

    def run(query, key, value):
        def loss(*inputs):
            out, none = attention.attend(*inputs)
            assert none is None
            return jnp.sin(out).sum(), out

        return jax.grad(loss, (0, 1, 2), has_aux=True)(query, key, value)

    with forms.use(form):
        _blocks_give_the_same_numbers(monkeypatch, rows, run)


def _blocks_give_the_same_numbers(monkeypatch, rows, run):
    inputs = attention_inputs()
    gradients, out = jax.jit(run)(*inputs)
    matrix = attention.attend(*inputs, keep_matrix=True)[1]
    assert matrix.shape == (2, 37, 29)
    monkeypatch.setattr(attention, 'LARGEST_MATRIX', rows * 29)
    blocked, same = jax.jit(lambda *x: run(*x))(*inputs)
    np.testing.assert_allclose(same, out, atol=1e-6)  # float32 sums of 29 terms
    for found, wanted in zip(blocked, gradients):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    # Whoever asks for the matrices gets them whole all the same.
    np.testing.assert_allclose(attention.attend(*inputs, keep_matrix=True)[1], matrix, atol=1e-6)


@pytest.mark.parametrize('form', forms.FORMS)
def test_gradient_of_attention(form):
    """Against JAX's own of the equation as it stands."""

    def plain(query, key, value):
        return jax.nn.softmax(query @ key.swapaxes(1, 2), axis=-1) @ value

    def matrix(query, key, value):
        return jax.nn.softmax(query @ key.swapaxes(1, 2), axis=-1)

    def gradients(attend):
        return jax.grad(lambda *x: jnp.sin(3 * attend(*x)).sum(), (0, 1, 2))(*attention_inputs())

    for keep, i, wanted in ((False, 0, plain), (True, 0, plain), (True, 1, matrix)):
        attend = lambda *x, i=i, keep=keep: attention.attend(*x, keep_matrix=keep)[i]  # noqa: E731
        with forms.use(form):
            found_gradients = gradients(attend)
        for found, expected in zip(found_gradients, gradients(wanted)):
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_memory_of_blocked_attention_is_bounded(monkeypatch):
    """No array of the program, with its gradient, is larger than a block."""
    attend = lambda *inputs: attention.attend(*inputs)[0].sum()  # noqa: E731
    shapes = [jax.ShapeDtypeStruct((1, 4096, 8), jnp.float32)] * 3

    def largest():
        program = jax.make_jaxpr(jax.value_and_grad(lambda *x: attend(*x), (0, 1, 2)))(*shapes)
        found = cost.equations(program.jaxpr)
        return max(math.prod(v.aval.shape) for equation, *_ in found for v in equation.outvars)

    assert largest() == 4096**2
    monkeypatch.setattr(attention, 'LARGEST_MATRIX', 2**16)
    assert largest() == 2**16
    compiled = jax.jit(jax.grad(attend, (0, 1, 2))).lower(*shapes).compile()
    # The matrix would be 64 MiB; a block is 256 KiB, and a few of these are there at a time.
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 2**20


def test_attention_within_steps_counts_the_matrices_of_all_steps(monkeypatch):
    pair = stsa.PairWithinSteps(6, 6, rngs=nnx.Rngs(0))
    a, b = np.random.default_rng(0).normal(size=(2, 1, 2, 4, 9, 6)).astype(np.float32)
    matrices = {}
    expected = pair(a, b, layers.Taps(matrices))
    assert {name: m.shape for name, m in matrices.items()} == dict.fromkeys(
        ('a_to_a', 'b_to_b'), (1, 2, 36, 36)
    )
    monkeypatch.setattr(attention, 'LARGEST_MATRIX', 36 * 36)  # half of it
    found = cost.equations(jax.make_jaxpr(lambda a, b: pair(a, b))(a, b).jaxpr)
    assert max(math.prod(v.aval.shape) for e, *_ in found for v in e.outvars) == 36 * 36
    np.testing.assert_allclose(pair(a, b), expected, atol=1e-6)  # float32 sums of 36 terms


def test_the_published_size_does_not_use_blocks():
    places = 2 * 28 * 48  # of layer II on levels 0 and 1
    assert places**2 <= attention.LARGEST_MATRIX < (4 * places) ** 2  # in blocks at 448x768


def test_size_free_norm_has_one_scale_per_channel():
    config = STSANetConfig(image_size=(32, 64), frames=16, width=0.125, norm='size_free')
    shapes = [
        functional.abstract(STSANet, c)[1]
        for c in (config, dataclasses.replace(config, image_size=(112, 96)))
    ]
    assert shapes[0] == shapes[1]
    assert shapes[0]['branch1']['stsa']['layer_1']['norm']['scale'].shape == (60,)
    full, free = (
        layers.LayerNorm((4, 2, 3, 5), size_free=size_free, rngs=nnx.Rngs(0))
        for size_free in (False, True)
    )
    x = np.random.default_rng(0).normal(3, 2, (2, 4, 2, 3, 5)).astype(np.float32)
    np.testing.assert_array_equal(full(x), free(x))
    free.scale.set_value(jnp.arange(5.0))
    np.testing.assert_allclose(free(x), full(x) * np.arange(5), rtol=1e-6)


def test_bottleneck_leaves_three_of_four_positions_empty():
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 8, 3)).astype(np.float32)
    pooled, index = max_pool_2x2_with_indices(x)
    spread = np.asarray(max_unpool_2x2(pooled, index)).reshape(1, 4, 2, 2, 4, 2, 3)
    assert ((spread != 0).sum(axis=(3, 5)) == 1).all()


maps = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).uniform(0.01, 1, (2, 6, 8)).astype(np.float32)
)


@settings(max_examples=20, deadline=None)
@given(prediction=maps, density=maps, scale=st.floats(0.1, 10))
def test_loss_invariants(prediction, density, scale):
    loss = losses.saliency_loss(prediction, density)
    # float32 sums over 48 pixels.
    np.testing.assert_allclose(losses.saliency_loss(scale * prediction, density), loss, atol=1e-4)
    np.testing.assert_allclose(losses.saliency_loss(prediction, scale * density), loss, atol=1e-4)
    np.testing.assert_allclose(losses.saliency_loss(density, density), -1, atol=1e-5)
    assert (np.asarray(losses.kl(prediction, density)) > -1e-6).all()
    p, g = prediction.astype(np.float64), density.astype(np.float64)
    expected = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(p, g)]
    np.testing.assert_allclose(losses.cc(prediction, density), expected, atol=1e-5)


def test_loss_of_a_constant_prediction_is_finite():
    density = np.random.default_rng(0).uniform(size=(1, 6, 8)).astype(np.float32)
    loss, gradient = jax.value_and_grad(lambda p: losses.saliency_loss(p, density).sum())(
        jnp.full((1, 6, 8), 0.5)
    )
    assert np.isfinite(loss) and np.isfinite(gradient).all()
    assert losses.cc(jnp.ones((1, 6, 8)), density)[0] == 0
