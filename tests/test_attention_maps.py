"""Attention maps against the network's own matrices, gradients against known derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stsa_jax import InputError, STSANet, STSANetConfig
from stsa_jax.inference import attention_maps
from stsa_jax.models import functional, stsa
from stsa_jax.models.layers import Conv, Taps
from stsa_jax.weights import initial

pytestmark = pytest.mark.usefixtures('quick_compilation')

SIZE = (64, 96)
GRIDS = {0: (8, 12), 1: (8, 12), 2: (4, 6), 3: (2, 3)}


def one_hot_taps():
    """Attention where each query attends to one key, which encodes step, layer and pair."""
    taps = {}
    for level, (h, w) in GRIDS.items():
        for layer, pairs, steps in ((1, 2, 1), (2, 1, 2)):
            for pair in range(pairs):
                for offset, direction in ((1, 'a_to_b'), (2, 'b_to_a')):
                    n = steps * h * w
                    shift = offset + 3 * pair + 7 * layer
                    matrix = np.eye(n, dtype=np.float32)[(np.arange(n) + shift) % n]
                    taps[f'branch{level}.layer_{layer}.pair{pair}.{direction}'] = matrix[None]
    return taps


@pytest.mark.parametrize('step', range(4))
@pytest.mark.parametrize('level', range(4))
def test_each_step_looks_where_its_own_row_says(step, level):
    h, w = GRIDS[level]
    place, row = (0.6, 0.3), int(0.3 * h) * w + int(0.6 * w)
    maps = attention_maps.attention_maps(one_hot_taps(), SIZE, place, step)
    looks = maps[level].reshape(4, h * w)
    # Layer I: steps 0, 1 are pair 0 and 2, 3 pair 1; the even one is a. Layer II: 0, 1 are a.
    partner, pair, direction = step ^ 1, step // 2, 1 + step % 2
    np.testing.assert_array_equal(
        looks[partner], np.eye(h * w)[(row + direction + 3 * pair + 7) % (h * w)]
    )
    other_half = looks[2:] if step < 2 else looks[:2]
    at = ((step % 2) * h * w + row + 1 + step // 2 + 14) % (2 * h * w)
    np.testing.assert_array_equal(other_half.ravel(), np.eye(2 * h * w)[at])
    assert not looks[step].any()


def test_a_single_matrix_shows_all_four_steps():
    taps = {}
    for level, (h, w) in GRIDS.items():
        matrix = np.random.default_rng(level).random((1, 4 * h * w, 4 * h * w), np.float32)
        taps[f'branch{level}.layer_1.whole.all_to_all'] = matrix
    maps = attention_maps.attention_maps(taps, SIZE, (0.6, 0.3), 2)
    for level, (h, w) in GRIDS.items():
        at = 2 * h * w + int(0.3 * h) * w + int(0.6 * w)
        expected = taps[f'branch{level}.layer_1.whole.all_to_all'][0, at]
        np.testing.assert_array_equal(maps[level].ravel(), expected)


def test_no_attention_between_times_is_an_error():
    own = {'branch1.layer_1.pair0.a_to_a': np.ones((1, 1, 96, 96), np.float32)}
    for taps in ({}, own):
        with pytest.raises(InputError, match='no attention between time steps'):
            attention_maps.attention_maps(taps, SIZE, (0.6, 0.3), 2)


def test_against_the_layers_own_queries_and_keys():
    """A real STSA module: its matrices are softmax(q . k) of the expected positions."""
    build = functools.partial(stsa.STSAModule, (2, 3), (4, 4), bottleneck=False)
    graphdef, *shapes = functional.abstract(build, (4, 4))
    state = initial.random_weights(*shapes)
    x = np.random.default_rng(0).standard_normal((1, 4, 2, 3, 4), np.float32)

    def run(x):
        taps = {}
        module = nnx.merge(graphdef, *state)
        module(x, Taps(taps).at('branch3'))
        first = module.layer_1.pair1  # steps 2 and 3
        return taps, first.b(x[:, 3:])[0], first.a(x[:, 2:3])[1]

    taps, query_b, key_a = jax.jit(run)(x)
    maps = attention_maps.attention_maps(taps, SIZE, (0.99, 0.6), step=3)[3]
    logits = np.asarray(query_b[0, 5] @ key_a[0].T)  # the last place: row 1, column 2
    wanted = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(maps[2].ravel(), wanted, rtol=1e-5)  # float32
    np.testing.assert_allclose(maps[:2].sum(), 1, rtol=1e-5)


def test_the_networks_own_matrices_at_every_level():
    """From the taps of a tiny STSA-Net after its backbone, for every time step."""
    config = STSANetConfig(image_size=(64, 96), frames=16, width=0.125)
    graphdef, *shapes = functional.abstract(STSANet, config)
    state = initial.random_weights(*shapes)
    rng = np.random.default_rng(0)
    sizes = (8, 16, 24, 24), (8, 8, 12, 60), (4, 4, 6, 104), (2, 2, 3, 128)
    stages = [rng.random((1, *size), np.float32) for size in sizes]

    def run(state, stages):
        taps, network = {}, nnx.merge(graphdef, *state)
        for level, stage in enumerate(stages):
            getattr(network, f'branch{level}')(stage, Taps(taps).at(f'branch{level}'))
        return {name: array for name, array in taps.items() if '_to_' in name}

    taps = jax.jit(run)(state, stages)
    for step in range(4):
        maps = attention_maps.attention_maps(taps, config.image_size, (0.6, 0.3), step)
        assert {level: looks.shape[1:] for level, looks in maps.items()} == GRIDS
        half = slice(2, 4) if step < 2 else slice(0, 2)
        for looks in maps.values():
            np.testing.assert_allclose(looks[step ^ 1].sum(), 1, rtol=1e-5)
            np.testing.assert_allclose(looks[half].sum(), 1, rtol=1e-5)
            assert not looks[step].any() and looks.min() >= 0


def test_levels_without_attention_are_left_out():
    taps = {k: v for k, v in one_hot_taps().items() if 'branch1' not in k}
    taps.pop('branch2.layer_1.pair0.a_to_b')
    maps = attention_maps.attention_maps(taps, SIZE, (0.5, 0.5), 0)
    assert list(maps) == [0, 2, 3]
    assert not maps[2][:2].any() and maps[2][2:].any()


@given(
    st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True),
    st.integers(1, 60), st.integers(1, 100),
)  # fmt: skip
def test_place_is_the_cell_that_holds_it(x, y, h, w):
    row, column = divmod(attention_maps.place_index((x, y), (h, w)), w)
    assert row <= y * h < row + 1 and column <= x * w < column + 1


def test_place_outside():
    with pytest.raises(ValueError, match=r'\[0, 1\)'):
        attention_maps.place_index((1.0, 0.5), (4, 4))


@pytest.mark.parametrize(
    ('frames', 'target', 'step'), [(32, 15, 1), (32, 31, 3), (16, 7, 1), (16, 0, 0), (64, 32, 2)]
)
def test_target_step(frames, target, step):
    assert attention_maps.target_step(frames, target) == step


def test_input_gradient_is_the_largest_derivative_over_channels():
    weights = np.random.default_rng(0).standard_normal((4, 8, 12, 3)).astype(np.float32)

    def model(clip):  # each output pixel is a weighted sum of its own column of pixels
        return (clip * weights).sum((1, 4))

    clip = np.ones((4, 8, 12, 3), np.float32)
    found = attention_maps.input_gradient(model, clip, (0.5, 0.25))
    wanted = np.zeros((4, 8, 12), np.float32)
    wanted[:, 2, 6] = np.abs(weights[:, 2, 6]).max(-1)
    np.testing.assert_array_equal(found, wanted)
    mean = attention_maps.input_gradient(model, clip)
    np.testing.assert_allclose(mean, np.abs(weights).max(-1) / 96, rtol=1e-6)


def test_gradient_through_a_network_follows_finite_differences():
    """Of one convolution, merged inside the function as in the real model."""
    graphdef, *shapes = functional.abstract(functools.partial(Conv, 3, kernel=(1, 3, 3)), 1)
    state = initial.random_weights(*shapes)

    def model(clip):
        return jnp.tanh(nnx.merge(graphdef, *state)(clip)[..., 0]).mean(1)

    clip = np.random.default_rng(0).standard_normal((2, 6, 6, 3)).astype(np.float32)
    place = (0.5, 0.5)
    gradient = attention_maps.input_gradient(model, clip, place)
    t, y, x = np.unravel_index(gradient.argmax(), gradient.shape)
    slopes = []
    for channel in range(3):
        step = np.zeros_like(clip)
        step[t, y, x, channel] = 1e-2
        up, down = (float(model((clip + s * step)[None])[0, 3, 3]) for s in (1, -1))
        slopes.append(abs(up - down) / 2e-2)
    # Central differences in float32: 1e-7 of rounding over 2e-2, and curvature of tanh.
    assert max(slopes) == pytest.approx(gradient.max(), rel=1e-2)


def test_gradient_is_zero_outside_the_receptive_field():
    """Two 3x3 convolutions see five rows and columns; the temporal one a step to either side."""
    shapes = [
        functional.abstract(functools.partial(Conv, 3, kernel=kernel), 3)
        for kernel in ((1, 3, 3), (1, 3, 3), (3, 1, 1))
    ]
    layers = [nnx.merge(g, *initial.random_weights(*trees, seed=1)) for g, *trees in shapes]

    def model(clip):
        for layer in layers:
            clip = layer(clip)
        return clip[:, 4].mean(-1)

    clip = np.random.default_rng(0).random((8, 9, 11, 3), np.float32)
    gradient = attention_maps.input_gradient(model, clip, (0.55, 0.5))  # row 4, column 6
    seen = np.zeros((8, 9, 11), bool)
    seen[3:6, 2:7, 4:9] = True
    assert (gradient[~seen] == 0).all() and (gradient[seen] > 0).all()
    assert (attention_maps.input_gradient(model, clip)[3:6] > 0).all()


@pytest.mark.parametrize('place', [(0.5, 0.5), None])
def test_gradient_figure(tmp_path, place):
    """The column of the target shows that frame, and the one with the gradient its colours."""
    clip = [np.full((90, 160, 3), 40, np.uint8)] * 16
    clip[7] = np.full((90, 160, 3), (200, 0, 0), np.uint8)
    gradient = np.zeros((16, 64, 96))
    gradient[12:14, 20:40, 30:60] = 1
    path = tmp_path / 'a.png'
    attention_maps.gradient_figure(path, clip, gradient, place, 7)
    picture = np.asarray(Image.open(path).convert('RGB')).astype(int)[:, 40:]
    columns = np.array_split(picture, 8, axis=1)
    red = [((c[..., 0] - c[..., 1]) > 150).mean() for c in columns]
    assert np.argmax(red) == 3 and sorted(red)[-2] < 0.3 * max(red)
    colours = [(np.ptp(c[len(c) // 2 :], axis=-1) > 50).mean() for c in columns]
    assert colours[6] > 0.05 and colours[0] == colours[1] == 0


def test_figure(tmp_path):
    clip = [np.full((90, 160, 3), 40, np.uint8)] * 16
    clip[7] = np.full((90, 160, 3), (200, 0, 0), np.uint8)  # the target: red, in the second column
    maps = attention_maps.attention_maps(one_hot_taps(), SIZE, (0.5, 0.5), 1)
    gradient = np.random.default_rng(0).random((16, 64, 96))
    path = tmp_path / 'a.png'
    attention_maps.attention_figure(path, clip, maps, (0.5, 0.5), 7, gradient)
    picture = np.asarray(Image.open(path).convert('RGB')).astype(int)
    first_row = picture[60:120, 40:]
    red = (first_row[..., 0] - first_row[..., 1] > 150).mean(0)
    columns = np.flatnonzero(red > 0.5) / len(red)
    assert columns.min() > 0.24 and columns.max() < 0.52
    colours = np.ptp(picture[150:-20, 40:], axis=-1)
    assert all(part.max() > 100 for part in np.array_split(colours, 4, axis=1))
    assert [p.name for p in tmp_path.iterdir()] == ['a.png']
