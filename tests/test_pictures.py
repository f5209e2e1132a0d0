"""Image files as frames: grey of many bits, orientation, several images in a file."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data.copies import images
from stsa_jax.errors import InputError
from stsa_jax.media import pictures, video

RAMP = np.linspace(0, 65535, 256 * 4).round().reshape(4, 256).astype(np.uint16)


def png16(values) -> bytes:
    """A PNG of 16-bit grey, written by the format's definition."""

    def chunk(kind, data):
        checksum = struct.pack('>I', zlib.crc32(kind + data))
        return struct.pack('>I', len(data)) + kind + data + checksum

    height, width = values.shape
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in values)
    head = struct.pack('>IIBBBBB', width, height, 16, 0, 0, 0, 0)
    body = chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + body


def saved(values, kind, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


GREY_16 = {
    'a.png': png16(RAMP),
    'a.pgm': b'P5 256 4 65535\n' + RAMP.astype('>u2').tobytes(),
    '16.tif': saved(RAMP, 'tiff'),
    '32.tif': saved(RAMP.astype(np.int32), 'tiff'),
    'float.tif': saved((RAMP / 65535).astype(np.float32), 'tiff'),
}


@pytest.mark.parametrize('name', GREY_16)
def test_grey_of_more_than_eight_bits(tmp_path, name):
    wanted = np.rint(RAMP / 257).astype(np.uint8)
    (tmp_path / name).write_bytes(GREY_16[name])
    frame = next(video.read_frames(tmp_path)[1])
    np.testing.assert_array_equal(frame, np.repeat(wanted[..., None], 3, axis=2))
    assert abs(frame.mean() - 127.5) < 0.1
    np.testing.assert_array_equal(images.decode_frame(GREY_16[name]), frame)  # datasets' frames


@pytest.mark.parametrize(
    'values, found',
    [
        (RAMP.astype(np.int32) * 2, '32-bit integer values range from 0 to 131070'),
        (RAMP.astype(np.int32) - 5, 'range from -5 to 65530'),
        (RAMP.astype(np.int32) // 257, 'range from 0 to 255; expected 8 bits'),  # 8 bits in 32
        (RAMP.astype(np.float32) / 257, '32-bit float values range from 0 to 255'),
        (RAMP.astype(np.float32) * np.nan, 'range from nan to nan'),
    ],
)
def test_values_of_an_unknown_range_are_refused(tmp_path, values, found):
    (tmp_path / '1.tif').write_bytes(saved(values, 'tiff'))
    with pytest.raises(InputError, match=rf'1\.tif: .*{found}'):
        list(video.read_frames(tmp_path)[1])


@pytest.mark.parametrize('kind', ['png', 'png behind', 'webp', 'jpeg', 'tiff'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation_of_every_format(tmp_path, kind, orientation):
    """The eight ways by EXIF's definition: where row 0 and column 0 of the file are displayed."""
    shown = np.zeros((16, 24, 3), np.uint8)
    shown[:8, :12] = 250, 40, 40  # top left is red, top right green, bottom left blue
    shown[:8, 12:] = 40, 250, 40
    shown[8:, :12] = 40, 40, 250
    stored = {
        1: shown, 2: shown[:, ::-1], 3: shown[::-1, ::-1], 4: shown[::-1],
        5: shown.swapaxes(0, 1), 6: np.rot90(shown, 1),
        7: np.rot90(shown, 2).swapaxes(0, 1), 8: np.rot90(shown, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    kind, _, behind = kind.partition(' ')
    options = {'webp': {'lossless': True}, 'jpeg': {'quality': 95, 'subsampling': 0}}.get(kind, {})
    content = saved(np.ascontiguousarray(stored), kind, exif=exif, **options)
    if behind:  # a PNG may have it behind the pixels, and must not be decoded to find it
        at = content.index(b'eXIf') - 4
        length = 12 + int.from_bytes(content[at : at + 4], 'big')
        chunk = content[at : at + length]
        content = content[:at] + content[at + length : -12] + chunk + content[-12:]
    (tmp_path / f'1.{kind}').write_bytes(content)
    info, frames = video.read_frames(tmp_path)
    assert (info.height, info.width) == (16, 24)
    for frame in (next(frames), images.decode_frame(content)):
        assert np.abs(frame.astype(int) - shown).mean() < 3


def animation(path, count, **options):
    pages = [Image.fromarray(np.full((16, 24, 3), 20 * n, np.uint8)) for n in range(count)]
    pages[0].save(path, save_all=True, append_images=pages[1:], **options)
    return path


ANIMATIONS = {'a.tif': {}, 'a.webp': {'lossless': True, 'duration': 200}, 'a.png': {}}


@pytest.mark.parametrize('name', ANIMATIONS)
def test_several_pictures_in_a_file(tmp_path, name):
    path = animation(tmp_path / name, 5, **ANIMATIONS[name])
    with pytest.raises(InputError, match=r'holds 5 images.*give the file itself'):
        video.read_frames(tmp_path)
    with pytest.raises(OSError, match='it holds 5 images'):
        images.decode_frame(path.read_bytes())
    opened = video.open_video(path)  # as it says: all of them
    frames = list(opened.frames)
    assert opened.info.num_frames == len(frames) == 5
    assert [int(f.pixels[0, 0, 0]) for f in frames] == [0, 20, 40, 60, 80]
    assert [f.number for f in frames] == opened.numbers == [1, 2, 3, 4, 5]
    if name == 'a.webp':
        assert [float(f.time) for f in frames] == [0, 0.2, 0.4, 0.6, 0.8]


def test_thumbnails_are_not_further_images(tmp_path):
    """A smaller copy of the page in a TIFF, and the preview in a phone's JPEG (MPO)."""
    page, small = Image.new('RGB', (24, 16), 'red'), Image.new('RGB', (6, 4), 'red')
    small.encoderinfo = {'tiffinfo': {254: 1}}
    page.save(tmp_path / '1.tif', save_all=True, append_images=[small])
    page.save(tmp_path / '2.jpg', format='MPO', save_all=True, append_images=[small])
    assert Image.open(tmp_path / '1.tif').n_frames == Image.open(tmp_path / '2.jpg').n_frames == 2
    assert len(list(video.read_frames(tmp_path)[1])) == 2


def test_size_is_read_without_decoding(tmp_path):
    """A large folder is checked before the work starts, by its headers only."""
    content = saved(np.zeros((600, 800, 3), np.uint8), 'png')
    (tmp_path / 'a.png').write_bytes(content[: content.index(b'IDAT') + 8])
    assert pictures.read_header(tmp_path / 'a.png') == (600, 800, 1)
