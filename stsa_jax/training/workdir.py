"""The folder of a training run, which may be in object storage."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import file_digest, sha256
from pathlib import Path

import jax

from stsa_jax import mirror
from stsa_jax.distribution import processes
from stsa_jax.errors import InputError
from stsa_jax.remote import is_remote


@contextmanager
def opened(workdir: str | os.PathLike) -> Iterator[str]:
    """Yields `workdir` itself, or this process's copy of the folder at this address.

    Of several processes the first alone copies what changes to the storage. All must enter and
    leave it together. Raises InputError, on all of them, if the address cannot be read or written,
    or if their copies differ.
    """
    with ExitStack() as stack:
        processes.barrier('start')  # they connect within half a minute, or not at all
        folder = mirror.folder(workdir, every=mirror.EVERY, process=jax.process_index())
        with processes.together():
            here = stack.enter_context(folder)
            digest = _digest(here) if is_remote(workdir) and jax.process_count() > 1 else ''
        copies = processes.gather_json(digest)
        if odd := [index for index, copy in enumerate(copies) if copy != copies[0]]:
            raise InputError(
                f'{workdir}: process {odd[0]} copied other files than process 0; does another run '
                'still write there? Wait until it has ended, and run the same command again'
            )
        yield str(here)
        with processes.together():  # who ends takes the others down, so all wait for the last copy
            stack.close()


def _digest(folder: Path) -> str:
    """Of the names and contents of all files."""
    digest = sha256()
    for path in sorted(path for path in folder.rglob('*') if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode())
        with open(path, 'rb') as file:
            digest.update(file_digest(file, 'sha256').digest())
    return digest.hexdigest()
