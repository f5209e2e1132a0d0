"""Simulates a full disk by a limit on the size of files."""

import contextlib
import resource
import signal

import jax


@contextlib.contextmanager
def file_size_limit(size):
    """Writing beyond `size` bytes of a file is an error in this process (EFBIG)."""
    shortest = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 1e9)  # writes no cut entries
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
        jax.config.update('jax_persistent_cache_min_compile_time_secs', shortest)
