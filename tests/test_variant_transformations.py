"""Every transformation of JAX, on the whole network and on every variant of the paper's tables.

The networks are small and traced, not compiled: a transformation either has a rule for all that a
program is made of, or fails here. On the whole network each is traced alone; on the variants they
are nested, which takes a third of the time. tests/test_transformations.py compares the numbers.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.tree_util import tree_map

from configs import ablations
from stsa_jax import STSANet, STSANetConfig
from stsa_jax.models import functional

pytestmark = pytest.mark.long
SMALLEST = {'image_size': (32, 32), 'frames': 16, 'width': 1 / 64}
PLATFORMS = ('cpu', 'cuda', 'tpu')


class Network:
    """A variant in one mode, as functions of its parameters; clips are of two examples."""

    def __init__(self, row: str, train: bool):
        config = STSANetConfig(**SMALLEST, **ablations.ROWS[row])
        self.graphdef, self.params, self.batch_stats = functional.abstract(STSANet, config)
        self.clips = jax.ShapeDtypeStruct((2, 16, 32, 32, 3), jnp.float32)
        self.train = train

    def saliency(self, params, batch_stats, clips):
        out = functional.apply(self.graphdef, params, batch_stats, clips, train=self.train)
        return out[0] if self.train else out

    def loss(self, params, batch_stats, clips):
        return jnp.square(self.saliency(params, batch_stats, clips)).sum()

    def shape(self, function):
        """Of what `function(params, batch_stats, clips)` gives, or the error of tracing it."""
        return jax.eval_shape(function, self.params, self.batch_stats, self.clips)


def like(tree):
    """Another tree of these shapes: a direction, or a cotangent."""
    return tree_map(lambda x: jnp.ones(x.shape, x.dtype), tree)


def shapes(tree):
    return tree_map(lambda x: x.shape, tree)


def jvp(net, p, s, c):
    return jax.jvp(lambda p: net.saliency(p, s, c), (p,), (like(p),))[1]


def vjp(net, p, s, c):
    out, pull = jax.vjp(lambda p: net.saliency(p, s, c), p)
    return pull(like(out))[0]


def linearize(net, p, s, c):
    return jax.linearize(lambda p: net.saliency(p, s, c), p)[1](like(p))


def light(net, p, s, c):
    """Of the clip's brightness and contrast, so that the Jacobian is small: `(2,)` -> scalar."""
    return lambda a: net.loss(p, s, a[0] + a[1] * c)


def jacfwd(net, p, s, c):
    return jax.jacfwd(light(net, p, s, c))(jnp.array([0.0, 1.0]))


def jacrev(net, p, s, c):
    return jax.jacrev(light(net, p, s, c))(jnp.array([0.0, 1.0]))


def forward_over_reverse(net, p, s, c):
    return jax.jvp(jax.grad(lambda p: net.loss(p, s, c)), (p,), (like(p),))[1]


def reverse_over_forward(net, p, s, c):
    return jax.grad(lambda p: jax.jvp(lambda q: net.loss(q, s, c), (p,), (like(p),))[1])(p)


def reverse_over_reverse(net, p, s, c):
    gradient = jax.grad(lambda p: net.loss(p, s, c))
    return jax.grad(lambda p: sum(jnp.sum(g) for g in jax.tree.leaves(gradient(p))))(p)


def vmap_over_clips(net, p, s, c):
    return jax.vmap(lambda clip: net.saliency(p, s, clip[None])[0])(c)


def vmap_over_parameters(net, p, s, c):
    stacked = tree_map(lambda x: jnp.stack([x, 2 * x, 3 * x]), p)
    return jax.vmap(lambda p: net.saliency(p, s, c))(stacked)


def gradients_of_each_example(net, p, s, c):
    return jax.vmap(lambda clip: jax.grad(net.loss)(p, s, clip[None]))(c)


