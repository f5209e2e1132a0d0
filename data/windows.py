"""Which 32 frames make a clip, and the clip of a window: reading, decoding, resizing, normalising.

A window is named by its target, the frame whose saliency is learnt: the middle one (the 16th of 32)
or the last. Frames before the first or after the last one of the video are repetitions of these.
In a video that is long enough all windows lie inside it, as in the paper; in a shorter one every
frame can be the target, so that no video is left out. A target has at least one fixation.
"""

import dataclasses

import numpy as np

from data import images
from data.videos import VideoDataset, VideoInfo
from stsa_jax.errors import InputError
from stsa_jax.preprocess import IMAGENET, Normalisation, normalise, resize_density, resize_frame


def target_offset(frames: int, target: str) -> int:
    """Position of the target in a window of `frames`: 'middle' (15 of 32, from 0) or 'last'."""
    if target not in ('middle', 'last'):
        raise InputError(f"target {target!r}: 'middle' or 'last' was expected")
    return frames // 2 - 1 if target == 'middle' else frames - 1


def window(target: int, num_frames: int, frames: int, offset: int) -> np.ndarray:
    """int (frames,): the frames, counted from the video's first, of the window around `target`."""
    return np.clip(np.arange(target - offset, target - offset + frames), 0, num_frames - 1)


def candidate_targets(video: VideoInfo, frames: int, offset: int) -> np.ndarray:
    """int (n,): all targets whose window may be used for training if they have a fixation."""
    if video.num_frames < frames:
        return np.arange(video.num_frames)
    return np.arange(offset, video.num_frames - frames + offset + 1)


def usable_targets(video: VideoInfo, frames: int, offset: int) -> np.ndarray:
    """The candidates with a fixation; if there is none, any frame of the video with one."""
    with_fixation = video.with_fixation()
    candidates = candidate_targets(video, frames, offset)
    usable = candidates[with_fixation[candidates]]
    return usable if len(usable) else np.flatnonzero(with_fixation)


@dataclasses.dataclass(frozen=True)
class Window:
    """One clip to be read: of which dataset and video, and its target's place in the video."""

    dataset: int
    video: int
    target: int


@dataclasses.dataclass(frozen=True)
class ClipReader:
    """Reads the clips of windows in batches."""

    datasets: tuple[VideoDataset, ...]
    image_size: tuple[int, int]
    frames: int
    offset: int
    normalisation: Normalisation | None = IMAGENET

    def __call__(self, windows: list[Window]) -> dict[str, np.ndarray]:
        """B windows -> a batch of their clips.

        clip (B, T, H, W, 3) float32, uint8 without a normalisation; density (B, H, W) float32 in
        [0, 1] of the target; video and frame (B,), the target's video and frame number.
        """
        shape = (len(windows), self.frames, *self.image_size, 3)
        clip = np.empty(shape, np.uint8 if self.normalisation is None else np.float32)
        density = np.empty((len(windows), *self.image_size), np.float32)
        names, numbers = [], np.empty(len(windows), np.int64)
        for b, chosen in enumerate(windows):
            dataset = self.datasets[chosen.dataset]
            video = dataset.videos[chosen.video]
            wanted = window(chosen.target, video.num_frames, self.frames, self.offset)
            first = int(wanted[0])
            examples = dataset.examples(
                range(video.first_example + first, video.first_example + int(wanted[-1]) + 1)
            )
            for t, i in enumerate(wanted):
                if t and i == wanted[t - 1]:
                    clip[b, t] = clip[b, t - 1]
                else:
                    self._read_frame(examples[i - first]['frame'], clip[b, t])
            target = examples[chosen.target - first]
            original = images.decode_map(target['density']).astype(np.float32)
            density[b] = resize_density(original / 255, self.image_size)
            names.append(target['video'])
            numbers[b] = target['frame_number']
        return {'clip': clip, 'density': density, 'video': np.array(names), 'frame': numbers}

    def _read_frame(self, content: bytes, out: np.ndarray) -> None:
        frame = resize_frame(images.decode_frame(content), self.image_size)
        if self.normalisation is None:
            out[:] = frame
        else:
            normalise(frame, self.normalisation, out=out)
