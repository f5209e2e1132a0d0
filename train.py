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
import time

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

import data
from data.held_out import HeldOutClips
from data.windows import problem_lines
from stsa_jax import distributed, files, optimizer, run_config, sharding, training, visualize
from stsa_jax.checkpoint import Checkpointer, describe
from stsa_jax.configuration import load_config
from stsa_jax.errors import InputError, exit_cleanly
from stsa_jax.initial import initial_weights
from stsa_jax.meter import Meter
from stsa_jax.preprocess import IMAGENET, denormalise
from stsa_jax.reporting import Reporter
from stsa_jax.stsanet import STSANetConfig
from stsa_jax.validation import Best, validate

PROFILED = (10, 15)  # the steps of --profile, counted from where the run starts or goes on


def train(
    config: ConfigDict,
    workdir: str,
    profile: str | None = None,
    stopping: distributed.StopSignal | None = None,
) -> list[dict]:
    """Trains, or continues to, until `config.num_steps`; returns the log, a dict a line.

    `profile` is a folder for a trace of a few steps. `stopping` says afterwards whether a signal
    ended the run early. Each dict has `step`, `kind` ('train' or 'validation') and values: loss,
    kl, cc, ... Raises InputError for anything about the config, the data or the workdir that cannot
    be used.
    """
    stopping = stopping or distributed.StopSignal()
    check_config(config)
    workdir = files.output_folder(workdir)
    model_config = STSANetConfig(**config.model)
    mesh = sharding.make_mesh(**config.mesh)
    local_batch = sharding.local_batch_size(mesh, config.batch_size, config.accumulate)
    best = Best(config.validation.metric, config.validation.mode)
    optimizer_config = optimizer.OptimizerConfig(**config.optimizer)
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
        batch_size=local_batch,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_workers=config.data.num_workers,
        normalise=False,  # uint8 to the device, normalised there
        **view,
    )
    held_out = None
    if config.validation.every:
        held_out = HeldOutClips(
            config.data.eval_datasets or config.data.datasets,
            config.validation.clips,
            split=config.data.eval_split,
            normalisation=None,
            **view,
        )
    num_steps = config.num_steps or config.num_epochs * clips.steps_per_epoch
    run_config.write_config(workdir, config.to_dict())

    graphdef, *weights = initial_weights(model_config, config.seed, config.init_from)
    rate = optimizer.learning_rate(optimizer_config, clips.steps_per_epoch, num_steps)
    tx = optimizer.optimizer(optimizer_config, clips.steps_per_epoch)
    state = training.create_state(mesh, *weights, tx, ema=config.ema_decay > 0)
    del weights
    options = training.StepOptions(
        config.accumulate,
        config.ema_decay,
        config.freeze_backbone,
        config.freeze_batch_norm,
        config.remat,
    )
    train_step = training.make_train_step(graphdef, tx, rate, mesh, options)
    eval_step = training.make_eval_step(graphdef, mesh)
    description = describe('stsanet', config.model.to_dict(), IMAGENET)
    selection = (best.metric, best.mode) if held_out else ()

    with contextlib.ExitStack() as stack:
        stack.callback(clips.close)
        stack.enter_context(stopping)
        checkpoints = stack.enter_context(
            Checkpointer(workdir, description, config.keep_checkpoints, *selection)
        )
        step = 0
        if (found := checkpoints.restore(training.to_items(state))) is not None:
            state, step = training.from_items(found.items), found.step
            clips.set_state(found.data_state['clips'])
            best.value, best.since = found.data_state['best']
            del found
        report = stack.enter_context(Reporter(workdir, num_steps, step))
        if step >= num_steps or best.is_stale(config.validation.patience):
            report.say(f'{workdir}: is trained already, {step} of {num_steps} steps')
            return report.history
        report.say(f'{"continuing at" if step else "starting at"} step {step} of {num_steps}')

        for used in clips.summary:
            report.say(
                f'{used["dataset"]}: {used["videos"]} videos, {used["windows"]} windows; '
                f'{used["windows_without_fixation"]} windows and '
                f'{used["videos_without_fixation"]} videos without fixation are left out'
            )
        meter, compiled, first, damaged, told = None, None, step, 0, 0
        while step < num_steps:
            waiting = time.perf_counter()
            batch = next(clips)
            waited = time.perf_counter() - waiting
            arrays = sharding.put_batch(mesh, {k: batch[k] for k in ('clip', 'density')})
            if compiled is None:
                report.say('compiling the training step')
                compiled = train_step.lower(state, arrays).compile()
                needs = training.flops(compiled, config.accumulate), training.memory(compiled)
                meter = Meter(config.batch_size, config.max_skipped, *needs)
            if profile and step == first + PROFILED[0]:
                jax.profiler.start_trace(profile)
            state, metrics = compiled(state, arrays)
            step += 1
            if profile and step == min(first + PROFILED[1], num_steps) > first + PROFILED[0]:
                jax.block_until_ready(state)
                jax.profiler.stop_trace()
            for line in problem_lines(batch):
                damaged += 1
                report.say(f'step {step}: {line}', from_all=True)
            names = [f'{v} frame {f}' for v, f in zip(batch['video'], batch['frame'])]
            meter.waited(waited)
            meter.add(step, metrics, names)
            report.advance(step)

            last, stop = step == num_steps, stopping.requested(step)
            validating = held_out is not None and (step % config.validation.every == 0 or last)
            saving = last or stop or validating or step % config.checkpoint_every == 0
            if saving or step % config.log_every == 0:
                values, problems = meter.read()
                for line in problems:
                    report.say(line)
                report.record(step, values | {'damaged_frames': distributed.total(damaged)})
                damaged = 0
            scores = {}
            if validating and not stop:
                params = state.params if state.ema is None else state.ema
                scores, saliency, shown = validate(
                    eval_step, params, state.batch_stats, held_out, config.batch_size, mesh
                )
                for line in held_out.problems[told:]:
                    report.say(line, from_all=True)
                told = len(held_out.problems)
                best.update(scores)
                report.record(step, scores, 'validation')
                report.images(step, pictures(shown, saliency, model_config.target_index))
            if saving:
                data_state = {'clips': clips.get_state(), 'best': [best.value, best.since]}
                save(checkpoints, step, state, data_state, scores, report)
            if stop:
                checkpoints.wait()
                report.say(f'stopped at step {step}, saved; the same command continues')
                break
            if best.is_stale(config.validation.patience):
                report.say(f'stopped early at step {step}: no better {best.metric} for a while')
                break
        return report.history


