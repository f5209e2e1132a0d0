"""One process at a time in a folder."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stsa_jax.errors import InputError
from stsa_jax.lock import LOCK, locked_folder

ROOT = Path(__file__).parents[1]
HOLD = """
import os, sys, time
sys.path.insert(0, {root!r})
from stsa_jax.lock import locked_folder
with locked_folder({path!r}):
    if os.fork() == 0:
        time.sleep(60)  # a child of the run, as those that read clips
    print('held', flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds tmp_path, with a child."""
    program = HOLD.format(root=str(ROOT), path=str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, '-c', program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == 'held\n'
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_the_message_names_the_process_that_holds_it(tmp_path, other):
    held = f'another process .*process {other.pid} on '
    with pytest.raises(InputError, match=held), locked_folder(tmp_path):
        pass
    assert (tmp_path / LOCK).exists()  # the other's


def test_the_lock_does_not_outlive_its_process(tmp_path, other):
    """Killed, so that it cannot clean up, and while its child lives on."""
    other.kill()
    other.wait()
    with locked_folder(tmp_path):
        assert f'process {os.getpid()} on' in (tmp_path / LOCK).read_text()
    assert not list(tmp_path.iterdir())


def _take_it(path, held, overlaps):
    for _ in range(30):
        try:
            with locked_folder(path):
                with held.get_lock():
                    held.value += 1
                    overlaps.value += held.value > 1
                time.sleep(0.001)
                with held.get_lock():
                    held.value -= 1
        except InputError:
            pass


def test_only_one_at_a_time_while_others_come_and_go(tmp_path):
    """The file is removed and made again all the time."""
    context = multiprocessing.get_context('forkserver')  # this process may have threads
    held, overlaps = context.Value('i', 0), context.Value('i', 0)
    workers = [context.Process(target=_take_it, args=(tmp_path, held, overlaps)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0, 0, 0] and overlaps.value == 0
