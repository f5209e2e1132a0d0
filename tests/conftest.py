"""Shared by all tests: golden data, and eight host devices so that sharding is really exercised."""

import os
from pathlib import Path

import pytest

os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=8')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

DATA = Path(__file__).parent / 'data'
SHARED = Path(__file__).parents[2] / 'shared'


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