def scan_of_checkpoint(net, p, s, c):
    def add(total, clip):
        gradient = jax.grad(jax.checkpoint(net.loss))(p, s, clip[None])
        return tree_map(jnp.add, total, gradient), None

    return jax.lax.scan(add, tree_map(jnp.zeros_like, p), c)[0]


OF_PARAMS = lambda net: shapes(net.params)  # noqa: E731
OF_MAPS = lambda net: (2, 32, 32)  # noqa: E731
# Each transformation, and the shapes that it gives.
TRANSFORMATIONS = {
    jvp: OF_MAPS,
    vjp: OF_PARAMS,
    linearize: OF_MAPS,
    jacfwd: lambda net: (2,),
    jacrev: lambda net: (2,),
    forward_over_reverse: OF_PARAMS,
    reverse_over_forward: OF_PARAMS,
    reverse_over_reverse: OF_PARAMS,
    vmap_over_clips: OF_MAPS,
    vmap_over_parameters: lambda net: (3, 2, 32, 32),
    gradients_of_each_example: lambda net: tree_map(lambda x: (2, *x.shape), net.params),
    scan_of_checkpoint: OF_PARAMS,
}


def vmap_of_jvp_of_grad(net, p, s, c):
    """A product with the Hessian for each of several sets of parameters."""
    return jax.vmap(lambda p: forward_over_reverse(net, p, s, c))(
        tree_map(lambda x: jnp.stack([x, 2 * x]), p)
    )


def vmap_of_grad_of_linearize(net, p, s, c):
    """For each clip, the gradient of a derivative in one direction."""

    def along(p, clip):
        out, linear = jax.linearize(lambda p: net.saliency(p, s, clip[None]), p)
        return jnp.sum(out * linear(like(p)))

    return jax.vmap(jax.grad(along), (None, 0))(p, c)


def scan_of_jacfwd_and_checkpoint(net, p, s, c):
    """A sum over clips of Jacobians in both modes."""

    def add(total, clip):
        f = jax.checkpoint(light(net, p, s, clip[None]))
        point = jnp.array([0.0, 1.0])
        return total + jax.jacfwd(f)(point) + jax.jacrev(f)(point), None

    return jax.lax.scan(add, jnp.zeros(2), c)[0]


TWO_OF_PARAMS = lambda net: tree_map(lambda x: (2, *x.shape), net.params)  # noqa: E731
NESTED = {
    vmap_of_jvp_of_grad: TWO_OF_PARAMS,
    vmap_of_grad_of_linearize: TWO_OF_PARAMS,
    scan_of_jacfwd_and_checkpoint: lambda net: (2,),
}
# Rows that differ in training alone have the same network.
ROWS = [row for row in ablations.ROWS if 'supervised' not in row]
MODES = pytest.mark.parametrize('train', [False, True], ids=['eval', 'train'])


def check(net, transformations):
    for transform, expected in transformations.items():
        found = shapes(net.shape(functools.partial(transform, net)))
        assert found == expected(net), transform.__name__


@MODES
def test_the_whole_network(train):
    check(Network('full', train), TRANSFORMATIONS)


# The modes differ in BatchNorm alone, and eval mode has no operation that train mode lacks
# (tests/test_transformations.py): of the variants, train mode is enough.
@pytest.mark.parametrize('row', ROWS)
def test_each_variant(row):
    check(Network(row, train=True), NESTED)


@pytest.mark.parametrize('row', ROWS)
def test_donated_parameters_and_export(row):
    net = Network(row, train=True)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(p, s, c):
        return tree_map(lambda a, g: a - 0.1 * g, p, jax.grad(net.loss)(p, s, c))

    inputs = net.params, net.batch_stats, net.clips
    exported = jax.export.export(step, platforms=PLATFORMS)(*inputs)
    assert exported.platforms == PLATFORMS
    text = exported.mlir_module()
    donated = text.count('tf.aliasing_output') + text.count('jax.buffer_donor')
    assert donated == len(jax.tree.leaves(net.params))
    assert 'optimization_barrier' not in text and 'stablehlo.while' not in text
