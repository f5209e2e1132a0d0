"""A saliency map for every frame of a video, from windows over its frames.

The network sees T frames and predicts the saliency of one of them, the target, and the window
slides one frame at a time: with T = 32 the target is the 16th ('middle') or the 32nd ('last'), and
the window of frame i is i - 15 ... i + 16, or i - 31 ... i. Beyond the ends of the video its first
and last frames are repeated; models with `beginning` 'reversed' use frames i + T - 1 ... i, in
reverse, for frame i < T - 1. For models that predict all T ('all') the windows are consecutive, and
the last one ends with the video.

A recurrent model sees every frame once, and each clip starts from the state after the one before
(`stsa_jax.models.clips`): no map can be predicted without all frames before it.

Memory use does not depend on the length of the video, and each frame is resized and normalised
once.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

Frame = TypeVar('Frame')


class Window(NamedTuple):
    """T frames for the network, and the indices, from 0, of those whose maps are used, in order.

    Over all windows of a video these are its frames, in order, each once.
    """

    frames: tuple
    places: tuple[int, ...]


class Predictor(Protocol):
    """The interface of a model; `stsa_jax.load` returns one.

    `config.frames` is T, `config.image_size` (H, W), `config.target` 'middle' (the default if the
    field is missing), 'last' or 'all', `config.beginning` 'repeated' (likewise the default) or
    'reversed'. With `config.recurrent` it also has `carry`, as `stsa_jax.SaliencyModel`, and
    `config.step`.
    """

    config: Any

    def preprocess(self, frames: np.ndarray) -> np.ndarray:
        """uint8 `(n, h, w, 3)` -> float32 `(n, H, W, 3)`."""

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """float32 `(B, T, H, W, 3)` -> `(B, H, W)` in [0, 1], or `(B, T, H, W)` for 'all'."""


def predict_frames(
    model: Predictor, frames: Iterable[np.ndarray], batch_size: int = 1
) -> Iterator[np.ndarray]:
    """One map for every frame of a video, in order.

    Args:
        model: as `Predictor`.
        frames: uint8 `(h, w, 3)`, the video from its first to its last frame.
        batch_size: windows per call of the model. The last call is padded, so that all have
            one shape and the model is compiled once.

    Yields:
        float32 `(H, W)` in [0, 1], at the model's size.
    """
    return (saliency for _, saliency in predict_video(model, frames, batch_size))


def predict_video(
    model: Predictor, frames: Iterable[np.ndarray], batch_size: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Like `predict_frames`, but yields each original frame together with its map."""
    pairs = predict_some(model, frames, lambda index: True, batch_size)
    return ((frame, saliency) for frame, saliency in pairs if saliency is not None)


