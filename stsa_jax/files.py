"""Atomic file writing: a reader sees the old file or the whole new one, never a part."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stsa_jax.errors import InputError


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`, with the same suffix, to write to.

    On a clean exit the temporary file takes the place of `path`; on an error it is removed and
    `path` is as it was. For writers that want a file name (video encoders, safetensors). An
    `OSError` on the way, such as a full disk, names `path`, not the temporary file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.stem}-', suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename not in (None, name):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: str | os.PathLike, content: bytes | str) -> None:
    """Writes `content` to `path` (text as UTF-8), whole or not at all."""
    content = content.encode() if isinstance(content, str) else content
    with atomic_path(path) as temporary, open(temporary, 'wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def output_folder(path: str | os.PathLike) -> Path:
    """Makes the folder `path` and checks that it can be written to. Raises InputError if not."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(
            f'{path}: is a file, but a folder for the output was expected; '
            'remove the file or name another folder'
        )
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        pass
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
