"""Checkpoints: the training state and the data iterator's state together, written by Orbax.

A folder with checkpoints, whether of a training run or of converted weights, looks like this:

    config.json                  the run's whole config (training runs only)
    checkpoints/<step>/params        nested dicts of arrays
    checkpoints/<step>/batch_stats   likewise
    checkpoints/<step>/ema           likewise: the averaged parameters, where the run keeps them
    checkpoints/<step>/optimizer     what else a training step needs
    checkpoints/<step>/meta          JSON: model, normalisation, data iterator, checksums

Every array has a checksum that does not depend on how it is laid out over devices, so that a
damaged file is noticed, and the step named, on any number of devices.
"""

import base64
import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy

from stsa_jax import checksums, distributed
from stsa_jax.errors import InputError
from stsa_jax.preprocess import IMAGENET, Normalisation
from stsa_jax.run_config import to_json

KINDS = ('stsanet', 's3d')
_FOLDER = 'checkpoints'
_FORMAT = 'stsa-jax checkpoint 1'


class Weights(NamedTuple):
    """A model's weights and what is needed to use them."""

    kind: str  # 'stsanet' or 's3d'
    model_config: dict[str, Any]  # the fields of STSANetConfig or S3DConfig that were set
    params: dict[str, Any]  # nested dicts of numpy arrays
    batch_stats: dict[str, Any]
    normalisation: Normalisation  # of the clips that the weights were trained on


class Checkpoint(NamedTuple):
    """What a training run goes on from."""

    step: int
    items: dict[str, Any]  # 'params', 'batch_stats', 'optimizer' and, if kept, 'ema'
    data_state: Any  # of this process's data iterator
    metrics: dict[str, float]  # of the validation at this step; empty without one


def describe(kind: str, model_config: Mapping, normalisation: Normalisation = IMAGENET) -> dict:
    """The part of a checkpoint's `meta` that says which model its arrays belong to."""
    if kind not in KINDS:
        raise ValueError(f'kind must be one of {KINDS}, found {kind!r}')
    return {
        'format': _FORMAT,
        'kind': kind,
        'model': to_json(model_config),
        'normalisation': {k: list(map(float, v)) for k, v in normalisation._asdict().items()},
    }


