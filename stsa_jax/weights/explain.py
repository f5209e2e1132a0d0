"""What is in a weight file, entry by entry: `stsa-jax port --explain FILE`.

Unlike loading it is not strict: entries that do not fit, or are missing, are shown with the
others.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from stsa_jax.models import functional
from stsa_jax.remote import local
from stsa_jax.weights import known, port
from stsa_jax.weights.files import UNREAD, read_folder, read_state_dict
from stsa_jax.weights.names import bare
from stsa_jax.weights.shared_folder import is_shared_folder

FITS, MISSING, UNKNOWN = 'fits', 'missing', 'not part of the model'


@dataclasses.dataclass(frozen=True)
class Entry:
    """An entry of a state dict, or one that it should have.

    Attributes:
        name, shape: in the file; the shape is () and empty for a missing one.
        path, ours: where it goes in our trees, and the shape there; '' if nowhere.
        state: FITS, MISSING, UNKNOWN, or what is wrong with its shape.
        moments: mean, standard deviation, least and greatest value; empty for a missing one.
    """

    name: str
    shape: tuple[int, ...]
    path: str
    ours: tuple[int, ...]
    state: str
    moments: tuple[float, ...]


def state_dict_of(path: str | os.PathLike) -> Mapping[str, Any]:
    """The state dict of any weight file or folder, NaN and infinity included."""
    path = Path(local(path, UNREAD))
    if path.is_dir() and not is_shared_folder(path):
        weights = read_folder(path, allow_nonfinite=True)
        return port.to_torch(weights.params, weights.batch_stats)
    return read_state_dict(path, allow_nonfinite=True)[0]


def entries(state_dict: Mapping[str, Any], source: str = 'the state dict') -> list[Entry]:
    """The entries in the order of the file, then the missing ones.

    Raises InputError if the names are of no known model.
    """
    naming = port.recognise(state_dict, source)
    arrays = {name: port.as_numpy(a) for name, a in port.with_counts(bare(state_dict)).items()}
    config = port.infer_config(arrays, naming)
    _, params, batch_stats = functional.abstract(known.of_naming(naming).module, config)
    wanted = {}
    flat = traverse_util.flatten_dict(params) | traverse_util.flatten_dict(batch_stats)
    for path, like in flat.items():
        name, axes = port.place(path, like, naming)
        wanted[name] = ('.'.join(path), like.shape, tuple(like.shape[i] for i in axes))
    found = []
    for name, array in arrays.items():
        path, ours, expected = wanted.pop(name, ('', (), None))
        state = FITS if array.shape == expected else f'expected {_shape(expected or ())}'
        state = UNKNOWN if expected is None else state
        found.append(Entry(name, array.shape, path, ours, state, _moments(array)))
    for name, (path, ours, _) in wanted.items():
        found.append(Entry(name, (), path, ours, MISSING, ()))
    return found


def explain(path: str | os.PathLike) -> str:
    """A table of the entries of `path`, and what does not fit at its end."""
    state_dict = state_dict_of(path)
    naming = port.recognise(state_dict, str(path))
    rows = entries(state_dict, str(path))
    head = ('entry', 'shape', 'ours', 'shape', 'mean', 'std', 'least', 'greatest', '')
    cells = [head] + [
        (
            e.name,
            _shape(e.shape) if e.moments else '-',
            e.path or '-',
            _shape(e.ours) if e.path else '-',
            *(f'{m:.4g}' for m in e.moments or (np.nan,) * 4),
            '' if e.state == FITS else e.state,
        )
        for e in rows
    ]
    widths = [max(len(row[c]) for row in cells) for c in range(len(head))]
    lines = ['  '.join(v.ljust(w) for v, w in zip(row, widths)).rstrip() for row in cells]
    fits = sum(e.state == FITS for e in rows)
    title = known.of_naming(naming).title
    last = f'{path}: {title}, named as {naming}; {fits} of {len(rows)} entries fit'
    wrong = [f'  {e.name}: {e.state}' for e in rows if e.state != FITS]
    return '\n'.join([*lines, '', last, *wrong])


def _moments(array: np.ndarray) -> tuple[float, ...]:
    if not array.size:
        return (np.nan,) * 4
    with np.errstate(all='ignore'):
        values = array.astype(np.float64)
        return tuple(float(f(values)) for f in (np.mean, np.std, np.min, np.max))


def _shape(shape: tuple[int, ...]) -> str:
    return 'x'.join(map(str, shape)) or 'scalar'


__all__ = ['FITS', 'MISSING', 'UNKNOWN', 'Entry', 'entries', 'explain', 'state_dict_of']
