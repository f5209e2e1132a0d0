"""Compilation that a signal can interrupt; it can take minutes."""

import threading
from concurrent.futures import Future

import jax

from stsa_jax.ops.cpu import memory

_NAME = 'compiling'


def compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles the program in a thread, so that signal handlers can run in the main thread.

    If a handler raises, the result is abandoned, but the compilation keeps running: see `goes_on`.
    Memory that LLVM frees, 2.3 GB for the training step at full size, is returned to the system.
    """
    result: Future[jax.stages.Compiled] = Future()

    def work():
        try:
            program = lowered.compile()
            memory.release()
            result.set_result(program)
        except BaseException as error:  # re-raised in the waiting thread
            result.set_exception(error)

    threading.Thread(target=work, name=_NAME, daemon=True).start()
    return result.result()


def goes_on() -> bool:
    """Whether an abandoned compilation is still running; Python then cannot exit normally."""
    return any(thread.name == _NAME for thread in threading.enumerate())
