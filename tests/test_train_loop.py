"""The loop of train.py under faults, and what it does besides computing."""

import json
import logging
import re
import resource
import time

import jax
import numpy as np
import pytest
from test_train_script import (  # noqa: F401 (fixtures)
    assert_same_weights,
    config_file,
    prepared,
    read_events,
    run,
    small,
)

import data
from stsa_jax import meter, training
from stsa_jax.checkpoint import load_weights
from stsa_jax.errors import InputError


@pytest.fixture
def on_batch(monkeypatch):
    """A list of functions of the step and its batch, called when the loop asks for the batch."""
    make, functions = data.train_clips, []

    def train_clips(*args, **kwargs):
        clips = make(*args, **kwargs)
        read = type(clips).__next__

        class Watched(type(clips)):
            def __next__(self):
                batch = read(self)
                for function in functions:
                    function(self._next, batch)
                return batch

        clips.__class__ = Watched
        return clips

    monkeypatch.setattr(data, 'train_clips', train_clips)
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


def test_the_loop_says_what_memory_and_which_part_of_the_peak_it_uses(
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


def test_profile(config_file, tmp_path):  # noqa: F811
    from stsa_jax.configuration import load_config
    from train import train

    settings = load_config(str(config_file), ['--config.num_steps=12'])
    train(settings, str(tmp_path / 'run'), str(tmp_path / 'trace'))
    assert list((tmp_path / 'trace').rglob('*.xplane.pb')), 'for TensorBoard'


def black_map(steps, named):
    """Makes the second clip's density map all black in these steps: its loss is not a number."""

    def change(step, batch):
        if step in steps:
            batch['density'][1] = 0
            named.append(f'{batch["video"][1]} frame {batch["frame"][1]}')

    return change


def test_a_loss_that_is_not_finite_costs_one_step_and_names_its_clip(
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


def test_too_many_of_them_end_the_run_with_its_last_checkpoint_good(
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


def test_training_goes_on_when_the_disk_is_full(config_file, tmp_path, capsys, on_batch):  # noqa: F811
    """A limit on the size of files stands for the disk's end, from the fifth step on.

    With room again the same command goes on from what was saved before, and ends as if nothing had
    been.
    """
    workdir, whole = tmp_path / 'run', tmp_path / 'whole'
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step, _):
        if step == 5:
            deadline = time.monotonic() + 60
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
    history = run(config_file, workdir, *options, 'batch_size=16', 'num_steps=4')
    rates = [entry['learning_rate'] for entry in history]
    np.testing.assert_allclose(rates, [1e-3, 2e-3, 3e-3, 3e-3], rtol=1e-5)
    weights = load_weights(workdir)
    count = weights.batch_stats['backbone']['spatial']['count']
    assert count == 0, 'BatchNorm is frozen'
    assert (workdir / 'checkpoints' / '4' / 'ema').is_dir()
    config = json.loads((workdir / 'config.json').read_text())
    assert training.StepOptions(**{k: config[k] for k in ('accumulate', 'remat')}).accumulate == 2
