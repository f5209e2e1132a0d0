"""Parallel, resumable preparation: one file of records per few videos.

Each shard is written by one process to a temporary name and then renamed, with a JSON file beside
it that lists its videos. A shard with a JSON file is complete; its name contains a hash of its
sources, so that a resumed run reuses exactly what is still valid.
"""

import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.copies import images
from data.copies.sources import Frame, Problem, Report, VideoSource
from data.preparation.features import FrameStorage, serialise
from data.preparation.index import VideoIndex
from stsa_jax.errors import InputError
from stsa_jax.files import atomic_path, write_atomic, writer_errors
from stsa_jax.media.preprocess import resize_frame

MAX_SHARDS = 256  # per split; few enough files, and an interruption loses little

# In a worker: the frames written so far per shard, shared with the parent.
_written: MutableSequence[int] = []


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """Some consecutive videos of one split, the file to write them to, and how."""

    sources: tuple[VideoSource, ...]
    folder: str
    split: str
    index: int
    size: tuple[int, int] | None
    encoding: str

    @functools.cached_property
    def path(self) -> Path:
        """The file of records; its description is beside it, with suffix `.json`.

        Computed once from the state of every source file: later changes are detected by the next
        run.
        """
        text = '\n'.join([source.identity() for source in self.sources])
        text += f'{self.size} {self.encoding} {images.JPEG_QUALITY}'
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return Path(self.folder) / f'{self.split}-{self.index:05d}-{digest}.array_record'


def plan(
    sources: Sequence[VideoSource], folder: Path, split: str, storage: FrameStorage
) -> list[ShardTask]:
    """Divides the videos of a split among at most MAX_SHARDS tasks, in order."""
    return [
        ShardTask(group, str(folder), split, index, storage.size, storage.encoding)
        for index, group in enumerate(groups_of(sources, MAX_SHARDS))
    ]


def groups_of(sources: Sequence[VideoSource], most: int) -> list[tuple[VideoSource, ...]]:
    """The videos in order, in at most `most` groups of about equal size."""
    if not sources:
        return []
    groups = np.array_split(np.arange(len(sources)), min(len(sources), most))
    return [tuple(sources[i] for i in group.tolist()) for group in groups]


def example_of(
    frame: Frame, source: VideoSource, size: tuple[int, int] | None, encoding: str
) -> dict:
    """The example that stores this frame at `size` (None: unchanged), see preparation.features."""
    image = frame.image if size is None else resize_frame(frame.image, size)
    annotated = frame.density is not None and frame.fixations is not None
    black = _black(frame.size) if not annotated else None
    return {
        'frame': images.encode_frame(image, encoding),
        'density': frame.density if annotated else black,
        'fixations': frame.fixations if annotated else black,
        'annotated': annotated,
        'video': source.name,
        'kind': source.kind,
        'frame_number': frame.number,
    }


def stored(task: ShardTask) -> dict | None:
    """The description of a shard that an earlier run wrote, see `write_shard`, or None."""
    description = task.path.with_suffix('.json')
    if description.exists() and task.path.exists():
        return json.loads(description.read_text())
    return None


def write_shard(task: ShardTask, advance: Callable[[int], object] = lambda frames: None) -> dict:
    """Writes one shard and returns its description; calls `advance(1)` after each frame.

    Returns `{'videos': [...], 'problems': [...], 'bytes': n, 'examples': n}`, where each video has
    `name, kind, num_frames, height, width, unusable` (see data.videos.VideoInfo).
    """
    from array_record.python import array_record_module

    report, videos, total = Report(), [], 0
    with atomic_path(task.path) as temporary:
        writer = array_record_module.ArrayRecordWriter(str(temporary), 'group_size:1')
        try:
            for source in task.sources:
                index = VideoIndex(source.name, source.kind)
                for frame in source.frames(report):
                    record = serialise(example_of(frame, source, task.size, task.encoding))
                    total += len(record)
                    with writer_errors(task.path, RuntimeError):
                        writer.write(record)
                    index.add(frame.size, frame.number, frame.usable, frame.density_alone)
                    advance(1)
                if index.num_frames:
                    videos.append(index.as_dict())
        finally:
            with writer_errors(task.path, RuntimeError):
                writer.close()
    result = {
        'videos': videos,
        'problems': [dataclasses.astuple(problem) for problem in report.problems],
        'bytes': total,
        'examples': sum(video['num_frames'] for video in videos),
    }
    write_atomic(task.path.with_suffix('.json'), json.dumps(result))
    return result


