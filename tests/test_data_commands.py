"""The commands data.prepare, data.inspect and data.fixations, as a user runs them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from full_disk import file_size_limit
from PIL import Image, ImageDraw

import data.fixations
import data.inspect
import data.prepare
from data.copies import images
from stsa_jax.errors import InputError, exit_cleanly
from tests import data_copies as copies

ROOT = Path(__file__).parents[1]


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-m', *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )


def test_prepare_reports_what_it_found_and_did(tmp_path, capsys):
    copies.dhf1k(tmp_path / 'copy', {1: 5, 650: 4, 701: 3}, 'frames')
    arguments = ['dhf1k', f'--source={tmp_path / "copy"}', f'--data_dir={tmp_path / "out"}',
                 '--num_workers=1', '--size=48x80']  # fmt: skip
    data.prepare.main(arguments)
    out, err = capsys.readouterr()
    assert 'dhf1k, frames (frames/0001/images)' in out
    assert '599 of 600 videos of split train are not there: 2-600' in err
    table = [
        line.split() for line in out.splitlines() if line.split() and 'x' not in line.split()[0]
    ]
    assert ['train', '1', '5'] in [row[:3] for row in table]
    assert ['test', '1', '3'] in [row[:3] for row in table]
    assert data.open_split('dhf1k', 'validation', tmp_path / 'out').frame(0).shape == (48, 80, 3)
    data.prepare.main(arguments)
    assert 'is prepared already' in capsys.readouterr().out


def small_copy(name: str, folder: Path) -> Path:
    if name == 'dhf1k':
        return copies.dhf1k(folder, {1: 5}, 'videos')
    if name == 'diem':
        return copies.diem_raw(folder, {'home_movie': (5, 40)})
    shot, file_name = {
        'hollywood2': ('actioncliptrain00001_1', copies.hollywood2_file),
        'ucf_sports': ('Walk-Front-001', copies.ucf_file),
    }[name]
    return copies.shots(folder, {('training', shot): (3, 5, 0)}, file_name)


@pytest.mark.parametrize('name', ['dhf1k', 'hollywood2', 'ucf_sports', 'diem'])
def test_prepare_does_every_dataset(tmp_path, capsys, name):
    copy = small_copy(name, tmp_path / 'copy')
    options = ['--num_workers=1', '--size=32x64']
    data.prepare.main([name, f'--source={copy}', f'--data_dir={tmp_path / "out"}', *options])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ['train', '1', '5'] in [line[:3] for line in lines]
    train = data.open_split(name, 'train', tmp_path / 'out')
    assert train.frame(4).shape == (32, 64, 3) and train.density(4) is not None


def test_prepare_on_a_full_disk(tmp_path, capsys):
    """The writer of the records does not raise OSError."""
    copies.dhf1k(tmp_path / 'copy', {1: 5, 650: 4}, 'frames')
    arguments = ['dhf1k', f'--source={tmp_path / "copy"}', f'--data_dir={tmp_path / "out"}',
                 '--num_workers=1', '--size=48x80']  # fmt: skip
    with file_size_limit(1000), pytest.raises(SystemExit) as ended:
        exit_cleanly(lambda: data.prepare.main(arguments))
    told = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and told.startswith(f'error: {tmp_path / "out"}'), told
    assert 'free some space' in told and '.array_record: ' in told
    assert not list((tmp_path / 'out').rglob('*array_record*'))
    data.prepare.main(arguments)
    assert len(data.open_split('dhf1k', 'train', tmp_path / 'out')) == 5


def test_prepare_fails_with_code_2_and_no_traceback(tmp_path):
    (tmp_path / 'wrong').mkdir()
    done = run(
        'data.prepare', 'ucf_sports', f'--source={tmp_path / "wrong"}', f'--data_dir={tmp_path}'
    )
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert 'Diving-Side-001/images/Diving-Side_001_001.png' in done.stderr


@pytest.mark.parametrize('arguments, told', [
    (['dhf1k'], '--source'),
    (['dhf1k', '--source=x', '--size=big'], 'HEIGHTxWIDTH'),
])  # fmt: skip
def test_prepare_refuses(arguments, told):
    with pytest.raises(InputError, match=told):
        data.prepare.main(arguments)


def test_strict_makes_a_stray_file_an_error(tmp_path):
    shots = {('training', 'Walk-Front-001'): (1, 4, 0), ('testing', 'Walk-Front-002'): (1, 4, 0)}
    copy = copies.shots(tmp_path / 'copy', shots, copies.ucf_file)
    (copy / 'testing' / 'Walk-Front-002' / 'maps' / 'notes.doc').write_bytes(b'')
    with pytest.raises(InputError, match='allows none'):
        data.prepare.main(['ucf_sports', f'--source={copy}', f'--data_dir={tmp_path / "out"}',
                           '--strict', '--num_workers=1'])  # fmt: skip


def prepared(tmp_path, spoil: bool) -> Path:
    shots = {('training', f'Walk-Front-{i:03d}'): (1, 12, i * 20) for i in range(1, 4)}
    copy = copies.shots(tmp_path / 'copy', shots, copies.ucf_file)
    if spoil:
        for path in copy.glob('*/*/maps/*'):
            density = np.zeros((copies.HEIGHT, copies.WIDTH), np.uint8)
            density[40:, :4] = 255
            copies.save(path, density)
    data.prepare_dataset('ucf_sports', tmp_path / 'out', copy, num_workers=1)
    return tmp_path / 'out'


def test_inspect_writes_a_sheet_and_a_table(tmp_path, capsys):
    out = prepared(tmp_path, spoil=False)
    data.inspect.main(['ucf_sports', f'--data_dir={out}', f'--output={tmp_path / "sheet.png"}'])
    text, err = capsys.readouterr()
    assert ['train', '3', '36', '12', '12', '0', '96x48'] in [
        line.split() for line in text.splitlines()
    ]
    # A few videos of a dataset of 150, and nothing else, is wrong.
    assert [line.split(': ')[-1] for line in err.splitlines() if 'warning' in line] == [
        '3 source videos where 103 are known',
        '0 source videos where 47 are known',
    ]
    with Image.open(tmp_path / 'sheet.png') as sheet:
        # Four columns of 240 and three rows of 120 for each of the three videos, with captions.
        assert sheet.width == 4 * 244 and sheet.height == 3 * (20 + 3 * 120 + 8)
        assert np.asarray(sheet).std() > 20


def test_sheet_has_the_frames_that_its_caption_says_with_density_and_fixations(tmp_path):
    train = data.open_split('ucf_sports', 'train', prepared(tmp_path, spoil=False))
    strip, warnings = data.inspect.sample(train, train.videos[1])
    assert not warnings and strip.shape == (20 + 3 * 120, 4 * 244, 3)
    numbers = []
    for column in range(4):
        shown = strip[20:, column * 244 : column * 244 + 240].astype(int)
        frame, density, fixations = (shown[row : row + 120] for row in (0, 120, 240))
        code = copies.number_in(frame)
        numbers.append(code - 40)
        # In the middle of each bar, below the full upper part of the density map.
        on = copies.bits_of(code)
        columns = (np.arange(copies.BITS) * 20 + 10)[None]
        differs = (density != frame).any(axis=-1)
        assert differs[:25].all() and (differs[40:, columns] == on).all()
        points = np.argwhere(copies.fixations_of(code)) * 2.5 + 0.75
        y, x = np.argwhere((fixations != frame).any(axis=-1)).T
        distance = np.hypot(y[:, None] - points[:, 0], x[:, None] - points[:, 1])
        assert (distance.min(axis=0) <= 3).all()  # a dot at every fixation
        assert (distance.min(axis=1) <= 4).all()  # and nothing elsewhere
    assert len(set(numbers)) == 4
    caption = Image.new('RGB', (4 * 244, 20), 'white')
    text = f'train: Walk-Front-002, frames {", ".join(map(str, numbers))}'
    ImageDraw.Draw(caption).text((4, 3), text, 'black')
    np.testing.assert_array_equal(strip[:20], np.asarray(caption))


def test_inspect_warns_of_maps_that_belong_elsewhere(tmp_path, capsys):
    out = prepared(tmp_path, spoil=True)
    data.inspect.main(['ucf_sports', f'--data_dir={out}', f'--output={tmp_path / "sheet.png"}'])
    assert "fixations lie outside the density map's mass" in capsys.readouterr().err


def test_inspect_warns_of_maps_of_different_sizes(tmp_path, capsys):
    out = prepared(tmp_path, spoil=False)

    def shrink(examples: list[dict]) -> None:
        for example in examples:
            example['density'] = images.encode_map(copies.density_of(1)[:24])

    for path in out.glob('ucf_sports/*/1.0.0/*array_record*'):
        copies.change_records(path, shrink)
    data.inspect.main(['ucf_sports', f'--data_dir={out}', f'--output={tmp_path / "sheet.png"}'])
    warnings = [
        line for line in capsys.readouterr().err.splitlines() if 'maps of different' in line
    ]
    assert len(warnings) == 3 * 4  # four frames of each video are sampled


def test_inspect_warns_of_sizes_and_counts(tmp_path, capsys):
    copy = copies.shots(
        tmp_path / 'copy', {('training', 'Walk-Front-001'): (1, 12, 0)}, copies.ucf_file
    )
    inside = copy / 'training' / 'Walk-Front-001'
    for n in range(2, 13):  # of twelve frames, eleven have maps, whose shape is another
        for kind in ('maps', 'fixation'):
            path = inside / kind / f'Walk-Front_001_{n:03d}.png'
            copies.save(path, np.full((60, 60), 255, np.uint8))
    (inside / 'maps' / 'Walk-Front_001_001.png').unlink()  # not even the first frame's
    data.prepare_dataset('ucf_sports', tmp_path / 'out', copy, num_workers=1)
    sheet = tmp_path / 'sheet.png'
    data.inspect.main(['ucf_sports', f'--data_dir={tmp_path / "out"}', f'--output={sheet}'])
    warnings = [line for line in capsys.readouterr().err.splitlines() if 'warning' in line]
    assert sum('60x60, but the frames are 96x48' in line for line in warnings) == 1
    assert any('1 frames without both maps: 1' in line for line in warnings)


def test_inspect_names_what_is_prepared(tmp_path):
    out = prepared(tmp_path, spoil=False)
    with pytest.raises(InputError, match='found: ucf_sports'):
        data.inspect.main(['dhf1k', f'--data_dir={out}'])


def test_fixations_command_on_the_real_records(tmp_path, real_data, capsys):
    data.fixations.main(['dhf1k', f'--source={real_data / "dhf1k"}', f'--output={tmp_path}',
                         '--videos', '2', '--num_frames=60', '--compare'])  # fmt: skip
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith('  60 frames compared: 0 of ')
    assert float(line.split()[-1]) > 0.999
    written = images.decode_map((tmp_path / 'annotation/0002/fixation/0060.png').read_bytes())
    given = images.decode_map((real_data / 'dhf1k/annotation/0002/fixation/0060.png').read_bytes())
    np.testing.assert_array_equal(written, given)


def test_fixations_command_gives_the_same_as_the_raw_builder(tmp_path):
    copies.diem_raw(tmp_path / 'copy', {'one_show': (5, 40)})
    data.fixations.main(['diem', f'--source={tmp_path / "copy"}', f'--output={tmp_path / "maps"}'])
    data.prepare_dataset('diem', tmp_path / 'out', tmp_path / 'copy', num_workers=1)
    test = data.open_split('diem', 'test', tmp_path / 'out')
    folder = tmp_path / 'maps' / f'one_show_{copies.WIDTH}x{copies.HEIGHT}'
    for i in range(5):
        name = f'{i + 1:04d}.png'
        for kind, found in (('maps', test.density(i) * 255), ('fixation', test.fixations(i) * 255)):
            written = images.decode_map((folder / kind / name).read_bytes())
            np.testing.assert_array_equal(found, written)
        assert copies.number_in_fixations(test.fixations(i)) == 41 + i


@pytest.mark.parametrize('arguments, told', [
    (['dhf1k', '--videos', '../2'], 'numbers were expected'),
    (['dhf1k', '--videos', '7'], 'records of videos found: none'),
    (['diem'], 'event_data were expected'),
    (['diem', '--sigma=-1'], 'positive number'),
])  # fmt: skip
def test_fixations_command_refuses(tmp_path, arguments, told):
    (tmp_path / 'copy').mkdir()
    with pytest.raises(InputError, match=told):
        data.fixations.main(
            [*arguments, f'--source={tmp_path / "copy"}', f'--output={tmp_path / "o"}']
        )
