"""Attention from one position to the other time steps, and input gradients.

Each level of STSA-Net has four time steps. Layer I relates steps 1 with 2 and 3 with 4, layer II
the halves (1, 2) and (3, 4). From any one step, each of the three others is covered once: by layer
I's softmax over the partner, or by layer II's joint softmax over the other half. A position's row
of an attention matrix is then a map over the frames of the other time steps.
"""

import os
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from stsa_jax.errors import InputError
from stsa_jax.media import visualize
from stsa_jax.models.stsa import STEPS

COLUMNS = 8  # of a gradient figure: every clip's length is a multiple of it
GRID_STRIDES = {0: 8, 1: 8, 2: 16, 3: 32}  # input pixels per position of each level's attention


def attention_maps(
    taps: Mapping[str, jax.Array],
    image_size: tuple[int, int],
    place: tuple[float, float],
    step: int,
) -> dict[int, np.ndarray]:
    """Where `place` at time step `step` attends in the other time steps, at each level.

    Args:
        taps: from `model(clip, return_intermediates=True)`, for a batch of one clip.
        image_size: (H, W) of the model's input.
        place: (x, y) as fractions of width and height, in [0, 1).
        step: 0 to 3.

    Returns:
        level -> float32 `(4, h, w)`. Zero at `step` itself; the partner step of layer I sums to 1,
        and so do the two steps of the other half together (layer II). A level without attention is
        left out; steps that a level's attention does not reach are zero. With a single similarity
        matrix all four steps, `step` too, sum to 1.

    Raises InputError if no level of the model relates different time steps.
    """
    maps = {}
    for level, stride in GRID_STRIDES.items():
        size = image_size[0] // stride, image_size[1] // stride
        row = place_index(place, size)
        looks = np.zeros((STEPS, *size), np.float32)
        whole = taps.get(f'branch{level}.layer_1.whole.all_to_all')
        if whole is not None:
            maps[level] = np.asarray(whole[0, step * size[0] * size[1] + row]).reshape(looks.shape)
            continue
        found = False
        for group in (1, 2):  # steps in one member of a pair: layer I, layer II
            member, within = divmod(step, group)
            pair, is_b = divmod(member, 2)
            name = f'branch{level}.layer_{group}.pair{pair}.{"b_to_a" if is_b else "a_to_b"}'
            if name not in taps:
                continue
            found = True
            weights = np.asarray(taps[name][0, within * size[0] * size[1] + row])
            other = (member ^ 1) * group
            looks[other : other + group] = weights.reshape(group, *size)
        if found:
            maps[level] = looks
    if not maps:
        raise InputError(
            'this model has no attention between time steps (see its stsa_levels and attention), '
            'so there is nothing to show; use the gradient instead'
        )
    return maps


def place_index(place: tuple[float, float], size: tuple[int, int]) -> int:
    """Row-major index of the grid cell of `size` (h, w) that holds `place` (x, y) in [0, 1)."""
    x, y = place
    if not (0 <= x < 1 and 0 <= y < 1):
        raise ValueError(f'place is {place}; expected fractions of width and height in [0, 1)')
    return int(y * size[0]) * size[1] + int(x * size[1])


def target_step(frames: int, target: int) -> int:
    """The time step, 0 to 3, of frame `target` in a clip of `frames`."""
    return target * STEPS // frames


def input_gradient(
    model: Callable[[jax.Array], jax.Array],
    clip: np.ndarray,
    place: tuple[float, float] | None = None,
) -> np.ndarray:
    """How much the saliency at `place` depends on each pixel: `(T, H, W)`, non-negative.

    The largest absolute derivative over the colour channels (Simonyan et al., 2014), of the output
    at `place` (x, y as fractions), or of its mean over the map if `place` is None.

    Args:
        model: a differentiable function, `(1, T, H, W, 3)` -> `(1, H, W)`; `stsa_jax.load`'s is.
        clip: float32 `(T, H, W, 3)`.
        place: in [0, 1) each.
    """

    def output(clip):
        saliency = model(clip[None])[0]
        return (
            saliency.mean()
            if place is None
            else saliency.ravel()[place_index(place, saliency.shape)]
        )

    gradient = jax.jit(jax.grad(output))(jnp.asarray(clip))
    return np.asarray(jnp.abs(gradient).max(-1))


