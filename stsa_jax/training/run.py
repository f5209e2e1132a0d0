"""A training run: all of its parts, opened in one place.

with open_run(config, workdir, mesh, clips, held_out) as run:
    run.compile()
    while not run.is_over:
        batch = next(run.clips)
        metrics = run.take_step(sharding.put_batch(mesh, ...))
"""

import contextlib
import dataclasses
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from stsa_jax import files
from stsa_jax.checkpoints.weights import FOLDER, Checkpointer, describe
from stsa_jax.distribution import processes
from stsa_jax.errors import InputError
from stsa_jax.lock import locked_folder
from stsa_jax.models import functional
from stsa_jax.models.clips import target_index
from stsa_jax.ops.cpu import memory as cpu_memory
from stsa_jax.training import compiling, optimizer, run_config
from stsa_jax.training.meter import Meter
from stsa_jax.training.reporting import Reporter
from stsa_jax.training.state import (
    TrainState,
    abstract_batch,
    abstract_state,
    create_state,
    from_items,
    to_items,
)
from stsa_jax.training.step import (
    StepOptions,
    flops,
    make_eval_step,
    make_train_step,
    memory,
)
from stsa_jax.training.validation import Best, HeldOut, Validation
from stsa_jax.weights import known
from stsa_jax.weights.initial import initial_weights


