"""Folders in which models are handed on, as on the Hugging Face Hub: reading.

    config.json                      kind of model, its config, normalisation of its frames
    model.safetensors                the weights, with PyTorch's names
    model.safetensors.index.json     where they are split: name of each array -> its file
    model-00001-of-00002.safetensors ...
    README.md                        the model card

`stsa_jax.weights.hub` writes them. Reading needs no library of the hub.
"""

import json
from pathlib import Path
from typing import Any

from stsa_jax.errors import InputError
from stsa_jax.weights import formats

CONFIG, WEIGHTS, INDEX = 'config.json', 'model.safetensors', 'model.safetensors.index.json'


def is_shared_folder(path: Path) -> bool:
    """Whether `path` is such a folder."""
    return any((path / name).is_file() for name in (WEIGHTS, INDEX))


def read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The state dict, and metadata as of our safetensors files, of the folder `path`.

    Raises InputError that names the file for anything missing, damaged or of another program.
    """
    config = _json(path / CONFIG)
    if not isinstance(config.get('kind'), str) or not isinstance(config.get('model'), dict):
        raise InputError(
            f"{path / CONFIG}: expected 'kind' and 'model', as SaliencyModel.save_pretrained "
            f'writes, found {", ".join(config) or "nothing"}; give a folder of this project'
        )
    metadata = {name: json.dumps(config[name]) for name in ('model', 'normalisation')}
    metadata['kind'] = config['kind']
    if (path / WEIGHTS).is_file():
        return formats.read(path / WEIGHTS)[0], metadata
    places = _json(path / INDEX).get('weight_map')
    if not isinstance(places, dict) or not all(
        isinstance(file, str) and '/' not in file for file in places.values()
    ):
        raise InputError(f"{path / INDEX}: expected a 'weight_map' of files; copy the folder again")
    arrays: dict[str, Any] = {}
    for file in sorted(set(places.values())):
        if not (path / file).is_file():
            raise InputError(f'{path / file}: is missing, but {INDEX} names it; copy it again')
        arrays |= formats.read(path / file)[0]
    if arrays.keys() != places.keys():
        name = min(arrays.keys() ^ places.keys())
        raise InputError(f'{path}: {name} is not in the file that {INDEX} names; copy it again')
    return arrays, metadata


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise InputError(f'{path}: is missing beside the weights; copy the whole folder') from None
    except ValueError as error:
        raise InputError(f'{path}: is not JSON ({error}); copy it again') from error
    return found if isinstance(found, dict) else {}
