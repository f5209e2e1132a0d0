"""Reads saliency maps: images of 8 or 16 bits, TIFF, NumPy and MATLAB arrays.

Values are used unchanged: 8 bits stay uint8, everything else becomes float32. The metrics are
invariant to the scale of a map.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from stsa_jax.errors import InputError

IMAGES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff')
ARRAYS = ('.npy', '.npz', '.mat')
SUFFIXES = IMAGES + ARRAYS
LOOKED_AT = 8  # files to inspect before the work starts
STRETCH = 0.1  # tolerance of the aspect ratio: 384x224 for a video of 640x360 differs by 0.04
FEW = 4  # a map with at most this many different values is nearly binary


def read_map(path: Path) -> np.ndarray:
    """`(h, w)`, uint8 from files of 8 bits (one bit becomes 0 and 255), else float32.

    Colour images with equal channels are read as grey. Raises InputError for other colour images,
    for arrays that are not a single map, and for unreadable files.
    """
    if path.suffix.lower() not in ARRAYS:
        return _read_image(path)
    try:
        found = _read_array(path)
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise InputError(
            f'{path}: not a readable array ({error}); write this map again, as (height, width)'
        ) from error
    shape = found.shape
    found = np.squeeze(found) if found.ndim > 2 else found
    if found.ndim != 2 or not found.size or found.dtype.kind not in 'biuf':
        raise InputError(
            f'{path}: an array of type {found.dtype} and shape {shape}; expected one map, (height, '
            'width), in a file for each frame'
        )
    return _as_map(found)


def notes_on(files: Sequence[tuple[Path, tuple[int, int]]]) -> list[str]:
    """Warnings about the maps in `(file, (h, w) of its video)`, from a few evenly spaced ones."""
    if not files:
        return []
    picked = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, LOOKED_AT).astype(int))]
    maps = {path: read_map(path) for path, _ in picked}
    lines = []
    exact = {path: found for path, found in maps.items() if found.dtype != np.uint8}
    if exact:
        values = np.concatenate([found[np.isfinite(found)] for found in exact.values()])
        low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
        lines.append(
            f'{_of(exact, maps)} have values of more than 8 bits, from {low:g} to {high:g}; they '
            'are used as they are'
        )
    binary = {path: found for path, found in maps.items() if len(np.unique(found)) <= FEW}
    if binary:
        values = np.unique(np.concatenate([np.unique(found) for found in binary.values()]))
        shown = ', '.join(f'{value:g}' for value in values[:6])
        lines.append(
            f'{_of(binary, maps)} have {FEW} different values or fewer ({shown}), nearly binary, '
            'like maps in [0, 1] that were stored as integers; they are scored as they are'
        )
    stretched = {
        path: (maps[path].shape, size)
        for path, size in picked
        if abs(np.log(maps[path].shape[0] * size[1] / (maps[path].shape[1] * size[0]))) > STRETCH
    }
    if stretched:
        (h, w), (height, width) = next(iter(stretched.values()))
        lines.append(
            f'{_of(stretched, maps)} are {w}x{h}, another aspect ratio than the video, '
            f'{width}x{height}; they are stretched to it. Are rows and columns swapped?'
        )
    return lines


def _of(some: dict, looked_at: dict) -> str:
    """`2 of 8 maps inspected, such as maps/0001/0001.png,`."""
    return f'{len(some)} of {len(looked_at)} maps inspected, such as {next(iter(some))},'


def _read_array(path: Path) -> np.ndarray:
    suffix = path.suffix.lower()
    if suffix == '.mat':
        from data.copies.matlab import read_matlab  # the library imports without the datasets

        return read_matlab(path)
    found = np.load(path, allow_pickle=False)
    if isinstance(found, np.ndarray):
        return found
    with found as arrays:
        if len(arrays.files) != 1:
            raise ValueError(f'holds {len(arrays.files)} arrays: {", ".join(arrays.files[:5])}')
        return arrays[arrays.files[0]]


def _read_image(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            image.load()
            mode = image.mode
            if mode == 'P':
                image, mode = image.convert('RGB'), 'RGB'
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f'{path}: not a readable image ({error}); write this map again') from error
    if pixels.ndim == 2:
        return _as_map(pixels)
    colours = pixels[..., :1] if mode == 'LA' else pixels[..., :3]
    opaque = mode == 'RGB' or (mode in ('RGBA', 'LA') and (pixels[..., -1] == 255).all())
    if opaque and (colours == colours[..., :1]).all():
        return np.ascontiguousarray(colours[..., 0])
    raise InputError(
        f'{path}: a colour image (mode {mode}), expected a grey map; a coloured heat map cannot '
        'be scored, write the saliency values'
    )


def _as_map(values: np.ndarray) -> np.ndarray:
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    return values if values.dtype == np.uint8 else values.astype(np.float32)
