"""Steps, optimizer, schedules and options of training."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import traverse_util
from jax.ad_checkpoint import print_saved_residuals
from small_network import initial_weights

from stsa_jax import training
from stsa_jax.distribution import sharding
from stsa_jax.errors import InputError
from stsa_jax.inference import cost
from stsa_jax.media.preprocess import normalise
from stsa_jax.models import functional
from stsa_jax.models.stsanet import STSANet, STSANetConfig
from stsa_jax.training import optimizer, remat
from stsa_jax.training.meter import Meter
from stsa_jax.training.optimizer import OptimizerConfig
from stsa_jax.weights.initial import random_weights

pytestmark = pytest.mark.usefixtures('quick_compilation')

CONSTANT = OptimizerConfig(schedule='constant', learning_rate=1e-2)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    clip = rng.integers(0, 256, (4, 8, 16, 32, 3), np.uint8)
    return {'clip': clip, 'density': clip[:, 4].mean(-1, dtype=np.float32) / 255}


def one_step(options, data, config=CONSTANT):
    """(state before as numpy, state after, metrics) of one step on one device."""
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    graphdef, params, batch_stats = initial_weights()
    tx = optimizer.optimizer(config, 10)
    state = training.create_state(mesh, params, batch_stats, tx, ema=options.ema_decay > 0)
    before = jax.device_get(state)
    rate = optimizer.learning_rate(config, 10, 100)
    step = training.make_train_step(graphdef, tx, rate, mesh, options)
    after, metrics = step(state, sharding.put_batch(mesh, data))
    return before, jax.device_get(after), jax.device_get(metrics)


def changed(before, after):
    """The paths whose arrays differ."""
    before, after = (traverse_util.flatten_dict(tree, sep='/') for tree in (before, after))
    return {path for path in before if not np.array_equal(before[path], after[path])}


@pytest.fixture(scope='module')
def plain():
    return one_step(training.StepOptions(), batch())


def test_adam_matches_pytorch():
    rng = np.random.default_rng(0)
    start = rng.normal(size=(7, 5)).astype(np.float32)
    reference = torch.nn.Parameter(torch.tensor(start))
    torch_adam = torch.optim.Adam([reference], lr=1e-2)
    tx = optimizer.optimizer(CONSTANT, 10)
    params, state = jnp.asarray(start), tx.init(jnp.asarray(start))
    update = jax.jit(lambda g, s, p: tx.update(g, s, p, value=0.0))
    for i in range(30):
        # Gradients over many orders of magnitude, so that eps matters too.
        gradient = (rng.normal(size=(7, 5)) * 10.0 ** rng.uniform(-9, 2)).astype(np.float32)
        reference.grad = torch.tensor(gradient)
        torch_adam.step()
        updates, state = update(jnp.asarray(gradient), state, params)
        params = params - 1e-2 * updates
        # Both are float32, of values around 1: a few units in the last place a step.
        np.testing.assert_allclose(params, reference.detach(), rtol=2e-6, atol=1e-6, err_msg=str(i))


def rates(config, steps, steps_per_epoch=200, num_steps=6000):
    schedule = optimizer.learning_rate(config, steps_per_epoch, num_steps)
    return [float(schedule(step)) for step in steps]


def test_the_papers_recipe_drops_after_12_epochs_and_then_after_every_9():
    edges = [0, 12 * 200 - 1, 12 * 200, 21 * 200 - 1, 21 * 200, 30 * 200]
    expected = [1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-7]
    np.testing.assert_allclose(rates(OptimizerConfig(), edges), expected, rtol=1e-5)


def test_warm_up_and_cosine():
    config = OptimizerConfig(schedule='cosine', warmup_steps=10)
    found = rates(config, [0, 4, 9, 10, 55, 100], num_steps=100)
    np.testing.assert_allclose(found, [1e-5, 5e-5, 1e-4, 1e-4, 5e-5, 0], rtol=1e-5, atol=1e-12)


def test_the_rate_drops_on_a_plateau_of_the_epoch_loss():
    config = OptimizerConfig(schedule='plateau', plateau_epochs=2)
    tx = optimizer.optimizer(config, steps_per_epoch=3)
    state = tx.init(jnp.zeros(2))
    update = jax.jit(lambda s, loss: tx.update(jnp.ones(2), s, jnp.zeros(2), value=loss)[1])
    scales = []
    for loss in [3.0, 2, 1] * 2 + [2.0] * 12:
        state = update(state, loss)
        scales.append(float(optimizer.plateau_scale(state)))
    # The mean loss of an epoch of 3 steps is 2 from the first on: no epoch is better.
    assert scales[2] == 1 and scales[5] == 1
    assert scales[8] == pytest.approx(0.1), 'two epochs without a better one'
    assert scales[-1] == pytest.approx(0.01)


@pytest.mark.parametrize(
    'field, value', [('schedule', 'stair'), ('learning_rate', 0.0), ('drop_factor', 2.0)]
)
def test_optimizer_fields_are_checked(field, value):
    with pytest.raises(InputError, match=f'config.optimizer.{field} is {value!r}, expected'):
        OptimizerConfig(**{field: value})


def test_a_step_moves_everything_by_the_learning_rate(plain):
    before, after, metrics = plain
    assert changed(before.params, after.params) == set(
        traverse_util.flatten_dict(before.params, sep='/')
    )
    # The first step of Adam is +-learning_rate wherever the gradient is well above eps.
    move = np.abs(after.params['mix']['kernel'] - before.params['mix']['kernel'])
    assert np.median(move) == pytest.approx(1e-2, rel=1e-3)
    assert after.step == 1 and metrics['learning_rate'] == pytest.approx(1e-2)
    kl, cc, loss = (float(metrics[name]) for name in ('kl', 'cc', 'loss'))
    assert loss == pytest.approx(kl - cc, abs=1e-6)


def test_float_clips_normalised_on_the_host_give_the_same_step(plain):
    data = batch()
    host = data | {'clip': normalise(data['clip']).astype(np.float32)}
    _, _, metrics = one_step(training.StepOptions(), host)
    assert metrics['loss'] == pytest.approx(plain[2]['loss'], abs=1e-6)


@pytest.mark.parametrize('keep', ['everything', 'blocks'])
def test_rematerialisation_changes_only_the_order_of_sums(plain, keep):
    _, _, metrics = one_step(training.StepOptions(keep_for_gradient=keep), batch())
    assert metrics['loss'] == pytest.approx(plain[2]['loss'], rel=1e-5)
    assert metrics['grad_norm'] == pytest.approx(plain[2]['grad_norm'], rel=1e-4)


def test_recomputation_is_not_merged_with_the_forward_pass():
    """Without a barrier XLA's CPU compiler would merge the two, and keep everything in memory."""
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    graphdef, params, batch_stats = initial_weights()
    tx = optimizer.optimizer(CONSTANT, 10)
    state = training.abstract_state(mesh, params, batch_stats, tx)
    rate = optimizer.learning_rate(CONSTANT, 10, 100)
    step = training.make_train_step(graphdef, tx, rate, mesh)
    program = step.lower(state, sharding.put_batch(mesh, batch())).compile().as_text()
    assert 'opt-barrier' in program


