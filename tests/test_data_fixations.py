"""The command data.fixations on imperfect copies, and what --compare must not ignore."""

import numpy as np
import pytest

import data.fixations
from stsa_jax.errors import InputError
from tests import data_copies as copies

HEADER = 'Time\tType\tTrial\tL Dia X [px]\tL Dia Y [px]\tL POR X [px]\tL POR Y [px]\tL Event Info'


def dhf1k_record(copy, viewer: int, video: int, content: str | None = None) -> None:
    """A viewer who looks at the screen's centre for six frames."""
    rows = [f'{t * 33_334}\tSMP\t1\t0\t0\t720.0\t450.0\tFixation' for t in range(6)]
    path = copy / 'exportdata_train' / f'P{viewer:02d}' / f'P{viewer:02d}_Trail{video:03d}.txt'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content or '\n'.join([HEADER, *rows, '']))


def run(dataset: str, tmp_path, *options: str) -> None:
    data.fixations.main(
        [dataset, f'--source={tmp_path / "copy"}', f'--output={tmp_path / "out"}', *options]
    )


def frames_in(folder) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob('*.png'))


def test_a_bad_record_is_named_and_the_others_are_used(tmp_path, capsys):
    copy = tmp_path / 'copy'
    for viewer, video in ((1, 1), (2, 1), (1, 3)):
        dhf1k_record(copy, viewer, video)
    dhf1k_record(copy, 3, 1, 'this is no record')
    dhf1k_record(copy, 1, 2, 'this is no record')  # the only one of its video
    run('dhf1k', tmp_path)
    told = capsys.readouterr().out
    assert 'P03_Trail001.txt: not a DHF1K record' in told
    assert 'no record of video 2 can be read; video skipped' in told
    assert told.splitlines()[-1].startswith('2 videos, ')
    for video in (1, 3):
        assert frames_in(tmp_path / f'out/annotation/{video:04d}/maps') == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / 'out/annotation/0002').exists()
    with pytest.raises(InputError, match='no video of dhf1k has a record that can be read'):
        run('dhf1k', tmp_path, '--videos', '2')


def test_diem_litter_is_named_and_skipped_and_frames_are_counted_in_the_video(tmp_path, capsys):
    copy = copies.diem_raw(tmp_path / 'copy', {'one_show': (5, 40), 'diy_sos': (4, 100)})
    size = f'{copies.WIDTH}x{copies.HEIGHT}'
    events = copy / f'one_show_{size}' / 'event_data'
    (events / '._x.txt').write_bytes(b'\x00\x05\x16\x07')
    (events / 'notes.txt').write_text('this is no gaze')
    for path in events.glob('diem*.txt'):  # nobody fixates in the last two frames
        path.write_text(''.join(path.read_text().splitlines(keepends=True)[:3]))
    for path in (copy / f'diy_sos_{size}' / 'video').iterdir():
        path.unlink()
    run('diem', tmp_path)
    told = capsys.readouterr().out
    assert 'notes.txt: not a DIEM gaze file' in told
    assert '(._x.txt); skipped' in told
    assert frames_in(tmp_path / f'out/one_show_{size}/fixation') == [1, 2, 3, 4, 5]
    assert frames_in(tmp_path / f'out/diy_sos_{size}/fixation') == [1, 2, 3, 4]
    assert f'diy_sos_{size}: no video to count frames in; 4 frames' in told


def test_compare_fails_where_there_is_nothing_to_compare(tmp_path, capsys):
    copy = tmp_path / 'copy'
    dhf1k_record(copy, 1, 1)
    with pytest.raises(InputError, match='1 of 1 videos were not compared, see above: 0001'):
        run('dhf1k', tmp_path, '--compare')
    for kind in ('maps', 'fixation'):  # of frames that there are not
        copies.save(copy / f'annotation/0001/{kind}/0900.png', np.zeros((360, 640), np.uint8))
    with pytest.raises(InputError, match='not compared'):
        run('dhf1k', tmp_path, '--compare')
    told = capsys.readouterr().out
    assert 'no frame of 0001 to compare with' in told and '1.000000' not in told


def test_compare_reports_frames_with_density_in_one_of_the_two(tmp_path, capsys):
    copy = tmp_path / 'copy'
    dhf1k_record(copy, 1, 1)
    run('dhf1k', tmp_path)
    (tmp_path / 'out' / 'annotation').rename(copy / 'annotation')
    maps, nothing = copy / 'annotation' / '0001' / 'maps', np.zeros((360, 640), np.uint8)
    copies.save(maps / '0002.png', nothing)
    copies.save(maps / '0003.png', nothing)
    copies.save(maps / '0005.png', nothing[:90])
    run('dhf1k', tmp_path, '--compare')
    (line,) = [line for line in capsys.readouterr().out.splitlines() if 'compared' in line]
    assert line.startswith('  5 frames compared: 0 of 5 fixated pixels differ, ')
    assert '2 frames have density in only one of the two' in line
    assert '1 frames cannot be compared (' in line and '0005.png: ' in line
    assert line.endswith('lowest CC of a density map 1.000000')
