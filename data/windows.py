"""Selects windows of 32 frames and reads their clips: decoding, resizing, normalising.

A window is identified by its target, the frame whose saliency is learnt: the middle one (the 16th
of 32) or the last. For a model of a map for every frame it is the last one, and the densities of
all frames are read. Before the start and after the end of the video its first and last frames are
repeated. In a video that is long enough all windows lie inside it, as in the paper; in a shorter
one every frame can be the target, so that no video is left out. A target has a fixation and
density.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from data.copies import images
from data.videos import VideoDataset, VideoInfo
from stsa_jax.errors import InputError
from stsa_jax.media.preprocess import (
    IMAGENET,
    Normalisation,
    normalise,
    resize_density,
    resize_frame,
)

Resize = Callable[[np.ndarray, tuple[int, int]], np.ndarray]
MOST_WINDOWS = 100  # unreadable windows in a row that are an error


def target_offset(frames: int, target: str) -> int:
    """Position of the target in a window of `frames`: 'middle' (15 of 32, from 0), else the last.

    'last' and 'all' are the others.
    """
    if target not in ('middle', 'last', 'all'):
        raise InputError(f"target {target!r}: 'middle', 'last' or 'all' was expected")
    return frames // 2 - 1 if target == 'middle' else frames - 1


def window(target: int, num_frames: int, frames: int, offset: int, step: int = 1) -> np.ndarray:
    """int (frames,): the frames, counted from the video's first, of the window around `target`.

    They are `step` frames apart.
    """
    return np.clip(target + (np.arange(frames) - offset) * step, 0, num_frames - 1)


def candidate_targets(video: VideoInfo, frames: int, offset: int, step: int = 1) -> np.ndarray:
    """int (n,): all targets whose window may be used for training, if they are usable."""
    span = (frames - 1) * step + 1
    if video.num_frames < span:
        return np.arange(video.num_frames)
    return np.arange(offset * step, video.num_frames - span + offset * step + 1)


def usable_targets(video: VideoInfo, frames: int, offset: int, step: int = 1) -> np.ndarray:
    """The candidates with fixation and density; if there is none, any such frame of the video."""
    usable = video.usable()
    candidates = candidate_targets(video, frames, offset, step)
    chosen = candidates[usable[candidates]]
    return chosen if len(chosen) else np.flatnonzero(usable)


@dataclasses.dataclass(frozen=True)
class Window:
    """One clip to be read: its dataset and video, and its target's index in the video."""

    dataset: int
    video: int
    target: int
    mirrored: bool = False  # left and right


