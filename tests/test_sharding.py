"""The mesh: the same results on any layout, and the expected communication between devices."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import relu
from small_network import initial_weights

from benchmarks.scaling import collectives
from benchmarks.topologies import slice_devices
from stsa_jax import training
from stsa_jax.distribution import sharding
from stsa_jax.errors import InputError
from stsa_jax.models import functional
from stsa_jax.models.stsanet import STSANet, STSANetConfig
from stsa_jax.ops.convolution import conv3d
from stsa_jax.training import compiling, optimizer

OPTIMIZER = optimizer.OptimizerConfig(learning_rate=3e-3, schedule='constant')
PLAIN = training.StepOptions()
LAYOUTS = [(8, 1), (2, 4)]  # data x fsdp
STEPS = 20
# With these batches no two values are so close that rounding decides which of them a pool takes:
# that moves a gradient by 3e-4, and the losses after it by percents (seed 0 has such a pair).
SEED = 2


def batches(count, batch_size=8, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        clip = rng.integers(0, 256, (batch_size, 8, 16, 32, 3), np.uint8)
        yield {'clip': clip, 'density': clip[:, 4].mean(-1, dtype=np.float32) / 255}


def prepare(mesh, options=PLAIN):
    graphdef, params, batch_stats = initial_weights()
    tx = optimizer.optimizer(OPTIMIZER, 10)
    state = training.create_state(mesh, params, batch_stats, tx, ema=options.ema_decay > 0)
    rate = optimizer.learning_rate(OPTIMIZER, 10, STEPS)
    return state, training.make_train_step(graphdef, tx, rate, mesh, options)


def run(layout, options=PLAIN, steps=STEPS, seed=0):
    """(losses, final state as numpy) of `steps` steps on data x fsdp devices."""
    data, fsdp = layout
    mesh = sharding.make_mesh(data, fsdp, jax.devices()[: data * fsdp])
    state, step = prepare(mesh, options)
    losses = []
    for batch in batches(steps, seed=seed):
        state, metrics = step(state, sharding.put_batch(mesh, batch))
        losses.append(float(metrics['loss']))
    return np.array(losses), jax.device_get(state)


@pytest.fixture(scope='module')
def one_device():
    return run((1, 1), seed=SEED)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_losses_do_not_depend_on_the_layout(layout, one_device):
    losses, state = run(layout, seed=SEED)
    # The order of float32 sums differs, by some 1e-7 a step, and training amplifies that.
    np.testing.assert_allclose(losses, one_device[0], rtol=2e-4)
    assert losses[-1] < losses[0], 'it must learn: otherwise equal losses prove little'
    mean = state.batch_stats['backbone']['temporal']['mean']
    expected = one_device[1].batch_stats['backbone']['temporal']['mean']
    np.testing.assert_allclose(mean, expected, rtol=1e-2, atol=1e-6)


def test_accumulation_does_not_depend_on_the_layout():
    options = training.StepOptions(accumulate=2)
    # A loss is KL - CC, numbers around 0.1 here, and passes through zero.
    np.testing.assert_allclose(
        run((4, 1), options)[0], run((1, 1), options)[0], rtol=2e-4, atol=1e-6
    )


def test_accumulation_is_exact_where_batch_norm_is_frozen():
    frozen = training.StepOptions(freeze_batch_norm=True)
    parts = training.StepOptions(freeze_batch_norm=True, accumulate=4)
    np.testing.assert_allclose(run((2, 1), parts)[0], run((1, 1), frozen)[0], rtol=2e-4)


def compiled_step(layout, options=PLAIN):
    """The compiled step, and the state it is for."""
    data, fsdp = layout
    mesh = sharding.make_mesh(data, fsdp, jax.devices()[: data * fsdp])
    state, step = prepare(mesh, options)
    return step.lower(state, sharding.put_batch(mesh, next(batches(1)))).compile(), state


def sent(compiled):
    """{collective: the bytes of each}, and the sizes of the groups."""
    found = collectives(compiled.as_text())
    kinds = {kind: [c.size for c in found if c.kind == kind] for kind in {c.kind for c in found}}
    return kinds, {c.group for c in found}


def count_bytes(tree):
    return sum(array.nbytes for array in jax.tree.leaves(tree))


def test_data_parallel_sends_only_gradients_and_batch_norm_statistics():
    compiled, state = compiled_step((4, 1))
    sizes, groups = sent(compiled)
    reduced = sizes.pop('all-reduce')
    gradients = count_bytes(state.params)
    # BatchNorm: mean, variance, and their two gradients, of 8 channels in two layers; besides, the
    # scores of 8 examples, kl, cc and the loss, and a few scalars.
    small = 4 * (4 * 2 * 8 + 4 * 8 + 10)
    assert gradients <= sum(reduced) <= gradients + small
    # Of a BatchNorm the sums and the sums of squares go together.
    assert sum(size > 2 * 4 * 8 for size in reduced) <= 4, 'the gradients of a layer go together'
    assert len(reduced) <= 4 + 2 * 2
    assert sum(sizes.pop('all-gather', [])) <= 4 * 4 * 8, 'the scores of the examples'
    assert not sizes and groups == {4}
    assert ' while(' not in compiled.as_text(), 'nothing is sent in a loop, over and over'


@pytest.mark.parametrize('layout', [(1, 4), (2, 4)])
def test_fsdp_gathers_parameters_and_scatters_gradients(layout):
    compiled, state = compiled_step(layout)
    sizes, groups = sent(compiled)
    split = [x for x in jax.tree.leaves(state.params) if not x.sharding.is_fully_replicated]
    gathered, reduced = sum(sizes['all-gather']), sum(sizes['all-reduce'])
    assert count_bytes(split) > 0.99 * count_bytes(state.params)
    # Once each, and what BatchNorm and the scores need.
    small = 4 * 8 * 30
    assert count_bytes(split) <= gathered <= count_bytes(split) + small
    # The compiler for CPUs writes a reduce-scatter as an all-reduce and a slice; the slices then go
    # over `data`.
    once = count_bytes(state.params)
    assert once <= reduced <= (1 + (layout[0] > 1) / layout[1]) * once + small
    assert set(sizes) == {'all-gather', 'all-reduce'}, 'activations stay where they are'
    assert groups == ({4} if layout == (1, 4) else {2, 4, 8})


@pytest.fixture(scope='module')
def slice_of_tpus():
    pytest.importorskip('libtpu', reason='the TPU compiler is not installed')
    return slice_devices('v5e:2x4')


def compiled_for(devices, fsdp):
    """The communication of the step on these devices, which need not exist, and the parameters."""
    mesh = sharding.make_mesh(len(devices) // fsdp, fsdp, devices)
    graphdef, params, batch_stats = initial_weights()
    tx = optimizer.optimizer(OPTIMIZER, 10)
    state = training.abstract_state(mesh, params, batch_stats, tx)
    place = sharding.batch_sharding(mesh)
    batch = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), next(batches(1))
    )
    rate = optimizer.learning_rate(OPTIMIZER, 10, STEPS)
    compiled = training.make_train_step(graphdef, tx, rate, mesh).lower(state, batch).compile()
    return *sent(compiled), params


@pytest.mark.tpu
def test_the_compiler_for_tpus_sends_all_gradients_at_once(slice_of_tpus):
    sizes, groups, params = compiled_for(slice_of_tpus, fsdp=1)
    reduced, gradients = sorted(sizes.pop('all-reduce')), count_bytes(params)
    assert not sizes and groups == {8}
    # Those of BatchNorm's scales and biases are sums that its own gradient takes anyway.
    small = 4 * (4 * 2 * 8 + 8 + 2 * 12)
    assert gradients <= sum(reduced) <= gradients + small
    assert reduced[-1] >= gradients - 4 * 4 * 8 and sum(reduced[:-1]) <= small


@pytest.mark.tpu
def test_the_compiler_for_tpus_gathers_parameters_before_their_convolutions(slice_of_tpus):
    sizes, groups, params = compiled_for(slice_of_tpus, fsdp=8)
    once, small = count_bytes(params), 4 * 8 * 30
    # The kernels as the products take them, in bfloat16; what is small, as sums.
    assert once * 0.48 <= sum(sizes['all-gather']) <= once + small
    reduced = sum(sizes.get('reduce-scatter', [])) + sum(sizes['all-reduce'])
    assert once <= reduced <= once + small
    assert 'collective-permute' not in sizes, 'kernels are gathered, they go round no ring'
    assert groups == {8}


@pytest.mark.parametrize(
    ('devices', 'batch_size', 'accumulate', 'whole'),
    [
        *((1, 2, 1, False), (1, 3, 1, True), (1, 7, 1, True), (1, 8, 1, False), (1, 8, 2, True)),
        *((8, 8, 1, False), (8, 32, 1, True), (8, 64, 1, False), (4, 32, 2, True)),
    ],
)
def test_the_clips_of_a_micro_batch_on_one_device_decide_about_the_width(
    devices, batch_size, accumulate, whole
):
    mesh = sharding.make_mesh(devices, 1, jax.devices()[:devices])
    found = compiling.leaves_width_whole(mesh, batch_size, accumulate, on_s3d=True)
    assert found == whole
    assert not compiling.leaves_width_whole(mesh, batch_size, accumulate, on_s3d=False)


@pytest.mark.tpu
@pytest.mark.parametrize(('clips', 'whole'), [(1, False), (3, True), (7, True), (8, False)])
def test_with_few_clips_the_compiler_for_tpus_keeps_the_width_in_one_piece(
    slice_of_tpus, clips, whole
):
    mesh = sharding.make_mesh(1, 1, slice_of_tpus[:1])
    whole_width = compiling.leaves_width_whole(mesh, clips, 1, on_s3d=True)
    assert whole_width == whole and not compiling.leaves_width_whole(mesh, clips, 1, on_s3d=False)
    options = compiling.compiler_options(mesh, 'products', whole_width)

    def two_layers(x, kernel):
        return conv3d(relu(conv3d(x, kernel, padding=(0, 1, 1))), kernel, padding=(0, 1, 1))

    place = sharding.replicated(mesh)
    arrays = [
        jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)
        for shape in ((clips, 4, 28, 48, 192), (1, 3, 3, 192, 192))
    ]
    lowered = jax.jit(two_layers, compiler_options=options).lower(*arrays)
    size = math.prod(arrays[0].shape)
    program = lowered.compile().as_text()
    shapes = re.findall(r'= bf16\[([\d,]+)\]', program[program.index('ENTRY') :])
    images = {tuple(map(int, shape.split(','))) for shape in shapes}
    images = {shape for shape in images if math.prod(shape) >= size}
    assert images
    kept = {48} <= set.intersection(*map(set, images))
    assert kept == (whole or clips >= 8)


def test_collectives_of_a_program_are_parsed():
    program = """
      %a = u8[8,16]{1,0} all-gather(%x), replica_groups={{0,1,2,3}}, dimensions={0}
      %b = (s8[2]{0}, s8[8]{0}) all-gather-start(%y), replica_groups=[1,4]<=[4], dimensions={0}
      %c = (f16[3]{0}, f64[]) all-reduce(%z, %w), replica_groups={{0,1},{2,3}}, to_apply=%add
      %d = f32[4]{0} reduce-scatter(%v), replica_groups={{0,1,2,3}}, dimensions={0}
      %e = s32[] all-reduce(%u), replica_groups=mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'x'}
      %f = (f32[5]{0}, f32[5]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%e), \
