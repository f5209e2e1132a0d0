"""The command `stsa-jax port` (`python -m stsa_jax.port`): converts weights, and shows them.

stsa-jax port SOURCE DEST        converts
stsa-jax port --explain FILE     which entry goes where, its shape, and moments of its values
stsa-jax port --compare A B      where two models first differ, stage by stage on a clip
"""

import argparse

from absl import logging

from stsa_jax.errors import InputError, command
from stsa_jax.weights import port
from stsa_jax.weights.files import read_weights, save


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=command('python -m stsa_jax.port'),
        description='Converts weights between PyTorch (.pth, .pt), safetensors and checkpoints, '
        'and looks into them.',
    )
    add = parser.add_argument
    add(
        'source',
        nargs='?',
        help='a PyTorch or safetensors file with any name, or a checkpoint folder',
    )
    add('dest', nargs='?', help='the output; its extension determines the format')
    add(
        '--naming',
        choices=('s3d_kinetics', 's3d_torchvision'),
        help="naming of S3D's classifier in a file (default: that of the source)",
    )
    add('--allow_nonfinite', action='store_true', help='convert weights with NaN or infinity too')
    add('--explain', metavar='FILE', help='show all entries of a file, also those that do not fit')
    add(
        '--compare',
        nargs=2,
        metavar=('A', 'B'),
        help='compare the stages of weights A with those of B, or with arrays in an .npz file B',
    )
    add('--clip', default='', metavar='FILE', help='for --compare: .npy of a normalised clip')
    add(
        '--within',
        type=float,
        default=1e-3,
        metavar='X',
        help='for --compare: relative difference above which a stage differs',
    )
    options = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)  # Orbax has lines for its developers
    if options.explain or options.compare:
        if options.source:
            raise InputError(f'{options.source}: goes without --explain and --compare')
        if options.explain:
            from stsa_jax.weights.explain import explain

            print(explain(options.explain))
        if options.compare:
            from stsa_jax.weights.compare import report

            a, b = options.compare
            print(report(a, b, options.clip, options.within))
        return
    if not options.dest:
        parser.error('the following arguments are required: source, dest')
    weights = read_weights(options.source, allow_nonfinite=options.allow_nonfinite)
    if options.naming and weights.kind != 's3d':
        raise InputError(f'{options.source}: --naming is only for S3D, but this is {weights.kind}')
    save(options.dest, weights, options.naming)
    count = port.parameter_count(weights.params)
    print(f'{options.source} -> {options.dest}: {weights.kind}, {count:,} parameters')
    fields = ', '.join(f'{key}={value}' for key, value in weights.model_config.items())
    print(f'  {fields}')
