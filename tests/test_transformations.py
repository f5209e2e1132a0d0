"""Every transformation of JAX goes through the network, in eval and train mode.

Numbers are checked on a miniature of the same modules, in float64, against finite differences and
each other. The whole network and the variants of the paper's tables are traced, not compiled. What
takes minutes runs with STSA_JAX_TRANSFORMATIONS=1 alone, as in .ci/run.
"""

import functools
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from configs import ablations
from stsa_jax import STSANet, STSANetConfig
from stsa_jax.models import functional
from stsa_jax.models.amsf import AMSF
from stsa_jax.models.layers import ConvOfUpsampled
from stsa_jax.models.s3d import Mixed, SepConv
from stsa_jax.models.stsa import STSAModule
from stsa_jax.ops import forms
from stsa_jax.ops.pooling import max_pool
from stsa_jax.training import remat

SMALL = {'image_size': (32, 32), 'frames': 16, 'width': 0.03125}
# Compiled for the numbers, not for speed.
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
IN_CI = pytest.mark.skipif(
    not os.environ.get('STSA_JAX_TRANSFORMATIONS'), reason='takes minutes: .ci/run runs it'
)
MODES = pytest.mark.parametrize('train', [False, True], ids=['eval', 'train'])


class Miniature(nnx.Module):
    """A clip `(B, 8, 16, 16, 3)` -> `(B, 8, 8)`, through each kind of module of the network."""

    def __init__(self, *, rngs):
        self.stem = SepConv(3, 6, 3, 2, rngs=rngs)
        self.mixed = Mixed('3b', 6, 0.02, rngs=rngs)
        stsa = {'bottleneck': True, 'rngs': rngs}
        self.stsa = STSAModule((4, 4), (16, 4), (4, 4), **stsa)
        self.fusion = AMSF(4, 4, rngs=rngs)
        self.readout = ConvOfUpsampled(4, 1, (4, 3, 3), stride=(4, 1, 1), rngs=rngs)

    def __call__(self, clip, *, train=False):
        x = self.mixed(self.stem(clip, train=train), train=train)  # 4, 8, 8, 16
        x = self.stsa(max_pool(x, (1, 3, 3), (1, 2, 2), (0, 1, 1)))  # 4, 4, 4, 4
        return jax.nn.sigmoid(self.readout(self.fusion(x, x[:, ::-1])))[:, 0, :, :, 0]