@pytest.mark.slow
@pytest.mark.parametrize(
    ('keep', 'train', 'least', 'most'),
    [
        ('blocks', True, 0.2e9, 0.5e9),
        ('blocks', False, 0.2e9, 0.5e9),
        ('products', True, 0.6e9, 1.2e9),
    ],
)
def test_few_of_the_papers_activations_are_saved(capsys, keep, train, least, most):
    """The residuals that JAX saves for the backward pass, except the arguments."""
    graphdef, *weights = functional.abstract(STSANet, STSANetConfig())
    clip = jax.ShapeDtypeStruct((1, 32, 224, 384, 3), jnp.float32)

    def total(*arguments):
        return jnp.sum(remat.apply(graphdef, keep)(*arguments, train=train)[0])

    print_saved_residuals(total, *weights, clip)
    lines = [x for x in capsys.readouterr().out.splitlines() if 'from the argument' not in x]
    shapes = [re.match(r'f32\[([\d,]*)\]', line) for line in lines]
    kept = 4 * sum(math.prod(int(n) for n in x[1].split(',') if n) for x in shapes if x)
    assert least < kept < most, 'it is 5.7e9 bytes where nothing is computed again'


def test_freezing_the_backbone():
    before, after, _ = one_step(training.StepOptions(freeze_backbone=True), batch())
    moved = changed(before.params, after.params)
    assert moved == {'mix/kernel', 'mix/bias', 'map/kernel', 'map/bias'}
    assert not changed(before.batch_stats, after.batch_stats)


def test_freezing_batch_norm():
    before, after, _ = one_step(training.StepOptions(freeze_batch_norm=True), batch())
    still = set(traverse_util.flatten_dict(before.params, sep='/')) - changed(
        before.params, after.params
    )
    assert still == {
        f'backbone/{layer}/{name}'
        for layer in ('spatial', 'temporal')
        for name in ('scale', 'bias')
    }
    assert not changed(before.batch_stats, after.batch_stats)


