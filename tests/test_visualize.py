"""Images: right colours in the right places, and complete files."""

import numpy as np
import pytest
from PIL import Image

from stsa_jax.media import visualize


@pytest.fixture
def frame():
    return np.random.default_rng(0).integers(0, 256, (36, 64, 3)).astype(np.uint8)


def test_8bit_map_is_bilinear_and_scaled_by_its_own_maximum():
    saliency = np.array([[0.0, 0.2], [0.0, 0.2]], np.float32)
    # Columns of four pixels lie at -0.25, 0.25, 0.75, 1.25 of the two: 0, 1/4, 3/4, 1 of 0.2.
    assert visualize.to_8bit(saliency, (2, 4)).tolist() == [[0, 64, 191, 255]] * 2
    assert visualize.to_8bit(3 * saliency, (2, 4)).tolist() == [[0, 64, 191, 255]] * 2
    assert not visualize.to_8bit(np.zeros((2, 2)), (4, 4)).any()


def test_overlay_shows_the_frame_where_nothing_is_salient(frame):
    saliency = np.zeros((9, 16), np.float32)
    saliency[4:6, 12:14] = 0.01  # small, but the maximum of its map
    shown = visualize.overlay(frame, saliency, opacity=1)
    assert shown.shape == frame.shape and shown.dtype == np.uint8
    np.testing.assert_array_equal(shown[:, :40], frame[:, :40])
    peak = visualize.heat_map(np.array([[0.0, 1.0]]))[0, 1]
    np.testing.assert_array_equal(shown[20, 52], peak)  # the centre of the patch, fully coloured


def test_overlay_is_the_blend_it_says(frame):
    saliency = np.random.default_rng(1).random((36, 64)).astype(np.float32)
    colours = visualize.heat_map(saliency).astype(float)
    weight = 0.6 * (saliency / saliency.max())[..., None]
    blend = frame * (1 - weight) + colours * weight
    # Weights in 256ths and levels in 255ths: each rounds by half a step of 255, and one truncation.
    assert np.abs(visualize.overlay(frame, saliency, 0.6) - blend).max() < 2


def test_colours_are_distinct_along_the_whole_scale():
    levels = visualize.heat_map(np.linspace(0, 1, 256)[None])[0].astype(int)
    assert len(np.unique(levels, axis=0)) > 250
    red, blue = levels[:, 0] - levels[:, 2], levels[:, 2] - levels[:, 0]
    assert blue[:64].mean() > 50 and red[-64:].mean() > 50  # from blue to red, as in the field


def test_side_by_side_puts_each_map_in_its_place(frame):
    left, right = np.zeros((2, 18, 32))
    left[9, 4] = right[9, 28] = 1
    fixations = np.zeros((360, 640), bool)
    fixations[180, 320] = True
    dark = np.zeros_like(frame)
    shown = visualize.side_by_side(dark, left, right, fixations, min_height=72).astype(int)
    width = (shown.shape[1] - 2 * visualize._GAP) // 3
    bar = shown.shape[0] - 72
    pictures = [shown[bar:, i * (width + visualize._GAP) :][:, :width] for i in range(3)]
    assert width == 128
    assert pictures[0].max() == 0
    peaks = [np.unravel_index(p.sum(-1).argmax(), p.shape[:2]) for p in pictures[1:]]
    assert abs(peaks[0][1] - 18) <= 2
    red_at = np.argwhere(pictures[2][..., 0] - pictures[2][..., 2] > 80)
    assert abs(red_at[:, 1].mean() - 114) <= 3  # the ground truth's peak, three quarters right
    assert (pictures[2][36, 64] == 255).all()  # the fixation, in the middle
    assert shown[:bar].any()  # labels


def test_side_by_side_without_ground_truth(frame):
    shown = visualize.side_by_side(frame, frame[..., 0])
    assert shown.shape[1] == 2 * round(64 * 240 / 36) + visualize._GAP


def history(steps):
    rng = np.random.default_rng(0)
    return [{'step': i, 'loss': 2 / i, 'kl': 2.5 / i, 'cc': rng.random()} for i in steps]


@pytest.mark.parametrize('count', [1, 7, 300])
def test_training_curves(tmp_path, count):
    path = tmp_path / 'new' / 'curves.png'
    visualize.training_curves(path, history(range(1, count + 1)), history([1, count]), 'tiny')
    assert np.asarray(Image.open(path).convert('L')).std() > 5  # something is drawn
    assert [p.name for p in path.parent.iterdir()] == ['curves.png']


def test_running_mean_against_its_definition():
    values = np.random.default_rng(0).random(200)
    wanted = [values[max(i - 5, 0) : i + 6].mean() for i in range(200)]
    np.testing.assert_allclose(visualize._running_mean(values), wanted, rtol=1e-12)


def test_frames_figure(tmp_path, frame):
    maps = [np.eye(5)] * 3
    rows = {'ground truth': maps, 'prediction': maps}
    visualize.frames_figure(tmp_path / 'a.png', [frame] * 3, rows, ['frame 1', 'frame 9'])
    assert Image.open(tmp_path / 'a.png').width > 600
    with pytest.raises(ValueError):
        visualize.frames_figure(tmp_path / 'b.png', [frame] * 2, rows)
    assert [p.name for p in tmp_path.iterdir()] == ['a.png']