def save_weights(
    directory, kind: str, model_config: Mapping, params, batch_stats, normalisation=IMAGENET
) -> None:
    """Writes weights that do not come from a training run, as step 0 of `directory`.

    `params` and `batch_stats` are nested dicts of arrays with string keys. The folder appears
    whole or not at all. Weights written there before are replaced; a folder with anything else in
    it raises InputError.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise InputError(f'{directory}: is a file, but a folder was expected; name another')
    others = sorted(p.name for p in directory.iterdir()) if directory.is_dir() else []
    if others not in ([], [_FOLDER]):
        raise InputError(
            f'{directory}: holds other files already ({", ".join(others[:3])}); '
            'name a new folder for the weights'
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f'.{directory.name}-') as scratch:
        new = Path(scratch) / 'new'
        with Checkpointer(new, describe(kind, model_config, normalisation)) as checkpointer:
            checkpointer.save(0, {'params': params, 'batch_stats': batch_stats})
        if directory.exists():
            directory.rename(Path(scratch) / 'old')
        new.rename(directory)


def load_weights(path, step: int | str | None = None) -> Weights:
    """Reads the weights of a training run or of a converted model, as numpy arrays.

    `path` is the folder that holds `checkpoints/`, or one step of it; `step` is a number, 'best'
    (by validation) or None for the latest. Where the run averaged its parameters (EMA), these are
    the ones read. Raises InputError, naming the file, if there is nothing, or nothing readable.
    """
    path = Path(path)
    folder = _step_folder(path, step)
    meta = _read_meta(folder)
    read = {}
    for item in ('ema' if (folder / 'ema').is_dir() else 'params', 'batch_stats'):
        try:
            read[item] = _read_arrays(folder / item, meta)
        except Exception as error:  # Orbax and TensorStore raise all kinds
            raise InputError(_damaged(folder / item, error)) from error
    if problem := _mismatch(read, meta, folder):
        raise InputError(problem)
    normalisation = Normalisation(*(tuple(meta['normalisation'][k]) for k in Normalisation._fields))
    params = read.get('ema', read.get('params'))
    return Weights(meta['kind'], meta['model'], params, read['batch_stats'], normalisation)


class Checkpointer:
    """Saves and restores a training run in `workdir`; a context manager that ends with the saving.

    Saving is asynchronous: `save` returns once the arrays are copied, and the files follow in the
    background, in a temporary folder that is renamed when complete. All processes call together.
    """

    def __init__(self, workdir, description: dict, keep: int = 3, best: str = '', mode='max'):
        """Keeps the last `keep` checkpoints, and the best one by the metric `best` if named."""
        self._folder = Path(workdir).absolute() / _FOLDER
        self._description = description | {'selection': {'metric': best, 'mode': mode}}
        policies = [preservation_policy.LatestN(keep)]
        if best:
            policies.append(
                preservation_policy.BestN(
                    get_metric_fn=lambda metrics: metrics[best],
                    reverse=mode == 'min',
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            best_fn=(lambda metrics: metrics[best]) if best else None,  # reads metrics back
            best_mode=mode,
            cleanup_tmp_directories=True,
        )
        if jax.process_index() == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.wait_until_finished()
        self._manager.close()

    def steps(self) -> list[int]:
        """The steps that are there, complete ones only, in order."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, items: Mapping[str, Any], data_state=None, metrics=None) -> None:
        """Starts to write checkpoint `step`; waits first for the one before to be finished.

        `items` maps names to pytrees of arrays; `data_state` is this process's iterator state
        (JSON or bytes). Raises what went wrong with the one before, such as OSError on a full disk.
        """
        meta = self._description | {
            'step': step,
            'data': distributed.gather_json(_as_json(data_state)),
            'metrics': dict(metrics or {}),
            'checksums': checksums.of_tree(items),
        }
        self._manager.save(
            step,
            metrics=dict(metrics) if metrics else None,
            args=ocp.args.Composite(
                meta=ocp.args.JsonSave(meta),
                **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
            ),
        )

    def wait(self) -> None:
        """Returns when what was saved is on the disk; raises what went wrong with it."""
        self._manager.wait_until_finished()

    def restore(self, like: Mapping[str, Any]) -> Checkpoint | None:
        """The newest checkpoint that is whole, laid out like `like`; None where there is none.

        `like` maps the items' names to pytrees of arrays or ShapeDtypeStructs with shardings. A
        damaged checkpoint is named in a warning, set aside as `damaged-<step>`, and the one before
        is tried. Raises InputError if none of them can be read.
        """
        damaged = []
        for step in self.steps()[::-1]:
            folder = self._folder / str(step)
            found, problem = None, None
            try:
                meta = _read_meta(folder)
                _check_names(like, meta, folder)
                found = self._restore(step, like, meta)
            except _OtherRunError:
                raise
            except Exception as error:  # Orbax and TensorStore raise all kinds
                problem = _damaged(folder, error)
            if distributed.all_agree(problem is None):
                problem = _mismatch(found.items, meta, folder)  # the same on all processes
                if problem is None:
                    self._set_aside(damaged)
                    return found
            logging.warning('%s', problem or f'{folder}: another process could not read it')
            damaged.append(step)
        if damaged:
            raise InputError(
                f'{self._folder}: none of its checkpoints ({damaged}) can be read; restore the '
                f'folder from a copy, or start anew in another workdir. The oldest: {problem}'
            )
        return None

    def _restore(self, step: int, like, meta: dict) -> Checkpoint:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, dict(like))
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                **{name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}
            ),
        )
        items = {name: items[name] for name in like}
        return Checkpoint(step, items, _own(meta['data']), meta['metrics'])

    def _set_aside(self, steps: list[int]) -> None:
        """Moves damaged steps out of the way of the steps that will be saved again."""
        for step in steps:
            if jax.process_index() == 0:
                aside = self._folder.parent / f'damaged-{step}'
                shutil.rmtree(aside, ignore_errors=True)
                (self._folder / str(step)).rename(aside)
            distributed.barrier(f'set aside checkpoint {step}')
        if steps:
            self._manager.reload()


