"""The paper's variants (Tables III to VI): each matches the paper, built of the same parts."""

import dataclasses
import math
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx, traverse_util

import stsa_jax
from configs import ablations
from stsa_jax import InputError, STSANet, STSANetConfig
from stsa_jax.configuration import load_config
from stsa_jax.models import amsf, functional, stsa
from stsa_jax.models.layers import Taps
from stsa_jax.models.stsanet import Branch
from stsa_jax.weights import port
from stsa_jax.weights.names import torch_name
from stsa_jax.weights.pretrained import initialise

pytestmark = pytest.mark.usefixtures('quick_compilation')

ROOT = Path(__file__).parents[1]
TINY = {'image_size': (32, 64), 'frames': 16, 'width': 0.125}
FULL = STSANetConfig()
VARIANTS = [row for row in ablations.ROWS if 'supervised' not in row]


def shapes(config):
    """{'branch0.compress.kernel': shape} of all parameters."""
    _, params, _ = functional.abstract(STSANet, config)
    flat = traverse_util.flatten_dict(params, sep='.')
    return {name: array.shape for name, array in flat.items()}


def count(pattern='', config=FULL):
    return sum(math.prod(s) for name, s in shapes(config).items() if re.search(pattern, name))


def random_params(module, seed=0):
    """Overwrites every parameter with noise, so that none has a special value."""
    rng = np.random.default_rng(seed)
    graphdef, state = nnx.split(module)
    noise = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape, scale=0.3), x.dtype), state)
    return nnx.merge(graphdef, noise)