def save(checkpoints, step: int, state, data_state, scores: dict, report) -> None:
    """Saves a checkpoint; a failure is reported, and training goes on with the one before.

    A second try follows: the first one may have failed of the checkpoint before, which was written
    in the background.
    """
    for _ in range(2):
        try:
            return checkpoints.save(step, training.to_items(state), data_state, scores)
        except InputError as error:
            report.say(f'step {step}: {error}')


def pictures(batch: dict, saliency: np.ndarray, target: int, most: int = 4) -> dict:
    """For TensorBoard: the target frame, the prediction and the ground truth, side by side."""
    made = {}
    for i in range(min(most, len(saliency))):
        frame = batch['clip'][i, target]
        frame = frame if frame.dtype == np.uint8 else denormalise(frame)
        name = f'validation/{batch["video"][i]}_{batch["frame"][i]}'
        made[name] = visualize.side_by_side(frame, saliency[i], batch['density'][i])
    return made


def check_config(config: ConfigDict) -> None:
    """Raises InputError for values that no run can have."""
    expected = {
        'batch_size': (config.batch_size > 0, 'a positive number of clips'),
        'num_steps': (config.num_steps >= 0, 'a number of steps, or 0 for num_epochs'),
        'num_epochs': (config.num_epochs > 0, 'a positive number of epochs'),
        'log_every': (config.log_every > 0, 'a positive number of steps'),
        'checkpoint_every': (config.checkpoint_every > 0, 'a positive number of steps'),
        'keep_checkpoints': (config.keep_checkpoints > 0, 'a positive number'),
        'ema_decay': (0 <= config.ema_decay < 1, 'a number from 0 to below 1'),
        'max_skipped': (config.max_skipped > 0, 'a positive number of steps'),
    }
    for field, (good, what) in expected.items():
        if not good:
            raise InputError(f'config.{field} is {config[field]!r}, expected {what}')
    if not config.data.datasets:
        raise InputError(
            'config.data.datasets is empty; name prepared datasets, as in '
            '--config.data.datasets=dhf1k'
        )


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description='Trains STSA-Net; the same command again continues.',
        epilog='Any field of the config can be changed: --config.batch_size=8',
        allow_abbrev=False,
    )
    parser.add_argument('--config', required=True, help='a config file, as configs/dhf1k.py')
    parser.add_argument('--workdir', required=True, help='folder for checkpoints and logs')
    parser.add_argument('--profile', metavar='DIR', help='write a trace of steps 10 to 14 here')
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
    distributed.initialise(options.coordinator, options.num_processes, options.process_id)
    stopping = distributed.StopSignal()
    train(config, options.workdir, options.profile, stopping)
    return options.stopped_exit_code if stopping.stopped else 0


if __name__ == '__main__':
    exit_cleanly(main)
