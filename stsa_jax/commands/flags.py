"""Flags that several commands share, and messages of argparse as errors of one line."""

import argparse
from typing import Any, NoReturn

from stsa_jax.errors import InputError


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` without abbreviations, whose errors are InputErrors."""

    def __init__(self, **options: Any):
        options.setdefault('formatter_class', argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raises InputError instead of printing the usage."""
        raise InputError(f'{message}; {self.prog} --help lists the flags')


def add_switch(parser: argparse.ArgumentParser, name: str, default: bool, help: str) -> None:
    """`--name`, `--noname`, `--no-name`, and `--name=true` or `false`."""
    parser.add_argument(
        f'--{name}', nargs='?', const=True, default=default, type=truth, metavar='BOOL', help=help
    )
    off = [f'--no{name}', f'--no-{name}']
    parser.add_argument(
        *off, dest=name, action='store_false', default=default, help=argparse.SUPPRESS
    )


def truth(text: str) -> bool:
    """'true' or 'false', as a type of argparse."""
    try:
        return {'true': True, '1': True, 'false': False, '0': False}[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f'{text!r}: expected true or false') from None


def positive(text: str) -> int:
    """An integer, 1 or more, as a type of argparse."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f'{text!r}: expected a positive integer')
    return int(text)


def natural(text: str) -> int:
    """An integer, 0 or more, as a type of argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text}: expected an integer, 0 or more')
    return int(text)