def write_shards(tasks: Sequence[ShardTask], num_workers: int, label: str) -> list[dict]:
    """Writes the missing shards with `num_workers` processes; returns results in order.

    The progress bar counts frames, including those of earlier runs.
    """
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # mostly waits for the disk
        found = list(pool.map(stored, tasks))
    results = {i: result for i, result in enumerate(found) if result is not None}
    missing = [i for i in range(len(tasks)) if i not in results]
    before = sum(result['examples'] for result in results.values())
    with tqdm(
        total=before + _expected_frames([tasks[i] for i in missing]),
        initial=before,
        unit='frame',
        desc=label,
        disable=None,
    ) as bar:
        if num_workers <= 1 or len(missing) <= 1:
            for i in missing:
                results[i] = write_shard(tasks[i], bar.update)
        else:
            _write_in_parallel(tasks, missing, results, num_workers, label, bar)
    return [results[i] for i in range(len(tasks))]


def _expected_frames(tasks: Sequence[ShardTask]) -> int | None:
    """The approximate number of frames of these shards; None if a source does not know."""
    sources = [source for task in tasks for source in task.sources]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        counts = list(pool.map(lambda source: source.expected_frames(), sources))
    return None if None in counts else sum(counts)


def _write_in_parallel(
    tasks: Sequence[ShardTask],
    missing: Sequence[int],
    results: dict[int, dict],
    num_workers: int,
    label: str,
    bar: tqdm,
) -> None:
    # Spawned, not forked: the caller may run threads (JAX does), which a fork would break.
    context = multiprocessing.get_context('spawn')
    written = context.RawArray('q', len(tasks))  # frames; each entry is written by one process
    pool = concurrent.futures.ProcessPoolExecutor(
        min(num_workers, len(missing)), context, _start_worker, (written,)
    )
    try:
        shown = 0
        with _ctrl_c_held():
            waiting = {pool.submit(_write_counted, tasks[i], i): i for i in missing}
        while waiting:
            done, _ = concurrent.futures.wait(
                waiting, 0.2, concurrent.futures.FIRST_COMPLETED
            )  # fmt: skip
            for future in done:
                results[waiting.pop(future)] = future.result()
            shown, seen = sum(written), shown
            bar.update(shown - seen)
    except concurrent.futures.process.BrokenProcessPool as error:
        raise InputError(
            f'{label}: a process was killed, probably for lack of memory; run it again with '
            'fewer processes to resume'
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Processes started inside never receive Ctrl-C; in this process it is delayed until exit."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(written) -> None:
    """Ignores Ctrl-C, which the parent handles, so that shards in progress are finished.

    If the parent is killed, its workers end too; they would wait for it for ever.
    """
    global _written
    _written = written
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _write_counted(task: ShardTask, i: int) -> dict:
    def advance(frames: int) -> None:
        _written[i] += frames

    return write_shard(task, advance)


def problems_of(results: Sequence[dict]) -> list[Problem]:
    """All problems of these shards, in order."""
    return [Problem(*problem) for result in results for problem in result['problems']]


def available_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


_BLACK: dict[tuple[int, int], bytes] = {}


def _black(size: tuple[int, int]) -> bytes:
    if size not in _BLACK:
        _BLACK[size] = images.encode_map(np.zeros(size, np.uint8))
    return _BLACK[size]
