"""The name of each array of the other models in their released state dicts: one rule per model.

Like `names`: a path in our nested dicts -> PyTorch's name and the order of our axes in it.
"""

from stsa_jax.models.hd2s import DECODERS, HALVINGS
from stsa_jax.models.salema import DECODER, ENCODER
from stsa_jax.models.unisal import BLOCKS
from stsa_jax.weights import names
from stsa_jax.weights.names import Path, unit_leaf

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
        return unit_leaf('decoder.decoder.0', '', leaf)
    if first == 'backbone' and rest[0] in ('first', 'last'):
        prefix = f'encoder.encoder.{0 if rest[0] == "first" else 18}'
        return unit_leaf(f'{prefix}.0', f'{prefix}.1', leaf)
    block, part = rest
    if first == 'backbone':
        number = int(block.removeprefix('block'))
        prefix, widens = f'encoder.encoder.{number}', number > 1
    else:
        prefix = f'aggregator.aggregate_adapter.{_ADAPTERS.index((first, block))}'
        widens = True
    place = int(_PLACES[part]) - (not widens)
    if part == 'project':
        return unit_leaf(f'{prefix}.conv.{place}', f'{prefix}.conv.{place + 1}', leaf)
    return unit_leaf(f'{prefix}.conv.{place}.0', f'{prefix}.conv.{place}.1', leaf)


_VINET = {
    'up4': 'convtsp1.0', 'up3': 'convtsp2.0', 'up2': 'convtsp3.0', 'up1': 'convtsp4.0',
    'reduce': 'convtsp4.3', 'last_step': 'convtsp4.6', 'vinet_map': 'convtsp4.8',
}  # fmt: skip


def vinet(path: Path) -> tuple[str, tuple[int, ...]]:
    """samyak0210/ViNet: S3D under `backbone`, as STSA-Net names it, and `decoder.convtsp<n>`."""
    if path[0] == 'backbone':
        name, axes = names.torch_name(path, 'stsanet')
        return f'backbone.{name}', axes
    return unit_leaf(f'decoder.{_VINET[path[0]]}', '', path[-1])


_TASED = {
    'mix4': 'convtsp1.0', 'up4': 'convtsp1.3', 'up3': 'convtsp2.0', 'up2': 'convtsp3.0',
    'up1': 'convtsp4.0', 'steps_2': 'convtsp4.3', 'narrow': 'convtsp4.6', 'steps_1': 'convtsp4.9',
    'up0': 'convtsp4.12',
}  # fmt: skip
_TRANSPOSED = ('up4', 'up3', 'up2', 'up1', 'narrow', 'up0')
_TRANSPOSED_KERNEL = (3, 4, 0, 1, 2)  # (kt, kh, kw, in, out) -> (in, out, kt, kh, kw)


def tased(path: Path) -> tuple[str, tuple[int, ...]]:
    """MichiganCOG/TASED-Net: S3D as STSA-Net names it, and `convtsp<n>`."""
    part, leaf = path[0], path[-1]
    if part == 'backbone':
        return names.torch_name(path, 'stsanet')
    if part == 'tased_map':
        return unit_leaf('convtsp4.13', '', leaf)
    sequential, number = _TASED[part].split('.')
    name, axes = unit_leaf(_TASED[part], f'{sequential}.{int(number) + 1}', leaf)
    return name, _TRANSPOSED_KERNEL if leaf == 'kernel' and part in _TRANSPOSED else axes


_BLOCKS = {'base1.0': 'block1.0', 'base1.2': 'block2.0', 'base1.3': 'block2.1'}
_IN_PLANE = (4, 3, 1, 2)  # (1, kh, kw, in, out) -> (out, in, kh, kw)


def hd2s(path: Path) -> tuple[str, tuple[int, ...]]:
    """perceivelab/hd2s: S3D as `featureExtractor.block<n>`; `conv_t<level>`, `decoder<level>`."""
    first, *rest, leaf = path
    if first == 'backbone':
        name, axes = names.torch_name(path, 'stsanet')
        stage, place, inside = name.split('.', 2)
        block = _BLOCKS.get(f'{stage}.{place}') or f'block{int(stage[-1]) + 1}.{place}'
        return f'featureExtractor.{block}.{inside}', axes
    if first == 'hd2s_map':
        return _in_plane('last_conv', '', leaf)
    level, part = int(first[-1]), rest[0]
    if part == 'map':
        return _in_plane(f'decoder{level}.last_conv{level}', '', leaf)
    number = int(part[-1])
    if part.startswith('halve'):
        prefix = f'conv_t{level}' if HALVINGS[level] == 1 else f'conv_t{level}_{number + 1}'
        return unit_leaf(f'{prefix}.conv', f'{prefix}.bn', leaf)
    group = f'decoder{level}.deconvlayer{level}_{len(DECODERS[level]) - number}'
    unit = rest[1]
    if unit == 'first':
        return _in_plane(f'{group}.0.conv', f'{group}.0.bn', leaf)
    letter = 's' if unit.startswith('by_channel') else 't'
    prefix = f'{group}.{unit[-1]}'
    return _in_plane(f'{prefix}.conv_{letter}', f'{prefix}.bn_{letter}', leaf)


