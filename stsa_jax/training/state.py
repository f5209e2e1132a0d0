"""The state of a training run: parameters, statistics, the optimizer's arrays and counters."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from stsa_jax.distribution import sharding


class TrainState(struct.PyTreeNode):
    """The state that a step updates. All leaves are arrays."""

    step: jax.Array  # int32, the number of batches seen
    params: dict
    batch_stats: dict
    opt_state: Any
    ema: dict | None  # averaged parameters, or None
    skipped: jax.Array  # int32, steps not taken because a loss or gradient was not finite


def create_state(
    mesh: Mesh,
    params: dict,
    batch_stats: dict,
    tx: optax.GradientTransformationExtraArgs,
    ema: bool = False,
) -> TrainState:
    """The state before the first step, from host arrays, sharded over the mesh."""
    abstract = abstract_state(mesh, params, batch_stats, tx, ema)
    shardings = jax.tree.map(lambda array: array.sharding, abstract)
    params = sharding.put_state(params, shardings.params)
    batch_stats = sharding.put_state(batch_stats, shardings.batch_stats)
    # Compiled, so that the optimizer's arrays are created on their own devices.
    fresh = jax.jit(functools.partial(_fresh, tx=tx, ema=ema), out_shardings=shardings)
    return fresh(params, batch_stats)


def abstract_state(
    mesh: Mesh,
    params: dict,
    batch_stats: dict,
    tx: optax.GradientTransformationExtraArgs,
    ema: bool = False,
) -> TrainState:
    """The state with shapes and shardings instead of arrays: nothing is computed or allocated."""
    state = jax.eval_shape(functools.partial(_fresh, tx=tx, ema=ema), params, batch_stats)
    return jax.tree.map(
        lambda array, place: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=place),
        state,
        sharding.state_sharding(mesh, state),
    )


def abstract_batch(
    mesh: Mesh, batch_size: int, config: Any, also: Sequence[str] = ()
) -> dict[str, jax.ShapeDtypeStruct]:
    """A global batch of uint8 clips for a model of `config`, as shapes and shardings.

    `also` names further arrays of the shape of `density`.
    """
    place, size = sharding.batch_sharding(mesh), config.image_size
    maps = (config.frames,) if config.target == 'all' else ()
    shapes = {
        'clip': ((batch_size, config.frames, *size, 3), jnp.uint8),
        **dict.fromkeys(('density', *also), ((batch_size, *maps, *size), jnp.float32)),
    }
    return {
        name: jax.ShapeDtypeStruct(shape, kind, sharding=place)
        for name, (shape, kind) in shapes.items()
    }


def _fresh(params, batch_stats, *, tx, ema):
    return TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=batch_stats,
        opt_state=tx.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        skipped=jnp.int32(0),
    )


def to_items(state: TrainState) -> dict[str, Any]:
    """The state as the items of a checkpoint."""
    items = {
        'params': state.params,
        'batch_stats': state.batch_stats,
        'optimizer': {'opt_state': state.opt_state, 'step': state.step, 'skipped': state.skipped},
    }
    return items if state.ema is None else items | {'ema': state.ema}


def from_items(items: dict[str, Any]) -> TrainState:
    """The inverse of `to_items`."""
    return TrainState(
        params=items['params'],
        batch_stats=items['batch_stats'],
        ema=items.get('ema'),
        **items['optimizer'],
    )
