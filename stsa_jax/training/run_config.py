"""The config of a training run, saved beside its checkpoints as `config.json`."""

import dataclasses
import json
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from stsa_jax import files
from stsa_jax.configuration import differences, to_json
from stsa_jax.errors import InputError
from stsa_jax.training.optimizer import OptimizerConfig
from stsa_jax.training.validation import Best
from stsa_jax.weights import known

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
# What the configs of runs mean that were begun before these fields were added.
ADDED = {
    'kind': 'stsanet',
    'loss': 'kl_cc',
    'supervise': [],
    'data.flip': 0.0,
    'optimizer.algorithm': 'adam',
    'optimizer.momentum': 0.9,
    'optimizer.weight_decay': 0.0,
    'optimizer.bias_factor': 1.0,
    'optimizer.backbone_factor': 1.0,
    'optimizer.backbone_drops': True,
    'optimizer.backbone_decay_factor': 1.0,
    'optimizer.backbone_frozen_epochs': 0,
    'optimizer.milestones': [],
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
        'data.flip': (0 <= config.data.flip <= 1, 'a probability, from 0 to 1'),
    }
    for field, (good, what) in expected.items():
        if not good:
            value = operator.attrgetter(field)(config)
            raise InputError(f'config.{field} is {value!r}, expected {what}')
    if not config.data.datasets:
        raise InputError(
            'config.data.datasets is empty; name prepared datasets, as in '
            '--config.data.datasets=dhf1k'
        )
    # These classes check their own fields.
    model = model_of(config)
    OptimizerConfig(**config.optimizer)
    Best(config.validation.metric, config.validation.mode)
    if model.target == 'all' and config.loss == 'kl_of_batch':
        raise InputError(
            "config.loss is 'kl_of_batch', which is of one map for each clip, but the model has a "
            "map for every frame (config.model.target is 'all'); use 'kl' or 'kl_cc'"
        )
    check_same(workdir, config.to_dict())


def model_of(config: ConfigDict) -> Any:
    """The config of the model to train; InputError for a kind or fields that there are not."""
    kinds = {model.kind: model for model in known.KNOWN if model.kind != 's3d'}
    if config.kind not in kinds:
        raise InputError(f'config.kind is {config.kind!r}, expected one of {", ".join(kinds)}')
    wanted = kinds[config.kind].config
    fields = {field.name for field in dataclasses.fields(wanted)}
    if strange := sorted(set(config.model) - fields):
        raise InputError(
            f'config.model has {", ".join(strange)}, which {kinds[config.kind].title} '
            f'(config.kind={config.kind}) has not; start from the config of that model in configs/'
        )
    return wanted(**config.model)


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
    old, new = _completed(old), _completed(to_json(config))
    differing = [x for x in differences(old, new) if x.split(':')[0] not in FREE]
    if differing:
        listed = '\n  '.join(differing)
        raise InputError(
            f'{workdir}: holds a run with another config. Use another --workdir, or restore these '
            f'fields to continue the run:\n  {listed}'
        )


def _completed(config: dict) -> dict:
    """`config` with the fields of ADDED that it lacks."""
    for name, value in ADDED.items():
        *parents, field = name.split('.')
        group = config
        for key in parents:
            group = group.get(key, {}) if isinstance(group, dict) else {}
        group.setdefault(field, value)
    return config


def write_config(workdir: str | os.PathLike, config: Mapping) -> None:
    """Writes `workdir/config.json`; raises InputError like `check_same`."""
    check_same(workdir, config)
    if jax.process_index() == 0:
        content = json.dumps(to_json(config), indent=2) + '\n'
        files.write_atomic(Path(workdir) / 'config.json', content)
