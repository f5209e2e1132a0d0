"""train.py from the command line's point of view, with a small network in STSA-Net's place."""

import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import data_copies
import jax
import numpy as np
import pytest
import small_network
import yaml
from tensorboardX.proto import event_pb2

import data
import train
from data import synthetic
from stsa_jax.checkpoint import load_weights
from stsa_jax.configuration import load_config
from stsa_jax.errors import exit_cleanly
from stsa_jax.initial import initial_weights
from stsa_jax.reporting import read_log

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
    """A folder with four videos of the embedded dataset."""
    folder = tmp_path_factory.mktemp('datasets')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, 'VIDEOS', {'train': 2, 'validation': 1, 'test': 1})
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
    monkeypatch.setattr(train, 'initial_weights', small_network.initial_weights)


def run(config_file, workdir, *overrides):
    """The log of a run in this process."""
    config = load_config(str(config_file), [f'--config.{o}' for o in overrides])
    return train.train(config, str(workdir))


@pytest.fixture(scope='module')
def finished(config_file, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, 'initial_weights', small_network.initial_weights)
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
    finished, config_file, tmp_path
):
    workdir, history = finished
    copy = tmp_path / 'run'
    shutil.copytree(workdir, copy)
    largest = max((copy / 'checkpoints/6').rglob('d/*'), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    run(config_file, copy, 'validation.every=3', 'validation.clips=3')
    assert_same_weights(load_weights(copy), load_weights(workdir))
    losses = [[e['loss'] for e in log] for log in (history, read_log(copy))]
    assert losses[0] == losses[1], 'the log reads as that of the uninterrupted run'


def test_damaged_frames_are_told_and_counted_and_training_goes_on(
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


def test_early_stopping(config_file, tmp_path):
    options = ('validation.every=1', 'validation.patience=2', 'validation.clips=1')
    # The rate is so small that nothing gets better after the first validation.
    options += ('num_steps=50', 'optimizer.learning_rate=1e-30')
    history = run(config_file, tmp_path / 'run', *options)
    assert history[-1]['step'] == 3
    assert run(config_file, tmp_path / 'run', *options) == history, 'the same command adds nothing'


def command(config_file, workdir, *overrides):
    script = [sys.executable, str(ROOT / 'tests' / 'small_network.py')]
    options = [f'--config={config_file}', f'--workdir={workdir}']
    return script + options + [f'--config.{o}' for o in overrides]


@pytest.mark.slow
def test_killed_and_stopped_anyhow_it_goes_on_as_if_it_had_not_been(
    config_file, tmp_path, tmp_path_factory
):
    """SIGKILL at random moments, SIGTERM once; STSA_JAX_KILLS sets the number of kills."""
    long = ('num_steps=60', 'checkpoint_every=7', 'validation.every=20', 'validation.clips=3')
    environment = os.environ | {'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'compiled')}
    environment['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
    workdir, rng = tmp_path / 'killed', random.Random(0)
    kills = int(os.environ.get('STSA_JAX_KILLS', '2'))
    signals = [signal.SIGKILL] * kills + [signal.SIGTERM]
    for how in signals:
        process = subprocess.Popen(
            [*command(config_file, workdir, *long), '--stopped_exit_code=75'],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        before = last_step(workdir)
        deadline = time.monotonic() + 300
        while process.poll() is None and last_step(workdir) <= before + 2:
            assert time.monotonic() < deadline, 'the run does not get on'
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.7))
        process.send_signal(how)
        _, told = process.communicate(timeout=120)
        if process.returncode not in (0, 75, -signal.SIGKILL):
            pytest.fail(f'ended with {process.returncode}: {told[-3000:]}')
        if how == signal.SIGTERM and last_step(workdir) < 60:
            assert process.returncode == 75 and 'stopped at step' in told
    done = subprocess.run(
        command(config_file, workdir, *long), env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    whole = tmp_path / 'whole'
    run(config_file, whole, *long)
    assert_same_weights(load_weights(workdir), load_weights(whole))
    logs = [[(e['step'], e['kind'], e['loss']) for e in read_log(w)] for w in (workdir, whole)]
    assert logs[0] == logs[1]


def last_step(workdir):
    log = read_log(workdir)
    return log[-1]['step'] if log else 0


BAD_OVERRIDES = {
    'modle.width=1': r'no such field \(did you mean config.model\?\); config has: accumulate, ',
    'model.widht=1': r'config.model.widht: no such field \(did you mean config.model.width\?\)',
    'seed.x=1': r'config.seed is a value, not a group of fields',
    'batch_size=many': "config.batch_size: expected a whole number such as 8, found 'many'",
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
    assert not (workdir / 'config.json').exists(), 'nothing is written'


def test_weights_to_start_from_that_are_not_there(config_file, tmp_path, monkeypatch, capsys):
    """The message says what they are, and the folder is free for a second try."""
    monkeypatch.setattr(train, 'initial_weights', initial_weights)  # the real one
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
    assert not (workdir / 'config.json').exists()


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
