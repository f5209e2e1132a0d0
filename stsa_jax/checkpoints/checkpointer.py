"""Saves and restores a training run with Orbax, with a metadata record for each checkpoint."""

import base64
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint.checkpoint_managers import preservation_policy

from stsa_jax import files
from stsa_jax.checkpoints import checksums
from stsa_jax.checkpoints.meta import OtherRunError, best_step, check_run, damaged, read_meta
from stsa_jax.distribution import processes
from stsa_jax.errors import InputError

FOLDER = 'checkpoints'
# Timeout of background writes. With several processes, those that could write wait this long for
# one that could not.
WRITE_SECONDS = 600
# Devices that hold the same array each write a part of it, if the parts are at least this large.
# Each part is sliced by a separate program: with Orbax's default, no limit, the first checkpoint
# compiles hundreds of programs for small arrays.
LEAST_PART = 2**20  # bytes
GATHERED = 2**28  # bytes that are whole on each device at a time, while they are copied to the host


class Checkpoint(NamedTuple):
    """What a training run resumes from."""

    step: int
    items: dict[str, Any]  # 'params', 'batch_stats', 'optimizer' and, if used, 'ema'
    data_state: Any  # of this process's data iterator
    metrics: dict[str, float]  # of the validation at this step; empty if there was none


class Checkpointer:
    """Saves and restores a training run in `workdir`; a context manager that finishes saving.

    Saving is asynchronous: `save` returns once the arrays are copied, and the files are written in
    the background to a temporary folder that is renamed when complete. All processes must call its
    methods together.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        description: dict,
        keep: int = 3,
        best: str = '',
        mode: str = 'max',
        shared: bool = True,
    ):
        """Keeps the last `keep` checkpoints, and the best one by the metric `best` if named.

        `shared`: whether several processes see the same folder, where each writes its part.
        Otherwise each has a copy to restore from, and process 0 alone saves, in its own.
        """
        index = jax.process_index()
        self._apart = jax.process_count() > 1 and not shared
        self._folder = Path(workdir).absolute() / FOLDER
        self._description = description | {'selection': {'metric': best, 'mode': mode}}
        self._best = _TheBest()
        policies = [preservation_policy.LatestN(keep), self._best]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(timeout_secs=WRITE_SECONDS),
        )
        if self._apart:
            options.create = False  # Orbax cannot, if it runs on one process of several
            options.multiprocessing_options = ocp.options.MultiprocessingOptions(
                index, {index}, barrier_sync_key_prefix=f'process {index}'
            )
        if self._apart or index == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
        arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=LEAST_PART)
        with quiet():  # it warns that its own is replaced
            ocp.type_handlers.register_type_handler(jax.Array, arrays, override=True)
        self._manager = _Manager(self._folder, options=options)
        for step in self.steps():
            with suppress(InputError):
                self._best.metas[step] = read_meta(self._folder / str(step))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        problems = []
        for end in (self._manager.wait_until_finished, self._manager.close):
            try:
                end()
            except Exception as error:  # Orbax and TensorStore raise many types
                problems.append(error)
        if problems and kind is None:
            raise _not_written(problems[0]) from problems[0]
        if problems:
            _warn(
                _not_written(problems[0])
            )  # only a warning, so as not to hide the error that ended the run

    def steps(self) -> list[int]:
        """The steps with complete checkpoints, in order."""
        return sorted(self._manager.all_steps())

    def save(
        self,
        step: int,
        items: Mapping[str, Any],
        data_state: Any = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts writing checkpoint `step`, after waiting for the previous one to finish.

        `items` maps names to pytrees of arrays; `data_state` is this process's iterator state (JSON
        or bytes). Raises InputError if this or the previous one could not be written, for example
        if the disk of one process is full: on all processes, so that they stay in step. Earlier
        checkpoints are unchanged, and saving can be retried later.
        """
        self.wait()
        meta = self._description | {
            'step': step,
            'data': processes.gather_json(_as_json(data_state)),
            'metrics': dict(metrics or {}),
            'checksums': checksums.of_tree(items),
        }
        self._best.metas[step] = meta
        self._together(self._write, step, meta, _filled(items))

    def _write(self, step: int, meta: dict, trees: Mapping[str, Any]) -> None:
        if self._apart:
            trees = {name: _on_host(tree) for name, tree in trees.items()}
            if jax.process_index() > 0:
                return
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        args = ocp.args.Composite(meta=ocp.args.JsonSave(meta), **items)
        self._manager.save(step, args=args)

    def amend(self, step: int, data_state: Any, metrics: Mapping[str, float]) -> None:
        """Replaces the data state and validation metrics in the checkpoint of `step`."""
        self.wait()
        path = self._folder / str(step) / 'meta' / 'metadata'
        new = {'data': processes.gather_json(_as_json(data_state)), 'metrics': dict(metrics)}
        with processes.together():
            self._best.metas[step] = json.loads(path.read_text()) | new
            if jax.process_index() == 0:
                files.write_atomic(path, json.dumps(self._best.metas[step]))

    def wait(self) -> None:
        """Returns when all saves are on disk; raises InputError if one failed.

        All processes must call it together, and it is raised on all.
        """
        self._together(self._manager.wait_until_finished)

    def _together(self, act, *args, **kwargs) -> None:
        problem = None
        try:
            act(*args, **kwargs)
        except Exception as error:  # Orbax and TensorStore raise many types
            problem = error
        if processes.all_agree(problem is None):
            return
        told = processes.gather_json(problem and str(problem))
        raise _not_written(next(text for text in told if text is not None)) from problem

    def restore(self, like: Mapping[str, Any]) -> Checkpoint | None:
        """The newest undamaged checkpoint, sharded like `like`; None if there is none.

        `like` maps the items' names to pytrees of arrays or ShapeDtypeStructs with shardings. A
        damaged checkpoint is reported on standard error and renamed to `damaged-<step>`, and the
        previous one is tried. Raises InputError if none can be read, or if one is of another run.
        """
        bad: list[int] = []
        for step in self.steps()[::-1]:
            folder = self._folder / str(step)
            found: Checkpoint | None = None
            problem = None
            try:
                meta = read_meta(folder)
                check_run(self._description, like, meta, folder)
                with quiet():
                    found = self._restore(step, like, meta)
            except OtherRunError:
                raise
            except Exception as error:  # Orbax and TensorStore raise many types
                problem = damaged(folder, error)
            if processes.all_agree(found is not None) and found is not None:
                problem = mismatch(found.items, meta, folder)  # the same on all processes
                if problem is None:
                    self._set_aside(bad)
                    return found
            _warn(problem or f'{folder}: another process could not read it')
            bad.append(step)
        if bad:
            raise InputError(
                f'{self._folder}: none of its checkpoints ({bad}) can be read; restore the '
                f'folder from a copy, or start over in another workdir. The oldest: {problem}'
            )
        return None

    def _restore(self, step: int, like, meta: dict) -> Checkpoint:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, dict(like))
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                **{name: ocp.args.StandardRestore(tree) for name, tree in _filled(abstract).items()}
            ),
        )
        items = {name: items[name] if name in _filled(like) else {} for name in like}
        return Checkpoint(step, items, _own(meta['data']), meta['metrics'])

    def _set_aside(self, steps: list[int]) -> None:
        """Renames damaged steps, so that these steps can be saved again."""
        for step in steps:
            if jax.process_index() == 0:
                aside = self._folder.parent / f'damaged-{step}'
                shutil.rmtree(aside, ignore_errors=True)
                (self._folder / str(step)).rename(aside)
            processes.barrier(f'set aside checkpoint {step}')
        if steps:
            self._manager.reload()


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """False: `processes.StopSignal` alone asks JAX, which counts only one series of calls."""
        return False