class Clips(Protocol):
    """An endless iterator of this process's training batches, like data.pipeline.ClipIterator."""

    steps_per_epoch: int
    summary: Sequence[dict[str, Any]]
    notes: Sequence[str]

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch."""

    def get_state(self) -> Any:
        """The position, as JSON or bytes."""

    def set_state(self, state: Any) -> None:
        """Restores the position that `get_state` returned."""

    def close(self) -> None:
        """Stops the worker processes."""


@dataclasses.dataclass
class Run:
    """A training run. The attributes that change during it come last.

    With several processes, all must call its methods together.

    Attributes:
        config: of the run.
        num_steps: length of the run.
        clips: the training clips.
        batch: the shapes and shardings of a batch.
        train_step: see `step.make_train_step`.
        validation: on the held-out clips, or None.
        best: the best validation so far.
        checkpoints, report: the run's outputs.
        meter: collects the metrics of the steps.
        step: number of steps done.
        abstract: the shapes and shardings of the state.
        make_state: creates the state with which the run starts or resumes.
        unvalidated: whether a signal aborted the validation that is due at `step`.
        damaged: number of unreadable frames since the last log line.
        state: the current state; set by `compile`.
    """

    config: ConfigDict
    num_steps: int
    clips: Clips
    batch: dict[str, jax.ShapeDtypeStruct]
    train_step: jax.stages.Wrapped | jax.stages.Compiled
    validation: Validation | None
    best: Best
    checkpoints: Checkpointer
    report: Reporter
    meter: Meter
    step: int
    abstract: TrainState
    make_state: Callable[[], TrainState]
    unvalidated: bool
    damaged: int = 0
    state: TrainState = dataclasses.field(init=False)

    @property
    def is_over(self) -> bool:
        """Whether all steps are done, or validation has stopped improving."""
        return self.step >= self.num_steps or self.best.is_stale(self.config.validation.patience)

    def is_due(self, every: int) -> bool:
        """Whether an action with interval `every` is due now; all are due at the last step."""
        return self.step == self.num_steps or self.step % every == 0

    def announce(self) -> None:
        """Reports where the run starts or resumes, and its data."""
        start = 'continuing at' if self.step else 'starting at'
        self.report.say(f'{start} step {self.step} of {self.num_steps}')
        for used in self.clips.summary:
            self.report.say(
                f'{used["dataset"]}: {used["videos"]} videos, {used["windows"]} windows; '
                f'{used["windows_without_fixation"]} windows and '
                f'{used["videos_without_fixation"]} videos without fixation or density are left out'
            )
        for line in self.clips.notes:
            self.report.say(f'note: {line}')

    def compile(self) -> None:
        """Compiles the steps, which takes minutes; a signal can end the process meanwhile."""
        self.report.say('compiling the training step')
        program = compiling.compiled(self.train_step.lower(self.abstract, self.batch))
        self.train_step = program
        self.meter.flops = flops(program, self.config.accumulate)
        self.meter.memory = memory(program)
        if self.validation:
            self.validation.compile(self.abstract, self.batch)
        # Only now, because compilation itself takes gigabytes.
        self.state = jax.block_until_ready(self.make_state())
        del self.make_state  # and with it the weights on the host
        gc.collect()  # they are in a reference cycle
        cpu_memory.release()  # memory freed after creating the state

    def take_step(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """One step with a global batch; its metrics, on the device."""
        self.state, metrics = self.train_step(self.state, batch)
        self.step += 1
        return metrics

    def note(
        self, metrics: dict[str, jax.Array], clips: Sequence[str], damage: Sequence[str]
    ) -> None:
        """Records the metrics of the last step, the names of its clips, and lines about damage."""
        for line in damage:
            self.report.say(f'step {self.step}: {line}', from_all=True)
        self.damaged += len(damage)
        self.meter.add(self.step, metrics, clips)
        self.report.advance(self.step)

    def log(self, due: bool) -> None:
        """Writes a log line if it is `due`; also checks periodically for skipped steps."""
        problems: list[str] = []
        if due:
            values, problems = self.meter.read()
            counted = {'damaged_frames': processes.total(self.damaged)}
            self.report.record(self.step, values | counted)
            self.damaged = 0
        elif self.step % self.config.max_skipped == 0:
            problems = self.meter.check()
        for line in problems:
            self.report.say(line)

    def validate(self, stop: Callable[[], bool]) -> dict[str, float]:
        """The scores on the held-out clips; {} without such clips, or if `stop` aborted it."""
        if self.validation is None:
            return {}
        scores = self.validation(self.step, self.state, self.report, stop)
        self.unvalidated = not scores
        return scores

    def save(self, scores: dict[str, float], needed: bool) -> None:
        """Saves a checkpoint; a failure is reported, and training continues.

        It is tried twice, because the first error may belong to the previous checkpoint, which was
        written in the background. Raises InputError if this checkpoint is `needed`, because no
        other will follow, and fails.
        """
        for final in (False, True):
            try:
                self.checkpoints.save(self.step, to_items(self.state), self._place(), scores)
                cpu_memory.release()  # the copies may lie in a large block that a step needs
                return
            except InputError as error:
                if final and needed:
                    raise
                self.report.say(f'step {self.step}: {error}')

    def catch_up(self, stop: Callable[[], bool]) -> None:
        """Repeats a validation that a signal aborted, and logs it for its step."""
        if self.unvalidated and (scores := self.validate(stop)):
            self.checkpoints.amend(self.step, self._place(), scores)

    def _place(self) -> dict:
        """The contents of a checkpoint other than arrays."""
        return {
            'clips': self.clips.get_state(),
            'best': [self.best.value, self.best.since],
            'skipped_in_row': self.meter.skipped_in_row,
            'unvalidated': self.unvalidated,
        }


@contextlib.contextmanager
def open_run(
    config: ConfigDict,
    workdir: str,
    mesh: Mesh,
    clips: Clips,
    held_out: HeldOut | None,
    shared: bool = True,
) -> Iterator[Run]:
    """Opens the run in `workdir` at its last checkpoint, or before its first step.

    `clips` are this process's training clips, which are closed on exit, and `held_out` those to
    validate on, or None. `shared`: see `Checkpointer`. Raises InputError if the config or the
    workdir cannot be used, and on exit if the last checkpoint cannot be written.
    """
    model = run_config.model_of(config)
    model_known = known.of_config(model)
    chosen = optimizer.OptimizerConfig(**config.optimizer)
    best = Best(config.validation.metric, config.validation.mode)
    num_steps = config.num_steps or config.num_epochs * clips.steps_per_epoch
    graphdef, *_ = functional.abstract(model_known.module, model)
    normalisation = model_known.normalisation
    tx = optimizer.optimizer(chosen, clips.steps_per_epoch)
    length = clips.steps_per_epoch, num_steps
    rate = optimizer.learning_rate(chosen, *length)
    backbone_rate = optimizer.backbone_learning_rate(chosen, *length)
    with contextlib.ExitStack() as stack:
        stack.callback(clips.close)
        for folder in (workdir, os.path.join(workdir, FOLDER)):
            stack.enter_context(files.folder_if_used(folder))
        _lock(workdir, stack)
        description = describe(model_known.kind, config.model.to_dict(), normalisation)
        selection = {'best': best.metric, 'mode': best.mode} if held_out is not None else {}
        checkpoints = Checkpointer(
            workdir, description, config.keep_checkpoints, shared=shared, **selection
        )
        stack.enter_context(checkpoints)
        abstract, make_state, step, place = _where_it_is(checkpoints, mesh, model, tx, config)
        if place:
            clips.set_state(place['clips'])
            best.value, best.since = place['best']
        options = StepOptions.of(config)
        batch = abstract_batch(mesh, config.batch_size, model, options.also_needs)
        whole_width = compiling.leaves_width_whole(
            mesh, config.batch_size, config.accumulate, model_known.on_s3d
        )
        train_step = make_train_step(
            graphdef, tx, rate, mesh, options, normalisation, backbone_rate, whole_width
        )
        validation = None
        if held_out is not None:
            validation = Validation(
                make_eval_step(graphdef, mesh, normalisation),
                held_out,
                config.batch_size,
                mesh,
                best,
                target=target_index(model),
                minus_cc=options.loss == 'kl_cc',
            )
        run_config.write_config(workdir, config.to_dict())
        skipped_in_row = place.get('skipped_in_row', 0)
        run = Run(
            config=config,
            num_steps=num_steps,
            clips=clips,
            batch=batch,
            train_step=train_step,
            validation=validation,
            best=best,
            checkpoints=checkpoints,
            report=stack.enter_context(Reporter(workdir, num_steps, step)),
            meter=Meter(config.batch_size, config.max_skipped, skipped_in_row=skipped_in_row),
            step=step,
            abstract=abstract,
            make_state=make_state,
            unvalidated=place.get('unvalidated', False),
        )
        del make_state  # so that the run can free it, with the weights on the host, after use
        yield run


def _lock(workdir: str, stack: contextlib.ExitStack) -> None:
    """The first process locks the workdir; where it cannot, all raise InputError."""
    with processes.together():
        if jax.process_index() == 0:
            stack.enter_context(locked_folder(workdir))


def _where_it_is(checkpoints: Checkpointer, mesh: Mesh, model, tx, config) -> tuple:
    """At the last checkpoint, or before the first step: (shapes of the state, a function that
    creates it, steps done, the other saved values).
    """
    _, params, batch_stats = functional.abstract(known.of_config(model).module, model)
    ema = config.ema_decay > 0
    abstract = abstract_state(mesh, params, batch_stats, tx, ema)
    found = checkpoints.restore(to_items(abstract))
    if found is not None:
        return abstract, lambda: from_items(found.items), found.step, found.data_state
    _, params, batch_stats = initial_weights(model, config.seed, config.init_from)
    return abstract, lambda: create_state(mesh, params, batch_stats, tx, ema), 0, {}
