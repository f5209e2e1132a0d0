"""Output of a training run: TensorBoard events, a log of JSON lines, a progress line.

Only the first process writes them. tensorboardX writes TensorBoard's files, without TensorFlow. On
resumption both logs continue from the checkpoint: entries after it are dropped, because those steps
are repeated.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from stsa_jax import files
from stsa_jax.errors import explain_os_error

# tensorboardX imports PyTorch where it is installed, for tensors, which it is not given here. That
# would take each run a second and 200 MB.
_ABSENT = {'torch': None} if 'torch' not in sys.modules else {}
sys.modules.update(_ABSENT)  # type: ignore[arg-type]  # the documented way to refuse an import
try:
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
finally:
    for _name in _ABSENT:
        del sys.modules[_name]

LOG = 'log.jsonl'
_PLAIN_SECONDS = 15  # between progress lines without a terminal
_FLUSH_SECONDS = 15  # between flushes of TensorBoard's events to disk


class Reporter:
    """A context manager; `num_steps` is the run's length, `step` where it starts or resumes."""

    def __init__(self, workdir: str | os.PathLike, num_steps: int, step: int = 0):
        self._active = jax.process_index() == 0
        self._path = Path(workdir) / LOG
        self._num_steps, self._step, self._first = num_steps, step, step
        self._started = self._last_plain = time.monotonic()
        self.history = [r for r in read_log(workdir) if r['step'] <= step]
        if not self._active:
            return
        files.write_atomic(self._path, ''.join(json.dumps(r) + '\n' for r in self.history))
        self._log = open(self._path, 'a', buffering=1)  # noqa: SIM115 (closed in __exit__)
        # tensorboardX's own SummaryWriter writes in a thread, which dies on a full disk; the run
        # would then wait for it forever.
        self._events = EventsWriter(str(Path(workdir) / 'events'))
        self._flushed, self._failed = time.monotonic(), False
        if step:  # makes TensorBoard drop later steps
            start = SessionLog(status=SessionLog.START)
            self._events.write_event(Event(step=step + 1, session_log=start))
        self._bar = tqdm(
            total=num_steps,
            initial=step,
            disable=None,
            unit='step',
            desc='training',
            dynamic_ncols=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._active:
            self._bar.close()
            for log in (self._events, self._log):
                with self._full_disk_is_said():
                    log.close()

    def advance(self, step: int) -> None:
        """Moves the progress line to `step`."""
        if self._active:
            self._bar.update(step - self._step)
        self._step = step

    def record(self, step: int, values: Mapping[str, float], prefix: str = 'train') -> None:
        """Logs scalars of `step`; a prefix other than 'train' is added to their names."""
        values = {k: float(v) for k, v in values.items()}
        entry = {'step': step, 'kind': prefix, **values}
        self.history.append(entry)
        if not self._active:
            return
        with self._full_disk_is_said():
            self._log.write(json.dumps(entry) + '\n')
            for name, value in values.items():
                self._event(step, summary.scalar(f'{prefix}/{name}', value))
        if prefix == 'train':
            losses = {k: f'{values[k]:.3f}' for k in ('loss', 'kl', 'cc') if k in values}
            shown = losses | {'clips/s': f'{values.get("clips_per_second", 0):.2f}'}
            self._bar.set_postfix(shown, refresh=False)
            self._plain_line(step, shown)
        else:
            line = ', '.join(f'{k} {v:.4f}' for k, v in values.items())
            self.say(f'step {step}: {prefix}: {line}')

    def images(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Logs uint8 RGB images (h, w, 3) to TensorBoard."""
        if self._active:
            with self._full_disk_is_said():
                for name, picture in pictures.items():
                    self._event(step, summary.image(name, picture, dataformats='HWC'))

    def say(self, line: str, from_all: bool = False) -> None:
        """Prints a line without breaking the progress line, in the first process or `from_all`."""
        if self._active or from_all:
            tqdm.write(line, file=sys.stderr)

    def _event(self, step: int, content) -> None:
        self._events.write_event(Event(step=step, wall_time=time.time(), summary=content))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._flushed = time.monotonic()
            self._events.flush()

    @contextlib.contextmanager
    def _full_disk_is_said(self):
        """Reports a log that cannot be written once; training continues."""
        try:
            yield
        except OSError as error:
            if not self._failed:
                reason = explain_os_error(error)
                self.say(f'the log cannot be written: {reason}; training continues')
            self._failed = True

    def _plain_line(self, step: int, shown: Mapping[str, str]) -> None:
        now = time.monotonic()
        last = step >= self._num_steps
        if not self._bar.disable or (now - self._last_plain < _PLAIN_SECONDS and not last):
            return
        self._last_plain = now
        per_step = (now - self._started) / max(step - self._first, 1)
        left = tqdm.format_interval(per_step * max(self._num_steps - step, 0))
        values = '  '.join(f'{k} {v}' for k, v in shown.items())
        print(f'step {step}/{self._num_steps}  {values}  time left {left}', file=sys.stderr)


def read_log(workdir: str | os.PathLike) -> list[dict]:
    """The log of a run: dicts with `step`, `kind` and values. Truncated lines are skipped."""
    path = Path(workdir) / LOG
    if not path.is_file():
        return []
    entries = []
    for line in path.read_text(errors='replace').splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and 'step' in entry:
            entries.append(entry)
    return entries
