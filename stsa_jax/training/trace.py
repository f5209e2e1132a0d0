"""A trace of a few training steps, for TensorBoard's profiler or Perfetto."""

from collections.abc import Callable
from typing import Any

import jax

STEPS, BEFORE = 5, 10  # traced steps, and steps before them: the first ones are slower


class Trace:
    """A context manager that writes a trace into `folder`; without one it does nothing.

    The run goes from step `first` to `last`. If it is too short for BEFORE steps and STEPS traced
    ones, its last steps are traced. If the block exits earlier, the trace ends too; if it had not
    started, `say` reports that.
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
        """Call before each step with the number of steps done."""
        if self._folder and step == self._start:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def after(self, step: int, state: Any) -> None:
        """Call after each step with the number of steps done and the state it returned."""
        if self._running and step == self._end:
            jax.block_until_ready(state)
            self._stop()

    def _stop(self):
        jax.profiler.stop_trace()
        self._running, self._written = False, True
