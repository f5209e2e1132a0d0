"""Runs a command in a pseudo-terminal."""

import contextlib
import os
import pty
import subprocess
import termios
from pathlib import Path


def shown_in_a_terminal(command) -> str:
    """Runs the command, which must succeed, and returns its standard error as displayed."""
    terminal, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))  # a new one has no columns, so a bar would have none
    started = subprocess.Popen(
        command, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL, stderr=theirs
    )
    os.close(theirs)
    shown = b''
    with contextlib.suppress(OSError):  # which is how a terminal says that nobody writes any more
        while some := os.read(terminal, 4096):
            shown += some
    os.close(terminal)
    assert started.wait() == 0, shown
    return shown.decode()
