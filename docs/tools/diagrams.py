"""Draws docs/house.svg and docs/network.svg: `python docs/tools/diagrams.py`.

The house follows from the import contracts in pyproject.toml, the network's shapes from the
constants of `stsa_jax.models`; `tests/test_docs.py` fails when a file no longer fits them. Both
pictures adapt to light and dark backgrounds and need neither fonts nor scripts.
"""

import sys
import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from stsa_jax.models.s3d import stage_channels  # noqa: E402
from stsa_jax.models.stsa import STEPS  # noqa: E402
from stsa_jax.models.stsanet import (  # noqa: E402
    AMSF_OUT,
    SPACE_STRIDES,
    STSA_OUT,
    TIME_STRIDES,
    STSANetConfig,
)

STYLE = """
  text { font-family: system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; font-size: 13px;
         fill: #1f2430 }
  .small { font-size: 11px; fill: #5b6472 }
  .middle { text-anchor: middle }
  .end { text-anchor: end }
  .box { fill: #eef1f8; stroke: #7986b8; stroke-width: 1 }
  .data { fill: #e3f1ec; stroke: #5a9b84; stroke-width: 1 }
  .attention { fill: #fbe9e1; stroke: #cf8460; stroke-width: 1 }
  .arrow { stroke: #5b6472; stroke-width: 1.2; fill: none; marker-end: url(#tip) }
  .tip { fill: #5b6472 }
  .may { fill: #7986b8 }
  .grid { fill: none; stroke: #c6ccd8; stroke-width: .5 }
  .self { fill: #c6ccd8 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e4e7ee }
    .small { fill: #a3acbb }
    .box { fill: #2b3042; stroke: #8793c7 }
    .data { fill: #223a33; stroke: #68ad95 }
    .attention { fill: #45302a; stroke: #d98f6b }
    .arrow { stroke: #a3acbb }
    .tip { fill: #a3acbb }
    .may { fill: #8793c7 }
    .grid { stroke: #4a5163 }
    .self { fill: #4a5163 }
  }
"""

# From the top down, what each package is; its order is that of the contract.
ROOMS = {
    'experiments': 'the tables of the documentation',
    'configs': 'the settings of a training run',
    'stsa_jax.__main__': 'python -m stsa_jax',
    'stsa_jax.commands': 'stsa-jax predict, train, ...',
    'stsa_jax.port': 'short for weights.port',
    'stsa_jax.cost': 'short for inference.cost',
    'stsa_jax.losses': 'short for metrics.losses',
    'stsa_jax.evaluation': 'protocols, scoring, tables',
    'stsa_jax.serving': 'a web server that predicts videos',
    'stsa_jax.inference': 'windows over a video, attention maps, cost',
    'stsa_jax.training': 'step, optimizer, validation, the run',
    'stsa_jax.weights': "PyTorch's files to a model ready to use",
    'stsa_jax.checkpoints': 'what training saves',
    'stsa_jax.distribution': 'the device mesh, several processes',
    'data': 'from datasets on disk to batches; no JAX',
    'stsa_jax.media': 'video files, frames, images; no JAX',
    'stsa_jax.metrics': 'scores and the training loss',
    'stsa_jax.models': 'the networks, as pure functions',
    'stsa_jax.ops': "operations with PyTorch's numbers",
    'stsa_jax.configuration': 'config files, options',
    'stsa_jax.mirror': 'results in object storage',
    'stsa_jax.remote': 'object storage, to read',
    'stsa_jax.files': 'files written whole or not at all',
    'stsa_jax.lock': 'one process in a folder',
    'stsa_jax.errors': 'messages for people',
}


def contracts() -> tuple[list[list[str]], list[tuple[set[str], set[str]]]]:
    """The packages in layers, from the top down, and the (sources, forbidden) of the others."""
    read = tomllib.loads((ROOT / 'pyproject.toml').read_text('utf-8'))
    whole, *others = read['tool']['importlinter']['contracts']
    layers = [[name.strip() for name in layer.split('|')] for layer in whole['layers']]
    forbidden = [
        (set(contract['source_modules']), set(contract['forbidden_modules']))
        for contract in others
        if contract['type'] == 'forbidden'
    ]
    return layers, forbidden


def may_import() -> dict[str, set[str]]:
    """Each package, from the top down, with those that it may import."""
    layers, forbidden = contracts()
    found = {}
    for i, layer in enumerate(layers):
        below = {name for lower in layers[i + 1 :] for name in lower}
        for name in layer:
            refused = [targets for sources, targets in forbidden if name in sources]
            found[name] = below.difference(*refused)
    return found


def house() -> str:
    """The packages, and a dot where the one of a row may import the one of a column."""
    allowed = may_import()
    if set(allowed) != set(ROOMS):
        raise ValueError(f'ROOMS and the contract differ in {set(allowed) ^ set(ROOMS)}')
    names, row, left, top = list(allowed), 22, 462, 150
    parts = []
    for i, name in enumerate(names):
        y, x = top + i * row, left + i * row
        kind = 'data' if name == 'data' else 'box'
        parts.append(rectangle(8, y + 1, 165, row - 2, kind))
        parts.append(label(16, y + 15, name))
        parts.append(label(182, y + 15, ROOMS[name], 'small'))
        parts.append(
            f'<text class="small" transform="translate({x + 15} {top - 6}) rotate(-60)">'
            f'{escape(name.removeprefix("stsa_jax."))}</text>'
        )
        parts.append(f'<rect class="self" x="{x}" y="{y}" width="{row}" height="{row}"/>')
        for j in range(i + 1, len(names)):
            cell = left + j * row
            parts.append(f'<rect class="grid" x="{cell}" y="{y}" width="{row}" height="{row}"/>')
            if names[j] in allowed[name]:
                parts.append(f'<circle class="may" cx="{cell + 11}" cy="{y + 11}" r="5"/>')
    parts.append(label(8, 24, 'The package of a row may import those with a dot.'))
    below = 'All dots are right of the diagonal: nothing imports upwards.'
    parts.append(label(8, 44, below, 'small'))
    width, height = left + len(names) * row + 60, top + len(names) * row + 10
    return document(width, height, parts, 'The packages of the project and who may import whom')


