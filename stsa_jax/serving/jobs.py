"""Jobs of the server: a folder each, a queue, and a thread a device.

    FOLDER/<id>/job.json    what was asked for, and its state
               /upload      the video
               /results/    what was made of it (`work`)

A job's state is written to its file whenever it changes, so that a server that is started again has
the same jobs: finished ones as they are, unfinished ones back in the queue, in their order. Those
go on where they were interrupted.
"""

import contextlib
import dataclasses
import json
import logging
import os
import re
import secrets
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stsa_jax.errors import InputError, explain_os_error
from stsa_jax.files import write_atomic

QUEUED, RUNNING, DONE, FAILED = 'queued', 'running', 'done', 'failed'
UPLOAD, RESULTS = 'upload', 'results'
_JOB = 'job.json'
_log = logging.getLogger(__name__)


class Cancelled(Exception):
    """The job was deleted while it ran."""


@dataclasses.dataclass
class Job:
    """One video to predict.

    Attributes:
        id: of hexadecimal digits; the name of its folder.
        name: of the video file, as its sender calls it; for display only.
        model: the name of the model.
        options: of the prediction, as given: start, end, every.
        state: QUEUED, RUNNING, DONE or FAILED.
        done, total: frames.
        problem: why it failed.
        created: seconds since 1970, by which the queue is ordered.
        results: what `work` says about its results.
    """

    id: str
    name: str
    model: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    state: str = QUEUED
    done: int = 0
    total: int = 0
    problem: str = ''
    created: float = 0.0
    results: dict[str, Any] = dataclasses.field(default_factory=dict)


Work = Callable[[Job, Path, Callable[[int], None]], dict[str, Any]]


class Jobs:
    """All jobs in a folder. Thread-safe."""

    def __init__(self, folder: Path):
        """Reads the jobs that an earlier server left; an unfinished upload is removed."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._changed = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._deleted: set[str] = set()
        self._closed = False
        self._threads: list[threading.Thread] = []
        for path in folder.iterdir():
            if not re.fullmatch('[0-9a-f]{16}', path.name):
                continue  # not ours
            try:
                job = Job(**json.loads((path / _JOB).read_text()))
            except (OSError, ValueError, TypeError):
                shutil.rmtree(path, ignore_errors=True)
                continue
            if job.state == RUNNING:
                job.state, job.done = QUEUED, 0
            self._jobs[job.id] = job

    # The jobs.

    def listed(self) -> list[Job]:
        """Copies of all jobs, oldest first."""
        with self._changed:
            return [dataclasses.replace(j) for j in sorted(self._jobs.values(), key=_order)]

    def get(self, job_id: str) -> Job | None:
        """A copy of the job, None if there is none."""
        with self._changed:
            job = self._jobs.get(job_id)
            return dataclasses.replace(job) if job else None

    def place(self, job_id: str) -> int:
        """How many jobs are before this one in the queue."""
        waiting = [job.id for job in self.listed() if job.state == QUEUED]
        return waiting.index(job_id) if job_id in waiting else 0

    def unfinished(self) -> int:
        """The number of jobs that wait or run."""
        return sum(job.state in (QUEUED, RUNNING) for job in self.listed())

    def folder(self, job_id: str) -> Path:
        """Of a job that there is."""
        return self._folder / job_id

    def used_bytes(self) -> int:
        """What all files of all jobs take."""
        total = 0
        for folder, _, names in os.walk(self._folder):  # leaves out what is removed meanwhile
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_size
        return total

    def new_folder(self) -> Path:
        """For an upload, which becomes a job with `add`, or is removed with its folder."""
        path = self._folder / secrets.token_hex(8)
        path.mkdir()
        return path

    def add(self, folder: Path, name: str, model: str, options: dict[str, Any], total: int) -> Job:
        """Puts the video in a folder of `new_folder` into the queue."""
        job = Job(folder.name, name, model, options, total=total, created=time.time())
        with self._changed:
            self._write(job)
            self._jobs[job.id] = job
            self._changed.notify_all()
        return dataclasses.replace(job)

    def delete(self, job_id: str) -> bool:
        """Removes a job and its files; a running one ends at its next frame. False: no such job."""
        with self._changed:
            job = self._jobs.pop(job_id, None)
            if job is None:
                return False
            if job.state == RUNNING:
                self._deleted.add(job_id)  # its thread removes the files
                (self.folder(job_id) / _JOB).unlink(missing_ok=True)
            else:
                shutil.rmtree(self.folder(job_id), ignore_errors=True)
            self._changed.notify_all()
        return True

    # The queue.

    def start(self, workers: list[Work]) -> None:
        """Starts a thread for each of `workers`, which takes job after job."""
        for work in workers:
            thread = threading.Thread(target=self._run, args=(work,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Interrupts running jobs at their next frame, and waits; they go on at the next start."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=60)

    def _run(self, work: Work) -> None:
        while True:
            with self._changed:
                job = next(self._waiting(), None)
                while not job and not self._closed:
                    self._changed.wait()
                    job = next(self._waiting(), None)
                if self._closed or not job:
                    return
                job.state, job.done = RUNNING, 0
                self._write(job)
            self._work_on(job, work)

    def _work_on(self, job: Job, work: Work) -> None:
        def progress(done: int) -> None:
            job.done = done
            if job.id in self._deleted or self._closed:
                raise Cancelled

        problem, results = '', {}
        try:
            results = work(job, self.folder(job.id), progress)
        except Cancelled:
            pass
        except InputError as error:
            problem = str(error)
        except OSError as error:
            problem = explain_os_error(error)
        except Exception as error:  # a bug must not end the thread: other jobs wait for it
            _log.error('job %s: %s', job.id, traceback.format_exc())
            problem = f'{type(error).__name__}: {error}; see the log of the server'
        with self._changed:
            if job.id in self._deleted:
                self._deleted.discard(job.id)
                shutil.rmtree(self.folder(job.id), ignore_errors=True)
            elif not self._closed:
                job.state = FAILED if problem else DONE
                # Without the server's own paths.
                job.problem = problem.replace(f'{self.folder(job.id) / UPLOAD}', job.name)
                job.results = results
                self._write(job)
            self._changed.notify_all()

    def _waiting(self) -> Iterator[Job]:
        return (j for j in sorted(self._jobs.values(), key=_order) if j.state == QUEUED)

    def _write(self, job: Job) -> None:
        write_atomic(self.folder(job.id) / _JOB, json.dumps(dataclasses.asdict(job)))


def _order(job: Job) -> tuple[float, str]:
    return job.created, job.id
