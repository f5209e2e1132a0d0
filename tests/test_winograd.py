"""Winograd's convolution against plain correlations, and PyTorch's convolution in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stsa_jax.distribution import sharding
from stsa_jax.ops.cpu import convolution as conv2d
from stsa_jax.ops.cpu import winograd

pytestmark = pytest.mark.usefixtures('quick_compilation')

FORMS = [(2, 3), (4, 3), (2, 5), (4, 5)]


@pytest.fixture
def always(monkeypatch):
    """Even small convolutions use Winograd's algorithm if they have the right form."""
    monkeypatch.setattr(winograd, 'LARGE', 0)
    monkeypatch.setattr(winograd, 'LARGE_GRADIENT', 0)
    monkeypatch.setattr(winograd, 'WORTH', 0)


@pytest.mark.parametrize('m, k', FORMS)
def test_the_matrices_correlate(m, k):
    a, g, b = winograd.matrices(m, k)
    assert a.shape == (m, m + k - 1) and g.shape == (m + k - 1, k) and b.shape == (m + k - 1,) * 2
    rng = np.random.default_rng(0)
    inputs, taps = rng.normal(size=m + k - 1), rng.normal(size=k)
    np.testing.assert_allclose(
        a @ ((g @ taps) * (b @ inputs)), np.correlate(inputs, taps), rtol=0, atol=1e-12
    )
    for exact in (a, b):  # what multiplies activations has no rounding of its own
        np.testing.assert_array_equal(exact, exact.astype(np.float32))


def exact(x, kernel, dy, padding):
    """The result and both gradients, by PyTorch in float64."""
    x, dy = (torch.tensor(np.asarray(v, np.float64).transpose(0, 3, 1, 2)) for v in (x, dy))
    k = torch.tensor(np.asarray(kernel, np.float64).transpose(3, 2, 0, 1))
    x.requires_grad_(), k.requires_grad_()
    y = torch.nn.functional.conv2d(x, k, padding=padding)
    y.backward(dy)
    results = y.detach(), x.grad, k.grad
    return [v.numpy().transpose(o) for v, o in zip(results, [(0, 2, 3, 1)] * 2 + [(2, 3, 1, 0)])]


def ours(x, kernel, dy, padding):
    def f(x, kernel, dy):
        with jax.sharding.use_abstract_mesh(
            sharding.make_mesh(1, 1, jax.devices()[:1]).abstract_mesh
        ):
            y, pull = jax.vjp(lambda x, k: conv2d.conv2d(x, k, (1, 1), padding), x, kernel)
            return y, *pull(dy)

    return jax.jit(f)(x, kernel, dy)


def relative_error(result, wanted):
    """Root mean square error, relative to the expected values."""
    return np.sqrt(np.mean((np.asarray(result) - wanted) ** 2) / np.mean(wanted**2))


# `always` is the same for every example.
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kernel=st.sampled_from([(3, 3), (3, 1), (1, 3), (5, 5), (5, 1), (1, 5)]),
    # Filled tiles and not, of both kinds; each size compiles anew.
    size=st.sampled_from([(5, 12), (8, 9)]),
    more=st.integers(-1, 1),
    seed=st.integers(0, 2**16),
)
def test_result_and_gradients(always, kernel, size, more, seed):
    """Any length, whether tiles fill it or not; padded to keep the size, by less, and by more."""
    rng = np.random.default_rng(seed)
    height, width = size
    x = rng.normal(size=(2, height, width, 24)).astype(np.float32)
    k = rng.normal(size=(*kernel, 24, 16)).astype(np.float32)
    padding = tuple(min(max(n // 2 + more, 0), n - 1) for n in kernel)
    size = (n + 2 * p - m + 1 for n, p, m in zip((height, width), padding, kernel))
    dy = rng.normal(size=(2, *size, 16)).astype(np.float32)
    for result, wanted in zip(ours(x, k, dy, padding), exact(x, k, dy, padding)):
        assert result.shape == wanted.shape
        assert relative_error(result, wanted) < 4e-6  # 1.0 to 1.7e-6, and more in a few short sums


@pytest.mark.parametrize('kernel', [(3, 3), (5, 5)])
def test_the_error_is_a_few_roundings(always, kernel):
    """As documented in `stsa_jax.ops.cpu.winograd`, at the network's number of channels."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1, 16, 16, 192)).astype(np.float32)
    k = rng.normal(size=(*kernel, 192, 32)).astype(np.float32)
    dy = rng.normal(size=(1, 16, 16, 32)).astype(np.float32)
    padding = tuple(n // 2 for n in kernel)
    y, _, _ = ours(x, k, dy, padding)
    wanted, _, _ = exact(x, k, dy, padding)
    assert relative_error(y, wanted) < (1.5e-6 if kernel == (3, 3) else 2.5e-6)


def test_it_takes_fewer_multiplications(always, monkeypatch):
    """Counted by XLA in the program: half with 3 taps, two fifths with 5, and the combinations."""
    x, k = jnp.ones((1, 16, 16, 64)), jnp.ones((5, 5, 64, 64))

    def flops(x, k, padding):
        program = jax.jit(lambda x, k: conv2d.conv2d(x, k, (1, 1), padding))
        return program.lower(x, k).compile().cost_analysis()['flops']

    for kernel, share in ((k[:3, :3], 1 / 2), (k, 2 / 5)):
        padding = (kernel.shape[0] // 2,) * 2
        fast = flops(x, kernel, padding)
        with monkeypatch.context() as patch:
            patch.setattr(winograd, 'LARGE', float('inf'))
            assert share < fast / flops(x, kernel, padding) < share + 0.15


@pytest.mark.parametrize('exact, dtype', [(True, jnp.float32), (False, jnp.bfloat16)])
def test_not_where_rounding_counts(always, monkeypatch, exact, dtype):
    """Not before the pool with indices, and not at lower precision."""
    monkeypatch.setattr(winograd, 'convolution', lambda *_: pytest.fail('rounding counts here'))
    x, k = jnp.ones((1, 8, 8, 64), dtype), jnp.ones((3, 3, 64, 64), dtype)
    jax.jit(lambda x, k: conv2d.conv2d(x, k, (1, 1), (1, 1), exact))(x, k)


def test_equal_images_stay_equal(always):
    """The result for one clip does not depend on the others in its batch."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3, 9, 8, 24)).astype(np.float32)
    k = rng.normal(size=(3, 3, 24, 16)).astype(np.float32)
    y = jax.jit(lambda x: conv2d.conv2d(x, k, (1, 1), (1, 1)))
    np.testing.assert_allclose(y(x)[1:2], y(x[1:2]), rtol=0, atol=1e-4)  # of values up to 60


def test_the_network_has_large_ones():
    """At full size the fusion's 5x5 kernels use it, the first one's forward pass does not."""
    assert winograd.chosen_axis((4, 56, 96, 192), (5, 5, 192, 192), (1, 1), winograd.LARGE) == 1
    assert winograd.chosen_axis((32, 224, 384, 3), (7, 7, 3, 64), (2, 2), winograd.LARGE) is None
    small = (1, 8, 8, 64)
    assert winograd.chosen_axis(small, (3, 3, 64, 64), (1, 1), winograd.LARGE) is None
