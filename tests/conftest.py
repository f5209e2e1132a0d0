"""Shared by all tests: golden data, eight host devices so that sharding is really exercised, and no
network.
"""

import os
import signal
import socket
from pathlib import Path

import hypothesis
import pytest
from absl import logging

ROOT = Path(__file__).parents[1]
os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=8')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
# Compiling takes most of the time of these tests, and many, and the scripts that they start,
# compile the same tiny network: a cache of compiled programs, keyed by program, flags and version.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(ROOT / '.jax_cache'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.5')
# A shell that starts these tests in the background makes them and their children ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, however slow the machine is: a change is not refused because of
# what was there before. To look for more: pytest --hypothesis-profile=explore
hypothesis.settings.register_profile('explore', deadline=None)
hypothesis.settings.register_profile('fixed', deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile('fixed')

DATA = Path(__file__).parent / 'data'
SHARED = Path(__file__).parents[2] / 'shared'


# The longest tests come first, so that two processes end at about the same time.
FIRST = (
    'test_transformations',
    'test_variants',
    'test_train_loop',
    'test_metrics',
    'test_evaluation_script',
    'test_stsanet',
    'test_training',
    'test_predict',
    'test_sharding',
    'test_layers',
    'test_parity',
    'test_interruption',
)


LONG = 'STSA_JAX_LONG'


def pytest_collection_modifyitems(items):
    """Stable: within a file, and among the others, the order stays."""
    order = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(FIRST)))
    if not os.environ.get(LONG):
        skip = pytest.mark.skip(reason=f'long: {LONG}=1 runs it, as .ci/run does')
        for item in items:
            if item.get_closest_marker('long'):
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def same_verbosity():
    """The commands silence absl's logging; called in a test, they do so only for that test."""
    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)


@pytest.fixture(autouse=True)
def plain_operations():
    """The commands choose the CPU forms; called in a test, they do so only for that test."""
    yield
    from stsa_jax.ops import forms  # not above: JAX reads the environment when it is imported

    forms.set_default('plain')


@pytest.fixture(scope='module')
def quick_compilation():
    """Programs that compile fast, and run slowly: for tests that run each once or twice."""
    import jax  # not above: see plain_operations

    jax.config.update('jax_disable_most_optimizations', True)
    yield
    jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """A test that connects to another machine fails, even if the code handles the error."""
    for name in ('connect', 'connect_ex'):
        connect = getattr(socket.socket, name)

        def guarded(self, address, connect=connect):
            if self.family in (socket.AF_INET, socket.AF_INET6):
                host = str(address[0])
                if not (host.startswith('127.') or host in ('localhost', '::1')):
                    pytest.fail(f'tests run offline, and this one connects to {address}')
            return connect(self, address)

        monkeypatch.setattr(socket.socket, name, guarded)


@pytest.fixture(scope='session')
def golden_dir() -> Path:
    return DATA


@pytest.fixture(scope='session')
def not_saliency_models(tmp_path_factory) -> dict[str, Path]:
    """Files with an S3D classifier and with only a backbone, keyed by the expected message."""
    from safetensors.numpy import save_file

    from stsa_jax import S3D, S3DConfig
    from stsa_jax.models import functional
    from stsa_jax.weights import port
    from stsa_jax.weights.initial import random_weights

    config = S3DConfig(num_classes=2, width=0.125)
    params, batch_stats = random_weights(*functional.abstract(S3D, config)[1:])
    folder = tmp_path_factory.mktemp('weights')
    files = {
        "S3D's Kinetics classifier, not a saliency model": folder / 's3d.safetensors',
        'only a backbone': folder / 'backbone.safetensors',
    }
    classifier, backbone = files.values()
    save_file(port.to_torch(params, batch_stats), classifier)
    save_file(port.to_torch({'backbone': params['backbone']}, batch_stats), backbone)
    return files


@pytest.fixture(scope='session')
def real_data() -> Path:
    """The real DHF1K and DIEM sample, beside the checkout if there is one."""
    path = SHARED / 'data'
    if not path.is_dir():
        pytest.skip('the real data sample (shared/data beside the checkout) is not here')
    return path


@pytest.fixture(scope='session')
def tinyhd_weights() -> Path:
    """The folder with tinyHD's released weights, beside the checkout where it is there."""
    path = SHARED / 'weights' / 'tinyhd'
    if not path.is_dir():
        pytest.skip("tinyHD's weights (shared/weights/tinyhd beside the checkout) are not here")
    return path
