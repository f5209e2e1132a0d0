"""train.py from the command line's point of view, with a small network in STSA-Net's place."""

import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import data_copies
import jax
import numpy as np
import pytest
import small_network
import yaml
from tensorboardX.proto import event_pb2
from tensorboardX.proto.event_pb2 import SessionLog

import data
import train
from data import synthetic
from stsa_jax.checkpoints.weights import load_weights
from stsa_jax.configuration import load_config
from stsa_jax.errors import InputError, exit_cleanly
from stsa_jax.ops import forms
from stsa_jax.training.reporting import read_log

ROOT = Path(__file__).parents[1]
SETTINGS = {
    'model.image_size': (32, 64),
    'model.frames': 16,
    'data.datasets': ('stsa_synthetic',),
    'batch_size': 8,
    'num_steps': 6,
    'log_every': 1,
    'checkpoint_every': 2,
    'optimizer.learning_rate': 3e-3,
}


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    """A folder with four videos of the synthetic dataset."""
    folder = tmp_path_factory.mktemp('datasets')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic.StsaSynthetic, 'COUNTS', {'train': 2, 'validation': 1, 'test': 1})
        data.prepare_dataset('stsa_synthetic', folder, num_workers=1)
    return folder


@pytest.fixture(scope='module')
def config_file(prepared, tmp_path_factory):
    settings = SETTINGS | {'data.data_dir': str(prepared)}
    lines = '\n'.join(f'    config.{name} = {value!r}' for name, value in settings.items())
    path = tmp_path_factory.mktemp('configs') / 'small.py'
    path.write_text(
        'from configs import default\n\n\ndef get_config():\n'
        f'    config = default.get_config()\n{lines}\n    return config\n'
    )
    return path


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_network.train_it(monkeypatch.setattr)


def run(config_file, workdir, *overrides):
    """The log of a run in this process, with the forms of operations of the command."""
    config = load_config(str(config_file), [f'--config.{o}' for o in overrides])
    with forms.use('cpu'):
        return train.train(config, str(workdir))