def test_averaged_parameters_follow(plain):
    before, after, _ = one_step(training.StepOptions(ema_decay=0.999), batch())
    decay = 1 / 10  # the first step's: short memory at the start
    expected = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, before.params, after.params)
    for a, b in zip(jax.tree.leaves(after.ema), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_clipping_limits_the_norm_before_adam(plain):
    tx = optimizer.optimizer(OptimizerConfig(clip_norm=0.5, schedule='constant'), 10)
    gradient = {'a': jnp.array([3.0, 4.0])}
    _, state = tx.update(gradient, tx.init(gradient), gradient, value=0.0)
    adam = next(s for s in state if isinstance(s, optax.ScaleByAdamState))
    np.testing.assert_allclose(adam.mu['a'] / (1 - 0.9), [0.3, 0.4], rtol=1e-5)


def test_a_step_that_is_not_finite_changes_nothing_and_is_named():
    data = batch()
    data['density'][2] = np.nan
    before, after, metrics = one_step(training.StepOptions(ema_decay=0.9), data)
    assert metrics['skipped'] and after.skipped == 1 and after.step == 1
    for name in ('params', 'batch_stats', 'ema', 'opt_state'):
        pairs = zip(jax.tree.leaves(getattr(before, name)), jax.tree.leaves(getattr(after, name)))
        assert all(np.array_equal(a, b) for a, b in pairs), name

    meter = Meter(batch_size=4, max_skipped=2)
    clips = ['red', 'green', 'blue', 'grey']
    meter.add(7, metrics, clips)
    values, lines = meter.read()
    assert values['skipped'] == 1 and math.isnan(values['loss'])
    assert len(lines) == 1 and 'step 7' in lines[0] and lines[0].endswith('clips: blue')
    meter.add(8, metrics, clips)
    with pytest.raises(InputError, match=r'2 steps in a row .*last checkpoint is good'):
        meter.read()


def test_initial_weights_are_pytorchs_defaults_for_every_layer_of_the_model():
    config = STSANetConfig(image_size=(32, 64), frames=16, width=0.125)
    _, shapes, statistics = functional.abstract(STSANet, config)
    params, batch_stats = random_weights(shapes, statistics, seed=1)
    flat = traverse_util.flatten_dict(params)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    for path, array in flat.items():
        kernel = flat.get((*path[:-1], 'kernel'))
        normalised = (*path[:-1], 'scale') in flat
        if path[-1] == 'kernel' or (path[-1] == 'bias' and not normalised):
            fan_in = kernel.size // kernel.shape[-1]
            assert np.abs(array).max() <= 1 / math.sqrt(fan_in), path
            if array.size > 2000:  # a uniform distribution: its deviation is bound / sqrt(3)
                assert array.std() == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.1), path
                assert abs(array.mean()) < 0.1 / math.sqrt(fan_in), path
        else:
            assert (array == (path[-1] == 'scale')).all(), path
    running = traverse_util.flatten_dict(batch_stats)
    assert all((array == (path[-1] == 'var')).all() for path, array in running.items())
    other, _ = random_weights(shapes, statistics, seed=2)
    assert not np.array_equal(other['readout']['map']['kernel'], flat['readout', 'map', 'kernel'])


@pytest.mark.parametrize('dtype', ['mixed', pytest.param('bfloat16', marks=pytest.mark.long)])
def test_dtypes_are_of_activations_and_products_and_the_state_stays_float32(dtype):
    """The step of a network with every kind of part, traced: nothing is compiled."""
    parts = {'levels': (3,), 'stsa_levels': (3,), 'amsf_weighting': False}
    size = {'image_size': (32, 64), 'frames': 16, 'width': 0.125}
    config = STSANetConfig(**size, **parts, dtype=dtype)
    graphdef, params, batch_stats = functional.abstract(STSANet, config)
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    tx = optimizer.optimizer(CONSTANT, 10)
    state = training.abstract_state(mesh, params, batch_stats, tx, ema=True)
    data = {
        'clip': jax.ShapeDtypeStruct((1, 16, 32, 64, 3), jnp.uint8),
        'density': jax.ShapeDtypeStruct((1, 32, 64), jnp.float32),
    }
    rate = optimizer.learning_rate(CONSTANT, 10, 100)
    options = training.StepOptions(ema_decay=0.9)
    traced = training.make_train_step(graphdef, tx, rate, mesh, options).trace(state, data)
    products = {
        equation.invars[1].aval.dtype.name
        for equation, *_ in cost.equations(traced.jaxpr.jaxpr)
        if equation.primitive.name == 'conv_general_dilated'
    }
    assert products == ({'bfloat16'} if dtype == 'bfloat16' else {'bfloat16', 'float32'})
    after, _ = traced.out_info
    assert {leaf.dtype.name for leaf in jax.tree.leaves(after)} == {'float32', 'int32'}
    kinds = [jax.tree.map(lambda a: (a.shape, a.dtype), tree) for tree in (state, after)]
    assert kinds[0] == kinds[1]
