"""evaluate.py as a user runs it: on prepared datasets, and with mismatched input."""

import csv
import json
import re
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import fsspec
import numpy as np
import pytest
from full_disk import file_size_limit
from terminal import shown_in_a_terminal
from test_evaluation_paths import Brightness

import data
import stsa_jax
from stsa_jax import evaluation
from stsa_jax.commands import evaluate
from stsa_jax.errors import InputError, exit_cleanly
from tests import data_copies as copies

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    """Miniatures of DHF1K and DIEM, prepared, and maps for them: data_dir, folder of maps."""
    root = tmp_path_factory.mktemp('prepared')
    rng = np.random.default_rng(0)
    dhf1k, diem = {601: 34, 602: 3, 701: 3, 703: 2}, {'one_show': (4, 0), 'ami_ib4010_left': (3, 9)}
    copies.dhf1k(root / 'dhf1k', dhf1k, 'frames')
    copies.diem_prepared(root / 'diem', diem)
    frames = dhf1k | {name: count for name, (count, _) in diem.items()}
    for name, source in (('dhf1k', root / 'dhf1k'), ('diem', root / 'diem')):
        data.prepare_dataset(name, root / 'out', source, num_workers=1, size=(48, 96))
    for video, count in frames.items():
        folder = f'{video:03d}' if isinstance(video, int) else video
        for n in range(1, count + 1):
            saliency = rng.integers(0, 256, (24, 48)).astype(np.uint8)
            group = video // 100 if isinstance(video, int) else 'diem'
            copies.save(root / 'maps' / str(group) / folder / f'{n:04d}.png', saliency)
    return root / 'out', root / 'maps'


@pytest.fixture
def run(prepared, monkeypatch, capsys):
    """Calls evaluate.py in this process and returns its output."""

    def call(*arguments):
        full = ['evaluate.py', f'--data_dir={prepared[0]}', *map(str, arguments)]
        monkeypatch.setattr(sys, 'argv', full)
        evaluate.main()
        return capsys.readouterr().out

    return call


def test_maps_of_a_prepared_dataset(prepared, run, tmp_path):
    arguments = ['--dataset=dhf1k', '--split=validation', f'--output={tmp_path / "out"}']
    maps = f'--predictions={prepared[1] / "6"}'
    written = run(*arguments, maps, '--every=clip')
    assert 'dhf1k, validation: 1 video, 1 frame\n' in written
    assert 'start every 32 frames, as in the released code (1 videos are' in written
    written = run(*arguments, maps)
    assert 'dhf1k, validation: 2 videos, 37 frames' in written
    assert 'STSA-Net (published)' in written
    record = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert record['protocol']['name'] == 'dhf1k'
    assert [row['row'] for row in record['rows']] == ['6', 'centre prior', 'shuffled maps']
    assert 0.4 < record['rows'][0]['scores']['auc_judd']['value'] < 0.6  # random maps
    with pytest.raises(InputError, match=r'701: no such video in dhf1k validation'):
        run(*arguments, f'--predictions={prepared[1] / "7"}')


def test_maps_numbered_in_other_ways_and_from_storage(prepared, run, tmp_path, monkeypatch):
    arguments = ['--dataset=dhf1k', '--split=validation', '--no_references']
    own = run(*arguments, f'--predictions=a={prepared[1] / "6"}', f'--output={tmp_path / "1"}')
    for video in (prepared[1] / '6').iterdir():
        (tmp_path / 'maps' / video.name).mkdir(parents=True)
        for path in video.iterdir():
            moved = f'{int(path.stem) - 1:05d}_net2.png'
            shutil.copy2(path, tmp_path / 'maps' / video.name / moved)
    arguments.append(f'--predictions=a={tmp_path / "maps"}')
    with pytest.raises(InputError, match=r'numbered from 0: --first_frame=0'):
        run(*arguments, f'--output={tmp_path / "2"}')
    for option in ('--first_frame=0', '--in_order'):
        told = run(*arguments, option, f'--output={tmp_path / "2"}')
        assert told.replace(str(tmp_path / '2'), str(tmp_path / '1')) == own
    with pytest.raises(InputError, match='use only one of them'):
        run(*arguments, '--first_frame=0', '--in_order')
    monkeypatch.setenv('STSA_JAX_CACHE', str(tmp_path / 'cache'))
    fsspec.filesystem('memory').put(str(prepared[1] / '6'), '/evaluated', recursive=True)
    stored = '--predictions=a=memory://evaluated'
    told = run(*arguments[:-1], stored, f'--output={tmp_path / "3"}')
    assert told.replace(str(tmp_path / '3'), str(tmp_path / '1')) == own


