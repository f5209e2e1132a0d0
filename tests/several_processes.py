"""Processes that train together with a small network, for tests/test_distributed.py.

    python tests/several_processes.py SCENARIO CONFIG FOLDER

Importing takes most of their time, so it is done once, and the processes are forked. Prints JSON:
{name of the process: [exit code, time.monotonic() at its end, its standard error]}.
"""

import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import small_network

import data
import train
from stsa_jax import remote
from stsa_jax.checkpoints import checkpointer
from stsa_jax.configuration import load_config
from stsa_jax.distribution import processes
from stsa_jax.errors import InputError, exit_cleanly
from stsa_jax.ops.cpu import memory as cpu_memory

LONG = ('num_steps=8', 'checkpoint_every=4', 'validation.every=4', 'validation.clips=3')
ACCUMULATED = 'accumulate=2'
TOO_LONG = 600  # seconds; it takes 80 on two cores with nothing else, and 200 with much else


def slurm(count: int) -> list[dict]:
    """SLURM's environment for the tasks of a step on one node; the job id gives a free port."""
    while True:
        job = random.randrange(4096)
        with socket.socket() as free:
            if free.connect_ex(('localhost', 61440 + job)):
                break
    common = {
        'SLURM_JOB_ID': str(job),
        'SLURM_STEP_NODELIST': 'localhost',
        'SLURM_STEP_TASKS_PER_NODE': '1',
        'SLURM_NTASKS': str(count),
    }
    return [common | {'SLURM_PROCID': str(i), 'SLURM_LOCALID': '0'} for i in range(count)]


def forked(tasks: dict) -> dict:
    """Runs {name: (function, devices, environment)}, each in a process, all at once.

    A process that does not end within `TOO_LONG` prints its stack traces and is killed.
    """
    running, pipes = {}, {}
    for name, (function, devices, environment) in tasks.items():
        read, write = os.pipe()
        process = os.fork()
        if process == 0:
            os.dup2(write, 2)
            faulthandler.dump_traceback_later(TOO_LONG, exit=True)
            os.environ.update(environment)
            os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count={devices}'
            exit_cleanly(function)
        os.close(write)
        running[process], pipes[name] = name, read
    ends = {}
    with ThreadPoolExecutor(len(pipes)) as readers:  # a full pipe would hold up its writer
        told = readers.map(read_all, pipes.values())
        while running:
            process, status = os.wait()
            ends[running.pop(process)] = os.waitstatus_to_exitcode(status), time.monotonic()
    return {name: (*ends[name], text) for name, text in zip(pipes, told)}


def read_all(pipe: int) -> str:
    with open(pipe, errors='replace') as file:
        return file.read()


def run(config: str, workdir: Path, *overrides: str, on_batch=None) -> None:
    """A run; `on_batch` is called with the step and the batch when the loop asks for it."""
    make = data.train_clips
    if on_batch:
        small_network.watch_batches(setattr, [on_batch])
    try:
        train.train(load_config(config, [f'--config.{o}' for o in overrides]), str(workdir))
    finally:
        data.train_clips = make


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 600
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.1)


def hand_over(
    config, folder: Path, origin: str, name: str, *overrides, storage='', damage=shutil.rmtree
):
    """Resumes from the middle of the finished run `origin`, made on another layout.

    `damage` is done to the folder of its last checkpoint. With 'file://' as `storage` it resumes in
    object storage.
    """
    if jax.process_index() == 0:
        wait_for(folder / f'{origin}.done')
        shutil.copytree(folder / origin, folder / name)
        damage(folder / name / 'checkpoints' / '8')
    processes.barrier(name)
    run(config, f'{storage}{folder / name}', *LONG, *overrides)