def predict_some(
    model: Predictor,
    frames: Iterable[np.ndarray],
    wanted: Callable[[int], bool],
    batch_size: int = 1,
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Like `predict_video`, with None for the maps of frames whose index is not `wanted`.

    Windows without a wanted map are not predicted. Frames are held until the next wanted map.
    """
    sources: deque[np.ndarray] = deque()  # frames whose maps were not yielded yet

    def prepared() -> Iterator[np.ndarray]:
        for frame in frames:
            sources.append(frame)
            yield model.preprocess(frame[None])[0]

    def chosen() -> Iterator[Window]:
        index = 0
        for window in windows_of(prepared(), model.config):
            numbered = list(enumerate(window.places, index))
            index += len(numbered)
            places = tuple(place for i, place in numbered if wanted(i))
            if places or is_recurrent(model.config):
                yield Window(window.frames, places)

    index = 0
    for saliency in predict_windows(model, chosen(), batch_size):
        while not wanted(index):
            yield sources.popleft(), None
            index += 1
        yield sources.popleft(), saliency
        index += 1
    yield from ((source, None) for source in sources)


def needed(config: Any, first: int, last: int, count: int) -> tuple[int, int]:
    """The first and last frame that the maps of frames `first` to `last` are predicted from.

    Indices, from 0, in a video of `count` frames. The windows over these frames alone are the same
    as those over the whole video, for `first` to `last`.
    """
    length = config.frames
    target = getattr(config, 'target', 'middle')
    if is_recurrent(config):
        return 0, last
    if target == 'all':  # whole windows, counted from the start of the video
        begin, end = first // length * length, (last // length + 1) * length
        if count - end < length:  # the last window, which ends with the video, reaches back
            begin, end = max(0, min(begin, count - length)) // length * length, count
        return begin, end - 1
    if getattr(config, 'beginning', 'repeated') == 'reversed':
        if first >= length - 1:
            return first - length + 1, last
        return 0, min(max(last, 2 * length - 3), count - 1)
    before = target_index(config)
    return max(0, first - before), min(last + length - 1 - before, count - 1)


def predict_windows(
    model: Callable[[np.ndarray], Any], chosen: Iterable[Window], batch_size: int = 1
) -> Iterator[np.ndarray]:
    """The maps of the windows' indices, in order, float32 `(H, W)`; `model` as `Predictor`.

    A model may have `maps`, which takes windows in a row (`stsa_jax.inference.sharing`).
    """
    if maps := getattr(model, 'maps', None):
        yield from maps(chosen)
        return
    if is_recurrent(getattr(model, 'config', None)):
        yield from _carried(model, chosen)
        return
    if batch_size < 1:
        raise ValueError(f'batch_size is {batch_size}; expected 1 or more')
    chosen = iter(chosen)
    running = None  # JAX computes while the next frames are read
    while batch := list(islice(chosen, batch_size)):
        filled = batch + batch[-1:] * (batch_size - len(batch))
        pixels = np.stack([frame for window in filled for frame in window.frames])
        started = model(pixels.reshape(batch_size, -1, *pixels.shape[1:])), batch
        if running:
            yield from _results(*running)
        running = started
    if running:
        yield from _results(*running)


def windows_of(frames: Iterable[Frame], config: Any) -> Iterator[Window]:
    """The windows of a video's frames for a model of `config`; see the module docstring."""
    length = config.frames
    if is_recurrent(config):
        return blocks(frames, length * config.step)
    if getattr(config, 'target', 'middle') == 'all':
        return following(frames, length)
    target = target_index(config)
    if getattr(config, 'beginning', 'repeated') == 'reversed':
        return with_reversed_beginning(frames, length)
    return (Window(window, (target,)) for window in windows(frames, length, target))


def following(frames: Iterable[Frame], length: int) -> Iterator[Window]:
    """Consecutive windows, each with the maps of all its frames.

    The last one ends with the video; where it overlaps the previous one, its maps are used. For a
    video shorter than `length` the first frame is repeated before the start.
    """
    frames = iter(frames)
    before = tuple(islice(frames, length))
    if len(before) < length:
        missing = length - len(before)
        if before:
            yield Window(before[:1] * missing + before, tuple(range(missing, length)))
        return
    while more := tuple(islice(frames, length)):
        yield Window(before, tuple(range(len(more))))
        before = (before + more)[-length:]
    yield Window(before, tuple(range(length)))


def blocks(frames: Iterable[Frame], length: int) -> Iterator[Window]:
    """Consecutive windows; the last one is filled up with the last frame, whose maps are not used.

    For recurrent models: what comes after a frame has no effect on its map.
    """
    frames = iter(frames)
    while block := tuple(islice(frames, length)):
        yield Window(block + block[-1:] * (length - len(block)), tuple(range(len(block))))


def with_reversed_beginning(frames: Iterable[Frame], length: int) -> Iterator[Window]:
    """The window of frame i ends with it; for i < length - 1 it starts with it and is reversed.

    If the video ends before the latter does, it continues backwards from its last frame.
    """
    frames = iter(frames)
    head = list(islice(frames, 2 * length - 2))
    mirrored = [*head, *head[::-1]]
    for i in range(min(length - 1, len(head))):
        ahead = [mirrored[min(i + k, len(mirrored) - 1)] for k in range(length)]
        yield Window(tuple(reversed(ahead)), (length - 1,))
    window: deque[Frame] = deque(maxlen=length)
    for frame in chain(head, frames):
        window.append(frame)
        if len(window) == length:
            yield Window(tuple(window), (length - 1,))


def windows(frames: Iterable[Frame], length: int, target: int) -> Iterator[tuple[Frame, ...]]:
    """For each of `frames` the `length` frames around it, itself at index `target`.

    The first frame is repeated before the start and the last one after the end. Reads `length - 1 -
    target` frames ahead and holds `length`.
    """
    window: deque[Frame] = deque(maxlen=length)
    for frame in frames:
        window.extend([frame] * (1 if window else target + 1))
        if len(window) == length:
            yield tuple(window)
    for _ in range(length - 1 - target if window else 0):
        window.append(window[-1])
        if len(window) == length:
            yield tuple(window)


def target_index(config: Any) -> int:
    """The index in the window, from 0, of the one frame whose saliency the model predicts."""
    target = getattr(config, 'target', 'middle')
    if target not in ('middle', 'last'):
        raise ValueError(f"config.target is {target!r}; expected 'middle' or 'last'")
    return config.frames // 2 - 1 if target == 'middle' else config.frames - 1


def is_recurrent(config: Any) -> bool:
    """Whether a model's maps depend on a state that goes on through the whole video."""
    return getattr(config, 'recurrent', False)


def _carried(model: Any, chosen: Iterable[Window]) -> Iterator[np.ndarray]:
    """The maps of a recurrent model: `step` sequences side by side, as a batch."""
    step = model.config.step
    state: Any = None
    running = None  # JAX computes while the next frames are read
    for window in chosen:
        pixels = np.stack(window.frames)  # (T step, H, W, 3)
        clips = pixels.reshape(-1, step, *pixels.shape[1:]).swapaxes(0, 1)
        maps, state = model.carry(np.ascontiguousarray(clips), state)
        if running:
            yield from _in_order(*running)
        running = maps, window
    if running:
        yield from _in_order(*running)


def _in_order(maps: Any, window: Window) -> Iterator[np.ndarray]:
    maps = np.asarray(maps, np.float32).swapaxes(0, 1)  # (T, step, H, W)
    maps = maps.reshape(-1, *maps.shape[2:])
    yield from (maps[place] for place in window.places)


def _results(maps, windows: list[Window]) -> Iterator[np.ndarray]:
    for saliency, window in zip(np.asarray(maps, np.float32), windows):
        if saliency.ndim == 2:
            yield saliency
        else:
            yield from (saliency[place] for place in window.places)
