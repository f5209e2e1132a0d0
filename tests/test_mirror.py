"""What commands write to object storage: whole, or not at all. Here fsspec's storage in memory."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import test_hub
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from test_remote import storage  # noqa: F401 (a fixture)

import data.prepare
import stsa_jax
from stsa_jax import files, mirror, remote
from stsa_jax.errors import InputError
from stsa_jax.remote import cache, local
from stsa_jax.weights.files import read_weights, save
from tests import data_copies as copies

RUN = 'memory://bucket/run'
ROOT = Path(__file__).parents[1]


class Killed(BaseException):
    """The end of a process."""


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def checkpoint(step, content):
    return {
        f'checkpoints/{step}/meta/metadata': json.dumps(content),
        f'checkpoints/{step}/params/_METADATA': content,
        f'checkpoints/{step}/params/d/0': content * 100,
    }


def content_of(address):
    root = local(address)
    return {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob('*') if p.is_file()}


def test_a_folder_is_copied_both_ways(storage):  # noqa: F811
    files = {'log.jsonl': 'a', 'events': 'b', **checkpoint(1, 'one')}
    with mirror.folder(RUN) as here:
        assert not list(here.iterdir())
        hidden = {'.part/x': 'x', '.lock': 'x', 'checkpoints/2.orbax-checkpoint-tmp-9/x': 'x'}
        write(here, files | hidden)
    assert content_of(RUN) == files
    assert not mirror.place(RUN).parent.exists()
    with mirror.folder(RUN) as here:
        found = {p.relative_to(here).as_posix() for p in here.rglob('*') if p.is_file()}
        assert found == {*files}
        (here / 'log.jsonl').write_text('aa')
        (here / 'events').unlink()
    assert content_of(RUN) == {'log.jsonl': 'aa', **checkpoint(1, 'one')}
    with pytest.raises(ZeroDivisionError), mirror.folder(RUN) as here:
        (here / 'log.jsonl').write_text('aaa')
        1 / 0  # noqa: B018
    assert content_of(RUN)['log.jsonl'] == 'aaa'


def test_storage_of_files_keeps_no_empty_folders_and_misses_files_quietly(
    tmp_path,
    storage,  # noqa: F811
    monkeypatch,
    capsys,
):
    address = f'file://{tmp_path}/bucket/run'
    with mirror.folder(address) as here:
        write(here, {'log.jsonl': 'a', **checkpoint(1, 'one')})
    put = remote.put

    def put_late(storage, source, target):
        if '/checkpoints/2/' in target:  # deleted since the folder was listed
            source.unlink(missing_ok=True)
        put(storage, source, target)

    with mirror.folder(address) as here:
        shutil.rmtree(here / 'checkpoints' / '1')
        write(here, checkpoint(2, 'two'))
        monkeypatch.setattr(remote, 'put', put_late)
    assert content_of(address) == {'log.jsonl': 'a', **checkpoint(1, 'one')}, 'no half of 2'
    with mirror.folder(address) as here:
        shutil.rmtree(here / 'checkpoints' / '1')
    assert content_of(address) == {'log.jsonl': 'a'}
    assert not (tmp_path / 'bucket' / 'run' / 'checkpoints' / '1').exists()
    assert not capsys.readouterr().err


def test_each_of_several_processes_has_a_copy_and_the_first_is_kept(storage, tmp_path):  # noqa: F811
    write(tmp_path, {'log.jsonl': 'a', **checkpoint(1, 'one')})
    storage.put(f'{tmp_path}/', '/bucket/run', recursive=True)
    with mirror.folder(RUN) as first, mirror.folder(RUN, process=1) as second:
        assert first != second
        write(first, {'log.jsonl': 'ab'})
        write(second, {'log.jsonl': 'nonsense'})
        assert (second / 'checkpoints' / '1' / 'meta' / 'metadata').is_file()
    assert content_of(RUN) == {'log.jsonl': 'ab', **checkpoint(1, 'one')}
    assert not first.exists() and not second.exists()


def test_a_process_killed_at_any_operation_leaves_whole_checkpoints(
    storage,  # noqa: F811
    monkeypatch,
):
    """Step 1 is replaced by step 2; the log is at least as new as the checkpoint."""
    before = {'log.jsonl': '1', **checkpoint(1, 'one')}
    after = {'log.jsonl': '12', **checkpoint(2, 'two')}
    left, seen = [0], []
    for name in ('put_file', 'rm_file'):
        real = getattr(MemoryFileSystem, name)

        def counted(self, *args, real=real, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(self, *args, **kwargs)

        monkeypatch.setattr(MemoryFileSystem, name, counted)
    for operations in range(9):
        storage.store.clear()
        left[0] = 1000
        with mirror.folder(RUN) as here:
            write(here, before)
        left[0] = operations
        try:
            with mirror.folder(RUN) as here:
                for path in here.rglob('*'):
                    if path.is_file():
                        path.unlink()
                write(here, after)
        except Killed:
            pass
        found = content_of(RUN)
        steps = {name.split('/')[1] for name in found if name.startswith('checkpoints')}
        for step in steps:
            whole = checkpoint(int(step), {'1': 'one', '2': 'two'}[step])
            assert whole.items() <= found.items(), (operations, step)
        assert steps, operations
        assert '2' not in steps or found['log.jsonl'] == '12'
        seen.append(sorted(steps))
        left[0] = 1000  # the next command removes the rest
        with mirror.folder(RUN) as here:
            assert len(list(here.glob('checkpoints/*/meta'))) == len(steps)
        assert set(storage.find('/bucket/run')) == {f'/bucket/run/{name}' for name in found}
    assert seen[0] == ['1'] and seen[-1] == ['2'] and ['1', '2'] in seen


def test_a_process_killed_while_it_copies_a_file_leaves_the_old_one(tmp_path, monkeypatch):
    """fsspec's storage of files, which writes into the file itself."""
    address = f'file://{tmp_path}/bucket/run'
    monkeypatch.setenv('STSA_JAX_CACHE', str(tmp_path / 'cache'))
    with mirror.folder(address) as here:
        write(here, {'log.jsonl': 'one'})

    def killed(self, source, target, **kwargs):
        Path(target).write_text(Path(source).read_text()[:1])
        raise Killed

    for under in (mirror.folder(address), mirror.file(f'{address}/log.jsonl')):
        with monkeypatch.context() as patch, pytest.raises(Killed), under as here:
            patch.setattr(LocalFileSystem, 'put_file', killed)
            (here / 'log.jsonl' if here.is_dir() else here).write_text('two')
        assert content_of(address) == {'log.jsonl': 'one'}
    bucket = tmp_path / 'bucket' / 'run'
    for name in ('log.jsonl', 'events'):  # of a process that had no time to remove them
        with files.atomic_path(tmp_path / name) as temporary:
            (bucket / temporary.name).write_text('half')
    assert len(os.listdir(bucket)) == 3
    assert content_of(address) == {'log.jsonl': 'one'}
    with mirror.folder(address) as here:  # the next command removes the rest
        assert [path.name for path in here.iterdir()] == ['log.jsonl']
    assert os.listdir(tmp_path / 'bucket' / 'run') == ['log.jsonl']


