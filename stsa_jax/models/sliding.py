"""STSA-Net over a video: of windows that slide by one frame, early features are computed once.

The backbone's first two stages have one stride in time, 2. So the windows of frames s and s + 2
have the same features, two frames apart, except at their ends: every kernel of three time steps
takes in the zeros beyond the window, and so do the kernels after it. Of the 16 steps of a window of
32 frames, these are inner ones, which no end touches, and thus shared:

    conv1.spatial         all frames
    conv1.temporal        13    and the pool, conv2 and conv3.spatial after it
    conv3.temporal        11    base1, the pool after it, and the first half of mixed_3b
    mixed_3b               9    and the first half of mixed_3c
    mixed_3c               7    base2

A step that slides by one frame adds one inner step to each; the others are kept, as are all frames
of conv1.spatial. Steps at the ends are computed for each window. In base3 a step would be shared by
windows four frames apart, but only three of its eight steps depend on no end, and one after its
first block: from there on, windows are computed one by one.

`State` holds features of even and of odd frames on its first axis ("phases"): those of one window
are consecutive in one of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from stsa_jax.models.layers import ConvBN
from stsa_jax.models.s3d import Mixed
from stsa_jax.models.stsanet import DTYPES, STSANet, STSANetConfig
from stsa_jax.ops.convolution import conv3d
from stsa_jax.ops.normalisation import scale_shift
from stsa_jax.ops.pooling import max_pool

SHORTEST = 24  # frames of a window: from here on some features of base2 are inner ones
Tree = Any


class State(NamedTuple):
    """The kept features of the latest frames; `n` frames are added at a time.

    Attributes:
        frames: conv1.spatial's, `(1, n + T - 1, H/2, W/2, C)`.
        parts: inputs of the temporal kernels of conv3, mixed_3b and mixed_3c, `(2, t, h, w, c)`.
        base1, base2: the inner steps of these stages, likewise.
    """

    frames: jax.Array
    parts: tuple[Tree, Tree, Tree]
    base1: jax.Array
    base2: jax.Array


def can_share(config: Any) -> bool:
    """Whether the windows of a model of this config share features here."""
    return isinstance(config, STSANetConfig) and config.frames >= SHORTEST


def empty_state(model: STSANet, count: int) -> State:
    """Zeros: the state before any frame, for `count` frames, an even number, at a time.

    Later states hold what they should once T frames were added, and `count` beyond them.
    """
    config = model.config
    steps, half = config.frames // 2, count // 2
    clip = jax.ShapeDtypeStruct((1, count, *config.image_size, 3), jnp.float32)
    shapes = jax.eval_shape(lambda clip: _new_features(model, clip, None), clip)

    def zeros(length: int) -> Callable[[Any], jax.Array]:
        return lambda x: jnp.zeros((x.shape[0], length, *x.shape[2:]), x.dtype)

    lengths = [half + steps - inner - 1 for inner in (3, 5, 7, 9)]
    parts = [jax.tree.map(zeros(n), tree) for n, tree in zip(lengths, shapes.parts)]
    return State(
        zeros(count + config.frames - 1)(shapes.frames),
        (parts[0], parts[1], parts[2]),
        zeros(lengths[1])(shapes.base1),
        zeros(lengths[3])(shapes.base2),
    )


def add_frames(model: STSANet, state: State, frames: jax.Array) -> State:
    """The state after `n` more frames, `(1, n, H, W, 3)`, normalised."""
    return _new_features(model, frames, state)


def window_stages(model: STSANet, state: State, place: jax.Array) -> tuple[jax.Array, jax.Array]:
    """base1 and base2 of the window that starts at frame `place` of the state, 0 to n - 1.

    The last of the n windows ends with the latest frame.
    """
    backbone, length = model.backbone, model.config.frames
    steps, phase, first = length // 2, place % 2, place // 2

    def inner(tree: Tree, count: int) -> Tree:
        def cut(x):
            sizes = (1, count, *x.shape[2:])
            return lax.dynamic_slice(x, (phase, first, 0, 0, 0), sizes)

        return jax.tree.map(cut, tree)

    def of_frames(start: int, count: int) -> jax.Array:
        return lax.dynamic_slice_in_dim(state.frames, place + start, count, axis=1)

    conv1 = backbone.base1.conv1.temporal
    front = _in_time(conv1, of_frames(0, 6), (3, 0), stride=2)  # two steps
    back = _in_time(conv1, of_frames(length - 5, 5), (0, 2), stride=2)  # one
    stages = []
    for level, (in_space, in_time) in enumerate(_levels(model)):
        count = steps - 3 - 2 * level
        parts = in_space(jnp.concatenate([front, back], 1))
        middle = inner(state.parts[level], count)
        long = front.shape[1]
        front = in_time(_joined(_cut(parts, 0, long), _cut(middle, 0, 2)), (1, 0))
        back = in_time(_joined(_cut(middle, count - 2, count), _cut(parts, long, None)), (0, 1))
        if level == 0:
            stages.append(jnp.concatenate([front, inner(state.base1, steps - 5), back], 1))
    stages.append(jnp.concatenate([front, inner(state.base2, steps - 9), back], 1))
    return stages[0], stages[1]


def window_map(model: STSANet, state: State, place: jax.Array) -> jax.Array:
    """The saliency `(H, W)` of the window that starts at frame `place` of the state."""
    base1, base2 = window_stages(model, state, place)
    return model.of_stages((base1, base2, *model.backbone.later_stages(base2)))[0]


def _new_features(model: STSANet, frames: jax.Array, state: State | None) -> State:
    """The state after `frames`, or without one only what they add, for its shapes."""
    conv1 = model.backbone.base1.conv1
    exact, _ = DTYPES[model.config.dtype]
    count = frames.shape[1]
    half = count // 2
    x = _in_space(conv1.spatial, frames.astype(exact))
    all_frames = x if state is None else _pushed(state.frames, x)
    known = x if state is None else all_frames[:, -(count + 6) :]
    x = _in_time(conv1.temporal, known, (3, 3) if state is None else (0, 0))
    x = jnp.moveaxis(x.reshape(half, 2, *x.shape[2:]), 1, 0)  # phase, step, H, W, C
    kept, outputs = [], []
    for level, (in_space, in_time) in enumerate(_levels(model)):
        parts = in_space(x)
        if state is not None:
            parts = jax.tree.map(_pushed, state.parts[level], parts)
        kept.append(parts)
        pads = (1, 1) if state is None else (0, 0)
        x = in_time(parts if state is None else _cut(parts, -(half + 2), None), pads)
        outputs.append(x)
    base1, base2 = outputs[0], outputs[2]
    if state is not None:
        base1, base2 = _pushed(state.base1, base1), _pushed(state.base2, base2)
    return State(all_frames, (kept[0], kept[1], kept[2]), base1, base2)


def _levels(model: STSANet) -> list[tuple[Callable, Callable]]:
    """What comes after conv1.temporal, in parts: of every time step by itself, then in time."""
    base1, base2 = model.backbone.base1, model.backbone.base2
    _, dtype = DTYPES[model.config.dtype]

    def pooled(x):
        return max_pool(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))

    def of_base1(x):
        return _in_space(base1.conv3.spatial, base1.conv2(pooled(x)))

    def of_3b(x):
        return _mixed_in_space(base2.mixed_3b, pooled(x).astype(dtype))

    def of_3c(x):
        return _mixed_in_space(base2.mixed_3c, x)

    return [
        (of_base1, lambda x, pads: _in_time(base1.conv3.temporal, x, pads)),
        (of_3b, lambda parts, pads: _mixed_in_time(base2.mixed_3b, parts, pads)),
        (of_3c, lambda parts, pads: _mixed_in_time(base2.mixed_3c, parts, pads)),
    ]


def _mixed_in_space(block: Mixed, x: jax.Array) -> tuple[jax.Array, ...]:
    return (
        block.branch0(x),
        _in_space(block.branch1.spatial, block.branch1_reduce(x)),
        _in_space(block.branch2.spatial, block.branch2_reduce(x)),
        max_pool(x, (1, 3, 3), (1, 1, 1), (0, 1, 1)),
    )


def _mixed_in_time(block: Mixed, parts: tuple[jax.Array, ...], pads: tuple[int, int]) -> jax.Array:
    b0, b1, b2, pooled = parts
    before, after = pads
    length = b0.shape[1]
    highest = _padded(pooled, pads, -jnp.inf)
    highest = jnp.maximum(jnp.maximum(highest[:, :-2], highest[:, 1:-1]), highest[:, 2:])
    return jnp.concatenate(
        [
            b0[:, 1 - before : length - 1 + after],
            _in_time(block.branch1.temporal, b1, pads),
            _in_time(block.branch2.temporal, b2, pads),
            block.branch3(highest),
        ],
        axis=-1,
    )


def _in_space(unit: ConvBN, x: jax.Array) -> jax.Array:
    """A unit with a kernel of one time step; the stem's too, whatever the form of operations."""
    return _normalised(unit, conv3d(x, unit.kernel[...], unit.stride, unit.padding, unit.precision))


