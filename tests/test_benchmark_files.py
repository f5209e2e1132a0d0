"""python -m benchmarks.files: one line for each file of any kind."""

import shutil
import sys

import numpy as np
from PIL import Image

from benchmarks import files
from tests.test_video_files import numbered, write


def test_a_line_for_each_file(tmp_path, monkeypatch, capsys):
    write(tmp_path / 'a.mp4', numbered(12))
    whole = write(tmp_path / 'b.avi', numbered(12), 'mpeg4').read_bytes()
    (tmp_path / 'b.avi').write_bytes(whole[: whole.index(b'idx1') - 200])
    (tmp_path / 'notes.txt').write_text('no video')
    (tmp_path / 'v').mkdir()
    for name in ('21.png', '22.png'):
        Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(tmp_path / 'v' / name)
    monkeypatch.setattr(sys, 'argv', ['files', str(tmp_path)])
    files.main()
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert lines['a.mp4'][:2] == ['12', '12']
    if shutil.which('ffmpeg') and shutil.which('ffprobe'):
        assert lines['a.mp4'][2] == '12' and float(lines['a.mp4'][3]) < 2
    assert 0 < int(lines['b.avi'][1]) < 12 and 'is truncated' in ' '.join(lines['b.avi'])
    assert lines['notes.txt'][:2] == ['-', '-'] and 'cannot read it' in ' '.join(lines['notes.txt'])
    assert lines['v'] == ['2', '2', '-', '-']