def test_copies_meanwhile_and_failures(storage, monkeypatch, capsys):  # noqa: F811
    real, broken = MemoryFileSystem.put_file, [True]

    def put_file(self, *args, **kwargs):
        if broken[0]:
            raise OSError('the connection was lost')
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, 'put_file', put_file)
    with mirror.folder(RUN, every=0.01) as here:
        (here / 'log').write_text('a')
        wait_for(lambda: 'not copied yet: the connection was lost' in capsys.readouterr().err)
        broken[0] = False
        wait_for(lambda: storage.exists('/bucket/run/log'))
    broken[0] = True
    for_run = pytest.raises(InputError, match='bucket/run: cannot be written')
    with for_run, mirror.folder(RUN) as here:
        (here / 'log').write_text('b')
    with pytest.raises(ZeroDivisionError), mirror.folder(RUN) as here:
        (here / 'log').write_text('b')
        1 / 0  # noqa: B018
    assert 'warning: memory://bucket/run: cannot be written' in capsys.readouterr().err
    of_file = pytest.raises(InputError, match='bucket/a: cannot be written')
    with of_file, mirror.file('memory://bucket/a') as path:
        path.write_text('b')


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_errors_name_the_address_and_one_command_writes_at_a_time(storage):  # noqa: F811
    bad = pytest.raises(InputError, match=r'^memory://bucket/run/log: is bad')
    with bad, mirror.folder(RUN) as here:
        raise InputError(f'{here}/log: is bad')
    with mirror.folder(RUN):
        command = [sys.executable, '-c', OPEN, RUN]
        other = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert 'another process is writing' in other.stderr


