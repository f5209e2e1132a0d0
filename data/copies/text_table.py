"""Tables in text files as eye trackers and spreadsheets write them, in all usual variants.

Separated by tabs, semicolons, commas or spaces; numbers with a decimal point or a decimal comma;
with or without a byte-order mark; any line endings. A missing value is empty, `.`, `-`, `NaN` or
similar.
"""

import codecs
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stsa_jax.errors import InputError

MISSING = {'', '.', '..', '-', '--', 'nan', '-nan', 'na', 'n/a', 'null', 'none', 'missing'}
_MARKS = {
    codecs.BOM_UTF8: 'utf-8-sig',
    codecs.BOM_UTF16_LE: 'utf-16',
    codecs.BOM_UTF16_BE: 'utf-16',
}


def read_rows(path: Path, spaces_separate: bool = False) -> list[list[str]]:
    """The cells of each line, stripped; empty lines and comments (`#`) are left out.

    With `spaces_separate` cells contain no spaces, so that spaces can separate cells. Raises
    InputError if the file is not text.
    """
    return [cells for _, cells in numbered_rows(path, spaces_separate)]


def numbered_rows(path: Path, spaces_separate: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Like `read_rows`, but yields each row with its line number in the file, from 1."""
    lines = [
        (number, line)
        for number, line in enumerate(_text(path).splitlines(), 1)
        if line.strip() and line.strip()[0] != '#'
    ]
    if not lines:
        return
    sample = lines[len(lines) // 2][1]  # not the header, whose names may contain anything
    separator = next((c for c in '\t;' if c in sample), None)
    if separator is None and not (spaces_separate and len(sample.split()) > 1):
        separator = ','
    for number, line in lines:
        yield number, [cell.strip().strip('"').strip() for cell in line.split(separator)]


def number(cell: str) -> float:
    """The value of a cell; NaN for a missing one. Raises ValueError if it is neither."""
    if cell.casefold() in MISSING:
        return np.nan
    return float(cell.replace(',', '.'))


def _text(path: Path) -> str:
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), None)
    try:
        if encoding is None and b'\0' in content:
            raise InputError(f'{path}: is not text (it has zero bytes)')
        return content.decode(encoding or 'utf-8')
    except UnicodeDecodeError as error:
        if encoding is not None:
            raise InputError(f'{path}: is not text ({error.reason})') from error
        return content.decode('latin-1')  # a header with a micro or degree sign
