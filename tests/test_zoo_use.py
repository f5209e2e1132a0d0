"""The use of a model's weights: windows, resizing of frames, post-processing of maps."""

from types import SimpleNamespace

import numpy as np
import pytest

from stsa_jax.errors import InputError
from stsa_jax.inference.windows import predict_frames, windows_of
from stsa_jax.media import finishing
from stsa_jax.media.preprocess import resample
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


def test_the_weights_of_one_model_for_another():
    names = {'encoder.encoder.0.0.weight': np.zeros((8, 3, 3, 3, 3), np.float32)}
    with pytest.raises(InputError, match=r"tiny.pth: holds tinyHD's weights, but STSA-Net's were"):
        port.from_torch(names, known.KNOWN[0].config(), source='tiny.pth')
    with pytest.raises(InputError, match='entries do not fit the model'):
        port.from_torch(names, source='tiny.pth')
    found, lines = wrappers.unwrap({'student_model': names, 'epoch': 3}, 'tiny.pth')
    assert set(found) == set(names) and "under 'student_model'" in lines[0]


def test_released_files_that_do_not_say_how_they_are_used():
    names = {
        'encoder.encoder.0.0.weight': np.zeros((32, 3, 3, 3, 3), np.float32),
        'decoder.decoder.0.weight': np.zeros((1, 6, 1, 1, 1), np.float32),
    }
    with pytest.raises(InputError, match='mix the decoders'):
        port.infer_config(names, 'tinyhd')
