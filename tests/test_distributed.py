"""Several processes with jax.distributed over loopback, as on several hosts."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from test_train_script import ROOT, config_file, prepared  # noqa: F401 (fixtures)

from stsa_jax import checkpoints, remote
from stsa_jax.checkpoints.meta import read_meta
from stsa_jax.checkpoints.weights import load_weights
from stsa_jax.distribution import processes
from stsa_jax.errors import InputError
from stsa_jax.training.reporting import read_log

# By two processes in object storage, then from its middle by two there, and by one without.
STORED = 'two-stored', 'stored-two', 'stored-one'


def start(count, devices, config_file, workdir, *overrides):  # noqa: F811
    """`count` processes, with `devices` each, that train together."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
        'JAX_PLATFORMS': 'cpu',
    }
    command = [
        *(sys.executable, str(ROOT / 'tests' / 'small_network.py')),
        *(f'--config={config_file}', f'--workdir={workdir}'),
        *(f'--config.{override}' for override in overrides),
    ]
    if count > 1:
        command += [f'--coordinator=127.0.0.1:{port}', f'--num_processes={count}']
    return [
        subprocess.Popen(
            command + ([f'--process_id={i}'] if count > 1 else []),
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]


def finish(processes, timeout=300):
    with ThreadPoolExecutor(len(processes)) as pool:  # a full pipe would hold up its writer
        told = list(pool.map(lambda process: process.communicate(timeout=timeout)[1], processes))
    for process, text in zip(processes, told):
        assert process.returncode == 0, text[-4000:]
    return told


def losses(workdir):
    return [(entry['step'], entry['kind'], entry['loss']) for entry in read_log(workdir)]


def several(scenario, config_file, folder):  # noqa: F811
    """{name: (exit code, end time, standard error)} of tests/several_processes.py."""
    script = [sys.executable, str(ROOT / 'tests' / 'several_processes.py')]
    done = subprocess.run(
        [*script, scenario, str(config_file), str(folder)],
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope='module')
def layouts(config_file, tmp_path_factory):  # noqa: F811
    """The folder of the runs by one process with one device and by two tasks of SLURM with two."""
    folder = tmp_path_factory.mktemp('layouts')
    ended = several('layouts', config_file, folder)
    # All that failed: one may have waited for another in vain.
    failed = {name: told[-4000:] for name, (code, _, told) in ended.items() if code}
    assert not failed, '\n\n'.join(f'{name}: {told}' for name, told in failed.items())
    return folder, {name: told for name, (_, _, told) in ended.items()}


@pytest.mark.long
def test_two_processes_give_the_losses_of_one_and_hand_over(layouts):
    """8 steps by 2 processes x 2 devices; by 1 x 1; and half of them by each."""
    found = {path.name: losses(path) for path in layouts[0].glob('*-*/')}
    same = {'one-plain': ('two-plain', 'two-fsdp4', 'two-one', *STORED)}
    same['one-accumulated'] = ('one-two',)
    for one, others in same.items():
        assert len(found[one]) == 10, '8 steps and two validations'
        for other in others:
            assert [e[:2] for e in found[other]] == [e[:2] for e in found[one]], other
            # The order of float32 sums differs, and training amplifies that.
            np.testing.assert_allclose(
                [e[2] for e in found[other]], [e[2] for e in found[one]], rtol=2e-4, err_msg=other
            )
    told = layouts[1]
    assert told['task 0'].count('continuing at step 4 of 8') == 2, 'one-two, stored-two'
    assert told['alone'].count('continuing at step 4 of 8') == 2, 'two-one, stored-one'
    first = [found[one][0][2] for one in same]
    assert abs(first[0] - first[1]) > 1e-3 * first[0], 'BatchNorm sees a part: the parts matter'


def names(workdir):
    """The files of a run but those that Orbax names at random or for each process.

    `_sharding` says how arrays were laid out; those that are saved to storage are whole.
    """
    paths = {path.relative_to(workdir).as_posix() for path in workdir.rglob('*') if path.is_file()}
    return {p for p in paths if not re.search('/d/|ocdbt|/_sharding$|^events', p)}


@pytest.mark.long
def test_object_storage_has_the_files_of_a_shared_folder_and_no_copies_stay(layouts):
    folder, _ = layouts
    shared, stored = (names(folder / run) for run in ('two-fsdp4', 'two-stored'))
    assert stored == shared
    assert load_weights(folder / 'two-stored').kind == 'stsanet', 'it compares the checksums'
    assert not [path for path in (folder / 'cache').rglob('*') if path.is_file()]


@pytest.mark.long
def test_a_process_without_room_for_its_copy_stops_all_with_its_reason(layouts):
    folder, _ = layouts
    said = {(folder / f'full-{index}').read_text() for index in (0, 1)}
    assert len(said) == 1 and 'is a file, not a folder' in said.pop()
    assert not (folder / 'full').exists()


@pytest.mark.long
def test_in_storage_too_a_damaged_checkpoint_is_set_aside_and_a_full_disk_ends_all(layouts):
    folder, _ = layouts
    steps = sorted(path.name for path in (folder / 'stored-two' / 'checkpoints').iterdir())
    assert steps == ['4', '8'] and (folder / 'stored-two' / 'damaged-8').is_dir()
    said = {(folder / f'unsaved-{index}').read_text() for index in (0, 1)}
    assert len(said) == 1 and 'a checkpoint could not be written (' in said.pop()


@pytest.mark.long
def test_bad_clips_and_frames_of_any_process_are_reported(layouts):
    folder, told = layouts
    named = [json.loads((folder / f'bad-{index}.json').read_text()) for index in (0, 1)]
    lines = [line for line in told['task 0'].splitlines() if 'is not finite' in line]
    assert [line.split(': ')[-1] for line in lines] == [
        named[1]['2'],
        f'{named[0]["3"]}, {named[1]["3"]}',
    ]
    steps = [entry for entry in read_log(folder / 'bad') if entry['kind'] == 'train']
    assert [entry['skipped'] for entry in steps] == [0, 1, 1, 0, 0, 0]
    assert [entry['damaged_frames'] for entry in steps] == [3, 0, 0, 0, 0, 0]
    assert 'step 1: a frame\n' in told['task 1'], 'by the process that read it'


@pytest.mark.long
def test_a_full_disk_in_one_process_affects_all(layouts):
    folder, told = layouts
    assert told['task 0'].count('a checkpoint could not be written') == 1
    assert 'step 4: a checkpoint could not be written' in told['task 0'], 'that of step 2'
    kept = [path.name for path in (folder / 'bad' / 'checkpoints').iterdir()]
    assert sorted(name for name in kept if name.isdecimal()) == ['4', '6']
    assert [entry['step'] for entry in read_log(folder / 'bad')] == list(range(1, 7))


@pytest.mark.long
def test_a_process_that_dies_takes_the_other_down_within_a_minute(config_file, tmp_path):  # noqa: F811
    """Either of the two, by SIGKILL or by an error, which lets it shut down."""
    ended = several('deaths', config_file, tmp_path)
    for victim in (0, 1):
        for how in ('killed', 'failed'):
            case = f'{victim} {how}'
            died = float((tmp_path / case).read_text())
            for index in (0, 1):
                code, when, told = ended[f'{case}: {index}']
                assert code != 0, case
                assert when - died < 60, f'{case}: process {index} lived on for {when - died} s'
                if how == 'failed' and index == victim:
                    assert 'error: no more clips' in told


@pytest.mark.long
@pytest.mark.parametrize('storage', ['', 'file://'])
def test_sigterm_to_one_process_saves_and_ends_all(storage, config_file, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv(remote.CACHE, str(tmp_path / 'cache'))
    workdir, long = tmp_path / 'run', ('num_steps=100000', 'checkpoint_every=1')
    options = config_file, f'{storage}{workdir}', *long

    def at():
        return losses(workdir)[-1][0] if losses(workdir) else 0

    def stopped(count, devices, steps):
        """After so many steps the last process gets a signal; the step at which it did."""
        processes, before = start(count, devices, *options), at()
        deadline = time.monotonic() + 240
        while at() < before + steps:
            assert time.monotonic() < deadline, 'the run does not get on'
            assert all(process.poll() is None for process in processes)
            time.sleep(0.2)
        seen = at()
        processes[-1].send_signal(signal.SIGTERM)
        assert 'saved; the same command continues' in finish(processes, 60)[0]
        return seen

    # The second run is at a large step, and each of its processes has made few of them.
    for count, devices, steps in ((1, 1, 200), (2, 2, 3)):
        seen = stopped(count, devices, steps)
        last = checkpoints.step_folder(workdir)
        assert read_meta(last)['step'] == int(last.name) == at()
        assert storage or at() < seen + 100, 'from storage the log is seen late'


def test_options_that_do_not_belong_together():
    with pytest.raises(InputError, match='belong together'):
        processes.initialise('10.0.0.1:1234')
    with pytest.raises(InputError, match=r'process_id=2: must be in 0 to 1'):
        processes.initialise('10.0.0.1:1234', 2, 2)
