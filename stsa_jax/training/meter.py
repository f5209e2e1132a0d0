"""Metrics of the training loop: means between two log lines, speed, and skipped steps.

Reading a step's metrics waits for the step. The loop therefore leaves them on the device and reads
them all at once when a log line is due.
"""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from stsa_jax.distribution import processes
from stsa_jax.errors import InputError

# Dense bfloat16 operations per second of one device, from the vendors' data sheets.
PEAK_FLOPS = {
    'TPU v4': 275e12,
    'TPU v5 lite': 197e12,
    'TPU v5': 459e12,
    'TPU v6 lite': 918e12,
    'NVIDIA A100': 312e12,
    'NVIDIA H100': 989e12,
    'NVIDIA H200': 989e12,
}


def peak_flops(device_kind: str) -> float:
    """Operations per second of a device of this kind, as JAX names it; 0 if unknown."""
    # The longest matching name: 'TPU v5 lite' before 'TPU v5'.
    names = [name for name in PEAK_FLOPS if device_kind.startswith(name)]
    return PEAK_FLOPS[max(names, key=len)] if names else 0.0


class Meter:
    """Collects the metrics of steps.

    `flops` are the operations of one step on one device, and `memory` its bytes there, 0 if
    unknown. `max_skipped` steps in a row whose loss or gradient is not finite raise InputError.
    `skipped_in_row` is the current count, including steps before an interruption of the run.
    """

    def __init__(
        self,
        batch_size: int,
        max_skipped: int,
        flops: float = 0,
        memory: int = 0,
        skipped_in_row: int = 0,
    ):
        self._batch_size, self._max_skipped = batch_size, max_skipped
        self.flops, self.memory = flops, memory
        self._pending: list[tuple[int, dict, Sequence[str]]] = []  # step, metrics, clips
        self._taken: list[dict] = []
        self.skipped_in_row = skipped_in_row
        self.restart()

    def restart(self) -> None:
        """Restarts the clock: time since the last line is not counted as steps."""
        self._started, self._waited = time.perf_counter(), 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for data."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    def add(self, step: int, metrics: dict, clips: Sequence[str]) -> None:
        """Adds the metrics of a step, and the names of this process's clips in it."""
        self._pending.append((step, metrics, clips))

    def check(self) -> list[str]:
        """Waits for the steps so far; returns lines about those skipped since the last call.

        All processes must call it together. Raises InputError after too many skipped steps in a
        row.
        """
        pending = [(s, jax.device_get(m), names) for s, m, names in self._pending]
        self._pending = []
        lines = [line for entry in pending for line in self._check(*entry)]
        self._taken += [metrics for _, metrics, _ in pending]
        return lines

    def read(self) -> tuple[dict[str, float], list[str]]:
        """(mean values since the last call, lines about skipped steps), like `check`."""
        lines = self.check()
        steps, self._taken = self._taken, []
        if not steps:
            return {}, lines
        seconds = time.perf_counter() - self._started
        taken = [m for m in steps if not m['skipped']]
        values = {
            name: float(np.mean([m[name] for m in taken])) if taken else math.nan
            for name in ('loss', 'kl', 'cc', 'grad_norm')
        }
        values['learning_rate'] = float(steps[-1]['learning_rate'])
        values['skipped'] = len(steps) - len(taken)
        values['clips_per_second'] = self._batch_size * len(steps) / seconds
        values['step_seconds'] = seconds / len(steps)
        values['data_wait_seconds'] = self._waited / len(steps)
        values |= self._device(len(steps) / seconds)
        self.restart()
        return values, lines

    def _check(self, step: int, metrics: dict, clips: Sequence[str]) -> list[str]:
        if not metrics['skipped']:
            self.skipped_in_row = 0
            return []
        self.skipped_in_row += 1
        # In batch order, which is the order of the processes.
        everyones = [name for clips in processes.gather_json(list(clips)) for name in clips]
        bad = ~np.isfinite(metrics['losses'])
        named = [name for name, is_bad in zip(everyones, bad) if is_bad or not bad.any()]
        line = (
            f'step {step}: skipped, its loss ({metrics["loss"]}) or gradient norm '
            f'({metrics["grad_norm"]}) is not finite; clips: {", ".join(named)}'
        )
        if self.skipped_in_row >= self._max_skipped:
            raise InputError(
                f'{line}. {self.skipped_in_row} steps in a row were skipped (config.max_skipped), '
                'so the run ends; its last checkpoint is good. Check these clips, or lower '
                'config.optimizer.learning_rate'
            )
        return [line]

    def _device(self, steps_per_second: float) -> dict[str, float]:
        device = jax.local_devices()[0]
        values = {}
        stats = device.memory_stats() or {}  # none on a CPU
        if memory := stats.get('peak_bytes_in_use', self.memory):
            values['device_memory_gib'] = memory / 2**30
        if (peak := peak_flops(device.device_kind)) and self.flops:
            values['fraction_of_peak'] = self.flops * steps_per_second / peak
        return values
