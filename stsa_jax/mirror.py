"""Folders and files in object storage that commands write to: made here, and copied there.

    with mirror.folder('s3://bucket/run', every=15) as workdir:
        ...                                    # workdir is a folder of this machine

A folder starts as a copy of what is in the storage. What changes in it is copied there on exit,
also after an error, and with `every` meanwhile. A store replaces each object as a whole, but has no
folders that could be renamed. So the files that declare a whole complete are put last and deleted
first: those of `LAST`. A checkpoint without its record does not count, here or in another reader;
a process killed while it copies leaves the folder as it was, and objects that nothing refers to.

There is no lock in the storage. Two commands on one machine cannot write to one address at once,
but two machines can, and then overwrite each other's files.
"""

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from stsa_jax import remote
from stsa_jax.errors import InputError, explain_os_error
from stsa_jax.lock import locked_folder
from stsa_jax.remote import cache, errors_of, is_remote, opened, whole

# Of a checkpoint; a dataset; a model that is handed on; a predicted video.
LAST = ('meta/metadata', 'dataset_info.json', 'config.json', 'prediction.json')
EVERY = 15  # seconds between copies, of commands that run for long
_UNFINISHED = '.orbax-checkpoint-tmp'


def place(address: str | os.PathLike, process: int = 0) -> Path:
    """The folder of this machine in which a process makes the folder at `address`."""
    return remote.place(str(address).rstrip('/'), f'written/{process}' if process else 'written')


@contextmanager
def folder(path: str | os.PathLike, *, every: float = 0, process: int = 0) -> Iterator[Path]:
    """Yields `path` itself, or the folder that becomes the one at this address.

    `every`: seconds between copies to the storage; 0 copies on exit only. Meanwhile failures are
    reported on standard error, and the next copy tries again. `process` is the index of this
    process among several that use the address together: each has a folder of its own, and only that
    of process 0 is copied to the storage. Raises InputError that names the address if it cannot be
    read or, on exit, written.
    """
    if not is_remote(path):
        yield Path(path)
        return
    here = place(path, process)
    here.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.callback(_remove_empty, here.parent)
        stack.enter_context(locked_folder(here.parent))
        shutil.rmtree(here, ignore_errors=True)  # the storage is the truth
        here.mkdir()
        address = str(path).rstrip('/')
        copy = _Copy(address, here)
        copy.pull()
        stack.callback(shutil.rmtree, here, ignore_errors=True)
        if process == 0:
            stack.enter_context(copy.pushing(every))
        try:
            yield here
        except InputError as error:
            if str(here) not in str(error):
                raise
            raise InputError(str(error).replace(str(here), address)) from error


@contextmanager
def file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields `path` itself, or a path whose file becomes the one at this address, on a clean exit.

    Raises InputError that names the address if it cannot be written.
    """
    if not is_remote(path):
        yield Path(path)
        return
    address = str(path)
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache(), prefix='.writing-') as scratch:
        made = Path(scratch) / address.rsplit('/', 1)[-1]
        yield made
        with errors_of(address, 'written'):
            storage, inside = opened(address)
            remote.put(storage, made, inside)


class _Copy:
    """A folder here and its copy in the storage."""

    def __init__(self, address: str, here: Path):
        self._address, self._here = address, here
        self._known: dict[str, tuple] = {}  # file in the storage -> state of that here
        self._told = ''
        with errors_of(address, 'opened'):
            self._storage, self._inside = opened(address)

    def pull(self) -> None:
        """Copies what is there, without checkpoints that are not complete."""
        with errors_of(self._address, 'read'):
            self._storage.invalidate_cache()
            listed = self._storage.find(self._inside)
            complete = {*whole(listed)}
            for path in listed:
                name = path[len(self._inside) :].lstrip('/')
                self._known[name] = ()
                if path in complete:
                    (self._here / name).parent.mkdir(parents=True, exist_ok=True)
                    self._storage.get_file(path, str(self._here / name))
                    self._known[name] = _state(self._here / name)

    def push(self) -> None:
        """Copies what is new or has changed, deletes what is gone; raises what the storage does."""
        # First the list: a checkpoint in it is complete, and the logs are read afterwards.
        there = {name: _state(self._here / name) for name in _files(self._here)}
        changed = [n for n, state in there.items() if state and state != self._known.get(n)]
        gone = False
        for name in sorted(changed, key=_is_last):
            if gone and _is_last(name):
                return  # with the next copy
            try:
                remote.put(self._storage, self._here / name, f'{self._inside}/{name}')
            except FileNotFoundError:
                if (self._here / name).exists():
                    raise
                gone = True  # a checkpoint that was deleted meanwhile
                continue
            self._known[name] = there[name]
        for name in sorted(self._known.keys() - there.keys(), key=_is_last, reverse=True):
            remote.delete(self._storage, self._inside, name)
            del self._known[name]

    @contextmanager
    def pushing(self, every: float) -> Iterator[None]:
        """Copies on exit, also after an error, and if `every` is not 0 meanwhile."""
        ended = threading.Event()
        thread = threading.Thread(target=self.keep_pushing, args=(every, ended), daemon=True)
        if every:
            thread.start()
        failing = True
        try:
            yield
            failing = False
        finally:
            ended.set()
            if every:
                thread.join()
            self.finish(failing)

    def keep_pushing(self, every: float, ended: threading.Event) -> None:
        """Copies every so many seconds until `ended`; failures are reported, once in a row."""
        while not ended.wait(every):
            try:
                self.push()
                self._told = ''
            except Exception as error:  # storages raise many types
                if str(error) != self._told:
                    self._told = str(error)
                    print(f'warning: {self._address}: not copied yet: {error}', file=sys.stderr)

    def finish(self, failing: bool) -> None:
        """The last copy; while another error ends the command, its failure is only a warning."""
        try:
            with errors_of(self._address, 'written'):
                self.push()
        except (InputError, OSError) as error:  # OSError of the local disk
            if not failing:
                raise
            told = explain_os_error(error) if isinstance(error, OSError) else error
            print(f'warning: {told}', file=sys.stderr)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # another command has begun
        folder.rmdir()


def _files(here: Path) -> list[str]:
    """The files to copy: neither hidden, nor of a checkpoint that is being written."""
    found = []
    for root, folders, names in os.walk(here):
        folders[:] = [name for name in folders if name[0] != '.' and _UNFINISHED not in name]
        base = Path(root).relative_to(here)
        found += [(base / name).as_posix() for name in names if name[0] != '.']
    return found


def _state(path: Path) -> tuple:
    try:
        stat = path.stat()
    except FileNotFoundError:  # deleted meanwhile
        return ()
    return stat.st_mtime_ns, stat.st_size


def _is_last(name: str) -> bool:
    return f'/{name}'.endswith(tuple(f'/{last}' for last in LAST))
