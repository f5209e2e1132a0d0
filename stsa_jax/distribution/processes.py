"""Coordination of several processes, apart from the arrays of a step."""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from stsa_jax.distribution import launcher
from stsa_jax.errors import InputError, explain_os_error

_HEARTBEAT_SECONDS = 30  # a process silent for this long ends the others
_SHUTDOWN_SECONDS = 20  # how long an exiting process waits for the others before it ends them


def initialise(coordinator: str = '', num_processes: int = 0, process_id: int = -1) -> None:
    """Connects this process with the others of the job; does nothing if there are none.

    With `coordinator` ('host:port' of process 0) the two numbers are required too, unless a
    launcher provides them. Without it, SLURM or Open MPI tasks are detected from their environment,
    and the hosts of one or more TPU slices by JAX. Call it before anything else of JAX. Raises
    InputError if the options are incomplete, or the processes do not find each other within five
    minutes.
    """
    given = (bool(coordinator), num_processes > 0, process_id >= 0)
    place = launcher.find_place(os.environ)
    told = (bool(coordinator), True, True) if place and not any(given[1:]) else given
    if any(given) and not all(told):
        raise InputError(
            'several processes: --coordinator=HOST:PORT, --num_processes and --process_id belong '
            f'together; found coordinator={coordinator!r}, num_processes={num_processes}, '
            f'process_id={process_id}'
        )
    if all(given) and not process_id < num_processes:
        raise InputError(
            f'--process_id={process_id}: must be in 0 to {num_processes - 1} '
            f'(--num_processes={num_processes})'
        )
    if all(given):
        options = _by_hand(coordinator, num_processes, process_id, place and place.devices)
    elif place:
        first = coordinator or place.coordinator
        if not first:
            raise InputError(
                f'{place.launcher} started {place.num_processes} processes, but this version of it '
                'does not provide the address of process 0: add --coordinator=HOST:PORT, the host '
                'of process 0 and any free port on it'
            )
        options = _by_hand(first, place.num_processes, place.process_id, place.devices)
    elif 'tpu' in (jax.config.jax_platforms or '') and (
        launcher.has_other_tpu_hosts(os.environ) is not False
    ):
        options = {}
    else:
        return
    try:
        jax.distributed.initialize(
            **options,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(
            f'the processes did not find each other ({str(error).splitlines()[0]}); is the '
            'coordinator reachable, and is every process running?'
            + ('' if options else ' Set TPU_SKIP_MDS_QUERY=1 to use this host alone')
        ) from error


def _by_hand(coordinator, num_processes, process_id, devices) -> dict:
    # JAX's own detection would give a SLURM or Open MPI task only one GPU of its node.
    return {
        'coordinator_address': coordinator,
        'num_processes': num_processes,
        'process_id': process_id,
        'local_device_ids': devices,
        'cluster_detection_method': 'deactivate',
    }


def gather_json(value: Any) -> list:
    """`value` of every process, in process order; all must call it together."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    longest = multihost_utils.process_allgather(np.array(len(text))).max()
    padded = np.full(longest, ord(' '), np.uint8)
    padded[: len(text)] = text
    return [json.loads(row.tobytes()) for row in multihost_utils.process_allgather(padded)]


def all_agree(ok: bool) -> bool:
    """Whether `ok` is true on every process; all must call it together."""
    if jax.process_count() == 1:
        return ok
    return bool(multihost_utils.process_allgather(np.array(ok)).all())


@contextmanager
def together() -> Iterator[None]:
    """Ends the block on all processes with InputError if it fails on one; all must enter it.

    The reason is that of the first that failed. Where it was a bug, its own error is raised.
    """
    problem, cause = '', None
    try:
        yield
    except Exception as error:  # storages raise many types
        cause = error
        told = explain_os_error(error) if isinstance(error, OSError) else str(error)
        problem = told or type(error).__name__
    problem = next(filter(None, gather_json(problem)), '')
    if cause and not isinstance(cause, InputError | OSError):
        raise cause
    if problem:
        raise InputError(problem) from cause


def total(count: int) -> int:
    """The sum of the processes' counts; all must call it together."""
    if jax.process_count() == 1:
        return count
    return int(multihost_utils.process_allgather(np.array(count)).sum())


def barrier(name: str) -> None:
    """Returns once every process has called it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


class Stopped(BaseException):
    """SIGTERM arrived while there was nothing to save."""


class StopSignal:
    """Handles SIGTERM, which announces preemption, so that the loop can save and exit.

    A context manager. Until `hold` is called there is nothing to save, and a signal ends the block
    at once; from then on `requested` reports it. A second signal has no effect, so that saving is
    not interrupted. Several processes learn of a signal at the same step through the coordinator,
    only by `requested`. Afterwards `stopped` says whether a signal ended the run.
    """

    def __init__(self):
        self._seen = self._held = self.stopped = False
        self._calls = 0

    def __enter__(self):
        # Signals can be handled only in the main thread; elsewhere the process just ends.
        main = threading.current_thread() is threading.main_thread()
        self._ours = main and jax.process_count() == 1
        if self._ours:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, kind, *_):
        if self._ours:
            signal.signal(signal.SIGTERM, self._before)
        if kind is not Stopped:
            return False
        print('stopped before there was anything to save', file=sys.stderr)
        return True

    def _note(self, *_):
        first, self._seen = not self._seen, True
        if first and not self._held:
            self.stopped = True
            raise Stopped

    def hold(self) -> None:
        """Call it once there is something to save."""
        self._held = True

    def requested(self) -> bool:
        """Whether to stop now; processes that make the same calls get the same answers."""
        if jax.process_count() == 1:
            self.stopped = self._seen
        elif not self.stopped:
            self._calls += 1
            self.stopped = multihost_utils.reached_preemption_sync_point(self._calls)
        return self.stopped
