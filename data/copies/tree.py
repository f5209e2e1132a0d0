"""Finds files in users' copies: case-insensitive names, stray files, links, gaps in numbers."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.copies.sources import Report
from stsa_jax.errors import ranges as ranges  # used in messages, as tree.ranges

IMAGES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff')
VIDEOS = ('.avi', '.mp4', '.mkv', '.mov', '.mpg', '.mpeg', '.m4v', '.webm')
MATLAB = ('.mat',)
_LITTER = {'thumbs.db', 'desktop.ini', '.ds_store', '__macosx'}


_OUTSIDE = "links to outside of the dataset's folder"
_COPY_IT = 'skipped; copy what it links to into its place'


def entries(folder: Path, root: Path, report: Report | None = None) -> list[Path]:
    """The entries of `folder`, sorted by name; links that lead outside `root` are skipped.

    Raises OSError if the folder cannot be read.
    """
    result = []
    with os.scandir(folder) as found:
        for entry in found:
            if entry.is_symlink() and not _inside(Path(entry.path), root):
                if report is not None:
                    report.add(entry.path, _OUTSIDE, _COPY_IT)
                continue
            result.append(Path(entry.path))
    return sorted(result, key=lambda path: (_natural(path.name), path.name))


def find(root: Path, *names: str, report: Report | None = None) -> Path | None:
    """The path root/names..., case-insensitive, or None.

    It stays inside `root`: a link that leads outside is ignored and reported.
    """
    path = root
    for name in names:
        exact = path / name
        if not exact.exists():
            try:
                there = entries(path, root)
                exact = next(p for p in there if p.name.lower() == name.lower())
            except (StopIteration, OSError):
                return None
        if not _inside(exact, root):
            if report is not None:
                report.add(exact, _OUTSIDE, _COPY_IT)
            return None
        path = exact
    return path


def folders(folder: Path | None, root: Path, report: Report | None = None) -> list[Path]:
    """The folders in `folder`, none if it is None, without litter such as `__MACOSX`."""
    if folder is None or not folder.is_dir():
        return []
    return [p for p in entries(folder, root, report) if p.is_dir() and not is_litter(p)]


def note_strays(folder: Path | None, root: Path, report: Report, used: Iterable = ()) -> None:
    """Reports, once per folder, its files (and any litter) that are not `used`."""
    if folder is None or not folder.is_dir():
        return
    used = set(used)
    names = [
        path.name
        for path in entries(folder, root)
        if path not in used and (is_litter(path) or not path.is_dir())
    ]
    if names:
        report.add(folder, _strays(names), 'skipped')


def _strays(names: list[str]) -> str:
    more = ' ...' if len(names) > 3 else ''
    return f'{len(names)} stray files ({", ".join(names[:3])}{more})'


def numbered(
    folder: Path, root: Path, extensions: Iterable[str], report: Report
) -> dict[int, Path]:
    """{number: file} of the files with one of the `extensions` (in any case), by number.

    A file's number is the last run of digits in its name without extension. Other files are
    reported once per folder, and of two with the same number the first by name is used.
    """
    result: dict[int, Path] = {}
    stray = []
    for path in entries(folder, root, report):
        number = number_of(path.stem)
        # Files that start with a dot are not images either: macOS creates `._0001.png`.
        if path.name.startswith('.') or path.suffix.lower() not in extensions or number is None:
            if not path.is_dir():
                stray.append(path.name)
        elif number in result:
            report.add(path, f'has the same frame number as {result[number].name}', 'skipped')
        else:
            result[number] = path
    if stray:
        report.add(folder, _strays(stray), 'skipped')
    return dict(sorted(result.items()))


def images_of(folder: Path) -> Iterator[str]:
    """The names of the image files in a folder, in the order of the file system."""
    with os.scandir(folder) as found:
        for entry in found:
            name = entry.name
            if os.path.splitext(name)[1].lower() in IMAGES and not name.startswith('.'):
                yield name


def number_of(stem: str) -> int | None:
    """The last run of digits in a name, as a number: 3 of `actioncliptest00001_00003`."""
    digits = re.findall(r'\d+', stem)
    return int(digits[-1]) if digits else None


def is_litter(path: Path) -> bool:
    """Whether a file or folder is litter of an operating system."""
    return path.name.lower() in _LITTER or path.name.startswith('.')


def outline(folder: Path, depth: int = 3, width: int = 6) -> str:
    """The first entries of a folder as an indented tree, for messages."""
    lines: list[str] = []

    def walk(path: Path, level: int) -> None:
        try:
            found = sorted(path.iterdir())
        except OSError:
            return
        for entry in found[:width]:
            lines.append('  ' * level + entry.name + ('/' if entry.is_dir() else ''))
            if entry.is_dir() and level + 1 < depth:
                walk(entry, level + 1)
        if len(found) > width:
            lines.append('  ' * level + f'... {len(found) - width} more')

    walk(folder, 0)
    return '\n'.join('    ' + line for line in lines[:40]) or '    (nothing)'


def _inside(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())


def _natural(name: str) -> list:
    """Sort key by which shot_2 comes before shot_10."""
    return [int(p) if p.isdigit() else p.lower() for p in re.split(r'(\d+)', name)]