@pytest.fixture(scope='module')
def miniature():
    """(f(params, batch_stats, clip, train) -> maps, params, batch_stats, clips), in float64."""
    graphdef, params, batch_stats = functional.split(Miniature(rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        wide = lambda x: jnp.asarray(x, x.dtype if x.dtype == np.int32 else np.float64)  # noqa: E731
        params, batch_stats = jax.tree.map(wide, (params, batch_stats))
        # No bias of zero: with those some features are at a kink of their ReLU, all alike.
        shift = direction(params, 5)
        params = jax.tree.map(lambda p, d: p + 0.1 * d, params, shift)
        clips = jnp.asarray(rng.normal(size=(3, 8, 16, 16, 3)))

        def f(params, batch_stats, clip, train=False):
            out = functional.apply(graphdef, params, batch_stats, clip, train=train)
            return out[0] if train else out

        yield f, params, batch_stats, clips


def direction(tree, seed):
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return structure.unflatten(
        [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves)]
    )


def inner(a, b):
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


@MODES
def test_first_derivatives(miniature, train):
    """jvp against finite differences; vjp, linearize, jacfwd and jacrev against jvp."""
    f, params, batch_stats, clips = miniature
    v, w = direction(params, 1), direction(jnp.zeros((3, 8, 8)), 2)

    @jit
    def run(params):
        g = lambda p: f(p, batch_stats, clips, train)  # noqa: E731
        out, tangent = jax.jvp(g, (params,), (v,))
        _, linear = jax.linearize(g, params)
        (cotangent,) = jax.vjp(g, params)[1](w)
        along = lambda t: g(jax.tree.map(lambda p, d: p + t * d, params, v))  # noqa: E731
        forward = jax.jacfwd(along)(0.0)
        backward = jax.jacrev(lambda t: inner(along(t), w))(0.0)
        step = 1e-8
        difference = (along(step) - along(-step)) / (2 * step)
        return out, tangent, linear(v), cotangent, forward, backward, difference

    out, tangent, linear, cotangent, forward, backward, difference = run(params)
    assert float(jnp.abs(tangent).max()) > 1e-4 and out.shape == (3, 8, 8)
    # Central differences in float64 with a step of 1e-8: larger ones cross kinks of the ReLUs.
    np.testing.assert_allclose(tangent, difference, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(linear, tangent, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(forward, tangent, rtol=1e-9, atol=1e-12)
    expected = float(inner(tangent, w))
    assert float(inner(cotangent, v)) == pytest.approx(expected, rel=1e-9)
    assert float(backward) == pytest.approx(expected, rel=1e-9)


@IN_CI
@MODES
def test_hessian_vector_products_in_both_orders(miniature, train):
    f, params, batch_stats, clips = miniature
    u, v = direction(params, 3), direction(params, 4)

    @jit
    def run(params):
        loss = lambda p: jnp.square(f(p, batch_stats, clips, train)).sum()  # noqa: E731
        forward_over_reverse = jax.jvp(jax.grad(loss), (params,), (v,))[1]
        reverse_over_forward = jax.grad(lambda p: jax.jvp(loss, (p,), (v,))[1])(params)
        other = jax.grad(lambda p: inner(jax.grad(loss)(p), u))(params)  # reverse over reverse
        return forward_over_reverse, reverse_over_forward, other

    first, second, other = run(params)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(first)) > 1e-6
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second)):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-10)
    assert float(inner(u, first)) == pytest.approx(float(inner(v, other)), rel=1e-8), 'symmetric'


@IN_CI
def test_vmap_and_gradients_of_each_example(miniature):
    f, params, batch_stats, clips = miniature
    stacked = jax.tree.map(lambda x: jnp.stack([x, 1.1 * x]), params)
    one = lambda p, clip: f(p, batch_stats, clip[None])[0]  # noqa: E731
    loss = lambda p, clip: jnp.square(one(p, clip)).sum()  # noqa: E731

    @jit
    def run(params, clips):
        batch = f(params, batch_stats, clips)
        over_clips = jax.vmap(functools.partial(one, params))(clips)
        over_parameters = jax.vmap(lambda p: f(p, batch_stats, clips))(stacked)
        each = jax.vmap(jax.grad(loss), (None, 0))(params, clips)
        whole = jax.grad(lambda p: jnp.square(f(p, batch_stats, clips)).sum())(params)
        return batch, over_clips, over_parameters, each, whole

    batch, over_clips, over_parameters, each, whole = run(params, clips)
    np.testing.assert_allclose(over_clips, batch, rtol=1e-10)
    np.testing.assert_allclose(over_parameters[0], batch, rtol=1e-10)
    assert np.abs(over_parameters[1] - batch).max() > 1e-4
    for a, b in zip(jax.tree.leaves(each), jax.tree.leaves(whole)):
        np.testing.assert_allclose(a.sum(0), b, rtol=1e-7, atol=1e-12)


@IN_CI
@MODES
def test_scan_checkpoint_and_donation(miniature, train):
    f, params, batch_stats, clips = miniature
    loss = lambda p, clip: jnp.square(f(p, batch_stats, clip[None], train)).sum()  # noqa: E731

    def descend(loss, params):
        def step(p, clip):
            value, gradient = jax.value_and_grad(loss)(p, clip)
            return jax.tree.map(lambda a, g: a - 1e-2 * g, p, gradient), value

        return jax.lax.scan(step, params, clips)

    plain = jit(functools.partial(descend, loss))(params)
    around = functools.partial(descend, jax.checkpoint(loss))
    given = jax.tree.map(jnp.copy, params)
    again = jit(around, donate_argnums=0)(given)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given)), 'donated'
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again)):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    # The same step by step, without any of them.
    step, p = jit(jax.value_and_grad(loss)), params
    for clip, scanned in zip(clips, plain[1]):
        value, gradient = step(p, clip)
        assert float(value) == pytest.approx(float(scanned), rel=1e-9)
        p = jax.tree.map(lambda a, g: a - 1e-2 * g, p, gradient)


