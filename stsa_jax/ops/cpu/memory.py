"""Memory settings for JAX on the CPU with the GNU C library.

    memory.keep()      # at the start of a script, before JAX's first computation
    memory.release()   # after other work with large allocations, such as compiling

XLA allocates the temporaries of a program with malloc at each call and frees them afterwards. The C
library returns large blocks to the system at once, so each call starts with fresh pages to be
zeroed: 700 thousand of them for a training step at full size. After `keep` the process keeps them.

Malloc keeps large blocks only in the main thread's arena, so they must be allocated there: `keep`
makes JAX run its programs in the calling thread instead of one of its own. A single arena for all
threads would also work, but the small blocks left there by compilation then slow down every thread:
a training step took half as long again.

If something else is allocated inside a large free block, such as the copies of a checkpoint's
arrays, the next call needs a second block. `release` returns the first one to the system.

Malloc settings apply to the whole process: the scripts make them, the library never does. Both
functions do nothing with other C libraries. `keep` also does nothing if JAX could find an
accelerator (to use the CPU anyway, set JAX_PLATFORMS=cpu), with several processes, or if the
environment configures malloc (MALLOC_..., GLIBC_TUNABLES).
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import pkgutil

import jax

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # parameters of mallopt, from malloc.h


def keep() -> bool:
    """Makes malloc keep freed memory for the rest of the process; returns whether it succeeded.

    The process stays at its peak size. Call it in the main thread, before JAX initialises its
    devices.
    """
    library = _glibc()
    if library is None or _environment_decides() or not on_cpu():
        return False
    if jax.distributed.is_initialized():
        return False
    jax.config.update('jax_cpu_enable_async_dispatch', False)
    return bool(library.mallopt(MMAP_MAX, 0) and library.mallopt(TRIM_THRESHOLD, -1))


def release() -> None:
    """Returns free heap memory to the system. Memory in use is not affected."""
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
    """Whether JAX can only compute on the CPU. Asking JAX itself would initialise its devices."""
    if jax.config.jax_platforms:
        return jax.config.jax_platforms == 'cpu'
    plugins = importlib.util.find_spec('jax_plugins')
    return not (
        importlib.metadata.entry_points(group='jax_plugins')
        or (plugins and list(pkgutil.iter_modules(plugins.submodule_search_locations)))
        or importlib.util.find_spec('libtpu')
    )
