"""Real-world folders of frames: two files for a frame, other files, numbers in names."""

import numpy as np
import pytest
from PIL import Image

from stsa_jax.errors import InputError
from stsa_jax.media import video


def save(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for value, name in enumerate(names):
        Image.fromarray(np.full((12, 16, 3), 10 * value, np.uint8)).save(folder / name)
    return folder


PAIRS = [
    ('1.png', '01.png'),
    ('0001.jpg', '0001.png'),
    ('0001.png', '0001_thumb.png'),
    ('IMG_0001.png', 'IMG_0001 - Copy.png'),
    ('IMG_0001.png', 'IMG_0001 - Copy (2).png'),
    ('IMG_0001.png', 'IMG_0001 (2).png'),
    ('IMG_0001.png', 'IMG_0001 copy 3.png'),
    ('left_1.png', 'right_1.png'),
    ('title.jpg', 'title.png'),
]


@pytest.mark.parametrize('pair', PAIRS)
def test_two_files_for_one_frame(tmp_path, pair):
    others = ['IMG_0002.png', 'IMG_0003.png'] if 'title.png' not in pair else []
    with pytest.raises(InputError, match=r'are two files for one frame; remove one') as error:
        video.open_video(save(tmp_path, *pair, *others))
    assert all(name in str(error.value) for name in pair)


NAMES = {
    # In natural order; then what their maps are called. The last number counts if it rises.
    ('frame2.png', 'frame10.png'): ['0002', '0010'],
    ('v1_0021.png', 'v1_0022.png', 'v1_0100.png'): ['0021', '0022', '0100'],
    ('0.png', '1.png'): ['0000', '0001'],
    ('frame (1).png', 'frame (2).png', 'frame (3).png'): ['0001', '0002', '0003'],
    ('s1_9.png', 's2_1.png'): ['s1_9', 's2_1'],
    ('f1_640x360.png', 'f2_640x360.png'): ['f1_640x360', 'f2_640x360'],
    ('a.png', 'b.png'): ['a', 'b'],
}


@pytest.mark.parametrize('names', NAMES)
def test_numbers_and_names_of_frames(tmp_path, names):
    opened = video.open_video(save(tmp_path, *names))
    frames = list(opened.frames)
    assert [frame.name for frame in frames] == NAMES[names]
    assert [int(frame.pixels[0, 0, 0]) for frame in frames] == [10 * i for i in range(len(names))]
    assert [frame.number for frame in frames] == opened.numbers
    if NAMES[names][0].isdecimal():
        assert opened.numbers == [int(name) for name in NAMES[names]]


def test_skipped_files_are_counted_with_the_reason(tmp_path, caplog):
    folder = save(tmp_path, '1.png', '2.png', 'poster.png', '3.png')
    for name in ('Thumbs.db', 'notes.txt', '._1.png'):
        (folder / name).write_text('x')
    (folder / 'maps').mkdir()
    (folder / '4.png').symlink_to(folder / 'nowhere')
    opened = video.open_video(folder)
    assert opened.info.num_frames == 3
    for words in (
        '6 of 9 entries skipped',
        'not an image by its extension: 2 (notes.txt, Thumbs.db)',
        'hidden: 1 (._1.png)',
        'a folder: 1 (maps)',
        'no number in its name: 1 (poster.png)',
        'a broken link: 1 (4.png)',
    ):
        assert words in caplog.text


def test_a_folder_that_holds_only_a_folder_of_frames(tmp_path):
    """As the shots of Hollywood-2: the frames beside the maps."""
    for inner in ('Images', 'maps', 'fixation'):
        save(tmp_path / 'shot' / inner, '0021.png', '0022.png')
    opened = video.open_video(tmp_path / 'shot')
    assert opened.numbers == [21, 22] and opened.info.path == tmp_path / 'shot' / 'Images'
    (tmp_path / 'shot' / 'Images').rename(tmp_path / 'shot' / 'rgb')
    with pytest.raises(InputError, match=r'a folder without frames.*name a folder inside it') as e:
        video.open_video(tmp_path / 'shot')
    assert str(tmp_path / 'shot' / 'rgb') in str(e.value)
