"""Checkpoints: the training state with the data iterator's state, written by Orbax.

Layout of a folder with checkpoints, of a training run or of converted weights:

    config.json                  the run's config (training runs only)
    checkpoints/<step>/params        nested dicts of arrays
    checkpoints/<step>/batch_stats   likewise
    checkpoints/<step>/ema           likewise: the averaged parameters, if the run has them
    checkpoints/<step>/optimizer     the rest of the training state
    checkpoints/<step>/meta          JSON: model, normalisation, data iterator, checksums

Every array has a checksum that does not depend on its sharding, so that a damaged file is detected
on any number of devices.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import numpy as np
import orbax.checkpoint as ocp

from stsa_jax.checkpoints.checkpointer import FOLDER, Checkpointer, mismatch, quiet
from stsa_jax.checkpoints.meta import best_step, damaged, describe, read_meta
from stsa_jax.errors import InputError
from stsa_jax.media.preprocess import IMAGENET, Normalisation

__all__ = ['Checkpointer', 'Weights', 'describe', 'load_weights', 'save_weights', 'step_folder']


class Weights(NamedTuple):
    """A model's weights and what is needed to use them."""

    kind: str  # one of `stsa_jax.weights.known`
    model_config: dict[str, Any]  # the fields of its config that were set
    params: dict[str, Any]  # nested dicts of numpy arrays
    batch_stats: dict[str, Any]
    normalisation: Normalisation  # of the clips in training


def save_weights(
    directory: str | os.PathLike,
    kind: str,
    model_config: Mapping,
    params: dict,
    batch_stats: dict,
    normalisation: Normalisation = IMAGENET,
) -> None:
    """Writes weights that do not come from a training run, as step 0 of `directory`.

    `params` and `batch_stats` are nested dicts of arrays with string keys. The folder is written
    atomically. Weights written there before are replaced; a folder with anything else in it raises
    InputError.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise InputError(f'{directory}: is a file, but a folder was expected; choose another name')
    others = sorted(p.name for p in directory.iterdir()) if directory.is_dir() else []
    if others not in ([], [FOLDER]):
        raise InputError(
            f'{directory}: already holds other files ({", ".join(others[:3])}); '
            'use a new folder for the weights'
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f'.{directory.name}-') as scratch:
        new = Path(scratch) / 'new'
        with Checkpointer(new, describe(kind, model_config, normalisation)) as checkpointer:
            checkpointer.save(0, {'params': params, 'batch_stats': batch_stats})
        if directory.exists():
            directory.rename(Path(scratch) / 'old')
        new.rename(directory)


def load_weights(path: str | os.PathLike, step: int | str | None = None) -> Weights:
    """Reads the weights of a training run or of a converted model, as numpy arrays.

    `path` is the folder that holds `checkpoints/`, or one step of it; `step` is as for
    `step_folder`. If the run averaged its parameters (EMA), the averages are read. Raises
    InputError that names the file if there is nothing readable.
    """
    folder = step_folder(Path(path), step)
    meta = read_meta(folder)
    read = {}
    items = ['ema' if (folder / 'ema').is_dir() else 'params', 'batch_stats']
    if not any(name.startswith('batch_stats/') for name in meta['checksums']):
        items.remove('batch_stats')  # a model without BatchNorm
    for item in items:
        try:
            read[item] = _read_arrays(folder / item, meta)
        except Exception as error:  # Orbax and TensorStore raise many types
            raise InputError(damaged(folder / item, error)) from error
    if problem := mismatch(read, meta, folder):
        raise InputError(problem)
    normalisation = Normalisation(*(tuple(meta['normalisation'][k]) for k in Normalisation._fields))
    params = read['ema'] if 'ema' in read else read['params']
    statistics = read.get('batch_stats', {})
    return Weights(meta['kind'], meta['model'], params, statistics, normalisation)


def step_folder(path: Path, step: int | str | None = None) -> Path:
    """The folder of one checkpoint in `path`, as for `load_weights`.

    `step` is a number, 'best' (by validation), 'best if any' (else the latest) or None for the
    latest. Raises InputError if there is no such checkpoint.
    """
    if not path.exists():
        raise InputError(f'{path}: there is no such folder; check the path of the checkpoint')
    if not path.is_dir():
        raise InputError(
            f'{path}: is a file, but a checkpoint of this project is a folder; convert a PyTorch '
            'or safetensors file with `python -m stsa_jax.port SOURCE DEST`'
        )
    if (path / 'meta').is_dir() and path.name.isdecimal():
        return path
    root = path if path.name == FOLDER else path / FOLDER
    steps = sorted(int(p.name) for p in root.glob('*') if p.name.isdecimal())
    if not steps:
        raise InputError(
            f'{path}: holds no checkpoint (expected {FOLDER}/<step> in it); give the --workdir of '
            'a train.py run, or a folder written by `python -m stsa_jax.port`'
        )
    if step in ('best', 'best if any'):
        best = best_step({s: read_meta(root / str(s)) for s in steps})
        if best is None and step == 'best':
            raise InputError(f'{root}: the run had no validation, so no best step; give a number')
        step = best
    if step is None:
        step = steps[-1]
    if int(step) not in steps:
        raise InputError(f'{path}: has no checkpoint of step {step}; there are: {steps}')
    return root / str(int(step))


def _read_arrays(folder: Path, meta: dict):
    """One item as nested dicts of numpy arrays; the names are those of the checksums."""
    names = [
        name.split('/')[1:] for name in meta['checksums'] if name.startswith(folder.name + '/')
    ]
    as_numpy = flax.traverse_util.unflatten_dict(
        {tuple(name): ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
    )
    with quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        return reader.restore(folder.absolute(), args=ocp.args.PyTreeRestore(restore_args=as_numpy))
