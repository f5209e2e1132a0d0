"""Several processes as one: what they tell each other besides the arrays of a step."""

import json
import signal
import threading

import jax
import numpy as np
from jax.experimental import multihost_utils


def gather_json(value) -> list:
    """`value` of every process, in the order of the processes; all call together."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    longest = multihost_utils.process_allgather(np.array(len(text))).max()
    padded = np.full(longest, ord(' '), np.uint8)
    padded[: len(text)] = text
    return [json.loads(row.tobytes()) for row in multihost_utils.process_allgather(padded)]


def all_agree(ok: bool) -> bool:
    """True if it is true of every process; all call together."""
    if jax.process_count() == 1:
        return ok
    return bool(multihost_utils.process_allgather(np.array(ok)).all())


def barrier(name: str) -> None:
    """Returns once every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


class StopSignal:
    """Notices SIGTERM, which announces preemption, so that the loop can save and end.

    A context manager. Several processes learn of it at the same step through the coordinator.
    """

    def __enter__(self):
        self._seen = False
        # Signals can be handled in the main thread alone; elsewhere the process just ends.
        self._ours = threading.current_thread() is threading.main_thread()
        if self._ours and jax.process_count() == 1:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_):
        if self._ours and jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_):
        self._seen = True

    def requested(self, step: int) -> bool:
        """Whether to stop after `step`; the same answer on all processes."""
        if jax.process_count() == 1:
            return self._seen
        return multihost_utils.reached_preemption_sync_point(step)
