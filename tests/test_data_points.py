"""Points of fixation maps that went through JPEG or were resized, against the true ones."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter

from data.copies.images import decode_map
from data.copies.points import find_points
from stsa_jax import metrics

SIZE = 180, 320


def scattered(count, seed=0, size=SIZE):
    rng = np.random.default_rng(seed)
    fixated = np.zeros(size, bool)
    fixated[rng.integers(4, size[0] - 4, count), rng.integers(4, size[1] - 4, count)] = True
    return fixated


def as_jpeg(fixated, quality):
    file = io.BytesIO()
    Image.fromarray(fixated.astype(np.uint8) * 255).save(file, 'jpeg', quality=quality)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize('quality', [50, 75, 90, 100])
@pytest.mark.parametrize('count', [1, 13, 60])
def test_points_are_recovered_after_jpeg(quality, count):
    for seed in range(5):
        fixated = scattered(count, seed)
        fixated[50, 60:62] = fixated[90:93, 100] = True  # neighbours too
        noisy = as_jpeg(fixated, quality)
        assert np.count_nonzero(noisy) > fixated.sum() or quality == 100
        found = find_points(noisy)
        np.testing.assert_array_equal(found.fixated, fixated)
        assert found.recovered == (len(np.unique(noisy)) > 2)


def test_the_real_annotation_survives_jpeg(real_data):
    for number in (10, 300, 700):
        path = real_data / 'dhf1k' / 'annotation' / '0002' / 'fixation' / f'{number:04d}.png'
        fixated = decode_map(path.read_bytes()) > 0
        np.testing.assert_array_equal(find_points(as_jpeg(fixated, 75)).fixated, fixated)


def test_nss_is_that_of_the_true_points():
    fixated = scattered(13)
    density = gaussian_filter(fixated.astype(np.float32), 6)
    noisy = as_jpeg(fixated, 75)
    nss = [float(metrics.nss(density[None], f[None])[0])
           for f in (fixated, noisy > 0, find_points(noisy).fixated)]  # fmt: skip
    assert nss[1] < nss[0] - 0.1  # what every value above 0 gave
    assert nss[2] == nss[0]


@pytest.mark.parametrize('scale', [0.5, 0.75, 1.5, 2, 3])
@pytest.mark.parametrize('filter', [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_after_resizing_the_points_lie_within_a_pixel(scale, filter):
    fixated = np.zeros(SIZE, bool)  # far apart, at every place between the new pixels
    fixated[10:170:17, 10:310:23] = True
    size = round(SIZE[1] * scale), round(SIZE[0] * scale)
    resized = np.asarray(Image.fromarray(fixated.astype(np.uint8) * 255).resize(size, filter))
    found = find_points(resized)
    wanted = np.zeros(size[::-1], bool)
    y, x = np.nonzero(fixated)
    wanted[((y + 0.5) * scale).astype(int), ((x + 0.5) * scale).astype(int)] = True
    assert found.recovered and found.fixated.sum() == wanted.sum() < np.count_nonzero(resized)
    assert not (found.fixated & ~binary_dilation(wanted, np.ones((3, 3)))).any()


@pytest.mark.parametrize(
    'values',
    [
        np.where(scattered(13), 1, 0),
        np.where(scattered(13), 255, 0).astype(np.uint8),
        np.where(scattered(13), 0.25, 0.0),
        scattered(13),
        np.where(scattered(13), 1, 0) + np.where(scattered(3), 1, 0) * 2,  # counts
        (np.where(scattered(40), 1, 0) + np.where(scattered(9), 1, 0)) / 49,
    ],
)
def test_constants_and_counts_are_points(values):
    found = find_points(values)
    np.testing.assert_array_equal(found.fixated, values > 0)
    assert not found.recovered


def test_an_empty_map_has_no_points():
    found = find_points(np.zeros(SIZE, np.uint8))
    assert not found.fixated.any() and not found.recovered


def test_other_maps_are_refused():
    blurred = gaussian_filter(scattered(13).astype(float), 8)
    noise = np.random.default_rng(0).integers(0, 256, SIZE).astype(np.uint8)
    for values in (blurred, np.rint(255 * blurred / blurred.max()).astype(np.uint8), noise):
        with pytest.raises(ValueError, match='neither one constant nor points'):
            find_points(values)
