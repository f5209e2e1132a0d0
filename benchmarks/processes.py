"""Measurements in separate processes, with their own memory and memory settings."""

import contextlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple


def timed(run) -> float:
    """Seconds that `run()` takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class Seconds(NamedTuple):
    """What a run took: `processor` is the sum over all cores, user and system."""

    time: float
    processor: float


def alternating(runs: dict[str, Callable], repeats: int) -> dict[str, Seconds]:
    """The least of `repeats` times of each run, after one that compiles and warms up.

    They alternate, so that all meet the same load. A run in another process returns the processor
    seconds that it took there, a float; those of other runs are this process's.
    """
    for run in runs.values():
        run()
    taken: dict[str, list[Seconds]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            taken[name].append(_seconds(run))
    return {name: Seconds(*map(min, zip(*each))) for name, each in taken.items()}


def _seconds(run: Callable) -> Seconds:
    start, processor = time.perf_counter(), time.process_time()
    result = run()
    own = time.process_time() - processor
    return Seconds(time.perf_counter() - start, result if isinstance(result, float) else own)


def peak_memory() -> int:
    """The peak resident memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_own_process(module: str, arguments: list[str]) -> dict:
    """The last line printed by `python -m module arguments`, parsed as JSON.

    Its messages go to this process's standard error. Raises subprocess.CalledProcessError if it
    fails.
    """
    command = [sys.executable, '-m', module, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def on_demand(module: str, arguments: list[str]):
    """A function that runs the work of `python -m module arguments`, which calls `serve`, once.

    It returns the processor seconds that this took.
    """
    command = [sys.executable, '-m', module, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe) as process:
        assert process.stdin and process.stdout  # pipes
        to_it, from_it = process.stdin, process.stdout

        def run() -> float:
            print(file=to_it, flush=True)
            answer = from_it.readline()
            if not answer:
                raise subprocess.CalledProcessError(process.wait(), command)
            return float(answer)

        try:
            yield run
        finally:
            to_it.close()


def serve(run) -> None:
    """Calls `run` for each line of standard input, and answers with its processor seconds."""
    for _ in sys.stdin:
        start = time.process_time()
        run()
        print(time.process_time() - start, flush=True)
