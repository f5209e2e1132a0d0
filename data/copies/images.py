"""Images to and from bytes: frames (RGB), density maps and fixation maps (one 8-bit channel).

Maps are stored losslessly. A density map is uint8 with its maximum at 255; a fixation map is 255 at
fixated pixels and 0 elsewhere. Files in circulation also hold maps with three equal channels, a
palette or one bit per pixel; `decode_map` reads them all.
"""

import contextlib
import io
import zlib
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import Image

from stsa_jax.media.pictures import read_picture

JPEG_QUALITY = 95  # 46.8 dB against the resized frame on DHF1K's video 002, at 12 kB per frame


def encode_frame(frame: np.ndarray, encoding: str = 'jpeg') -> bytes:
    """uint8 RGB `(h, w, 3)` -> the bytes of a 'jpeg' (quality 95) or, losslessly, a 'png'."""
    if encoding == 'jpeg':
        frame = np.ascontiguousarray(frame)
        return simplejpeg.encode_jpeg(frame, JPEG_QUALITY, 'RGB', colorsubsampling='420')
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, 'png', compress_level=4)
    return buffer.getvalue()


def decode_frame(content: bytes, buffer: np.ndarray | None = None) -> np.ndarray:
    """The bytes of an image file -> uint8 RGB `(h, w, 3)`, as displayed (EXIF), 16 bits as 8.

    Raises OSError if it is damaged, or holds several images or values of an unknown range.

    A JPEG is decoded into `buffer`, uint8 and contiguous, if it has room; the result is a view.
    """
    if content[:2] == b'\xff\xd8' and b'Exif\0' not in content[:4096]:
        try:  # the same library and pixels as Pillow, in less than half the time
            if buffer is not None:
                # Without reading the size first, which takes Python's lock once more per frame.
                with contextlib.suppress(ValueError):
                    return simplejpeg.decode_jpeg(content, 'RGB', buffer=buffer)
            return simplejpeg.decode_jpeg(content, 'RGB')
        except ValueError as error:
            raise OSError(f'damaged image: {error}') from error
    return read_picture(content)


def encode_map(values: np.ndarray) -> bytes:
    """uint8 or bool `(h, w)` -> the bytes of a one-channel PNG; True becomes 255."""
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, 'png')
    return buffer.getvalue()


def decode_map(content: bytes) -> np.ndarray:
    """The bytes of an image file -> uint8 `(h, w)`; the maximum over several channels.

    Raises OSError if the file is damaged.
    """
    with _opened(content) as image:
        if image.mode in ('1', 'P', 'LA', 'CMYK', 'YCbCr'):
            image = image.convert('L' if image.mode in ('1', 'LA') else 'RGB')
        values = np.asarray(image)
    if values.ndim == 3:
        values = values[..., :3].max(axis=-1)
    if values.dtype != np.uint8:
        values = rescale_to_uint8(values)
    return values


def rescale_to_uint8(values: np.ndarray) -> np.ndarray:
    """Any real `(h, w)` map -> uint8, its maximum at 255; negative and non-finite values are 0."""
    values = np.nan_to_num(np.asarray(values, np.float64), nan=0, posinf=0, neginf=0).clip(0)
    peak = values.max(initial=0)
    return np.rint(values * (255 / peak if peak > 0 else 0)).astype(np.uint8)


def plain_map_size(content: bytes) -> tuple[int, int] | None:
    """(h, w) of a PNG of one 8-bit channel, which can be stored unchanged; None for other files.

    The file is verified by its checksums, in a hundredth of the time that decoding takes. Raises
    OSError if it is damaged.
    """
    if content[:8] != b'\x89PNG\r\n\x1a\n' or content[24:26] != b'\x08\x00':
        return None  # the header after the signature: width, height, bit depth, colour type
    for kind, start, end in _chunks(content):
        checksum = content[end : end + 4]
        if len(checksum) < 4 or zlib.crc32(kind + content[start:end]) != int.from_bytes(
            checksum, 'big'
        ):
            raise OSError('damaged PNG file: cut off, or its checksums are wrong')
    return int.from_bytes(content[20:24], 'big'), int.from_bytes(content[16:20], 'big')


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The kind, start and end of the data of each chunk of a PNG, the last one included."""
    at, kind = 8, b''
    while kind != b'IEND':
        length = int.from_bytes(content[at : at + 4], 'big')
        kind, end = content[at + 4 : at + 8], at + 8 + length
        yield kind, at + 8, end
        at = end + 4


def is_black(content: bytes) -> bool:
    """Whether a map's file is 0 everywhere. Raises OSError if it is damaged.

    A plain PNG is inflated only until a value is found, in a tenth of the time of decoding it.
    """
    if plain_map_size(content):
        data = b''.join(content[a:b] for kind, a, b in _chunks(content) if kind == b'IDAT')
        inflater = zlib.decompressobj()
        try:
            while data and (part := inflater.decompress(data, 1 << 14)):
                # Values below 5 may also be the number of a row's filter; zeros stay 0 under each
                # filter.
                if part.translate(None, b'\0\1\2\3\4'):
                    return False
                data = inflater.unconsumed_tail
        except zlib.error as error:
            raise OSError(f'damaged image: {error}') from error
    return not decode_map(content).any()


def move_points(fixations: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool (h, w) -> bool `size`: each point moves to the pixel that contains its scaled centre.

    At a smaller size several points may fall on one pixel.
    """
    y, x = np.nonzero(fixations)
    moved = np.zeros(size, bool)
    # (y + 1/2) H/h, rounded down, in integers.
    moved[
        (2 * y + 1) * size[0] // (2 * fixations.shape[0]),
        (2 * x + 1) * size[1] // (2 * fixations.shape[1]),
    ] = True
    return moved


def _opened(content: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except Image.DecompressionBombError as error:
        raise OSError(str(error)) from error
    except (SyntaxError, ValueError, IndexError) as error:  # Pillow's decoders on damaged files
        raise OSError(f'damaged image: {error}') from error
    return image


def channels_of(content: bytes) -> int:
    """Number of colour channels of an image file; 1 for a grey one."""
    with Image.open(io.BytesIO(content)) as image:
        return 1 if image.mode in ('1', 'L', 'I', 'F', 'I;16', 'LA') else 3
