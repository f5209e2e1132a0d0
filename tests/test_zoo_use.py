"""The use of a model's weights: windows, resizing of frames, post-processing of maps."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from stsa_jax.errors import InputError
from stsa_jax.inference.windows import predict_frames, windows_of
from stsa_jax.media import finishing
from stsa_jax.media.preprocess import resample
from stsa_jax.ops import convolution, forms, pooling, upsampling
from stsa_jax.weights import known, port, wrappers


def places(count, **config):
    """For each frame of a video of `count`: the window that its map is from, as released code."""
    config = SimpleNamespace(**{'frames': 4, 'target': 'last', **config})
    return [w.frames for w in windows_of(range(count), config) for _ in w.places]


def test_windows_of_a_map_for_every_frame_follow_each_other():
    config = SimpleNamespace(frames=4, target='all')
    found = [tuple(w) for w in windows_of(range(10), config)]
    # As EvalClipSampler: 0, 4, and the last one; what it overlaps is written anew.
    whole = (0, 1, 2, 3)
    assert found == [(whole, whole), ((4, 5, 6, 7), (0, 1)), ((6, 7, 8, 9), whole)]
    for count in range(1, 14):
        given = [w.frames[p] for w in windows_of(range(count), config) for p in w.places]
        assert given == list(range(count))
    assert list(windows_of(range(2), config)) == [((0, 0, 0, 1), (2, 3))]
    assert list(windows_of([], config)) == []


def test_beginnings():
    assert places(5) == [(0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 2), (0, 1, 2, 3), (1, 2, 3, 4)]
    reversed_ones = places(8, beginning='reversed')
    assert reversed_ones[:4] == [(3, 2, 1, 0), (4, 3, 2, 1), (5, 4, 3, 2), (0, 1, 2, 3)]
    assert reversed_ones[4:] == [(i - 3, i - 2, i - 1, i) for i in range(4, 8)]
    # A video that ends before goes on backwards.
    assert places(5, beginning='reversed')[2] == (4, 4, 3, 2)
    for count in range(1, 10):
        assert [w[-1] for w in places(count, beginning='reversed')] == list(range(count))


@pytest.mark.parametrize('batch_size', [1, 3])
def test_maps_of_all_frames_come_in_order(batch_size):
    class Echo:
        config = SimpleNamespace(frames=4, target='all', image_size=(1, 1))

        def preprocess(self, frames):
            return frames[:, :1, :1].astype(np.float32)

        def __call__(self, clips):
            return clips[..., 0]

    frames = [np.full((2, 3, 3), i, np.uint8) for i in range(11)]
    assert [float(m[0, 0]) for m in predict_frames(Echo(), frames, batch_size)] == list(range(11))


@pytest.mark.parametrize('size', [(192, 256), (45, 70), (90, 33)])
def test_resampling_is_pytorchs(size):
    torch = pytest.importorskip('torch')
    frame = np.random.default_rng(0).uniform(0, 255, (60, 90, 3)).astype(np.float32)
    tensor = torch.from_numpy(frame).permute(2, 0, 1)[None]
    for kernel, mode in (('linear', 'bilinear'), ('cubic', 'bicubic')):
        expected = torch.nn.functional.interpolate(tensor, size, mode=mode, align_corners=False)
        found = resample(frame, size, kernel)
        np.testing.assert_allclose(found, expected[0].permute(1, 2, 0).numpy(), atol=5e-3)  # of 255


def test_tinyhds_maps_in_8_bits():
    """By hand: a map of two values has two levels; the filter rounds the step between them."""
    saliency = np.full((4, 6), 0.25)
    saliency[:, 3:] = 0.5
    levels = finishing.tinyhd(saliency, (4, 6))
    assert levels.dtype == np.uint8
    # 1 4 6 4 1 over 0 0 0 | 255 255 255, mirrored at the edges without repeating them.
    assert levels[0].tolist() == [0, 16, 80, 175, 239, 255]
    assert not finishing.tinyhd(np.ones((4, 6)), (8, 12)).any()
    assert finishing.tinyhd(saliency, (36, 64)).shape == (36, 64)


def test_vinets_maps_in_8_bits():
    """As OpenCV's filter and torchvision's `save_image` do, which add half a level."""
    saliency = np.zeros((30, 40))
    saliency[15, 20] = 0.5
    levels = finishing.vinet(saliency, (30, 40))
    sigma = 2.0  # 0.3 * ((11 - 1) / 2 - 1) + 0.8
    profile = np.exp(-(np.arange(6) ** 2) / (2 * sigma**2)) * 255
    assert levels[15, 20:26].tolist() == np.rint(np.minimum(profile + 0.5, 255)).tolist()
    assert levels[15, 26] == 0  # half a level rounds to even
    assert finishing.vinet(saliency, (60, 100)).shape == (60, 100)


def test_smoothed_maps_in_8_bits():
    """Cut to 1/255 before the filter; at the model's size, whatever the video's."""
    saliency = np.zeros((128, 192))
    saliency[64, 96], saliency[20, 20] = 0.9, 0.9 / 255
    levels = finishing.smoothed(saliency, (360, 640))
    assert levels.shape == saliency.shape and levels.max() == levels[64, 96] == 255
    assert levels[64, 103] == int(255 * np.exp(-0.5)) and not levels[:30, :30].any()
    assert not finishing.smoothed(np.zeros((8, 8)), (8, 8)).any()


def test_unpooling_is_pytorchs():
    torch = pytest.importorskip('torch')
    # Few values, so that there are ties, and windows that share their maximum.
    x = np.random.default_rng(0).integers(0, 4, (2, 3, 8, 12, 5)).astype(np.float32)
    tensor = torch.from_numpy(x).permute(0, 4, 1, 2, 3)
    pool = dict(kernel_size=(1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
    _, places = torch.nn.functional.max_pool3d(tensor, return_indices=True, **pool)
    values = np.random.default_rng(1).normal(size=(2, 3, 4, 6, 5)).astype(np.float32)
    given = torch.from_numpy(values).permute(0, 4, 1, 2, 3)
    expected = torch.nn.functional.max_unpool3d(given, places, output_size=(3, 8, 12), **pool)
    index = pooling.max_indices_3x3(x)
    found, pull = jax.vjp(lambda v: pooling.max_unpool_3x3(v, index), values)
    np.testing.assert_array_equal(found, expected.permute(0, 2, 3, 4, 1))
    # Of windows that share a maximum, each gets the place's derivative.
    given.requires_grad_()
    to_given = torch.nn.functional.max_unpool3d(given, places, output_size=(3, 8, 12), **pool)
    weight = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)
    (to_given * torch.from_numpy(weight).permute(0, 4, 1, 2, 3)).sum().backward()
    np.testing.assert_array_equal(pull(weight)[0], given.grad.permute(0, 2, 3, 4, 1))


def test_transposed_convolution_is_pytorchs():
    torch = pytest.importorskip('torch')
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 5, 6, 4)).astype(np.float32)
    kernel = rng.normal(size=(1, 4, 4, 4, 7)).astype(np.float32)
    expected = torch.nn.functional.conv_transpose3d(
        torch.from_numpy(x).permute(0, 4, 1, 2, 3),
        torch.from_numpy(kernel).permute(3, 4, 0, 1, 2),
        stride=(1, 2, 2),
        padding=(0, 1, 1),
    )
    found = convolution.conv3d_transposed_2x(x, kernel)
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 4, 1), atol=1e-5)


@pytest.mark.parametrize('form', ['plain', 'cpu'])
def test_upsampling_with_fixed_ends_is_pytorchs(form):
    torch = pytest.importorskip('torch')
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 1, 4)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x).permute(0, 4, 1, 2, 3), (6, 10, 2), mode='trilinear', align_corners=True
    )
    with forms.use(form):
        found = upsampling.upsample_aligned(x, (1, 2, 3))
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 4, 1), atol=1e-6)


@pytest.mark.parametrize('stride', [(1, 1, 1), (2, 1, 1), (2, 2, 2)])
def test_depthwise_convolution_is_pytorchs(stride):
    """And its gradient, in the form for CPUs, JAX's own."""
    torch = pytest.importorskip('torch')
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 6, 8, 5)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3, 1, 5)).astype(np.float32)
    expected = torch.nn.functional.conv3d(
        torch.from_numpy(x).permute(0, 4, 1, 2, 3),
        torch.from_numpy(kernel).permute(4, 3, 0, 1, 2),
        stride=stride,
        padding=1,
        groups=5,
    )

    def squares(x, kernel):
        y = convolution.depthwise_conv3d(x, kernel, stride, (1, 1, 1))
        return (y * y).sum(), y

    gradients = {}
    for form in ('plain', 'cpu'):
        with forms.use(form):
            gradients[form], found = jax.jit(jax.grad(squares, (0, 1), has_aux=True))(x, kernel)
        np.testing.assert_allclose(found, expected.permute(0, 2, 3, 4, 1), atol=1e-5)
    for plain, cpu in zip(*gradients.values()):
        np.testing.assert_allclose(plain, cpu, rtol=1e-4, atol=1e-4)


