"""Trains STSA-Net.

    python train.py --config=configs/dhf1k.py --workdir=runs/dhf1k [--config.batch_size=8]

The same command again continues an interrupted run, exactly as if it had not been interrupted. The
fields of a config are explained in configs/default.py. `workdir` gets

    config.json             the whole config
    checkpoints/<step>/     the last few checkpoints
    log.jsonl               a line of numbers every so many steps
    events.out.tfevents.*   the same for TensorBoard: tensorboard --logdir=runs
"""

import argparse
import contextlib
import os
import sys

import jax
from absl import logging
from ml_collections import ConfigDict

import data
from data.held_out import HeldOutClips
from data.windows import problem_lines
from stsa_jax import files, training
from stsa_jax.checkpoints.weights import FOLDER, Checkpointer, describe
from stsa_jax.configuration import load_config
from stsa_jax.distribution import processes, sharding
from stsa_jax.errors import InputError, exit_cleanly
from stsa_jax.media.preprocess import IMAGENET
from stsa_jax.models import functional
from stsa_jax.models.stsanet import STSANet, STSANetConfig
from stsa_jax.ops.cpu import memory as cpu_memory
from stsa_jax.training import compiling, optimizer, run_config
from stsa_jax.training.meter import Meter
from stsa_jax.training.reporting import Reporter
from stsa_jax.training.trace import Trace
from stsa_jax.training.validation import Best, Validation, weights_to_validate
from stsa_jax.weights.initial import initial_weights


def train(
    config: ConfigDict,
    workdir: str,
    profile: str | None = None,
    stopping: processes.StopSignal | None = None,
) -> list[dict]:
    """Trains, or continues to, until `config.num_steps`; returns the log, a dict a line.

    `profile` is a folder for a trace of a few steps. `stopping` says afterwards whether a signal
    ended the run early. Each dict has `step`, `kind` ('train' or 'validation') and values: loss,
    kl, cc, ... Raises InputError for anything about the config, the data or the workdir that cannot
    be used, and if the last checkpoint cannot be written.
    """
    run_config.check_values(config)
    run_config.check_same(workdir, config.to_dict())
    stopping = stopping or processes.StopSignal()
    history = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(stopping)
        model_config = STSANetConfig(**config.model)
        mesh = sharding.make_mesh(**config.mesh)
        optimizer_config = optimizer.OptimizerConfig(**config.optimizer)
        best = Best(config.validation.metric, config.validation.mode)
        clips, held_out = open_clips(config, model_config, mesh)
        stack.callback(clips.close)
        num_steps = config.num_steps or config.num_epochs * clips.steps_per_epoch
        for folder in (workdir, os.path.join(workdir, FOLDER)):
            stack.enter_context(files.folder_if_used(folder))

        graphdef, *shapes = functional.abstract(STSANet, model_config)
        rate = optimizer.learning_rate(optimizer_config, clips.steps_per_epoch, num_steps)
        tx = optimizer.optimizer(optimizer_config, clips.steps_per_epoch)
        ema = config.ema_decay > 0
        description = describe('stsanet', config.model.to_dict(), IMAGENET)
        selection = (best.metric, best.mode) if held_out else ()
        checkpoints = stack.enter_context(
            Checkpointer(workdir, description, config.keep_checkpoints, *selection)
        )
        like = training.abstract_state(mesh, *shapes, tx, ema)
        found = checkpoints.restore(training.to_items(like))
        if found is None:
            _, *weights = initial_weights(model_config, config.seed, config.init_from)
            state, step = training.create_state(mesh, *weights, tx, ema), 0
            unvalidated, skipped_in_row = False, 0
            del weights
        else:
            state, step = training.from_items(found.items), found.step
            clips.set_state(found.data_state['clips'])
            best.value, best.since = found.data_state['best']
            unvalidated = found.data_state.get('unvalidated', False)
            skipped_in_row = found.data_state.get('skipped_in_row', 0)
            del found
        cpu_memory.release()  # what making the state took beside it
        run_config.write_config(workdir, config.to_dict())

        report = stack.enter_context(Reporter(workdir, num_steps, step))
        history = report.history
        ended = step >= num_steps or best.is_stale(config.validation.patience)
        if ended and not unvalidated:
            report.say(f'{workdir}: is trained already, {step} of {num_steps} steps')
            return history
        report.say(f'{"continuing at" if step else "starting at"} step {step} of {num_steps}')
        for used in clips.summary:
            report.say(
                f'{used["dataset"]}: {used["videos"]} videos, {used["windows"]} windows; '
                f'{used["windows_without_fixation"]} windows and '
                f'{used["videos_without_fixation"]} videos without fixation or density are left out'
            )
        for line in clips.notes:
            report.say(f'note: {line}')

        options = training.StepOptions.of(config)
        batch = training.abstract_batch(mesh, config.batch_size, model_config)
        report.say('compiling the training step')
        train_step = training.make_train_step(graphdef, tx, rate, mesh, options)
        train_step = compiling.compiled(train_step.lower(state, batch))
        needs = training.flops(train_step, config.accumulate), training.memory(train_step)
        meter = Meter(config.batch_size, config.max_skipped, *needs, skipped_in_row)
        if held_out is not None:
            eval_step = training.make_eval_step(graphdef, mesh)
            eval_step = compiling.compiled(eval_step.lower(*weights_to_validate(state), batch))
            target = model_config.target_index
            validation = Validation(eval_step, held_out, config.batch_size, mesh, best, target)

        stop = False
        if unvalidated:  # a signal cut it off
            scores = validation(step, state, report, stopping.requested)
            unvalidated = not scores
            if scores:
                checkpoints.amend(step, data_state(clips, best, meter), scores)
            stop = stopping.stopped
        trace = stack.enter_context(Trace(profile, step, num_steps, report.say))
        damaged = 0
        meter.restart()
        while not (stop or step >= num_steps or best.is_stale(config.validation.patience)):
            with meter.waiting():
                batch = next(clips)
            arrays = sharding.put_batch(mesh, {k: batch[k] for k in ('clip', 'density')})
            stopping.hold()
            trace.before(step)
            state, metrics = train_step(state, arrays)
            step += 1
            trace.after(step, state)
            for line in problem_lines(batch):
                damaged += 1
                report.say(f'step {step}: {line}', from_all=True)
            names = [f'{v} frame {f}' for v, f in zip(batch['video'], batch['frame'])]
            meter.add(step, metrics, names)
            report.advance(step)

            last, stop = step == num_steps, stopping.requested()
            validating = held_out is not None and (step % config.validation.every == 0 or last)
            saving = last or stop or validating or step % config.checkpoint_every == 0
            if saving or step % config.log_every == 0:
                values, problems = meter.read()
                report.record(step, values | {'damaged_frames': processes.total(damaged)})
                damaged = 0
            else:
                problems = meter.check() if step % config.max_skipped == 0 else []
            for line in problems:
                report.say(line)
            scores = {}
            if validating and not stop:
                scores = validation(step, state, report, stopping.requested)
                stop = stopping.requested()
            unvalidated = validating and not scores
            ended = (last or best.is_stale(config.validation.patience)) and not unvalidated
            stop = stopping.stopped = stop and not ended
            if saving:
                rest = data_state(clips, best, meter, unvalidated)
                save(checkpoints, step, state, rest, scores, report, needed=ended or stop)
                meter.restart()
            if stop:
                checkpoints.wait()
                report.say(f'stopped at step {step}, saved; the same command continues')
        if not stop and step < num_steps:
            report.say(f'stopped early at step {step}: no better {best.metric} for a while')
    return history


