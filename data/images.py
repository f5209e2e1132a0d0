"""Images to and from bytes: frames (RGB), density maps and fixation maps (one 8-bit channel).

Maps are stored losslessly. A density map is uint8 with its maximum at 255; a fixation map is 255 at
fixated pixels and 0 elsewhere. Files in circulation also hold maps with three equal channels, a
palette or one bit a pixel; `decode_map` takes them all.
"""

import io

import numpy as np
from PIL import Image

JPEG_QUALITY = 95  # 46.8 dB against the resized frame on DHF1K's video 002, at 12 kB a frame


def encode_frame(frame: np.ndarray, encoding: str = 'jpeg') -> bytes:
    """uint8 RGB `(h, w, 3)` -> the bytes of a 'jpeg' (quality 95) or, losslessly, a 'png'."""
    buffer = io.BytesIO()
    image = Image.fromarray(frame)
    if encoding == 'jpeg':
        image.save(buffer, 'jpeg', quality=JPEG_QUALITY)
    else:
        image.save(buffer, 'png', compress_level=4)
    return buffer.getvalue()


def decode_frame(content: bytes) -> np.ndarray:
    """The bytes of an image file -> uint8 RGB `(h, w, 3)`. Raises OSError if it is damaged."""
    with _opened(content) as image:
        return np.asarray(image if image.mode == 'RGB' else image.convert('RGB'))


def encode_map(values: np.ndarray) -> bytes:
    """uint8 or bool `(h, w)` -> the bytes of a one-channel PNG; True becomes 255."""
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, 'png')
    return buffer.getvalue()


def decode_map(content: bytes) -> np.ndarray:
    """The bytes of an image file -> uint8 `(h, w)`; of several channels the largest counts.

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
    """Any real `(h, w)` map -> uint8, its maximum at 255; what is below 0 or not finite is 0."""
    values = np.nan_to_num(np.asarray(values, np.float64), nan=0, posinf=0, neginf=0).clip(0)
    peak = values.max(initial=0)
    return np.rint(values * (255 / peak if peak > 0 else 0)).astype(np.uint8)


def is_plain_map(content: bytes) -> bool:
    """Whether the bytes are already a PNG of one 8-bit channel, to be stored as they are.

    PNG's header has the bit depth and the colour type (0: grey) in bytes 24 and 25.
    """
    return content[:8] == b'\x89PNG\r\n\x1a\n' and content[24:26] == b'\x08\x00'


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
