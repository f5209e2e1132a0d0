"""Images to and from bytes: exact where documented, and damage is detected."""

import io
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.copies import images
from stsa_jax.media.preprocess import IMAGENET, normalise, resize_density, resize_frame

RNG = np.random.default_rng(0)


def frame(height=40, width=64) -> np.ndarray:
    small = Image.fromarray(RNG.integers(0, 255, (8, 10, 3), np.uint8))
    return np.asarray(small.resize((width, height)))


def saved(array: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def test_jpeg_decodes_to_the_pixels_that_pillow_gives():
    for content in (
        images.encode_frame(frame()),
        saved(frame(), 'jpeg', quality=70, subsampling=0),
    ):
        pillow = np.asarray(Image.open(io.BytesIO(content)).convert('RGB'))
        np.testing.assert_array_equal(images.decode_frame(content), pillow)
    grey = images.decode_frame(saved(frame()[..., 0], 'jpeg'))
    assert grey.shape == (40, 64, 3) and np.ptp(grey, axis=-1).max() == 0


@pytest.mark.parametrize('shape', [(40, 64, 3), (64, 40, 3), (80, 90, 3), (10, 20, 3)])
def test_jpeg_is_decoded_into_a_buffer_with_room(shape):
    original = frame()
    content, buffer = images.encode_frame(original), np.zeros(shape, np.uint8)
    found = images.decode_frame(content, buffer)
    np.testing.assert_array_equal(found, images.decode_frame(content))
    assert np.shares_memory(found, buffer) == (buffer.size >= original.size)
    with pytest.raises(OSError):
        images.decode_frame(content[: len(content) // 2], buffer)


def test_png_is_lossless():
    original = frame()
    np.testing.assert_array_equal(
        images.decode_frame(images.encode_frame(original, 'png')), original
    )
    density = original[..., 0]
    np.testing.assert_array_equal(images.decode_map(images.encode_map(density)), density)


@pytest.mark.parametrize('kind', ['jpeg', 'png'])
def test_damage_is_an_os_error(kind):
    content = images.encode_frame(frame(), kind)
    for damaged in (content[: len(content) // 2], content[:12], b'', b'text'):
        with pytest.raises(OSError):
            images.decode_frame(damaged)


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_checksums_notice_any_changed_byte_of_a_map(position, value):
    content = bytearray(images.encode_map(frame()[..., 0]))
    assert images.plain_map_size(bytes(content)) == (40, 64)
    # From the header's data on, up to the end of the image's; an `IEND` chunk holds no data.
    position = 16 + position % (len(content) - 28)
    changed = content[position] != value
    content[position] = value
    try:
        size = images.plain_map_size(bytes(content))
    except OSError:
        assert changed
    else:
        # Unchanged, or of a bit depth or colour type that are decoded and so checked otherwise.
        assert (not changed) or size is None


def test_black_maps_are_distinguished_from_all_others():
    values = np.zeros((360, 640), np.uint8)
    pictures = [values, *(values.copy() for _ in range(3))]
    pictures[1][359, 639], pictures[2][0, 0], pictures[3][200, 100:300] = 1, 255, 4
    for picture in pictures:
        for options in ({}, {'compress_level': 0}, {'optimize': True}):
            content = saved(picture, 'png', **options)
            assert images.is_black(content) == (not picture.any())
        for array in (picture > 0, np.stack([picture] * 3, -1)):
            assert images.is_black(saved(array, 'png')) == (not picture.any())
    content = images.encode_map(pictures[1])
    with pytest.raises(OSError):
        images.is_black(content[: len(content) // 2])


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 2**32),
)
def test_moved_points_lie_where_the_scaled_centres_of_their_pixels_do(size, target, seed):
    fixations = np.random.default_rng(seed).random(size) < 0.1
    moved = images.move_points(fixations, target)
    assert moved.shape == target and moved.dtype == bool
    # By exact fractions: the pixel that holds the point, edges counting to the next pixel.
    scale = [Fraction(new, old) for new, old in zip(target, size)]
    expected = {
        tuple(math.floor((i + Fraction(1, 2)) * s) for i, s in zip(point, scale))
        for point in np.argwhere(fixations).tolist()
    }
    assert set(map(tuple, np.argwhere(moved).tolist())) == expected
    if target[0] >= size[0] and target[1] >= size[1]:  # nothing falls together
        assert moved.sum() == fixations.sum()
    if target == size:
        np.testing.assert_array_equal(moved, fixations)


def triangle_filter(length: int, wanted: int) -> np.ndarray:
    """(wanted, length): the weights of antialiased bilinear resizing along one axis, from scratch.

    A triangle over each output pixel's centre, as wide as the pixels of the coarser grid.
    """
    scale = length / wanted
    centres = (np.arange(wanted)[:, None] + 0.5) * scale - 0.5
    weights = np.clip(1 - abs(np.arange(length) - centres) / max(scale, 1), 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize('shape, size', [
    ((360, 640), (224, 384)), ((90, 100), (224, 384)), ((37, 640), (224, 99)),
])  # fmt: skip
def test_density_resizes_by_the_triangle_filter(shape, size):
    density = RNG.random(shape, np.float32)
    rows, columns = (triangle_filter(*pair) for pair in zip(shape, size))
    found = resize_density(density, size)
    assert found.dtype == np.float32
    # Measured 1e-7: Pillow sums in double precision and rounds each of the two passes to float32.
    np.testing.assert_allclose(found, rows @ density @ columns.T, atol=1e-6)


def test_maps_of_every_kind_are_read():
    values = frame()[..., 0]
    assert images.plain_map_size(saved(np.stack([values] * 3, -1), 'png')) is None
    for content in (
        saved(values, 'png'),
        saved(np.stack([values] * 3, axis=-1), 'png'),
        saved(np.dstack([values] * 3 + [np.full_like(values, 255)]), 'png'),  # with opacity
        saved(values, 'bmp'),
    ):
        np.testing.assert_array_equal(images.decode_map(content), values)
    one_bit = saved(values > 128, 'png')
    np.testing.assert_array_equal(images.decode_map(one_bit), (values > 128) * 255)


def test_rescaling_keeps_proportions_and_drops_nan():
    found = images.rescale_to_uint8(np.array([[0.0, 0.5], [1.0, np.nan]]))
    np.testing.assert_array_equal(found, [[0, 128], [255, 0]])
    assert not images.rescale_to_uint8(np.full((2, 2), -1.0)).any()


def test_normalising_is_the_published_arithmetic():
    clip = RNG.integers(0, 256, (3, 5, 7, 3), np.uint8)
    expected = (clip / 255 - np.array(IMAGENET.mean)) / np.array(IMAGENET.std)
    found = normalise(clip)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)  # float32 against float64
    out = np.empty(clip.shape, np.float32)
    assert normalise(clip, out=out) is out
    np.testing.assert_array_equal(out, found)


def test_frames_resize_as_pillow_and_density_keeps_its_place():
    image = frame(360, 640)
    pillow = Image.fromarray(image).resize((384, 224), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resize_frame(image, (224, 384)), np.asarray(pillow))
    density = np.zeros((360, 640), np.float32)
    density[90:100, 480:490] = 1
    y, x = np.unravel_index(resize_density(density, (224, 384)).argmax(), (224, 384))
    assert abs(y / 224 - 95 / 360) < 0.01 and abs(x / 384 - 485 / 640) < 0.01