def open_clips(config: ConfigDict, model_config: STSANetConfig, mesh) -> tuple:
    """This process's training clips, and the clips held out for validation or None."""
    view = {
        'data_dir': config.data.data_dir or None,
        'image_size': model_config.image_size,
        'frames': model_config.frames,
        'target': model_config.target,
    }
    clips = data.train_clips(
        config.data.datasets,
        config.data.weights or None,
        split=config.data.train_split,
        batch_size=sharding.local_batch_size(mesh, config.batch_size, config.accumulate),
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_workers=config.data.num_workers,
        normalise=False,  # uint8 to the device, normalised there
        **view,
    )
    if not config.validation.every:
        return clips, None
    return clips, HeldOutClips(
        config.data.eval_datasets or config.data.datasets,
        config.validation.clips,
        split=config.data.eval_split,
        normalisation=None,
        **view,
    )


def data_state(clips, best: Best, meter: Meter, unvalidated: bool = False) -> dict:
    """What a checkpoint holds besides arrays; `unvalidated`: its validation was cut off."""
    return {
        'clips': clips.get_state(),
        'best': [best.value, best.since],
        'skipped_in_row': meter.skipped_in_row,
        'unvalidated': unvalidated,
    }


def save(checkpoints, step: int, state, data, scores: dict, report, needed: bool) -> None:
    """Saves a checkpoint; a failure is reported, and training goes on with the one before.

    A second try follows: the first one may have failed of the checkpoint before, which was written
    in the background. Raises InputError if this one is `needed` and fails, as no other will follow.
    """
    for final in (False, True):
        try:
            checkpoints.save(step, training.to_items(state), data, scores)
            cpu_memory.release()  # the copies may have taken a place that a step needs whole
            return
        except InputError as error:
            if final and needed:
                raise
            report.say(f'step {step}: {error}')


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description='Trains STSA-Net; the same command again continues.',
        epilog='Any field of the config can be changed: --config.batch_size=8',
        allow_abbrev=False,
    )
    parser.add_argument('--config', required=True, help='a config file, as configs/dhf1k.py')
    parser.add_argument('--workdir', required=True, help='folder for checkpoints and logs')
    parser.add_argument('--profile', metavar='DIR', help='write a trace of five steps here')
    parser.add_argument(
        '--stopped_exit_code',
        type=int,
        default=0,
        metavar='N',
        help='exit code of a run that SIGTERM stopped, so that a launcher starts it again',
    )
    several = parser.add_argument_group('several processes (see docs/scaling.md)')
    several.add_argument('--coordinator', default='', help='HOST:PORT of process 0')
    several.add_argument('--num_processes', type=int, default=0)
    several.add_argument('--process_id', type=int, default=-1)
    options, overrides = parser.parse_known_args()
    logging.set_verbosity(logging.ERROR)
    config = load_config(options.config, overrides)
    processes.initialise(options.coordinator, options.num_processes, options.process_id)
    cpu_memory.keep()
    stopping = processes.StopSignal()
    train(config, options.workdir, options.profile, stopping)
    code = options.stopped_exit_code if stopping.stopped else 0
    if compiling.goes_on():
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == '__main__':
    exit_cleanly(main)