@pytest.mark.parametrize('limit', [100, 20_000])
def test_a_full_disk(prepared, tmp_path, monkeypatch, capsys, limit):
    """While videos are scored, and in the report; remaining files are complete."""
    arguments = ['evaluate.py', f'--data_dir={prepared[0]}', '--dataset=dhf1k', '--every=16']
    arguments += [f'--predictions=maps={prepared[1] / "6"}', f'--output={tmp_path / "out"}']
    monkeypatch.setattr(sys, 'argv', arguments)
    (tmp_path / 'temporary').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'temporary'))
    with file_size_limit(limit), pytest.raises(SystemExit) as ended:
        exit_cleanly(evaluate.main)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.startswith(f'error: {tmp_path}/'), told
    assert told.rstrip().endswith('the file would be larger than the system allows')
    left = [p for p in (tmp_path / 'out').rglob('*') if p.is_file()]
    assert not [p.name for p in left if p.name.startswith('.') or p.name == 'report.html']
    assert bool(left) == (limit > 100) and not list((tmp_path / 'temporary').iterdir())
    for path in left:
        if path.suffix == '.json':
            json.loads(path.read_text())


@pytest.mark.long
def test_progress_is_shown_only_in_a_terminal(prepared, tmp_path):
    command = [sys.executable, 'evaluate.py', f'--data_dir={prepared[0]}', '--dataset=dhf1k']
    command += ['--split=validation', f'--predictions=maps={prepared[1] / "6"}']
    shown = shown_in_a_terminal([*command, f'--output={tmp_path / "a"}'])
    for row in ('maps', 'centre prior', 'shuffled maps'):
        counts = re.findall(rf'dhf1k: {row}: .*?(\d+)/37 \[', shown)
        assert counts[0] == '0' and counts[-1] == '37'
    assert re.search(r'<\d\d:\d\d', shown)  # the estimate
    quiet = [*command, f'--output={tmp_path / "b"}']
    done = subprocess.run(quiet, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and '%|' not in done.stderr


def test_other_weights_are_not_a_saliency_model(run, tmp_path, not_saliency_models):
    for words, path in not_saliency_models.items():
        with pytest.raises(InputError, match=words):
            run('--dataset=dhf1k', f'--checkpoint={path}', f'--output={tmp_path / "out"}')
    assert not (tmp_path / 'out').exists()


def test_models_of_another_size(monkeypatch):
    asked = []
    monkeypatch.setattr(evaluate.stsa_jax, 'load', lambda *_, **sizes: asked.append(sizes))
    given = ['--checkpoint=a.pth', '--workdir=b', '--image_size=288,512', '--clip_frames=16']
    evaluate.collect_models(evaluate.parser().parse_args(given))
    assert asked == [{'image_size': (288, 512), 'frames': 16}] * 2


def test_frames_stored_smaller_than_the_clips_are_reported(prepared, monkeypatch, capsys):
    """Once, by evaluation and by training alike; frames of the clips' size, or larger, are not."""
    wide = Brightness()
    wide.config = types.SimpleNamespace(image_size=(96, 192), frames=8, target='middle')
    monkeypatch.setattr(stsa_jax, 'load', lambda path: wide if 'wide' in path else Brightness())
    given = [f'--checkpoint={name}.pth' for name in ('small', 'wide', 'also_wide')]
    models = evaluate.collect_models(evaluate.parser().parse_args(given))
    dataset = data.open_split('dhf1k', 'validation', prepared[0])
    for make in models.values():
        assert isinstance(make(dataset, None), evaluation.ModelMaps)
    (line,) = capsys.readouterr().err.splitlines()
    assert 'dhf1k: its frames are stored at 48x96 and enlarged to 96x192' in line
    assert 'data.prepare dhf1k --size=96x192' in line
    options = {'split': 'validation', 'data_dir': prepared[0], 'batch_size': 1, 'frames': 16}
    for size, notes in (((48, 96), []), ((96, 192), [line.removeprefix('note: ')])):
        assert data.train_clips('dhf1k', image_size=size, **options).notes == notes


def test_two_datasets_in_one_run(prepared, run, monkeypatch, tmp_path):
    monkeypatch.setattr(stsa_jax, 'load', lambda path: Brightness())
    shots = {
        ('testing', 'Diving-Side-001'): (1, 2, 5),
        ('testing', 'Golf-Swing-Back-003'): (1, 3, 9),
    }
    copies.shots(tmp_path / 'ucf', shots, copies.ucf_file)
    data.prepare_dataset('ucf_sports', prepared[0], tmp_path / 'ucf', num_workers=1, size=(48, 96))
    written = run('--dataset=diem', '--dataset=ucf_sports', '--split=test', '--checkpoint=ours.pth',
                  '--no_references', f'--output={tmp_path / "out"}')  # fmt: skip
    record = json.loads((tmp_path / 'out' / 'results.json').read_text())
    rows = {row['dataset']: row for row in record['rows']}
    assert len(record['rows']) == 2 and rows.keys() == {'diem', 'ucf_sports'}
    videos = {'diem': {'one_show', 'ami_ib4010_left'}, 'ucf_sports': {shot for _, shot in shots}}
    for name, count in (('diem', 7), ('ucf_sports', 5)):
        assert f'{name}, test: 2 videos, {count} frames' in written
        assert {video['video'] for video in rows[name]['videos']} == videos[name]
    assert rows['diem']['scores']['cc'] != rows['ucf_sports']['scores']['cc']
    with open(tmp_path / 'out' / 'results.csv') as file:
        lines = list(csv.DictReader(file))
    for name, names in videos.items():
        listed = [line for line in lines if line['dataset'] == name]
        assert {line['video'] for line in listed} >= names
        assert len(listed) == len(names) + 1  # and the mean


def test_a_trained_model_on_the_datasets_of_its_config(run, monkeypatch, tmp_path):
    loaded = []

    def load(path, step=None):
        loaded.append((path, step))
        return Brightness()

    monkeypatch.setattr(stsa_jax, 'load', load)
    arguments = ['--config=configs/dhf1k.py', '--step=4', '--every=5', '--protocol=paper']
    first, second = tmp_path / 'a' / 'run.1', tmp_path / 'b' / 'run.1'
    written = run(*arguments, f'--workdir={first}', f'--workdir=other={second}')
    assert loaded == [(str(first), 4), (str(second), 4)]
    assert 'dhf1k, validation: 2 videos, 8 frames\n' in written
    assert 'every 5-th frame' in written
    record = json.loads((first / 'evaluation' / 'results.json').read_text())
    assert record['protocol']['name'] == 'paper'
    names = ['run.1', 'other', 'centre prior', 'shuffled maps']
    assert [row['row'] for row in record['rows']] == names
    assert record['rows'][0]['scores'] == record['rows'][1]['scores']
    # Of the split that is scored, the mean density is no prior.
    assert 'mean of the same split' not in written
    written = run(*arguments, f'--workdir={first}', '--config.data.train_split=validation')
    assert 'the centre prior is the mean of the same split that is scored' in written
    with pytest.raises(InputError, match=r'called run\.1; rename one of them: NAME='):
        run(*arguments, f'--workdir={first}', f'--workdir={second}')


def test_the_three_test_sets_of_diem(prepared, run, tmp_path):
    maps, options = prepared[1] / 'diem', ['--protocol=diem', '--no_references']
    for split, frames in (('test_i', 7), ('test_iii', 7), ('test_ii', 4)):
        if split == 'test_ii':  # which does not have this video
            (maps / 'ami_ib4010_left').rename(maps.parent / 'elsewhere')
        written = run(
            '--dataset=diem',
            f'--split={split}',
            f'--predictions={maps}',
            f'--output={tmp_path / split}',
            *options,
        )
        videos = '1 video' if split == 'test_ii' else '2 videos'
        assert f'diem, {split}: {videos}, {frames} frames' in written
        assert 'per video, then over videos' in written
        assert 'STSA-Net (published)' in written


def test_submission_of_a_copy_without_all_videos(prepared, run, tmp_path):
    arguments = ['--dataset=dhf1k', '--split=test', f'--predictions={prepared[1] / "7"}',
                 f'--submission={tmp_path / "sub"}']  # fmt: skip
    with pytest.raises(InputError, match=r'298 of the videos .*: 702, 704-1000'):
        run(*arguments)
    written = run(*arguments, '--allow_missing')
    assert '5 maps of 2 videos of dhf1k test, verified' in written
    assert 'PARTIAL: the benchmark expects 298 more videos: 702, 704-1000' in written
    assert 'NOTE: this copy has 5 frames, the published dataset 176,192' in written
    assert sorted(p.name for p in (tmp_path / 'sub').iterdir()) == ['0701', '0703']
    (prepared[1] / '7' / '703' / '0002.png').unlink()
    with pytest.raises(InputError, match=r'0703: 1 maps missing, of frames 2'):
        run(*arguments[:-1], f'--submission={tmp_path / "again"}')


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ([], 'nothing to evaluate: give --workdir'),
        (['--every=x'], "argument --every: x: expected 1 or more, or 'clip'"),
        (['--workers=-1'], 'argument --workers: -1: expected an integer, 0 or more'),
        (['--seed=-1'], 'argument --seed: -1: expected'),
        (['--batch_size=two'], 'argument --batch_size: two: expected'),
        (['--predictions=x', '--dataset=d', '--step=3'], '--step=3: needs a --workdir'),
        (['--predictions=x', '--dataset=d', '--dataset=d'], 'd, d: a dataset is listed twice'),
        (['--predictions=x'], 'no dataset: give --dataset'),
        (['--predictions=x', '--dataset=nowhere', '--data_dir=/nonexistent'], 'nowhere'),
        (['--checkpoint=missing.pth', '--dataset=stsa_synthetic'], 'missing.pth'),
        (
            ['--workdir=missing', '--dataset=stsa_synthetic'],
            'missing: there is no such file or folder',
        ),
        (['--predictions=a=x', '--predictions=a=y', '--dataset=d'], 'two models are called a'),
        (['--config=configs/tiny.py', '--workdir=w', '--config.model.wdth=1'], 'no such field'),
        (['--nonsense=1'], '--nonsense=1'),
        (['--predictions=x', '--dataset=d', '--protocol=mine'], "no protocol 'mine'"),
    ],
)
def test_the_command_ends_with_a_message(arguments, words, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'argv', ['evaluate.py', *arguments])
    with pytest.raises(SystemExit) as ended:
        exit_cleanly(evaluate.main)
    found = capsys.readouterr()
    assert ended.value.code == 2 and not found.out
    assert words in found.err and 'Traceback' not in found.err


def test_the_script_ends_with_a_message():
    command = [sys.executable, 'evaluate.py']
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith('error: nothing to evaluate: give --workdir')
    assert not result.stdout
