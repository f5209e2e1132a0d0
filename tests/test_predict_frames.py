"""predict.py's maps have the numbers of their frames, and evaluate.py reads them; its overlay."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from test_predict import RedModel, run_main, tree

import data
import stsa_jax
from stsa_jax.evaluation import predictions
from stsa_jax.evaluation.selection import select
from stsa_jax.media import video
from tests import data_copies as copies
from tests.test_data_video_file import overwrite_packets, write


@pytest.fixture
def model(monkeypatch):
    model = RedModel()
    monkeypatch.setattr(stsa_jax, 'load', lambda path: model)
    return model


def predict(out, *videos, **flags):
    given = [f'--{name}={value}' for name, value in flags.items()]
    named = [f'--video={path}' for path in videos]
    assert run_main('--checkpoint=c', *named, f'--output={out}', *given) == 0


def taken(out, dataset):
    """By video: the numbers of its maps, as the evaluation matches them; all of them."""
    source = predictions.PredictionFolder(out, dataset, select(dataset))
    assert source.missing == 0
    return {v.name: [int(p.stem) for p in source._files[v.name]] for v in source.videos}


@pytest.mark.parametrize('damaged', [False, True])
def test_an_avi_that_repeats_pictures(tmp_path, model, capsys, damaged):
    copy = copies.dhf1k(tmp_path / 'copy', {1: 40, 2: 5})
    films = [copy / 'video' / f'{n:03d}.AVI' for n in (1, 2)]
    write(films[0], without=(20, 21))
    left = [n for n in range(1, 41) if n not in (20, 21)]
    if damaged:
        overwrite_packets(films[0], 6)
        left = [n for n in left if not 6 <= n <= 12]  # to the next key frame
    data.prepare_dataset('dhf1k', tmp_path / 'data', copy, num_workers=1)
    options = {'allow_truncated': True} if damaged else {}
    predict(tmp_path / 'out', *films, **options)
    dataset = data.open_split('dhf1k', 'train', tmp_path / 'data')
    assert taken(tmp_path / 'out', dataset) == {'0001': left, '0002': [1, 2, 3, 4, 5]}
    said = capsys.readouterr().out
    record = json.loads((tmp_path / 'out' / '001' / 'prediction.json').read_text())
    assert record['frames'] == len(left)
    assert record['frames_left_out'] == ('6-12' if damaged else '')
    assert ('7 damaged frames left out: 6-12' in said) == damaged
    # The overlay keeps the places in time too: nothing is shown earlier for what is left out.
    with av.open(str(tmp_path / 'out' / '001' / 'overlay.mp4')) as file:
        stream = file.streams.video[0]
        times = sorted(p.pts * stream.time_base for p in file.demux(stream) if p.size)
    assert [round(time * 30) + 1 for time in times] == left


@pytest.mark.parametrize('inner', ['images', ''])
def test_shots_whose_frames_count_from_elsewhere(tmp_path, model, inner):
    """Hollywood-2: files from 00021; folders `images` of several shots in one call."""
    given = {('testing', 'actioncliptest00001_1'): (21, 4, 64),
             ('testing', 'actioncliptest00001_2'): (90, 3, 200)}  # fmt: skip
    copy = copies.shots(tmp_path / 'copy', given, copies.hollywood2_file)
    data.prepare_dataset('hollywood2', tmp_path / 'data', copy, num_workers=1)
    shots = [copy / split / shot / inner for split, shot in given]
    predict(tmp_path / 'out', *shots)
    assert tree(tmp_path / 'out' / 'actioncliptest00001_1' / 'maps') == [
        '0021.png', '0022.png', '0023.png', '0024.png',
    ]  # fmt: skip
    dataset = data.open_split('hollywood2', 'test', tmp_path / 'data')
    assert taken(tmp_path / 'out', dataset) == {
        'actioncliptest00001_1': [21, 22, 23, 24], 'actioncliptest00001_2': [90, 91, 92],
    }  # fmt: skip


def test_frames_with_names_only(tmp_path, model):
    for value, name in enumerate(['noon', 'dawn']):
        copies.save(tmp_path / 'v' / f'{name}.png', np.full((48, 80, 3), 50 * value, np.uint8))
    predict(tmp_path / 'out', tmp_path / 'v')
    assert tree(tmp_path / 'out' / 'maps') == ['dawn.png', 'noon.png']


def test_overlay_of_a_variable_rate_and_of_pixels_that_are_not_square(tmp_path, model):
    path, times = tmp_path / 'a.mkv', [0, 1, 2, 3, 50, 51, 80]
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('libx264', rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 80, 'yuv420p'
        stream.codec_context.time_base = Fraction(1, 25)
        stream.codec_context.sample_aspect_ratio = Fraction(64, 45)
        for time in times:
            picture = av.VideoFrame.from_ndarray(np.zeros((48, 80, 3), np.uint8), format='rgb24')
            picture.pts, picture.time_base = time, Fraction(1, 25)
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))
    predict(tmp_path / 'out', path)
    with av.open(str(tmp_path / 'out' / 'overlay.mp4')) as file:
        stream = file.streams.video[0]
        found = sorted(float(p.pts * stream.time_base) for p in file.demux(stream) if p.size)
        assert float(stream.sample_aspect_ratio) == pytest.approx(64 / 45)
    np.testing.assert_allclose(found, np.array(times) / 25, atol=0.002)


def test_frame_is_chosen_by_its_number(tmp_path, model, monkeypatch, capsys):
    """By the number in the map's name; by default the middle existing one."""
    from test_predict import AttentiveModel

    monkeypatch.setattr(stsa_jax, 'load', lambda path: AttentiveModel())
    for number in (20, 21, 22, 23, 24):
        copies.save(tmp_path / 'v' / f'{number}.png', np.full((48, 80, 3), number, np.uint8))
    flags = ['--checkpoint=c', f'--video={tmp_path / "v"}', f'--output={tmp_path / "out"}']
    assert run_main(*flags, '--gradient') == 0
    assert run_main(*flags, '--gradient', '--frame=20') == 0
    assert tree(tmp_path / 'out') == ['gradient-0020.png', 'gradient-0022.png']
    assert run_main(*flags, '--gradient', '--frame=1') == 2
    assert 'has frames 20 to 24; choose one of these' in capsys.readouterr().err


def test_the_middle_of_a_trimmed_film(tmp_path, monkeypatch):
    """Hidden frames in front count neither for it nor for the progress and the clips."""
    from test_predict import AttentiveModel
    from test_video_files import numbered, trim
    from test_video_files import write as write_numbered

    monkeypatch.setattr(stsa_jax, 'load', lambda path: AttentiveModel())
    path = trim(
        write_numbered(tmp_path / 'a.mp4', numbered(40)), tmp_path / 'b.mp4', 18
    )  # from 11 on: 7 are hidden
    count = len(list(video.read_frames(path)[1]))
    assert video.read_frames(path)[0].num_frames == count < 25
    flags = ['--checkpoint=c', f'--video={path}', f'--output={tmp_path / "out"}']
    assert run_main(*flags, '--gradient') == 0
    assert tree(tmp_path / 'out') == [f'gradient-{(count + 1) // 2:04d}.png']
    Image.open(tmp_path / 'out' / tree(tmp_path / 'out')[0]).load()
