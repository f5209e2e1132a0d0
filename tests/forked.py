"""Runs of train.py with the small network that a signal hits at a chosen moment.

    python tests/forked.py < attempts.json > results.json

An attempt is {"arguments": of train.py, "signal": a number, "place": a name in PLACES, "count": the
occurrence of that place}; without a place it runs to its end. "cache": the folder of copies from
object storage, which are made all the time. A result is {"code": the exit code, minus the signal's
number if that ended it, "told": standard error, "left": the names in checkpoints/ afterwards}.
Python imports everything once: each attempt is a fork from before JAX starts its threads, which
takes a second instead of many.
"""

import functools
import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import small_network

import train
from data.held_out import HeldOutClips
from data.pipeline import ClipIterator
from stsa_jax import mirror
from stsa_jax.remote import CACHE
from stsa_jax.training.meter import Meter


def before(kind, name, function):
    """Calls `function` at the start of a method."""
    method = getattr(kind, name)

    @functools.wraps(method)
    def wrapped(*args, **kwargs):
        function()
        return method(*args, **kwargs)

    setattr(kind, name, wrapped)


def on_saving(function):
    """Calls it before each change that Python makes to the names in checkpoints/."""

    def hook(event, args):
        if event in ('os.mkdir', 'os.rename', 'os.rmdir', 'os.remove') and any(
            '/checkpoints/' in str(arg) for arg in args
        ):
            function()

    sys.addaudithook(hook)


def on_compiling(function):
    """Calls it during a compilation that nobody waits for."""

    def compile_slowly():
        function()
        time.sleep(3600)

    before(jax.stages.Lowered, 'compile', compile_slowly)


PLACES = {
    'batch': functools.partial(before, ClipIterator, '__next__'),
    'step': functools.partial(before, Meter, 'add'),  # which the device works on at this time
    'validation': functools.partial(before, HeldOutClips, 'read'),
    'saving': on_saving,
    'compiling': on_compiling,
}


def run(attempt: dict) -> int:
    """In the fork: trains, and sends itself the signal."""
    left = [attempt.get('count', 1)]
    lock = threading.Lock()

    def here():
        with lock:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), attempt['signal'])

    if attempt.get('place'):
        PLACES[attempt['place']](here)
    if attempt.get('cache'):
        os.environ[CACHE], mirror.EVERY = attempt['cache'], 0.02
    small_network.train_it()
    sys.argv[1:] = attempt['arguments']
    return train.main() or 0


def result_of(attempt: dict) -> dict:
    with tempfile.TemporaryFile('w+') as told:
        child = os.fork()
        if not child:
            os.dup2(told.fileno(), 2)
            os.dup2(2, 1)
            code = 1
            try:
                code = run(attempt)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        told.seek(0)
        (workdir,) = (a.split('=')[1] for a in attempt['arguments'] if a.startswith('--workdir='))
        left = [path.name for path in (Path(workdir) / 'checkpoints').glob('*')]
        return {'code': code, 'told': told.read(), 'left': left}


if __name__ == '__main__':
    signal.alarm(850)
    results = [result_of(attempt) for attempt in json.load(sys.stdin)]
    json.dump(results, sys.stdout)
