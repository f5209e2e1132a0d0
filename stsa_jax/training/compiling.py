"""Compiling, which can take minutes, so that a signal can end the process meanwhile."""

import threading
from concurrent.futures import Future

import jax

from stsa_jax.ops.cpu import memory

_NAME = 'compiling'


def compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """The program compiled, in a thread: the handler of a signal can run in the main one.

    If the handler raises, the compilation is given up, but goes on: see `goes_on`. What LLVM leaves
    behind, 2.3 GB for the training step at full size, goes back to the system.
    """
    result: Future[jax.stages.Compiled] = Future()

    def work():
        try:
            program = lowered.compile()
            memory.release()
            result.set_result(program)
        except BaseException as error:  # for whoever waits
            result.set_exception(error)

    threading.Thread(target=work, name=_NAME, daemon=True).start()
    return result.result()


def goes_on() -> bool:
    """Whether a compilation that was given up goes on; Python can then not end in order."""
    return any(thread.name == _NAME for thread in threading.enumerate())
