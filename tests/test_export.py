"""The steps lower for the accelerators from a machine without one, at the paper's size."""

import jax
import jax.numpy as jnp
import pytest

from stsa_jax import training
from stsa_jax.distribution import sharding
from stsa_jax.models import functional
from stsa_jax.models.stsanet import STSANet, STSANetConfig
from stsa_jax.training import optimizer

CONFIG = optimizer.OptimizerConfig()


def placed(tree, shardings):
    return jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), tree, shardings
    )


@pytest.mark.long
def test_steps_lower_for_tpu_and_cuda_on_eight_devices():
    mesh = sharding.make_mesh(4, 2)
    graphdef, params, batch_stats = functional.abstract(STSANet, STSANetConfig())
    tx = optimizer.optimizer(CONFIG, 200)
    state = training.abstract_state(mesh, params, batch_stats, tx)
    batch = {
        'clip': jax.ShapeDtypeStruct((8, 32, 224, 384, 3), jnp.uint8),
        'density': jax.ShapeDtypeStruct((8, 224, 384), jnp.float32),
    }
    batch = placed(batch, jax.tree.map(lambda _: sharding.batch_sharding(mesh), batch))
    platforms = ['tpu', 'cuda']
    train_step = training.make_train_step(
        graphdef, tx, optimizer.learning_rate(CONFIG, 200, 6000), mesh
    )
    exported = jax.export.export(train_step, platforms=platforms)(state, batch)
    assert exported.platforms == ('tpu', 'cuda') and exported.nr_devices == 8
    new, metrics = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
    assert metrics['losses'].shape == (8,)

    eval_step = training.make_eval_step(graphdef, mesh)
    exported = jax.export.export(eval_step, platforms=platforms)(
        state.params, state.batch_stats, batch
    )
    scores = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    assert scores['saliency'].shape == (8, 224, 384)
