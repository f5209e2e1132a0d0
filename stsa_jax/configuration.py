"""Reads a config file with overrides from the command line; compares two configs.

    config = load_config('configs/dhf1k.py', ['--config.batch_size=8', '--config.data.weights=1,2'])

A config file is Python with a function `get_config()` that returns an ml_collections ConfigDict. In
`configs/ablations.py:NAME` the text after the colon is its argument. An unknown field or a value of
another type is an InputError.
"""

import ast
import difflib
import importlib.util
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from ml_collections import ConfigDict

from stsa_jax.errors import InputError
from stsa_jax.remote import is_remote, local

_PREFIX = '--config.'
# The project's configs: inside the library where it is installed, beside it in a checkout.
_HERE = Path(__file__).resolve().parent
_INSTALLED = (_HERE / 'configs').is_dir()
_CONFIGS = (_HERE if _INSTALLED else _HERE.parent) / 'configs'
_BOOLS = {'true': True, '1': True, 'false': False, '0': False}


def load_config(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of `path` or `path:argument`, with overrides `--config.field=value` applied.

    Raises InputError that names the field and the known ones for an invalid override.
    """
    config = _get_config(str(path))
    for override in overrides:
        name, equals, text = override.removeprefix(_PREFIX).partition('=')
        if not override.startswith(_PREFIX) or not equals or not name:
            raise InputError(
                f'{override}: not an option of this command; set a config field with '
                '--config.field=value'
            )
        _set(config, name, text)
    return config


def parse_size(text: str) -> tuple[int, int]:
    """The value of a flag `--image_size=H,W`."""
    try:
        height, width = map(int, text.split(','))
    except ValueError:
        raise InputError(
            f'--image_size={text}: expected height and width, such as 288,512'
        ) from None
    return height, width


def parse_time(text: str) -> Fraction:
    """Seconds, from `75`, `75.5`, `1:15` or `00:01:15.500`; for flags such as `--start`."""
    match = re.fullmatch(r'(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?)', text)
    hours, minutes, seconds = match.groups(default='0') if match else ('0', '99', '0')
    if ':' in text and (float(seconds) >= 60 or (text.count(':') == 2 and int(minutes) >= 60)):
        match = None
    if not match:
        raise InputError(f'{text}: expected seconds, or hours:minutes:seconds, such as 00:01:15.5')
    return (int(hours) * 60 + int(minutes)) * 60 + Fraction(seconds)


def differences(old: Mapping, new: Mapping, prefix: str = '') -> list[str]:
    """The fields in which two nested configs differ, one line each."""
    lines = []
    for key in sorted({*old, *new}):
        name, a, b = prefix + key, old.get(key, 'absent'), new.get(key, 'absent')
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f'{name}.')
        elif a != b:
            lines.append(f'{name}: {a!r} in the run, {b!r} now')
    return lines


def to_json(config: Mapping) -> dict:
    """A nested config as JSON values: dicts, lists, strings, numbers."""
    return json.loads(json.dumps(config, default=lambda x: x.to_dict()))


def _get_config(name: str) -> ConfigDict:
    path = Path(name)
    arguments: list[str] = []
    if is_remote(name):
        name, _, argument = name.partition('.py:')
        name, arguments = (f'{name}.py', [argument]) if argument else (name, [])
        path = Path(local(name))
    if not path.is_file() and ':' in path.name:
        name, _, argument = name.rpartition(':')
        path, arguments = Path(name), [argument]
    if not path.is_file() and path.parent == Path('configs'):
        path = _CONFIGS / path.name
    if not path.is_file():
        known = {f'configs/{p.name}' for f in (Path('configs'), _CONFIGS) for p in f.glob('*.py')}
        raise InputError(
            f'{name}: there is no such config file; available: {", ".join(sorted(known))}'
        )
    spec = importlib.util.spec_from_file_location(f'_config_{path.stem}', path)
    if spec is None or spec.loader is None:
        raise InputError(f'{path}: expected a Python file, such as configs/dhf1k.py')
    module = importlib.util.module_from_spec(spec)
    try:
        with _configs():
            spec.loader.exec_module(module)
            config = module.get_config(*arguments)
    except InputError:
        raise
    except Exception as error:  # whatever the user's file raises
        raise InputError(
            f'{path}: cannot be used as a config: {type(error).__name__}: {error}; it must define '
            'get_config(), like configs/dhf1k.py'
        ) from error
    if not isinstance(config, ConfigDict):
        raise InputError(f'{path}: its get_config() must return an ml_collections ConfigDict')
    return config


@contextmanager
def _configs() -> Iterator[None]:
    """Lets a config file say `from configs import default`, in a checkout and installed."""
    if not _INSTALLED:
        if str(_HERE.parent) not in sys.path:
            sys.path.append(str(_HERE.parent))
        yield
        return
    before = set(sys.modules)
    if importlib.util.find_spec('configs') is None:  # the user has none
        sys.modules['configs'] = importlib.import_module(f'{__package__}.configs')
    try:
        yield
    finally:
        for name in {*sys.modules} - before:
            if name.split('.')[0] == 'configs':
                del sys.modules[name]


def _set(config: ConfigDict, name: str, text: str) -> None:
    *parents, field = name.split('.')
    group, where = config, 'config'
    for key in parents:
        group, where = _get(group, key, name, where), f'{where}.{key}'
    group[field] = _parse(f'config.{name}', _get(group, field, name, where), text)


def _get(group, key: str, name: str, where: str):
    """Field `key` of `group`, named `where`, on the path to field `name`."""
    known = list(group.keys()) if isinstance(group, ConfigDict) else []
    if key in known:
        return group[key]
    near = difflib.get_close_matches(key, known, 1)
    hint = f' (did you mean {where}.{near[0]}?)' if near else ''
    fields = f'has: {", ".join(known)}' if known else 'is a value, not a group of fields'
    raise InputError(f'config.{name}: no such field{hint}; {where} {fields}')


def _parse(name: str, current, text: str):
    """`text` as a value of the type of `current`."""
    if isinstance(current, ConfigDict):
        raise InputError(f'{name}: is a group of fields ({", ".join(current)}); set one of them')
    if isinstance(current, str):
        return text
    try:
        if isinstance(current, bool):
            return _BOOLS[text.lower()]
        if isinstance(current, int):
            return int(text)
        if isinstance(current, float):
            return float(text)
        if isinstance(current, tuple):
            return _parse_tuple(text, current)
    except (ValueError, KeyError, SyntaxError):
        pass
    expected = {bool: 'true or false', int: 'an integer', float: 'a number'}
    raise InputError(
        f'{name}: expected {expected.get(type(current), "values separated by commas")} '
        f'such as {current!r}, found {text!r}'
    )


def _parse_tuple(text: str, current: tuple) -> tuple:
    """'(1, 2)', '1,2', 'a,b', "('a', 'b')" and '' are all tuples."""
    try:
        value = ast.literal_eval(text) if text else ()
    except (ValueError, SyntaxError):
        value = tuple(part.strip() for part in text.split(','))
    value = tuple(value) if isinstance(value, tuple | list) else (value,)
    kinds = {type(x) for x in current}
    if kinds and not all(type(x) in kinds for x in value):
        raise ValueError(f'{value} is not like {current}')
    return value
