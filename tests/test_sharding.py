"""The mesh: the same numbers on any layout, and the right things sent between the devices."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from small_network import initial_weights

from stsa_jax import functional, optimizer, sharding, training
from stsa_jax.errors import InputError
from stsa_jax.stsanet import STSANet, STSANetConfig

OPTIMIZER = optimizer.OptimizerConfig(learning_rate=3e-3, schedule='constant')
PLAIN = training.StepOptions()
LAYOUTS = [(2, 1), (4, 1), (8, 1), (4, 2), (2, 4)]  # data x fsdp
STEPS = 20


def batches(count, batch_size=8):
    rng = np.random.default_rng(0)
    for _ in range(count):
        clip = rng.integers(0, 256, (batch_size, 8, 16, 32, 3), np.uint8)
        yield {'clip': clip, 'density': clip[:, 4].mean(-1, dtype=np.float32) / 255}


def prepare(mesh, options=PLAIN):
    graphdef, params, batch_stats = initial_weights()
    tx = optimizer.optimizer(OPTIMIZER, 10)
    state = training.create_state(mesh, params, batch_stats, tx, ema=options.ema_decay > 0)
    rate = optimizer.learning_rate(OPTIMIZER, 10, STEPS)
    return state, training.make_train_step(graphdef, tx, rate, mesh, options)


def run(layout, options=PLAIN, steps=STEPS):
    """(losses, final state as numpy) of `steps` steps on data x fsdp devices."""
    data, fsdp = layout
    mesh = sharding.make_mesh(data, fsdp, jax.devices()[: data * fsdp])
    state, step = prepare(mesh, options)
    losses = []
    for batch in batches(steps):
        state, metrics = step(state, sharding.put_batch(mesh, batch))
        losses.append(float(metrics['loss']))
    return np.array(losses), jax.device_get(state)


@pytest.fixture(scope='module')
def one_device():
    return run((1, 1))


@pytest.mark.parametrize('layout', LAYOUTS)
def test_losses_do_not_depend_on_the_layout(layout, one_device):
    losses, state = run(layout)
    # The order of float32 sums differs, by some 1e-7 a step, and training amplifies that.
    np.testing.assert_allclose(losses, one_device[0], rtol=2e-4)
    assert losses[-1] < losses[0], 'it should learn: otherwise equal losses say little'
    mean = state.batch_stats['backbone']['temporal']['mean']
    expected = one_device[1].batch_stats['backbone']['temporal']['mean']
    np.testing.assert_allclose(mean, expected, rtol=1e-2, atol=1e-6)


def test_accumulation_does_not_depend_on_the_layout():
    options = training.StepOptions(accumulate=2)
    np.testing.assert_allclose(run((4, 1), options)[0], run((1, 1), options)[0], rtol=2e-4)


def test_accumulation_is_exact_where_batch_norm_is_frozen():
    frozen = training.StepOptions(freeze_batch_norm=True)
    parts = training.StepOptions(freeze_batch_norm=True, accumulate=4)
    np.testing.assert_allclose(run((2, 1), parts)[0], run((1, 1), frozen)[0], rtol=2e-4)


def sent(layout):
    """{collective: elements} of the compiled step, and the state it is for."""
    data, fsdp = layout
    mesh = sharding.make_mesh(data, fsdp, jax.devices()[: data * fsdp])
    state, step = prepare(mesh)
    arrays = sharding.put_batch(mesh, next(batches(1)))
    compiled = step.lower(state, arrays).compile()
    counts = {}
    pattern = r'= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)\('
    for result, name in re.findall(pattern, compiled.as_text()):
        shapes = re.findall(r'(?:f32|bf16|s32|pred)\[([\d,]*)\]', result)
        sizes = [np.prod([int(n) for n in shape.split(',') if n], dtype=int) for shape in shapes]
        counts[name] = counts.get(name, 0) + int(sum(sizes))
    return counts, state, compiled


def count_elements(tree):
    return sum(array.size for array in jax.tree.leaves(tree))


def test_data_parallel_sends_the_gradients_and_batch_norm_statistics_alone():
    counts, state, _ = sent((4, 1))
    gradients = count_elements(state.params)
    # BatchNorm: mean, variance, and their two gradients, of 8 channels in two layers; besides, the
    # scores of 8 examples, kl, cc and the loss, and a few scalars.
    small = 4 * 2 * 8 + 4 * 8 + 10
    assert gradients <= counts.pop('all-reduce') <= gradients + small
    assert counts.get('all-gather', 0) <= 4 * 8, 'the scores of the examples, and nothing large'
    assert set(counts) <= {'all-gather'}


def test_fsdp_gathers_parameters_and_scatters_gradients():
    counts, state, _ = sent((1, 4))
    split = sum(
        array.size
        for array in jax.tree.leaves(state.params)
        if not array.sharding.is_fully_replicated
    )
    assert counts['all-gather'] >= split
    # The CPU compiler writes a reduce-scatter as an all-reduce and a slice.
    assert counts.get('reduce-scatter', 0) * 4 + counts.get('all-reduce', 0) >= split
    assert not {'all-to-all', 'collective-permute'} & set(counts), 'activations stay where they are'


def test_the_old_state_is_given_up_and_nothing_is_transferred_or_compiled_again():
    mesh = sharding.make_mesh(4, 1, jax.devices()[:4])
    state, step = prepare(mesh)
    for i, batch in enumerate(batches(3)):
        old = state
        arrays = sharding.put_batch(mesh, batch)
        with jax.transfer_guard('disallow'):
            state, _ = step(state, arrays)
        assert all(array.is_deleted() for array in jax.tree.leaves(old)), f'step {i}'
    assert step._cache_size() == 1


def test_fsdp_splits_the_memory_of_the_whole_model():
    """The paper's model with Adam: a device of 8 holds under 1/7 of the bytes."""
    _, params, _ = functional.abstract(STSANet, STSANetConfig())
    tx = optimizer.optimizer(OPTIMIZER, 10)
    tree = (params, jax.eval_shape(tx.init, params))
    mesh = sharding.make_mesh(1, 8)
    shardings = sharding.state_sharding(mesh, tree)
    whole = sum(array.size * 4 for array in jax.tree.leaves(tree))
    held = jax.tree.map(lambda a, s: int(np.prod(s.shard_shape(a.shape))) * 4, tree, shardings)
    assert sum(jax.tree.leaves(held)) < whole / 7


