"""The network goes through every transformation of JAX, and they agree with each other.

Numbers are compared on a network of a few of its layers, which compiles in seconds. The whole
network, and those of the paper's tables, are traced, lowered and exported, but not compiled: a
transformation has a rule for each primitive, so it goes through every program of these primitives.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params

from configs import ablations
from stsa_jax.models import functional
from stsa_jax.models.amsf import AMSF
from stsa_jax.models.layers import ConvBNReLU, ConvOfUpsampled
from stsa_jax.models.stsa import STSALayer
from stsa_jax.models.stsanet import STSANet, STSANetConfig
from stsa_jax.ops import forms
from stsa_jax.ops.upsampling import upsample_2x
from stsa_jax.training import remat

PLATFORMS = ('cpu', 'cuda', 'tpu')
SMALLEST = {'image_size': (32, 32), 'frames': 16, 'width': 1 / 64}
# A compiler that optimises less takes half the time; the programs are the same.
FAST = {'xla_backend_optimization_level': 0}


# --- the whole network, and the rows of the tables ---------------------------------------------


def network(row='full'):
    """`(apply, params, batch_stats, clip)` of a row, with shapes in place of arrays."""
    config = STSANetConfig(**SMALLEST, **ablations.ROWS[row])
    graphdef, params, batch_stats = functional.abstract(STSANet, config)
    clip = jax.ShapeDtypeStruct((1, config.frames, *config.image_size, 3), jnp.float32)
    return functools.partial(functional.apply, graphdef), params, batch_stats, clip


def traced(run, *inputs, train):
    return jax.jit(functools.partial(run, train=train)).trace(*inputs)


def primitives(jaxpr):
    found = set()
    for equation in jaxpr.eqns:
        found.add(equation.primitive.name)
        for inner in jaxprs_in_params(equation.params):
            found |= primitives(inner)
    return found


@pytest.fixture(scope='module')
def of_full():
    """The primitives of the whole network in train mode."""
    return primitives(traced(*network(), train=True).jaxpr.jaxpr)


@pytest.mark.long
def test_products_with_the_hessian_of_the_whole_network_by_clip():
    """In train mode: `vmap` of `jvp` of `grad`."""
    run, params, batch_stats, clip = network()

    def product(params, direction, batch_stats, clip):
        loss = lambda p: run(p, batch_stats, clip, train=True)[0].mean()  # noqa: E731
        return jax.jvp(jax.grad(loss), (params,), (direction,))[1]

    clips = jax.ShapeDtypeStruct((2, *clip.shape), clip.dtype)
    by_clip = jax.vmap(product, (None, None, None, 0))
    products = jax.eval_shape(by_clip, params, params, batch_stats, clips)
    assert jax.tree.map(jnp.shape, products) == jax.tree.map(lambda p: (2, *p.shape), params)


def test_the_small_network_has_all_operations_of_the_whole_network(of_full):
    """So what goes through those, with the numbers below, goes through this, in both modes."""
    clip = jnp.zeros((2, 2, 8, 8, 3))
    run = functools.partial(functional.apply, GRAPHDEF)
    of_few = primitives(traced(run, *WEIGHTS, clip, train=True).jaxpr.jaxpr)
    assert of_full <= of_few
    assert primitives(traced(*network(), train=False).jaxpr.jaxpr) <= of_full


@pytest.mark.parametrize('row', [row for row in ablations.ROWS if 'supervised' not in row])
def test_a_row_has_no_operations_but_those_of_the_whole_network(of_full, row):
    """So what goes through that one goes through each; and each is exported for every platform.

    Train mode changes BatchNorm alone, which is in the backbone; no row changes that.
    """
    run, params, batch_stats, clip = network(row)
    assert batch_stats.keys() == {'backbone'}
    program = jax.jit(functools.partial(run, train=True))
    assert primitives(program.trace(params, batch_stats, clip).jaxpr.jaxpr) <= of_full
    exported = jax.export.export(program, platforms=PLATFORMS)(params, batch_stats, clip)
    assert exported.platforms == PLATFORMS and exported.out_avals[0].shape == (1, 32, 32)


def test_no_custom_derivative_rules(of_full):
    """They would be for reverse mode alone. ReLU's is JAX's own, for both."""
    assert 'custom_vjp_call' not in of_full and 'optimization_barrier' not in of_full
    with forms.use('cpu'):
        of_cpu = primitives(traced(*network(), train=True).jaxpr.jaxpr)
    assert {'custom_vjp_call', 'optimization_barrier'} <= of_cpu


# --- what accelerators are given ---------------------------------------------------------------


def convolutions(text):
    """The dimensions of each: '[b, 0, 1, 2, f]x[0, 1, 2, i, o]->[b, 0, 1, 2, f]'."""
    return re.findall(r'stablehlo\.convolution\(.*?dim_numbers = (.*?), window', text)


@pytest.mark.parametrize(
    'keep',
    [pytest.param(k, marks=[pytest.mark.long] * (k != 'everything')) for k in remat.KEEP],
)
def test_a_training_gradient_for_tpus_is_plain(keep):
    """Whatever a gradient keeps: the only barriers are those of `jax.checkpoint`."""
    config = STSANetConfig(**SMALLEST)
    graphdef, *weights = functional.abstract(STSANet, config)
    clip = jax.ShapeDtypeStruct((1, config.frames, *config.image_size, 3), jnp.float32)
    loss = lambda p, s, c: jnp.sum(remat.apply(graphdef, keep)(p, s, c, train=True)[0])  # noqa: E731
    program = jax.jit(jax.grad(loss)).trace(*weights, clip).lower(lowering_platforms=('tpu',))
    text = program.as_text()
    assert ('optimization_barrier' in text) == (keep != 'everything')
    assert 'stablehlo.while' not in text and not any(
        '[b, 0, 1, f]' in n for n in convolutions(text)
    )


@pytest.mark.parametrize('platform', ['tpu', 'cuda'])
def test_a_program_for_accelerators_has_nothing_of_a_cpu(platform):
    run, params, *inputs = network()
    text = traced(run, params, *inputs, train=False).lower(lowering_platforms=(platform,)).as_text()
    kernels = [path for path in traverse_util.flatten_dict(params) if path[-1] == 'kernel']
    # One for each kernel, and for the edges and corners of two convolutions of upsampled features.
    number = len(kernels) + 2 * 8
    assert convolutions(text) == ['[b, 0, 1, 2, f]x[0, 1, 2, i, o]->[b, 0, 1, 2, f]'] * number
    # One in each of nine Mixed blocks and three fusions, four between the backbone's stages.
    assert text.count('stablehlo.reduce_window') == 9 + 3 + 4
    assert 'custom_call' not in text and 'optimization_barrier' not in text
    with forms.use('cpu'):
        other = traced(run, params, *inputs, train=False).lower(lowering_platforms=(platform,))
    assert 'optimization_barrier' in other.as_text() and 'reduce_window' not in other.as_text()
    assert not any('0, 1, 2' in numbers for numbers in convolutions(other.as_text()))


def test_the_program_does_not_depend_on_the_devices_of_the_machine(monkeypatch):
    run, *inputs = network()

    def lowered():
        return traced(run, *inputs, train=True).lower(lowering_platforms=('tpu',)).as_text()

    before = lowered()

    def asked(*args, **kwargs):
        raise AssertionError('the program asks which devices there are')

    for name in ('devices', 'local_devices', 'default_backend', 'device_count'):
        monkeypatch.setattr(jax, name, asked)
    assert lowered() == before
    with forms.use('cpu'), pytest.raises(AssertionError, match='which devices'):
        lowered()


# --- numbers -----------------------------------------------------------------------------------


class Few(nnx.Module):
    """BatchNorm, attention in the bottleneck, the fusion and upsampling, of a few channels."""

    def __init__(self, *, rngs):
        self.backbone = ConvBNReLU(3, 4, (1, 3, 3), stride=(1, 2, 2), rngs=rngs)
        self.stsa = STSALayer(1, (4, 4, 4, 4), 4, bottleneck=True, rngs=rngs)
        self.amsf = AMSF(4, 4, rngs=rngs)
        self.map = ConvOfUpsampled(4, 1, (1, 3, 3), rngs=rngs)

    def __call__(self, clip, *, train=False):
        x = self.backbone(clip, train=train)[:, np.array([0, 0, 1, 1])]  # as level 3 of 16 frames
        x = self.map(upsample_2x(self.amsf(self.stsa(x), x)))  # B, 4, 16, 16, 1
        return jax.nn.sigmoid(x).mean(axis=(1, 4))


GRAPHDEF, *WEIGHTS = functional.split(Few(rngs=nnx.Rngs(0)))


def random_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), tree)


def dot(a, b):
    return sum((x * y).sum() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def moved(point, direction, by):
    return jax.tree.map(lambda x, v: x + by * v, point, direction)


def assert_close(found, expected, tolerance=1e-9):
    """Of trees: to `tolerance` of the largest number."""
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    assert largest > 0
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * largest)


@pytest.fixture(scope='module')
def derivatives():
    """Of the saliency in train mode, by parameters and clip, in float64: all from one program."""
    with jax.enable_x64(True):
        params, batch_stats = jax.tree.map(
            lambda x: np.asarray(x, float if x.dtype == jnp.float32 else x.dtype), WEIGHTS
        )
        clip = np.random.default_rng(1).normal(size=(2, 2, 8, 8, 3))
        # At its first weights LayerNorm leaves repeated steps equal: ties for the max pool.
        params = moved(params, random_like(params, 0), 0.1)
        point = {'params': params, 'clip': clip}

        def saliency(point):
            inputs = point['params'], batch_stats, point['clip']
            return functional.apply(GRAPHDEF, *inputs, train=True)[0]

        @functools.partial(jax.jit, compiler_options=FAST)
        def compute(point, v, u):
            loss = lambda point: (u * saliency(point)).sum()  # noqa: E731
            value, pull = jax.vjp(saliency, point)
            gradient, hessian_v = jax.jvp(jax.grad(loss), (point,), (v,))
            return {
                'value': value,
                'jvp': jax.jvp(saliency, (point,), (v,))[1],
                'linearize': jax.linearize(saliency, point)[1](v),
                'vjp': pull(u)[0],
                'grad': gradient,
                'forward over reverse': hessian_v,
                'reverse over forward': jax.grad(lambda p: jax.jvp(loss, (p,), (v,))[1])(point),
            }

        def on_host(*inputs):
            return jax.tree.map(np.asarray, compute(*inputs))

        # The third way, a gradient of a gradient, is traced: compiling takes as long again.
        def reverse_over_reverse(point, v):
            gradient = jax.grad(lambda point: saliency(point).sum())
            return jax.grad(lambda p: dot(gradient(p), v))(point)

        shapes = jax.tree.map(np.shape, jax.eval_shape(reverse_over_reverse, point, point))
        assert shapes == jax.tree.map(np.shape, point)
        yield on_host, point


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_first_derivatives(derivatives, seed):
    compute, point = derivatives
    with jax.enable_x64(True):
        v, u = random_like(point, seed), random_like(np.zeros((2, 16, 16)), seed + 1)
        found = compute(point, v, u)
        assert found['value'].dtype == jnp.float64
        assert_close(found['linearize'], found['jvp'])
        assert_close(found['grad'], found['vjp'])
        # <u, J v> = <J' u, v>
        assert_close(dot(u, found['jvp']), dot(found['vjp'], v))


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_second_derivatives(derivatives, seed):
    compute, point = derivatives
    with jax.enable_x64(True):
        v, w = random_like(point, seed), random_like(point, seed + 1)
        u = random_like(np.zeros((2, 16, 16)), seed + 2)
        of_v, of_w = compute(point, v, u), compute(point, w, u)
        product = of_v['forward over reverse']
        assert_close(of_v['reverse over forward'], product)
        # <w, H v> = <H w, v>
        assert_close(dot(w, product), dot(of_w['forward over reverse'], v))


def test_derivatives_are_the_limits_of_differences(derivatives):
    compute, point = derivatives
    with jax.enable_x64(True):
        v, u = random_like(point, 3), random_like(np.zeros((2, 16, 16)), 4)
        step = 1e-7  # too small for the pools' maxima to change places
        before, after = (compute(moved(point, v, by), v, u) for by in (-step, step))
        slope = lambda name: jax.tree.map(  # noqa: E731
            lambda a, b: (b - a) / (2 * step), before[name], after[name]
        )
        found = compute(point, v, u)
        # Rounding: 1e-16 / 1e-7, times the numbers that the network goes through.
        assert_close(found['jvp'], slope('value'), 1e-6)
        assert_close(found['forward over reverse'], slope('grad'), 1e-6)


def test_jacobians_by_columns_and_by_rows():
    """Of the means of four quarters of the map, by the clip's brightness and contrast."""
    clip = np.random.default_rng(1).normal(size=(1, 2, 8, 8, 3)).astype(np.float32)

    def quarters(light):
        saliency = functional.apply(GRAPHDEF, *WEIGHTS, light[0] + light[1] * clip)
        return saliency.reshape(2, 8, 2, 8).mean((1, 3)).reshape(4)

    @functools.partial(jax.jit, compiler_options=FAST)
    def both(light):
        return jax.jacfwd(quarters)(light), jax.jacrev(quarters)(light)

    columns, rows = both(jnp.array([0.1, 1.2]))
    assert columns.shape == rows.shape == (4, 2)
    assert_close(columns, rows, 1e-4)  # float32


