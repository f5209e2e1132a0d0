"""Training clips with Grain: seeded, shuffled, sharded by process, and resumable.

There is one global stream of clips, a pure function of the seed: every epoch takes each video once,
in a new order, with a new random window; several datasets are mixed by their weights. The stream is
divided into global batches, and each batch into equal parts, the p-th for process p. So no two
processes see the same crop, the global batches and the order of their clips do not depend on the
number of processes or workers, and the position in the stream is the only state.
"""

import hashlib
import math
import signal
import weakref
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from data.preparation.shards import available_cores
from data.videos import VideoDataset, open_split
from data.windows import (
    ClipReader,
    Resize,
    Window,
    candidate_targets,
    target_offset,
    usable_targets,
)
from stsa_jax.errors import InputError
from stsa_jax.media.preprocess import IMAGENET, Normalisation, resize_frame


def train_clips(
    datasets: Sequence[str],
    weights: Sequence[float] | None = None,
    *,
    split: str = 'train',
    data_dir: str | None = None,
    batch_size: int,
    image_size: tuple[int, int] = (224, 384),
    frames: int = 32,
    target: str = 'middle',
    seed: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    num_workers: int = 0,
    normalise: bool = True,
    normalisation: Normalisation = IMAGENET,
    flip: float = 0.0,
    resize: Resize = resize_frame,
    step: int = 1,
    fixations: bool = False,
) -> 'ClipIterator':
    """An endless iterator of training batches.

    Each batch has `clip` (B, T, H, W, 3) float32, normalised (uint8 with `normalise=False`),
    `density` (B, H, W) float32 in [0, 1], (B, T, H, W) for target 'all', `video` (B,) names,
    `frame` (B,) the target's frame number, and `problems` (B,) texts about damaged and replaced
    frames, mostly empty; see data.windows.ClipReader. B is `batch_size`, of this process.

    Args:
      datasets: names of prepared datasets, see data.videos.open_split.
      weights: relative frequencies of the datasets; by default, proportional to their numbers of
        videos.
      num_workers: worker processes; with 0, threads of this process read, one per core.
      seed: of the order and the windows.
      flip: the share of clips whose left and right are exchanged.
      resize: makes a frame uint8 (h, w, 3) one of (H, W), in 0..255.
      step: frames of the video from one of the clip to the next.
      fixations: whether batches have `fixations` too, float32 of the shape of `density`, 1 where
        somebody looked.
      process_index, process_count: of this process among the training processes.

    Raises InputError if a dataset is not prepared, or has no frame to learn from.
    """
    names = [datasets] if isinstance(datasets, str) else list(datasets)
    if not names:
        raise InputError('datasets: at least one was expected, found none')
    opened = tuple(open_split(name, split, data_dir) for name in names)
    height, width = image_size
    return ClipIterator(
        opened,
        _checked_weights(weights, opened),
        ClipReader(opened, (height, width), frames, target_offset(frames, target),
                   normalisation if normalise else None, target == 'all', resize, step, fixations),
        batch_size=batch_size,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
        num_workers=num_workers,
        flip=flip,
    )  # fmt: skip


