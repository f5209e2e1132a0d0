"""Weights between PyTorch state dicts and our params and batch_stats; exact and strict both ways.

    python -m stsa_jax.port SOURCE DEST

SOURCE and DEST are each a PyTorch file (.pth, .pt), a safetensors file with PyTorch's names, or a
checkpoint directory. What is inside is recognised from the names: STSA-Net, S3D's Kinetics
classifier as kylemin/S3D or torchvision name it, or another of the models in `known`.

As a library, on dicts of arrays:

    params, batch_stats = from_torch(state_dict)
    state_dict = to_torch(params, batch_stats)
"""

import collections
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx, traverse_util

from stsa_jax.errors import InputError
from stsa_jax.models import functional
from stsa_jax.weights.known import KNOWN, of_config, of_naming, of_params
from stsa_jax.weights.names import bare, naming_of
from stsa_jax.weights.zoo_names import torch_name

StateDict = Mapping[str, Any]
# Relatives of the models here, by a name that only they have.
_VARIANTS = (
    (
        r'audionet\.',
        "the audio-visual ViNet's weights",
        'give those of the visual model (ViNet_DHF1K.pt)',
    ),
    (
        r'domainClassifier\d\.',
        'HD2S trained for domain adaptation (HD2S_DA)',
        "give the base model's weights (HD2S)",
    ),
    (
        r'(GL_|last_block|decoder\d\..*\.bn_[st]\.bn_)',
        'HD2S with parts for each dataset (HD2S_DSL)',
        "give the base model's weights (HD2S)",
    ),
)


def recognise(state_dict: StateDict, source: str = 'the state dict') -> str:
    """The naming of a state dict: 'stsanet', 's3d_kinetics', 's3d_torchvision', 'tinyhd', ...

    Raises InputError for a dict of another model.
    """
    names = bare(state_dict)
    for mark, what, advice in _VARIANTS:
        if any(re.match(mark, name) for name in names):
            raise InputError(f'{source}: holds {what}, which is not a model here; {advice}')
    if naming := naming_of(names):
        return naming
    shown = ', '.join(sorted(names)[:3]) or 'none'
    others = ', '.join(known.title for known in KNOWN[2:])
    raise InputError(
        f'{source}: not the weights of STSA-Net or S3D: expected names such as '
        'base1.0.conv_s.weight (STSA-Net), base.0.conv_s.weight (kylemin/S3D) or '
        f'features.0.0.0.weight (torchvision S3D), nor of {others}; found {shown}. Give a state '
        'dict of one of these'
    )


def is_backbone(state_dict: StateDict) -> bool:
    """Whether the dict has nothing of STSA-Net after its backbone, as S3D's weights do."""
    return not any(_in_head(name) for name in bare(state_dict))


def infer_config(state_dict: StateDict, naming: str) -> Any:
    """The config that a state dict's shapes belong to, with the defaults where they do not say."""
    shapes = {name: np.shape(a) for name, a in bare(state_dict).items()}
    return of_naming(naming).infer(shapes, naming)


