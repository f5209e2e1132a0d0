"""The config of a training run, kept beside its checkpoints as `config.json`."""

import json
from collections.abc import Mapping
from pathlib import Path

import jax

from stsa_jax import files
from stsa_jax.errors import InputError

# Fields that may change between the parts of a run: they leave the numbers as they are.
FREE = {
    'log_every',
    'checkpoint_every',
    'keep_checkpoints',
    'max_skipped',
    'remat',
    'mesh.data',
    'mesh.fsdp',
    'data.data_dir',
    'data.num_workers',
}


def write_config(workdir, config: Mapping) -> None:
    """Writes `workdir/config.json`; where one is there already, checks that it is the same.

    Only the fields in FREE may differ. Raises InputError that lists the others that do: a run is
    not continued under another config.
    """
    path = Path(workdir) / 'config.json'
    new = to_json(config)
    if path.exists():
        try:
            old = json.loads(path.read_text())
            if not isinstance(old, dict):
                raise ValueError('it holds no fields')
        except ValueError as error:
            raise InputError(f'{path}: not a config of a training run ({error})') from error
        differing = [x for x in differences(old, new) if x.split(':')[0] not in FREE]
        if differing:
            listed = '\n  '.join(differing)
            raise InputError(
                f'{workdir}: holds a run of another config. Name another --workdir, or set these '
                f'back to continue the run:\n  {listed}'
            )
    if jax.process_index() == 0:
        files.write_atomic(path, json.dumps(new, indent=2) + '\n')


def differences(old: Mapping, new: Mapping, prefix: str = '') -> list[str]:
    """The fields in which two nested configs differ, a line each."""
    lines = []
    for key in sorted({*old, *new}):
        name, a, b = prefix + key, old.get(key, 'absent'), new.get(key, 'absent')
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f'{name}.')
        elif a != b:
            lines.append(f'{name}: {a!r} in the run, {b!r} now')
    return lines


def to_json(config: Mapping) -> dict:
    """A nested config as JSON sees it: dicts, lists, strings, numbers."""
    return json.loads(json.dumps(config, default=lambda x: x.to_dict()))
