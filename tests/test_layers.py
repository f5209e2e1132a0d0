"""The building blocks against PyTorch's, forwards and backwards."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from stsa_jax.distribution import sharding
from stsa_jax.models import functional, layers, s3d
from stsa_jax.ops import convolution, forms, normalisation, pooling, upsampled, upsampling
from stsa_jax.ops.cpu import convolution as conv2d

pytestmark = pytest.mark.usefixtures('quick_compilation')

EXACT = jax.lax.Precision.HIGHEST


def with_gradients(function, inputs, cotangent):
    """The result of `function` and its gradients, compiled as one program instead of many."""

    @jax.jit
    def run(inputs, cotangent):
        out, pull = jax.vjp(function, *inputs)
        return out, pull(cotangent)

    return run(inputs, cotangent)


@pytest.fixture(params=forms.FORMS)
def form(request):
    """Both forms of the operations, with the same tolerances against PyTorch."""
    with forms.use(request.param):
        yield request.param


@pytest.fixture
def cpu():
    """For features that only the CPU forms have."""
    with forms.use('cpu'):
        yield


def to_torch(x):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def from_torch(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


def random(*shape, seed=0, relu=False):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return np.maximum(x, 0) if relu else x


# kernel, stride, padding: every form that the network has.
CONVOLUTIONS = [
    ((1, 1, 1), (1, 1, 1), (0, 0, 0)),
    ((1, 7, 7), (1, 2, 2), (0, 3, 3)),
    ((1, 3, 3), (1, 1, 1), (0, 1, 1)),
    ((1, 5, 5), (1, 1, 1), (0, 2, 2)),
    ((1, 3, 1), (1, 1, 1), (0, 1, 0)),
    ((1, 1, 3), (1, 1, 1), (0, 0, 1)),
    ((7, 1, 1), (2, 1, 1), (3, 0, 0)),
    ((3, 1, 1), (1, 1, 1), (1, 0, 0)),
    ((4, 1, 1), (4, 1, 1), (0, 0, 0)),
    ((2, 3, 3), (2, 1, 1), (0, 1, 1)),
]


@pytest.mark.parametrize('kernel,stride,padding', CONVOLUTIONS)
def test_conv3d(form, kernel, stride, padding):
    x, k = random(2, 8, 6, 10, 3), random(*kernel, 3, 5, seed=1)
    expected = F.conv3d(
        to_torch(x), torch.from_numpy(k.transpose(4, 3, 0, 1, 2).copy()), None, stride, padding
    )
    # Sums of up to 147 products of unit normals, in another order.
    found = jax.jit(lambda x, k: convolution.conv3d(x, k, stride, padding))(x, k)
    np.testing.assert_allclose(found, from_torch(expected), atol=2e-5)


# kernel, stride, padding, input channels: what the layers in front of the first bottleneck have.
@pytest.mark.parametrize(
    'kernel,stride,padding,channels',
    [
        ((7, 1, 1), (2, 1, 1), (3, 0, 0), 64),
        ((1, 3, 3), (1, 1, 1), (0, 1, 1), 64),
        ((3, 1, 1), (1, 1, 1), (1, 0, 0), 192),
        ((4, 1, 1), (4, 1, 1), (0, 0, 0), 192),
    ],
)
def test_short_sums_are_closer_to_the_exact_result(
    cpu, monkeypatch, kernel, stride, padding, channels
):
    # Kernel = stride has shorter sums than XLA's convolution in any case; here that one counts.
    monkeypatch.setattr(conv2d, '_is_split', lambda *_: False)
    x, k = random(1, 8, 16, 16, channels, relu=True), random(*kernel, channels, 64, seed=1)
    weights = torch.from_numpy(k.transpose(4, 3, 0, 1, 2).copy()).double()
    exact = from_torch(F.conv3d(to_torch(x).double(), weights, None, stride, padding))

    def error(precision):
        y = convolution.conv3d(x, k, stride, padding, precision)
        return np.abs(np.asarray(y, np.float64) - exact).mean()

    assert error(EXACT) < 0.85 * error(None)
    assert error(EXACT) < 1e-6 * np.abs(exact).mean()


@pytest.mark.parametrize('precision', [None, EXACT])
@pytest.mark.parametrize('kernel,stride,padding', CONVOLUTIONS)
def test_gradients_of_conv3d(form, kernel, stride, padding, precision):
    x, k = random(2, 8, 6, 10, 3), random(*kernel, 3, 5, seed=1)
    tx = to_torch(x).requires_grad_()
    tk = torch.from_numpy(k.transpose(4, 3, 0, 1, 2).copy()).requires_grad_()
    y = F.conv3d(tx, tk, None, stride, padding)
    dy = random(*y.detach().permute(0, 2, 3, 4, 1).shape, seed=2)
    y.backward(to_torch(dy))
    convolve = functools.partial(
        convolution.conv3d, stride=stride, padding=padding, precision=precision
    )
    _, (dx, dk) = with_gradients(convolve, (x, k), dy)
    # Sums of up to 960 products of unit normals, in another order.
    np.testing.assert_allclose(dx, from_torch(tx.grad), atol=5e-5)
    np.testing.assert_allclose(dk, tk.grad.numpy().transpose(2, 3, 4, 1, 0), atol=2e-4)


@pytest.mark.parametrize(
    'length,taps,stride,padding', [(17, 4, 4, 0), (15, 7, 2, 3), (9, 2, 3, 1), (8, 1, 2, 0)]
)
def test_gradient_of_a_strided_input(cpu, length, taps, stride, padding):
    """Also of steps that no tap reaches."""
    x, k = random(1, length, 2, 3, 4), random(taps, 1, 1, 4, 5, seed=1)
    tx = to_torch(x).requires_grad_()
    tk = torch.from_numpy(k.transpose(4, 3, 0, 1, 2).copy())
    y = F.conv3d(tx, tk, None, (stride, 1, 1), (padding, 0, 0))
    dy = random(*y.detach().permute(0, 2, 3, 4, 1).shape, seed=2)
    y.backward(to_torch(dy))
    convolve = lambda x: convolution.conv3d(x, k, (stride, 1, 1), (padding, 0, 0))  # noqa: E731
    _, (dx,) = with_gradients(convolve, (x,), dy)
    np.testing.assert_allclose(dx, from_torch(tx.grad), atol=5e-5)


# Large enough for several blocks of pixels, and for several groups of taps.
@pytest.mark.parametrize(
    'x_shape,kernel,stride,padding,out',
    [
        ((1, 8, 40, 48, 3), (1, 7, 7), (1, 2, 2), (0, 3, 3), 4),
        ((1, 3, 40, 24, 65), (1, 3, 3), (1, 1, 1), (0, 1, 1), 4),
        ((2, 8, 20, 24, 65), (7, 1, 1), (2, 1, 1), (3, 0, 0), 4),
    ],
)
def test_gradient_of_a_kernel_in_blocks(cpu, x_shape, kernel, stride, padding, out):
    """As on one device; on several, each iteration of the loop would all-reduce its part."""
    x, k = random(*x_shape), random(*kernel, x_shape[-1], out, seed=1)
    tk = torch.from_numpy(k.transpose(4, 3, 0, 1, 2).copy()).requires_grad_()
    y = F.conv3d(to_torch(x), tk, None, stride, padding)
    dy = random(*y.detach().permute(0, 2, 3, 4, 1).shape, seed=2)
    y.backward(to_torch(dy))

    def gradient(x, k, dy, devices):
        mesh = sharding.make_mesh(devices=jax.devices()[:devices])
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return jax.vjp(lambda k: convolution.conv3d(x, k, stride, padding), k)[1](dy)[0]

    for devices in (1, 2):
        compiled = jax.jit(functools.partial(gradient, devices=devices)).lower(x, k, dy).compile()
        assert (' while(' in compiled.as_text()) == (devices == 1)
        # Sums of up to 7680 products of unit normals, in another order.
        expected = tk.grad.numpy().transpose(2, 3, 4, 1, 0)
        np.testing.assert_allclose(compiled(x, k, dy), expected, atol=2e-3)


@pytest.mark.parametrize('kt', [1, 2])
@pytest.mark.parametrize('size', [(5, 7), (2, 3)])
def test_conv_of_upsampled(form, kt, size):
    x, k = random(2, 4, *size, 6), random(kt, 3, 3, 6, 5, seed=1)
    stride, padding = (kt, 1, 1), (0, 1, 1)

    @jax.jit
    def both(x, k):
        found = upsampled.conv3d_of_upsampled(x, k, stride, padding)
        return found, convolution.conv3d(upsampling.upsample_2x(x), k, stride, padding)

    found, direct = both(x, k)
    np.testing.assert_allclose(found, direct, atol=2e-5)


@pytest.mark.parametrize('kernel', [3, 5, 7])
@pytest.mark.parametrize('train', [True, False])
def test_first_convolutions(kernel, train):
    """The two of the stem with what is between them, against those of one frame at a time."""
    first = s3d.FirstSepConv(3, 5, kernel, 2, rngs=nnx.Rngs(0))
    graphdef, params, batch_stats = functional.split(first)
    clips = 8 if kernel == 5 else 2  # frames count as examples where there are few
    clip, d = random(clips, 4, 8, 12, 3), random(clips, 2, 4, 6, 5, seed=1)

    def run(params, clip):
        result = functional.apply(graphdef, params, batch_stats, clip, train=train)
        return result if train else (result, batch_stats)

    def with_all(params, clip):
        out, pull, stats = jax.vjp(run, params, clip, has_aux=True)
        return out, stats, pull(d)

    out, found_stats, found = jax.jit(with_all)(params, clip)
    with forms.use('published'):
        expected_out, stats, expected = jax.jit(lambda *inputs: with_all(*inputs))(params, clip)
    np.testing.assert_allclose(out, expected_out, atol=1e-5)
    # A thousandth of the batch's, whose rounding is 1e-6.
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-8), found_stats, stats)
    # Sums over up to 384 places.
    compare = functools.partial(np.testing.assert_allclose, atol=1e-4)
    jax.tree.map(compare, found, expected)


def test_kernels_that_do_not_fold(form):
    x, k = random(1, 4, 5, 6, 2), random(3, 3, 3, 2, 3, seed=1)
    weights = torch.from_numpy(k.transpose(4, 3, 0, 1, 2).copy())
    expected = from_torch(F.conv3d(to_torch(x), weights, padding=1))
    found = convolution.conv3d(x, k, (1, 1, 1), (1, 1, 1))
    np.testing.assert_allclose(found, expected, atol=2e-5)  # sums of 54 products


POOLS = [
    ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
    ((2, 2, 2), (2, 2, 2), (0, 0, 0)),
    ((3, 3, 3), (1, 1, 1), (1, 1, 1)),
]


@pytest.mark.parametrize('window,stride,padding', POOLS)
@pytest.mark.parametrize('ties', [False, True])
def test_max_pool_and_its_gradient(form, window, stride, padding, ties):
    x = random(2, 4, 6, 8, 3)
    if ties:  # few distinct values: the first maximum in (t, h, w) order gets the gradient
        x = np.round(x)
    t = to_torch(x).requires_grad_()
    expected = F.max_pool3d(t, window, stride, padding)
    cotangent = random(*from_torch(expected).shape, seed=2)
    pool = lambda x: pooling.max_pool(x, window, stride, padding)  # noqa: E731
    found, (gradient,) = with_gradients(pool, (x,), cotangent)
    np.testing.assert_array_equal(found, from_torch(expected))
    expected.backward(to_torch(cotangent))
    np.testing.assert_allclose(gradient, from_torch(t.grad), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=32, max_size=32),
)
def test_bottleneck_pool_keeps_pytorchs_indices(values):
    x = np.array(values, np.float32).reshape(1, 1, 4, 8, 1)
    pooled, index = pooling.max_pool_2x2_with_indices(x)
    expected, places = F.max_pool3d(to_torch(x), (1, 2, 2), return_indices=True)
    np.testing.assert_array_equal(pooled, from_torch(expected))
    spread = F.max_unpool3d(2 * expected + 1, places, (1, 2, 2))
    for name in forms.FORMS:
        with forms.use(name):
            found = pooling.max_unpool_2x2(2 * pooled + 1, index)
        np.testing.assert_array_equal(found, from_torch(spread))


@pytest.mark.parametrize('window,stride,padding', POOLS)
def test_max_pool_of_odd_sizes(form, window, stride, padding):
    x = random(1, 3, 7, 9, 2)
    expected = F.max_pool3d(to_torch(x), window, stride, padding)
    found = pooling.max_pool(x, window, stride, padding)
    np.testing.assert_array_equal(found, from_torch(expected))


@pytest.mark.parametrize('size', [(6, 10), (7, 11), (5, 9), (7, 10), (3, 5), (2, 13)])
def test_resize(form, size):
    x = random(2, 2, 3, 5, 4)
    frames = torch.from_numpy(x.reshape(4, 3, 5, 4).transpose(0, 3, 1, 2).copy())
    expected = F.interpolate(frames, size, mode='bilinear', align_corners=False)
    expected = expected.numpy().transpose(0, 2, 3, 1).reshape(2, 2, *size, 4)
    found = upsampling.resize(x, size)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    if size == (6, 10):
        np.testing.assert_array_equal(found, upsampling.upsample_2x(x))


def test_unpooling_after_pooling_keeps_only_the_maxima():
    x = random(1, 2, 4, 6, 3)
    pooled, index = pooling.max_pool_2x2_with_indices(x)
    back = np.asarray(pooling.max_unpool_2x2(pooled, index))
    assert np.array_equal(back[back != 0], x[back != 0])
    assert (back != 0).sum() == pooled.size


@pytest.mark.parametrize('size', [(4, 5), (1, 2)])
def test_upsample_and_its_gradient(form, size):
    x = random(2, 3, *size, 2)
    t = to_torch(x).requires_grad_()
    expected = F.interpolate(t, scale_factor=(1, 2, 2), mode='trilinear', align_corners=False)
    cotangent = random(*from_torch(expected).shape, seed=2)
    found, (gradient,) = with_gradients(upsampling.upsample_2x, (x,), cotangent)
    np.testing.assert_allclose(found, from_torch(expected), atol=1e-6)
    expected.backward(to_torch(cotangent))
    np.testing.assert_allclose(gradient, from_torch(t.grad), atol=2e-6)


@pytest.mark.parametrize('train', [True, False])
def test_conv_batch_norm_relu(form, train):
    unit = layers.ConvBNReLU(3, 5, (1, 3, 3), rngs=nnx.Rngs(0))
    reference = torch.nn.BatchNorm3d(5, eps=1e-3, momentum=0.001)
    arrays = {name: random(5, seed=i) for i, name in enumerate(('scale', 'bias', 'mean'))}
    arrays['var'] = np.abs(random(5, seed=9)) + 0.5
    for name, array in arrays.items():
        getattr(unit, name).set_value(jnp.asarray(array))
    with torch.no_grad():
        reference.weight.copy_(torch.from_numpy(arrays['scale']))
        reference.bias.copy_(torch.from_numpy(arrays['bias']))
        reference.running_mean.copy_(torch.from_numpy(arrays['mean']))
        reference.running_var.copy_(torch.from_numpy(arrays['var']))
    reference.train(train)
    x = random(2, 3, 4, 6, 3, seed=3)
    kernel = np.asarray(unit.kernel[...]).transpose(4, 3, 0, 1, 2).copy()
    expected = reference(F.conv3d(to_torch(x), torch.from_numpy(kernel), padding=(0, 1, 1))).relu()
    np.testing.assert_allclose(unit(x, train=train), from_torch(expected), atol=2e-5)
    # The running variance is the unbiased one, unlike Flax's.
    np.testing.assert_allclose(unit.mean[...], reference.running_mean, rtol=1e-5)
    np.testing.assert_allclose(unit.var[...], reference.running_var, rtol=1e-5)
    assert int(unit.count[...]) == int(reference.num_batches_tracked) == int(train)


@pytest.mark.parametrize('expected_mean, error', [(0, 1e-3), (9.5, 1e-5)])
def test_moments_in_one_pass(expected_mean, error):
    """Sums of squares lose digits where a mean is ten deviations, but for a known part of it."""
    y = np.random.default_rng(0).normal(10, 1, (2, 4, 16, 16, 6)).astype(np.float32)
    run = functools.partial(normalisation.batch_norm, expected_mean=expected_mean)
    _, mean, var = run(y, np.ones(6), np.zeros(6))
    exact = y.reshape(-1, 6).astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(var, exact.var(0), rtol=error)


def test_gradients_of_batch_norm_and_relu_and_their_residuals(form):
    y, d = random(2, 3, 4, 6, 5) * 2 + 1, random(2, 3, 4, 6, 5, seed=1)
    scale, bias = random(5, seed=2), random(5, seed=3)
    unit = lambda *a: normalisation.batch_norm(*a)[0]  # noqa: E731
    found, (d_y, d_scale, d_bias) = with_gradients(unit, (y, scale, bias), d)
    inputs = [to_torch(y), torch.from_numpy(scale), torch.from_numpy(bias)]
    for tensor in inputs:
        tensor.requires_grad_()
    x, weight, shift = inputs
    expected = F.batch_norm(x, None, None, weight, shift, training=True, eps=1e-3).relu()
    expected.backward(to_torch(d))
    np.testing.assert_allclose(found, from_torch(expected), atol=1e-5)
    np.testing.assert_allclose(d_y, from_torch(x.grad), atol=1e-5)
    np.testing.assert_allclose(d_scale, weight.grad, atol=2e-5)
    np.testing.assert_allclose(d_bias, shift.grad, atol=2e-5)
    # Of the arrays as large as the features, the input alone is kept.
    if form == 'cpu':
        pull = jax.eval_shape(lambda *a: jax.vjp(unit, *a)[1], y, scale, bias)
        assert sum(kept.size == y.size for kept in jax.tree.leaves(pull)) == 1


def test_layer_norm_over_the_full_shape(form):
    x = random(2, 4, 3, 5, 6) * 3 + 1
    norm = layers.LayerNorm((4, 3, 5, 6), rngs=nnx.Rngs(0))
    scale, bias = random(4, 3, 5, 6, seed=1), random(4, 3, 5, 6, seed=2)
    norm.scale.set_value(jnp.asarray(scale))
    norm.bias.set_value(jnp.asarray(bias))
    # PyTorch's weights stand in (C, T, H, W).
    weight, shift = (torch.from_numpy(np.moveaxis(a, -1, 0).copy()) for a in (scale, bias))
    expected = F.layer_norm(to_torch(x), weight.shape, weight, shift)
    np.testing.assert_allclose(norm(x), from_torch(expected), atol=1e-5)


def test_convolution_initialises_as_pytorch():
    conv = layers.Conv(16, 512, (1, 3, 3), rngs=nnx.Rngs(0))
    bound = 1 / np.sqrt(16 * 9)
    for values in (np.asarray(conv.kernel[...]), np.asarray(conv.bias[...])):
        assert np.abs(values).max() <= bound
        # Uniform: standard deviation bound / sqrt(3); 512 samples of it know it to 3 %.
        assert values.std() == pytest.approx(bound / np.sqrt(3), rel=0.1)
        assert abs(values.mean()) < 0.1 * bound


@pytest.mark.parametrize('wanted', [(0,), (1,), (0, 1)], ids=['input', 'kernel', 'both'])
def test_only_the_wanted_gradients_of_a_convolution_are_computed(wanted):
    x, kernel = random(2, 12, 10, 16), random(3, 3, 16, 24, seed=1)

    def total(x, kernel):
        return jnp.square(conv2d.conv2d(x, kernel, (1, 1), (1, 1))).sum()

    lowered = jax.jit(jax.grad(total, wanted)).lower(x, kernel)
    once = 2 * 2 * 12 * 10 * 16 * 24 * 9
    products = lowered.compile().cost_analysis()['flops'] / once
    # At the edges the taps outside are left out or multiplied with zeros.
    assert 0.8 * (1 + len(wanted)) < products < 1.15 * (1 + len(wanted))
