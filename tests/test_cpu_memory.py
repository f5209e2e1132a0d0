"""Memory kept by a process, from page counts in separate processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stsa_jax.ops.cpu import memory as cpu_memory

if not cpu_memory._glibc():
    pytest.skip('of the GNU C library alone', allow_module_level=True)

PAGES = """
import gc, json, os, resource, sys
from stsa_jax.ops.cpu import memory as cpu_memory
from stsa_jax.training import compiling

def touched():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE')

result = {}
os.environ['MALLOC_ARENA_MAX'] = '4'
result['environment'] = cpu_memory.keep()
del os.environ['MALLOC_ARENA_MAX']
result['keep'] = cpu_memory.keep()

import jax, jax.numpy as jnp
run = jax.jit(lambda x: jnp.cumsum(x[::-1]) + x)
x = jnp.ones(2**24)  # 64 MB, as are what is computed in between and the result
for _ in range(3):
    run(x).block_until_ready()
before = touched()
for _ in range(20):
    run(x).block_until_ready()
result['pages'] = touched() - before

pieces = [bytearray(50_000) for _ in range(4000)]
some, full = pieces[::100], resident()
del pieces
gc.collect()
result['freed'] = full - resident()
compiling.compiled(jax.jit(jnp.sum).lower(x))
result['released'] = full - resident()

sys.path.append('plugin')
result['accelerator'] = cpu_memory.keep()
print(json.dumps(result))
"""


@pytest.fixture(scope='module')
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp('memory')
    plugin = folder / 'plugin' / 'jax_plugins' / 'some_accelerator'
    plugin.mkdir(parents=True)
    (plugin / '__init__.py').touch()
    names = ('JAX_', 'XLA_', 'MALLOC_', 'GLIBC_')
    environment = {k: v for k, v in os.environ.items() if not k.startswith(names)}
    environment['PYTHONPATH'] = str(Path(__file__).parents[1])
    command = [sys.executable, '-c', PAGES]
    done = subprocess.run(
        command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, timeout=300
    )
    return json.loads(done.stdout)


@pytest.mark.long
def test_a_repeated_computation_takes_no_new_pages(result):
    assert result['keep']
    # An array is 16 thousand of 4 kB. Now and then something small comes to lie in the place of a
    # free one, and there is one more from then on.
    assert result['pages'] < 20 * 16_000 / 5, 'a call in five would need one: nothing is kept'


@pytest.mark.long
def test_nothing_is_set_for_accelerators_or_against_the_environment(result):
    assert not result['accelerator'] and not result['environment']


@pytest.mark.long
def test_free_memory_is_returned_after_compiling(result):
    """Also between small blocks in use, where the C library would keep it."""
    assert result['freed'] < 100e6 < result['released']
