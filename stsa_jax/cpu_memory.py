"""The memory of a process in which JAX computes on the CPU, with the GNU C library.

    cpu_memory.keep()      # first of all in a script: before JAX's first computation
    cpu_memory.release()   # after a large piece of other work, as compiling

XLA takes the temporary arrays of a program from malloc at each call, and gives them back after it.
The C library hands large ones straight on to the system, so that each call begins with fresh pages
to be zeroed: 115 thousand of them for one clip at full size. After `keep` they stay with the
process, and are huge ones where the system has any.

`keep` is for predicting, not for training: if anything comes to lie in the place of a large piece
while that is free, the next call takes a second one. A training step's 6.6 GB were once taken
twice, a peak of 16.5 GB; a clip's 0.4 GB do not matter.

Settings of malloc are the whole process's: the scripts make them, the library never does. Both
functions do nothing where they cannot help: other C libraries, and `keep` also where JAX could find
an accelerator (to use the CPU all the same, set JAX_PLATFORMS=cpu) or where the environment has
settings of malloc (MALLOC_..., GLIBC_TUNABLES) of its own.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import pkgutil

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8  # of mallopt, in malloc.h
MADV_HUGEPAGE = 14  # in sys/mman.h; Python's mmap has it, but not for memory of malloc
_kept = False


def keep() -> bool:
    """Has malloc keep what is freed, for the rest of the process; returns whether it does.

    The process stays as large as it was at its largest. To be called before JAX makes its threads,
    which otherwise have parts of the heap of their own, given back as ever.
    """
    global _kept
    library = _glibc()
    if library is None or _environment_decides() or not _on_cpu():
        return False
    done = (
        library.mallopt(ARENA_MAX, 1)  # the other parts of a heap cannot grow beyond 64 MB
        and library.mallopt(MMAP_MAX, 0)
        and library.mallopt(TRIM_THRESHOLD, -1)
    )
    if done:
        _advise(library)
        _kept = True
    return bool(done)


def release() -> None:
    """Gives back to the system what is free in the heap now. Does nothing to what is in use."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(ctypes.c_size_t(0))
        if _kept:
            _advise(library)


def _advise(library) -> None:
    """Lets the heap grow in huge pages: takes a range of addresses, advises, and gives it back.

    Half the size of the machine's memory. No page of it is in use, or counts, before it is written.
    """
    library.malloc.restype = ctypes.c_void_p
    page = os.sysconf('SC_PAGE_SIZE')
    size = os.sysconf('SC_PHYS_PAGES') // 2 * page
    start = library.malloc(ctypes.c_size_t(size))
    if start:  # else there is a limit on addresses, and pages are small
        first = -(-start // page) * page
        length = ctypes.c_size_t(start + size - first)
        library.madvise(ctypes.c_void_p(first), length, MADV_HUGEPAGE)
        library.free(ctypes.c_void_p(start))


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


def _on_cpu() -> bool:
    """Whether JAX will compute on the CPU; asking JAX itself would have it make its threads."""
    import jax

    if jax.config.jax_platforms:
        return jax.config.jax_platforms == 'cpu'
    plugins = importlib.util.find_spec('jax_plugins')
    return not (
        importlib.metadata.entry_points(group='jax_plugins')
        or (plugins and list(pkgutil.iter_modules(plugins.submodule_search_locations)))
        or importlib.util.find_spec('libtpu')
    )
