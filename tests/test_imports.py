"""The dependencies of the parts of the project, and imports without side effects."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EVERYTHING = """
import importlib, pkgutil, sys
def import_all(name):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + '.'):
        if not module.name.startswith(('stsa_jax.commands.', 'stsa_jax.__main__')):
            importlib.import_module(module.name)  # the commands need everything
def loaded(*names):
    return [name for name in names if name in sys.modules]
"""


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, '-c', EVERYTHING + program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_library_does_no_work_and_needs_no_data_or_torch():
    program = """
import stsa_jax
print(loaded('jax', 'flax', 'numpy'))
sys.modules['data'] = None  # importing it is an error
import_all('stsa_jax')
from jax._src import xla_bridge
print(loaded('torch', 'tensorflow', 'tensorflow_datasets', 'grain'))
print(xla_bridge.backends_are_initialized())
"""
    assert run(program).splitlines() == ['[]', '[]', 'False']


def test_data_is_without_jax():
    """Grain imports it if it can."""
    program = """
sys.modules['jax'] = sys.modules['flax'] = sys.modules['torch'] = None
import_all('data')
print(loaded('tensorflow'))
"""
    assert run(program) == '[]'


def test_tests_are_offline():
    with pytest.raises(pytest.fail.Exception, match='connects to'):
        socket.create_connection(('192.0.2.1', 80), timeout=1)
    with socket.create_server(('127.0.0.1', 0)) as server:
        socket.create_connection(server.getsockname()).close()