def every_derivative(config, train):
    """Traces what uses each transformation of the network of `config` once."""
    graphdef, params, batch_stats = functional.abstract(STSANet, config)
    clip = jax.ShapeDtypeStruct((1, config.frames, *config.image_size, 3), jnp.float32)

    def loss(params, batch_stats, clip):
        out = functional.apply(graphdef, params, batch_stats, clip, train=train)
        return jnp.square(out[0] if train else out).sum()

    def run(params, batch_stats, clip):
        g = lambda p: loss(p, batch_stats, clip)  # noqa: E731
        return jax.jvp(jax.grad(g), (params,), (params,))[1]

    return jax.eval_shape(run, params, batch_stats, clip), params


@MODES
def test_the_whole_network_forward_over_reverse(train):
    product, params = every_derivative(STSANetConfig(**SMALL), train)
    assert jax.tree.map(lambda x: x.shape, product) == jax.tree.map(lambda x: x.shape, params)


@IN_CI
@MODES
@pytest.mark.parametrize('row', ablations.ROWS)
def test_each_variant_forward_over_reverse(row, train):
    product, params = every_derivative(STSANetConfig(**SMALL, **ablations.ROWS[row]), train)
    assert jax.tree.map(lambda x: x.shape, product) == jax.tree.map(lambda x: x.shape, params)


@pytest.fixture(scope='module')
def exported():
    """The eval-mode network exported for three platforms from this machine."""
    graphdef, *weights = functional.abstract(STSANet, STSANetConfig(**SMALL))
    clip = jax.ShapeDtypeStruct((1, 16, 32, 32, 3), jnp.float32)
    run = jax.jit(functools.partial(functional.apply, graphdef))
    return export.export(run, platforms=('cpu', 'cuda', 'tpu'))(*weights, clip)


def test_export_holds_nothing_of_the_cpus_room(exported):
    text = exported.mlir_module()
    kernels = re.findall(r'stablehlo.convolution.*?dim_numbers = \[b, 0, 1, 2, f\]', text)
    assert len(kernels) == text.count('stablehlo.convolution') > 100, 'all are 3-D'
    assert 'stablehlo.reduce_window' in text
    assert 'optimization_barrier' not in text and 'platform_index' not in text.split('{')[-1]
    assert 'stablehlo.while' not in text and 'custom_call' not in text


def test_the_forms_for_cpus_are_another_program():
    graphdef, *weights = functional.abstract(STSANet, STSANetConfig(**SMALL))
    clip = jax.ShapeDtypeStruct((1, 16, 32, 32, 3), jnp.float32)

    def lowered():
        run = jax.jit(functools.partial(functional.apply, graphdef))
        return run.trace(*weights, clip).lower(lowering_platforms=('tpu',)).as_text()

    plain = lowered()
    with forms.use('cpu'):
        other = lowered()
    assert plain == lowered(), 'the choice ends with its context'
    assert 'dim_numbers = [b, 0, 1, f]' in other and 'dim_numbers = [b, 0, 1, f]' not in plain
    assert 'reduce_window' not in other


@pytest.mark.parametrize('keep', remat.KEEP)
def test_a_training_gradient_for_tpus_is_plain(keep):
    """Whatever a gradient keeps: the only barriers are those of `jax.checkpoint`."""
    graphdef, *weights = functional.abstract(STSANet, STSANetConfig(**SMALL))
    clip = jax.ShapeDtypeStruct((1, 16, 32, 32, 3), jnp.float32)
    loss = lambda p, s, c: jnp.sum(remat.apply(graphdef, keep)(p, s, c, train=True)[0])  # noqa: E731
    program = jax.jit(jax.grad(loss)).trace(*weights, clip).lower(lowering_platforms=('tpu',))
    text = program.as_text()
    assert ('optimization_barrier' in text) == (keep != 'everything')
    assert 'stablehlo.while' not in text and 'dim_numbers = [b, 0, 1, f]' not in text
