"""Measurements in separate processes, with their own memory and memory settings."""

import contextlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable


def timed(run) -> float:
    """Seconds that `run()` takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def alternating(runs: dict[str, Callable], repeats: int) -> dict[str, float]:
    """The least of `repeats` times of each run, after one that compiles and warms up.

    They alternate, so that all meet the same load.
    """
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(timed(run))
    return {name: min(taken) for name, taken in times.items()}


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
    """A function that runs the work of `python -m module arguments`, which calls `serve`, once."""
    command = [sys.executable, '-m', module, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe) as process:
        assert process.stdin and process.stdout  # pipes
        to_it, from_it = process.stdin, process.stdout

        def run():
            print(file=to_it, flush=True)
            if not from_it.readline():
                raise subprocess.CalledProcessError(process.wait(), command)

        try:
            yield run
        finally:
            to_it.close()


def serve(run) -> None:
    """Calls `run` for each line of standard input, and answers with a line."""
    for _ in sys.stdin:
        run()
        print(flush=True)