@dataclasses.dataclass(frozen=True)
class ClipReader:
    """Reads the clips of windows in batches.

    Damage is not fatal. A frame that does not decode is replaced by the nearest one of the window
    that does (the earlier of two). A density map is never replaced, because it belongs to exactly
    one frame: if the target's does not decode, the window around the nearest other target of the
    video is read, or one of the next video.

    With `all_frames` the density has a map for each frame, zeros where that frame has no fixation
    or its map does not decode. `resize` makes a frame uint8 (h, w, 3) one of (H, W), in 0..255.
    The window's frames are `step` apart in the video. With `fixations` batches have fixation maps
    of the shape of `density`, 1 where somebody looked.
    """

    datasets: tuple[VideoDataset, ...]
    image_size: tuple[int, int]
    frames: int
    offset: int
    normalisation: Normalisation | None = IMAGENET
    all_frames: bool = False
    resize: Resize = resize_frame
    step: int = 1
    fixations: bool = False

    def __call__(self, windows: list[Window]) -> dict[str, np.ndarray]:
        """B windows -> a batch of their clips.

        clip (B, T, H, W, 3) float32, uint8 without a normalisation; density (B, H, W) float32 in
        [0, 1] of the target, (B, T, H, W) with `all_frames`; video and frame (B,), the target's
        video and frame number; problems (B,), texts with a line for everything that could not be
        read, or empty. Raises InputError if nothing around a window can be read.
        """
        shape = (len(windows), self.frames, *self.image_size, 3)
        clip = np.empty(shape, np.uint8 if self.normalisation is None else np.float32)
        maps = (self.frames,) if self.all_frames else ()
        density = np.zeros((len(windows), *maps, *self.image_size), np.float32)
        fixations = np.zeros_like(density) if self.fixations else None
        names, numbers, problems = [], np.empty(len(windows), np.int64), []
        for b, wanted in enumerate(windows):
            found: list[str] = []
            for chosen in itertools.islice(self._around(wanted), MOST_WINDOWS):
                looked_at = None if fixations is None else fixations[b]
                if target := self._read(chosen, clip[b], density[b], looked_at, found):
                    if wanted.mirrored:
                        clip[b], density[b] = clip[b, :, :, ::-1].copy(), density[b, ..., ::-1]
                        if fixations is not None:
                            fixations[b] = fixations[b, ..., ::-1].copy()
                    break
            else:
                dataset = self.datasets[wanted.dataset]
                raise InputError(
                    f'{dataset.folder}: damaged, {MOST_WINDOWS} windows in a row of split '
                    f'{dataset.split!r} cannot be read ({found[-1]}); remove this folder and '
                    f'prepare {dataset.name} again'
                )
            names.append(target['video'])
            numbers[b] = target['frame_number']
            problems.append('\n'.join(found))
        return {
            'clip': clip,
            'density': density,
            **({} if fixations is None else {'fixations': fixations}),
            'video': np.array(names),
            'frame': numbers,
            'problems': np.array(problems),
        }

    def _around(self, wanted: Window) -> Iterator[Window]:
        """`wanted`, then its video's other windows, the nearest first, then the next videos'."""
        yield wanted
        videos = self.datasets[wanted.dataset].videos
        for k in range(len(videos)):
            v = (wanted.video + k) % len(videos)
            targets = usable_targets(videos[v], self.frames, self.offset, self.step)
            distance = abs(targets - wanted.target)
            for target in targets[np.argsort(distance, kind='stable')].tolist():
                if k or target != wanted.target:
                    yield Window(wanted.dataset, v, target)

    def _read(
        self,
        chosen: Window,
        clip: np.ndarray,
        density: np.ndarray,
        fixations: np.ndarray | None,
        problems: list[str],
    ) -> dict | None:
        """Fills clip (T, H, W, 3), density and fixations; returns the target's example, or None.

        Adds unreadable frames to `problems`.
        """
        dataset = self.datasets[chosen.dataset]
        video = dataset.videos[chosen.video]
        numbers: dict[int, int] = {}  # by place in the video
        maps: dict[int, dict] = {}
        failed: dict[int, Exception] = {}

        def number(place: int) -> int:
            return numbers.get(place, video.first_number + place)

        def note(place: int, what: str, error: Exception, done: str) -> None:
            reason = str(error.__cause__ or error).partition('\n')[0][:120]
            problems.append(
                f'{dataset.name}, split {dataset.split}, video {video.name}, frame '
                f'{number(place)}: {what} ({reason}); {done}'
            )

        try:
            target = dataset.example(video.first_example + chosen.target)
            original = images.decode_map(target['density']).astype(np.float32)
        except (OSError, InputError) as error:
            note(chosen.target, 'its density map is damaged', error, 'another target is used')
            return None
        density[:] = 0
        if fixations is not None:
            fixations[:] = 0
        self._fill(density, fixations, -1, original, target)

        places = window(chosen.target, video.num_frames, self.frames, self.offset, self.step)
        buffer = np.empty(clip.shape[1:], np.uint8)
        for t, place in enumerate(places.tolist()):
            if t and place == places[t - 1]:
                clip[t] = clip[t - 1]
                continue
            try:
                example = dataset.example(video.first_example + place)
                numbers[place] = example['frame_number']
                self._read_frame(example['frame'], clip[t], buffer)
                maps[place] = example
            except (OSError, InputError) as error:
                failed[place] = error
        good = sorted(set(places.tolist()) - set(failed))
        for place, problem in failed.items():
            if not good:
                note(place, 'is damaged', problem, 'so is all of its window, another is used')
                return None
            nearest = min(good, key=lambda other: abs(other - place))
            clip[places == place] = clip[np.argmax(places == nearest)]
            note(place, 'is damaged', problem, f'frame {number(nearest)} replaces it')
        if self.all_frames:
            usable = video.usable()
            for t, place in enumerate(places[:-1].tolist()):
                if place in maps and usable[place]:
                    try:
                        original = images.decode_map(maps[place]['density']).astype(np.float32)
                    except (OSError, InputError) as error:
                        note(place, 'its density map is damaged', error, 'it does not count')
                    else:
                        self._fill(density, fixations, t, original, maps[place])
        return target

    def _fill(self, density, fixations, t, original, example) -> None:
        """The maps of the window's frame t; of the target only, if it is not `all_frames`."""
        at = t if self.all_frames else ...
        density[at] = resize_density(original / 255, self.image_size)
        if fixations is not None and example['annotated']:
            rows, columns = np.nonzero(images.decode_map(example['fixations']))
            height, width = original.shape
            (h, w), marks = self.image_size, fixations[at]
            marks[rows * h // height, columns * w // width] = 1

    def _read_frame(self, content: bytes, out: np.ndarray, buffer: np.ndarray) -> None:
        into = out if self.normalisation is None else buffer
        frame = self.resize(images.decode_frame(content, into), self.image_size)
        if self.normalisation is not None:
            normalise(frame, self.normalisation, out=out)
        elif not np.may_share_memory(frame, out):
            out[:] = frame if frame.dtype == np.uint8 else np.rint(frame)


def problem_lines(batch: dict[str, np.ndarray]) -> list[str]:
    """Lines about what could not be read in a batch; see ClipReader."""
    return [line for text in batch['problems'].tolist() for line in text.splitlines()]