def test_meshes():
    assert dict(sharding.make_mesh().shape) == {'data': 8, 'fsdp': 1}
    assert dict(sharding.make_mesh(-1, 2).shape) == {'data': 4, 'fsdp': 2}
    for data, fsdp in ((3, 1), (-1, 3), (4, 4), (-1, 0)):
        with pytest.raises(InputError, match=f'data={data}, fsdp={fsdp} does not fit 8 devices'):
            sharding.make_mesh(data, fsdp)


@dataclasses.dataclass(frozen=True)
class Device:
    """What a mesh asks of a device."""

    id: int
    process_index: int
    slice_index: int = 0
    platform: str = 'gpu'
    device_kind: str = 'NVIDIA H100'


@pytest.mark.parametrize('data, fsdp', [(16, 1), (4, 4), (2, 8), (1, 16)])
@pytest.mark.parametrize('order', ['nodes of GPUs', 'ring of a TPU slice'])
def test_the_rows_of_a_process_follow_one_another(order, data, fsdp):
    if order == 'nodes of GPUs':  # each is a slice of its own
        devices = [Device(i, i // 4, i // 4) for i in range(16)]
    else:  # `jax.devices` of a slice of 4 x 4 chips is in the order of the chips, not of the hosts
        hosts = [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]
        devices = [Device(i, host) for i, host in enumerate(hosts)]
    mesh = sharding.make_mesh(data, fsdp, devices)
    assert dict(mesh.shape) == {'data': data, 'fsdp': fsdp}
    places = sharding.batch_sharding(mesh).devices_indices_map((32, 7))
    for process in range(4):
        mine = [rows for device, (rows, _) in places.items() if device.process_index == process]
        held = sorted(row for rows in mine for row in range(rows.start or 0, rows.stop or 32))
        assert held == list(range(8 * process, 8 * process + 8))


def test_processes_with_different_numbers_of_devices():
    devices = [Device(i, process) for i, process in enumerate([0, 0, 0, 1])]
    with pytest.raises(InputError, match='same number of devices; found 3 in process 0, 1 in'):
        sharding.make_mesh(devices=devices)


@pytest.mark.parametrize(
    'batch_size, accumulate, advice', [(12, 1, '8 or 16'), (3, 1, '8'), (24, 2, '16 or 32')]
)
def test_a_batch_that_the_devices_do_not_divide(batch_size, accumulate, advice):
    mesh = sharding.make_mesh()
    with pytest.raises(InputError, match=f'batch_size={batch_size} .* 8 devices.* use {advice}'):
        sharding.local_batch_size(mesh, batch_size, accumulate)
    assert sharding.local_batch_size(mesh, 16, 2) == 16
