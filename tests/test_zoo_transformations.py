"""Every transformation of JAX and export go through every model: traced, nothing is compiled.

`test_transformations` has the numbers, of STSA-Net; the operations that the others add have theirs
in `test_zoo_use`.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
import test_hub
from jax import export

from stsa_jax.models import functional
from stsa_jax.models.tinyhd import TinyHDConfig
from stsa_jax.ops import forms
from stsa_jax.weights import known

pytestmark = pytest.mark.long  # traces for a minute
SIZE = (32, 64)
OWN_TESTS = ('stsanet', 's3d')  # test_transformations, test_variant_transformations
CONFIGS = (
    TinyHDConfig(image_size=SIZE),
    *(test_hub.SMALL[model.kind] for model in known.KNOWN if model.kind not in OWN_TESTS),
)


@pytest.fixture(scope='module', params=CONFIGS, ids=lambda c: f'{type(c).__name__}-{c.target}')
def network(request):
    """(function of weights and clip, abstract weights, abstract clip, shape of the output)."""
    config = request.param
    graphdef, *weights = functional.abstract(known.of_config(config).module, config)
    run = functools.partial(functional.apply, graphdef)
    clip = jax.ShapeDtypeStruct((2, config.frames, *SIZE, 3), jnp.float32)
    steps = (config.frames,) if config.target == 'all' else ()
    return run, weights, clip, (2, *steps, *SIZE)


def test_derivatives_and_batches(network):
    run, weights, clip, shape = network

    def loss(params, batch_stats, clip):
        return run(params, batch_stats, clip).sum()

    def of_all(params, batch_stats, clip):
        gradient, to_clip = jax.grad(loss, (0, 2))(params, batch_stats, clip)
        forward = jax.jvp(lambda c: run(params, batch_stats, c), (clip,), (clip,))[1]
        # Forward over reverse: a Hessian's product with a vector.
        of_clip = jax.grad(loss, 2)
        curvature = jax.jvp(lambda c: of_clip(params, batch_stats, c), (clip,), (clip,))[1]
        apart = jax.vmap(lambda c: run(params, batch_stats, c[None])[0])(clip)
        again = jax.grad(jax.checkpoint(loss))(params, batch_stats, clip)
        in_turn = jax.lax.map(lambda c: run(params, batch_stats, c[None])[0], clip)
        return gradient, to_clip, forward, curvature, apart, again, in_turn

    gradient, to_clip, forward, curvature, apart, again, in_turn = jax.eval_shape(
        of_all, *weights, clip
    )
    same = lambda a, b: jax.tree.map(jnp.shape, a) == jax.tree.map(jnp.shape, b)  # noqa: E731
    assert same(gradient, weights[0]) and same(again, weights[0])
    assert to_clip.shape == curvature.shape == clip.shape
    assert forward.shape == apart.shape == in_turn.shape == shape


def test_training_step_with_the_forms_for_cpus(network):
    run, (params, batch_stats), clip, _ = network

    def loss(params):
        saliency, new = run(params, batch_stats_of(params), zeros(clip), train=True)
        return saliency.sum(), new

    def zeros(like):
        return jnp.zeros(like.shape, like.dtype)

    def batch_stats_of(_):
        return jax.tree.map(zeros, batch_stats)

    with forms.use('cpu'):
        gradient, new = jax.eval_shape(jax.grad(loss, has_aux=True), params)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, batch_stats)


def test_export(network):
    """For CPUs and TPUs, with any number of clips."""
    run, weights, clip, shape = network
    (batch,) = export.symbolic_shape('b')
    clips = jax.ShapeDtypeStruct((batch, *clip.shape[1:]), clip.dtype)
    exported = export.export(jax.jit(run), platforms=('cpu', 'tpu'))(*weights, clips)
    assert exported.platforms == ('cpu', 'tpu')
    assert exported.out_avals[0].shape == (batch, *shape[1:])