class ClipIterator(grain.DatasetIterator):
    """See `train_clips`. Attributes, besides the iterator's own:

    steps_per_epoch: batches until as many clips were drawn as there are videos.
    summary: for each dataset, the videos and windows used, and those left out because the target
      has no fixation or no density.
    notes: lines about datasets whose frames are stored smaller than the clips.
    """

    def __init__(
        self,
        datasets: tuple[VideoDataset, ...],
        weights: Sequence[float],
        reader: ClipReader,
        *,
        batch_size: int,
        seed: int,
        process_index: int,
        process_count: int,
        num_workers: int,
        flip: float = 0.0,
    ):
        super().__init__()
        self._next = 0
        self._iterator: grain.DatasetIterator | None = None
        if batch_size < 1 or not 0 <= process_index < process_count:
            raise InputError(
                f'batch size {batch_size}, process {process_index} of {process_count}: at least 1, '
                'and an index below the count, were expected'
            )
        self._clips_per_step = batch_size * process_count
        self._num_workers = num_workers
        targets = tuple(
            [
                usable_targets(video, reader.frames, reader.offset, reader.step)
                for video in dataset.videos
            ]
            for dataset in datasets
        )
        self.summary = [
            _summarise(dataset, chosen, reader) for dataset, chosen in zip(datasets, targets)
        ]
        self.notes = [line for d in datasets if (line := d.enlarged(reader.image_size))]
        streams = [_stream(k, chosen, seed, flip) for k, chosen in enumerate(targets)]
        stream = streams[0] if len(streams) == 1 else grain.MapDataset.mix(streams, weights)
        shares = _Shares(stream, self._clips_per_step, process_index * batch_size, batch_size)
        self._batches = grain.MapDataset.source(shares).map(reader)
        used = sum(len(t) > 0 for chosen in targets for t in chosen)
        self.steps_per_epoch = math.ceil(used / self._clips_per_step)
        described = [
            [(d.name, d.split, [len(t) for t in chosen]) for d, chosen in zip(datasets, targets)],
            [float(w) for w in weights], reader.frames, reader.offset, seed,
            *([flip] if flip else []), *([f'step {reader.step}'] if reader.step > 1 else []),
        ]  # fmt: skip
        self._stream_identity = hashlib.sha256(repr(described).encode()).hexdigest()[:16]

    def __next__(self) -> dict[str, np.ndarray]:
        if self._iterator is None:
            self._iterator = self._start()
            # Stops workers before Python shuts down, even if nobody calls `close`.
            self._stop = weakref.finalize(self, self._iterator.close)
        batch = next(self._iterator)
        self._next += 1
        return batch

    def _start(self):
        remaining = self._batches[self._next :] if self._next else self._batches
        if self._num_workers:
            if not flags.FLAGS.is_parsed():  # Grain's workers read flags, even in a plain script
                flags.FLAGS.mark_as_parsed()
            one = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
            options = grain.MultiprocessingOptions(self._num_workers, per_worker_buffer_size=1)
            return iter(
                remaining.to_iter_dataset(one).mp_prefetch(options, worker_init_fn=_outlive_sigterm)
            )
        threads = available_cores()
        return iter(
            remaining.to_iter_dataset(
                grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
            )
        )

    def get_state(self) -> dict[str, Any]:
        """The position in the global stream, in clips of all processes; JSON."""
        return {'clips': self._next * self._clips_per_step, 'stream': self._stream_identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores a position from `get_state` of an iterator with any number of workers.

        Raises InputError if the state is of another stream (other data, window length, target,
        weights or seed), or lies inside a batch of this size.
        """
        if state.get('stream') != self._stream_identity:
            raise InputError(
                'the saved position is of another stream of clips: the datasets, their weights, '
                'the split, the number of frames, the target and the seed must be as they were; '
                'restore them, or start a new run'
            )
        steps, rest = divmod(int(state['clips']), self._clips_per_step)
        if rest:
            raise InputError(
                f'the saved position is after {state["clips"]} clips, which is inside a global '
                f'batch of {self._clips_per_step}; use a batch size that divides it'
            )
        self._close_reading()
        self._next = steps

    def close(self) -> None:
        """Stops the workers."""
        self._close_reading()
        super().close()

    def _close_reading(self) -> None:
        if self._iterator is not None:
            self._stop()
            self._iterator = None


def _outlive_sigterm(*_) -> None:
    """Ignores a signal to the process group: the main process handles it and still needs clips."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Shares:
    """`count` windows, starting at number `first`, of every `step` of the stream."""

    def __init__(self, stream: grain.MapDataset, step: int, first: int, count: int):
        self._stream, self._step = stream, step
        self._mine = range(first, first + count)

    def __len__(self) -> int:
        return len(self._stream) // self._step

    def __getitem__(self, k: int) -> list[Window]:
        return [self._stream[k * self._step + i] for i in self._mine]


def _stream(k: int, targets: list[np.ndarray], seed: int, flip: float) -> grain.MapDataset:
    """The endless stream of windows of dataset k, reshuffled in every epoch."""
    videos = [v for v in range(len(targets)) if len(targets[v])]

    def choose(video: int, rng: np.random.Generator) -> Window:
        target = int(rng.choice(targets[video]))
        return Window(k, video, target, flip > 0 and rng.random() < flip)

    source = grain.MapDataset.source(videos).seed(
        int(np.random.SeedSequence([seed, k]).generate_state(1)[0])
    )
    return source.shuffle().repeat().random_map(choose)


def _checked_weights(weights, datasets) -> list[float]:
    if weights is None:
        return [float(len(dataset.videos)) for dataset in datasets]
    values = [float(weight) for weight in weights]
    if len(values) != len(datasets) or not all(0 < w < math.inf for w in values):
        raise InputError(
            f'weights {tuple(weights)}: one positive number for each of the {len(datasets)} '
            f'datasets ({", ".join(d.name for d in datasets)}) was expected'
        )
    return values


def _summarise(dataset: VideoDataset, targets: list[np.ndarray], reader: ClipReader) -> dict:
    left_out = 0
    for video in dataset.videos:
        candidates = candidate_targets(video, reader.frames, reader.offset, reader.step)
        left_out += int(np.count_nonzero(~video.usable()[candidates]))
    used = [len(t) for t in targets if len(t)]
    if not used:
        raise InputError(
            f'{dataset.folder}: no frame of split {dataset.split} has a fixation, so there is '
            'nothing to learn from; was its annotation there when it was prepared?'
        )
    return {
        'dataset': dataset.name,
        'videos': len(used),
        'videos_without_fixation': len(targets) - len(used),
        'windows': sum(used),
        'windows_without_fixation': left_out,
    }