@pytest.fixture(scope='module')
def in_one_step():
    """A step of descent in eval mode, whose parameters are donated, and the same in other ways."""
    rng = np.random.default_rng(2)
    clips = jnp.asarray(rng.normal(size=(3, 2, 8, 8, 3)), jnp.float32)
    target = jnp.asarray(rng.uniform(size=(3, 16, 16)), jnp.float32)
    params, batch_stats = WEIGHTS
    run = functools.partial(functional.apply, GRAPHDEF)

    def loss(params, clips, target):
        return jnp.square(run(params, batch_stats, clips) - target).mean()

    def loss_of_one(params, clip, target):
        return loss(params, clip[None], target[None])

    @functools.partial(jax.jit, donate_argnums=0, compiler_options=FAST)
    def step(params):
        def add(total, example):
            gradient = jax.grad(jax.checkpoint(loss_of_one))(params, *example)
            return jax.tree.map(jnp.add, total, gradient), None

        zeros = jax.tree.map(jnp.zeros_like, params)
        twice = jax.tree.map(lambda p: 2 * p, params)
        gradient = jax.grad(loss)(params, clips, target)
        stacked = jax.tree.map(lambda p, q: jnp.stack([p, q]), params, twice)
        return {
            'params': moved(params, gradient, -0.1),
            'gradient': gradient,
            'per example': jax.vmap(jax.grad(loss_of_one), (None, 0, 0))(params, clips, target),
            'scan of checkpoint': jax.lax.scan(add, zeros, (clips, target))[0],
            'batch': run(params, batch_stats, clips),
            'vmap over clips': jax.vmap(lambda c: run(params, batch_stats, c[None])[0])(clips),
            'vmap over parameters': jax.vmap(lambda p: run(p, batch_stats, clips))(stacked),
            'of twice the parameters': run(twice, batch_stats, clips),
        }

    donated = jax.tree.map(jnp.copy, params)
    return donated, jax.tree.map(np.asarray, step(donated))


@pytest.mark.long
def test_gradients_of_each_example_add_up_to_the_batch(in_one_step):
    _, found = in_one_step
    mean = jax.tree.map(lambda g: g.mean(0), found['per example'])
    assert_close(mean, found['gradient'], 1e-5)  # float32


@pytest.mark.long
def test_scan_over_clips_with_checkpoint_adds_the_same_gradients(in_one_step):
    _, found = in_one_step
    total = jax.tree.map(lambda g: g.sum(0), found['per example'])
    assert_close(found['scan of checkpoint'], total, 1e-5)


@pytest.mark.long
def test_vmap_over_clips_and_over_parameters(in_one_step):
    _, found = in_one_step
    assert_close(found['vmap over clips'], found['batch'], 1e-5)
    alone = np.stack([found['batch'], found['of twice the parameters']])
    assert_close(found['vmap over parameters'], alone, 1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3


@pytest.mark.long
def test_donated_parameters_are_deleted_and_give_the_same_result(in_one_step):
    donated, found = in_one_step
    assert all(array.is_deleted() for array in jax.tree.leaves(donated))
    assert_close(
        found['params'], moved(jax.tree.map(np.asarray, WEIGHTS[0]), found['gradient'], -0.1), 1e-6
    )
