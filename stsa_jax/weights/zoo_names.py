"""The name of each array of the other models in their released state dicts: one rule per model.

Like `names`: a path in our nested dicts -> PyTorch's name and the order of our axes in it.
"""

from stsa_jax.weights import names
from stsa_jax.weights.names import KERNEL, SCALAR, VECTOR, Path

# tinyHD numbers the decoders' blocks in one list.
_ADAPTERS = (
    *(('d1', f'level{level}_{i}') for level in range(4) for i in range(4)),
    *(('d2', n) for n in ('up3', 'up2', 'side1', 'up1', 'side0_a', 'side0_b', 'up0', 'map')),
    *(('d3', f'down1_{i}') for i in range(3)),
    *(('d3', f'up2_{i}') for i in range(3)),
    *(('d3', f'down2_{i}') for i in range(3)),
    ('d3', 'down3_0'),
    ('d3', 'down3_1'),
    ('d3', 'down4_0'),
    ('d3', 'map'),
)
_PLACES = {'expand': '0', 'filter': '1', 'project': '2'}


def tinyhd(path: Path) -> tuple[str, tuple[int, ...]]:
    """feiyanhu/tinyHD: `encoder.encoder.<block>`, `aggregator.aggregate_adapter.<block>`."""
    first, *rest, leaf = path
    if first == 'mix':
        return _leaf('decoder.decoder.0', '', leaf)
    if first == 'backbone' and rest[0] in ('first', 'last'):
        prefix = f'encoder.encoder.{0 if rest[0] == "first" else 18}'
        return _leaf(f'{prefix}.0', f'{prefix}.1', leaf)
    block, part = rest
    if first == 'backbone':
        number = int(block.removeprefix('block'))
        prefix, widens = f'encoder.encoder.{number}', number > 1
    else:
        prefix = f'aggregator.aggregate_adapter.{_ADAPTERS.index((first, block))}'
        widens = True
    place = int(_PLACES[part]) - (not widens)
    if part == 'project':
        return _leaf(f'{prefix}.conv.{place}', f'{prefix}.conv.{place + 1}', leaf)
    return _leaf(f'{prefix}.conv.{place}.0', f'{prefix}.conv.{place}.1', leaf)


def _leaf(convolution: str, norm: str, leaf: str) -> tuple[str, tuple[int, ...]]:
    """For a convolution without `norm`, or for a bias-free one and its BatchNorm."""
    return {
        'kernel': (f'{convolution}.weight', KERNEL),
        'scale': (f'{norm}.weight', VECTOR),
        'bias': (f'{norm or convolution}.bias', VECTOR),
        'mean': (f'{norm}.running_mean', VECTOR),
        'var': (f'{norm}.running_var', VECTOR),
        'count': (f'{norm}.num_batches_tracked', SCALAR),
    }[leaf]


_RULES = {'tinyhd': tinyhd}


def torch_name(path: Path, naming: str) -> tuple[str, tuple[int, ...]]:
    """PyTorch's name of the array at `path`, and the order of our axes in it, of any naming."""
    rule = _RULES.get(naming)
    return rule(path) if rule else names.torch_name(path, naming)
