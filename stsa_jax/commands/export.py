"""A model as one file that other programs run: frames in, maps out.

    stsa-jax export STSANet_DHF1K.pth stsanet.stablehlo
    stsa-jax export STSANet_DHF1K.pth stsanet.onnx --format=onnx

The input of the file are uint8 RGB frames (B, T, H, W, 3), resized to the model's size, the output
maps (B, H, W) from 0 to 1. B may be any size. StableHLO runs with JAX alone, on CPUs, NVIDIA GPUs
and TPUs; docs/sharing.md shows how. ONNX runs with onnxruntime and others; after writing it, the
command compares its maps with ours.
"""

import sys
from pathlib import Path

from stsa_jax import mirror
from stsa_jax.commands.flags import Parser, add_switch
from stsa_jax.configuration import parse_size
from stsa_jax.errors import InputError, command

FORMATS = ('stablehlo', 'onnx')


def run() -> None:
    """The command."""
    main(sys.argv[1:])


def main(arguments: list[str]) -> None:
    """Runs it with `arguments`, without the program's name."""
    parser = Parser(prog=command('stsa-jax export'), description=__doc__)
    parser.add_argument('model', metavar='MODEL', help='weights that stsa_jax.load reads')
    parser.add_argument('out', metavar='OUT', help='the file to write')
    parser.add_argument('--format', choices=FORMATS, default='stablehlo', help='of the file')
    parser.add_argument('--image_size', metavar='H,W', help='resample the weights for this size')
    parser.add_argument('--clip_frames', type=int, metavar='N', help='and for clips of N frames')
    parser.add_argument('--domain', help='of UNISAL: the dataset whose parts are used')
    add_switch(parser, 'check', True, "compare an ONNX file's maps with ours; takes minutes")
    options = parser.parse_args(arguments)
    out = options.out
    if Path(out).is_dir():
        raise InputError(f'{out}: is a folder, but a file name was expected; choose another name')
    if options.format == 'onnx':
        from stsa_jax.inference import onnx_file  # before loading: its extra may be missing
    else:
        from stsa_jax.inference import export

    import stsa_jax

    model = stsa_jax.load(
        options.model,
        image_size=parse_size(options.image_size) if options.image_size else None,
        frames=options.clip_frames,
        domain=options.domain,
    )
    with mirror.file(out) as here:
        if options.format == 'onnx':
            told = onnx_file.save(model, here, check=options.check)
        else:
            export.save_stablehlo(model, here)
            told = f'for {", ".join(export.PLATFORMS)}'
        size = here.stat().st_size
    frames, (height, width) = model.config.frames, model.config.image_size
    print(
        f'{out}: {model.kind}, {size / 1e6:.1f} MB, {told}\n'
        f'  uint8 frames (B, {frames}, {height}, {width}, 3) -> maps in [0, 1]'
    )
