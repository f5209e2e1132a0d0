"""Runs a tutorial: a Markdown file whose python and bash blocks are the cells of a notebook.

    python docs/tools/notebooks.py docs/tutorials/weights.md build/docs/tutorials/weights.ipynb

The cells run in an empty folder beside the notebook, on the CPU. A cell that fails ends this with
its output. `make docs` runs all tutorials whose text or code is new; `docs/tools/hooks.py` makes
pages of the notebooks.
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from jupyter_client import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu',
    # The tutorials, like the tests, compile the same small networks again and again.
    'JAX_COMPILATION_CACHE_DIR': str(ROOT / '.jax_cache'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.5',
    'TF_CPP_MIN_LOG_LEVEL': '3',  # no lines of XLA on slow compilation
    'PYTHONPATH': str(ROOT),
}
# Without it the language of most blocks counts as the notebook's, and that may be bash.
HEADER = """---
jupyter:
  kernelspec:
    display_name: Python 3
    language: python
    name: python3
---

"""


def read(source: Path) -> nbformat.NotebookNode:
    """The notebook of a tutorial, not run."""
    return jupytext.reads(HEADER + source.read_text('utf-8'), fmt='md')


def run(source: Path, target: Path) -> None:
    """Runs a tutorial and writes the notebook with its outputs. Exits if a cell fails."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    folder = target.with_suffix('')
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    notebook = read(source)
    start, before = time.perf_counter(), os.times()
    with tempfile.TemporaryDirectory() as sockets:  # so that no port of this machine is open
        kernel = KernelManager(kernel_name='python3', transport='ipc', ip=f'{sockets}/kernel')
        client = NotebookClient(notebook, km=kernel, timeout=1800, coalesce_streams=True)
        try:
            client.execute(cwd=str(folder))
        except CellExecutionError as error:
            sys.exit(f'{source}: a cell failed\n{error}')
        finally:
            if kernel.has_kernel:
                kernel.shutdown_kernel()
    used = sum(os.times()[2:4]) - sum(before[2:4])
    temporary = target.with_suffix('.part')
    nbformat.write(notebook, temporary)
    temporary.replace(target)
    print(f'{source}: {time.perf_counter() - start:.0f} s, {used:.0f} s of processors')


if __name__ == '__main__':
    run(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
