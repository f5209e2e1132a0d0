"""The loop of train.py under faults, and its work other than computing."""

import json
import logging
import math
import os
import pty
import re
import resource
import signal
import sys
import termios
import threading
import time
import types
import weakref

import jax
import numpy as np
import pytest
import small_network
from test_train_script import (  # noqa: F401 (fixtures)
    assert_same_weights,
    config_file,
    prepared,
    read_events,
    run,
    small,
)

from data.held_out import HeldOutClips
from stsa_jax import training
from stsa_jax.checkpoints.meta import read_meta
from stsa_jax.checkpoints.weights import Checkpointer, _read_arrays, load_weights
from stsa_jax.distribution import sharding
from stsa_jax.errors import InputError
from stsa_jax.models import functional
from stsa_jax.training import meter
from stsa_jax.training import run as running
from stsa_jax.training.reporting import Reporter
from stsa_jax.training.trace import Trace
from stsa_jax.training.validation import Best, validate


@pytest.fixture
def on_batch(monkeypatch):
    """A list of functions of the step and its batch, called when the loop asks for the batch."""
    functions = []
    small_network.watch_batches(monkeypatch.setattr, functions)
    return functions


def test_nothing_is_transferred_implicitly_or_compiled_twice(
    config_file,  # noqa: F811
    tmp_path,
    caplog,
    on_batch,
):
    """From the loop's first batch on: steps, validation, pictures, checkpoints and logs."""
    on_batch.append(lambda *_: jax.config.update('jax_transfer_guard', 'disallow'))
    options = ('validation.every=2', 'validation.clips=3', 'num_steps=7')
    try:
        with jax.log_compiles(), caplog.at_level(logging.WARNING, 'jax._src.interpreters.pxla'):
            history = run(config_file, tmp_path / 'run', *options)
    finally:
        jax.config.update('jax_transfer_guard', None)
    assert [e['step'] for e in history if e['kind'] == 'validation'] == [2, 4, 6, 7]
    compiled = [r.getMessage() for r in caplog.records if r.getMessage().startswith('Compiling')]
    steps = [c for c in compiled if 'constrained' in c or 'eval_step' in c]
    assert len(steps) == 2, 'one training and one validation step'
    assert len(compiled) == len(set(compiled)), 'no program twice'


def test_the_loop_holds_the_state_once_and_no_weights_beside_it(
    config_file,  # noqa: F811
    tmp_path,
    on_batch,
    monkeypatch,
):
    """On the device and on the host, where the weights came from."""
    drawn, states, held = [], [], []
    initial_weights, create_state = running.initial_weights, running.create_state

    def watched_weights(*args):
        results = initial_weights(*args)
        drawn.extend(weakref.ref(array) for array in jax.tree.leaves(results[1:]))
        return results

    def watched_state(*args):
        state = create_state(*args)
        states.append(sum(array.nbytes for array in jax.tree.leaves(state)))
        return state

    def look(*_):
        held.append(sum(array.nbytes for array in jax.live_arrays()) - before)
        drawn[:] = [array for array in drawn if array() is not None]

    monkeypatch.setattr(running, 'initial_weights', watched_weights)
    monkeypatch.setattr(running, 'create_state', watched_state)
    before = sum(array.nbytes for array in jax.live_arrays())
    on_batch.append(look)
    run(config_file, tmp_path / 'run', 'num_steps=1')
    assert held[0] <= states[0] and not drawn