def from_torch(
    state_dict: StateDict,
    config: Any = None,
    *,
    seed: int = 0,
    source: str = 'the state dict',
    shared: list[str] | None = None,
) -> tuple[dict, dict]:
    """A PyTorch state dict -> `(params, batch_stats)`, nested dicts of numpy arrays.

    Strict: an unknown, missing or misshapen entry is an InputError that names it and both shapes.
    One exception: a dict with a complete backbone and nothing else of the model (S3D's weights for
    a model with that backbone, or only STSA-Net's base1 to base4) fills it, and the rest gets
    PyTorch's default initialisation from `seed`. A common prefix of all names, such as `module.`,
    is stripped. If there is no `num_batches_tracked`, as before PyTorch 0.4.1, it is 0.

    Between variants of the network (other parts, see `STSANetConfig.structure`) pass a list as
    `shared`: then the parts that both have are loaded, at least the backbone, and the rest is
    initialised. Lines about what was and was not loaded are appended to the list, also for a
    backbone only.

    Args:
        state_dict: name -> array or tensor.
        config: the wanted model; None to infer it from names and shapes.
        seed: of the initialisation of missing parts.
        source: name of the dict in error messages.
        shared: see above; None is strict.
    """
    naming = recognise(state_dict, source)
    if config is None:
        config = infer_config(state_dict, naming)
    known, found_in = of_config(config), of_naming(naming)
    fills_backbone = known.on_s3d and found_in.kind == 's3d'
    if known != found_in and not fills_backbone:
        raise InputError(
            f"{source}: holds {found_in.title}'s weights, but {known.title}'s were expected"
        )
    arrays = with_counts({name: as_numpy(a) for name, a in bare(state_dict).items()})

    _, params, batch_stats = functional.abstract(known.module, config)
    wanted = traverse_util.flatten_dict({'params': params, 'batch_stats': batch_stats})
    backbone = {path: a for path, a in wanted.items() if path[1] == 'backbone'}
    rest = {path: a for path, a in wanted.items() if path[1] != 'backbone'}
    if fills_backbone or (known.kind == 'stsanet' and is_backbone(arrays)):
        wanted, arrays = _backbone(arrays, backbone, rest, source, shared)
    elif shared is not None and known.kind == 'stsanet':
        wanted, arrays = _shared(arrays, backbone, rest, source, shared)
    found = _match(arrays, wanted, naming, source)
    if len(found) < len(backbone) + len(rest):
        model = functional.split(known.module(config, rngs=nnx.Rngs(seed)))
        initial = traverse_util.flatten_dict({'params': model[1], 'batch_stats': model[2]})
        found = {path: np.asarray(initial[path]) for path in rest} | found
    tree = traverse_util.unflatten_dict(found)
    return tree['params'], tree.get('batch_stats', {})


def to_torch(params: dict, batch_stats: dict | None = None, *, naming: str | None = None) -> dict:
    """`(params, batch_stats)` -> {name: array in PyTorch's layout}, the inverse of from_torch.

    Accepts any tree with the structure of `params`, such as gradients, without `batch_stats`.

    Args:
        params, batch_stats: nested dicts of arrays.
        naming: for S3D's classifier 's3d_kinetics' (the default) or 's3d_torchvision'.
    """
    naming = naming or of_params(params).naming
    state_dict = {}
    for path, array in traverse_util.flatten_dict({**_merge(params, batch_stats)}).items():
        array = np.asarray(array)
        name, axes = place(path, array, naming)
        if path[-1] == 'count':
            array = array.astype(np.int64)
        if axes:
            left_out = tuple(set(range(array.ndim)) - set(axes))  # one step in time
            array = array.transpose(left_out + axes).reshape([array.shape[i] for i in axes])
            array = np.ascontiguousarray(array)
        state_dict[name] = array
    return state_dict


def with_counts(arrays: dict[str, Any]) -> dict[str, Any]:
    """`arrays` with `num_batches_tracked` 0 for each running mean, if there are none at all."""
    if any(name.endswith('.num_batches_tracked') for name in arrays):
        return arrays
    means = [name for name in arrays if name.endswith('.running_mean')]
    counts = {n.replace('running_mean', 'num_batches_tracked'): np.zeros((), int) for n in means}
    return arrays | counts


def _match(arrays, wanted, naming, source):
    """{our path: array}; raises InputError with everything that does not fit."""
    found, problems, used = {}, [], set()
    for path, like in wanted.items():
        name, axes = place(path[1:], like, naming)
        shape = tuple(like.shape[i] for i in axes)
        used.add(name)
        if name not in arrays:
            problems.append(f'{name} is missing, expected with shape {shape}')
        elif arrays[name].shape != shape:
            problems.append(f'{name} has shape {arrays[name].shape}, expected {shape}')
        else:
            array = arrays[name].transpose(np.argsort(axes)) if axes else arrays[name]
            found[path] = np.ascontiguousarray(array, dtype=like.dtype).reshape(like.shape)
    for name in sorted(set(arrays) - used):
        problems.append(f'{name} with shape {arrays[name].shape} is not part of the model')
    if problems:
        more = f'\n  ... and {len(problems) - 8} more' if len(problems) > 8 else ''
        listed = '\n  '.join(problems[:8]) + more
        raise InputError(
            f'{source}: {len(problems)} entries do not fit the model; use weights of this '
            f'model, or a config of the same size:\n  {listed}'
        )
    return found