def cut(checkpoint: Path) -> None:
    """Half of each file of arrays is lost."""
    for path in checkpoint.rglob('d/*'):
        os.truncate(path, path.stat().st_size // 2)


def alone(config: str, folder: Path) -> None:
    """One process with one device."""
    run(config, folder / 'one-plain', *LONG)
    run(config, folder / 'one-accumulated', *LONG, ACCUMULATED)
    (folder / 'one-accumulated.done').touch()
    hand_over(config, folder, 'two-fsdp4', 'two-one')
    hand_over(config, folder, 'two-stored', 'stored-one')


def together(config: str, folder: Path) -> None:
    """One of two tasks of SLURM, with two devices each."""
    processes._HEARTBEAT_SECONDS = 300  # nobody dies, but the machine may be busy
    processes.initialise()
    assert (jax.process_count(), jax.device_count()) == (2, 4)
    visible = jax.config.values['jax_cuda_visible_devices']
    assert visible == 'all', 'not the one with the number of the task'
    assert not cpu_memory.keep(), 'not where several processes work together'
    run(config, folder / 'two-plain', *LONG)
    run(config, folder / 'two-fsdp4', *LONG, 'mesh.fsdp=4')
    if jax.process_index() == 0:
        (folder / 'two-fsdp4.done').touch()
    hand_over(config, folder, 'one-accumulated', 'one-two', ACCUMULATED, 'mesh.fsdp=2')
    in_storage(config, folder)
    bad_clips_and_a_full_disk(config, folder)


def in_storage(config: str, folder: Path) -> None:
    """Runs in object storage: one from the start, and one from the middle on another layout.

    The last checkpoint of the second is damaged. A third finds no room for its copy on process 1; a
    fourth none for its checkpoint. What each process says to them goes to `full-*` and `unsaved-*`.
    """
    os.environ[remote.CACHE] = str(folder / 'cache')
    run(config, f'file://{folder}/two-stored', *LONG, 'mesh.fsdp=4')
    if jax.process_index() == 0:
        (folder / 'two-stored.done').touch()
    hand_over(config, folder, 'two-stored', 'stored-two', storage='file://', damage=cut)
    if jax.process_index() == 1:
        os.environ[remote.CACHE] = str(folder / 'two-stored.done')
    refused(config, folder, 'full')
    os.environ[remote.CACHE] = str(folder / 'cache')
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step, _):
        if step == 8 and jax.process_index() == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))

    refused(config, folder, 'unsaved', on_batch=fill)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refused(config: str, folder: Path, name: str, on_batch=None) -> None:
    """A run in object storage that ends with an error."""
    try:
        run(config, f'file://{folder}/{name}', *LONG, on_batch=on_batch)
    except InputError as error:
        (folder / f'{name}-{jax.process_index()}').write_text(str(error))


def bad_clips_and_a_full_disk(config: str, folder: Path) -> None:
    """Writes the bad clips to `bad-*.json`: of process 1 at step 2, of both at step 3.

    The disk of process 1 is full, simulated by a limit on the size of files, until the checkpoint
    of step 2 has failed.
    """
    index, named = jax.process_index(), {}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def change(step, batch):
        if step == 1 and index == 1:
            batch['problems'] = np.array(['a frame', 'two\nframes', '', ''])
        if (step, index) in ((2, 1), (3, 0), (3, 1)):
            batch['density'][1] = np.inf if index == 0 else 0
            named[step] = f'{batch["video"][1]} frame {batch["frame"][1]}'
        if index == 1 and step in (1, 4):
            while step == 4 and 'async_save' in [thread.name for thread in threading.enumerate()]:
                time.sleep(0.1)
            limit = 1000 if step == 1 else before[0]
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))

    checkpointer.WRITE_SECONDS = 20
    run(config, folder / 'bad', 'mesh.fsdp=4', on_batch=change)
    (folder / f'bad-{index}.json').write_text(json.dumps(named))


def dying(config: str, folder: Path, port: int, index: int, victim: int, how: str) -> None:
    """One of two processes; the victim dies before its fourth step, after a checkpoint."""
    processes.initialise(f'localhost:{port}', 2, index)

    def die(step, _):
        if step == 4 and index == victim:
            (folder / f'{victim} {how}').write_text(str(time.monotonic()))
            if how == 'killed':
                os.kill(os.getpid(), signal.SIGKILL)
            raise InputError('no more clips')

    run(config, folder / f'{victim}-{how}', 'num_steps=1000000', on_batch=die)


def deaths(config: str, folder: Path) -> dict:
    tasks = {}
    for victim in (0, 1):
        for how in ('killed', 'failed'):
            with socket.socket() as free:
                free.bind(('localhost', 0))
                port = free.getsockname()[1]
            for index in (0, 1):
                arguments = (config, folder, port, index, victim, how)
                task = (lambda arguments=arguments: dying(*arguments)), 1, {}
                tasks[f'{victim} {how}: {index}'] = task
    return tasks


def layouts(config: str, folder: Path) -> dict:
    tasks = {'alone': (lambda: alone(config, folder), 1, {})}
    for i, environment in enumerate(slurm(2)):
        tasks[f'task {i}'] = (lambda: together(config, folder)), 2, environment
    return tasks


if __name__ == '__main__':
    small_network.train_it()
    _, scenario, config, folder = sys.argv
    tasks = {'deaths': deaths, 'layouts': layouts}[scenario](config, Path(folder))
    print(json.dumps(forked(tasks)))
