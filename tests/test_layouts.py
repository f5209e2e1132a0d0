"""The real network on one device and on a mesh: the same numbers.

tests/test_sharding.py covers more layouts with a small network, which compiles in a second; this
takes two minutes.
"""

import jax
import numpy as np
import pytest
from flax import traverse_util

from stsa_jax import training
from stsa_jax.distribution import sharding
from stsa_jax.models.stsanet import STSANetConfig
from stsa_jax.training import optimizer
from stsa_jax.weights.initial import initial_weights

# The backbone, both of the decoder's ends with STSA, the pool whose indices place its values, and
# the fusion with weighting. More takes longer to compile, and that takes most of the time.
CONFIG = STSANetConfig(
    image_size=(32, 64),
    frames=16,
    width=0.0625,
    batch_norm_momentum=0.1,
    levels=(0, 3),
    stsa_levels=(0, 3),
    stsa_layers=(1,),
)
# Small: with a larger one other maxima are soon taken in the pools, and the runs part.
OPTIMIZER = optimizer.OptimizerConfig(learning_rate=1e-6, schedule='constant')
STEPS = 8


def run(data, fsdp):
    """(losses, gradient norms, BatchNorm's statistics) of STEPS steps on one batch of four."""
    mesh = sharding.make_mesh(data, fsdp, jax.devices()[: data * fsdp])
    graphdef, params, batch_stats = initial_weights(CONFIG)
    tx = optimizer.optimizer(OPTIMIZER, 10)
    state = training.create_state(mesh, params, batch_stats, tx)
    rate = optimizer.learning_rate(OPTIMIZER, 10, STEPS)
    step = training.make_train_step(graphdef, tx, rate, mesh)
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (4, CONFIG.frames, *CONFIG.image_size, 3), np.uint8)
    density = rng.uniform(size=(4, *CONFIG.image_size)).astype(np.float32)
    batch = sharding.put_batch(mesh, {'clip': clip, 'density': density})
    seen = []
    for _ in range(STEPS):
        state, metrics = step(state, batch)
        seen.append([float(metrics['loss']), float(metrics['grad_norm'])])
    return *np.array(seen).T, traverse_util.flatten_dict(jax.device_get(state.batch_stats))


@pytest.mark.long
def test_the_real_network_does_not_depend_on_the_layout(quick_compilation):
    losses, norms, statistics = run(2, 2)
    expected = run(1, 1)
    loss_error = np.abs(losses / expected[0] - 1)
    norm_error = np.abs(norms / expected[1] - 1)
    # Sums in another order: 1e-7 of each, and ten times that after the whole network.
    assert loss_error[0] < 1e-5 and norm_error[0] < 1e-3
    # Then, where two values of a pool's window are as good as equal, the layouts take either: the
    # gradient jumps by some percent and the loss by some thousandths, at single steps.
    assert np.median(loss_error) < 1e-4 and loss_error.max() < 5e-3
    assert np.median(norm_error) < 1e-2 and norm_error.max() < 0.2
    assert losses[-1] < losses[0] * (1 - 5e-4), 'the loss must fall by more than the tolerance'
    for path, array in statistics.items():
        np.testing.assert_allclose(
            array, expected[2][path], rtol=1e-2, atol=1e-4, err_msg='/'.join(path)
        )