@pytest.fixture(scope='module')
def finished(config_file, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        small_network.train_it(patch.setattr)
        workdir = tmp_path_factory.mktemp('runs') / 'run'
        history = run(config_file, workdir, 'validation.every=3', 'validation.clips=3')
    return workdir, history


def test_a_run_leaves_log_events_checkpoints_and_config(finished):
    workdir, history = finished
    steps = [entry for entry in history if entry['kind'] == 'train']
    assert [entry['step'] for entry in steps] == [1, 2, 3, 4, 5, 6]
    wanted = {'loss', 'kl', 'cc', 'grad_norm', 'learning_rate', 'clips_per_second', 'step_seconds'}
    assert all(wanted | {'data_wait_seconds', 'skipped'} <= set(entry) for entry in steps)
    assert all(abs(e['loss'] - (e['kl'] - e['cc'])) < 1e-5 for e in steps)
    checked = [entry for entry in history if entry['kind'] == 'validation']
    assert [entry['step'] for entry in checked] == [3, 6]
    assert read_log(workdir) == history
    assert sorted(p.name for p in (workdir / 'checkpoints').iterdir()) == ['3', '4', '6']
    best = max(checked, key=lambda entry: entry['cc'])['step']
    assert_same_weights(load_weights(workdir, 'best'), load_weights(workdir, best))

    scalars, pictures = {}, set()
    for event in read_events(workdir):
        for value in event.summary.value:
            if value.HasField('image'):
                pictures.add((event.step, value.tag))
            else:
                scalars[event.step, value.tag] = value.simple_value
    for entry in steps:
        assert scalars[entry['step'], 'train/loss'] == pytest.approx(entry['loss'], rel=1e-6)
    assert scalars[3, 'validation/cc'] == pytest.approx(checked[0]['cc'], rel=1e-6)
    assert {step for step, _ in pictures} == {3, 6}, 'predictions beside the ground truth'


def read_events(workdir):
    """TensorBoard's events: records of a length, its checksum, the content, its checksum."""
    for path in sorted(workdir.glob('events.out.tfevents.*')):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack('<Q', content[:8])
            yield event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def assert_same_weights(a, b):
    for x, y in zip(jax.tree.leaves(a[2:4]), jax.tree.leaves(b[2:4]), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_same_command_again_finds_the_run_finished(finished, config_file):
    workdir, history = finished
    again = run(config_file, workdir, 'validation.every=3', 'validation.clips=3', 'log_every=2')
    assert again == history


def test_a_damaged_latest_checkpoint_costs_only_the_steps_since_the_one_before(
    finished, config_file, tmp_path, monkeypatch, capsys
):
    workdir, history = finished
    copy = tmp_path / 'run'
    shutil.copytree(workdir, copy)
    for path in (copy / 'checkpoints' / '6').rglob('d/*'):
        path.write_bytes(path.read_bytes()[:100])
    options = ('--config.validation.every=3', '--config.validation.clips=3')
    arguments = (f'--config={config_file}', f'--workdir={copy}', *options)
    monkeypatch.setattr(sys, 'argv', ['train.py', *arguments])
    assert train.main() == 0
    told = capsys.readouterr().err
    assert f'warning: {copy}/checkpoints/6: damaged, incomplete' in told
    assert 'continuing at step 4 of 6' in told
    assert_same_weights(load_weights(copy), load_weights(workdir))
    losses = [[e['loss'] for e in log] for log in (history, read_log(copy))]
    assert losses[0] == losses[1], 'the log equals that of the uninterrupted run'
    started = [e.step for e in read_events(copy) if e.session_log.status == SessionLog.START]
    assert 5 in started, 'TensorBoard drops later steps'


def test_damaged_frames_are_reported_and_counted_and_training_continues(
    prepared, config_file, tmp_path, capfd
):
    shutil.copytree(prepared, tmp_path / 'datasets')
    pattern = 'datasets/stsa_synthetic/*/*/*-{}.array_record-00000-*'
    (records,) = tmp_path.glob(pattern.format('train'))
    data_copies.damage_records(records, frame=[18, 19])
    (records,) = tmp_path.glob(pattern.format('validation'))
    data_copies.damage_records(records, frame=[28])
    options = ('num_steps=2', 'validation.every=1', 'validation.clips=1', 'seed=2')
    history = run(config_file, tmp_path / 'run', *options, f'data.data_dir={tmp_path / "datasets"}')
    told = [line for line in capfd.readouterr().err.splitlines() if 'is damaged' in line]
    steps = [entry for entry in history if entry['kind'] == 'train']
    assert all(np.isfinite(entry['loss']) for entry in steps)
    counted = sum(entry['damaged_frames'] for entry in steps)
    assert counted == sum(bool(re.match(r'step \d: .*frame (19|20): ', line)) for line in told) > 0
    # Of the held-out clips, which are the same every time, it is told once.
    assert len(told) == counted + 1 and 'split validation' in ''.join(told)


def test_several_datasets_are_named_and_weighed_on_the_command_line(
    prepared, config_file, tmp_path, monkeypatch, capfd
):
    both, workdir = tmp_path / 'datasets', tmp_path / 'run'
    shutil.copytree(prepared, both)
    shots = {('training', 'Walk-Front-001'): (1, 10, 0)}
    copy = data_copies.shots(tmp_path / 'copy', shots, data_copies.ucf_file)
    data.prepare_dataset('ucf_sports', both, copy, num_workers=1, size=(32, 64))
    fields = ['data.datasets=stsa_synthetic,ucf_sports', 'data.weights=1,3', 'num_steps=2']
    fields += [f'data.data_dir={both}']
    arguments = [f'--config={config_file}', f'--workdir={workdir}']
    arguments += [f'--config.{field}' for field in fields]
    monkeypatch.setattr(sys, 'argv', ['train.py', *arguments])
    with pytest.raises(SystemExit) as end:
        exit_cleanly(train.main)
    assert end.value.code == 0
    told = capfd.readouterr().err
    assert 'stsa_synthetic: 2 videos, ' in told and 'ucf_sports: 1 videos, 10 windows' in told
    steps = [entry for entry in read_log(workdir) if entry['kind'] == 'train']
    assert [entry['step'] for entry in steps] == [1, 2]
    assert all(np.isfinite(entry['loss']) for entry in steps)
    # What is saved of the stream of clips depends on its datasets and their weights.
    meta = json.loads((workdir / 'checkpoints/2/meta/metadata').read_text())
    names, view = (
        ['stsa_synthetic', 'ucf_sports'],
        {'data_dir': both, 'batch_size': 8, 'frames': 16},
    )
    data.train_clips(names, [1, 3], **view).set_state(meta['data'][0]['clips'])
    with pytest.raises(InputError, match='another stream'):
        data.train_clips(names, **view).set_state(meta['data'][0]['clips'])


def test_initial_weights_are_read_once(finished, config_file, tmp_path, monkeypatch, capsys):
    source, workdir = tmp_path / 'source', tmp_path / 'run'
    # The rate is so small that the parameters stay what they were.
    options = ('num_steps=2', 'checkpoint_every=1', 'optimizer.learning_rate=1e-30')
    options += (f'init_from={source}',)
    arguments = [f'--config={config_file}', f'--workdir={workdir}']
    arguments += [f'--config.{option}' for option in options]
    fails_cleanly(monkeypatch, capsys, *arguments)
    assert not workdir.exists()
    shutil.copytree(finished[0], source)
    run(config_file, workdir, *options)
    start = load_weights(finished[0], 'best').params
    for a, b in zip(jax.tree.leaves(load_weights(workdir).params), jax.tree.leaves(start)):
        np.testing.assert_array_equal(a, b)
    shutil.rmtree(source)
    shutil.rmtree(workdir / 'checkpoints' / '2')
    assert [entry['step'] for entry in run(config_file, workdir, *options)] == [1, 2]


def test_early_stopping(config_file, tmp_path):
    options = ('validation.every=1', 'validation.patience=2', 'validation.clips=1')
    # The rate is so small that nothing gets better after the first validation.
    options += ('num_steps=50', 'optimizer.learning_rate=1e-30')
    history = run(config_file, tmp_path / 'run', *options)
    assert history[-1]['step'] == 3
    assert run(config_file, tmp_path / 'run', *options) == history, 'the same command adds nothing'


BAD_OVERRIDES = {
    'modle.width=1': r'no such field \(did you mean config.model\?\); config has: accumulate, ',
    'model.widht=1': r'config.model.widht: no such field \(did you mean config.model.width\?\)',
    'seed.x=1': r'config.seed is a value, not a group of fields',
    'batch_size=many': "config.batch_size: expected an integer such as 8, found 'many'",
    'freeze_backbone=2': 'config.freeze_backbone: expected true or false',
    'model.image_size=(64,a)': 'config.model.image_size: expected values separated by commas',
    'model=3': r'config.model: is a group of fields \(amsf_concat',
    'model.frames=17': 'config.model.frames is 17, expected a multiple of 8',
    'batch_size=12': 'config.batch_size=12 is not divisible by 8 devices; use 8 or 16',
    'batch_size=0': 'config.batch_size is 0, expected a positive number',
    'mesh.fsdp=3': 'fsdp=3 does not fit 8 devices',
    'data.datasets=dhf2k': 'dhf2k',
    'data.datasets=': 'config.data.datasets is empty',
    'data.train_split=trian': "no split 'trian'; it has test, train, validation",
    'optimizer.schedule=stairs': "config.optimizer.schedule is 'stairs', expected one of constant",
    'validation.metric=nss': "metric='nss'",
    'init_from=runs/nowhere': 'runs/nowhere: there is no such file or folder',
}


def fails_cleanly(monkeypatch, capsys, *arguments):
    """What the command prints before it ends with exit code 2."""
    monkeypatch.setattr(sys, 'argv', ['train.py', *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        exit_cleanly(train.main)
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize('override', BAD_OVERRIDES)
def test_bad_fields(override, config_file, tmp_path, monkeypatch, capsys):
    workdir = tmp_path / 'run'
    told = fails_cleanly(
        monkeypatch,
        capsys,
        f'--config={config_file}',
        f'--workdir={workdir}',
        f'--config.{override}',
    )
    assert re.search(BAD_OVERRIDES[override], told), told
    assert not workdir.exists(), 'nothing is written'


def test_missing_initial_weights(config_file, tmp_path, monkeypatch, capsys):
    """The message explains them, and the folder can be used for a second try."""
    workdir = tmp_path / 'run'
    recipe = load_config(f'{ROOT}/configs/dhf1k.py').init_from
    told = fails_cleanly(
        monkeypatch,
        capsys,
        f'--config={config_file}',
        f'--workdir={workdir}',
        f'--config.init_from={recipe}',
    )
    assert 'config.init_from=S3D_kinetics400.pt: there is no such file' in told
    assert 'https://github.com/kylemin/S3D' in told and '--config.init_from= ' in told
    assert not workdir.exists()


def test_bad_paths(config_file, finished, tmp_path, monkeypatch, capsys):
    (tmp_path / 'file').write_text('')
    (tmp_path / 'broken.py').write_text('def get_config():\n    return 1 / 0\n')
    good, workdir = f'--config={config_file}', f'--workdir={tmp_path / "run"}'
    cases = [
        ((f'--config={tmp_path}/no.py', workdir), 'no.py: there is no such config file'),
        ((f'--config={tmp_path}/broken.py', workdir), 'broken.py: cannot be used.*ZeroDivision'),
        ((good, f'--workdir={tmp_path}/file'), 'file: is a file'),
        ((good, workdir, '--batch=3'), '--batch=3: not an option'),
        ((good, f'--workdir={finished[0]}'), 'another config(.|\n)*validation.every: 3 in the run'),
        ((good,), 'required: --workdir'),
    ]
    for arguments, message in cases:
        told = fails_cleanly(monkeypatch, capsys, *arguments)
        assert re.search(message, told), told


def test_a_second_run_in_the_same_folder(config_file, tmp_path, monkeypatch, capsys):
    """It names the first, and writes nothing."""
    workdir = tmp_path / 'run'
    workdir.mkdir()
    program = (
        'import sys, stsa_jax.lock as lock\n'
        'with lock.locked_folder(sys.argv[1]):\n    print("held", flush=True)\n    input()'
    )
    command = [sys.executable, '-c', program, str(workdir)]
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as other:
        assert other.stdout.readline() == 'held\n'
        told = fails_cleanly(monkeypatch, capsys, f'--config={config_file}', f'--workdir={workdir}')
        assert f'{workdir}: another process is writing here (process {other.pid} on' in told
        assert [p.name for p in workdir.iterdir()] == ['.lock']
        other.communicate('\n')
    assert not list(workdir.iterdir())


def test_the_launch_files_of_the_docs_can_be_used():
    text = (ROOT / 'docs' / 'scaling.md').read_text()
    (script,) = re.findall(r'```bash\n(.*?)```', text, re.DOTALL)
    subprocess.run(['bash', '-n'], input=script, text=True, check=True)
    (jobset,) = re.findall(r'```yaml\n(.*?)```', text, re.DOTALL)
    (job,) = yaml.safe_load(jobset)['spec']['replicatedJobs']
    (container,) = job['template']['spec']['template']['spec']['containers']
    command = container['command'] + script[script.index('train.py') :].replace('\\', '').split()
    fields = [part for part in command if part.startswith('--config.')]
    assert len(fields) == 8
    load_config(str(ROOT / 'configs' / 'dhf1k.py'), fields)
