"""Detects truncated files from their own structure: boxes, chunks and index.

The length of the streams is no evidence: in complete files audio may outlast the video, subtitles
may outlast both, and the video may start late.
"""

import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import av

Read = Callable[[int, int], bytes]  # (offset, number of bytes); fewer at the end of the file


def breaks_off(path: Path, stream: av.VideoStream) -> str:
    """How the file shows that its end is missing; '' if it does not.

    Supports Matroska and WebM, MP4 and MOV, AVI, FLV and Ogg; other formats do not state their
    size.

    Args:
        path: the file.
        stream: the file's open stream, with all packets read, so that its index is complete.
    """
    size = path.stat().st_size
    with open(path, 'rb') as file:

        def read(at: int, count: int) -> bytes:
            return os.pread(file.fileno(), count, at)

        head = read(0, 12)
        if head[:4] == b'\x1aE\xdf\xa3':
            return _matroska(read, size)
        if head[:4] == b'RIFF':
            return _riff(read, size)
        if head[:3] == b'FLV':
            return _flv(read, size)
        if head[:4] == b'OggS':
            return _ogg(read, size)
        if head[4:8] in (b'ftyp', b'moov', b'mdat', b'free', b'wide', b'skip', b'styp'):
            return _mp4(read, size, stream)
    return ''


def _ends_at(size: int, stated: int, where: str) -> str:
    return f'the file ends at byte {size}, but {where} extends to {stated}'


def _matroska(read: Read, size: int) -> str:
    """Element by element (RFC 8794, RFC 9559), also inside segments and clusters."""
    segment, cluster = b'\x18\x53\x80\x67', b'\x1f\x43\xb6\x75'
    at, end = 0, size
    while at < min(end, size):
        head = read(at, 12)
        id_length = 9 - head[0].bit_length()
        if id_length > 4 or (length := _vint(head[id_length:])) is None:
            if at + 12 > size:
                return f'the file ends within the header of an element, at byte {size}'
            return f'its data at byte {at} are not a Matroska element'
        content, value = length
        inside = at + id_length + content
        known = value != (1 << 7 * content) - 1  # all ones: unknown length, as in live streams
        if known and inside + value > size:
            what = 'a segment' if head[:4] == segment else 'an element'
            return _ends_at(size, inside + value, what)
        if head[:4] == segment:
            end = inside + value if known else size  # the rest may be padding
        if head[:4] in (segment, cluster):
            at = inside
        elif known:
            at = inside + value
        else:
            return ''
    return ''


def _vint(content: bytes) -> tuple[int, int] | None:
    """(bytes, value) of a variable-length number; None if it is invalid or cut off."""
    length = 9 - content[0].bit_length() if content else 9
    if length > 8 or len(content) < length:
        return None
    return length, int.from_bytes(content[:length], 'big') & (1 << 7 * length) - 1


def _riff(read: Read, size: int) -> str:
    """AVI: one RIFF chunk, and more in large files (OpenDML)."""
    at = 0
    while len(head := read(at, 8)) == 8 and head[:4] == b'RIFF':
        length = int.from_bytes(head[4:], 'little')
        if length in (0, 0xFFFFFFFF):  # a recording that was never finished
            return ''
        if at + length > size:  # not 8 more: some programs include the header
            return _ends_at(size, at + 8 + length, 'its header says that it')
        at += 8 + length + length % 2
    return ''


def _flv(read: Read, size: int) -> str:
    """Tag by tag; at the end of a tag, checks the size and length that the header states."""
    at = int.from_bytes(read(5, 4), 'big') + 4
    stated_size, stated_seconds, milliseconds = 0.0, 0.0, 0
    while len(head := read(at, 11)) == 11 and head[0] & 0x1F in (8, 9, 18):
        length = int.from_bytes(head[1:4], 'big')
        if at + 11 + length > size:
            return _ends_at(size, at + 11 + length, 'its last tag')
        if head[0] & 0x1F == 18 and not stated_seconds:
            content = read(at + 11, length)
            stated_size, stated_seconds = (_amf(content, n) for n in (b'filesize', b'duration'))
        milliseconds = int.from_bytes(head[7:8] + head[4:7], 'big')
        at += 15 + length
    if at < size and len(head) < 11:
        return f'the file ends within the header of a tag, at byte {size}'
    # Over all audio and video tags; the last frame may be shown for a while.
    if milliseconds / 1000 + 1 < stated_seconds and not 0 < stated_size <= size:
        return f'at {milliseconds / 1000:.2f} s, but its header says {stated_seconds:.2f} s'
    return ''


def _amf(content: bytes, name: bytes) -> float:
    """The number `name` in an FLV's metadata, 0 if missing."""
    found = re.search(re.escape(name) + rb'\x00(.{8})', content, re.DOTALL)
    value: float = struct.unpack('>d', found[1])[0] if found else 0.0
    return value if 0 < value < 1e15 else 0.0


def _ogg(read: Read, size: int) -> str:
    """Page by page (RFC 3533)."""
    at = 0
    while (head := read(at, 27 + 255))[:4] == b'OggS':
        table = head[27 : 27 + head[26]] if len(head) > 26 else b''
        end = at + 27 + len(table) + sum(table)
        if len(head) < 27 or len(table) < head[26] or end > size:
            return f'the file ends within a page, at byte {size}'
        at = end
    return ''


def _mp4(read: Read, size: int, stream: av.VideoStream) -> str:
    """From the index; for a fragmented file, with an index per fragment, also from its boxes."""
    last = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if last > size:
        return _ends_at(size, last, 'its index')
    boxes = list(_boxes(read, size))
    if all(kind != b'moof' for kind, _, _ in boxes):
        return ''
    for kind, start, end in boxes:
        if end > size:
            return _ends_at(size, end, f'its box {kind.decode("latin-1")}')
        if kind == b'sidx' and (stated := end + _referenced(read(start, end - start))) > size:
            return _ends_at(size, stated, 'its segment index')
    return ''


def _boxes(read: Read, size: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of the top-level boxes of an MP4 file; the last may be cut off."""
    at = 0
    while at < size and len(head := read(at, 16)) >= 8:
        length = int.from_bytes(head[:4], 'big')
        if length == 1:
            length = int.from_bytes(head[8:], 'big')
        if length < 8:  # 0: to the end of the file; else padding
            return
        yield head[4:8], at, at + length
        at += length


def _referenced(box: bytes) -> int:
    """Bytes after a sidx box, ISO 14496-12 8.16.3, that it references."""
    wide = 8 if box[8:9] != b'\0' else 4
    at = 20 + 2 * wide
    offset = int.from_bytes(box[at - wide : at], 'big')
    count = int.from_bytes(box[at + 2 : at + 4], 'big')
    sizes = (box[at + 4 + 12 * i : at + 8 + 12 * i] for i in range(count))
    return offset + sum(int.from_bytes(s, 'big') & 0x7FFFFFFF for s in sizes)
