"""The console command `stsa-jax`, also `python -m stsa_jax`: runs one of the commands.

It imports only the command that is asked for.
"""

import importlib
import sys

from stsa_jax.errors import InputError, exit_cleanly

# name: module, its function without arguments, what it does
COMMANDS = {
    'predict': ('stsa_jax.commands.predict', 'run', 'maps of a video, and an overlay'),
    'train': ('stsa_jax.commands.train', 'main', 'train a model, or resume a run'),
    'evaluate': ('stsa_jax.commands.evaluate', 'run', 'score models or maps on datasets'),
    'prepare': ('data.prepare', 'main', 'prepare a dataset, or your own recordings'),
    'inspect': ('data.inspect', 'main', 'a table and a contact sheet of a prepared dataset'),
    'fixations': ('data.fixations', 'main', "eye trackers' records to maps"),
    'port': ('stsa_jax.weights.files', 'convert', 'convert weights between formats'),
    'cost': ('stsa_jax.inference.cost', 'main', 'parameters, multiply-adds, memory and time'),
}


def usage() -> str:
    """The help of `stsa-jax`."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f'  {name:{width}}{what}' for name, (_, _, what) in COMMANDS.items()]
    return '\n'.join(
        [
            'usage: stsa-jax COMMAND [options]; stsa-jax COMMAND --help for its options',
            '',
            *lines,
            '',
            '  --version  of this package',
        ]
    )


def main() -> int | None:
    """Runs the command that the first argument names."""
    given = sys.argv[1] if len(sys.argv) > 1 else '--help'
    if given in ('-h', '--help', 'help'):
        print(usage())
        return 0
    if given == '--version':
        import stsa_jax

        print(f'stsa-jax {stsa_jax.__version__}')
        return 0
    if given not in COMMANDS:
        raise InputError(f'{given}: not a command; there are {", ".join(COMMANDS)}')
    module, function, _ = COMMANDS[given]
    sys.argv[:2] = [f'stsa-jax {given}']  # which the help and messages of the command show
    return getattr(importlib.import_module(module), function)()


def console() -> None:
    """The entry point of the installed command."""
    exit_cleanly(main)
