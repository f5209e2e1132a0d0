"""Checkpoints: exact round trips on any layout, and detection of damage."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import NamedSharding, PartitionSpec

from stsa_jax.checkpoints import checksums
from stsa_jax.checkpoints.meta import read_meta
from stsa_jax.checkpoints.weights import Checkpointer, describe, load_weights, save_weights
from stsa_jax.distribution import sharding
from stsa_jax.errors import InputError
from stsa_jax.media.preprocess import KINETICS_KYLEMIN
from stsa_jax.models.stsanet import STSANetConfig
from stsa_jax.training import run_config
from stsa_jax.weights.initial import initial_weights
from stsa_jax.weights.pretrained import initialise

MODEL = {'image_size': (64, 96), 'width': 0.25}


def weights(seed=0):
    rng = np.random.default_rng(seed)
    params = {
        'a': {'0': {'kernel': rng.normal(size=(3, 4, 8)).astype(np.float32)}},
        'large': rng.normal(size=(64, 800)).astype(np.float32),
        'scalar': np.float32(seed),
    }
    return params, {'mean': rng.normal(size=8).astype(np.float32), 'count': np.int32(seed)}


def items(seed=0):
    params, batch_stats = weights(seed)
    optimizer = {'step': np.int32(seed), 'opt_state': (params, {'count': np.int32(7)})}
    return jax.tree.map(
        jnp.asarray, {'params': params, 'batch_stats': batch_stats, 'optimizer': optimizer}
    )


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        np.testing.assert_array_equal(x, y)


def run(workdir, steps, **options):
    with Checkpointer(workdir, describe('stsanet', MODEL), **options) as checkpointer:
        for step in steps:
            checkpointer.save(step, items(step), f'position {step}'.encode())
    return workdir


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp('run'), [10, 20])


def test_weights_come_back_bit_for_bit(tmp_path):
    params, batch_stats = weights()
    for _ in range(2):  # the second time replaces the first
        save_weights(tmp_path / 'w', 's3d', MODEL, params, batch_stats, KINETICS_KYLEMIN)
    found = load_weights(tmp_path / 'w')
    assert_same(found.params, params)
    assert_same(found.batch_stats, batch_stats)
    assert (found.kind, found.normalisation) == ('s3d', KINETICS_KYLEMIN)
    assert found.model_config == {'image_size': [64, 96], 'width': 0.25}
    assert [p.name for p in tmp_path.iterdir()] == ['w'], 'nothing temporary is left'


def test_weights_do_not_replace_other_files(tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work')
    with pytest.raises(InputError, match=r'already holds other files \(thesis.tex\)'):
        save_weights(tmp_path, 'stsanet', MODEL, *weights())
    with pytest.raises(InputError, match='is a file'):
        save_weights(tmp_path / 'thesis.tex', 'stsanet', MODEL, *weights())


def test_a_step_or_the_latest_can_be_read(finished):
    assert load_weights(finished).params['scalar'] == 20
    assert load_weights(finished, 10).params['scalar'] == 10
    assert load_weights(finished / 'checkpoints').params['scalar'] == 20
    assert load_weights(finished / 'checkpoints' / '10').params['scalar'] == 10
    with pytest.raises(InputError, match=r'no checkpoint of step 15; there are: \[10, 20\]'):
        load_weights(finished, 15)
    with pytest.raises(InputError, match='no validation'):
        load_weights(finished, 'best')


def test_what_is_not_a_checkpoint_is_named(tmp_path):
    (tmp_path / 'model.pth').write_bytes(b'PK')
    cases = {
        'nowhere': 'no such folder',
        'model.pth': 'is a file, .*python -m stsa_jax.port',
        '.': 'holds no checkpoint',
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=message):
            load_weights(tmp_path / name)


def damage(folder, how):
    """Damages the largest data file of a folder, or its meta data."""
    if how == 'meta':
        path = folder / 'meta' / 'metadata'
        path.write_bytes(path.read_bytes()[:-40])
        return
    path = max((folder / 'params').rglob('d/*'), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    if how == 'truncated':
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize('how', ['truncated', 'one bit', 'meta'])
def test_a_damaged_latest_checkpoint_is_named_and_the_one_before_used(
    how, finished, tmp_path, capsys
):
    workdir = tmp_path / 'run'
    shutil.copytree(finished, workdir)
    damage(workdir / 'checkpoints' / '20', how)
    with pytest.raises(InputError, match=r'checkpoints/20.*damaged'):
        load_weights(workdir)
    with Checkpointer(workdir, describe('stsanet', MODEL)) as checkpointer:
        found = checkpointer.restore(items())
        told = capsys.readouterr().err
        assert told.startswith(f'warning: {workdir}/checkpoints/20') and told.count('\n') == 1
        assert (found.step, found.data_state) == (10, b'position 10')
        assert_same(found.items, items(10))
        assert (workdir / 'damaged-20').is_dir(), 'kept for inspection'
        checkpointer.save(20, items(21))
    assert load_weights(workdir).params['scalar'] == 21


def test_if_all_are_damaged_nothing_is_touched(finished, tmp_path):
    workdir = tmp_path / 'run'
    shutil.copytree(finished, workdir)
    for step in ('10', '20'):
        damage(workdir / 'checkpoints' / step, 'truncated')
    with (
        Checkpointer(workdir, describe('stsanet', MODEL)) as checkpointer,
        pytest.raises(InputError, match=r'none of its checkpoints \(\[20, 10\]\) can be read'),
    ):
        checkpointer.restore(items())
    assert sorted(p.name for p in (workdir / 'checkpoints').iterdir()) == ['10', '20']


def test_arrays_of_another_run_are_refused(finished):
    other = items() | {'ema': items()['params']}
    with (
        Checkpointer(finished, describe('stsanet', MODEL)) as checkpointer,
        pytest.raises(InputError, match=r'other arrays than this run.*ema/'),
    ):
        checkpointer.restore(other)


def test_a_model_of_another_config_is_refused_with_its_fields(finished):
    with (
        Checkpointer(finished, describe('stsanet', MODEL | {'width': 0.5})) as checkpointer,
        pytest.raises(
            InputError, match=r'another config(.|\n)*model.width: 0.25 in the run, 0.5 now'
        ),
    ):
        checkpointer.restore(items())
    assert sorted(p.name for p in (finished / 'checkpoints').iterdir()) == ['10', '20']


@pytest.mark.parametrize('layout', [(8, 1), (2, 4)])
def test_a_checkpoint_restores_onto_another_layout(layout, finished):
    mesh = sharding.make_mesh(*layout)
    like = items()
    like = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
        like,
        sharding.state_sharding(mesh, like),
    )
    with Checkpointer(finished, describe('stsanet', MODEL)) as checkpointer:
        found = checkpointer.restore(like)
    assert_same(jax.device_get(found.items), jax.device_get(items(20)))
    assert found.items['params']['large'].sharding.mesh.shape == mesh.shape


def test_the_last_few_and_the_best_are_kept(tmp_path):
    scores = {1: 0.1, 2: 0.9, 3: 0.2, 4: 0.4, 5: 0.3}
    for part in ((1, 2, 3), (4, 5)):  # interrupted in between
        with Checkpointer(tmp_path, describe('stsanet', MODEL), 2, 'cc', 'max') as checkpointer:
            for step in part:
                checkpointer.save(step, items(step), metrics={'cc': scores[step]})
    assert checkpointer.steps() == [2, 4, 5]
    assert load_weights(tmp_path, 'best').params['scalar'] == 2


def test_a_record_can_be_amended_and_nan_is_never_the_best(tmp_path):
    with Checkpointer(tmp_path, describe('stsanet', MODEL), 1, 'cc', 'max') as checkpointer:
        for step, cc in ((1, math.nan), (2, 0.9), (3, math.nan), (4, 0.1)):
            checkpointer.save(step, items(step), {'n': step}, metrics={'cc': cc})
        assert checkpointer.steps() == [2, 4]
        checkpointer.amend(4, {'n': 44}, {'cc': 0.95})
        checkpointer.save(5, items(5))
    assert checkpointer.steps() == [4, 5]
    with Checkpointer(tmp_path, describe('stsanet', MODEL), 1, 'cc', 'max') as checkpointer:
        checkpointer.save(6, items(6))
    assert checkpointer.steps() == [4, 6], 'also after a resumption'
    assert load_weights(tmp_path, 'best').params['scalar'] == 4
    meta = read_meta(tmp_path / 'checkpoints' / '4')
    assert (meta['data'], meta['metrics']) == ([{'n': 44}], {'cc': 0.95})


def test_fine_tuning_starts_from_the_best_of_a_run_if_it_has_one(tmp_path):
    config = STSANetConfig(image_size=(32, 64), frames=16, width=0.125)
    drawn = [initial_weights(config, seed)[1:] for seed in (1, 2)]
    description = describe('stsanet', dataclasses.asdict(config))
    cases = {'validated': ({'cc': 0.5}, {'cc': 0.4}), 'not': (None, None)}
    for name, metrics in cases.items():
        with Checkpointer(tmp_path / name, description, 2, 'cc', 'max') as checkpointer:
            for step, weights, scores in zip((1, 2), drawn, metrics):
                trees = dict(zip(('params', 'batch_stats'), weights))
                checkpointer.save(step, trees, metrics=scores)
        said = []
        found = initialise(tmp_path / name, config, say=said.append)
        best = 1 if scores else 2
        assert_same(found[0], drawn[best - 1][0])
        assert len(said) == 1 and f'{name}/checkpoints/{best} (' in said[0]
        assert ('best by validation: cc 0.5000' if scores else 'the latest') in said[0]


def test_averaged_parameters_are_the_ones_read(tmp_path):
    averaged = weights(99)[0]
    with Checkpointer(tmp_path, describe('stsanet', MODEL)) as checkpointer:
        checkpointer.save(1, items(1) | {'ema': averaged})
    assert_same(load_weights(tmp_path).params, averaged)


def test_a_full_disk_leaves_the_checkpoint_before_usable(finished, tmp_path):
    """A limit on file sizes simulates a full disk: writing fails in the same place."""
    workdir = tmp_path / 'run'
    shutil.copytree(finished, workdir)
    script = """
