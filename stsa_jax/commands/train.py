"""Trains STSA-Net.

    stsa-jax train --config=configs/dhf1k.py --workdir=runs/dhf1k [--config.batch_size=8]

The same command resumes an interrupted run, exactly as if it had not been interrupted.
configs/default.py documents the fields of a config. Writes to `workdir`

    config.json             the config
    checkpoints/<step>/     the last few checkpoints
    log.jsonl               metrics, one line every `log_every` steps
    events.out.tfevents.*   the same for TensorBoard: tensorboard --logdir=runs

It may be in object storage, such as gs://bucket/runs/dhf1k: docs/sharing.md.
"""

import argparse
import contextlib
import os
import sys
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

import data
from data.held_out import HeldOutClips
from data.windows import problem_lines
from stsa_jax.configuration import load_config
from stsa_jax.distribution import processes, sharding
from stsa_jax.files import refuse_remote
from stsa_jax.metrics import losses
from stsa_jax.ops import cpu
from stsa_jax.remote import is_remote
from stsa_jax.training import compiling, run_config
from stsa_jax.training.run import Clips, open_run
from stsa_jax.training.trace import Trace
from stsa_jax.training.validation import HeldOut
from stsa_jax.training.workdir import opened
from stsa_jax.weights import known


def train(
    config: ConfigDict,
    workdir: str,
    profile: str | None = None,
    stopping: processes.StopSignal | None = None,
) -> list[dict]:
    """Starts or resumes training until `config.num_steps`; returns the log, one dict per line.

    `profile` is a folder for a trace of a few steps. Afterwards `stopping` says whether a signal
    ended the run early. Each dict has `step`, `kind` ('train' or 'validation') and values: loss,
    kl, cc, ... Raises InputError if the config, the data, the workdir or `profile` cannot be used,
    and if the last checkpoint cannot be written.
    """
    if profile:
        refuse_remote(profile)
    stopping = stopping or processes.StopSignal()
    history: list[dict] = []
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(opened(workdir))
        run_config.check(config, here)
        stack.enter_context(stopping)
        mesh = sharding.make_mesh(**config.mesh)
        share = sharding.local_batch_size(mesh, config.batch_size, config.accumulate)
        clips, held_out = open_clips(config, share)
        shared = not is_remote(workdir)
        run = stack.enter_context(open_run(config, here, mesh, clips, held_out, shared))
        report, history = run.report, run.report.history
        if run.is_over and not run.unvalidated:
            report.say(f'{workdir}: is already trained, {run.step} of {run.num_steps} steps')
            return history
        run.announce()
        run.compile()
        run.catch_up(stopping.requested)
        trace = stack.enter_context(Trace(profile, run.step, run.num_steps, report.say))
        stop = stopping.stopped
        run.meter.restart()
        while not (stop or run.is_over):
            with run.meter.waiting():
                batch = next(clips)
            arrays = sharding.put_batch(mesh, {k: batch[k] for k in run.batch})
            stopping.hold()
            trace.before(run.step)
            metrics = run.take_step(arrays)
            trace.after(run.step, run.state)
            names = [f'{v} frame {f}' for v, f in zip(batch['video'], batch['frame'])]
            run.note(metrics, names, problem_lines(batch))

            stop, scores = stopping.requested(), {}
            validating = held_out is not None and run.is_due(config.validation.every)
            saving = stop or validating or run.is_due(config.checkpoint_every)
            run.log(saving or run.is_due(config.log_every))
            run.unvalidated = validating
            if validating and not stop:
                scores = run.validate(stopping.requested)
                stop = stopping.requested()
            ended = run.is_over and not run.unvalidated
            stop = stopping.stopped = stop and not ended
            if saving:
                run.save(scores, needed=ended or stop)
                run.meter.restart()
            if stop or ended:
                run.checkpoints.wait()
            if stop:
                report.say(f'stopped at step {run.step}, saved; the same command continues')
        if not stop and run.step < run.num_steps:
            report.say(f'stopped early at step {run.step}: {run.best.metric} no longer improves')
    return history


def open_clips(config: ConfigDict, batch_size: int) -> tuple[Clips, HeldOut | None]:
    """This process's training clips, and the clips held out for validation or None."""
    model = run_config.model_of(config)
    view: dict[str, Any] = {
        'data_dir': config.data.data_dir or None,
        'image_size': model.image_size,
        'frames': model.frames,
        'target': model.target,
        'resize': known.of_config(model).resize,
        'step': getattr(model, 'step', 1),
    }
    clips = data.train_clips(
        config.data.datasets,
        config.data.weights or None,
        split=config.data.train_split,
        batch_size=batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_workers=config.data.num_workers,
        normalise=False,  # transfers uint8, normalised on the device
        flip=config.data.flip,
        fixations=config.loss in losses.NEED_FIXATIONS,
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


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description='Trains STSA-Net; the same command resumes an interrupted run.',
        epilog='Any field of the config can be changed: --config.batch_size=8',
        allow_abbrev=False,
    )
    parser.add_argument('--config', required=True, help='a config file, such as configs/dhf1k.py')
    parser.add_argument('--workdir', required=True, help='folder for checkpoints and logs')
    parser.add_argument('--profile', metavar='DIR', help='write a trace of five steps here')
    parser.add_argument(
        '--stopped_exit_code',
        type=int,
        default=0,
        metavar='N',
        help='exit code of a run stopped by SIGTERM, so that a launcher can restart it',
    )
    several = parser.add_argument_group('several processes (see docs/scaling.md)')
    several.add_argument('--coordinator', default='', help='HOST:PORT of process 0')
    several.add_argument('--num_processes', type=int, default=0)
    several.add_argument('--process_id', type=int, default=-1)
    options, overrides = parser.parse_known_args()
    logging.set_verbosity(logging.ERROR)
    config = load_config(options.config, overrides)
    processes.initialise(options.coordinator, options.num_processes, options.process_id)
    cpu.set_up()
    stopping = processes.StopSignal()
    train(config, options.workdir, options.profile, stopping)
    code = options.stopped_exit_code if stopping.stopped else 0
    if compiling.goes_on():
        sys.stderr.flush()
        os._exit(code)
    return code