@pytest.mark.parametrize('end', ['..', '.', '../'])
def test_an_address_does_not_lead_out_of_the_cache(storage, end):  # noqa: F811
    (cache() / 'written' / 'kept').mkdir(parents=True)
    with pytest.raises(InputError, match='the folder itself'), mirror.folder(f'{RUN}/{end}'):
        pass
    with pytest.raises(InputError, match='the folder itself'):
        local(f'{RUN}/{end}')
    assert (cache() / 'written' / 'kept').exists()


def test_a_name_in_the_storage_does_not_lead_out_of_the_folder(storage):  # noqa: F811
    storage.store['/bucket/run/../../../outside'] = MemoryFile(path='/bucket/run/x', data=b'x')
    for read in (lambda: local(RUN), lambda: mirror.folder(RUN).__enter__()):
        with pytest.raises(InputError, match='outside leads out of the folder'):
            read()
    assert not [path for path in cache().rglob('*') if path.name == 'outside']


OPEN = 'import sys; from stsa_jax import mirror\nwith mirror.folder(sys.argv[1]): pass'


def test_models_and_weight_files(storage, tmp_path):  # noqa: F811
    model = test_hub.small_model('vinet')
    model.save_pretrained('memory://bucket/shared')
    test_hub.assert_same(stsa_jax.load('memory://bucket/shared'), model)
    assert storage.exists('/bucket/shared/README.md')
    model.save_pretrained(tmp_path / 'shared')
    weights = read_weights(tmp_path / 'shared')
    for name in ('weights.safetensors', 'folder'):
        save(f'memory://bucket/{name}', weights)
        test_hub.assert_same(stsa_jax.load(f'memory://bucket/{name}'), model)


def test_a_dataset_is_prepared_there(storage, tmp_path, capsys):  # noqa: F811
    copies.dhf1k(tmp_path / 'copy', {1: 3, 2: 2}, 'annotation')
    prepare = ['dhf1k', f'--source={tmp_path / "copy"}', '--num_workers=1', '--size=32x64']
    data.prepare.main([*prepare, f'--data_dir={tmp_path / "here"}'])
    assert [path.name for path in (tmp_path / 'here').iterdir()] == ['dhf1k'], 'nothing of TFDS'
    other = tmp_path / 'with others' / 'downloads' / 'other'  # of another dataset of TFDS
    other.mkdir(parents=True)
    data.prepare.main([*prepare, f'--data_dir={other.parents[1]}'])
    assert other.is_dir() and [path.name for path in other.parent.iterdir()] == ['other']
    data.prepare.main([*prepare, '--data_dir=memory://bucket/data'])
    assert 'copied to memory://bucket/data/dhf1k' in capsys.readouterr().out
    there = data.open_split('dhf1k', 'train', 'memory://bucket/data')
    here = data.open_split('dhf1k', 'train', tmp_path / 'here')
    assert [v.name for v in there.videos] == [v.name for v in here.videos]
    np.testing.assert_array_equal(there.frame(1), here.frame(1))
    data.prepare.main([*prepare, '--data_dir=memory://bucket/data'])
    assert 'is prepared already' in capsys.readouterr().out
