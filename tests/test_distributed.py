"""Several processes with jax.distributed over the loopback, as on several hosts."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from test_train_script import ROOT, config_file, prepared  # noqa: F401 (fixtures)

from stsa_jax import distributed
from stsa_jax.errors import InputError
from stsa_jax.reporting import read_log


def start(count, devices, config_file, workdir, *overrides):  # noqa: F811
    """`count` processes with so many devices each that train together."""
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
    told = [process.communicate(timeout=timeout)[1] for process in processes]
    for process, text in zip(processes, told):
        assert process.returncode == 0, text[-4000:]
    return told


def losses(workdir):
    return [(entry['step'], entry['kind'], entry['loss']) for entry in read_log(workdir)]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_and_hand_over(config_file, tmp_path):  # noqa: F811
    """20 steps by 2 processes x 2 devices; by 1 x 1; and begun by the two, ended by the one."""
    long = ('num_steps=20', 'checkpoint_every=10', 'validation.every=10', 'validation.clips=3')
    finish(start(1, 1, config_file, tmp_path / 'one', *long))
    finish(start(2, 2, config_file, tmp_path / 'two', *long, 'mesh.fsdp=2'))
    expected = losses(tmp_path / 'one')
    assert [entry[:2] for entry in losses(tmp_path / 'two')] == [e[:2] for e in expected]
    # The order of float32 sums differs, and training amplifies that.
    found = [entry[2] for entry in losses(tmp_path / 'two')]
    assert found == pytest.approx([entry[2] for entry in expected], rel=2e-4)

    (tmp_path / 'two' / 'checkpoints' / '20').rename(tmp_path / 'away')
    finish(start(1, 4, config_file, tmp_path / 'two', *long))
    found = [entry[2] for entry in losses(tmp_path / 'two')]
    assert found == pytest.approx([entry[2] for entry in expected], rel=2e-4)


@pytest.mark.slow
def test_stopping_and_dying_processes(config_file, tmp_path):  # noqa: F811
    """SIGTERM to one: all save and end well. SIGKILL to one: the other ends within a minute."""
    workdir, long = tmp_path / 'run', ('num_steps=100000', 'checkpoint_every=100000')
    for how in (signal.SIGTERM, signal.SIGKILL):
        processes = start(2, 2, config_file, workdir, *long)
        begun = losses(workdir)
        deadline = time.monotonic() + 240
        while losses(workdir) == begun or losses(workdir)[-1][0] < (begun or [(0,)])[-1][0] + 2:
            assert time.monotonic() < deadline, 'the run does not get on'
            assert all(process.poll() is None for process in processes)
            time.sleep(0.2)
        processes[1].send_signal(how)
        if how == signal.SIGTERM:
            assert 'saved; the same command continues' in finish(processes, 60)[0]
        else:
            processes[1].communicate()
            try:
                processes[0].communicate(timeout=60)
            finally:
                processes[0].kill()
            assert processes[0].returncode not in (0, None)


def test_options_that_do_not_belong_together():
    with pytest.raises(InputError, match='belong together'):
        distributed.initialise('10.0.0.1:1234')
    with pytest.raises(InputError, match=r'process_id=2: must be from 0 to below'):
        distributed.initialise('10.0.0.1:1234', 2, 2)
