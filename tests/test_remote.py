"""Checkpoints, configs and datasets in object storage; here fsspec's storage in memory."""

import fsspec
import jax
import numpy as np
import pytest
import test_hub

import data
import stsa_jax
from stsa_jax.checkpoints import save_weights
from stsa_jax.configuration import load_config
from stsa_jax.errors import InputError
from stsa_jax.files import output_folder, write_atomic
from stsa_jax.remote import CACHE, local
from stsa_jax.weights.initial import initial_weights
from tests import data_copies as copies


@pytest.fixture
def storage(tmp_path, monkeypatch):
    """An empty storage; copies go to tmp_path/cache."""
    monkeypatch.setenv(CACHE, str(tmp_path / 'cache'))
    storage = fsspec.filesystem('memory')
    storage.store.clear()
    yield storage
    storage.store.clear()


def upload(storage, folder, to):
    for path in folder.rglob('*'):
        if path.is_file():
            storage.pipe_file(f'{to}/{path.relative_to(folder)}', path.read_bytes())


def test_weights_of_a_file_a_folder_and_a_run(tmp_path, storage):
    model = test_hub.small_model()
    model.save_pretrained(tmp_path / 'shared')
    fields = {'image_size': (32, 64), 'frames': 16, 'width': 0.125}
    save_weights(tmp_path / 'run', 'stsanet', fields, model.params, model.batch_stats)
    (tmp_path / 'run' / 'checkpoints' / '0' / 'optimizer').mkdir()
    (tmp_path / 'run' / 'checkpoints' / '0' / 'optimizer' / 'large').write_text('x')
    upload(storage, tmp_path / 'shared', '/bucket/shared')
    upload(storage, tmp_path / 'run', '/bucket/run')
    for path in ('bucket/shared', 'bucket/shared/model.safetensors', 'bucket/run', 'bucket/run/'):
        test_hub.assert_same(stsa_jax.load(f'memory://{path}'), model)
    assert not list((tmp_path / 'cache').rglob('optimizer*'))  # a prediction does without
    trees = initial_weights(test_hub.SMALL['stsanet'], init_from='memory://bucket/run')
    jax.tree.map(np.testing.assert_array_equal, trees[1], model.params)


def test_only_what_has_changed_is_copied_again(storage):
    for name, content in {'a': b'1', 'deep/b': b'2', 'gone': b'3'}.items():
        storage.pipe_file(f'/bucket/set/{name}', content)
    folder = local('memory://bucket/set')
    (folder / 'a').write_bytes(b'kept')  # not fetched again
    storage.pipe_file('/bucket/set/deep/b', b'22')
    storage.rm('/bucket/set/gone')
    assert local('memory://bucket/set') == folder
    assert (folder / 'a').read_bytes() == b'kept' and (folder / 'deep' / 'b').read_bytes() == b'22'
    assert not (folder / 'gone').exists()


def test_a_config(storage):
    text = 'from configs import ablations\n\ndef get_config(row="full"):\n'
    text += '    return ablations.get_config(row + ",tiny")\n'
    storage.pipe_file('/bucket/mine.py', text.encode())
    assert load_config('memory://bucket/mine.py').model.levels == (0, 1, 2, 3)
    config = load_config('memory://bucket/mine.py:single_stream', ['--config.batch_size=5'])
    assert config.model.levels == (3,) and config.batch_size == 5


def test_a_dataset(tmp_path, storage):
    copies.dhf1k(tmp_path / 'copy', {1: 3, 2: 2}, 'annotation')
    prepared = tmp_path / 'prepared'
    data.prepare_dataset('dhf1k', prepared, tmp_path / 'copy', num_workers=1, size=(32, 64))
    upload(storage, prepared, '/bucket/data')
    there = data.open_split('dhf1k', 'train', 'memory://bucket/data')
    here = data.open_split('dhf1k', 'train', prepared)
    assert [v.name for v in there.videos] == [v.name for v in here.videos]
    np.testing.assert_array_equal(there.frame(1), here.frame(1))
    with pytest.raises(InputError, match='memory://bucket/data/diem: there is no such'):
        data.open_split('diem', 'test_i', 'memory://bucket/data')


def test_wrong_addresses(storage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path, words in {
        'memory://bucket/none': 'memory://bucket/none: there is no such file or folder',
        'nosuch://bucket/x': 'nosuch://bucket/x: cannot be read: Protocol not known',
    }.items():
        with pytest.raises(InputError, match=words):
            stsa_jax.load(path)
    for write in (
        lambda: output_folder('gs://bucket/run'),
        lambda: write_atomic('gs://bucket/a.json', '{}'),
    ):
        with pytest.raises(InputError, match=r'gs:/+bucket/.*not to object storage'):
            write()
    assert not list(tmp_path.iterdir())
