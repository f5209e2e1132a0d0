"""Errors that the user can fix, and the entry point of every command.

A message names the object, what was expected, what was found and what to do. Library code raises
`InputError`; a script passes its main function to `exit_cleanly`, which prints the message without
a traceback and exits with code 2. It also expands `~` in all arguments.
"""

import errno
import os
import re
import sys
from collections.abc import Callable, Iterable


class InputError(ValueError):
    """Unusable user input; the message says what, why and what to do."""


_ADVICE = {
    errno.ENOSPC: 'the disk is full: free some space, or write elsewhere',
    errno.EROFS: 'the file system is read-only: write elsewhere',
    errno.EACCES: 'permission denied: check the permissions',
    errno.EPERM: 'operation not permitted: check the permissions',
    errno.ENOENT: 'there is no such file or folder: check the path',
    errno.ENOTDIR: 'part of the path is a file, not a folder: choose another path',
    errno.EISDIR: 'it is a folder where a file was expected',
    errno.EDQUOT: 'the disk quota is exceeded: free some space, or write elsewhere',
    errno.EFBIG: 'the file would be larger than the system allows',
}


def ranges(numbers: Iterable[int]) -> str:
    """'1-3, 7' for 1, 2, 3, 7, for messages; lists at most six ranges."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [f'{a}' if a == b else f'{a}-{b}' for a, b in runs[:6]]
    return ', '.join(shown) + (f' and {len(runs) - 6} more ranges' if len(runs) > 6 else '')


def explain_os_error(error: OSError) -> str:
    """One line for an operating-system error: the file, and what to do."""
    what = _ADVICE.get(error.errno or 0, error.strerror or str(error))
    return f'{error.filename}: {what}' if error.filename else what


def with_home(argument: str) -> str:
    """Expands `~` in `--video=~/clip.mp4`, which the shell does not do after a `=`."""
    return re.sub(r'(?:^|(?<==))~.*', lambda path: os.path.expanduser(path[0]), argument)


def command(otherwise: str) -> str:
    """What the user typed, for help and messages: 'stsa-jax prepare', or `otherwise`."""
    return sys.argv[0] if sys.argv[0].startswith('stsa-jax ') else otherwise


def exit_cleanly(main: Callable[[], int | None]) -> None:
    """Runs `main` and ends the process: 0 (or main's own code) on success, 2 on bad input.

    Expands `~` in `sys.argv` first (`with_home`).

    `InputError` and operating-system errors become one message on standard error. Anything else is
    a bug and keeps its traceback.
    """
    sys.argv[1:] = map(with_home, sys.argv[1:])
    try:
        code = main()
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f'error: {explain_os_error(error)}', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)
    sys.exit(code or 0)
