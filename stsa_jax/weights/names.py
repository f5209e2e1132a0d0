"""The name of each of our arrays in a PyTorch state dict: one rule per module, no lists of names.

Three kinds of state dicts are known here, by the names inside:

    'stsanet'          the released STSA-Net: base1..base4, branch0_pre, ..., readout_2
    's3d_kinetics'     S3D of kylemin/S3D: base.0 .. base.15, fc
    's3d_torchvision'  S3D of torchvision: features.0 .. features.15, classifier

and those of other models in `zoo_names`.

A path is the tuple of keys in our nested dicts; it maps to a PyTorch name and to the order in
which our axes stand there.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from stsa_jax.models.s3d import STAGES

Path = tuple[str, ...]
KERNEL = (4, 3, 0, 1, 2)  # (kt, kh, kw, in, out) -> (out, in, kt, kh, kw)
_FULL = (3, 0, 1, 2)  # (T, H, W, C) -> (C, T, H, W)
VECTOR = (0,)
SCALAR = ()

# Positions of the blocks in the Sequential of both S3D implementations; pools fill the gaps.
_FLAT = {
    'conv1': 0, 'conv2': 2, 'conv3': 3, '3b': 5, '3c': 6, '4b': 8, '4c': 9, '4d': 10, '4e': 11,
    '4f': 12, '5b': 14, '5c': 15,
}  # fmt: skip
_STEM = {'conv1': 'base1.0', 'conv2': 'base1.2', 'conv3': 'base1.3'}
_MIXED = {
    'branch0': 'branch0.0', 'branch1_reduce': 'branch1.0', 'branch1': 'branch1.1',
    'branch2_reduce': 'branch2.0', 'branch2': 'branch2.1', 'branch3': 'branch3.1',
}  # fmt: skip
_UNIT = {  # (convolution, BatchNorm) inside a unit, by naming
    's3d_torchvision': {
        '': ('.0', '.1'),
        'spatial': ('.0.0', '.0.1'),
        'temporal': ('.1.0', '.1.1'),
    },
}
_UNIT['stsanet'] = _UNIT['s3d_kinetics'] = {
    '': ('.conv', '.bn'), 'spatial': ('.conv_s', '.bn_s'), 'temporal': ('.conv_t', '.bn_t'),
}  # fmt: skip
_EMBEDDING = {
    'query_1': 'q.0', 'query_2': 'q.2', 'key_1': 'k.0', 'key_2': 'k.2', 'value_1': 'v.0',
    'value_2': 'v.2',
}  # fmt: skip
_AMSF = {
    'spatial': 'SA_{}.0', 'squeeze': 'CA_{}.1', 'norm': 'CA_{}.2', 'excite': 'CA_{}.4',
    'point': 'inc_{}_0.0', 'time_1': 'inc_{}_1.0', 'space_1': 'inc_{}_1.2',
    'time_2': 'inc_{}_2.0', 'space_2': 'inc_{}_2.2', 'pool': 'inc_{}_3.1',
    'plain': 'plain_{}.0',  # only in variants; our name
}  # fmt: skip
_READOUT = {
    'reduce': 'readout_1.0', 'time_1': 'readout_2.0', 'time_2': 'readout_2.2', 'map': 'readout_2.4',
}  # fmt: skip


# By naming, names that no other model has after any prefix. In this order: what is looked for of a
# later one may be a part of an earlier one too.
_MARKS = {
    'tinyhd': r'encoder\.encoder\.0\.0\.weight$',
    'vinet': r'decoder\.convtsp1\.0\.weight$',
    'tased': r'convtsp1\.0\.weight$',
    'hd2s': r'featureExtractor\.block1\.0\.conv_s\.weight$',
    'unisal': r'post_cnn\.inv_res\.conv\.0\.weight$',
    'salema': r'salgan\.60\.weight$',
    'stsanet': r'base1\.\d',
    's3d_kinetics': r'base\.0\.conv_s\.weight$',
    's3d_torchvision': r'features\.0\.0\.0\.weight$',
}
_FIRST = {naming: re.compile(r'((?:[^.]+\.)*?)' + mark) for naming, mark in _MARKS.items()}
# These are checked first: they may contain S3D's backbone.
_OWN = ('tinyhd', 'vinet', 'tased', 'hd2s', 'unisal', 'salema')
COMPILED = '_orig_mod.'  # from torch.compile, before any component of a name


def prefixes(names: Iterable[str]) -> list[str]:
    """The prefixes of the names of a known model: `['module.']`, `['']` for no prefix.

    Several if the dict holds several models, none if it holds an unknown one.
    """
    plain = [name.replace(COMPILED, '') for name in names]
    rest = tuple(naming for naming in _FIRST if naming not in _OWN)
    for namings in (*((naming,) for naming in _OWN), rest):
        found = (_FIRST[naming].match(name) for name in plain for naming in namings)
        if before := list(dict.fromkeys(match[1] for match in found if match)):
            return before
    return []


def naming_of(state_dict: Mapping[str, Any]) -> str | None:
    """The naming of a state dict with bare names, None for another model's."""
    for naming, mark in _MARKS.items():
        if any(re.match(mark, name) for name in state_dict):
            return naming
    return None


