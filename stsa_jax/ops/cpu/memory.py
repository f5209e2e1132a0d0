"""The memory of a process in which JAX computes on the CPU, with the GNU C library.

    memory.keep()      # first of all in a script: before JAX's first computation
    memory.release()   # after a large piece of other work, as compiling

XLA takes the temporary arrays of a program from malloc at each call, and gives them back after it.
The C library hands large ones straight on to the system, so that each call begins with fresh pages
to be zeroed: 700 thousand of them for a training step at full size. After `keep` they stay with the
process.

Malloc keeps large pieces in the main thread's part of the heap alone, so there they have to be
taken: `keep` has JAX run its programs in the thread that calls them, in place of one of its own.
One part of the heap for all threads would do as well, but what compiling leaves there in small
pieces then stands in the way of every thread: it made a training step take half as long again.

If anything comes to lie in the place of a large piece while that is free, the next call takes a
second one, as after the copies of a checkpoint's arrays. `release` then gives the first one back.

Settings of malloc are the whole process's: the scripts make them, the library never does. Both
functions do nothing where they cannot help: other C libraries, and `keep` also where JAX could find
an accelerator (to use the CPU all the same, set JAX_PLATFORMS=cpu), where several processes work
together, or where the environment has settings of malloc (MALLOC_..., GLIBC_TUNABLES) of its own.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import pkgutil

import jax

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of mallopt, in malloc.h


def keep() -> bool:
    """Has malloc keep what is freed, for the rest of the process; returns whether it does.

    The process stays as large as it was at its largest. To be called in the main thread, before
    JAX looks for its devices.
    """
    library = _glibc()
    if library is None or _environment_decides() or not on_cpu():
        return False
    if jax.distributed.is_initialized():
        return False
    jax.config.update('jax_cpu_enable_async_dispatch', False)
    return bool(library.mallopt(MMAP_MAX, 0) and library.mallopt(TRIM_THRESHOLD, -1))


def release() -> None:
    """Gives back to the system what is free in the heap now. Does nothing to what is in use."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(ctypes.c_size_t(0))


def _glibc():
    """The C library of this process if it is the GNU one, else None."""
    try:
        if not os.confstr('CS_GNU_LIBC_VERSION'):
            return None
    except (AttributeError, OSError, ValueError):
        return None
    return ctypes.CDLL(None)


def _environment_decides() -> bool:
    own = any(name.startswith('MALLOC_') for name in os.environ)
    return own or 'glibc.malloc' in os.environ.get('GLIBC_TUNABLES', '')


def on_cpu() -> bool:
    """Whether JAX can only compute on the CPU; asking JAX itself would have it find its devices."""
    if jax.config.jax_platforms:
        return jax.config.jax_platforms == 'cpu'
    plugins = importlib.util.find_spec('jax_plugins')
    return not (
        importlib.metadata.entry_points(group='jax_plugins')
        or (plugins and list(pkgutil.iter_modules(plugins.submodule_search_locations)))
        or importlib.util.find_spec('libtpu')
    )
