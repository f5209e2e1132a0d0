"""Images to and from bytes: exact where promised, and damage noticed."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data import images
from stsa_jax.preprocess import IMAGENET, normalise, resize_density, resize_frame

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


def test_maps_of_every_sort_are_read():
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


def test_rescaling_keeps_proportions_and_drops_what_is_no_number():
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