def test_the_loop_reports_memory_and_the_fraction_of_the_peak(
    config_file,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    monkeypatch.setitem(meter.PEAK_FLOPS, 'cpu', 1e12)
    history = run(config_file, tmp_path / 'run', 'num_steps=2')
    state_bytes = 3 * 4 * 2000  # parameters and Adam's two moments, of some 2000 numbers
    assert all(e['device_memory_gib'] * 2**30 > state_bytes for e in history)
    # A convolution's step is some 10^8 operations; on a device of 10^12 a second, far below 1.
    assert all(0 < e['fraction_of_peak'] < 1 for e in history)


def stop_at(steps):
    """SIGTERM when the batch of one of these steps is read."""
    return lambda step, _: os.kill(os.getpid(), signal.SIGTERM) if step in steps else None


@pytest.mark.long
def test_a_trace_is_written_also_of_a_run_that_is_short_or_stopped(
    config_file,  # noqa: F811
    tmp_path,
    on_batch,
):
    from stsa_jax.configuration import load_config
    from train import train

    settings = load_config(str(config_file), ['--config.num_steps=9'])
    on_batch.append(stop_at({6}))  # of steps 5 to 9
    train(settings, str(tmp_path / 'run'), str(tmp_path / 'trace'))
    assert list((tmp_path / 'trace').rglob('*.xplane.pb')), 'for TensorBoard'


def test_a_trace_that_is_not_written_is_reported():
    said = []
    with Trace('traces', 7, 100, said.append) as trace:
        trace.before(16)
        trace.after(17, None)
    assert said == ['no trace is written: the run ended before step 18']
    with Trace(None, 7, 100, said.append):
        pass
    assert len(said) == 1


def test_speed_and_waiting_count_only_the_steps(
    config_file,  # noqa: F811
    tmp_path,
    on_batch,
    monkeypatch,
    capsys,
):
    """With a clock that only reading a batch, validating and saving advance."""
    now = [0.0]

    def takes(kind, name, seconds):
        method = getattr(kind, name)

        def slow(*args, **kwargs):
            now[0] += seconds
            return method(*args, **kwargs)

        monkeypatch.setattr(kind, name, slow)

    monkeypatch.setattr(meter, 'time', types.SimpleNamespace(perf_counter=lambda: now[0]))
    on_batch.append(lambda *_: now.__setitem__(0, now[0] + 0.2))
    takes(HeldOutClips, 'read', 100)
    takes(Checkpointer, 'save', 1000)
    options = ('num_steps=4', 'log_every=2', 'validation.every=2', 'validation.clips=1')
    history = run(config_file, tmp_path / 'run', *options)
    steps = [entry for entry in history if entry['kind'] == 'train']
    assert [entry['step'] for entry in steps] == [2, 4]
    for entry in steps:
        assert entry['data_wait_seconds'] == pytest.approx(0.2)
        assert entry['step_seconds'] == pytest.approx(0.2)
        assert entry['clips_per_second'] == pytest.approx(8 / 0.2)
    # Where there is no terminal, the progress line is a plain one.
    told = capsys.readouterr().err
    (line,) = re.findall(r'^step 4/4 .*$', told, re.MULTILINE)
    values = r'loss {loss:.3f}  kl {kl:.3f}  cc {cc:.3f}  clips/s 40.00'.format(**steps[1])
    assert line == f'step 4/4  {values}  time left 00:00'


def test_the_progress_line_in_a_terminal(tmp_path, monkeypatch):
    terminal, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    with open(theirs, 'w') as screen, monkeypatch.context() as patch:
        patch.setattr(sys, 'stderr', screen)
        with Reporter(tmp_path, 40, 10) as report:
            report.record(20, {'loss': 1.5, 'kl': 2, 'cc': 0.5, 'clips_per_second': 12})
            report.advance(20)
            report.say('between')
        shown = os.read(terminal, 10**6).decode()
    os.close(terminal)
    assert re.search(
        r'training: +50%.* 20/40 \[.*loss=1.500, kl=2.000, cc=0.500, clips/s=12', shown
    )
    assert re.search(r'\rbetween\r\n', shown), 'a line of its own'


def test_any_score_is_better_than_nan():
    best = Best('cc', 'max')
    assert best.update({'cc': math.nan})
    assert best.update({'cc': -0.5}) and not best.update({'cc': math.nan})
    assert (best.value, best.since) == (-0.5, 1)


def black_map(steps, named):
    """Makes the second clip's density map all black in these steps, so that its loss is NaN."""

    def change(step, batch):
        if step in steps:
            batch['density'][1] = 0
            named.append(f'{batch["video"][1]} frame {batch["frame"][1]}')

    return change


def test_a_non_finite_loss_skips_one_step_and_names_its_clip(
    config_file,  # noqa: F811
    tmp_path,
    on_batch,
    capsys,
):
    named = []
    on_batch.append(black_map({3}, named))
    history = run(config_file, tmp_path / 'run', 'num_steps=5')
    assert [entry['skipped'] for entry in history] == [0, 0, 1, 0, 0]
    losses = [entry['loss'] for entry in history]
    assert np.isnan(losses[2]) and np.isfinite(losses[:2] + losses[3:]).all()
    told = capsys.readouterr().err
    assert re.search(rf'step 3: skipped, .* is not finite; clips: {named[0]}\n', told), told


def test_too_many_skipped_steps_end_the_run_with_a_good_checkpoint(
    config_file,  # noqa: F811
    tmp_path,
    on_batch,
):
    on_batch.append(black_map({3, 4, 5}, []))
    with pytest.raises(InputError, match=r'step 5: skipped.* 3 steps in a row'):
        run(config_file, tmp_path / 'run', 'max_skipped=3', 'checkpoint_every=2')
    # Step 4 was saved as well: it holds what step 2 left.
    last = load_weights(tmp_path / 'run')
    assert_same_weights(last, load_weights(tmp_path / 'run', 2))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last[2:4]))


def test_skipped_steps_are_detected_between_log_lines_and_counted_across_a_stop(
    config_file,  # noqa: F811
    tmp_path,
    on_batch,
):
    read = []
    on_batch += [black_map({2, 3, 4}, []), stop_at({3}), lambda step, _: read.append(step)]
    options = ('max_skipped=3', 'num_steps=40', 'log_every=40', 'checkpoint_every=40')
    history = run(config_file, tmp_path / 'run', *options)
    assert history[-1]['step'] == read[-1] == 3
    with pytest.raises(InputError, match=r'step 4: skipped.* 3 steps in a row'):
        run(config_file, tmp_path / 'run', *options)
    assert read[-1] == 6, 'not only at step 40'


