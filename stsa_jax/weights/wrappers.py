"""Finds the state dict inside a checkpoint of any program, and strips wrapper prefixes.

A state dict is at the top level or nested one or two levels deep, `{'epoch': 3, 'net': {...}}`, and
its names may have a prefix from a wrapper: `module.` (DataParallel), `_orig_mod.` (torch.compile),
`model.` (Lightning and others).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from stsa_jax.errors import InputError
from stsa_jax.weights.formats import KEYS
from stsa_jax.weights.names import COMPILED, bare, prefixes


def unwrap(found: Any, source: str) -> tuple[dict[str, Any], list[str]]:
    """`(state dict with bare names, lines that report the key and prefix)`.

    `module.` is so common that it is not reported. A dict of another model is returned unchanged.
    Raises InputError if there is no dict of arrays.
    """
    candidates = dict(_state_dicts(found))
    if not candidates:
        raise InputError(
            f'{source}: expected a state dict (name -> tensor), found {_kind(found)}; save one '
            'with torch.save(model.state_dict(), PATH)'
        )
    known = [place for place, entries in candidates.items() if prefixes(entries)]
    place, *others = sorted(known or candidates, key=_rank)
    arrays = candidates[place]
    said = []
    if place:
        line = f'{source}: using the weights under {_shown(place)!r}'
        if known and others:
            line += f', ignoring those under {", ".join(map(repr, map(_shown, others)))}'
        said.append(line)
    beside = [name for name, value in _at(found, place).items() if not _is_array(value)]
    if beside:
        names = ', '.join(map(str, beside[:5]))
        said.append(f'{source}: ignoring entries that are not arrays: {names}')
    if any(COMPILED in name for name in arrays):
        arrays = {name.replace(COMPILED, ''): array for name, array in arrays.items()}
        said.append(f'{source}: stripped {COMPILED!r}, of torch.compile, from the names')
    before = sorted(prefixes(arrays), key=lambda p: (p not in ('', 'module.'), p != 'model.'))
    if not before:
        return arrays, said
    mine, *other = before
    if mine not in ('', 'module.'):
        said.append(f'{source}: stripped the prefix {mine!r} from the names')
    if other:  # another model in the same dict
        said.append(f'{source}: ignoring the names that begin with {", ".join(map(repr, other))}')
        arrays = {n: a for n, a in arrays.items() if not n.startswith(tuple(filter(None, other)))}
    return bare(arrays, mine), said


def _state_dicts(found: Any, depth: int = 2) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The dicts of arrays in `found`, each with its path of keys."""
    if not isinstance(found, Mapping):
        return
    arrays = {k: v for k, v in found.items() if isinstance(k, str) and _is_array(v)}
    if arrays:
        yield (), arrays
    if depth:
        for key, value in found.items():
            if isinstance(key, str):
                for place, entries in _state_dicts(value, depth - 1):
                    yield (key, *place), entries


def _at(found: Any, place: tuple[str, ...]) -> Mapping:
    for key in place:
        found = found[key]
    return found


def _rank(place: tuple[str, ...]) -> tuple:
    """Top level first, then the order of KEYS, then the order in the file."""
    return tuple(KEYS.index(key) if key in KEYS else len(KEYS) for key in place)


def _is_array(value: Any) -> bool:
    return hasattr(value, 'shape') and hasattr(value, 'dtype') and not isinstance(value, np.generic)


def _kind(found: Any) -> str:
    if isinstance(found, Mapping):
        return f'a dict of {", ".join(map(str, list(found)[:5])) or "nothing"}'
    return type(found).__name__


def _shown(place: tuple[str, ...]) -> str:
    return '.'.join(place) or 'the top level'