source_target_pairs={{0,1},{1,0},{2,3},{3,2}}
    %all-reduce-scatter.1 (p: f32[8]) -> f32[2] {
      %g = f32[8]{0} all-reduce(%p), replica_groups={{0,1,2,3}}, to_apply=%add
    }
    %wide.windowed_dot_general_body_rs.2 (p: (f32[2], u32[])) -> (f32[2], u32[]) {
      %h = f32[2]{0} collective-permute(%p), source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
      %i = f32[2]{0} collective-permute(%p), source_target_pairs={{0,3},{3,2},{2,1},{1,0}}
    }
    """
    found = [tuple(collective) for collective in collectives(program)]
    assert found == [
        ('all-gather', 128, 4, False),
        ('all-gather', 8, 4, True),
        ('all-reduce', 14, 2, False),
        ('reduce-scatter', 64, 4, False),
        ('all-reduce', 4, 4, False),
        ('collective-permute', 20, 2, True),
        ('reduce-scatter', 32, 4, False),
        ('reduce-scatter', 32, 4, False),
    ]


def test_operations_are_those_of_all_parts_of_a_batch():
    """From which the fraction of the device's peak follows. On one device a CPU has more loops."""
    whole, _ = compiled_step((2, 1))
    parts, _ = compiled_step((2, 1), training.StepOptions(accumulate=4))
    assert training.flops(parts, 4) == pytest.approx(training.flops(whole), rel=0.05)


def test_the_old_state_is_donated_and_nothing_is_transferred_or_compiled_again():
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
