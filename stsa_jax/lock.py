"""One process at a time in a folder."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from stsa_jax.errors import InputError

LOCK = '.lock'


@contextmanager
def locked_folder(path: str | os.PathLike) -> Iterator[None]:
    """Keeps other processes from the folder `path` while they ask for it with this function too.

    The operating system ends the lock with the process, however that ends, so that a file left
    behind locks nothing. Raises InputError that names the process which holds it. Some network file
    systems have no locks; there it does nothing.
    """
    name = Path(path) / LOCK
    file = _locked(name)
    if file is None:
        yield
        return
    with file:
        file.truncate(0)
        began = time.strftime('%Y-%m-%d %H:%M:%S')
        file.write(f'process {os.getpid()} on {socket.gethostname()}, since {began}')
        file.flush()
        try:
            yield
        finally:
            name.unlink(missing_ok=True)  # before it is closed, and so unlocked


def _locked(name: Path) -> TextIO | None:
    """The open and locked file; None where files cannot be locked."""
    while True:
        file = open(name, 'a+', encoding='utf-8')  # noqa: SIM115
        try:
            # Unlike flock's, these locks do not pass to child processes, which may live longer.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):  # removed by a process that ended meanwhile
                if os.path.samestat(os.fstat(file.fileno()), os.stat(name)):
                    return file
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                file.close()
                return None
            file.seek(0)
            holder = file.read().strip() or 'it has just begun'
            file.close()
            raise InputError(
                f'{name.parent}: another process is writing here ({holder}); wait until it ends, '
                'stop it, or use another folder'
            ) from None
        file.close()