def _in_time(unit: ConvBN, x: jax.Array, pads: tuple[int, int], stride: int = 1) -> jax.Array:
    """A unit with a kernel in time, with zeros for `pads` steps before and after."""
    x = _padded(x, pads, 0)
    y = conv3d(x, unit.kernel[...], (stride, 1, 1), (0, 0, 0), unit.precision)
    return _normalised(unit, y)


def _normalised(unit: ConvBN, y: jax.Array) -> jax.Array:
    scale, bias, mean, var = (v[...] for v in (unit.scale, unit.bias, unit.mean, unit.var))
    return scale_shift(y, scale, bias, mean, var, eps=unit.eps, activation=unit.activation)


def _padded(x: jax.Array, pads: tuple[int, int], value: float) -> jax.Array:
    room = ((0, 0), pads, (0, 0), (0, 0), (0, 0))
    return jnp.pad(x, room, constant_values=value) if any(pads) else x


def _pushed(old: jax.Array, new: jax.Array) -> jax.Array:
    """`old` without its first steps, and `new` behind it."""
    return jnp.concatenate([old[:, new.shape[1] :], new], 1)


def _joined(first: Tree, second: Tree) -> Tree:
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), first, second)


def _cut(tree: Tree, start: int, stop: int | None) -> Tree:
    return jax.tree.map(lambda x: x[:, start:stop], tree)