def features(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# --- what each row is made of -----------------------------------------------------------------


def expected_count(row):
    """Parameters of a row: the full model's, less the parts that the paper takes away."""
    total, middle = count(), 'stsa.middle'
    attention = r'branch\d.stsa.layer'
    plain = {0: (416, 240), 1: (240, 192), 2: (192, 192)}
    convolutions = sum(9 * a * b + b for a, b in plain.values())
    scales, weighting = count('multi_scale'), count('weighting')
    one_embedding = count(r'layer_1.pair0.a')
    lower = sum(count(rf'branch{i}.(compress|{middle})') for i in range(3))
    concat = sum(count(f'multi_scale.{p}.kernel') for p in ('point', 'time_1', 'time_2', 'pool'))
    return {
        'full': total,
        'unet': total - count(attention) - weighting - scales + convolutions,
        'single_stream': total - count(attention) - weighting - scales + convolutions - lower,
        'unet_stsa': total - weighting - scales + convolutions,
        'unet_amsf': total - count(attention),
        'without_temporal_relations': total,
        'single_similarity_matrix': total - 3 * one_embedding - count('layer_2'),
        'without_stsa_layer_1': total - count('layer_1'),
        'without_stsa_layer_2': total - count('layer_2'),
        **{f'remove_stsa_{n + 1}': total - count(rf'branch{n}.stsa.layer') for n in range(4)},
        'concat_amsf': total + concat,
        'without_weighting': total - weighting,
        'without_multi_scale': total - scales + convolutions,
    }[row]


@pytest.mark.parametrize('row', VARIANTS)
def test_parameters_are_the_full_models_less_the_parts_removed(row):
    config = load_config(f'{ROOT}/configs/ablations.py:{row}').model
    assert count(config=STSANetConfig(**config)) == expected_count(row)
    assert count() == 160_840_060


@pytest.mark.parametrize('row', VARIANTS)
def test_every_parameter_is_used(row):
    """An argument that a program does not need is dropped when it is lowered."""
    config = STSANetConfig(**TINY, **ablations.ROWS[row])
    graphdef, params, batch_stats = functional.abstract(STSANet, config)
    clip = jax.ShapeDtypeStruct((1, 16, 32, 64, 3), jnp.float32)
    run = jax.jit(lambda p, s, c: functional.apply(graphdef, p, s, c))
    text = run.lower(params, batch_stats, clip).as_text()
    main = re.search(r'func.func public @main\((.*?)\) ->', text, re.DOTALL).group(1)
    counts = [name for name in traverse_util.flatten_dict(batch_stats) if name[-1] == 'count']
    wanted = len(jax.tree.leaves(params)) + len(jax.tree.leaves(batch_stats)) - len(counts) + 1
    # The last stages' parameters are needed even by a single stream; the counts are bookkeeping.
    assert len(re.findall(r'%arg\d+:', main)) == wanted


@pytest.mark.parametrize(
    'fields,reason',
    [
        ({'levels': (0, 1)}, 'levels .* includes 3'),
        ({'levels': (3, 0)}, 'levels'),
        ({'levels': (3,)}, 'stsa_levels .* levels that are used'),
        ({'levels': (3,), 'stsa_levels': ()}, 'amsf_weighting .* two levels to weigh'),
        (
            {'levels': (3,), 'stsa_levels': (), 'amsf_weighting': False, 'amsf_concat': True},
            'amsf_concat .* concatenate',
        ),
        ({'stsa_layers': ()}, 'stsa_layers .* stsa_levels=()'),
        ({'stsa_layers': (0,)}, 'stsa_layers'),
        ({'attention': 'single'}, 'stsa_layers .* one matrix relates all steps'),
        ({'attention': 'both'}, 'attention .* pairs, steps, single'),
    ],
)
def test_impossible_combinations_are_refused_with_a_reason(fields, reason):
    with pytest.raises(InputError, match=reason):
        STSANetConfig(**fields)


# --- attention --------------------------------------------------------------------------------


def relations(layer, attended_only=False):
    """(4, 4) bool: whether the output at a step depends on the input at a step."""
    x = features(1, 4, 2, 3, 4)
    run = layer.attend if attended_only else layer
    jacobian = np.abs(jax.jit(jax.jacobian(run))(x))
    return jacobian.sum(axis=(0, 2, 3, 4, 5, 7, 8, 9)) > 0


@pytest.mark.parametrize('pairs', [1, 2])
def test_without_temporal_relations_no_step_sees_another(pairs):
    options = {'bottleneck': False, 'rngs': nnx.Rngs(0)}
    layer = stsa.STSALayer(pairs, (4, 2, 3, 4), 6, attention='steps', **options)
    np.testing.assert_array_equal(relations(random_params(layer)), np.eye(4, dtype=bool))
    full = stsa.STSALayer(pairs, (4, 2, 3, 4), 6, **options)
    assert relations(random_params(full)).all()  # by the norm, whatever the attention relates


@pytest.mark.parametrize('level', [0, 1])
def test_no_step_sees_another_in_the_module_of_the_row(level):
    """Layer I, middle convolution and layer II, with the bottleneck on level 0, as configured."""

    def sees(row):
        config = STSANetConfig(**TINY, **ablations.ROWS[row])
        module = random_params(Branch(level, config, rngs=nnx.Rngs(0)).stsa)
        assert module.layer_1.bottleneck == module.layer_2.bottleneck == (level == 0)
        x = np.abs(features(4, *((8, 16, 24), (4, 8, 60))[level]))
        changed = np.stack([x] * 5)  # the last one is as it was
        for step in range(4):
            changed[step, step] = np.abs(features(*x.shape[1:], seed=1 + step))
        out = np.asarray(jax.jit(module)(changed))
        difference = np.abs(out[:4] - out[4]).max(axis=(2, 3, 4))
        return difference / np.abs(out).max() > 1e-5  # step changed, step of the output

    np.testing.assert_array_equal(sees('without_temporal_relations'), np.eye(4, dtype=bool))
    assert sees('full').all()


def test_without_temporal_relations_is_each_steps_own_attention():
    """Figure 6a with the embeddings spelt out: q, k and v of the same step."""
    pair = stsa.PairWithinSteps(4, 3, rngs=nnx.Rngs(0))
    a, b = features(2, 1, 2, 3, 5, 4)
    matrices = {}
    found = pair(a, b, Taps(matrices))
    for group, embedding, out in ((a, pair.a, found[:, :2]), (b, pair.b, found[:, 2:])):
        for t in range(2):
            query, key, value = (np.asarray(x)[0] for x in embedding(group[:, t : t + 1]))
            weights = np.exp(query @ key.T)
            expected = weights / weights.sum(1, keepdims=True) @ value
            np.testing.assert_allclose(out[0, t].reshape(15, 4), expected, atol=1e-5)
    assert matrices['a_to_a'].shape == (1, 2, 15, 15)


def test_single_similarity_matrix_is_one_softmax_over_all_positions():
    config = STSANetConfig(**TINY, **ablations.ROWS['single_similarity_matrix'])
    branch = Branch(1, config, rngs=nnx.Rngs(0))
    x = features(1, 8, 4, 8, 60)
    program = str(jax.make_jaxpr(branch)(x))
    assert len(re.findall(r'= exp ', program)) == 1
    taps = {}
    branch(x, Taps(taps).at('branch1'))
    (name,) = (name for name in taps if '_to_' in name)
    assert taps[name].shape == (1, 4 * 4 * 8, 4 * 4 * 8)
    np.testing.assert_allclose(taps[name].sum(-1), 1, atol=1e-5)
    layer = random_params(branch.stsa.layer_1)
    every = relations(
        stsa.STSALayer(2, (4, 2, 3, 4), 6, bottleneck=False, attention='single', rngs=nnx.Rngs(0)),
        attended_only=True,
    )
    assert every.all() and layer.pairs == 0


# --- where a variant and the full model coincide ----------------------------------------------


def without_update(params, *norms):
    """The parameters with scale and bias of these LayerNorms at zero: the layers do nothing."""
    flat = traverse_util.flatten_dict(params)
    zeroed = {
        path: a * 0 if path[-2] == 'norm' and any(n in path for n in norms) else a
        for path, a in flat.items()
    }
    return traverse_util.unflatten_dict(zeroed)


def only(params, like):
    """The entries of `params` that `like` has."""
    wanted = traverse_util.flatten_dict(like)
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({path: flat[path] for path in wanted})


@pytest.mark.parametrize('level', range(4))
@pytest.mark.parametrize('layers', [(), (1,), (2,)])
def test_a_removed_layer_equals_one_that_adds_nothing(level, layers):
    """`layers` are those that stay; without any, only the middle conv is left."""
    channels = (24, 60, 104, 128)[level]
    side = (8, 4, 2, 1)[level]
    x = features(2, 4, side, 2 * side, channels)
    options = {'bottleneck': level == 0, 'rngs': nnx.Rngs(1)}
    size = ((side, 2 * side), (channels, 24), (12, 8))
    full = random_params(stsa.STSAModule(*size, **options))
    fewer = stsa.STSAModule(*size, layers=layers, **options)
    graphdef, params, _ = functional.split(full)
    removed = [f'layer_{i}' for i in (1, 2) if i not in layers]
    reference = nnx.merge(graphdef, without_update(params, *removed), {})
    fewer_graph, like, _ = functional.split(fewer)
    fewer = nnx.merge(fewer_graph, only(params, like), {})

    @jax.jit
    def run(x):
        return fewer(x), reference(x), full(x), jax.nn.relu(fewer.middle(x))

    found, expected, of_full, of_middle = run(x)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    if not layers:
        np.testing.assert_allclose(found, of_middle, atol=1e-6)
    assert np.abs(found - of_full).max() > 0.1


@pytest.fixture(scope='module')
def program():
    """`program(config, change)`: the traced network after the backbone, which no variant changes.

    A function of all the full model's weights. `change` is done to the network before it runs.
    """
    _, params, batch_stats = functional.abstract(STSANet, STSANetConfig(**TINY))
    sizes = (8, 8, 16, 24), (8, 4, 8, 60), (4, 2, 4, 104), (2, 1, 2, 128)
    stages = [jax.ShapeDtypeStruct((1, *size), jnp.float32) for size in sizes]
    clip = np.zeros((1, 16, 32, 64, 3), np.float32)

    def trace(config, change=lambda network: None):
        graphdef, like, _ = functional.abstract(STSANet, config)

        def run(params, stages):
            network = nnx.merge(graphdef, only(params, like), batch_stats)
            network.backbone = lambda clip, **_: stages
            change(network)
            return network(clip)

        return str(jax.make_jaxpr(run)(params, stages))

    return trace


REMOVED = {f'remove_stsa_{n + 1}': ([n], [1, 2]) for n in range(4)} | {
    'unet_amsf': (range(4), [1, 2]),
    'without_stsa_layer_1': (range(4), [1]),
    'without_stsa_layer_2': (range(4), [2]),
}


@pytest.mark.parametrize('row', REMOVED)
def test_a_row_is_the_whole_network_with_these_layers_taken_out(program, row):
    """The same program of the same weights; that a layer may be taken out is shown above."""

    def take_out(network):
        levels, layers = REMOVED[row]
        for level in levels:
            for layer in layers:
                setattr(getattr(network, f'branch{level}').stsa, f'layer_{layer}', None)

    full = STSANetConfig(**TINY)
    found = program(STSANetConfig(**TINY, **ablations.ROWS[row]))
    assert found == program(full, take_out)


def test_fusion_without_parts():
    high, low = features(2, 1, 4, 4, 6, 8)
    full = random_params(amsf.AMSF(8, 5, rngs=nnx.Rngs(0)))

    # Weights of one: the sum.
    full.weighting.excite.kernel[...] *= 0
    full.weighting.excite.bias[...] = jnp.full(16, 100.0)
    plain_sum = amsf.AMSF(8, 5, weighting=False, rngs=nnx.Rngs(0))
    plain_sum.multi_scale = full.multi_scale
    np.testing.assert_allclose(plain_sum(high, low), full(high, low), atol=1e-5)

    # One scale alone: a 3x3 convolution with nothing around its centre.
    for name in ('space_1', 'space_2', 'pool'):
        convolution = getattr(full.multi_scale, name)
        convolution.kernel[...] *= 0
        convolution.bias[...] *= 0
    one_scale = amsf.AMSF(8, 5, multi_scale=False, rngs=nnx.Rngs(0))
    one_scale.weighting = full.weighting
    kernel = jnp.zeros((1, 3, 3, 8, 5)).at[:, 1:2, 1:2].set(full.multi_scale.point.kernel[...])
    one_scale.plain.kernel[...] = kernel
    one_scale.plain.bias[...] = full.multi_scale.point.bias[...]
    np.testing.assert_allclose(one_scale(high, low), full(high, low), atol=1e-5)

    # Side by side with the same kernel for both: the sum again.
    concat = amsf.AMSF(8, 5, multi_scale=False, concat=True, rngs=nnx.Rngs(0))
    concat.weighting = full.weighting
    concat.plain.kernel[...] = jnp.concatenate([kernel, kernel], axis=3)
    concat.plain.bias[...] = full.multi_scale.point.bias[...]
    np.testing.assert_allclose(concat(high, low), full(high, low), atol=1e-5)
    assert np.abs(concat(high, low) - concat(low, high)).max() < 1e-5
    concat.plain.kernel[...] = jnp.concatenate([kernel, 0 * kernel], axis=3)
    assert np.abs(concat(high, low) - concat(low, high)).max() > 0.1

    # A single stream has no low level.
    single = amsf.AMSF(8, 5, weighting=False, multi_scale=False, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(single(high), single(high, 0 * high), atol=1e-6)


# --- configs and weights ----------------------------------------------------------------------


def test_every_row_is_a_config_for_all_recipes():
    for row, fields in ablations.ROWS.items():
        for recipe, dataset in (('', 'dhf1k'), (',tiny', 'stsa_synthetic')):
            config = load_config(f'{ROOT}/configs/ablations.py:{row}{recipe}')
            assert config.data.datasets == (dataset,)
            assert config.init_from == ('' if recipe else 'S3D_kinetics400.pt')
            for field, value in fields.items():
                assert config.model[field] == value
        for trials in ('matching', 'contrast'):
            other = load_config(f'{ROOT}/configs/ablations.py:{row},{trials}')
            assert other.data.datasets == (f'stsa_{trials}',)
            assert other.model.to_dict() == {**config.model.to_dict(), 'target': 'last'}
    assert STSANetConfig(**config.model).target_index == 15  # the last row's recipe: 16 frames
    config = load_config(f'{ROOT}/configs/ablations.py:unet', ['--config.model.levels=1,3'])
    assert config.model.levels == (1, 3)


@pytest.mark.parametrize('dataset', ['hollywood2', 'ucf_sports', 'diem'])
def test_the_other_datasets_are_tuned_from_dhf1k(dataset):
    config = load_config(f'{ROOT}/configs/{dataset}.py')
    assert config.data.datasets == (dataset,) and config.init_from == 'runs/dhf1k'
    assert STSANetConfig(**config.model) == FULL and config.batch_size == 3


def test_an_unknown_row_is_an_error_that_lists_the_rows():
    command = [sys.executable, 'train.py', '--config=configs/ablations.py:no_stsa', '--workdir=x']
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert 'no_stsa' in done.stderr and 'remove_stsa_4' in done.stderr


@pytest.fixture(scope='module')
def full_file(tmp_path_factory):
    path = tmp_path_factory.mktemp('full') / 'full.pth'
    config = STSANetConfig(**TINY)
    _, params, batch_stats = functional.split(STSANet(config, rngs=nnx.Rngs(3)))
    state_dict = port.to_torch(params, batch_stats)
    torch.save({name: torch.tensor(array) for name, array in state_dict.items()}, path)
    return path, traverse_util.flatten_dict(params)


@pytest.mark.parametrize('row', VARIANTS)
def test_full_weights_load_into_a_variant_for_what_they_share(full_file, row):
    path, full = full_file
    config = STSANetConfig(**TINY, **ablations.ROWS[row])
    said = []
    params, batch_stats = initialise(path, config, say=said.append)
    params = traverse_util.flatten_dict(params)
    assert params.keys() == traverse_util.flatten_dict(shapes_tree(config)).keys()
    new, loaded = set(), 0
    for name, array in params.items():
        if name in full and array.shape == full[name].shape:
            np.testing.assert_array_equal(array, full[name], err_msg='.'.join(name))
            loaded += array.size
        else:
            new.add('.'.join(name[:-1]))
    if config.structure == STSANetConfig().structure:
        assert not said and not new
        return
    assert f'{loaded:,} of' in said[0]
    text = '\n'.join(said)
    assert all(name in text for name in new)
    assert ('initialised randomly' in text) == bool(new)
    unused = [n for n, a in full.items() if n not in params or params[n].shape != a.shape]
    told = [line for line in said if line.startswith('  not in the model, left out: ')]
    assert len(told) == bool(unused)
    for name in unused:
        assert torch_name(name, 'stsanet')[0].split('.')[0] in told[0]
    # And back: a variant's own weights survive PyTorch's names.
    tree = traverse_util.unflatten_dict(params)
    again, _ = port.from_torch(port.to_torch(tree, batch_stats), config)
    jax.tree.map(np.testing.assert_array_equal, again, tree)


def shapes_tree(config):
    return functional.abstract(STSANet, config)[1]


def test_a_variant_does_not_accept_another_model(full_file):
    config = dataclasses.replace(STSANetConfig(**TINY, **ablations.ROWS['unet']), width=0.25)
    with pytest.raises(InputError, match=r'base1\.0\.conv_s\.weight has shape'):
        initialise(full_file[0], config)
    with pytest.raises(InputError, match='do not fit the model'):  # and the full model is strict
        initialise(full_file[0], STSANetConfig(**TINY | {'width': 0.25}))


def test_a_variant_is_saved_with_its_structure(full_file, tmp_path):
    config = STSANetConfig(**TINY, **ablations.ROWS['single_stream'])
    params, batch_stats = initialise(full_file[0], config, say=lambda line: None)
    fields = dataclasses.asdict(config)
    stsa_jax.checkpoints.save_weights(tmp_path / 'c', 'stsanet', fields, params, batch_stats)
    assert stsa_jax.load(tmp_path / 'c').config == config
