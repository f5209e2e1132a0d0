"""The config of a training run, saved beside its checkpoints as `config.json`."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import jax
from ml_collections import ConfigDict

from stsa_jax import files
from stsa_jax.configuration import differences, to_json
from stsa_jax.errors import InputError
from stsa_jax.models.stsanet import STSANetConfig
from stsa_jax.training.optimizer import OptimizerConfig
from stsa_jax.training.validation import Best

# Fields that may change when a run is resumed, because they do not affect its results.
FREE = {
    'log_every',
    'checkpoint_every',
    'keep_checkpoints',
    'max_skipped',
    'keep_for_gradient',
    'remat',
    'mesh.data',
    'mesh.fsdp',
    'data.data_dir',
    'data.num_workers',
}


def check(config: ConfigDict, workdir: str) -> None:
    """Raises InputError for invalid values, or if `workdir` holds another run."""
    expected = {
        'batch_size': (config.batch_size > 0, 'a positive number of clips'),
        'num_steps': (config.num_steps >= 0, 'a number of steps, or 0 for num_epochs'),
        'num_epochs': (config.num_epochs > 0, 'a positive number of epochs'),
        'log_every': (config.log_every > 0, 'a positive number of steps'),
        'checkpoint_every': (config.checkpoint_every > 0, 'a positive number of steps'),
        'keep_checkpoints': (config.keep_checkpoints > 0, 'a positive number'),
        'ema_decay': (0 <= config.ema_decay < 1, 'a number in [0, 1)'),
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
    # These classes check their own fields.
    STSANetConfig(**config.model)
    OptimizerConfig(**config.optimizer)
    Best(config.validation.metric, config.validation.mode)
    check_same(workdir, config.to_dict())


def check_same(workdir: str | os.PathLike, config: Mapping) -> None:
    """Raises InputError, with the differences, if `workdir` holds a run with another config.

    Only the fields in FREE may differ.
    """
    path = Path(workdir) / 'config.json'
    if not path.exists():
        return
    try:
        old = json.loads(path.read_text())
        if not isinstance(old, dict):
            raise ValueError('it holds no fields')
    except ValueError as error:
        raise InputError(f'{path}: not a config of a training run ({error})') from error
    differing = [x for x in differences(old, to_json(config)) if x.split(':')[0] not in FREE]
    if differing:
        listed = '\n  '.join(differing)
        raise InputError(
            f'{workdir}: holds a run with another config. Use another --workdir, or restore these '
            f'fields to continue the run:\n  {listed}'
        )


def write_config(workdir: str | os.PathLike, config: Mapping) -> None:
    """Writes `workdir/config.json`; raises InputError like `check_same`."""
    check_same(workdir, config)
    if jax.process_index() == 0:
        content = json.dumps(to_json(config), indent=2) + '\n'
        files.write_atomic(Path(workdir) / 'config.json', content)