def attention_figure(
    path: str | os.PathLike,
    clip: Sequence[np.ndarray],
    maps: Mapping[int, np.ndarray],
    place: tuple[float, float],
    target: int,
    gradient: np.ndarray | None = None,
) -> None:
    """Saves a figure with a column for each time step and a row for the attention of each level.

    A cross marks the query position on the target frame; the other time steps show the middle one
    of their frames. Colours are scaled to the largest weight in each softmax: over the neighbouring
    step, and over the other half.

    Args:
        path: `.png`, `.pdf`, ... Written atomically.
        clip: the T frames, uint8 `(h, w, 3)`.
        maps: from `attention_maps`, for the time step of the target frame.
        place: (x, y) as fractions, that of `maps`.
        target: index in the clip of the frame that the network predicts.
        gradient: `(T, H, W)` from `input_gradient`, shown as another row, the mean over each step's
            frames, or None.
    """
    span, step = len(clip) // STEPS, target_step(len(clip), target)
    shown = [clip[s * span + (span - 1) // 2] for s in range(STEPS)]
    shown[step] = clip[target]
    marked = visualize.mark_cross(shown[step], place)
    rows = {'frame': [marked if s == step else f for s, f in enumerate(shown)]}
    for level, looks in maps.items():
        peaks = [_softmax_peak(looks, step, other) for other in range(STEPS)]
        rows[f'level {level}, {looks.shape[1]}x{looks.shape[2]}'] = [
            marked if s == step else visualize.overlay(f, looks[s], peak=peaks[s])
            for s, f in enumerate(shown)
        ]
    if gradient is not None:
        means = gradient.reshape(STEPS, span, *gradient.shape[1:]).mean(1)
        rows['gradient'] = [
            visualize.overlay(f, mean, peak=np.percentile(means, 99.9))
            for f, mean in zip(shown, means)
        ]
    titles = [f'frames {s * span + 1} to {(s + 1) * span} of the clip' for s in range(STEPS)]
    visualize.grid_figure(path, rows, titles)


def gradient_figure(
    path: str | os.PathLike,
    clip: Sequence[np.ndarray],
    gradient: np.ndarray,
    place: tuple[float, float] | None,
    target: int,
) -> None:
    """Saves a figure of eight columns over time, frames above and the gradient below.

    Each column shows the middle one of its frames; the target's column shows the target, with a
    cross at `place`. All columns share one colour scale.

    Args:
        path: `.png`, `.pdf`, ... Written atomically.
        clip: the T frames, uint8 `(h, w, 3)`; T is a multiple of 8.
        gradient: `(T, H, W)` from `input_gradient`; the mean over each column's frames is shown.
        place: (x, y) as fractions, that of `gradient`; None for no cross.
        target: index in the clip of the frame that the network predicts.
    """
    span = len(clip) // COLUMNS
    shown = [clip[i * span + (span - 1) // 2] for i in range(COLUMNS)]
    shown[target // span] = clip[target]
    marked = list(shown)
    if place is not None:
        marked[target // span] = visualize.mark_cross(clip[target], place)
    means = gradient.reshape(COLUMNS, span, *gradient.shape[1:]).mean(1)
    peak = np.percentile(means, 99.9)
    rows = {
        'frame': marked,
        'gradient': [visualize.overlay(f, m, peak=peak) for f, m in zip(shown, means)],
    }
    titles = [f'{i * span + 1} to {(i + 1) * span}' for i in range(COLUMNS)]
    visualize.grid_figure(path, rows, titles)


def _softmax_peak(looks: np.ndarray, step: int, other: int) -> float:
    """The largest weight in the softmax that includes step `other`."""
    half = slice(other // 2 * 2, other // 2 * 2 + 2)
    return float((looks[other] if other // 2 == step // 2 else looks[half]).max())
