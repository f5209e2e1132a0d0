"""Atomic file writing: a reader sees the old file or the complete new one, never a part."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from stsa_jax.errors import InputError
from stsa_jax.lock import locked_folder

_UNFINISHED = '.unfinished-'
_WORK = '.work.json'


def refuse_remote(path: str | os.PathLike, reads: bool = False) -> None:
    """Raises InputError for an address in object storage, where a folder is needed."""
    if re.match(r'[a-z][a-z0-9+.-]+:/', str(path)):  # pathlib makes one slash of two
        if reads:
            raise InputError(
                f'{path}: this is read from a folder of this machine, not from object storage; '
                'copy it to a folder first'
            )
        raise InputError(
            f'{path}: this is written to a folder of this machine, not to object storage; give a '
            'folder, and copy it afterwards (docs/sharing.md says what can be written there)'
        )


# The names of `atomic_path`'s temporary files, of which a killed process leaves one.
TEMPORARY = re.compile(r'(?:^|/)\.[^/]*-[a-z0-9_]{8}(?:\.[^/.]*)?$')


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`, with the same suffix, to write to.

    On a clean exit the temporary file replaces `path`; on an error it is removed and `path` is
    unchanged. For writers that need a file name (video encoders, safetensors). An `OSError` inside,
    such as a full disk, names `path`, not the temporary file.
    """
    refuse_remote(path)
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
        if error.errno is None or error.filename not in (None, name):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writer_errors(path: str | os.PathLike, *errors: type[Exception]) -> Iterator[None]:
    """Turns `errors` of a library that cannot write into an InputError that names `path`.

    For writers that do not raise `OSError` on a full disk.
    """
    try:
        yield
    except errors as error:
        reason = str(error).strip().split('\n')[0].split(';')[0] or repr(error)
        raise InputError(
            f'{path}: could not be written completely ({reason}); free some space on the disk, or '
            'write elsewhere'
        ) from error


def write_atomic(path: str | os.PathLike, content: bytes | str) -> None:
    """Writes `content` to `path` (text as UTF-8) atomically."""
    content = content.encode() if isinstance(content, str) else content
    with atomic_path(path) as temporary, open(temporary, 'wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def output_folder(path: str | os.PathLike) -> Path:
    """Makes the folder `path` and checks that it can be written to. Raises InputError if not."""
    refuse_remote(path)
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(
            f'{path}: is a file, but a folder for the output was expected; '
            'remove the file or use another folder'
        )
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        pass
    return path


@contextmanager
def folder_if_used(path: str | os.PathLike) -> Iterator[Path]:
    """Makes the folder `path`; on exit, removes the folders it made that are empty."""
    made = [folder for folder in (Path(path), *Path(path).parents) if not folder.exists()]
    try:
        yield output_folder(path)
    finally:
        for folder in made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


@contextmanager
def staged_folder(
    path: str | os.PathLike,
    names: Sequence[str],
    *,
    overwrite: bool = False,
    work: Mapping | None = None,
    resume: bool = False,
) -> Iterator[Path]:
    """Yields a temporary folder; what is written there appears in the folder `path` at the end.

    `names` are the files and folders that may be written. On a clean exit they are moved into
    `path`, where they replace entries of the same names; other entries stay. On an error, including
    Ctrl-C, they are removed, and `path` is unchanged. An `OSError` inside names the path in `path`.

    `work` describes, in JSON's types, what is written. With `resume`, the temporary folder of an
    earlier process that was doing the same work is yielded again, if there is one, and an error
    leaves it there for the next one.

    Raises:
        InputError: `path` is a file, or already holds one of `names` and `overwrite` is false; with
            `resume`, also if another process is doing the work.
    """
    path = Path(path)
    if not overwrite:
        check_free(path, names)
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    output_folder(path)
    staging = _unfinished(path, work) if resume else None
    staging = staging or Path(tempfile.mkdtemp(dir=path, prefix=_UNFINISHED))
    keep = resume
    try:
        with locked_folder(staging):
            if work is not None:
                write_atomic(staging / _WORK, json.dumps(work))
            yield staging
        shutil.rmtree(staging / 'replaced', ignore_errors=True)  # of a process killed here
        (staging / 'replaced').mkdir()
        for name in names:
            if os.path.lexists(path / name):
                (path / name).rename(staging / 'replaced' / name)
            if (staging / name).exists():
                (staging / name).rename(path / name)
        made, keep = [], False
    except InputError:
        keep = False  # the same work would fail again
        raise
    except OSError as error:
        name = error.filename or str(path)
        if isinstance(name, str) and name.startswith(str(staging)):
            name = str(path) + name[len(str(staging)) :]
        raise OSError(error.errno, error.strerror, name) from error
    finally:
        if not keep:
            shutil.rmtree(staging, ignore_errors=True)
            for folder in made:
                folder.rmdir()


def _unfinished(path: Path, work: Mapping | None) -> Path | None:
    """The temporary folder that an earlier process left when it was doing `work`.

    Raises InputError if another process is still doing it.
    """
    for folder in sorted(path.glob(f'{_UNFINISHED}*')):
        try:
            same = json.loads((folder / _WORK).read_text()) == json.loads(json.dumps(work))
        except (OSError, ValueError):
            continue
        if same:
            with locked_folder(folder):
                return folder
    return None


def check_free(path: str | os.PathLike, names: Sequence[str]) -> None:
    """Raises InputError if the folder `path` holds one of `names`."""
    taken = [name for name in names if os.path.lexists(Path(path) / name)]
    if taken:
        raise InputError(
            f'{path}: already holds {" and ".join(taken)}; use another folder for the output, or '
            'replace them (--overwrite)'
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