@pytest.mark.parametrize('stopped', [False, True])
def test_a_last_checkpoint_that_cannot_be_written_is_an_error(
    stopped,
    config_file,  # noqa: F811
    tmp_path,
    on_batch,
    monkeypatch,
    capsys,
):
    """Also when a signal stops the run: it does not report that it was saved."""

    def full(*_):
        raise InputError('a checkpoint could not be written')

    monkeypatch.setattr(Checkpointer, 'save', full)
    on_batch.append(stop_at({3} if stopped else {}))
    with pytest.raises(InputError, match='a checkpoint could not be written'):
        run(config_file, tmp_path / 'run', f'num_steps={9 if stopped else 3}', 'checkpoint_every=2')
    told = capsys.readouterr().err
    assert 'step 2: a checkpoint could not be written' in told, 'and training continues'
    assert ', saved' not in told


def test_checkpoints_are_written_in_the_background(config_file, tmp_path, on_batch):  # noqa: F811
    """Steps continue while the writer is blocked; an unfinished checkpoint has another name."""
    released, seen = threading.Event(), {}
    workdir = tmp_path / 'run'

    def stand_still(event, args):
        if event == 'os.rename' and str(args[0]).startswith(f'{workdir}/checkpoints/2.'):
            released.wait(60)

    def look(step, _):
        seen[step] = (workdir / 'checkpoints' / '2').exists()
        if step == 4:
            released.set()

    sys.addaudithook(stand_still)
    on_batch.append(look)
    run(config_file, workdir, 'num_steps=5', 'checkpoint_every=2', 'keep_checkpoints=5', 'seed=7')
    assert not any(seen[step] for step in (3, 4))
    assert sorted(p.name for p in (workdir / 'checkpoints').iterdir()) == ['2', '4', '5']


@pytest.mark.long
def test_training_continues_when_the_disk_is_full(config_file, tmp_path, capsys, on_batch):  # noqa: F811
    """A limit on the size of files simulates a full disk, from the fifth step on.

    With free space again the same command resumes from the last checkpoint, with the same result.
    """
    workdir, whole = tmp_path / 'run', tmp_path / 'whole'
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step, _):
        if step == 5:
            deadline = time.monotonic() + 300
            while not (workdir / 'checkpoints' / '3').is_dir():  # written in the background
                assert time.monotonic() < deadline
                time.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_FSIZE, (99, before[1]))

    on_batch.append(fill)
    try:
        with pytest.raises(InputError, match='a checkpoint could not be written'):
            run(config_file, workdir, 'num_steps=10', 'checkpoint_every=3')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        on_batch.clear()
    told = capsys.readouterr().err
    assert 'step 9: a checkpoint could not be written' in told
    assert 'the log cannot be written' in told
    whole_ones = [p.name for p in (workdir / 'checkpoints').iterdir() if p.name.isdecimal()]
    assert whole_ones == ['3']
    history = run(config_file, workdir, 'num_steps=10', 'checkpoint_every=3')
    assert [e['step'] for e in history] == list(range(1, 11))
    run(config_file, whole, 'num_steps=10', 'checkpoint_every=3')
    assert_same_weights(load_weights(workdir), load_weights(whole))


def test_every_option_of_the_step_is_a_field_of_the_config(config_file, tmp_path):  # noqa: F811
    options = (
        *('accumulate=2', 'ema_decay=0.9', 'freeze_batch_norm=true', 'remat=true', 'mesh.fsdp=2'),
        *('optimizer.clip_norm=0.1', 'optimizer.schedule=plateau', 'optimizer.warmup_steps=3'),
    )
    workdir = tmp_path / 'run'
    options += ('batch_size=16', 'num_steps=4', 'validation.every=4', 'validation.clips=3')
    *history, validation = run(config_file, workdir, *options)
    rates = [entry['learning_rate'] for entry in history]
    np.testing.assert_allclose(rates, [1e-3, 2e-3, 3e-3, 3e-3], rtol=1e-5)
    weights = load_weights(workdir)
    count = weights.batch_stats['backbone']['spatial']['count']
    assert count == 0, 'BatchNorm is frozen'
    assert (workdir / 'checkpoints' / '4' / 'ema').is_dir()
    config = json.loads((workdir / 'config.json').read_text())
    assert training.StepOptions(**{k: config[k] for k in ('accumulate', 'remat')}).accumulate == 2

    # The averaged parameters are the ones validated.
    mesh = sharding.make_mesh()
    graphdef, *_ = functional.abstract(small_network.SmallNetwork, None)
    eval_step = training.make_eval_step(graphdef, mesh)
    held_out = HeldOutClips(
        ['stsa_synthetic'],
        3,
        data_dir=config['data']['data_dir'],
        image_size=(32, 64),
        frames=16,
        normalisation=None,
    )
    scores, *_ = validate(eval_step, weights.params, weights.batch_stats, held_out, 16, mesh)
    assert scores['kl'] == pytest.approx(validation['kl'], rel=1e-5)
    folder = workdir / 'checkpoints' / '4'
    plain = _read_arrays(folder / 'params', read_meta(folder))
    scores, *_ = validate(eval_step, plain, weights.batch_stats, held_out, 16, mesh)
    assert scores['kl'] != pytest.approx(validation['kl'], rel=1e-5)