def bare(state_dict: Mapping[str, Any], prefix: str | None = None) -> dict[str, Any]:
    """The state dict with `prefix` stripped from its names; by default their common prefix."""
    if prefix is None:
        there = prefixes(state_dict)
        prefix = there[0] if len(there) == 1 and there[0] else 'module.'
    return {n.replace(COMPILED, '').removeprefix(prefix): a for n, a in state_dict.items()}


def torch_name(path: Path, naming: str) -> tuple[str, tuple[int, ...]]:
    """PyTorch's name of the array at `path`, and the order of our axes in it.

    Raises KeyError for a path that is not in the model of that naming.
    """
    *module, leaf = path
    if module[0] == 'backbone':
        return _backbone(module[1:], leaf, naming)
    if naming == 's3d_kinetics' and module == ['classifier']:
        return _plain('fc.0', leaf)
    if naming == 's3d_torchvision' and module == ['classifier']:
        return _plain('classifier.1', leaf)
    if naming != 'stsanet':
        raise KeyError('.'.join(path))
    return _plain(_head(module), leaf, norm=module[-1] == 'norm')


def _head(module: list[str]) -> str:
    """The parts of STSA-Net after the backbone."""
    first = module[0]
    if first == 'lateral':
        return 'branch3_beh_0.0'
    if first == 'readout':
        return _READOUT[module[1]]
    if first.startswith('amsf'):
        return _AMSF[module[-1]].format(first[-1])
    level = first[-1]
    if module[1] == 'compress':
        return f'branch{level}_pre.0'
    if module[2] == 'middle':
        return f'branch{level}_mid.0'
    layer, part, *rest = module[2:]
    if part == 'norm':
        return f'ln_{level}_{int(layer[-1]) - 1}'
    if part == 'whole':  # only in a variant; our name
        return f'branch{level}_all_{_EMBEDDING[rest[-1]]}'
    pair = int(part[-1]) if layer == 'layer_1' else 2
    member, embedding = rest
    return f'branch{level}_{pair}_{member}_{_EMBEDDING[embedding]}'


def _plain(prefix, leaf, norm=False):
    if leaf == 'kernel':
        return f'{prefix}.weight', KERNEL
    if norm:
        return f'{prefix}.{"weight" if leaf == "scale" else "bias"}', _FULL
    return f'{prefix}.{leaf}', VECTOR


def _backbone(module, leaf, naming):
    stage, block, *rest = module
    block = block.removeprefix('mixed_')
    mixed = stage != 'base1'
    if naming == 's3d_kinetics':
        prefix = f'base.{_FLAT[block]}'
    elif naming == 's3d_torchvision':
        prefix = f'features.{_FLAT[block]}'
    else:
        prefix = f'{stage}.{STAGES[stage].index(block)}' if mixed else _STEM[block]
    if mixed:
        branch, *rest = rest
        place = _MIXED[branch]
        # torchvision's first branch is the unit itself, not a Sequential with one element.
        torchvision_b0 = naming == 's3d_torchvision' and branch == 'branch0'
        prefix += f'.{"branch0" if torchvision_b0 else place}'
    convolution, norm = _UNIT[naming][rest[0] if rest else '']
    return unit_leaf(f'{prefix}{convolution}', f'{prefix}{norm}', leaf)


def unit_leaf(convolution: str, norm: str, leaf: str) -> tuple[str, tuple[int, ...]]:
    """For a convolution without `norm`, or for a bias-free one and its BatchNorm."""
    return {
        'kernel': (f'{convolution}.weight', KERNEL),
        'scale': (f'{norm}.weight', VECTOR),
        'bias': (f'{norm or convolution}.bias', VECTOR),
        'mean': (f'{norm}.running_mean', VECTOR),
        'var': (f'{norm}.running_var', VECTOR),
        'count': (f'{norm}.num_batches_tracked', SCALAR),
    }[leaf]
