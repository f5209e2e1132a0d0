"""Shared by all tests: golden data, and eight host devices so that sharding is really exercised."""

import os
from pathlib import Path

import pytest
from absl import logging

ROOT = Path(__file__).parents[1]
os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=8')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
# Compiling takes most of the time of these tests, and many, and the scripts that they start,
# compile the same tiny network: a cache of compiled programs, keyed by program, flags and version.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(ROOT / '.jax_cache'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.5')

DATA = Path(__file__).parent / 'data'
SHARED = Path(__file__).parents[2] / 'shared'


@pytest.fixture(autouse=True)
def same_verbosity():
    """The commands quieten absl's logging; called in a test, they do so for that test alone."""
    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)


@pytest.fixture(scope='session')
def golden_dir() -> Path:
    return DATA


@pytest.fixture(scope='session')
def real_data() -> Path:
    """The real DHF1K and DIEM sample, beside the checkout where there is one."""
    path = SHARED / 'data'
    if not path.is_dir():
        pytest.skip('the real data sample (shared/data beside the checkout) is not here')
    return path
