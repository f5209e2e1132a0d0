"""Maps of windows in a row, whose early features are computed once: `stsa_jax.models.sliding`."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stsa_jax.inference.devices import SpreadModel
from stsa_jax.inference.windows import Window
from stsa_jax.models import sliding

FRAMES = 8  # added at once
WORTH = 16  # windows: with fewer, the first ones' features cost more than is saved


class SharingModel:
    """A `stsa_jax.SaliencyModel` that also predicts windows in a row, in `maps`.

    It has all attributes of the model. Keeps the features of `FRAMES` + T - 1 frames: 0.5 GB at the
    size of the paper.
    """

    def __init__(self, model: Any):
        self._model = model

        def run(function):
            def call(params, batch_stats, *inputs):
                return function(nnx.merge(model.graphdef, params, batch_stats), *inputs)

            return call

        self._add = jax.jit(run(sliding.add_frames), donate_argnums=2)
        self._map = jax.jit(run(sliding.window_map))
        self._empty = functools.partial(
            jax.jit(run(functools.partial(sliding.empty_state, count=FRAMES))),
            model.params,
            model.batch_stats,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *clips: Any, **options: Any) -> Any:
        """That of the model."""
        return self._model(*clips, **options)

    def maps(self, chosen: Iterable[Window]) -> Iterator[np.ndarray]:
        """The maps `(H, W)` of windows, in order, each one frame after the one before it."""
        weights = self._model.params, self._model.batch_stats
        state, running = None, []
        for group in _groups(chosen):
            if state is None:
                # One frame before those of the first window but the last, to make the number even.
                state = self._empty()
                start = group[0].frames[:1] + group[0].frames[:-1]
                for i in range(0, len(start), FRAMES):
                    state = self._add(*weights, state, _clip(start[i : i + FRAMES]))
            latest = [window.frames[-1] for window in group]
            latest += latest[-1:] * (FRAMES - len(latest))
            state = self._add(*weights, state, _clip(latest))
            for place in range(len(group)):
                running.append(self._map(*weights, state, jnp.int32(place)))
                if len(running) > 1:  # JAX computes while the next frames are read
                    yield np.asarray(running.pop(0), np.float32)
        for saliency in running:
            yield np.asarray(saliency, np.float32)


def for_windows(model: Any, count: int) -> Any:
    """The model, or its `SharingModel` if that is worth it for `count` windows in a row."""
    return sharing(model) if shares(model, count) else model


def sharing(model: Any) -> SharingModel:
    """The `SharingModel` of a model; the same one each time, so that it is compiled once."""
    kept = vars(model)
    if '_sharing' not in kept:
        kept['_sharing'] = SharingModel(model)
    return kept['_sharing']


def shares(model: Any, windows: int) -> bool:
    """Whether it is worth it, for so many windows in a row of this model on this device."""
    return (
        jax.default_backend() == 'cpu'
        and not isinstance(model, SpreadModel)
        and windows > WORTH
        and hasattr(model, 'graphdef')
        and sliding.can_share(model.config)
    )


def _groups(chosen: Iterable[Window]) -> Iterator[list[Window]]:
    group: list[Window] = []
    for window in chosen:
        group.append(window)
        if len(group) == FRAMES:
            yield group
            group = []
    if group:
        yield group


def _clip(frames: Iterable[np.ndarray]) -> np.ndarray:
    return np.stack(list(frames))[None]
