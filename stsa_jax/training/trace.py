"""A trace of a few training steps, for TensorBoard's profiler or Perfetto."""

from collections.abc import Callable
from typing import Any

import jax

STEPS, BEFORE = 5, 10  # so many are traced, after so many that are not: the first ones are slower


class Trace:
    """A context manager that writes a trace into `folder`; without one it does nothing.

    `first` and `last` are the steps between which the run goes. A run that is too short for
    BEFORE steps and STEPS traced ones has its last steps traced. What ends the block earlier ends
    the trace too, and where it had not begun, `say` tells so.
    """

    def __init__(self, folder: str | None, first: int, last: int, say: Callable[[str], None]):
        self._folder, self._say = folder, say
        self._start = first + min(BEFORE, max(last - first - STEPS, 0))
        self._end = min(self._start + STEPS, last)
        self._written = self._running = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._running:
            self._stop()
        elif self._folder and not self._written:
            self._say(f'no trace is written: the run ended before step {self._start + 1}')

    def before(self, step: int) -> None:
        """To be called with the number of steps that are done, before the next one."""
        if self._folder and step == self._start:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def after(self, step: int, state: Any) -> None:
        """To be called with the number of steps that are done, and what the last one returned."""
        if self._running and step == self._end:
            jax.block_until_ready(state)
            self._stop()

    def _stop(self):
        jax.profiler.stop_trace()
        self._running, self._written = False, True