class _OtherRunError(InputError):
    """The checkpoint is whole, but its arrays are not those of this run."""


def _check_names(like: Mapping[str, Any], meta: dict, folder: Path) -> None:
    here, there = set(checksums.names(like)), set(meta['checksums'])
    if here != there:
        some = sorted(here ^ there)[:3]
        raise _OtherRunError(
            f'{folder}: holds other arrays than this run ({len(there - here)} more, '
            f'{len(here - there)} fewer: {", ".join(some)}, ...): it was written by another config '
            'or version; continue it with that one, or name another workdir'
        )


def _step_folder(path: Path, step: int | str | None) -> Path:
    if not path.exists():
        raise InputError(f'{path}: there is no such folder; check the path of the checkpoint')
    if not path.is_dir():
        raise InputError(
            f'{path}: is a file, but a checkpoint of this project is a folder; a PyTorch or '
            'safetensors file is converted by `python -m stsa_jax.port SOURCE DEST`'
        )
    if (path / 'meta').is_dir() and path.name.isdecimal():
        return path
    root = path if path.name == _FOLDER else path / _FOLDER
    steps = sorted(int(p.name) for p in root.glob('*') if p.name.isdecimal())
    if not steps:
        raise InputError(
            f'{path}: holds no checkpoint (expected {_FOLDER}/<step> in it); give the folder that '
            'was the --workdir of train.py, or one written by `python -m stsa_jax.port`'
        )
    if step == 'best':
        step = _best_step(root, steps)
    if step is None:
        step = steps[-1]
    if int(step) not in steps:
        raise InputError(f'{path}: has no checkpoint of step {step}; there are: {steps}')
    return root / str(int(step))


def _best_step(root: Path, steps: list[int]) -> int:
    """The step with the best value of the metric that the run selected by."""
    scored = {}
    for step in steps:
        meta = _read_meta(root / str(step))
        selection = meta.get('selection', {})
        if selection.get('metric') in meta['metrics']:
            sign = -1 if selection.get('mode') == 'min' else 1
            scored[step] = sign * meta['metrics'][selection['metric']]
    if not scored:
        raise InputError(f'{root}: the run had no validation, so no best step; give a step number')
    return max(scored, key=lambda step: (scored[step], step))


def _read_meta(folder: Path) -> dict:
    path = folder / 'meta' / 'metadata'
    try:
        meta = json.loads(path.read_text())
        if meta.get('format') != _FORMAT:
            raise ValueError(f'its format is {meta.get("format")!r}, not {_FORMAT!r}')
        missing = {'kind', 'model', 'normalisation', 'data', 'metrics', 'checksums'} - set(meta)
        if missing or meta['kind'] not in KINDS:
            raise ValueError(f'it lacks {sorted(missing)}' if missing else f'kind {meta["kind"]!r}')
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(_damaged(path, error)) from error
    return meta


def _damaged(path: Path, error) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return (
        f'{path}: not a whole checkpoint of this project ({reason}); '
        'copy it again, or use an earlier step'
    )


def _read_arrays(folder: Path, meta: dict):
    """One item as nested dicts of numpy arrays; the names are those of the checksums."""
    names = [
        name.split('/')[1:] for name in meta['checksums'] if name.startswith(folder.name + '/')
    ]
    as_numpy = flax.traverse_util.unflatten_dict(
        {tuple(name): ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
    )
    with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        return reader.restore(folder.absolute(), args=ocp.args.PyTreeRestore(restore_args=as_numpy))


@contextmanager
def _quiet():
    """Keeps Orbax's warnings about items read one by one, which is what we want, off the screen."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _mismatch(items: Mapping[str, Any], meta: dict, folder: Path) -> str | None:
    """What is wrong with arrays that were read, or None; all processes call together."""
    for name, found in checksums.of_tree(items).items():
        expected = meta['checksums'].get(name)
        if found != expected:
            return (
                f'{folder}: {name} is not as it was written (checksum {found}, expected '
                f'{expected}): the file is damaged; copy it again, or use an earlier step'
            )
    return None


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
