"""A measurement in a process of its own, so that its peak memory is its own and ends with it."""

import json
import subprocess
import sys


def in_own_process(module: str, arguments: list[str]) -> dict:
    """What `python -m module arguments` prints on its last line, as JSON.

    Its messages go where those of this process go. Raises subprocess.CalledProcessError if it
    fails.
    """
    command = [sys.executable, '-m', module, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])
