"""A module as a pure function: graph definition, and plain nested dicts of arrays.

    graphdef, params, batch_stats = split(STSANet(config, rngs=nnx.Rngs(0)))
    saliency = apply(graphdef, params, batch_stats, clip)
    saliency, batch_stats = apply(graphdef, params, batch_stats, clip, train=True)

`apply` has no side effects and can be used inside `jax.jit`, `jax.grad` and other transformations.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from stsa_jax.errors import InputError
from stsa_jax.models.layers import BatchStat, Taps


def split(model: nnx.Module) -> tuple[nnx.GraphDef, dict, dict]:
    """The model's graph definition, and its parameters and BatchNorm statistics as pure dicts."""
    graphdef, params, batch_stats = nnx.split(model, nnx.Param, BatchStat)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)


@functools.lru_cache(maxsize=16)
def abstract(
    model_class: Callable[..., nnx.Module], config: Any
) -> tuple[nnx.GraphDef, dict, dict]:
    """The result of `split` with shapes instead of arrays: nothing is computed or allocated.

    Cached per config; do not modify the result in place.
    """
    graphdef, *trees = split(model_class(config, rngs=None))
    shape_of = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)  # noqa: E731
    return graphdef, *jax.tree.map(shape_of, trees)


def apply(
    graphdef: nnx.GraphDef,
    params: dict,
    batch_stats: dict,
    clip: jax.Array,
    *,
    train: bool = False,
    return_intermediates: bool | Sequence[str] = False,
    state: Any = None,
) -> Any:
    """Runs the model. Returns its output, and updated statistics and intermediates if requested.

    Args:
        graphdef, params, batch_stats: from `split`.
        clip: `(B, T, H, W, 3)`.
        train: normalise with the batch's statistics; also returns the updated `batch_stats`.
        return_intermediates: also returns `{name: array}` of stage features and attention matrices
            (STSA-Net only), or of those with these names; InputError for an unknown one.
        state: of a recurrent model, the intermediate 'state' of the clip before; None if there is
            none.

    Returns:
        output, or (output, batch_stats), (output, taps), (output, batch_stats, taps).
    """
    model = nnx.merge(graphdef, params, batch_stats)
    kept: dict[str, jax.Array] = {}
    options = {'taps': Taps(kept)} if return_intermediates else {}
    if state is not None:
        options['state'] = state
    results = [model(clip, train=train, **options)]
    if train:
        results.append(nnx.to_pure_dict(nnx.state(model, BatchStat)))
    if return_intermediates:
        wanted = kept if return_intermediates is True else return_intermediates
        if unknown := set(wanted) - set(kept):
            raise InputError(
                f'{unknown.pop()!r} is not an intermediate result of this model; expected one of '
                f'{", ".join(kept)}'
            )
        results.append({name: kept[name] for name in wanted})
    return results[0] if len(results) == 1 else tuple(results)
