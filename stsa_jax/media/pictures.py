"""Reads image files as frames: uint8 RGB `(h, w, 3)`, as displayed; Pillow only.

Pillow's own conversion clips grey values of more than 8 bits at 255. Here 16-bit values, 0 to
65535, are divided by 257, and floats in [0, 1] multiplied by 255. The EXIF orientation is applied
for every format.
"""

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')
_ORIENTATION = 0x0112  # EXIF's and TIFF's tag
_REDUCED = 254  # TIFF's tag NewSubfileType, whose bit 0 marks a smaller copy of another page
_PNG = b'\x89PNG\r\n\x1a\n'


class Header(NamedTuple):
    """Size in pixels, as displayed, and the number of images in the file."""

    height: int
    width: int
    pictures: int


def read_header(path: Path) -> Header:
    """Reads the header only. Raises OSError if Pillow cannot read the file."""
    with _opened(path) as image:
        width, height = image.size
        # 5 to 8 swap the sides; Pillow has already done so for TIFF.
        if image.format != 'TIFF' and _exif(image).get(_ORIENTATION, 1) >= 5:
            width, height = height, width
        return Header(height, width, len(_pages(image)))


def read_picture(source: Path | bytes) -> np.ndarray:
    """The only image of a file, or of a file's bytes: uint8 RGB `(h, w, 3)`.

    Raises OSError if it is damaged, holds several images, or values of an unknown range.
    """
    with _opened(source) as image:
        if (count := len(_pages(image))) > 1:
            raise OSError(f'it holds {count} images, but one was expected')
        return _pixels(image)


def read_pictures(path: Path) -> Iterator[tuple[np.ndarray, float]]:
    """Each image of a file, with its duration in seconds, 0 if the file does not state it.

    Raises OSError like `read_picture`.
    """
    with _opened(path) as image:
        for page in _pages(image):
            image.seek(page)
            image.load()  # an animation's durations are known only after this
            yield _pixels(image), float(image.info.get('duration') or 0) / 1000


@contextmanager
def _opened(source: Path | bytes) -> Iterator[Image.Image]:
    file: IO[bytes] | Path = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file) as image:
            yield image
    except (
        SyntaxError, ValueError, IndexError, EOFError, struct.error, Image.DecompressionBombError,
    ) as error:  # Pillow's decoders on damaged files  # fmt: skip
        raise OSError(f'damaged image: {error}') from error


def _pages(image: Image.Image) -> list[int]:
    """The indices of a file's images, without a TIFF's thumbnails and what phones add."""
    count = getattr(image, 'n_frames', 1) if image.format in ('TIFF', 'WEBP', 'PNG') else 1
    if image.format != 'TIFF' or count == 1:
        return list(range(count))
    pages = []
    for page in range(count):
        image.seek(page)
        tags = getattr(image, 'tag_v2', {})
        if page == 0 or not tags.get(_REDUCED, 0) & 1:
            pages.append(page)
    image.seek(0)
    return pages


def _exif(image: Image.Image) -> Image.Exif:
    """The EXIF data; for a PNG without decoding, although it may come after the pixels."""
    if image.format == 'PNG' and 'exif' not in image.info and (data := _png_exif(image)):
        image.info['exif'] = data
    return Image.Image.getexif(image)


def _png_exif(image: Image.Image) -> bytes:
    """The eXIf chunk of a PNG file, b'' if it has none."""
    file = image.fp if isinstance(image, ImageFile.ImageFile) else None
    if file is None:
        return b''
    place = file.tell()
    try:
        at = len(_PNG)
        while True:
            file.seek(at)
            head = file.read(8)
            length = int.from_bytes(head[:4], 'big')
            if len(head) < 8 or head[4:] == b'IEND':
                return b''
            if head[4:] == b'eXIf':
                return file.read(length)
            at += 12 + length
    finally:
        file.seek(place, os.SEEK_SET)


def _pixels(image: Image.Image) -> np.ndarray:
    turned = image.format != 'TIFF' and _exif(image).get(_ORIENTATION, 1) != 1
    upright = ImageOps.exif_transpose(image) if turned else image
    if upright.mode.startswith('I') or upright.mode == 'F':
        grey = _to_8bit(np.asarray(upright), wide=upright.mode == 'I' and image.format == 'TIFF')
        return np.repeat(grey[..., None], 3, axis=2)
    return np.array(upright if upright.mode == 'RGB' else upright.convert('RGB'))


def _to_8bit(values: np.ndarray, wide: bool) -> np.ndarray:
    """Grey values of more than 8 bits -> uint8. `wide`: they are stored in 32 bits."""
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if values.dtype.kind == 'f':
        if low >= 0 and high <= 1:
            return np.rint(values * 255).astype(np.uint8)
    # In 32 bits, values up to 255 are 8-bit values rather than very dark 16-bit ones.
    elif low >= 0 and high <= 65535 and not (wide and 0 < high <= 255):
        return np.rint(values / 257).astype(np.uint8)
    kind = f'{values.dtype.itemsize * 8}-bit {"float" if values.dtype.kind == "f" else "integer"}'
    raise OSError(
        f'its {kind} values range from {low:g} to {high:g}; expected 8 bits, 16 bits from 0 to '
        '65535, or floats from 0 to 1'
    )