import sys, resource, signal
sys.path.insert(0, 'tests')
import test_checkpoint as t
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with t.Checkpointer(sys.argv[1], t.describe('stsanet', t.MODEL)) as checkpointer:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
    try:
        checkpointer.save(30, t.items(30))
        checkpointer.wait()
        print('saved')
    except Exception as error:
        print('failed:', type(error).__name__)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
"""
    done = subprocess.run(
        [sys.executable, '-c', script, str(workdir)], capture_output=True, text=True, timeout=300
    )
    assert 'failed' in done.stdout, done.stdout + done.stderr[-2000:]
    assert load_weights(workdir).params['scalar'] == 20


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.int32, np.float16, np.uint8]),
        hnp.array_shapes(min_dims=0, max_dims=4, max_side=5),
        elements=st.integers(0, 100),
    ),
    st.data(),
)
def test_a_checksum_sees_every_change_of_one_bit(array, data):
    before = checksums.of_array(array)
    raw = bytearray(array.tobytes())
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    changed = np.frombuffer(bytes(raw), array.dtype).reshape(array.shape)
    assert checksums.of_array(changed) != before


@pytest.mark.parametrize('spec', [(), ('data',), (None, 'fsdp'), (('data', 'fsdp'),)])
def test_a_checksum_does_not_depend_on_the_layout(spec):
    array = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    mesh = sharding.make_mesh(2, 4)
    laid_out = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
    assert checksums.of_array(laid_out) == checksums.of_array(array)


def test_a_run_is_not_continued_under_another_config(tmp_path):
    config = {'seed': 0, 'model': {'width': 1.0, 'size': (2, 4)}, 'log_every': 5}
    run_config.write_config(tmp_path, config)
    run_config.write_config(tmp_path, config | {'log_every': 50})
    assert json.loads((tmp_path / 'config.json').read_text())['log_every'] == 50
    changed = config | {'seed': 1, 'model': {'width': 0.5, 'size': (2, 4)}, 'new': 3}
    with pytest.raises(InputError) as error:
        run_config.write_config(tmp_path, changed)
    for line in ('seed: 0 in the run, 1 now', 'model.width: 1.0 in', "new: 'absent' in"):
        assert line in str(error.value)
    assert 'model.size' not in str(error.value)
    (tmp_path / 'config.json').write_text('{"seed": ')
    with pytest.raises(InputError, match=r'config.json: not a config'):
        run_config.write_config(tmp_path, config)
