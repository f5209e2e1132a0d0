"""`stsa-jax port --explain` and `--compare`: what people need who port a network."""

import numpy as np
import pytest
import test_hub
from safetensors.numpy import save_file

from stsa_jax.errors import InputError
from stsa_jax.weights import compare, explain, known, port
from stsa_jax.weights.port_command import main

pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.fixture(scope='module')
def model():
    return test_hub.small_model('hd2s')


@pytest.fixture(scope='module')
def state_dict(model):
    return {
        k: np.array(v, order='C') for k, v in port.to_torch(model.params, model.batch_stats).items()
    }


@pytest.mark.parametrize('kind', [k.kind for k in known.KNOWN if k.kind != 's3d'])
def test_every_entry_has_its_place_and_moments(kind):
    model = test_hub.small_model(kind)
    arrays = port.to_torch(model.params, model.batch_stats)
    found = explain.entries(arrays)
    assert {e.state for e in found} == {explain.FITS} and len(found) == len(arrays)
    for entry in found:
        kept = any(mark in entry.name for mark in ('running', 'num_', 'drop_mask'))
        tree = model.batch_stats if kept else model.params
        for part in entry.path.split('.'):
            tree = tree[part]
        assert entry.ours == tree.shape and np.prod(entry.ours) == np.prod(entry.shape)
        values = np.asarray(tree, np.float64)
        expected = values.mean(), values.std(), values.min(), values.max()
        np.testing.assert_allclose(entry.moments, expected, rtol=1e-6, atol=1e-12)


def test_entries_that_do_not_fit_are_shown_and_explained(tmp_path, state_dict, capsys):
    names = sorted(state_dict)
    missing, misshapen = names[3], next(n for n in names if state_dict[n].ndim == 5)
    wrong = {k: v for k, v in state_dict.items() if k != missing} | {'extra.weight': np.ones(2)}
    wrong[misshapen] = wrong[misshapen][:1]
    save_file(wrong, tmp_path / 'w.safetensors')
    main(['--explain', str(tmp_path / 'w.safetensors')])
    told = capsys.readouterr().out
    count = len(state_dict)
    assert f'HD2S, named as hd2s; {count - 2} of {count + 1} entries fit' in told
    assert f'  {missing}: missing\n' in told and '  extra.weight: not part of the model' in told
    expected = 'x'.join(map(str, state_dict[misshapen].shape))
    assert f'  {misshapen}: expected {expected}\n' in told


@pytest.mark.long
def test_the_first_stage_that_differs_is_named(model, state_dict, tmp_path, capsys):
    """Weights of a later level are changed: the levels before are the same."""
    changed = dict(state_dict)
    name = next(n for n in state_dict if n.startswith('featureExtractor.block3') and 'weight' in n)
    changed[name] = changed[name] * 1.5
    for path, arrays in (('a', state_dict), ('b', changed)):
        save_file(
            arrays,
            tmp_path / f'{path}.safetensors',
            {'model': '{"image_size": [32, 64], "width": 0.125}'},
        )
    a, b = str(tmp_path / 'a.safetensors'), str(tmp_path / 'b.safetensors')
    main(['--compare', a, b])
    told = capsys.readouterr().out
    first = told.split('the first stage that differs is ')[1].strip()
    stages = [line.split()[0] for line in told.splitlines()[1:] if line and line[0] != '/']
    assert stages.index('level5') < stages.index('conspicuity5')  # as they are computed
    before = stages[: stages.index(first)]
    assert before and first.startswith('level')
    assert all(f'{s} ' in told and 'differs' not in _line(told, s) for s in before)

    clip = np.random.default_rng(1).normal(size=(16, 32, 64, 3)).astype(np.float32)
    theirs = compare.stages(model, clip[None])  # as another implementation would have them
    first_of = {n: v if n == 'map' else np.moveaxis(v, -1, 1) for n, v in theirs.items()}
    np.savez(tmp_path / 'theirs.npz', clip=np.moveaxis(clip, -1, 0), **first_of)
    main(['--compare', a, str(tmp_path / 'theirs.npz')])
    assert 'no stage differs' in capsys.readouterr().out
    first_of['map'] = first_of['map'] + 0.1
    np.savez(tmp_path / 'theirs.npz', clip=np.moveaxis(clip, -1, 0), **first_of)
    main(['--compare', a, str(tmp_path / 'theirs.npz')])
    assert 'the first stage that differs is map' in capsys.readouterr().out


def _line(told, stage):
    return next(line for line in told.splitlines() if line.split()[:1] == [stage])


def test_stages_of_other_shapes_or_names():
    ours = {'up': np.ones((1, 2, 4, 4, 3))}
    with pytest.raises(InputError, match=r'stage up: shapes .*neither channels last nor first'):
        compare.compare(ours, {'up': np.ones((1, 2, 5, 4, 3))})
    with pytest.raises(InputError, match='no stage in common; ours are up; found down'):
        compare.compare(ours, {'down': np.ones(3)})
    found = compare.compare(ours, {'up': np.full((1, 3, 2, 4, 4), 2.0)})  # channels first
    assert found == [('up', (1, 2, 4, 4, 3), 1.0, 0.5)]


def test_wrong_arguments(tmp_path):
    (tmp_path / 'x.npz').write_bytes(b'no')
    test_hub.small_model('hd2s').save_pretrained(tmp_path / 'a')
    for arguments, words in {
        ('a', '--explain', 'b'): 'a: goes without --explain',
        ('--compare', str(tmp_path / 'a'), str(tmp_path / 'x.npz')): 'not an .npz file',
        ('--compare', str(tmp_path / 'a'), str(tmp_path / 'no.npz')): 'there is no such file',
    }.items():
        with pytest.raises(InputError, match=words):
            main(arguments)
