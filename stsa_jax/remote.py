"""Files in object storage, such as gs://bucket/run, s3://bucket/data: copied here when first used.

By fsspec, which needs the library of a storage: gcsfs for gs://, s3fs for s3://. The copies lie in
~/.cache/stsa-jax, or in the folder that the environment variable STSA_JAX_CACHE names; each use
copies what has changed since. Writing is `stsa_jax.mirror`'s.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from stsa_jax.errors import InputError
from stsa_jax.files import TEMPORARY, atomic_path, write_atomic

CACHE = 'STSA_JAX_CACHE'
_KEYS = '.keys.json'  # path in a copied folder -> what identified its content
_STEP = re.compile(r'((?:.*/)?checkpoints/\d+)/')
_RECORD = re.compile(r'((?:.*/)?checkpoints/\d+)/meta/metadata$')


def is_remote(path: str | os.PathLike) -> bool:
    """Whether `path` is in object storage: scheme://..."""
    return re.match(r'[a-z][a-z0-9+.-]+://', str(path), re.IGNORECASE) is not None


def local(path: str | os.PathLike, without: Sequence[str] = ()) -> str | os.PathLike:
    """`path` itself, or the local copy of a file or folder in object storage.

    Folders and files of a name in `without` are not copied. Raises InputError that names the path
    if there is nothing, the storage's library is not installed, or access is refused.
    """
    if not is_remote(path):
        return path
    address = str(path).rstrip('/')
    target = place(address)
    with errors_of(address, 'read'):
        storage, inside = opened(address)
        if storage.isfile(inside):
            found = {'': storage.info(inside)}
        else:
            listed = storage.find(inside, detail=True)
            found = {name[len(inside) :].lstrip('/'): listed[name] for name in whole(listed)}
        wanted = {n: info for n, info in found.items() if not {*n.split('/')} & {*without}}
        if not wanted:
            raise FileNotFoundError(address)
        return _copied(storage, inside, target, wanted)


def opened(address: str) -> tuple[Any, str]:
    """The storage of an address, and the path in it; raises what fsspec does."""
    options = {'auto_mkdir': True} if address.startswith(('file:', 'local:')) else {}
    return fsspec.url_to_fs(address, **options)


@contextmanager
def errors_of(address: str, done: str) -> Iterator[None]:
    """Turns what a storage raises into an InputError: the address cannot be `done`."""
    try:
        yield
    except (ImportError, ValueError) as error:
        reason = str(error).strip().partition('\n')[0]
        raise InputError(f'{address}: cannot be {done}: {reason}') from error
    except FileNotFoundError as error:
        raise InputError(f'{address}: there is no such file or folder; check the path') from error
    except OSError as error:
        if error.filename and str(cache()) in str(error.filename):
            raise  # of the local disk
        raise InputError(
            f'{address}: cannot be {done} ({error}); check the path, the connection and the '
            'credentials of this storage'
        ) from error


def put(storage: Any, source: Path, target: str) -> None:
    """Copies a file to `target`, which has its old or its new content at any time.

    A store replaces an object as a whole. fsspec's storage of files (`file://`) does not: there a
    process that is killed while it copies would leave half a file.
    """
    if isinstance(storage, LocalFileSystem):
        with atomic_path(target) as temporary:
            storage.put_file(str(source), str(temporary))
    else:
        storage.put_file(str(source), target)


def delete(storage: Any, folder: str, name: str) -> None:
    """Deletes a file in `folder`, and in fsspec's storage of files what it leaves empty there."""
    storage.rm_file(f'{folder}/{name}')
    if isinstance(storage, LocalFileSystem):
        with suppress(OSError):  # other files are in it
            for parent in list(Path(name).parents)[:-1]:
                Path(folder, parent).rmdir()


def whole(names: Iterable[str]) -> list[str]:
    """The paths without half-written files, and without checkpoints that lack their record.

    The record of a checkpoint is written last.

    Raises InputError if a name, which a storage may give as it likes, leads out of its folder.
    """
    names = list(names)
    for name in names:
        if '..' in name.split('/'):
            raise InputError(f'{name} leads out of the folder; delete or rename that object')
    names = [n for n in names if not TEMPORARY.search(n)]
    complete = {match[1] for name in names if (match := _RECORD.search(name))}
    steps = [(name, _STEP.match(name)) for name in names]
    return [name for name, step in steps if step is None or step[1] in complete]


def _copied(storage: Any, inside: str, target: Path, wanted: dict[str, dict]) -> Path:
    """Copies what is new or has changed, and removes what is gone; returns the copy."""
    record = target.parent / _KEYS
    keys = json.loads(record.read_text()) if record.is_file() else {}
    for path in wanted:
        key = _key(storage, f'{inside}/{path}' if path else inside, wanted[path])
        to = target / path if path else target
        if keys.get(path) != key or not to.is_file():
            with atomic_path(to) as temporary:
                storage.get_file(f'{inside}/{path}' if path else inside, str(temporary))
            keys[path] = key
            write_atomic(record, json.dumps(keys))
    for path in keys.keys() - wanted.keys():
        (target / path).unlink(missing_ok=True)
    write_atomic(record, json.dumps({path: keys[path] for path in wanted}))
    return target


def _key(storage: Any, path: str, info: dict) -> str:
    """Changes with the content of a file, as far as the storage says."""
    for field in ('etag', 'ETag', 'md5Hash', 'crc32c', 'generation', 'LastModified', 'mtime'):
        if info.get(field):
            return f'{info.get("size")} {info[field]}'
    return f'{info.get("size")} {info.get("created", "")}'


def place(address: str, within: str = '') -> Path:
    """Where the copy of what is at an address lies, under the same name, in a folder of its own.

    `within`: the folder of the cache. Raises InputError if the address ends in `.` or `..`, which
    would lead out of it.
    """
    name = address.rsplit('/', 1)[-1]
    if name in ('.', '..'):
        raise InputError(f'{address}: give the address of the folder itself, without {name}')
    return cache() / within / sha256(address.encode()).hexdigest()[:16] / name


def cache() -> Path:
    """The folder of all copies."""
    return Path(os.environ.get(CACHE) or Path.home() / '.cache' / 'stsa-jax')
