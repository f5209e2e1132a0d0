"""Runs that signals end at chosen moments, and that resume as if they had not been interrupted."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from test_train_script import ROOT, config_file, prepared  # noqa: F401 (fixtures)

from stsa_jax import checkpoints
from stsa_jax.checkpoints import meta as checkpoint_meta
from stsa_jax.remote import CACHE, local
from stsa_jax.training.reporting import read_log

FIELDS = {
    'batch_size': 2,
    'checkpoint_every': 2,
    'validation.every': 4,
    'validation.clips': 5,  # three batches
    'ema_decay': 0.9,
    'optimizer.schedule': 'plateau',
    'optimizer.drop_factor': 0.5,
}


def killed(rng: random.Random, times: int) -> list[dict]:
    """Attempts with a SIGKILL at four places, each so many times; three stay below 32 steps."""
    most = {'step': 4, 'batch': 5, 'validation': 3, 'saving': 40}
    places = [place for place in most for _ in range(times)]
    rng.shuffle(places)
    return [{'place': p, 'count': rng.randint(1, most[p]), 'signal': 9} for p in places]


STOPPED = [
    {'place': 'compiling', 'signal': signal.SIGTERM},
    {'place': 'step', 'count': 3, 'signal': signal.SIGTERM},
    {'place': 'validation', 'count': 2, 'signal': signal.SIGTERM},  # of step 4
    {'place': 'validation', 'count': 1, 'signal': signal.SIGTERM},  # of step 4, made up for
    {'place': 'step', 'count': 4, 'signal': signal.SIGTERM},  # step 8, which is to be validated
    {'place': 'validation', 'count': 4, 'signal': signal.SIGTERM},  # of step 12, the last one
]


def attempt(plan: dict[str, list[dict]], num_steps: int, config: Path, folder: Path | str) -> dict:
    """The results of the attempts at each run of the plan, in `folder`."""
    attempts = []
    for name, parts in plan.items():
        arguments = [f'--config={config}', f'--workdir={folder}/{name}']
        fields = FIELDS | {'num_steps': num_steps}
        arguments += [f'--config.{field}={value}' for field, value in fields.items()]
        attempts += [part | {'arguments': arguments, 'run': name} for part in parts]
    environment = os.environ | {
        'XLA_FLAGS': '--xla_force_host_platform_device_count=1',
        'JAX_PLATFORMS': 'cpu',
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tests' / 'forked.py')],
        input=json.dumps(attempts),
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = {name: [] for name in plan}
    for each, result in zip(attempts, json.loads(done.stdout)):
        results[each['run']].append(result)
    return results


def last_checkpoint(workdir: Path) -> tuple[dict, dict]:
    """Its record, and all its arrays."""
    folder = checkpoints.step_folder(workdir)
    meta = checkpoint_meta.read_meta(folder)
    items = ('params', 'batch_stats', 'optimizer', 'ema')
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        return meta, {item: reader.restore(folder / item) for item in items}


def assert_same_end(one: Path, other: Path):
    (meta, arrays), (meta_of_other, others) = last_checkpoint(one), last_checkpoint(other)
    assert meta == meta_of_other
    assert len(jax.tree.leaves(arrays)) == len(meta['checksums']) > 30
    for a, b in zip(jax.tree.leaves(arrays), jax.tree.leaves(others), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    numbers = ('step', 'kind', 'loss', 'kl', 'cc', 'learning_rate')
    logs = [[[e.get(k) for k in numbers] for e in read_log(w)] for w in (one, other)]
    assert logs[0] == logs[1]
    best = [checkpoints.step_folder(w, 'best').name for w in (one, other)]
    assert best[0] == best[1]


@pytest.mark.slow
@pytest.mark.parametrize('times, num_steps', [(1, 16), pytest.param(3, 32, marks=pytest.mark.long)])
def test_killed_again_and_again_it_ends_with_the_same_result(
    config_file,  # noqa: F811
    tmp_path,
    times,
    num_steps,
):
    plan = {'whole': [{}], 'killed': [*killed(random.Random(0), times), {}]}
    results = attempt(plan, num_steps, config_file, tmp_path)
    codes = [r['code'] for r in results['killed']]
    assert codes == [-signal.SIGKILL] * 4 * times + [0], [r['told'] for r in results['killed']]
    unfinished = [r for r in results['killed'] if not all(n.isdecimal() for n in r['left'])]
    assert unfinished or times == 1, 'some were killed while a temporary checkpoint was there'
    assert_same_end(tmp_path / 'whole', tmp_path / 'killed')
    rates = {e['learning_rate'] for e in read_log(tmp_path / 'whole') if e['kind'] == 'train'}
    assert len(rates) > 1, 'the plateau state is restored'


@pytest.mark.long
def test_stopped_anywhere_it_exits_at_once_and_resumes_exactly(config_file, tmp_path):  # noqa: F811
    results = attempt({'whole': [{}], 'stopped': [*STOPPED, {}]}, 12, config_file, tmp_path)
    told = [r['told'] for r in results['stopped']]
    assert [r['code'] for r in results['stopped']] == [0] * 7, told
    saved = [max(map(int, r['left']), default=None) for r in results['stopped']]
    assert saved == [None, 3, 4, 4, 8, 12, 12], 'no step after the signal'
    assert all(f'stopped at step {step}, saved' in told[i] for i, step in ((1, 3), (2, 4), (4, 8)))
    assert 'stopped before there was anything to save' in told[0]
    assert 'is already trained' not in told[-1]
    assert_same_end(tmp_path / 'whole', tmp_path / 'stopped')
    validated = [e['step'] for e in read_log(tmp_path / 'stopped') if e['kind'] == 'validation']
    assert validated == [4, 8, 12]


@pytest.mark.slow
@pytest.mark.long
def test_in_object_storage_it_resumes_on_another_machine(
    config_file,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    """Which has no copy: each attempt has a cache of its own. The storage is fsspec's of files."""
    places = [('step', 9), ('saving', 15), ('validation', 4), (None, 0)]
    stored = [
        {'place': place, 'count': count, 'signal': 9, 'cache': str(tmp_path / f'machine{i}')}
        for i, (place, count) in enumerate(places)
    ]
    whole = attempt({'whole': [{}]}, 16, config_file, tmp_path)
    results = attempt({'run': stored}, 16, config_file, f'file://{tmp_path}/bucket')
    told = [r['told'] for r in results['run']]
    assert [r['code'] for r in results['run']] == [-signal.SIGKILL] * 3 + [0], told
    assert any('continuing at step' in text for text in told), told
    monkeypatch.setenv(CACHE, str(tmp_path / 'machine4'))
    run = Path(local(f'file://{tmp_path}/bucket/run'))
    assert_same_end(tmp_path / 'whole', run)
    stored = {p.relative_to(run.parent) for p in run.rglob('*') if p.is_file()}
    left = (tmp_path / 'bucket').rglob('*')
    assert stored == {p.relative_to(tmp_path / 'bucket') for p in left if p.is_file()}
    assert Path('run/config.json') in stored
    steps = {p.name for p in (run / 'checkpoints').iterdir()}
    assert steps == {p.name for p in (tmp_path / 'whole' / 'checkpoints').iterdir()}
    assert whole['whole'][0]['code'] == 0