class _TheBest:
    """Keeps the best checkpoint by validation; `metas` has the record of each step."""

    def __init__(self):
        self.metas = {}

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        best = best_step({step: self.metas[step] for step in steps if step in self.metas})
        return [step == best for step in steps]


def _filled(items: Mapping[str, Any]) -> dict[str, Any]:
    """The items that hold an array: Orbax does not save others (a model without BatchNorm)."""
    return {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}


def _on_host(tree: Any) -> Any:
    """The whole arrays of a tree on the first process; all must call it together.

    Those that several devices share are gathered on each, `GATHERED` bytes at a time.
    """
    leaves, structure = jax.tree.flatten(tree)
    whole, first = [], jax.process_index() == 0
    for group in _in_groups(leaves):
        if not all(array.is_fully_replicated for array in group):
            everywhere = NamedSharding(group[0].sharding.mesh, PartitionSpec())
            group = jax.jit(_same, out_shardings=everywhere)(group)
        whole += [np.asarray(array.addressable_data(0)) if first else None for array in group]
    return jax.tree.unflatten(structure, whole)


def _same(arrays: list) -> list:
    return arrays


def _in_groups(arrays: list[jax.Array]) -> Iterator[list[jax.Array]]:
    """The arrays in order, in groups of at most `GATHERED` bytes or of one array."""
    group: list[jax.Array] = []
    for array in arrays:
        if group and sum(each.nbytes for each in (*group, array)) > GATHERED:
            yield group
            group = []
        group.append(array)
    if group:
        yield group


def _not_written(error: Exception | str) -> InputError:
    reason = (str(error).strip() or 'no reason given').splitlines()[0][:300]
    return InputError(
        f'a checkpoint could not be written ({reason}); earlier ones '
        'are intact. Is the disk full or read-only? Free some space and run the same command again'
    )


def mismatch(items: Mapping[str, Any], meta: dict, folder: Path) -> str | None:
    """The problem with the arrays that were read, or None; all processes must call it together."""
    for name, found in checksums.of_tree(items).items():
        expected = meta['checksums'].get(name)
        if found != expected:
            return (
                f'{folder}: {name} differs from what was written (checksum {found}, expected '
                f'{expected}): the file is damaged; copy it again, or use an earlier step'
            )
    return None


def _warn(line) -> None:
    print(f'warning: {line}', file=sys.stderr)


def _as_json(data_state):
    if isinstance(data_state, bytes):
        return {'base64': base64.b64encode(data_state).decode()}
    return data_state


def _own(states: list):
    """This process's iterator state. All are at the same position, so any serves as a spare."""
    state = states[jax.process_index() % len(states)]
    if isinstance(state, dict) and set(state) == {'base64'}:
        return base64.b64decode(state['base64'])
    return state


@contextmanager
def quiet() -> Iterator[None]:
    """Suppresses Orbax's output other than the error that it raises.

    It warns about reading items one by one, which is intended, and a damaged file leaves unfinished
    reads that are reported as unraisable.
    """
    verbosity, hook = logging.get_verbosity(), sys.unraisablehook
    logging.set_verbosity(logging.ERROR)
    sys.unraisablehook = lambda *_: None
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        sys.unraisablehook = hook