_DOMAINS = {
    'dhf1k': 'DHF1K', 'hollywood': 'Hollywood', 'ucfsports': 'UCFSports', 'salicon': 'SALICON',
}  # fmt: skip
_UNISAL = {
    'gru_output': ('post_rnn.0', 'post_rnn.1'),
    'skip2_wide': ('skip_2x.expansion.0', 'skip_2x.expansion.1'),
    'skip2': ('skip_2x.reduction.0', 'skip_2x.reduction.1'),
    'skip4_wide': ('skip_4x.expansion.0', 'skip_4x.expansion.1'),
    'skip4': ('skip_4x.reduction.0', 'skip_4x.reduction.1'),
}
_MIXED = {
    'unisal_input': 'post_cnn.inv_res.conv',
    'mix2': 'upsampling_2.inv_res.conv',
    'mix4': 'post_upsampling_2.inv_res.conv',
}
_GATES = {'reset': 'r', 'update': 'z', 'candidate': 'h'}
_SIDES = {'input': ('w', 'x'), 'state': ('u', 'h')}
_CHANNELS = (2, 0, 1)  # (1, 1, C) -> (C, 1, 1)


def unisal(path: Path) -> tuple[str, tuple[int, ...]]:
    """rdroste/unisal: `cnn.features.<block>`, and the decoder with `bn_<domain>` in its units."""
    first, *rest, leaf = path
    if first in _DOMAINS:
        if leaf == 'priors':
            return f'coarse_gaussians_{first}', (0, 1, 2)
        if leaf == 'smoothing':
            return f'smoothing_{first}.weight', (3, 2, 0, 1)
        return _in_plane(f'adaptation_{first}.0', '', leaf)
    if first == 'backbone':
        block, *parts = rest
        if block in ('first', 'last'):
            place = f'cnn.features.{0 if block == "first" else len(BLOCKS) + 1}'
            return _in_plane(f'{place}.0', f'{place}.1', leaf)
        number = int(block.removeprefix('block'))
        return _in_plane(*_inverted(f'cnn.features.{number}.conv', parts[0], number > 1), leaf)
    if first == 'gru':
        return _gru(rest, leaf)
    part, *norm = rest if first in _MIXED else ('', *rest)
    if first in _MIXED:
        convolution, place = _inverted(_MIXED[first], part, first != 'unisal_input')
    else:
        convolution, place = _UNISAL[first]
    return _in_plane(convolution, _of_domain(place, norm), leaf)


def _gru(rest: list[str], leaf: str) -> tuple[str, tuple[int, ...]]:
    cell = 'rnn.cell_list.0'
    if not rest:
        if leaf == 'drop_mask':
            return f'{cell}.drop_mask_1', (0, 1)
        return f'{cell}.b_{_GATES[leaf.removesuffix("_shift")]}', _CHANNELS
    gate, side = rest[0].split('_')
    weight, of = _SIDES[side]
    if leaf == 'scale' and len(rest) == 1:
        return f'{cell}.a_{_GATES[gate]}_{of}', _CHANNELS
    suffix = '' if gate == 'candidate' else f'_{_GATES[gate]}'
    place = f'{cell}.{weight}{suffix}'
    if rest[1] == 'depth':
        convolution, norm = f'{place}.conv_dw', f'{place}.sep_bn'
    else:
        normed = 'out' if gate == 'candidate' else _GATES[gate]
        convolution, norm = f'{place}.conv_sep', f'{cell}.norm_{normed}_{of}'
    return _in_plane(convolution, _of_domain(norm, rest[2:]), leaf)


def _inverted(prefix: str, part: str, widens: bool) -> tuple[str, str]:
    """Convolution and norm of a part of MobileNetV2's block, which is one list of layers."""
    first = 3 * (tuple(_PLACES).index(part) - (not widens))
    return f'{prefix}.{first}', f'{prefix}.{first + 1}'


def _of_domain(norm: str, rest: list[str]) -> str:
    """`rest` is ['norm', domain], ['norm'], or [] for the convolution."""
    return f'{norm}.bn_{_DOMAINS[rest[1]]}' if len(rest) > 1 else norm


def _in_plane(convolution: str, norm: str, leaf: str) -> tuple[str, tuple[int, ...]]:
    """`unit_leaf` of a convolution in two dimensions, whose kernel has one step in time here.

    'offset' is the bias of a convolution in front of a norm.
    """
    if leaf == 'offset':
        return f'{convolution}.bias', names.VECTOR
    name, axes = unit_leaf(convolution, norm, leaf)
    return name, _IN_PLANE if leaf == 'kernel' else axes


def _salema_places() -> dict[str, int]:
    """The released network is one list of layers: convolution, ReLU, ..., pool or upsampling."""
    places, number = {}, 0
    for name, levels in (('encoder', ENCODER), ('decoder', DECODER)):
        for level, widths in enumerate(levels):
            for i in range(len(widths)):
                places[f'{name}{level}_{i}'] = number
                number += 2
            number += (name, level) != ('encoder', len(ENCODER) - 1)  # no pool there
    places['salema_map'] = number - 1  # no upsampling before it
    return places


_SALEMA = _salema_places()


def salema(path: Path) -> tuple[str, tuple[int, ...]]:
    """Linardos/SalEMA: `salgan.<layer>`, and `alpha` if it was learnt."""
    if path == ('alpha',):
        return 'alpha', names.VECTOR
    return _in_plane(f'salgan.{_SALEMA[path[0]]}', '', path[-1])


_RULES = {
    'tinyhd': tinyhd,
    'vinet': vinet,
    'tased': tased,
    'hd2s': hd2s,
    'unisal': unisal,
    'salema': salema,
}


def torch_name(path: Path, naming: str) -> tuple[str, tuple[int, ...]]:
    """PyTorch's name of the array at `path`, and the order of our axes in it, of any naming."""
    rule = _RULES.get(naming)
    return rule(path) if rule else names.torch_name(path, naming)
