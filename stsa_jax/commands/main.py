"""The console command `stsa-jax`, also `python -m stsa_jax`: runs one of the commands.

It imports only the command that is asked for.
"""

import sys

from stsa_jax.errors import InputError, exit_cleanly


def predict() -> None:
    """Maps of a video, and an overlay."""
    from stsa_jax.commands.predict import run

    run()


def train() -> int:
    """Train a model, or resume a run."""
    from stsa_jax.commands.train import main

    return main()


def evaluate() -> None:
    """Score models or maps on datasets."""
    from stsa_jax.commands.evaluate import run

    run()


def prepare() -> None:
    """Prepare a dataset, or your own recordings."""
    from data.prepare import main

    main()


def inspect() -> None:
    """A table and a contact sheet of a prepared dataset."""
    from data.inspect import main

    main()


def fixations() -> None:
    """Eye trackers' records to maps."""
    from data.fixations import main

    main()


def port() -> None:
    """Convert weights between formats, show and compare them."""
    from stsa_jax.weights.port_command import main

    main()


def cost() -> None:
    """Parameters, multiply-adds, memory and time of a model."""
    from stsa_jax.inference.cost import main

    main()


def export() -> None:
    """One file that other programs run: StableHLO or ONNX."""
    from stsa_jax.commands.export import run

    run()


def serve() -> None:
    """A page in the browser where one drops a video; also for programs."""
    from stsa_jax.commands.serve import run

    run()


_ALL = (predict, train, evaluate, prepare, inspect, fixations, port, cost, export, serve)
COMMANDS = {function.__name__: function for function in _ALL}


def usage() -> str:
    """The help of `stsa-jax`."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f'  {name:{width}}{f.__doc__}' for name, f in COMMANDS.items()]
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
    sys.argv[:2] = [f'stsa-jax {given}']  # which the help and messages of the command show
    return COMMANDS[given]()


def console() -> None:
    """The entry point of the installed command."""
    exit_cleanly(main)