def network() -> str:
    """The network from left to right, with the shape `T, H, W, C` behind each part."""
    config = STSANetConfig()
    channels = stage_channels(config.width)
    height, width = config.image_size

    def space(level: int) -> tuple[int, int]:
        return height // SPACE_STRIDES[level], width // SPACE_STRIDES[level]

    def shape(steps: int, level: int, depth: int) -> str:
        return ', '.join(map(str, (steps, *space(level), depth)))

    rows, stage_x, squeeze_x, stsa_x, fusion_x = (86, 186, 286, 386), 150, 322, 494, 690
    parts = [box(12, rows[0], 118, 'clip', f'{config.frames}, {height}, {width}, 3', 'data')]
    for level, y in enumerate(rows):
        steps = config.frames // TIME_STRIDES[level]
        parts.append(
            box(stage_x, y, 144, f'S3D base{level + 1}', shape(steps, level, channels[level]))
        )
        if level:
            parts.append(arrow(stage_x + 72, rows[level - 1] + 44, stage_x + 72, y))
        compressed = shape(STEPS, level, channels[level])
        if level < 3 or steps > STEPS:
            parts.append(box(squeeze_x, y, 144, f'over time, {steps} to {STEPS}', compressed))
            parts.append(arrow(stage_x + 144, y + 22, squeeze_x, y + 22))
            parts.append(arrow(squeeze_x + 144, y + 22, stsa_x, y + 22))
        else:
            parts.append(arrow(stage_x + 144, y + 22, stsa_x, y + 22))
        out = shape(STEPS, level, STSA_OUT[level])
        parts.append(box(stsa_x, y, 144, f'STSA, level {level}', out, 'attention'))
    parts.append(arrow(130, rows[0] + 22, stage_x, rows[0] + 22))
    # The decoder: level 3 upwards.
    lateral = shape(STEPS, 2, STSA_OUT[2])
    parts.append(box(fusion_x, rows[3], 152, '3x3, upsampled', lateral))
    parts.append(arrow(stsa_x + 144, rows[3] + 22, fusion_x, rows[3] + 22))
    for i, level in enumerate((2, 1, 0)):
        name, fused = f'AMSF with level {level}', shape(STEPS, level, AMSF_OUT[i])
        parts.append(box(fusion_x, rows[level], 152, name, fused, 'attention'))
        parts.append(arrow(stsa_x + 144, rows[level] + 22, fusion_x, rows[level] + 22))
        parts.append(arrow(fusion_x + 76, rows[level + 1], fusion_x + 76, rows[level] + 44))
        if i:
            parts.append(label(fusion_x + 84, rows[level] + 76, 'upsampled by 2', 'small'))
    parts.append(box(fusion_x + 196, rows[0], 118, 'readout', '4 steps to 1, by 4'))
    parts.append(arrow(fusion_x + 152, rows[0] + 22, fusion_x + 196, rows[0] + 22))
    parts.append(box(fusion_x + 196, rows[1], 118, 'map', f'{height}, {width}', 'data'))
    parts.append(arrow(fusion_x + 255, rows[0] + 44, fusion_x + 255, rows[1]))
    for x, text in (
        (stage_x + 72, 'backbone'),
        (squeeze_x + 72, 'temporal compression'),
        (stsa_x + 72, 'self-attention'),
        (fusion_x + 76, 'fusion, from the bottom up'),
    ):
        parts.append(label(x, 66, text, 'small middle'))
    parts.append(label(12, 28, f'{config.frames} frames, and the map of one of them'))
    parts.append(label(12, 46, 'Shapes are time, height, width, channels.', 'small'))
    return document(1020, 450, parts, 'The network: S3D, STSA at four levels, AMSF, readout')


def box(x: float, y: float, width: float, title: str, shape: str, kind: str = 'box') -> str:
    """A box of height 44 with two centred lines."""
    middle = x + width / 2
    return '\n'.join(
        [
            rectangle(x, y, width, 44, kind),
            label(middle, y + 18, title, 'middle'),
            label(middle, y + 35, shape, 'small middle'),
        ]
    )


def rectangle(x: float, y: float, width: float, height: float, kind: str) -> str:
    """With round corners."""
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="5"/>'


def label(x: float, y: float, text: str, kind: str = '') -> str:
    """A line of text."""
    style = f' class="{kind}"' if kind else ''
    return f'<text{style} x="{x:g}" y="{y:g}">{escape(text)}</text>'


def arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    """A straight arrow."""
    return f'<path class="arrow" d="M{x:g} {y:g}L{to_x:g} {to_y:g}"/>'


def document(width: int, height: int, parts: list[str], title: str) -> str:
    """The SVG file."""
    return '\n'.join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img">',
            f'<title>{escape(title)}</title>',
            f'<style>{STYLE}</style>',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>',
            *parts,
            '</svg>',
            '',
        ]
    )


PICTURES = {'house.svg': house, 'network.svg': network}


if __name__ == '__main__':
    for name, draw in PICTURES.items():
        (ROOT / 'docs' / name).write_text(draw(), 'utf-8')
        print(f'docs/{name}')
