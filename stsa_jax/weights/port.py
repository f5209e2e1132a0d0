"""Weights between PyTorch state dicts and our params and batch_stats; exact and strict both ways.

    python -m stsa_jax.port SOURCE DEST

SOURCE and DEST are each a PyTorch file (.pth, .pt), a safetensors file with PyTorch's names, or a
checkpoint directory. The model is recognised from the names: STSA-Net, or S3D's Kinetics classifier
as named by kylemin/S3D or torchvision.

As a library, on dicts of arrays:

    params, batch_stats = from_torch(state_dict)
    state_dict = to_torch(params, batch_stats)
"""

import collections
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx, traverse_util

from stsa_jax.errors import InputError
from stsa_jax.models import functional
from stsa_jax.models.s3d import S3D, S3DConfig
from stsa_jax.models.stsa import STEPS
from stsa_jax.models.stsanet import STSANet, STSANetConfig
from stsa_jax.weights.names import bare, torch_name

StateDict = Mapping[str, Any]


def recognise(state_dict: StateDict, source: str = 'the state dict') -> str:
    """The naming of a state dict: 'stsanet', 's3d_kinetics' or 's3d_torchvision'.

    Raises InputError for a dict of another model.
    """
    names = set(bare(state_dict))
    starts = {name.split('.')[0] for name in names}
    if 'base1' in starts:
        return 'stsanet'
    if 'base.0.conv_s.weight' in names:
        return 's3d_kinetics'
    if 'features.0.0.0.weight' in names:
        return 's3d_torchvision'
    shown = ', '.join(sorted(names)[:3]) or 'none'
    raise InputError(
        f'{source}: not the weights of STSA-Net or S3D: expected names such as '
        'base1.0.conv_s.weight (STSA-Net), base.0.conv_s.weight (kylemin/S3D) or '
        f'features.0.0.0.weight (torchvision S3D); found {shown}. Give a state dict of one of these'
    )


def is_backbone(state_dict: StateDict) -> bool:
    """Whether the dict has nothing of STSA-Net after its backbone, as S3D's weights do."""
    return not any(_in_head(name) for name in bare(state_dict))


def infer_config(state_dict: StateDict, naming: str) -> STSANetConfig | S3DConfig:
    """The config inferred from a state dict's shapes; other fields have their defaults."""
    shapes = {name: np.shape(a) for name, a in bare(state_dict).items()}

    def shape(name, default):
        return shapes.get(name) or default

    stem = {
        'stsanet': 'base1.0.conv_s.weight',
        's3d_kinetics': 'base.0.conv_s.weight',
        's3d_torchvision': 'features.0.0.0.weight',
    }[naming]
    width = shape(stem, (64,))[0] / 64
    if naming != 'stsanet':
        head = 'fc.0.weight' if naming == 's3d_kinetics' else 'classifier.1.weight'
        return S3DConfig(num_classes=shape(head, (400,))[0], width=width)
    norm = shape('ln_0_0.weight', (192, STEPS, 56, 96))
    sizes = {'norm': 'size_free'} if len(norm) == 1 else {'image_size': [4 * n for n in norm[2:]]}
    compression = shape('branch0_pre.0.weight', (192, 192, 4, 1, 1))[2]
    return STSANetConfig(frames=2 * STEPS * compression, width=width, **sizes)


def from_torch(
    state_dict: StateDict,
    config: STSANetConfig | S3DConfig | None = None,
    *,
    seed: int = 0,
    source: str = 'the state dict',
    shared: list[str] | None = None,
) -> tuple[dict, dict]:
    """A PyTorch state dict -> `(params, batch_stats)`, nested dicts of numpy arrays.

    Strict: an unknown, missing or misshapen entry is an InputError that names it and both shapes.
    One exception: a dict with a complete backbone and nothing else of the model (S3D's weights for
    an `STSANetConfig`, or only STSA-Net's base1 to base4) fills the backbone, and the rest gets
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
    target = 'stsanet' if isinstance(config, STSANetConfig) else 's3d'
    if target == 's3d' and naming == 'stsanet':
        raise InputError(f"{source}: holds STSA-Net's weights, but S3D's were expected")
    arrays = with_counts({name: as_numpy(a) for name, a in bare(state_dict).items()})

    model_class: Callable[..., nnx.Module] = STSANet if target == 'stsanet' else S3D
    _, params, batch_stats = functional.abstract(model_class, config)
    wanted = traverse_util.flatten_dict({'params': params, 'batch_stats': batch_stats})
    backbone = {path: a for path, a in wanted.items() if path[1] == 'backbone'}
    rest = {path: a for path, a in wanted.items() if path[1] != 'backbone'}
    if target == 'stsanet' and is_backbone(arrays):
        wanted, arrays = _backbone(arrays, backbone, rest, source, shared)
    elif shared is not None:
        wanted, arrays = _shared(arrays, backbone, rest, source, shared)
    found = _match(arrays, wanted, naming, source)
    if len(found) < len(backbone) + len(rest):
        model = functional.split(model_class(config, rngs=nnx.Rngs(seed)))
        initial = traverse_util.flatten_dict({'params': model[1], 'batch_stats': model[2]})
        found = {path: np.asarray(initial[path]) for path in rest} | found
    tree = traverse_util.unflatten_dict(found)
    return tree['params'], tree['batch_stats']


def to_torch(params: dict, batch_stats: dict | None = None, *, naming: str | None = None) -> dict:
    """`(params, batch_stats)` -> {name: array in PyTorch's layout}, the inverse of from_torch.

    Accepts any tree with the structure of `params`, such as gradients, without `batch_stats`.

    Args:
        params, batch_stats: nested dicts of arrays.
        naming: for S3D's classifier 's3d_kinetics' (the default) or 's3d_torchvision'.
    """
    naming = naming or ('s3d_kinetics' if 'classifier' in params else 'stsanet')
    state_dict = {}
    for path, array in traverse_util.flatten_dict({**_merge(params, batch_stats)}).items():
        array = np.asarray(array)
        name, axes = _place(path, array, naming)
        if path[-1] == 'count':
            array = array.astype(np.int64)
        state_dict[name] = np.ascontiguousarray(array.transpose(axes)) if axes else array
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
        name, axes = _place(path[1:], like, naming)
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
        name, axes = _place(path[1:], like, 'stsanet')
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


def _place(path, array, naming):
    """Like `torch_name`; the scale and bias of a size-free norm are vectors in both."""
    name, axes = torch_name(path, naming)
    return name, axes if len(axes) == len(array.shape) else tuple(range(len(array.shape)))


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
