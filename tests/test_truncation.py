"""Files whose own structure shows that their end is missing, and others."""

import pytest

from stsa_jax.errors import InputError
from stsa_jax.media import video
from tests.test_video_files import numbered, read, write


@pytest.fixture
def film(tmp_path):
    """Writes 40 frames, and the file's bytes changed; returns the path."""

    def make(name, change, codec='libx264', **options):
        path = write(tmp_path / name, numbered(40), codec, **options)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def told(path):
    """The message of the refusal."""
    with pytest.raises(InputError, match=r'is truncated after \d+ frames') as error:
        video.read_frames(path)
    return str(error.value)


def test_a_download_whose_rest_is_zeros(film):
    """Of the right size, as left by programs that preallocate the space."""
    for name in ('a.mkv', 'a.webm'):
        codec = 'libvpx' if name == 'a.webm' else 'libx264'
        path = film(name, lambda b: b[: len(b) * 2 // 3] + bytes(len(b) - len(b) * 2 // 3), codec)
        assert 'not a Matroska element' in told(path)


def test_padding_behind_a_whole_file(film):
    for name in ('a.mkv', 'a.mp4', 'a.avi', 'a.flv'):
        codec = 'mpeg4' if name == 'a.avi' else 'libx264'
        assert read(film(name, lambda b: b + bytes(1000), codec))[1] == list(range(1, 41))


def tags_of_flv(content):
    """Where each tag ends."""
    at, ends = 13, []
    while at < len(content):
        at += 15 + int.from_bytes(content[at + 1 : at + 4], 'big')
        ends.append(at)
    return ends


def test_flv_that_ends_with_a_tag(film):
    """No tag is incomplete; the length in the header is more than a second longer."""
    path = film('a.flv', lambda b: b[: tags_of_flv(b)[8]])
    assert 'but its header says 1.6' in told(path)


def boxes(content):
    """(kind, end) of each box of an MP4 file."""
    at = 0
    while at < len(content):
        kind, at = content[at + 4 : at + 8], at + int.from_bytes(content[at : at + 4], 'big')
        yield kind, at


def test_fragments_of_which_the_last_ones_are_missing(film):
    """Cut between two fragments: the segment index in front goes further."""

    def two_fragments(content):
        return content[: [end for kind, end in boxes(content) if kind == b'mdat'][1]]

    dash = {'movflags': 'frag_keyframe+empty_moov+dash+global_sidx'}
    path = film('a.mp4', two_fragments, **dash)
    assert 'its segment index extends to' in told(path)
    assert read(film('b.mp4', bytes, **dash))[1] == list(range(1, 41))
    # Without an index nothing tells that there was more, as of a recording that was stopped.
    path = film('c.mp4', two_fragments, movflags='frag_keyframe+empty_moov')
    assert 10 < len(read(path)[1]) < 40


def test_an_avi_that_was_never_finished(film):
    path = film('a.avi', lambda b: b[:4] + bytes(4) + b[8 : b.index(b'idx1')], 'mpeg4')
    assert read(path)[1] == list(range(1, 41))


def test_a_cut_avi_says_where(film):
    path = film('a.avi', lambda b: b[: b.index(b'idx1') - 500], 'mpeg4')
    size = path.stat().st_size
    assert f'the file ends at byte {size}, but its header says that it extends to' in told(path)