def _backbone(arrays, backbone, rest, source, lines):
    """For S3D's weights, or a backbone's: the wanted paths, and their arrays."""
    unused = [name for name in arrays if name.startswith(('fc.', 'classifier.'))]
    if lines is not None:
        lines.append(
            f'{source}: loaded the backbone: {_parameters(backbone):,} of the '
            f"model's {_parameters(backbone | rest):,} parameters"
        )
        lines += _left(list(dict.fromkeys(path[1] for path in rest)), unused)
    return backbone, {name: a for name, a in arrays.items() if name not in unused}


def _shared(arrays, backbone, rest, source, lines):
    """The parts that a variant and a state dict share: the wanted paths, and their arrays."""
    wanted, new = dict(backbone), []
    for path, like in rest.items():
        name, axes = place(path[1:], like, 'stsanet')
        fits = name in arrays and arrays[name].shape == tuple(like.shape[i] for i in axes)
        if fits:
            wanted[path] = like
        else:
            new.append('.'.join(path[1:-1]))
    names = {torch_name(path[1:], 'stsanet')[0] for path in wanted}
    unused = sorted(name for name in arrays if name not in names and _in_head(name))
    arrays = {name: a for name, a in arrays.items() if name not in unused}
    lines.append(
        f'{source}: loaded the parts that both models have: {_parameters(wanted):,} of the '
        f"model's {_parameters(backbone | rest):,} parameters"
    )
    lines += _left(new, unused)
    return wanted, arrays


def _left(new, unused) -> list[str]:
    """Lines about parts that were not in the file, and entries not in the model."""
    lines = []
    if new:
        lines.append(f'  not in the file, initialised randomly: {_listed(new)}')
    if unused:
        lines.append(f'  not in the model, left out: {_listed(n.split(".")[0] for n in unused)}')
    return lines


def _parameters(paths) -> int:
    return sum(math.prod(like.shape) for path, like in paths.items() if path[0] == 'params')


def _listed(names) -> str:
    counts = collections.Counter(names)
    return ', '.join(f'{name} ({n} arrays)' if n > 1 else name for name, n in counts.items())


def place(path: tuple[str, ...], array: Any, naming: str) -> tuple[str, tuple[int, ...]]:
    """`torch_name`; a kernel may be one in two dimensions, and a size-free norm has vectors."""
    name, axes = torch_name(path, naming)
    dimensions = len(array.shape)
    if path[-1] == 'kernel' and dimensions == 4:  # (kh, kw, in, out) -> (out, in, kh, kw)
        return name, (3, 2, 0, 1)
    if path[-1] == 'kernel' or len(axes) == dimensions:
        return name, axes
    return name, tuple(range(dimensions))


def _in_head(name: str) -> bool:
    return name.startswith(('branch', 'ln_', 'SA_', 'CA_', 'inc_', 'plain_', 'readout_'))


def _merge(params, batch_stats):
    flat = traverse_util.flatten_dict(params)
    flat |= traverse_util.flatten_dict(batch_stats or {})
    return traverse_util.unflatten_dict(flat)


def as_numpy(array: Any) -> np.ndarray:
    """A PyTorch tensor (on any device, of any float type) or an array, as numpy."""
    if hasattr(array, 'detach'):
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array
    return np.asarray(array)


def parameter_count(params: dict) -> int:
    """Number of scalars in a tree of parameters."""
    return sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(params))