def test_the_weights_of_one_model_for_another():
    names = {'encoder.encoder.0.0.weight': np.zeros((8, 3, 3, 3, 3), np.float32)}
    with pytest.raises(InputError, match=r"tiny.pth: holds tinyHD's weights, but STSA-Net's were"):
        port.from_torch(names, known.KNOWN[0].config(), source='tiny.pth')
    with pytest.raises(InputError, match='entries do not fit the model'):
        port.from_torch(names, source='tiny.pth')
    found, lines = wrappers.unwrap({'student_model': names, 'epoch': 3}, 'tiny.pth')
    assert set(found) == set(names) and "under 'student_model'" in lines[0]


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('audionet.conv1.weight', 'ViNet_DHF1K.pt'),
        ('domainClassifier5.layers.0.weight', 'HD2S_DA.*base model'),
        ('decoder5.deconvlayer5_5.1.bn_s.bn_DHF1K.weight', 'HD2S_DSL.*base model'),
    ],
)
def test_relatives_of_known_models_are_named(name, message):
    names = {'featureExtractor.block1.0.conv_s.weight': np.zeros(1), name: np.zeros(1)}
    with pytest.raises(InputError, match=f'x.pt: holds .*{message}'):
        port.recognise(names, 'x.pt')


def test_released_files_that_do_not_say_how_they_are_used():
    names = {
        'encoder.encoder.0.0.weight': np.zeros((32, 3, 3, 3, 3), np.float32),
        'decoder.decoder.0.weight': np.zeros((1, 6, 1, 1, 1), np.float32),
    }
    with pytest.raises(InputError, match='mix the decoders'):
        port.infer_config(names, 'tinyhd')
